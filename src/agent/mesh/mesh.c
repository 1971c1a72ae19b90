/* SPDX-License-Identifier: Apache-2.0 */
/* The mesh over time. See mesh.h. */
#include "agent/mesh/mesh.h"

#include "agent/control.h"
#include "agent/instance/state.h"
#include "agent/mesh/keys.h"
#include "agent/mesh/pass.h"
#include "agent/mesh/probe.h"
#include "agent/netstate.h"
#include "base/assert.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/json.h"

#define LOOKS_PER_DRIFT 3  /* the report is as old as a look */
#define RETRY_MS 2000      /* after a pass that failed */
#define PROBE_MS 5000
#define PEER_STALE_MS 45000 /* without a fresh session: the next endpoint is tried, after three cycles of handshakes */
#define TOP_AGAIN_MS 600000 /* the first endpoint is tried again */
#define OWN_CUTOVER_LATER_MS 300 /* peers first: then this node's first packet under the new key finds them ready */
#define CONFIRM_MS 120000
#define SECTION_MAX (1U << 20)
#define KEY_TARGET "/internal/v1/nodes/self/wg-key"
#define RESULT_TARGET KEY_TARGET "/result"

/* What is known of one peer, in the order of `want`. */
struct peer_state {
    char node_id[MT_ID_SIZE];
    uint8_t endpoint; /* index */
    bool force;       /* the next pass sets the endpoint whatever the device thinks */
    int64_t stale_ns; /* since when there is no fresh session, 0: there is */
    bool seen;
    int64_t handshake_s;
    uint64_t rx_bytes, tx_bytes;
    char at[MT_MESH_ENDPOINT_LEN];
};

struct mt_mesh {
    struct mt_agent *a;
    struct mt_mesh_want *want; /* NULL: in no mesh */
    json_t *section;           /* `network` of the plan that `want` is of, or of the last one refused for good: seen */
    json_t *good;              /* the last good one */
    char rejected[240];
    char failed[240]; /* why the last pass did not do it all */
    bool down_due;    /* a device may be there and is not wanted */
    bool busy, again;
    uint64_t applied; /* revision */
    enum mt_mesh_backend backend;
    uint32_t mtu, underlay_mtu;
    uint8_t public_key[MT_WG_KEY_LEN];
    struct peer_state *peers;
    size_t n;
    unsigned long repairs;
    int64_t passed_ms; /* wall clock that the last good pass was made for */
    int64_t top_again_ns, lonely_since_ns;
    struct mt_source *look_timer, *cut_timer, *probe_timer, *go;
    int go_pidfd;
    struct mt_mprobe *probe;
    bool probe_aimed;
    /* rotation of the own key */
    bool asking; /* the next key was told, and there is no answer yet */
    bool confirming;
    uint8_t confirm_key[MT_WG_KEY_LEN];
    int64_t confirm_from_ms; /* wall clock of the cut-over */
    bool told;
};

static void rotate_if_asked(struct mt_mesh *m);

struct pass_job {
    struct mt_mesh *m;
    struct mt_mesh_want *want; /* a reference; NULL: take the device down */
    struct mt_mesh_host host;
    char keys_dir[PATH_MAX];
    uint8_t endpoint[MT_MESH_PEERS_MAX];
    bool force[MT_MESH_PEERS_MAX];
    struct mt_mesh_todo todo;
    struct mt_mesh_done done;
    int64_t took_ns;
    int rc;
    struct mt_err err;
};

static int64_t look_ms(const struct mt_mesh *m)
{
    return (int64_t)m->a->conf.drift_seconds * 1000 / LOOKS_PER_DRIFT;
}

static int64_t wall_ms(void)
{
    return mt_clock_wall_us() / 1000;
}

/* ---- passes ------------------------------------------------------------------------------ */

static void pass_work(void *arg)
{
    struct pass_job *j = arg;
    int64_t t0 = mt_clock_mono();
    j->done.go_pidfd = -1;
    j->rc = j->want ? mt_mesh_pass(&j->host, &j->todo, &j->done, &j->err) : mt_mesh_down(&j->err);
    j->took_ns = mt_clock_mono() - t0;
}

