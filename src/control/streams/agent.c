/* SPDX-License-Identifier: Apache-2.0 */
/* The agents' reading side, seen from the control plane. What an agent sends is checked like any input. */
#include "control/streams/agent.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "control/control.h"
#include "control/nodes/ca.h"
#include "model/ids.h"
#include "os/sock.h"
#include "os/tls_relay.h"
#include "wire/json.h"

#include <poll.h>
#include <sys/socket.h>

#define ANSWER_MAX (8u * 1024u * 1024u)
#define LINE_MAX_BYTES (256u * 1024u)
#define AGENT_PORT 5180 /* agent/remote.h; networking.md §5 */
#define AWAY_MAX 64
#define AWAY_NS (2 * MT_NS_PER_S)

struct mt_agents {
    char *socket_path;
    pthread_mutex_t mu;     /* what follows */
    struct mt_tls_ctx *tls; /* NULL: no agents of other machines */
    struct {
        char node_id[MT_ID_SIZE];
        int64_t until_ns;
    } away[AWAY_MAX];
    size_t next;
};

static const struct mt_pg_stmt where_is = {
    "agent_of_instance", "SELECT n.node_id, n.name, n.overlay_ipv6, n.cert_fingerprint = 'local', n.admin_state = 'disabled' FROM instances_view i"
                         " JOIN nodes_view n ON n.node_id = i.node_id AND NOT n.deleted WHERE i.instance_id = $1"};
/* A certificate that the database does not know is one of a database that was put back to an older point, as in nodes/node.c. */
static const struct mt_pg_stmt bad_certificate = {
    "agent_certificate", "SELECT 1 FROM moat.node_certs WHERE serial = $1 AND (revoked_at IS NOT NULL OR node_id <> $2)"};

/* Edges have certificates of the same authority; theirs are for no address, which is checked too. */
static int is_node(const struct mt_tls_peer *peer, void *arg, struct mt_err *err)
{
    (void)arg;
    if (strncmp(peer->uri, "moat://", 7) == 0 && strstr(peer->uri, "/node/"))
        return 0;
    return MT_FAIL(err, MT_E_DENIED, "what answers there is not a node's agent");
}

int mt_agents_follow(struct mt_agents *a, const struct mt_node_ca *ca, struct mt_err *err)
{
    const struct mt_tls_conf tc = {.min = MT_TLS_1_3, .cert_file = mt_node_ca_server_cert(ca), .key_file = mt_node_ca_server_key(ca),
                                   .ca_file = mt_node_ca_file(ca), .verify = is_node};
    struct mt_tls_ctx *fresh = NULL;
    int rc = mt_tls_ctx_new(&tc, &fresh, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&a->mu);
    struct mt_tls_ctx *before = a->tls;
    a->tls = fresh;
    pthread_mutex_unlock(&a->mu);
    mt_tls_ctx_unref(before);
    return 0;
}

int mt_agents_new(const char *socket_path, const struct mt_node_ca *ca, struct mt_agents **ret, struct mt_err *err)
{
    struct mt_agents *a = calloc(1, sizeof *a);
    int rc = 0;
    if (!a || (socket_path && !(a->socket_path = strdup(socket_path)))) {
        free(a);
        return MT_FAIL(err, MT_E_NOMEM, "agents");
    }
    pthread_mutex_init(&a->mu, NULL);
    if (ca)
        rc = mt_agents_follow(a, ca, err);
    if (rc < 0) {
        mt_agents_free(a);
        return rc;
    }
    *ret = a;
    return 0;
}

void mt_agents_free(struct mt_agents *a)
{
    if (!a)
        return;
    mt_tls_ctx_unref(a->tls);
    pthread_mutex_destroy(&a->mu);
    free(a->socket_path);
    free(a);
}

static bool is_away(struct mt_agents *a, const char *node_id)
{
    int64_t now = mt_clock_mono();
    bool found = false;
    pthread_mutex_lock(&a->mu);
    for (size_t i = 0; i < AWAY_MAX && !found; i++)
        found = a->away[i].until_ns > now && MT_STREQ(a->away[i].node_id, node_id);
    pthread_mutex_unlock(&a->mu);
    return found;
}

static void note_away(struct mt_agents *a, const char *node_id)
{
    pthread_mutex_lock(&a->mu);
    snprintf(a->away[a->next].node_id, sizeof a->away[0].node_id, "%s", node_id);
    a->away[a->next].until_ns = mt_clock_mono() + AWAY_NS;
    a->next = (a->next + 1) % AWAY_MAX;
    pthread_mutex_unlock(&a->mu);
}

/* Until the handshake is done or @until_ns. */
static int shake_hands(struct mt_tls *t, int fd, int64_t until_ns, struct mt_err *err)
{
    for (;;) {
        int rc = mt_tls_handshake(t, err);
        if (rc <= 0)
            return rc;
        int64_t left = (until_ns - mt_clock_mono()) / MT_NS_PER_MS;
        struct pollfd p = {.fd = fd, .events = rc == MT_TLS_WANT_WRITE ? POLLOUT : POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "no handshake in time");
    }
}

static int check_certificate(struct mt_pg *pg, const struct mt_tls *t, const char *node_id, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_tls_peer peer;
    struct mt_pg_params p;
    if (!mt_tls_peer(t, &peer))
        return MT_FAIL(err, MT_E_DENIED, "it shows no certificate");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, peer.serial);
    mt_pg_p_text(&p, node_id);
    int rc = mt_pg_query(pg, &bad_certificate, &p, &r, err);
    if (rc == 0 && mt_pg_rows(r))
        rc = MT_FAIL(err, MT_E_DENIED, "its certificate %s is revoked, or another node's", peer.serial);
    return rc;
}

