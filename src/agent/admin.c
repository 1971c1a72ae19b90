/* SPDX-License-Identifier: Apache-2.0 */
/* The local socket: clients, framing, log streams. What the other ops say is in describe.c. See admin.h. */
#include "agent/admin.h"

#include "agent/control.h"
#include "agent/describe.h"
#include "agent/exec.h"
#include "agent/instance/inst.h"
#include "agent/logstore.h"
#include "agent/mesh/mesh.h"
#include "agent/traffic.h"
#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "os/sock.h"
#include "wire/json.h"

#include <sys/socket.h>

#define CLIENTS_MAX 64
#define REQUEST_MAX 98304 /* an exec grant holds a whole command line */
#define OUT_HIGH (256U << 10) /* no more records are read while this much waits */
#define OUT_MAX (8U << 20)    /* one answer that is not a stream */
#define RECORDS_PER_TURN 256

struct client {
    struct mt_list link;
    struct mt_admin *ad;
    int fd;
    uid_t uid;   /* -1: the control plane of another machine */
    bool remote; /* that one: it may read and exec */
    struct mt_source *src;
    struct mt_buf in, out;
    bool asked;   /* the request line was read */
    bool closing; /* close when `out` is empty */
    bool waits_stop;
    bool waits_initlog; /* of instance_id */
    bool waits_drain;   /* the control plane's answer */
    bool handed_over; /* the connection is an exec session's from here on */
    struct mt_log_reader *reader;
    bool follow;
    uint64_t left; /* records still wanted */
    uint64_t until; /* the last one; UINT64_MAX: whatever comes */
    char instance_id[MT_ID_SIZE];
};

struct mt_admin {
    struct mt_agent *a;
    int fd;
    struct mt_source *src;
    struct mt_list clients;
    unsigned n;
};

static void client_free(struct client *c)
{
    struct mt_inst *in = c->waits_initlog ? mt_map_get(&c->ad->a->insts, c->instance_id) : NULL;
    if (in)
        mt_initlog_cancel(in, c);
    mt_loop_del(c->src);
    mt_closep(&c->fd);
    mt_list_remove(&c->link);
    mt_log_reader_close(c->reader);
    mt_buf_done(&c->in);
    mt_buf_done(&c->out);
    c->ad->n--;
    free(c);
}

static void put_error(struct client *c, const struct mt_err *err)
{
    mt_buf_puts(&c->out, "{\"error\":{\"code\":");
    const char *code = mt_code_name(err->code);
    mt_buf_put_json_str(&c->out, code, strlen(code));
    mt_buf_puts(&c->out, ",\"message\":");
    mt_buf_put_json_str(&c->out, err->msg, strlen(err->msg));
    mt_buf_puts(&c->out, "}}\n");
    c->closing = true;
}

static void put_record(struct client *c, const struct mt_log_record *r)
{
    char ts[MT_RFC3339_LEN];
    mt_buf_printf(&c->out, "{\"ts\":\"%s\",\"seq\":%llu,\"stream\":\"%s\",\"line\":", mt_rfc3339(r->ts_us, ts),
                  (unsigned long long)r->seq, mt_log_stream_name(r->stream));
    mt_buf_put_json_str(&c->out, (const char *)r->line, r->len);
    mt_buf_printf(&c->out, ",\"truncated\":%s}\n", r->flags & MT_LOG_TRUNCATED ? "true" : "false");
}

/* Move records into the output until it is full or there are none. */
static void pump(struct client *c)
{
    struct mt_log_record r;
    struct mt_err err = {0};

    for (int i = 0; c->reader && c->out.len < OUT_HIGH && i < RECORDS_PER_TURN; i++) {
        if (c->left == 0) {
            c->closing = true;
            return;
        }
        int rc = mt_log_reader_next(c->reader, &r, &err);
        if (rc == 1 && r.seq > c->until) {
            c->closing = true;
            return;
        }
        if (rc == 1) {
            put_record(c, &r);
            c->left--;
            continue;
        }
        if (rc < 0)
            put_error(c, &err);
        else if (!c->follow)
            c->closing = true;
        return;
    }
}

/* Returns false when the client is gone. */
static bool flush(struct client *c)
{
    while (c->out.len > 0) {
        ssize_t n = send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            client_free(c);
            return false;
        }
        mt_buf_consume(&c->out, (size_t)n);
        if (c->out.len == 0 && !c->closing)
            pump(c);
    }
    if (c->out.len == 0 && c->closing) {
        client_free(c);
        return false;
    }
    (void)mt_loop_fd_events(c->src, c->out.len ? EPOLLIN | EPOLLOUT : EPOLLIN, NULL);
    return true;
}

