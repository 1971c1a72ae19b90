/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/upstream.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/sock.h"
#include "os/tls.h"
#include "wire/node_call.h"

#define SERVER_NAME "moat-control" /* in the certificate of every node listener */

int mt_edge_upstream_init(struct mt_edge_upstream *u, const struct mt_edge_options *opt, pthread_mutex_t *lock, struct mt_err *err)
{
    *u = (struct mt_edge_upstream){.opt = opt, .lock = lock};
    if (!opt->control_socket)
        return 0;
    u->client = mt_http_client_new(opt->control_socket);
    if (!u->client)
        return MT_FAIL(err, MT_E_NOMEM, "client of the control plane");
    mt_node_call_says(u->client);
    return 0;
}

void mt_edge_upstream_done(struct mt_edge_upstream *u)
{
    mt_http_client_free(u->client);
    u->client = NULL;
}

void mt_edge_upstream_cancel(struct mt_edge_upstream *u)
{
    if (u->client)
        mt_http_client_cancel(u->client);
}

const char *mt_edge_upstream_name(const struct mt_edge_options *o)
{
    return o->control_socket ? o->control_socket : o->control_address;
}

/* The client that shows what is in @pem and @ca. */
static int use(struct mt_edge_upstream *u, const char *pem, const char *ca, struct mt_err *err)
{
    const struct mt_tls_conf conf = {.min = MT_TLS_1_3, .cert_file = pem, .key_file = pem, .ca_file = ca};
    struct mt_tls_ctx *ctx = NULL;
    char host[256];
    uint16_t port;
    int rc = mt_sock_split(u->opt->control_address, host, &port, err);
    if (rc < 0 || (rc = mt_tls_ctx_new(&conf, &ctx, err)) < 0)
        return rc;
    if (u->client) {
        mt_http_client_set_tls(u->client, ctx);
    } else {
        struct mt_http_client *c = mt_http_client_new_tls(host, port, ctx, SERVER_NAME);
        if (c)
            mt_node_call_says(c);
        (void)pthread_mutex_lock(u->lock);
        u->client = c;
        (void)pthread_mutex_unlock(u->lock);
        rc = c ? 0 : MT_FAIL(err, MT_E_NOMEM, "client of the control plane");
    }
    mt_tls_ctx_unref(ctx);
    return rc;
}

int mt_edge_upstream_ready(struct mt_edge_upstream *u, struct mt_err *err)
{
    struct stat st, trust = {0};
    if (u->opt->control_socket)
        return 0;
    mt_auto_free char *pem = mt_asprintf("%s/node.pem", u->opt->keys_dir);
    mt_auto_free char *ca = mt_asprintf("%s/ca.crt", u->opt->keys_dir);
    if (!pem || !ca)
        return MT_FAIL(err, MT_E_NOMEM, "the edge's certificate");
    int rc = stat(pem, &st) < 0 ? MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "no certificate of this edge yet: '%s'", pem) : 0;
    (void)stat(ca, &trust);
    if (rc == 0 && u->client && st.st_ino == u->ino && st.st_mtim.tv_sec == u->made.tv_sec && st.st_mtim.tv_nsec == u->made.tv_nsec &&
        trust.st_ino == u->trust_ino && trust.st_mtim.tv_sec == u->trusted.tv_sec && trust.st_mtim.tv_nsec == u->trusted.tv_nsec)
        return 0;
    if (rc == 0 && (rc = use(u, pem, ca, err)) == 0) {
        u->ino = st.st_ino;
        u->made = st.st_mtim;
        u->trust_ino = trust.st_ino;
        u->trusted = trust.st_mtim;
        return 0;
    }
    if (!u->client)
        return rc;
    mt_log(MT_WARN, "edge.certificate_unusable", KV_ERR(err), KV("mend", "the one in use serves until it ends; moat-agent must run and be able to write it"));
    return 0;
}