static void on_go_end(struct mt_source *s, pid_t pid, int code, int status, void *arg)
{
    struct mt_mesh *m = arg;
    (void)s;
    (void)code;
    m->go = NULL;
    mt_closep(&m->go_pidfd);
    mt_log(MT_WARN, "mesh.device_ended", KV("pid", (int64_t)pid), KV("status", status));
    mt_mesh_look(m);
}

static void watch_go(struct mt_mesh *m, struct mt_mesh_done *d)
{
    struct mt_err err = {0};
    if (d->go_pidfd < 0)
        return;
    mt_loop_del(m->go);
    mt_closep(&m->go_pidfd);
    m->go_pidfd = d->go_pidfd;
    d->go_pidfd = -1;
    m->go = mt_loop_child(m->a->loop, "wireguard-go", d->go_pid, m->go_pidfd, on_go_end, m, &err);
}

static void take_seen(struct mt_mesh *m, const struct mt_mesh_want *want, const struct mt_mesh_done *d, int64_t now_ms)
{
    for (size_t i = 0; i < m->n && i < want->n; i++) {
        struct peer_state *p = &m->peers[i];
        const struct mt_wg_peer *h = mt_wg_find(&d->seen, mt_mesh_key_at(&want->peers[i].key, now_ms));
        p->seen = h != NULL;
        p->force = false;
        if (!h)
            continue;
        p->handshake_s = h->handshake_s;
        p->rx_bytes = h->rx_bytes;
        p->tx_bytes = h->tx_bytes;
        (void)snprintf(p->at, sizeof p->at, "%s", h->endpoint);
        bool fresh = h->handshake_s && now_ms / 1000 - h->handshake_s < MT_WG_FRESH_S;
        int64_t now_ns = mt_loop_now(m->a->loop);
        p->stale_ns = fresh ? 0 : p->stale_ns ? p->stale_ns : now_ns;
        if (!fresh && now_ns - p->stale_ns > PEER_STALE_MS * MT_NS_PER_MS && want->peers[i].n_endpoints > 1) {
            p->endpoint = (uint8_t)((p->endpoint + 1U) % want->peers[i].n_endpoints);
            p->force = true;
            p->stale_ns = now_ns;
            mt_log(MT_INFO, "mesh.next_endpoint", KV("node_id", p->node_id), KV("endpoint", want->peers[i].endpoints[p->endpoint]));
        }
    }
}

static void aim_probe(struct mt_mesh *m)
{
    struct in6_addr addrs[MT_MPROBE_PEERS_MAX];
    struct mt_err err = {0};
    size_t n = 0;

    if (!m->probe)
        m->probe = mt_mprobe_new(m->a->loop, &err);
    for (; m->probe && n < m->want->n && n < MT_MPROBE_PEERS_MAX; n++)
        addrs[n] = m->want->peers[n].addr;
    if (!m->probe || mt_mprobe_targets(m->probe, &m->want->own, addrs, n, m->mtu, &err) < 0) {
        mt_log(MT_WARN, "mesh.probe_failed", KV_ERR(&err));
        return;
    }
    m->probe_aimed = true;
    mt_loop_timer_after(m->probe_timer, 0);
}