/* The attempt before the present one; of an instance that does not run, the one that ended last. 0: the newest that has lines. */
static uint32_t previous_boot(struct mt_agent *a, const char *id)
{
    const struct mt_inst *in = mt_map_get(&a->insts, id);
    if (!in || in->st.boot_seq == 0)
        return 0;
    bool running = in->st.phase == MT_PH_PREPARING || mt_phase_live(in->st.phase);
    return running ? (uint32_t)in->st.boot_seq - 1 : (uint32_t)in->st.boot_seq;
}

/* What of the log is the previous attempt's: *@since is before its first record. Nothing of it there: nothing before the present one. */
static int previous_range(struct client *c, const char *id, uint64_t limit, bool follow, uint64_t *ret_since, struct mt_err *err)
{
    struct mt_agent *a = c->ad->a;
    uint32_t boot = previous_boot(a, id);
    uint64_t first, last, next, ignored;
    const struct mt_inst *in = mt_map_get(&a->insts, id);
    int rc = in && in->st.boot_seq && boot == 0 ? -MT_E_NOT_FOUND : mt_log_boot_range(a->conf.logs_dir, id, boot, &first, &last, err);
    if (rc == 0) {
        *ret_since = !follow && limit && last - first + 1 > limit ? last - limit : first - 1;
        c->until = follow ? UINT64_MAX : last;
        return 0;
    }
    if (rc != -MT_E_NOT_FOUND)
        return rc;
    if (boot < UINT32_MAX && mt_log_boot_range(a->conf.logs_dir, id, boot + 1, &next, &ignored, NULL) == 0)
        *ret_since = next - 1;
    else if (mt_log_last_seq(a->conf.logs_dir, id, ret_since, err) < 0)
        return -MT_E_NOT_FOUND;
    c->until = follow ? UINT64_MAX : 0;
    return 0;
}

static int op_logs(struct client *c, const json_t *rq, struct mt_err *err)
{
    const char *id;
    uint64_t since, limit, last = 0;
    bool follow, previous, has_since = json_is_integer(json_object_get(rq, "since_seq"));
    int rc = mt_json_get_str(rq, "instance_id", MT_ID_SIZE - 1, &id, err);
    if (rc == 0)
        rc = mt_json_opt_u64(rq, "since_seq", 0, UINT64_MAX / 2, 0, &since, err);
    if (rc == 0)
        rc = mt_json_opt_u64(rq, "limit", 0, 1000000, 0, &limit, err);
    if (rc == 0)
        rc = mt_json_opt_bool(rq, "follow", false, &follow, err);
    if (rc == 0)
        rc = mt_json_opt_bool(rq, "previous", false, &previous, err);
    if (rc == 0)
        rc = mt_id_check(MT_ID_INSTANCE, id, err);
    if (rc < 0)
        return rc;
    c->until = UINT64_MAX;
    if (!has_since && previous) {
        rc = previous_range(c, id, limit, follow, &since, err);
        if (follow)
            limit = 0;
    } else if (!has_since && limit > 0) { /* the last `limit` records */
        rc = mt_log_last_seq(c->ad->a->conf.logs_dir, id, &last, err);
        since = last > limit ? last - limit : 0;
        if (follow)
            limit = 0;
    }
    if (rc == 0)
        rc = mt_log_reader_open(c->ad->a->conf.logs_dir, id, since, &c->reader, err);
    if (rc < 0)
        return rc;
    (void)snprintf(c->instance_id, sizeof c->instance_id, "%s", id);
    c->follow = follow;
    c->left = limit ? limit : UINT64_MAX;
    pump(c);
    return 0;
}

static int op_stop_all(struct client *c, const json_t *rq, struct mt_err *err)
{
    uint64_t ms;
    if (c->uid != 0 && c->uid != geteuid()) /* control reads logs here; what shall stop it says in the plan */
        return MT_FAIL(err, MT_E_DENIED, "stop-all is for root");
    int rc = mt_json_opt_u64(rq, "deadline_ms", 100, 600000, 20000, &ms, err);
    if (rc < 0)
        return rc;
    c->waits_stop = true;
    mt_agent_stop_all(c->ad->a, (int64_t)ms);
    return 0;
}

