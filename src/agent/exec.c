/* SPDX-License-Identifier: Apache-2.0 */
/* Relays between the control plane and guests. See exec.h. */
#include "agent/exec.h"

#include "agent/instance/inst.h"
#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/exec.h"
#include "wire/json.h"

#include <sys/socket.h>

#define BUF_BYTES (2 * MT_EXEC_FRAME_MAX)
#define SLACK 2048       /* of a buffer, for frames of the agent's own */
#define OPENED_MS 10000  /* connection to the guest and its first answer */
#define CONNECT_MS 2000
#define FORCE_MS 35000   /* behind the guest's own ladder of 30 s */
#define LAST_MS 10000    /* for the peer to read what is left */
#define SEEN_MAX 1024
#define SEEN_NS (600 * MT_NS_PER_S)

/* Bytes of one direction: [at, good) are whole frames that were checked, [good, len) the begin of the next one. */
struct way {
    uint8_t *buf;
    size_t at, good, len;
    uint64_t bytes; /* payload of STDIN, or of STDOUT and STDERR */
};

struct relay {
    struct mt_list link;
    struct mt_exec_relays *x;
    char id[MT_ID_SIZE], instance_id[MT_ID_SIZE];
    int peer, guest; /* -1: not connected, or gone */
    struct mt_source *peer_src, *guest_src, *timer;
    struct way up, down; /* to the guest, from the guest */
    int64_t until_ns;    /* the session's end by its own limit */
    bool opened, timed_out, ended; /* ended: EXIT is in `down`, close when it is out */
    char reason[24];
    unsigned char *job_alive; /* of a connecting job */
};

struct mt_exec_relays {
    struct mt_agent *a;
    struct mt_list all;
    unsigned n;
    struct {
        char id[MT_ID_SIZE];
        int64_t at_ns;
    } seen[SEEN_MAX];
    size_t seen_at;
};

static void on_peer(struct mt_source *s, int fd, uint32_t revents, void *arg);
static void on_guest(struct mt_source *s, int fd, uint32_t revents, void *arg);

static void relay_free(struct relay *r)
{
    mt_log(MT_INFO, "exec.ended", KV("session", r->id), KV("instance", r->instance_id), KV("reason", r->reason),
           KV("stdin_bytes", r->up.bytes), KV("output_bytes", r->down.bytes));
    mt_loop_del(r->peer_src);
    mt_loop_del(r->guest_src);
    mt_loop_del(r->timer);
    mt_closep(&r->peer);
    mt_closep(&r->guest);
    if (r->job_alive)
        *r->job_alive = 0;
    mt_list_remove(&r->link);
    r->x->n--;
    free(r->up.buf);
    free(r->down.buf);
    free(r);
}

/* --- buffers --- */

static size_t way_room(const struct way *w)
{
    return w->len + SLACK < BUF_BYTES ? BUF_BYTES - SLACK - w->len : 0;
}

static void way_compact(struct way *w)
{
    if (w->at == 0 || (w->at < w->good && way_room(w) >= 4096))
        return;
    memmove(w->buf, w->buf + w->at, w->len - w->at);
    w->good -= w->at;
    w->len -= w->at;
    w->at = 0;
}

/* A frame of the agent's own behind the whole ones; what is there of the next one (@keep) moves up or is dropped. */
static void way_insert(struct way *w, uint8_t type, const uint8_t *payload, size_t n, bool keep)
{
    if (!keep)
        w->len = w->good;
    way_compact(w);
    if (w->len + MT_EXEC_HEAD + n > BUF_BYTES)
        return; /* the slack holds all there ever are: a close and an exit */
    memmove(w->buf + w->good + MT_EXEC_HEAD + n, w->buf + w->good, w->len - w->good);
    mt_exec_head(w->buf + w->good, type, n);
    memcpy(w->buf + w->good + MT_EXEC_HEAD, payload, n);
    w->good += MT_EXEC_HEAD + n;
    w->len += MT_EXEC_HEAD + n;
}

