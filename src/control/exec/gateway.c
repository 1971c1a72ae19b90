/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions of the exec gateway. See gateway.h; the watcher thread is in watch.c. */
#include "control/exec/gateway_int.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/websocket.h"

#include <fcntl.h>
#include <sys/socket.h>

#define MESSAGE_MAX (1 + MT_EXEC_PAYLOAD_MAX)
#define IN_BYTES (2 * (MESSAGE_MAX + MT_WS_HEAD_MAX)) /* from the client */
#define OUT_BYTES (256u * 1024u)                       /* to the client */
#define LAST_NS (10 * MT_NS_PER_S)                     /* for the client to read what is left */
#define REVOKE_NS (40 * MT_NS_PER_S)                   /* for the guest's ladder and the agent's force */

static void on_client(struct mt_source *s, int fd, uint32_t revents, void *arg);
static void on_agent(struct mt_source *s, int fd, uint32_t revents, void *arg);

/* ---------------------------------------------------------------- buffers */

static int buf_new(struct gw_buf *b, size_t cap)
{
    b->p = malloc(cap);
    b->cap = b->p ? cap : 0;
    return b->p ? 0 : -1;
}

static size_t buf_room(struct gw_buf *b)
{
    if (b->at && (b->at == b->len || b->cap - b->len < b->cap / 2)) {
        memmove(b->p, b->p + b->at, b->len - b->at);
        b->len -= b->at;
        b->at = 0;
    }
    return b->cap - b->len;
}

static void buf_put(struct gw_buf *b, const void *data, size_t n)
{
    memcpy(b->p + b->len, data, n);
    b->len += n;
}