/* Somebody is about to read the flow log: told in the log and in the ring itself before they may. */
static int op_flows_read(struct client *c, const json_t *rq, struct mt_err *err)
{
    uint64_t since, until;
    if (c->uid != 0 && c->uid != geteuid())
        return MT_FAIL(err, MT_E_DENIED, "the flow log is for root");
    int rc = mt_json_opt_u64(rq, "since_us", 0, INT64_MAX, 0, &since, err);
    if (rc == 0)
        rc = mt_json_opt_u64(rq, "until_us", 0, INT64_MAX, 0, &until, err);
    if (rc == 0)
        rc = mt_traffic_read_by(c->ad->a->traffic, c->uid, (int64_t)since, (int64_t)until, err);
    if (rc == 0)
        mt_buf_puts(&c->out, "{\"recorded\":true}\n");
    return rc;
}

/* A new WireGuard key for this node; what becomes of it is told by the heartbeat and the log. */
static int op_rotate_key(struct client *c, struct mt_err *err)
{
    if (c->uid != 0 && c->uid != geteuid())
        return MT_FAIL(err, MT_E_DENIED, "rotate-key is for root");
    int rc = mt_mesh_rotate(c->ad->a->mesh, err);
    if (rc == 0)
        mt_buf_puts(&c->out, "{\"begun\":true}\n");
    return rc;
}

/* The pass over what nothing needs, now instead of in half a minute. */
static int op_gc(struct client *c, struct mt_err *err)
{
    if (c->uid != 0 && c->uid != geteuid())
        return MT_FAIL(err, MT_E_DENIED, "gc is for root");
    mt_loop_timer_after(c->ad->a->drift_timer, 0);
    mt_buf_puts(&c->out, "{\"begun\":true}\n");
    return mt_buf_check(&c->out, err);
}

/* What the control plane said to our wish, to all who wait for it: there is one wish. */
static void on_drain_answer(void *arg, int status, const char *detail)
{
    struct mt_agent *a = arg;
    struct mt_err err = {0};
    mt_auto_json json_t *doc = NULL;
    const char *why = detail;
    mt_log(status == 200 ? MT_INFO : MT_WARN, "drain.asked", KV("status", status), KV("detail", detail));
    if (status >= 400 && mt_json_parse(detail, strlen(detail), REQUEST_MAX, 8, &doc, NULL) == 0)
        (void)mt_json_opt_str(doc, "detail", REQUEST_MAX, detail, &why, NULL);
    if (status == 0)
        (void)MT_FAIL(&err, MT_E_UNAVAILABLE, "the control plane does not answer, and who replaces what runs here is its choice: %.150s", why);
    else if (status != 200)
        (void)MT_FAIL(&err, status == 409 ? MT_E_CONFLICT : status >= 500 ? MT_E_UNAVAILABLE : MT_E_DENIED, "the control plane refuses it: %.180s", why);
    if (!a->admin)
        return;
    MT_LIST_EACH(n, &a->admin->clients) {
        struct client *c = MT_CONTAINER(n, struct client, link);
        if (!c->waits_drain)
            continue;
        c->waits_drain = false;
        c->closing = true;
        if (err.code)
            put_error(c, &err);
        else
            mt_buf_printf(&c->out, "{\"draining\":true,\"node_id\":\"%s\"}\n", a->conf.node_id);
        (void)flush(c);
    }
}

/* This machine is to be taken out of use: asked of the control plane, which replaces what runs here before it drains it. */
static int op_drain(struct client *c, const json_t *rq, struct mt_err *err)
{
    const char *reason;
    if (c->uid != 0 && c->uid != geteuid())
        return MT_FAIL(err, MT_E_DENIED, "drain is for root");
    int rc = mt_json_opt_str(rq, "reason", 500, "asked for on the machine itself", &reason, err);
    if (rc == 0)
        rc = mt_control_post(c->ad->a->control, "/internal/v1/nodes/self/drain", json_pack("{s:s}", "reason", reason), on_drain_answer, c->ad->a, err);
    if (rc < 0)
        return rc;
    c->waits_drain = true;
    c->closing = false;
    return 0;
}