static void log_repairs(struct mt_mesh *m, const struct pass_job *j)
{
    const struct mt_mesh_done *d = &j->done;
    const struct mt_wg_diff *x = &d->diff;
    unsigned all = x->key + x->port + x->missing + x->foreign + x->allowed + x->keepalive + x->endpoint + x->psk + d->addresses + d->routes + d->mtus + d->links;
    /* keys that changed because their moment came were changed by nobody else */
    bool cut = mt_mesh_next_cutover(j->want, m->passed_ms) <= j->todo.now_ms;
    bool drift = m->applied == j->want->revision && j->want == m->want && !cut;

    if (all == 0 && m->applied == j->want->revision)
        return;
    if (drift)
        m->repairs += all;
    mt_log(drift ? MT_WARN : MT_INFO, drift ? "mesh.repaired" : "mesh.applied", KV("revision", j->want->revision), KV("device", mt_mesh_backend_name(d->backend)),
           KV("mtu", d->mtu), KV("peers", (uint64_t)j->want->n), KV("peers_missing", x->missing), KV("peers_foreign", x->foreign),
           KV("allowed_ips", x->allowed), KV("endpoints", x->endpoint), KV("keepalives", x->keepalive + x->psk), KV("keys", x->key), KV("port", x->port),
           KV("addresses", d->addresses), KV("routes", d->routes), KV("mtus", d->mtus), KV("links", d->links), KV("took_us", j->took_ns / 1000));
}

static void arm_cutover(struct mt_mesh *m)
{
    int64_t now = wall_ms(), at = m->want ? mt_mesh_next_cutover(m->want, now) : INT64_MAX;
    if (at == INT64_MAX)
        mt_loop_timer_set(m->cut_timer, -1);
    else
        mt_loop_timer_after(m->cut_timer, at - now > 3600000 ? 3600000 : at - now);
}

static void pass_done(void *arg)
{
    struct pass_job *j = arg;
    struct mt_mesh *m = j->m;
    bool current = j->want == m->want;

    m->busy = false;
    watch_go(m, &j->done);
    if (j->rc < 0) {
        if (strcmp(m->failed, j->err.msg) != 0)
            mt_log(MT_ERROR, "mesh.not_applied", KV_ERR(&j->err));
        (void)snprintf(m->failed, sizeof m->failed, "%s", j->err.msg);
        if (j->want)
            mt_loop_timer_after(m->look_timer, RETRY_MS);
    } else if (!j->want) {
        m->failed[0] = '\0';
        m->down_due = false;
        m->applied = 0;
        m->backend = MT_MESH_NONE;
    } else {
        bool first = m->applied == 0, rekeyed = j->done.diff.key != 0;
        bool mtu = m->mtu != j->done.mtu;
        m->failed[0] = '\0';
        m->backend = j->done.backend;
        m->mtu = j->done.mtu;
        m->underlay_mtu = j->done.underlay_mtu;
        memcpy(m->public_key, j->done.public_key, sizeof m->public_key);
        if (current)
            take_seen(m, j->want, &j->done, j->todo.now_ms);
        log_repairs(m, j);
        m->passed_ms = j->todo.now_ms;
        if (current && m->applied != j->want->revision) {
            m->applied = j->want->revision;
            mt_control_beat_now(m->a->control);
        }
        if (mtu)
            mt_netstate_mtu(m->a, m->mtu);
        if (first)
            mt_netstate_load(m->a); /* the address moves from lo */
        if (current && (first || rekeyed || mtu || !m->probe_aimed || j->done.made))
            aim_probe(m); /* also makes this node the one that shakes hands first */
    }
    mt_wg_device_done(&j->done.seen);
    mt_mesh_want_unref(j->want);
    free(j);
    if (m->again) {
        m->again = false;
        mt_mesh_look(m);
    }
}

void mt_mesh_look(struct mt_mesh *m)
{
    struct mt_agent *a = m->a;

    if ((!m->want && !m->down_due) || a->quitting)
        return;
    if (m->busy) {
        m->again = true;
        return;
    }
    struct pass_job *j = calloc(1, sizeof *j);
    if (!j || mt_fmt(j->keys_dir, sizeof j->keys_dir, NULL, "%s/keys", a->conf.data_dir) < 0) {
        free(j);
        return;
    }
    j->m = m;
    j->want = mt_mesh_want_ref(m->want);
    j->host = (struct mt_mesh_host){.wg_path = a->conf.wg_path, .wireguard_go_path = a->conf.wireguard_go_path, .keys_dir = j->keys_dir};
    for (size_t i = 0; i < m->n && i < MT_MESH_PEERS_MAX; i++) {
        j->endpoint[i] = m->peers[i].endpoint;
        j->force[i] = m->peers[i].force;
    }
    j->todo = (struct mt_mesh_todo){.want = j->want, .now_ms = wall_ms(), .endpoint = j->endpoint, .force = j->force};
    m->busy = true;
    mt_loop_timer_after(m->look_timer, look_ms(m));
    if (mt_pool_submit(a->steps, pass_work, pass_done, j, NULL) < 0) {
        m->busy = false;
        mt_mesh_want_unref(j->want);
        free(j);
    }
}

