/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How an edge reaches the control plane: through the Unix socket of the same machine, or as an edge of another node over TLS with the
 * certificate that the node's agent keeps in `keys_dir` (node.pem, ca.crt; docs/nodes.md). The agent renews it by replacing the file, so
 * the file is looked at before each request; an edge that starts before its first certificate waits for it.
 */
#pragma once

#include "edge/options.h"
#include "wire/http_client.h"

#include <pthread.h>
#include <sys/stat.h>

/** One client, of one thread. */
struct mt_edge_upstream {
    const struct mt_edge_options *opt;
    pthread_mutex_t *lock; /* of the owner: `client` appears under it, so that another thread may cancel */
    struct mt_http_client *client; /* NULL until there is a certificate */
    struct timespec made, trusted; /* of the files that the client's certificate and its authorities are of */
    ino_t ino, trust_ino;
};

/** @opt and @lock are borrowed. -MT_E_NOMEM. */
int mt_edge_upstream_init(struct mt_edge_upstream *u, const struct mt_edge_options *opt, pthread_mutex_t *lock, struct mt_err *err);
void mt_edge_upstream_done(struct mt_edge_upstream *u);
/** Before a request, by the thread that makes it: the newest certificate is used. -code while there has been none. */
int mt_edge_upstream_ready(struct mt_edge_upstream *u, struct mt_err *err);
/** From another thread, which holds the lock: end the running request. */
void mt_edge_upstream_cancel(struct mt_edge_upstream *u);
/** Where it is, for the log. */
const char *mt_edge_upstream_name(const struct mt_edge_options *o);