/* The connection leaves this room: frames follow, both ways. */
static int op_exec(struct client *c, const json_t *rq, struct mt_err *err)
{
    json_t *grant;
    if (!c->remote && c->uid != 0 && c->uid != geteuid() && c->uid != c->ad->a->control_uid)
        return MT_FAIL(err, MT_E_DENIED, "exec is for the control plane");
    int rc = mt_json_get_object(rq, "grant", &grant, err);
    if (rc < 0)
        return rc;
    const char *end = memchr(c->in.p, '\n', c->in.len);
    size_t line = (size_t)(end - (const char *)c->in.p) + 1;
    mt_loop_del(c->src);
    c->src = NULL;
    c->handed_over = true;
    mt_exec_relays_open(c->ad->a->exec, grant, MT_TAKE_FD(c->fd), c->in.p + line, c->in.len - line);
    return 0;
}

static void initlog_done(void *arg, const char *text, size_t len, const struct mt_err *err)
{
    struct client *c = arg;
    c->waits_initlog = false;
    if (err)
        put_error(c, err);
    else
        mt_describe_lines(NULL, text, len, &c->out);
    c->closing = true;
    (void)flush(c);
}

/* What init said of itself, out of the guest: answered when it is there. */
static int op_initlog(struct client *c, const char *id, struct mt_err *err)
{
    struct mt_inst *in = mt_map_get(&c->ad->a->insts, id);
    if (!in)
        return MT_FAIL(err, MT_E_NOT_FOUND, "this node has no instance '%s'", id);
    int rc = mt_initlog_begin(in, initlog_done, c, err);
    if (rc < 0)
        return rc;
    (void)snprintf(c->instance_id, sizeof c->instance_id, "%s", id);
    c->waits_initlog = true;
    c->closing = false;
    return 0;
}

static int dispatch(struct client *c, const char *line, size_t len, struct mt_err *err)
{
    mt_auto_json json_t *rq = NULL;
    const char *op, *id = NULL;
    struct mt_agent *a = c->ad->a;

    int rc = mt_json_parse(line, len, REQUEST_MAX, 4, &rq, err);
    if (rc == 0)
        rc = mt_json_get_str(rq, "op", 32, &op, err);
    if (rc < 0)
        return rc;
    if (c->remote && strcmp(op, "logs") != 0 && strcmp(op, "console") != 0 && strcmp(op, "exec") != 0)
        return MT_FAIL(err, MT_E_DENIED, "from another machine logs, console and exec can be asked for, not '%.32s'", op);
    if (strcmp(op, "logs") == 0)
        return op_logs(c, rq, err);
    if (strcmp(op, "stop-all") == 0)
        return op_stop_all(c, rq, err);
    if (strcmp(op, "exec") == 0)
        return op_exec(c, rq, err);
    c->closing = true;
    if (strcmp(op, "flows-read") == 0)
        return op_flows_read(c, rq, err);
    if (strcmp(op, "rotate-key") == 0)
        return op_rotate_key(c, err);
    if (strcmp(op, "gc") == 0)
        return op_gc(c, err);
    if (strcmp(op, "drain") == 0)
        return op_drain(c, rq, err);
    if (strcmp(op, "list") == 0)
        return mt_describe_list(a, &c->out, err);
    if (strcmp(op, "doctor") == 0)
        return mt_describe_doctor(a, &c->out, err);
    if (strcmp(op, "describe") == 0 || strcmp(op, "console") == 0 || strcmp(op, "initlog") == 0) {
        rc = mt_json_get_str(rq, "instance_id", MT_ID_SIZE - 1, &id, err);
        if (rc == 0)
            rc = mt_id_check(MT_ID_INSTANCE, id, err);
        if (rc < 0)
            return rc;
        if (op[0] == 'i')
            return op_initlog(c, id, err);
        return op[0] == 'd' ? mt_describe_instance(a, id, &c->out, err) : mt_describe_console(a, id, &c->out, err);
    }
    return MT_FAIL(err, MT_E_INVALID, "no op '%.32s'; known are logs, console, initlog, list, describe, doctor, drain, exec, flows-read, gc, rotate-key, stop-all", op);
}