static void on_look(struct mt_source *s, void *arg)
{
    struct mt_mesh *m = arg;
    int64_t now = mt_loop_now(m->a->loop);
    mt_loop_timer_after(s, look_ms(m));
    rotate_if_asked(m);
    if (now - m->top_again_ns > TOP_AGAIN_MS * MT_NS_PER_MS) {
        m->top_again_ns = now;
        for (size_t i = 0; i < m->n; i++) {
            if (m->peers[i].stale_ns && m->peers[i].endpoint) {
                m->peers[i].endpoint = 0;
                m->peers[i].force = true;
            }
        }
    }
    mt_mesh_look(m);
}

static void on_cutover(struct mt_source *s, void *arg)
{
    struct mt_mesh *m = arg;
    (void)s;
    mt_mesh_look(m);
    arm_cutover(m);
}

/* ---- plans ------------------------------------------------------------------------------- */

static int good_path(const struct mt_agent *a, char ret[PATH_MAX])
{
    return mt_fmt(ret, PATH_MAX, NULL, "%s/mesh.json", a->conf.agent_dir);
}

static void save_good(struct mt_mesh *m)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    if (good_path(m->a, path) < 0)
        return;
    if (!m->want)
        (void)unlink(path);
    else if (mt_sealed_save(path, m->good, &err) < 0)
        mt_log(MT_ERROR, "mesh.not_saved", KV_ERR(&err));
}

/* What is known of peers that stay is kept. */
static int take_peers(struct mt_mesh *m, const struct mt_mesh_want *want, struct mt_err *err)
{
    struct peer_state *p = calloc(want->n + 1, sizeof *p);
    if (!p)
        return MT_FAIL(err, MT_E_NOMEM, "mesh: out of memory");
    for (size_t i = 0; i < want->n; i++) {
        (void)snprintf(p[i].node_id, sizeof p[i].node_id, "%s", want->peers[i].node_id);
        for (size_t k = 0; k < m->n; k++) {
            if (MT_STREQ(m->peers[k].node_id, p[i].node_id)) {
                p[i] = m->peers[k];
                /* another list of endpoints starts at its top */
                if (m->want && k < m->want->n &&
                    (m->want->peers[k].n_endpoints != want->peers[i].n_endpoints ||
                     memcmp(m->want->peers[k].endpoints, want->peers[i].endpoints, sizeof want->peers[i].endpoints) != 0)) {
                    p[i].endpoint = 0;
                    p[i].stale_ns = 0;
                    p[i].force = true;
                }
                break;
            }
        }
    }
    free(m->peers);
    m->peers = p;
    m->n = want->n;
    return 0;
}

static void watch_rotation(struct mt_mesh *m, const struct mt_mesh_want *want)
{
    if (!want->key.has_next && memcmp(want->key.now, m->confirm_key, sizeof m->confirm_key) != 0)
        m->confirming = false; /* taken back */
    if (want->key.has_next && (!m->confirming || m->confirm_from_ms != want->key.cutover_ms)) {
        m->confirming = true;
        m->told = false;
        memcpy(m->confirm_key, want->key.next, sizeof m->confirm_key);
        m->confirm_from_ms = want->key.cutover_ms;
    }
}