/* The agent of another machine: the plain end of a relay of its own. */
static int dial(struct mt_agents *a, struct mt_pg *pg, const char *node_id, const char *overlay, int timeout_ms, int *ret_fd, struct mt_err *err)
{
    int64_t until = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    mt_auto_fd int fd = -1;
    struct mt_tls *t = NULL;
    int rc = mt_sock_tcp_connect(overlay, AGENT_PORT, until, -1, &fd, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&a->mu);
    struct mt_tls_ctx *ctx = mt_tls_ctx_ref(a->tls); /* another one may take its place meanwhile */
    pthread_mutex_unlock(&a->mu);
    rc = mt_tls_new(ctx, fd, overlay, &t, err);
    mt_tls_ctx_unref(ctx);
    if (rc < 0)
        return rc;
    if ((rc = shake_hands(t, fd, until, err)) < 0 || (rc = check_certificate(pg, t, node_id, err)) < 0) {
        mt_tls_free(t);
        return rc;
    }
    return mt_tls_relay_thread(t, MT_TAKE_FD(fd), ret_fd, err);
}

static int reach(struct mt_control *ctl, struct mt_pg *pg, const char *instance_id, int timeout_ms, int *ret_fd, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_agents *a = ctl->agents;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, instance_id);
    int rc = mt_pg_query_one(pg, &where_is, &p, &r, err);
    if (rc < 0)
        return rc == -MT_E_NOT_FOUND ? MT_FAIL(err, MT_E_NOT_FOUND, "the instance's node was removed") : rc;
    const char *node_id = mt_pg_text(r, 0, 0), *name = mt_pg_text(r, 0, 1);
    if (mt_pg_bool(r, 0, 3)) {
        if (!a->socket_path)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "this server knows no socket of an agent: agent_socket");
        rc = mt_sock_unix_connect(a->socket_path, ret_fd, err);
        return rc < 0 ? rc : mt_sock_timeout(*ret_fd, timeout_ms, err);
    }
    if (mt_pg_bool(r, 0, 4))
        return MT_FAIL(err, MT_E_DENIED, "node '%s' is disabled", name);
    if (!ctl->node_ca)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "this server has no node listener, so it cannot ask node '%s'", name);
    if (is_away(a, node_id))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "node '%s' did not answer a moment ago", name);
    rc = dial(a, pg, node_id, mt_pg_text(r, 0, 2), timeout_ms, ret_fd, err);
    if (rc < 0) {
        note_away(a, node_id);
        return mt_err_wrap(err, "node '%s'", name);
    }
    return 0;
}

/* A line is far less than what a socket's buffer takes; a relay's end does not block, and must take it within the time too. */
static int send_line(int fd, const char *line, size_t n, int timeout_ms, struct mt_err *err)
{
    int64_t until = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    for (size_t off = 0; off < n;) {
        ssize_t w = send(fd, line + off, n - off, MSG_NOSIGNAL);
        if (w > 0) {
            off += (size_t)w;
            continue;
        }
        if (w < 0 && errno == EINTR)
            continue;
        int64_t left = (until - mt_clock_mono()) / MT_NS_PER_MS;
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (w == 0 || errno != EAGAIN || left <= 0 || poll(&p, 1, (int)left) <= 0)
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "send to the agent");
    }
    return 0;
}

int mt_agent_open(struct mt_control *ctl, struct mt_pg *pg, const char *instance_id, json_t *request, int timeout_ms, int *ret_fd,
                  struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    mt_auto_free char *line = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!line)
        return MT_FAIL(err, MT_E_NOMEM, "agent request");
    int rc = reach(ctl, pg, instance_id, timeout_ms, &fd, err);
    if (rc < 0)
        return rc;
    size_t n = strlen(line);
    line[n] = '\n'; /* the NUL's place: the length says where the line ends */
    if ((rc = send_line(fd, line, n + 1, timeout_ms, err)) < 0 || (rc = mt_sock_nonblock(fd, true, err)) < 0)
        return rc;
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static int read_all(int fd, int timeout_ms, struct mt_buf *b, struct mt_err *err)
{
    int64_t until = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    for (;;) {
        int64_t left = (until - mt_clock_mono()) / MT_NS_PER_MS;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "the agent did not answer in time");
        char *room = mt_buf_reserve(b, 16384);
        if (!room)
            return MT_FAIL(err, MT_E_LIMIT, "the agent's answer is too long");
        ssize_t n = recv(fd, room, 16384, 0);
        if (n == 0)
            return 0;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "read from the agent");
        b->len += (size_t)n;
    }
}

int mt_agent_ask(struct mt_control *ctl, struct mt_pg *pg, const char *instance_id, json_t *request, int timeout_ms, json_t **ret,
                 struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(ANSWER_MAX);
    int rc = mt_agent_open(ctl, pg, instance_id, request, timeout_ms, &fd, err);
    if (rc < 0 || (rc = read_all(fd, timeout_ms, &b, err)) < 0)
        return rc;
    mt_auto_json json_t *list = json_array();
    const char *p = mt_buf_cstr(&b), *end = p + b.len;
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) : (size_t)(end - p);
        json_t *v = NULL;
        if (n) {
            if (mt_json_parse(p, n, LINE_MAX_BYTES, 16, &v, err) < 0)
                return MT_FAIL(err, MT_E_CORRUPT, "the agent sent a line that is not JSON");
            json_array_append_new(list, v);
        }
        p += n + 1;
    }
    *ret = json_incref(list);
    return 0;
}
