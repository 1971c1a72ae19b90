/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificate authority for nodes (networking.md §1.4): one key of the cluster in the server's data folder, made when it is first
 * wanted. It signs what nodes and their edges show to the control plane, and the certificate of the control plane's own node listener.
 * Several servers of one cluster share the folder's files `node-ca.key` and `node-ca.crt`.
 */
#pragma once

#include "base/err.h"
#include "os/x509.h"

struct mt_node_ca;

enum mt_cert_kind { MT_CERT_NODE = 0, MT_CERT_EDGE, MT_CERT_KIND_MAX };

/** "node", "edge": also the word in the URI. */
const char *mt_cert_kind_name(enum mt_cert_kind kind);

/**
 * Open or make the authority of @data_dir, and a server certificate for the listener (`node-server.key`, `node-server.crt` with the
 * authority's behind it; made anew when less than a third of its life is left). -MT_E_CORRUPT when the files do not belong together.
 */
int mt_node_ca_open(const char *data_dir, struct mt_node_ca **ret, struct mt_err *err);
void mt_node_ca_free(struct mt_node_ca *ca);

/** SHA-256 of the authority's public key, 64 hex digits: what an enrolment token pins. */
const char *mt_node_ca_pin(const struct mt_node_ca *ca);
/** When the authority's certificate ends, Unix seconds. */
int64_t mt_node_ca_ends_s(const struct mt_node_ca *ca);
/** The authority's certificate, PEM. */
const char *mt_node_ca_pem(const struct mt_node_ca *ca);
/** Paths of the listener's certificate chain and key, and of the authority's certificate. */
const char *mt_node_ca_server_cert(const struct mt_node_ca *ca);
const char *mt_node_ca_server_key(const struct mt_node_ca *ca);
const char *mt_node_ca_file(const struct mt_node_ca *ca);

/** "moat://CLUSTER/node/NODE"; -MT_E_LIMIT. */
int mt_node_uri(const char *cluster_id, enum mt_cert_kind kind, const char *node_id, char ret[160], struct mt_err *err);
/** The same taken apart: false when @uri is not of that form and of @cluster_id. */
bool mt_node_uri_parse(const char *uri, const char *cluster_id, enum mt_cert_kind *ret_kind, char ret_node_id[40]);

/** Sign a request for @node_id. @overlay: address for the agent's own listener, NULL: none. Good for @days. */
int mt_node_ca_sign(const struct mt_node_ca *ca, const char *csr_pem, const char *cluster_id, enum mt_cert_kind kind, const char *node_id,
                    const char *overlay, unsigned days, char **ret_pem, struct mt_x509_cert *ret, struct mt_err *err);