/* False when the descriptor is broken. */
static bool buf_send(struct gw_buf *b, int fd)
{
    while (b->at < b->len) {
        ssize_t n = send(fd, b->p + b->at, b->len - b->at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        b->at += (size_t)n;
    }
    return true;
}

/* One read; -1 the other end is gone, 0 nothing, 1 something. */
static int buf_pull(struct gw_buf *b, int fd)
{
    size_t room = buf_room(b);
    ssize_t n = room ? recv(fd, b->p + b->len, room, MSG_DONTWAIT) : 0;
    if (room == 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return 0;
    if (n <= 0)
        return -1;
    b->len += (size_t)n;
    return 1;
}

/* ---------------------------------------------------------------- ends */

static void session_free(struct mt_gateway_session *s)
{
    mt_loop_del(s->client_src);
    mt_loop_del(s->agent_src);
    mt_loop_del(s->timer);
    mt_closep(&s->client);
    mt_closep(&s->agent);
    free(s->from_client.p);
    free(s->to_client.p);
    free(s->from_agent.p);
    free(s->to_agent.p);
    free(s);
}

/* Out of the loop's list, its end told to the log. */
static void session_over(struct mt_gateway_session *s)
{
    struct mt_gateway *g = s->g;
    mt_log(MT_INFO, "exec.ended", KV("session", s->id), KV("instance", s->instance_id), KV("reason", s->reason),
           KV("stdin_bytes", s->bytes_in), KV("output_bytes", s->bytes_out));
    gw_append_ended(g, s);
    pthread_mutex_lock(&g->mu);
    mt_list_remove(&s->link);
    g->count--;
    pthread_mutex_unlock(&g->mu);
    session_free(s);
}

static void say_close(struct mt_gateway_session *s, unsigned status)
{
    const uint8_t body[2] = {(uint8_t)(status >> 8), (uint8_t)status};
    uint8_t head[MT_WS_HEAD_MAX];
    size_t n = mt_ws_head(head, MT_WS_CLOSE, sizeof body, NULL);
    if (buf_room(&s->to_client) >= n + sizeof body) {
        buf_put(&s->to_client, head, n);
        buf_put(&s->to_client, body, sizeof body);
    }
}

static void to_client(struct mt_gateway_session *s, uint8_t type, const uint8_t *payload, size_t len)
{
    uint8_t head[MT_WS_HEAD_MAX + 1];
    size_t n = mt_ws_head(head, MT_WS_BINARY, len + 1, NULL);
    head[n++] = type;
    buf_put(&s->to_client, head, n);
    buf_put(&s->to_client, payload, len);
}

/* The session ends by the gateway's own decision: EXIT, then close. */
static void end(struct mt_gateway_session *s, const char *reason, const char *detail, unsigned status)
{
    const struct mt_exec_exit last = {.exit_code = -1, .reason = reason, .detail = detail};
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    if (s->ended)
        return;
    s->ended = true;
    snprintf(s->reason, sizeof s->reason, "%s", reason);
    if (mt_exec_exit_encode(&last, body, sizeof body, &n, NULL) == 0 && buf_room(&s->to_client) >= n + MT_WS_HEAD_MAX + 1)
        to_client(s, MT_EXEC_EXIT, body, n);
    say_close(s, status);
}

/* Room for whatever the agent may send next, and for a last word. */
static bool client_room(struct mt_gateway_session *s)
{
    return buf_room(&s->to_client) >= MESSAGE_MAX + MT_WS_HEAD_MAX + 2048;
}

static bool agent_room(struct mt_gateway_session *s)
{
    return buf_room(&s->to_agent) >= MT_EXEC_FRAME_MAX + 2048;
}

static void watch(struct mt_gateway *g, struct mt_source **src, const char *name, int fd, uint32_t events, mt_fd_fn fn,
                  struct mt_gateway_session *s)
{
    if (fd >= 0 && events && !*src) {
        *src = mt_loop_fd(g->loop, name, fd, events, fn, s, NULL);
    } else if (*src && events) {
        (void)mt_loop_fd_events(*src, events, NULL);
    } else if (*src) { /* a hang-up is reported even to who asks for nothing */
        mt_loop_del(*src);
        *src = NULL;
    }
}

/* ---------------------------------------------------------------- frames */

static void take_exit(struct mt_gateway_session *s, const struct mt_exec_frame *f)
{
    struct mt_guest_mem mem = {.base = s->g->mem, .cap = sizeof s->g->mem};
    struct mt_exec_exit e;
    struct mt_err err = {0};
    if (mt_exec_exit_decode(f->payload, f->len, &mem, &e, &err) < 0) {
        end(s, "protocol_error", err.msg, 1000);
        return;
    }
    snprintf(s->reason, sizeof s->reason, "%s", e.reason);
    snprintf(s->signal, sizeof s->signal, "%s", e.signal ? e.signal : "");
    s->exit_code = e.exit_code;
    to_client(s, MT_EXEC_EXIT, f->payload, f->len);
    s->ended = true;
    say_close(s, 1000);
}

static void pass_down(struct mt_gateway_session *s)
{
    while (!s->ended && client_room(s)) {
        struct mt_exec_frame f;
        struct mt_err err = {0};
        size_t used;
        int rc = mt_exec_decode(MT_EXEC_FROM_GUEST, s->from_agent.p + s->from_agent.at, s->from_agent.len - s->from_agent.at, &f,
                                &used, &err);
        if (rc == 1)
            return;
        if (rc < 0) {
            end(s, "protocol_error", err.msg, 1000);
            return;
        }
        if (f.type == MT_EXEC_EXIT) {
            take_exit(s, &f);
        } else {
            if (f.type == MT_EXEC_STDOUT || f.type == MT_EXEC_STDERR)
                s->bytes_out += f.len;
            to_client(s, f.type, f.payload, f.len);
        }
        s->from_agent.at += used;
    }
}

static void to_agent(struct mt_gateway_session *s, uint8_t type, const uint8_t *payload, size_t len)
{
    uint8_t head[MT_EXEC_HEAD];
    mt_exec_head(head, type, len);
    buf_put(&s->to_agent, head, sizeof head);
    buf_put(&s->to_agent, payload, len);
}

/* What a client may ask for: not why the session ends. */
static bool take_control(struct mt_gateway_session *s, const uint8_t *payload, size_t len, struct mt_err *err)
{
    struct mt_guest_mem mem = {.base = s->g->mem, .cap = sizeof s->g->mem};
    struct mt_exec_control c;
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    if (mt_exec_control_decode(payload, len, &mem, &c, err) < 0)
        return false;
    c.reason = NULL;
    if (c.kind != MT_EXEC_UNKNOWN && mt_exec_control_encode(&c, body, sizeof body, &n, err) == 0)
        to_agent(s, MT_EXEC_CONTROL, body, n);
    return true;
}

/* One message of the client; false: it broke the protocol. */
static bool take_message(struct mt_gateway_session *s, const struct mt_ws_frame *f, struct mt_err *err)
{
    if (f->op == MT_WS_PING) {
        uint8_t head[MT_WS_HEAD_MAX];
        size_t n = mt_ws_head(head, MT_WS_PONG, f->len, NULL);
        if (client_room(s)) {
            buf_put(&s->to_client, head, n);
            buf_put(&s->to_client, f->payload, f->len);
        }
        return true;
    }
    if (f->op == MT_WS_PONG)
        return true;
    if (f->op != MT_WS_BINARY || f->len < 1)
        return MT_FAIL(err, MT_E_INVALID, "messages are binary: a type byte and its payload") == 0;
    uint8_t type = f->payload[0];
    if (type == MT_EXEC_OPEN)
        return true; /* dropped: the grant says what runs */
    if (!mt_exec_allowed(MT_EXEC_FROM_CLIENT, type, f->len - 1))
        return MT_FAIL(err, MT_E_INVALID, "a message of type 0x%02x with %zu bytes is not expected", type, f->len - 1) == 0;
    if (type == MT_EXEC_CONTROL)
        return take_control(s, f->payload + 1, f->len - 1, err);
    s->bytes_in += f->len - 1;
    to_agent(s, type, f->payload + 1, f->len - 1);
    return true;
}

/* False when the client says goodbye. */
static bool pass_up(struct mt_gateway_session *s)
{
    while (!s->ended && agent_room(s)) {
        struct mt_ws_frame f;
        struct mt_err err = {0};
        size_t used;
        int rc = mt_ws_decode(s->from_client.p + s->from_client.at, s->from_client.len - s->from_client.at, true, MESSAGE_MAX, &f,
                              &used, &err);
        if (rc == 1)
            return true;
        if (rc == 0 && f.op == MT_WS_CLOSE)
            return false;
        if (rc < 0 || !take_message(s, &f, &err)) {
            end(s, "protocol_error", err.msg, err.code == MT_E_LIMIT ? 1009 : 1002);
            return true;
        }
        s->from_client.at += used;
    }
    return true;
}

/* ---------------------------------------------------------------- turns */

/* Move what can be moved, then wait for what is needed. The session may be gone afterwards. */
static void turn(struct mt_gateway_session *s)
{
    struct mt_gateway *g = s->g;
    bool client_left = !pass_up(s);
    pass_down(s);
    if (!buf_send(&s->to_client, s->client))
        client_left = true;
    if (s->agent >= 0 && !buf_send(&s->to_agent, s->agent))
        s->to_agent.at = s->to_agent.len = 0; /* its end is seen when it is read */
    if (client_left) {
        if (!s->ended)
            snprintf(s->reason, sizeof s->reason, "client_disconnect");
        session_over(s);
        return;
    }
    if (s->ended) {
        mt_loop_del(s->agent_src);
        s->agent_src = NULL;
        mt_closep(&s->agent);
        if (s->to_client.at == s->to_client.len) {
            (void)shutdown(s->client, SHUT_WR); /* what the client still sends must not reset what it still reads */
            session_over(s);
            return;
        }
        if (!s->last_armed)
            mt_loop_timer_set(s->timer, mt_loop_now(g->loop) + LAST_NS);
        s->last_armed = true;
    }
    uint32_t client = (!s->ended && agent_room(s) ? EPOLLIN : 0u) | (s->to_client.at < s->to_client.len ? EPOLLOUT : 0u);
    uint32_t agent = (client_room(s) ? EPOLLIN : 0u) | (s->to_agent.at < s->to_agent.len ? EPOLLOUT : 0u);
    watch(g, &s->client_src, "exec.client", s->client, client, on_client, s);
    watch(g, &s->agent_src, "exec.agent", s->agent, agent, on_agent, s);
}

static void on_client(struct mt_source *src, int fd, uint32_t revents, void *arg)
{
    struct mt_gateway_session *s = arg;
    (void)src;
    if (!s->ended && (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) && buf_pull(&s->from_client, fd) < 0) {
        snprintf(s->reason, sizeof s->reason, "client_disconnect");
        session_over(s);
        return;
    }
    turn(s);
}

static void on_agent(struct mt_source *src, int fd, uint32_t revents, void *arg)
{
    struct mt_gateway_session *s = arg;
    (void)src;
    if ((revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) && buf_pull(&s->from_agent, fd) < 0) {
        pass_down(s);
        if (s->from_agent.at == s->from_agent.len || client_room(s))
            end(s, "agent_unreachable", "the node's agent went away", 1000);
    }
    turn(s);
}

static void on_timer(struct mt_source *src, void *arg)
{
    struct mt_gateway_session *s = arg;
    (void)src;
    if (s->ended) { /* the client does not read its last bytes */
        session_over(s);
        return;
    }
    end(s, "revoked", "the session was revoked", 1000);
    turn(s);
}

void gw_revoke(struct mt_gateway_session *s)
{
    static const uint8_t body[] = "{\"type\":\"close\",\"reason\":\"revoked\"}";
    if (s->revoked || s->ended)
        return;
    s->revoked = true;
    if (buf_room(&s->to_agent) >= MT_EXEC_HEAD + sizeof body)
        to_agent(s, MT_EXEC_CONTROL, body, sizeof body - 1);
    mt_loop_timer_set(s->timer, mt_loop_now(s->g->loop) + REVOKE_NS);
    turn(s);
}

/* ---------------------------------------------------------------- begin */

int mt_gateway_prepare(struct mt_gateway *g, const struct mt_gateway_open *w, struct mt_gateway_session **ret, struct mt_err *err)
{
    struct mt_gateway_session *s = calloc(1, sizeof *s);
    pthread_mutex_lock(&g->mu);
    bool full = g->stopping || g->count >= MT_GATEWAY_SESSIONS_MAX;
    if (s && !full)
        g->count++;
    pthread_mutex_unlock(&g->mu);
    if (!s || full) {
        (void)close(w->agent_fd);
        free(s);
        return MT_FAIL(err, full ? MT_E_LIMIT : MT_E_NOMEM, "too many exec sessions on this server");
    }
    mt_list_init(&s->link);
    s->g = g;
    s->client = -1;
    s->agent = w->agent_fd;
    s->exit_code = -1;
    snprintf(s->id, sizeof s->id, "%s", w->session_id);
    snprintf(s->org_id, sizeof s->org_id, "%s", w->org_id);
    snprintf(s->app_id, sizeof s->app_id, "%s", w->app_id);
    snprintf(s->env_id, sizeof s->env_id, "%s", w->env_id);
    snprintf(s->instance_id, sizeof s->instance_id, "%s", w->instance_id);
    snprintf(s->reason, sizeof s->reason, "client_disconnect");
    if (buf_new(&s->from_client, IN_BYTES) < 0 || buf_new(&s->to_client, OUT_BYTES) < 0 ||
        buf_new(&s->from_agent, 2 * MT_EXEC_FRAME_MAX) < 0 || buf_new(&s->to_agent, 2 * MT_EXEC_FRAME_MAX) < 0) {
        mt_gateway_cancel(s);
        return MT_FAIL(err, MT_E_NOMEM, "exec session");
    }
    *ret = s;
    return 0;
}

void mt_gateway_cancel(void *session)
{
    struct mt_gateway_session *s = session;
    if (!s)
        return;
    struct mt_gateway *g = s->g;
    if (s->id[0])
        gw_append_ended(g, s); /* claimed, so that nobody else will end it */
    pthread_mutex_lock(&g->mu);
    g->count--;
    pthread_mutex_unlock(&g->mu);
    session_free(s);
}

static void begin(void *arg)
{
    struct mt_gateway_session *s = arg;
    struct mt_gateway *g = s->g;
    pthread_mutex_lock(&g->mu);
    mt_list_push_back(&g->sessions, &s->link);
    pthread_mutex_unlock(&g->mu);
    s->timer = mt_loop_timer(g->loop, "exec.end", on_timer, s, NULL);
    if (!s->timer)
        session_over(s);
    else
        turn(s);
}

void mt_gateway_start(struct mt_gateway_session *s, int fd, const void *early, size_t early_len)
{
    s->client = fd;
    pthread_mutex_lock(&s->g->mu);
    bool late = s->g->stopping;
    pthread_mutex_unlock(&s->g->mu);
    if (late || early_len > buf_room(&s->from_client) || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        mt_gateway_cancel(s);
        return;
    }
    if (early_len)
        buf_put(&s->from_client, early, early_len);
    if (mt_loop_post(s->g->loop, begin, s) < 0)
        mt_gateway_cancel(s);
}

static void *loop_main(void *arg)
{
    struct mt_gateway *g = arg;
    (void)pthread_setname_np(pthread_self(), "exec");
    (void)mt_loop_run(g->loop);
    return NULL;
}

int mt_gateway_new(struct mt_control *ctl, struct mt_gateway **ret, struct mt_err *err)
{
    struct mt_gateway *g = calloc(1, sizeof *g);
    if (!g)
        return MT_FAIL(err, MT_E_NOMEM, "exec gateway");
    g->ctl = ctl;
    pthread_mutex_init(&g->mu, NULL);
    mt_list_init(&g->sessions);
    mt_ulid_new(g->name);
    g->wake_fd = -1;
    g->loop = mt_loop_new(err);
    if (g->loop && gw_watch_start(g, err) == 0) {
        if (pthread_create(&g->thread, NULL, loop_main, g) == 0) {
            g->started = true;
            *ret = g;
            return 0;
        }
        (void)MT_FAIL(err, MT_E_NOMEM, "exec thread");
    }
    mt_gateway_free(g);
    return err && err->code ? -(int)err->code : -MT_E_NOMEM;
}

static void stop_all(void *arg)
{
    struct mt_gateway *g = arg;
    MT_LIST_EACH(n, &g->sessions) {
        struct mt_gateway_session *s = MT_CONTAINER(n, struct mt_gateway_session, link);
        end(s, "agent_unreachable", "the gateway ends", 1001);
        (void)buf_send(&s->to_client, s->client);
        session_over(s);
    }
    mt_loop_stop(g->loop, 0);
}

void mt_gateway_stop(struct mt_gateway *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->mu);
    g->stopping = true;
    pthread_mutex_unlock(&g->mu);
    gw_watch_stop(g);
    if (g->started && mt_loop_post(g->loop, stop_all, g) == 0)
        pthread_join(g->thread, NULL);
    g->started = false;
}

void mt_gateway_free(struct mt_gateway *g)
{
    if (!g)
        return;
    mt_gateway_stop(g);
    if (g->loop)
        mt_loop_free(g->loop);
    pthread_mutex_destroy(&g->mu);
    free(g);
}

const char *mt_gateway_name(const struct mt_gateway *g)
{
    return g->name;
}

unsigned mt_gateway_count(struct mt_gateway *g)
{
    pthread_mutex_lock(&g->mu);
    unsigned n = g->count;
    pthread_mutex_unlock(&g->mu);
    return n;
}