static int take(struct mt_mesh *m, const struct mt_plan_network *n, json_t *section, struct mt_err *err)
{
    struct mt_mesh_want *want = NULL;
    int rc = mt_mesh_want_new(n, &want, err);
    if (rc == 0 && want->key.has_next)
        want->key.cutover_ms += OWN_CUTOVER_LATER_MS;
    if (rc == 0)
        rc = take_peers(m, want, err);
    if (rc < 0) {
        mt_mesh_want_unref(want);
        return rc;
    }
    mt_mesh_want_unref(m->want);
    m->want = want;
    json_decref(m->good);
    m->good = json_incref(section);
    m->down_due = true;
    m->probe_aimed = false;
    watch_rotation(m, want);
    arm_cutover(m);
    mt_mesh_look(m);
    return 0;
}

static int check(struct mt_mesh *m, const struct mt_plan *p, struct mt_err *err)
{
    const struct mt_plan_network *n = &p->network;
    if (mt_mesh_check(n, p->node_id, err) < 0)
        return -(int)err->code;
    if (!n->mesh.present || !m->want || n->mesh.allow_mass_removal || m->want->n < 4)
        return 0;
    size_t gone = 0;
    for (size_t i = 0; i < m->want->n; i++) {
        size_t k = 0;
        while (k < n->n_peers && !MT_STREQ(m->want->peers[i].node_id, n->peers[k].node_id))
            k++;
        gone += k == n->n_peers;
    }
    return gone * 2 > m->want->n ? MT_FAIL(err, MT_E_INVALID, "%zu of %zu peers would go and allow_mass_removal is not set", gone, m->want->n) : 0;
}

static void leave(struct mt_mesh *m)
{
    char path[PATH_MAX];
    bool was = m->want != NULL || (good_path(m->a, path) == 0 && access(path, F_OK) == 0); /* of a process before */
    mt_mesh_want_unref(m->want);
    m->want = NULL;
    m->n = 0;
    m->confirming = false;
    mt_mprobe_free(m->probe);
    m->probe = NULL;
    m->probe_aimed = false;
    mt_loop_timer_set(m->probe_timer, -1);
    mt_loop_timer_set(m->cut_timer, -1);
    if (was) {
        m->down_due = true;
        mt_log(MT_INFO, "mesh.left");
        save_good(m);
        mt_netstate_load(m->a); /* the address is needed on lo again */
    }
    mt_mesh_look(m);
}

/* A plan that was read from disk may hold a section that was refused then too: the last good one is in a file of its own. */
static void load_good(struct mt_mesh *m)
{
    char path[PATH_MAX];
    mt_auto_json json_t *section = NULL;
    struct mt_plan_network n = {0};
    struct mt_err err = {0};

    if (m->want || good_path(m->a, path) < 0)
        return;
    int rc = mt_sealed_load(path, SECTION_MAX, &section, &err);
    if (rc == 0)
        rc = mt_plan_network_decode(section, &n, &err);
    if (rc == 0 && n.mesh.present && (rc = mt_mesh_check(&n, m->a->conf.node_id, &err)) == 0)
        rc = take(m, &n, section, &err);
    if (rc < 0 && rc != -MT_E_NOT_FOUND)
        mt_log(MT_WARN, "mesh.not_loaded", KV_ERR(&err));
    else if (rc == 0)
        mt_log(MT_INFO, "mesh.last_good", KV("revision", n.mesh.revision));
    mt_plan_network_done(&n);
}

void mt_mesh_plan(struct mt_mesh *m, const struct mt_plan *p, bool same)
{
    json_t *section = json_object_get(p->doc, "network");
    struct mt_err err = {0};

    if (m->section && (same || json_equal(m->section, section)))
        return; /* nothing of the network changed */
    json_decref(m->section);
    m->section = json_incref(section);
    m->rejected[0] = '\0';
    if (check(m, p, &err) < 0) {
        (void)snprintf(m->rejected, sizeof m->rejected, "%s", err.msg);
        mt_log(MT_ERROR, "mesh.rejected", KV("revision", p->network.mesh.revision), KV_ERR(&err));
        load_good(m);
        mt_control_beat_now(m->a->control);
        return;
    }
    if (!p->network.mesh.present) {
        leave(m);
        return;
    }
    if (take(m, &p->network, section, &err) < 0) {
        mt_log(MT_ERROR, "mesh.not_taken", KV_ERR(&err));
        json_decref(m->section);
        m->section = NULL; /* the next plan tries again */
        return;
    }
    save_good(m);
    rotate_if_asked(m);
}

