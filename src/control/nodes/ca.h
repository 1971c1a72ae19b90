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
 * authority's behind it; made anew when less than a third of its life is left). A switch that was cut is ended. -MT_E_CORRUPT when the files do not belong together.
 */
int mt_node_ca_open(const char *data_dir, struct mt_node_ca **ret, struct mt_err *err);
void mt_node_ca_free(struct mt_node_ca *ca);

/**
 * The rotation of the authority (networking.md §1.4). prepare makes another one, which is trusted and signs nothing: nodes learn to trust it.
 * switch makes it the one that signs, and the key of the one before is gone; that one is trusted until retire. abort gives a prepared one up.
 * Each step may be repeated and may be cut at any instruction; the files say where it stands: node-ca.key/.crt sign, node-ca-next.key/.crt are
 * prepared, node-ca-old.crt is replaced and trusted, node-ca-trust.crt is made of them.
 */
enum mt_node_ca_phase { MT_NODE_CA_STEADY = 0, MT_NODE_CA_PREPARED, MT_NODE_CA_SWITCHED };
/** "steady", "prepared", "switched". */
const char *mt_node_ca_phase_name(enum mt_node_ca_phase phase);
enum mt_node_ca_step { MT_NODE_CA_PREPARE = 0, MT_NODE_CA_ABORT, MT_NODE_CA_SWITCH, MT_NODE_CA_RETIRE, MT_NODE_CA_STEP_MAX };

struct mt_node_ca_about {
    enum mt_node_ca_phase phase;
    int64_t since_s; /* of the phase, Unix seconds; 0 when steady */
    char pin[65], key_id[41]; /* of the one that signs: SHA-256 of its public key, subject key identifier */
    int64_t ends_s;
    char other_pin[65], other_key_id[41]; /* of the prepared or replaced one; "" when steady */
    int64_t other_ends_s;
};
/** As it is now; the texts are good until mt_node_ca_free. */
const struct mt_node_ca_about *mt_node_ca_about(const struct mt_node_ca *ca);
/** Carry out a step. 0 also when it is done already; -MT_E_CONFLICT when another one comes first. Contexts are the caller's to make anew. */
int mt_node_ca_do(struct mt_node_ca *ca, enum mt_node_ca_step step, struct mt_err *err);
/** Read the files again when somebody has written them (another server of the folder), or the listener's certificate is near its end. Any thread. */
int mt_node_ca_reload(struct mt_node_ca *ca, struct mt_err *err);
/** 1 after mt_node_ca_open, one more with each change: contexts made of the files of another number are to be made anew. */
unsigned mt_node_ca_generation(const struct mt_node_ca *ca);

/** SHA-256 of the public key of the authority that signs, 64 hex digits: what an enrolment token pins. */
const char *mt_node_ca_pin(const struct mt_node_ca *ca);
/** When the authority's certificate ends, Unix seconds. */
int64_t mt_node_ca_ends_s(const struct mt_node_ca *ca);
/** All trusted authorities, PEM, the one that signs first; @ret_sha256 (may be NULL) of that text, hex. Good until mt_node_ca_free. */
const char *mt_node_ca_trust(const struct mt_node_ca *ca, const char **ret_sha256);
/** Paths of the listener's certificate chain and key, and of the trusted authorities' certificates. */
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