/* False when the descriptor is broken. */
static bool way_send(struct way *w, int fd)
{
    while (w->at < w->good) {
        ssize_t n = send(fd, w->buf + w->at, w->good - w->at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        w->at += (size_t)n;
    }
    way_compact(w);
    return true;
}

/* --- ends --- */

static void end(struct relay *r, const char *reason, const char *detail)
{
    const struct mt_exec_exit last = {.exit_code = -1, .reason = reason, .detail = detail};
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    if (r->ended)
        return;
    r->ended = true;
    (void)snprintf(r->reason, sizeof r->reason, "%s", reason);
    if (mt_exec_exit_encode(&last, body, sizeof body, &n, NULL) == 0)
        way_insert(&r->down, MT_EXEC_EXIT, body, n, false);
}

/* Watch for what can be done now; false when the relay is gone. */
static bool arm(struct relay *r)
{
    if (r->ended) {
        mt_loop_del(r->guest_src);
        r->guest_src = NULL;
        mt_closep(&r->guest); /* whatever still runs there gets the guest's ladder */
    }
    if (r->peer < 0 || (r->ended && r->down.at == r->down.good)) {
        relay_free(r);
        return false;
    }
    if (r->ended)
        mt_loop_timer_after(r->timer, LAST_MS);
    uint32_t peer = (!r->ended && way_room(&r->up) ? EPOLLIN : 0u) | (r->down.at < r->down.good ? EPOLLOUT : 0u);
    uint32_t guest = (way_room(&r->down) ? EPOLLIN : 0u) | (r->up.at < r->up.good ? EPOLLOUT : 0u);
    struct {
        struct mt_source **src;
        int fd;
        uint32_t events;
        mt_fd_fn fn;
        const char *name;
    } both[2] = {{&r->peer_src, r->peer, peer, on_peer, "exec.peer"}, {&r->guest_src, r->guest, guest, on_guest, "exec.guest"}};
    for (int i = 0; i < 2; i++) {
        if (both[i].fd >= 0 && both[i].events && !*both[i].src)
            *both[i].src = mt_loop_fd(r->x->a->loop, both[i].name, both[i].fd, both[i].events, both[i].fn, r, NULL);
        else if (*both[i].src && both[i].events)
            (void)mt_loop_fd_events(*both[i].src, both[i].events, NULL);
        else if (*both[i].src) { /* a hang-up is reported even to who asks for nothing */
            mt_loop_del(*both[i].src);
            *both[i].src = NULL;
        }
    }
    return true;
}

static void kick(struct relay *r)
{
    if (r->peer >= 0 && !way_send(&r->down, r->peer)) {
        (void)snprintf(r->reason, sizeof r->reason, "%s", r->ended ? r->reason : "client_disconnect");
        mt_loop_del(r->peer_src);
        r->peer_src = NULL;
        mt_closep(&r->peer);
    }
    if (r->guest >= 0 && !way_send(&r->up, r->guest))
        r->up.at = r->up.good = r->up.len = 0; /* its end is seen when it is read */
    (void)arm(r);
}

/* --- frames --- */

static void take_exit(struct relay *r, const struct mt_exec_frame *f)
{
    static uint8_t mem_bytes[MT_EXEC_MEM]; /* loop thread only */
    struct mt_guest_mem mem = {.base = mem_bytes, .cap = sizeof mem_bytes};
    struct mt_exec_exit e;
    struct mt_err err = {0};
    if (mt_exec_exit_decode(f->payload, f->len, &mem, &e, &err) < 0) {
        end(r, "protocol_error", err.msg);
        return;
    }
    (void)snprintf(r->reason, sizeof r->reason, "%s", e.reason);
    r->ended = true;
}

/* Check frames as they become whole. False: the sender broke the protocol. */
static bool walk(struct relay *r, struct way *w, enum mt_exec_from from, struct mt_err *err)
{
    while (!r->ended) {
        struct mt_exec_frame f;
        size_t used;
        int rc = mt_exec_decode(from, w->buf + w->good, w->len - w->good, &f, &used, err);
        if (rc == 1)
            return true;
        if (rc == 0 && f.type == MT_EXEC_OPEN)
            rc = MT_FAIL(err, MT_E_INVALID, "a second OPEN");
        if (rc == 0 && from == MT_EXEC_FROM_GUEST && (f.type == MT_EXEC_OPENED) == r->opened && f.type != MT_EXEC_EXIT)
            rc = MT_FAIL(err, MT_E_INVALID, "OPENED comes first and once");
        if (rc < 0)
            return false;
        if (f.type == MT_EXEC_OPENED) {
            r->opened = true;
            mt_loop_timer_set(r->timer, r->until_ns);
        }
        if (f.type == MT_EXEC_STDIN || f.type == MT_EXEC_STDOUT || f.type == MT_EXEC_STDERR)
            w->bytes += f.len;
        if (f.type == MT_EXEC_EXIT) {
            take_exit(r, &f);
            if (MT_STREQ(r->reason, "protocol_error") && w->len == w->good)
                return true; /* replaced by one of ours */
        }
        w->good += used;
    }
    if (r->ended)
        w->len = w->good; /* nothing comes after it */
    return true;
}

/* One read into @w; -1 the other end is gone. */
static int pull(struct way *w, int fd)
{
    size_t room = way_room(w);
    if (room == 0)
        return 0;
    ssize_t n = recv(fd, w->buf + w->len, room, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -1;
    w->len += (size_t)n;
    return 1;
}

static void on_peer(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct relay *r = arg;
    struct mt_err err = {0};
    (void)s;
    if (!r->ended && (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        if (pull(&r->up, fd) < 0) {
            (void)snprintf(r->reason, sizeof r->reason, "client_disconnect");
            relay_free(r);
            return;
        }
        if (!walk(r, &r->up, MT_EXEC_FROM_CLIENT, &err))
            end(r, "protocol_error", err.msg);
    }
    kick(r);
}

static void on_guest(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct relay *r = arg;
    struct mt_err err = {0};
    (void)s;
    if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (pull(&r->down, fd) < 0) {
            end(r, "instance_stopped", "the connection to the guest ended");
        } else if (!walk(r, &r->down, MT_EXEC_FROM_GUEST, &err)) {
            mt_log(MT_WARN, "exec.guest_invalid", KV("session", r->id), KV("instance", r->instance_id), KV("why", err.msg));
            end(r, "protocol_error", err.msg);
        }
    }
    kick(r);
}

static void on_timer(struct mt_source *s, void *arg)
{
    static const uint8_t body[] = "{\"type\":\"close\",\"reason\":\"timeout\"}";
    struct relay *r = arg;
    (void)s;
    if (r->ended) { /* the peer does not read its last bytes */
        relay_free(r);
        return;
    }
    if (!r->opened) {
        end(r, "start_failed", "the guest does not answer");
    } else if (!r->timed_out) {
        r->timed_out = true;
        way_insert(&r->up, MT_EXEC_CONTROL, body, sizeof body - 1, true);
        mt_loop_timer_after(r->timer, FORCE_MS);
    } else {
        end(r, "timeout", "the guest did not end the session");
    }
    kick(r);
}

/* --- opening --- */

struct job {
    unsigned char alive;
    struct relay *r;
    struct mt_vmm *vmm;
    struct mt_vmm_ids ids;
    int fd, rc;
    struct mt_err err;
};

static void job_work(void *arg)
{
    struct job *j = arg;
    j->rc = mt_vmm_connect(j->vmm, &j->ids, MT_GUEST_PORT_EXEC, CONNECT_MS, &j->fd, &j->err);
}

static void job_done(void *arg)
{
    struct job *j = arg;
    struct relay *r = j->r;
    if (!j->alive) { /* the client went away meanwhile */
        mt_closep(&j->fd);
        free(j);
        return;
    }
    r->job_alive = NULL;
    if (j->rc < 0)
        end(r, "start_failed", j->err.msg);
    else
        r->guest = MT_TAKE_FD(j->fd);
    free(j);
    kick(r);
}

static bool seen_before(struct mt_exec_relays *x, const char *id, int64_t now, bool *ret_full)
{
    *ret_full = false;
    for (size_t i = 0; i < SEEN_MAX; i++)
        if (x->seen[i].at_ns && now - x->seen[i].at_ns < SEEN_NS && MT_STREQ(x->seen[i].id, id))
            return true;
    size_t at = x->seen_at;
    if (x->seen[at].at_ns && now - x->seen[at].at_ns < SEEN_NS) {
        *ret_full = true;
        return false;
    }
    (void)snprintf(x->seen[at].id, sizeof x->seen[at].id, "%s", id);
    x->seen[at].at_ns = now;
    x->seen_at = (at + 1) % SEEN_MAX;
    return false;
}

/* Build OPEN into @r->up and fill the session's limits. */
static int read_grant(struct relay *r, const json_t *g, const char **ret_env_id, struct mt_err *err)
{
    const char *argv[MT_EXEC_ARGV_MAX + 1];
    struct mt_guest_env env[MT_EXEC_ENV_MAX];
    struct mt_exec_open o = {.argv = argv, .env = env};
    const char *id, *instance, *expires;
    json_t *command, *vars;
    uint64_t seconds, cols, rows;
    int64_t expires_us;
    int rc = mt_json_get_str(g, "session_id", MT_ID_SIZE - 1, &id, err);
    if (rc < 0 || (rc = mt_json_get_str(g, "instance_id", MT_ID_SIZE - 1, &instance, err)) < 0 ||
        (rc = mt_json_get_str(g, "env_id", MT_ID_SIZE - 1, ret_env_id, err)) < 0 ||
        (rc = mt_json_get_array(g, "command", MT_EXEC_ARGV_MAX, &command, err)) < 0 ||
        (rc = mt_json_opt_object(g, "env", &vars, err)) < 0 || (rc = mt_json_opt_bool(g, "tty", false, &o.tty, err)) < 0 ||
        (rc = mt_json_opt_bool(g, "stdin", false, &o.stdin_open, err)) < 0 ||
        (rc = mt_json_opt_u64(g, "cols", 0, MT_EXEC_SIZE_MAX, 0, &cols, err)) < 0 ||
        (rc = mt_json_opt_u64(g, "rows", 0, MT_EXEC_SIZE_MAX, 0, &rows, err)) < 0 ||
        (rc = mt_json_opt_str(g, "user", 128, NULL, &o.user, err)) < 0 ||
        (rc = mt_json_get_u64(g, "max_duration_s", 1, 86400, &seconds, err)) < 0 ||
        (rc = mt_json_get_str(g, "expires_at", 64, &expires, err)) < 0 || (rc = mt_rfc3339_parse(expires, &expires_us, err)) < 0 ||
        (rc = mt_id_check(MT_ID_EXEC, id, err)) < 0 || (rc = mt_id_check(MT_ID_INSTANCE, instance, err)) < 0)
        return rc;
    (void)snprintf(r->id, sizeof r->id, "%s", id);
    (void)snprintf(r->instance_id, sizeof r->instance_id, "%s", instance);
    if (expires_us < mt_clock_wall_us())
        return MT_FAIL(err, MT_E_TIMEOUT, "the grant is over");
    o.cols = (uint32_t)cols;
    o.rows = (uint32_t)rows;
    size_t i;
    json_t *v;
    json_array_foreach (command, i, v) {
        if (!json_is_string(v))
            return MT_FAIL(err, MT_E_INVALID, "command[%zu] is not a text", i);
        argv[o.argc++] = json_string_value(v);
    }
    argv[o.argc] = NULL;
    for (void *it = vars ? json_object_iter(vars) : NULL; it; it = json_object_iter_next(vars, it)) {
        if (o.env_count == MT_EXEC_ENV_MAX || !json_is_string(json_object_iter_value(it)))
            return MT_FAIL(err, MT_E_INVALID, "env holds at most %d texts", MT_EXEC_ENV_MAX);
        env[o.env_count++] = (struct mt_guest_env){json_object_iter_key(it), json_string_value(json_object_iter_value(it))};
    }
    size_t n;
    if ((rc = mt_exec_open_encode(&o, r->up.buf + MT_EXEC_HEAD, MT_EXEC_PAYLOAD_MAX, &n, err)) < 0)
        return rc;
    mt_exec_head(r->up.buf, MT_EXEC_OPEN, n);
    r->up.good = r->up.len = MT_EXEC_HEAD + n;
    r->until_ns = mt_loop_now(r->x->a->loop) + (int64_t)seconds * MT_NS_PER_S;
    return 0;
}

static bool takes_exec(const struct mt_inst *in)
{
    enum mt_phase p = in->st.phase;
    return in->vmm && (p == MT_PH_STARTING || p == MT_PH_READY || p == MT_PH_UNREADY);
}

/* Why this grant is not obeyed: an end reason, NULL when it is. */
static const char *refuse(struct relay *r, const json_t *grant, struct mt_inst **ret, struct mt_err *err)
{
    const char *env_id = NULL;
    bool full;
    int rc = read_grant(r, grant, &env_id, err);
    if (rc < 0)
        return rc == -MT_E_TIMEOUT ? "connect_timeout" : "protocol_error";
    if (seen_before(r->x, r->id, mt_loop_now(r->x->a->loop), &full)) {
        (void)MT_FAIL(err, MT_E_DENIED, "the grant was used already");
        return "protocol_error";
    }
    if (full || r->x->n > MT_EXEC_RELAYS_MAX) {
        (void)MT_FAIL(err, MT_E_LIMIT, "too many exec sessions on this node");
        return "start_failed";
    }
    struct mt_inst *in = mt_map_get(&r->x->a->insts, r->instance_id);
    if (!in || !MT_STREQ(in->st.env_id, env_id)) {
        (void)MT_FAIL(err, MT_E_NOT_FOUND, "the instance is not on this node");
        return "instance_stopped";
    }
    if (!takes_exec(in)) {
        (void)MT_FAIL(err, MT_E_CONFLICT, "the instance is %s", mt_phase_name(in->st.phase));
        return "instance_stopped";
    }
    *ret = in;
    return NULL;
}

void mt_exec_relays_open(struct mt_exec_relays *x, const json_t *grant, int fd, const uint8_t *early, size_t early_len)
{
    struct relay *r = calloc(1, sizeof *r);
    struct job *j = calloc(1, sizeof *j);
    struct mt_inst *in = NULL;
    struct mt_err err = {0};
    if (r) {
        mt_list_push_back(&x->all, &r->link);
        x->n++;
        r->x = x;
        r->peer = fd;
        r->guest = -1;
        r->up.buf = malloc(BUF_BYTES);
        r->down.buf = malloc(BUF_BYTES);
        r->timer = mt_loop_timer(x->a->loop, "exec.limit", on_timer, r, NULL);
    }
    if (!r || !j || !r->up.buf || !r->down.buf || !r->timer) {
        if (r)
            relay_free(r);
        else
            (void)close(fd);
        free(j);
        return;
    }
    const char *reason = refuse(r, grant, &in, &err);
    if (!reason) {
        *j = (struct job){.alive = 1, .r = r, .vmm = in->vmm, .ids = in->st.vmm, .fd = -1};
        mt_loop_timer_after(r->timer, OPENED_MS);
        if (mt_pool_submit(x->a->steps, job_work, job_done, j, &err) < 0)
            reason = "start_failed";
        else
            r->job_alive = &j->alive;
    }
    if (reason) {
        free(j);
        r->up.good = r->up.len = 0;
        end(r, reason, err.msg);
        kick(r);
        return;
    }
    mt_log(MT_INFO, "exec.granted", KV("session", r->id), KV("instance", r->instance_id));
    if (early_len && early_len <= way_room(&r->up)) {
        memcpy(r->up.buf + r->up.len, early, early_len);
        r->up.len += early_len;
        if (!walk(r, &r->up, MT_EXEC_FROM_CLIENT, &err))
            end(r, "protocol_error", err.msg);
    }
    kick(r);
}

void mt_exec_relays_stopped(struct mt_exec_relays *x, const char *instance_id)
{
    if (!x)
        return;
    MT_LIST_EACH(n, &x->all) {
        struct relay *r = MT_CONTAINER(n, struct relay, link);
        if (!MT_STREQ(r->instance_id, instance_id) || r->ended)
            continue;
        struct mt_err err = {0};
        while (r->guest >= 0 && !r->ended && pull(&r->down, r->guest) > 0) /* its own last word counts */
            if (!walk(r, &r->down, MT_EXEC_FROM_GUEST, &err))
                break;
        end(r, "instance_stopped", NULL);
        kick(r);
    }
}

struct mt_exec_relays *mt_exec_relays_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_exec_relays *x = calloc(1, sizeof *x);
    if (!x) {
        (void)MT_FAIL(err, MT_E_NOMEM, "exec: out of memory");
        return NULL;
    }
    x->a = a;
    mt_list_init(&x->all);
    return x;
}

void mt_exec_relays_free(struct mt_exec_relays *x)
{
    if (!x)
        return;
    MT_LIST_EACH(n, &x->all) {
        struct relay *r = MT_CONTAINER(n, struct relay, link);
        end(r, "agent_unreachable", "the agent ends");
        if (r->peer >= 0)
            (void)way_send(&r->down, r->peer);
        relay_free(r);
    }
    free(x);
}

unsigned mt_exec_relays_count(const struct mt_exec_relays *x)
{
    return x->n;
}