bool mt_mesh_has_device(const struct mt_mesh *m)
{
    return m && m->want && m->applied;
}

/* ---- rotation of the own key ------------------------------------------------------------- */

static void key_text(const uint8_t key[MT_WG_KEY_LEN], char ret[MT_B64_SIZE(MT_WG_KEY_LEN)])
{
    (void)mt_b64_encode(key, MT_WG_KEY_LEN, ret);
}

static void on_rotate_answer(void *arg, int status, const char *detail)
{
    struct mt_mesh *m = arg;
    char path[PATH_MAX];
    m->asking = false;
    if (status == 202) {
        mt_log(MT_INFO, "mesh.rotation_taken");
        return;
    }
    mt_log(MT_WARN, "mesh.rotation_refused", KV("status", status), KV("detail", detail));
    /* a key whose rotation runs is never refused: this one is spent (taken back before), and the next try makes another */
    if (status == 409 && mt_fmt(path, sizeof path, NULL, "%s/keys/wg.key.next", m->a->conf.data_dir) == 0)
        (void)unlink(path);
}

int mt_mesh_rotate(struct mt_mesh *m, struct mt_err *err)
{
    char dir[PATH_MAX], text[MT_B64_SIZE(MT_WG_KEY_LEN)];
    uint8_t pub[MT_WG_KEY_LEN];
    struct mt_wg_keys keys;
    struct mt_err ignored = {0};

    if (!m->want)
        return MT_FAIL(err, MT_E_CONFLICT, "this node is in no mesh");
    if (m->want->key.has_next || m->confirming || m->asking)
        return MT_FAIL(err, MT_E_CONFLICT, "a rotation of this node's key runs already");
    int rc = mt_fmt(dir, sizeof dir, err, "%s/keys", m->a->conf.data_dir);
    if (rc < 0)
        return rc;
    /* One that is there may have been told by a process that was killed before it heard the answer: the control plane counts on it. */
    if (mt_wg_keys_load(dir, &keys, &ignored) == 0 && keys.has_next)
        memcpy(pub, keys.next, sizeof pub);
    else if ((rc = mt_wg_key_make(dir, "wg.key.next", pub, err)) < 0)
        return rc;
    key_text(pub, text);
    rc = mt_control_post(m->a->control, KEY_TARGET, json_pack("{s:s}", "public_key", text), on_rotate_answer, m, err);
    m->asking = rc == 0;
    return rc;
}

/* The plan asks for another key: tried again with each look until the control plane has its public half. */
static void rotate_if_asked(struct mt_mesh *m)
{
    struct mt_err err = {0};
    if (m->want && m->want->rotate && !m->want->key.has_next && !m->confirming && !m->asking && mt_mesh_rotate(m, &err) < 0)
        mt_log(MT_WARN, "mesh.rotation_not_begun", KV_ERR(&err));
}

static void on_result_answer(void *arg, int status, const char *detail)
{
    struct mt_mesh *m = arg;
    if (status >= 200 && status < 300) {
        m->confirming = false;
        return;
    }
    mt_log(MT_WARN, "mesh.rotation_result_not_taken", KV("status", status), KV("detail", detail));
    m->told = false; /* again with the next round */
}

