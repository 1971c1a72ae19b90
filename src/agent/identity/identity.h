/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who this node is towards the control plane on another machine (networking.md §1): the folder <data_dir>/keys, made by `moat-agent join`.
 *
 *   identity.json  node_id, cluster_id, name, control (host:port), edge; written last: without it the machine is no node
 *   node.pem       certificate and key, 0600; replaced as a whole by each renewal
 *   node.key       the key of a join under way
 *   ca.crt         the trusted authorities of the cluster's nodes: one, two while it is rotated
 *   wg.key         WireGuard private key, base64 and a line feed, 0600
 *   edge/          node.pem and ca.crt for the edge of this node, readable by its group
 *
 * Thread-safe.
 */
#pragma once

#include "base/err.h"
#include "wire/http_client.h"

#include <sys/types.h>

struct mt_identity;

/** -MT_E_NOT_FOUND: this machine has joined nothing. @control: host:port instead of the one it joined by; NULL. */
int mt_identity_load(const char *data_dir, const char *control, struct mt_identity **ret, struct mt_err *err);
void mt_identity_free(struct mt_identity *id);
const char *mt_identity_node_id(const struct mt_identity *id);
const char *mt_identity_cluster_id(const struct mt_identity *id);
const char *mt_identity_control(const struct mt_identity *id);

/** A client of the control plane with the present certificate. @ret_generation: for mt_identity_follow. */
struct mt_http_client *mt_identity_client(struct mt_identity *id, unsigned *ret_generation);
/** Before a request, by the thread that owns @c: use the renewed certificate when there is one. */
void mt_identity_follow(struct mt_identity *id, struct mt_http_client *c, unsigned *generation);

/**
 * What this node serves with: its certificate, and callers must show the one that the cluster's authority gave to its control plane.
 * @ctx       in: NULL or what a call before gave; out: the same, or a new one when the certificate was renewed since. The caller's to unref
 * Returns 0; or -code, *ctx then stays as it was.
 */
int mt_identity_server(struct mt_identity *id, struct mt_tls_ctx **ctx, unsigned *generation, struct mt_err *err);

/** SHA-256 of the authorities that this node trusts (keys/ca.crt), hex, into @ret. */
void mt_identity_trust(struct mt_identity *id, char ret[65]);
/**
 * What an answer to a heartbeat said of the authority (docs/api/internal.md): @trust, PEM, replaces what is trusted when it is not NULL: at least one
 * authority of it must be trusted already, so that nobody is cut off by mistake. @key_id (NULL: not said) is the one that signs: certificates of
 * another one are due for renewal. @ret_due: certificates have just become due. Writes files; -MT_E_INVALID, -MT_E_DENIED: all stays as it was.
 */
int mt_identity_authority(struct mt_identity *id, const char *trust, const char *key_id, bool *ret_due, struct mt_err *err);

/** Unix seconds when the certificate ends. */
int64_t mt_identity_not_after(struct mt_identity *id);
/**
 * Renew what is due: the node's certificate when less than a third of its life is left or another authority signs by now, the same for the edge's, and the edge's first one.
 * Blocks for the calls. Returns how many were renewed, or -code; nothing is lost by failing, ask again in an hour.
 */
int mt_identity_renew(struct mt_identity *id, const char *edge_user, struct mt_err *err);

struct mt_join {
    const char *data_dir;
    const char *control;   /* host:port */
    const char *token;     /* as `moat node token create` prints it: token, dot, pin of the authority */
    const char *name;      /* NULL: of the host name */
    const char *const *endpoints; /* underlay address:port of this machine's WireGuard */
    size_t n_endpoints;
    int64_t clock_unix_ms; /* 0: now; tests */
};
/** Become a node. Keys are made and on the disk before the first call, so that it can be repeated. @ret_text: what happened, for people;
 *  malloc'ed. -MT_E_CONFLICT: this machine is a node already. */
int mt_identity_join(const struct mt_join *j, char **ret_text, struct mt_err *err);
