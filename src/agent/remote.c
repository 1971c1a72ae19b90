/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/remote.h"

#include "agent/admin.h"
#include "agent/identity/identity.h"
#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "os/sock.h"
#include "os/tls_relay.h"

#include <arpa/inet.h>

enum { CONNS_MAX = 128, ACCEPTS_A_TURN = 16, HANDSHAKE_MS = 5000, RETRY_MS = 2000 };

struct conn {
    struct mt_list link;
    struct mt_remote *r;
    struct mt_tls_relay *relay;
};

struct mt_remote {
    struct mt_agent *a;
    struct in6_addr at;
    bool known; /* @at is one */
    int fd;
    struct mt_source *src, *timer;
    struct mt_list conns;
    unsigned n;
    struct mt_tls_ctx *ctx; /* of @generation; NULL: none made yet */
    unsigned generation;
    int64_t refusal_told_ns; /* a refused caller is told once a minute: it may call as often as it likes */
};

static void conn_free(struct conn *c)
{
    mt_list_remove(&c->link);
    c->r->n--;
    free(c);
}

static int ready(struct mt_tls_relay *relay, int plain_fd, const struct mt_tls_peer *peer, void *arg)
{
    struct conn *c = arg;
    (void)relay;
    (void)peer; /* looked at in the handshake */
    return mt_admin_take(c->r->a->admin, plain_fd);
}

static void closed(struct mt_tls_relay *relay, const struct mt_err *err, void *arg)
{
    struct conn *c = arg;
    struct mt_remote *r = c->r;
    int64_t now = mt_loop_now(r->a->loop);
    (void)relay;
    if (err && now - r->refusal_told_ns > 60 * MT_NS_PER_S) {
        r->refusal_told_ns = now;
        mt_log(MT_WARN, "remote.refused", KV_ERR(err), KV("mend", "only the cluster's control plane may ask this node"));
    }
    conn_free(c);
}

static void take(struct mt_remote *r, int fd)
{
    static const struct mt_tls_relay_ops ops = {.ready = ready, .closed = closed};
    struct mt_err err = {0};
    struct conn *c = r->n < CONNS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c || mt_identity_server(r->a->identity, &r->ctx, &r->generation, &err) < 0) {
        if (c)
            mt_log(MT_ERROR, "remote.no_certificate", KV_ERR(&err));
        free(c);
        (void)close(fd);
        return;
    }
    c->r = r;
    mt_list_push_back(&r->conns, &c->link);
    r->n++;
    if (mt_tls_relay_new(r->a->loop, r->ctx, fd, HANDSHAKE_MS, &ops, c, &c->relay, &err) < 0)
        conn_free(c);
}

static void on_accept(struct mt_source *s, int listen_fd, uint32_t revents, void *arg)
{
    struct mt_remote *r = arg;
    (void)s;
    (void)revents;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = -1;
        if (mt_sock_accept(listen_fd, &fd, NULL) != 1)
            return;
        take(r, fd);
    }
}

static void listen_now(struct mt_remote *r)
{
    char text[INET6_ADDRSTRLEN];
    struct mt_err err = {0};
    int rc = mt_sock_freebind_listen(&r->at, MT_REMOTE_PORT, &r->fd, &err);
    if (rc == 0 && !(r->src = mt_loop_fd(r->a->loop, "remote", r->fd, EPOLLIN, on_accept, r, &err)))
        rc = -MT_E_NOMEM;
    if (rc < 0) {
        mt_closep(&r->fd);
        mt_log(MT_ERROR, "remote.not_listening", KV_ERR(&err), KV("mend", "logs and exec of this node are not reachable until the port is free; tried again"));
        mt_loop_timer_after(r->timer, RETRY_MS);
        return;
    }
    mt_log(MT_INFO, "remote.listening", KV("address", inet_ntop(AF_INET6, &r->at, text, sizeof text)), KV("port", MT_REMOTE_PORT));
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_remote *r = arg;
    (void)s;
    if (r->known && !r->src)
        listen_now(r);
}

void mt_remote_at(struct mt_remote *r, const struct in6_addr *overlay)
{
    if (!r || (r->known && memcmp(&r->at, overlay, sizeof r->at) == 0))
        return;
    mt_loop_del(r->src);
    r->src = NULL;
    mt_closep(&r->fd);
    r->at = *overlay;
    r->known = true;
    listen_now(r);
}

struct mt_remote *mt_remote_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_remote *r = calloc(1, sizeof *r);
    if (r)
        r->timer = mt_loop_timer(a->loop, "remote", on_timer, r, err);
    if (!r || !r->timer) {
        free(r);
        (void)MT_FAIL(err, MT_E_NOMEM, "remote: out of memory");
        return NULL;
    }
    r->a = a;
    r->fd = -1;
    r->refusal_told_ns = INT64_MIN / 2;
    mt_list_init(&r->conns);
    return r;
}

void mt_remote_free(struct mt_remote *r)
{
    if (!r)
        return;
    MT_LIST_EACH(n, &r->conns) {
        struct conn *c = MT_CONTAINER(n, struct conn, link);
        mt_tls_relay_free(c->relay);
        conn_free(c);
    }
    mt_loop_del(r->src);
    mt_loop_del(r->timer);
    mt_closep(&r->fd);
    mt_tls_ctx_unref(r->ctx);
    free(r);
}