/* Enough peers have shaken hands with the new key, or the time for it is over: the control plane decides by that. */
static void confirm(struct mt_mesh *m)
{
    int64_t now = wall_ms();
    size_t good = 0;
    char text[MT_B64_SIZE(MT_WG_KEY_LEN)];
    struct mt_err err = {0};

    if (!m->confirming || m->told || now < m->confirm_from_ms)
        return;
    /* sessions of the old key ended with it: an answer to a probe sent since then came through a new one; wg tells whole seconds only */
    int64_t since_ns = mt_clock_mono() - (now - m->confirm_from_ms) * MT_NS_PER_MS;
    for (size_t i = 0; i < m->n; i++)
        good += m->probe && mt_mprobe_of(m->probe, i).answered_ns > since_ns && m->peers[i].handshake_s * 1000 + 999 >= m->confirm_from_ms;
    bool ok = good * 5 >= m->n * 4;
    if (!ok && now < m->confirm_from_ms + CONFIRM_MS)
        return;
    key_text(m->public_key, text);
    json_t *body = json_pack("{s:s, s:b}", "public_key", text, "ok", ok);
    if (body && !ok)
        (void)json_object_set_new(body, "detail", json_sprintf("%zu of %zu peers have shaken hands with the new key", good, m->n));
    mt_log(ok ? MT_INFO : MT_ERROR, "mesh.rotated", KV("ok", ok), KV("peers", (uint64_t)good), KV("of", (uint64_t)m->n));
    m->told = mt_control_post(m->a->control, RESULT_TARGET, body, on_result_answer, m, &err) == 0;
}

/* ---- measuring and telling --------------------------------------------------------------- */

static void on_probe(struct mt_source *s, void *arg)
{
    struct mt_mesh *m = arg;
    size_t silent = 0;

    mt_loop_timer_after(s, PROBE_MS);
    if (!m->probe || !m->want)
        return;
    mt_mprobe_round(m->probe);
    for (size_t i = 0; i < m->n; i++) {
        struct mt_mprobe_result r = mt_mprobe_of(m->probe, i);
        silent += r.any && r.lost_in_row >= 3;
    }
    int64_t now = mt_loop_now(m->a->loop);
    if (silent * 2 <= m->n || m->n == 0)
        m->lonely_since_ns = 0;
    else if (!m->lonely_since_ns)
        m->lonely_since_ns = now;
    if (m->confirming && !m->told) {
        mt_mesh_look(m); /* how old the sessions are */
        confirm(m);
    }
}

size_t mt_mesh_conditions(const struct mt_mesh *m, const char **ret, size_t max)
{
    size_t n = 0;
    bool lonely = m && m->lonely_since_ns && mt_loop_now(m->a->loop) - m->lonely_since_ns > 60000 * MT_NS_PER_MS;
    const struct {
        bool on;
        const char *word;
    } all[] = {{m && m->rejected[0], "mesh_config_rejected"}, {m && m->failed[0], "mesh_not_applied"}, {lonely, "overlay_degraded"}};
    for (size_t i = 0; i < MT_ARRAY_LEN(all) && n < max; i++) {
        if (all[i].on)
            ret[n++] = all[i].word;
    }
    return n;
}

static json_t *report_peer(const struct mt_mesh *m, size_t i, int64_t now_s)
{
    const struct peer_state *p = &m->peers[i];
    struct mt_mprobe_result r = m->probe ? mt_mprobe_of(m->probe, i) : (struct mt_mprobe_result){0};
    json_t *o = json_pack("{s:s, s:I, s:I}", "node_id", p->node_id, "rx_bytes", (json_int_t)p->rx_bytes, "tx_bytes", (json_int_t)p->tx_bytes);
    if (!o)
        return NULL;
    if (p->handshake_s)
        (void)json_object_set_new(o, "handshake_age_s", json_integer(now_s > p->handshake_s ? now_s - p->handshake_s : 0));
    if (p->at[0])
        (void)json_object_set_new(o, "endpoint", json_string(p->at));
    if (r.any) {
        if (r.rtt_us)
            (void)json_object_set_new(o, "rtt_us", json_integer(r.rtt_us));
        (void)json_object_set_new(o, "loss_percent", json_integer(r.loss_percent));
        (void)json_object_set_new(o, "lost_in_row", json_integer(r.lost_in_row));
    }
    if (r.big_known)
        (void)json_object_set_new(o, "mtu_ok", json_boolean(r.big_ok));
    return o;
}

