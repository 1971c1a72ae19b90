/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/tls.h"

#include "base/log.h"
#include "base/str.h"
#include "control/nodes/ca.h"
#include "control/streams/agent.h"
#include "os/tls.h"

#define NODE_GRACE_S (14 * 24 * 3600) /* a certificate that expired is good for its own renewal */

int mt_nodes_tls_listener(const struct mt_control *ctl, struct mt_tls_ctx **ret, struct mt_err *err)
{
    const struct mt_tls_conf tc = {.server = true,
                                   .min = MT_TLS_1_3,
                                   .cert_file = mt_node_ca_server_cert(ctl->node_ca),
                                   .key_file = mt_node_ca_server_key(ctl->node_ca),
                                   .ca_file = mt_node_ca_file(ctl->node_ca),
                                   .expired_grace_s = NODE_GRACE_S};
    return mt_tls_ctx_new(&tc, ret, err);
}

/* Key and certificate of the listener are two files: read between the two writes of another server they do not belong together, and are read again. */
static int renew(struct mt_control *ctl, struct mt_err *err)
{
    struct mt_tls_ctx *ctx = NULL;
    int rc = mt_agents_follow(ctl->agents, ctl->node_ca, err);
    if (rc < 0 || (rc = mt_nodes_tls_listener(ctl, &ctx, err)) < 0)
        return rc;
    mt_http_server_set_tls(ctl->http, MT_LISTEN_NODES, ctx);
    mt_tls_ctx_unref(ctx);
    return 0;
}

void mt_nodes_tls_follow(struct mt_control *ctl)
{
    static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
    static unsigned used = 1; /* under one, with what follows; the generation that the contexts in use are of */
    static char said[240];
    struct mt_err err;
    if (!ctl->node_ca || !ctl->http)
        return;
    (void)pthread_mutex_lock(&one);
    int rc = mt_node_ca_reload(ctl->node_ca, &err);
    unsigned is = mt_node_ca_generation(ctl->node_ca);
    if (rc == 0 && is != used && (rc = renew(ctl, &err)) == 0) {
        used = is;
        said[0] = '\0';
        mt_log(MT_INFO, "node_ca.followed", KV("ca_pin", mt_node_ca_pin(ctl->node_ca)), KV("phase", mt_node_ca_phase_name(mt_node_ca_about(ctl->node_ca)->phase)));
    }
    if (rc < 0 && !MT_STREQ(said, err.msg)) {
        mt_log(MT_ERROR, "node_ca.not_followed", KV_ERR(&err), KV("mend", "the certificates before are in use; it is tried again every second"));
        (void)snprintf(said, sizeof said, "%s", err.msg);
    }
    (void)pthread_mutex_unlock(&one);
}