static void on_client(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct client *c = arg;
    struct mt_err err = {0};
    char buf[4096];
    (void)s;

    if ((revents & EPOLLOUT) && !flush(c))
        return;
    if (!(revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    ssize_t n = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        /* half closed after asking: it still wants the answer */
        if (n == 0 && c->asked && !(revents & (EPOLLHUP | EPOLLERR)) && (c->out.len > 0 || c->waits_stop || c->waits_initlog || c->waits_drain)) {
            (void)mt_loop_fd_events(c->src, c->out.len ? EPOLLOUT : 0, NULL);
            return;
        }
        client_free(c);
        return;
    }
    if (c->asked)
        return; /* one request each; what follows is ignored */
    mt_buf_put(&c->in, buf, (size_t)n);
    const char *end = c->in.failed ? NULL : memchr(c->in.p, '\n', c->in.len);
    if (!end && !c->in.failed)
        return;
    c->asked = true;
    int rc = end ? dispatch(c, (const char *)c->in.p, (size_t)(end - (const char *)c->in.p), &err)
                 : MT_FAIL(&err, MT_E_LIMIT, "request longer than %d bytes", REQUEST_MAX);
    if (c->handed_over) {
        client_free(c);
        return;
    }
    if (rc < 0)
        put_error(c, &err);
    (void)flush(c);
}

/* @fd is taken. */
static int client_new(struct mt_admin *ad, int fd, uid_t uid, bool remote)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c) {
        (void)close(fd);
        return -MT_E_NOMEM;
    }
    c->ad = ad;
    c->fd = fd;
    c->uid = uid;
    c->remote = remote;
    mt_buf_init(&c->in, REQUEST_MAX);
    mt_buf_init(&c->out, OUT_MAX);
    mt_list_push_back(&ad->clients, &c->link);
    ad->n++;
    c->src = mt_loop_fd(ad->a->loop, "admin.client", c->fd, EPOLLIN, on_client, c, NULL);
    if (c->src)
        return 0;
    client_free(c);
    return -MT_E_NOMEM;
}

int mt_admin_take(struct mt_admin *ad, int fd)
{
    if (ad && ad->n < CLIENTS_MAX)
        return client_new(ad, fd, (uid_t)-1, true);
    (void)close(fd);
    return -MT_E_LIMIT;
}

static void on_accept(struct mt_source *s, int listen_fd, uint32_t revents, void *arg)
{
    struct mt_admin *ad = arg;
    mt_auto_fd int fd = -1;
    uid_t uid;
    (void)s;
    (void)revents;

    if (mt_sock_accept(listen_fd, &fd, NULL) != 1)
        return;
    if (mt_sock_peercred(fd, &uid, NULL, NULL, NULL) < 0 || (uid != 0 && uid != geteuid() && uid != ad->a->control_uid) ||
        ad->n >= CLIENTS_MAX)
        return;
    (void)client_new(ad, MT_TAKE_FD(fd), uid, false);
}

void mt_admin_logs_grew(struct mt_admin *ad, const char *instance_id)
{
    MT_LIST_EACH(n, &ad->clients) {
        struct client *c = MT_CONTAINER(n, struct client, link);
        if (!c->follow || strcmp(c->instance_id, instance_id) != 0 || c->out.len >= OUT_HIGH)
            continue;
        pump(c);
        (void)flush(c);
    }
}

void mt_admin_stop_all_done(struct mt_admin *ad, bool clean)
{
    MT_LIST_EACH(n, &ad->clients) {
        struct client *c = MT_CONTAINER(n, struct client, link);
        if (!c->waits_stop)
            continue;
        mt_buf_printf(&c->out, "{\"stopped\":true,\"clean\":%s%s}\n", clean ? "true" : "false",
                      clean ? "" : ",\"error\":{\"code\":\"timeout\",\"message\":\"not everything ended in time; see the agent's log\"}");
        c->closing = true;
        (void)flush(c);
    }
}

struct mt_admin *mt_admin_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_admin *ad = calloc(1, sizeof *ad);
    if (!ad) {
        (void)MT_FAIL(err, MT_E_NOMEM, "local socket: out of memory");
        return NULL;
    }
    ad->a = a;
    ad->fd = -1;
    mt_list_init(&ad->clients);
    /* the control plane's group may connect; who exactly is checked by SO_PEERCRED */
    bool group = a->control_gid != (gid_t)-1;
    if (mt_sock_unix_listen(a->conf.admin_socket, group ? 0660 : 0600, 0, a->control_gid, &ad->fd, err) == 0)
        ad->src = mt_loop_fd(a->loop, "admin", ad->fd, EPOLLIN, on_accept, ad, err);
    if (!ad->src) {
        mt_admin_free(ad);
        return NULL;
    }
    return ad;
}

void mt_admin_free(struct mt_admin *ad)
{
    if (!ad)
        return;
    MT_LIST_EACH(n, &ad->clients)
        client_free(MT_CONTAINER(n, struct client, link));
    mt_loop_del(ad->src);
    if (ad->fd >= 0)
        (void)unlink(ad->a->conf.admin_socket);
    mt_closep(&ad->fd);
    free(ad);
}