json_t *mt_mesh_report(struct mt_mesh *m)
{
    char key[MT_B64_SIZE(MT_WG_KEY_LEN)] = "";
    json_t *peers = json_array();

    if (!m || !m->want || !peers) {
        json_decref(peers);
        return NULL;
    }
    if (m->applied)
        key_text(m->public_key, key);
    for (size_t i = 0; i < m->n && i < MT_MESH_PEERS_MAX; i++)
        (void)json_array_append_new(peers, report_peer(m, i, wall_ms() / 1000));
    json_t *o = json_pack("{s:I, s:s, s:I, s:s, s:i, s:I, s:o}", "revision", (json_int_t)m->applied, "public_key", key, "key_generation",
                          (json_int_t)m->want->key_generation, "device", mt_mesh_backend_name(m->backend), "mtu", (int)m->mtu, "repairs",
                          (json_int_t)m->repairs, "peers", peers);
    if (o && m->underlay_mtu)
        (void)json_object_set_new(o, "underlay_mtu", json_integer(m->underlay_mtu));
    if (o && m->rejected[0])
        (void)json_object_set_new(o, "rejected", json_string(m->rejected));
    if (o && m->failed[0])
        (void)json_object_set_new(o, "failed", json_string(m->failed));
    return o;
}

int mt_mesh_doctor(const struct mt_mesh *m, char *ret, size_t size)
{
    size_t asked = 0, silent = 0, narrow = 0;
    if (!m || (!m->want && !m->rejected[0])) {
        (void)snprintf(ret, size, "in no mesh");
        return 0;
    }
    if (m->rejected[0] || m->failed[0]) {
        (void)snprintf(ret, size, "%s: %s", m->rejected[0] ? "the plan's mesh is refused" : "not applied", m->rejected[0] ? m->rejected : m->failed);
        return 2;
    }
    if (!m->applied) {
        (void)snprintf(ret, size, "not applied yet");
        return 1;
    }
    for (size_t i = 0; m->probe && i < m->n; i++) {
        struct mt_mprobe_result r = mt_mprobe_of(m->probe, i);
        asked += r.any;
        silent += r.any && r.lost_in_row >= 3;
        narrow += r.big_known && !r.big_ok;
    }
    (void)snprintf(ret, size, "%s, MTU %u, %zu of %zu peers answer%s", mt_mesh_backend_name(m->backend), (unsigned)m->mtu, asked - silent, m->n,
                   narrow ? ", not all of them to packets of full size" : "");
    return asked > 0 && silent == m->n ? 2 : silent > 0 || narrow > 0 ? 1 : 0;
}

/* ---- life -------------------------------------------------------------------------------- */

struct mt_mesh *mt_mesh_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_mesh *m = calloc(1, sizeof *m);
    if (!m) {
        (void)MT_FAIL(err, MT_E_NOMEM, "mesh: out of memory");
        return NULL;
    }
    m->a = a;
    m->go_pidfd = -1;
    m->top_again_ns = mt_clock_mono();
    m->look_timer = mt_loop_timer(a->loop, "mesh.look", on_look, m, err);
    m->cut_timer = mt_loop_timer(a->loop, "mesh.cutover", on_cutover, m, err);
    m->probe_timer = mt_loop_timer(a->loop, "mesh.probe", on_probe, m, err);
    if (!m->look_timer || !m->cut_timer || !m->probe_timer) {
        mt_mesh_free(m);
        return NULL;
    }
    return m;
}

void mt_mesh_free(struct mt_mesh *m)
{
    if (!m)
        return;
    mt_loop_del(m->look_timer);
    mt_loop_del(m->cut_timer);
    mt_loop_del(m->probe_timer);
    mt_loop_del(m->go);
    mt_closep(&m->go_pidfd);
    mt_mprobe_free(m->probe);
    mt_mesh_want_unref(m->want);
    json_decref(m->section);
    json_decref(m->good);
    free(m->peers);
    free(m);
}

int mt_mesh_remove(struct mt_mesh *m, struct mt_err *err)
{
    if (!m || !m->down_due)
        return 0;
    mt_mesh_want_unref(m->want);
    m->want = NULL;
    m->n = 0;
    return mt_mesh_down(err);
}
