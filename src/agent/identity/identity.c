/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/identity/files.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/sock.h"
#include "os/x509.h"
#include "wire/json.h"
#include "wire/node_call.h"

#include <pthread.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRUST_MAX 4 /* authorities in one text: one, two while it is rotated */

struct mt_identity {
    char *data_dir, *control, *pem_path, *ca_path;
    char node_id[MT_ID_SIZE], cluster_id[64], host[256];
    uint16_t port;
    bool edge;
    pthread_mutex_t files; /* one at a time makes a context of the files: the last one made is of the newest */
    pthread_mutex_t mu; /* what follows; inside of files */
    struct mt_tls_ctx *ctx;
    unsigned generation;
    char trust[65];  /* SHA-256 of ca.crt */
    char signer[41]; /* key id of the authority that signs, as the control plane said; "": it has not */
};

void mt_identity_free(struct mt_identity *id)
{
    if (!id)
        return;
    mt_tls_ctx_unref(id->ctx);
    pthread_mutex_destroy(&id->mu);
    pthread_mutex_destroy(&id->files);
    free(id->data_dir);
    free(id->control);
    free(id->pem_path);
    free(id->ca_path);
    free(id);
}

static void identity_freep(struct mt_identity **id)
{
    mt_identity_free(*id);
}

static int make_ctx(const struct mt_identity *id, struct mt_tls_ctx **ret, struct mt_err *err)
{
    const struct mt_tls_conf conf = {.min = MT_TLS_1_3, .cert_file = id->pem_path, .key_file = id->pem_path, .ca_file = id->ca_path};
    return mt_tls_ctx_new(&conf, ret, err);
}

int mt_identity_load(const char *data_dir, const char *control, struct mt_identity **ret, struct mt_err *err)
{
    mt_auto_free char *path = mt_id_path(data_dir, "identity.json");
    mt_auto_free char *text = NULL;
    mt_auto_free char *ca = NULL;
    mt_auto_json json_t *doc = NULL;
    const char *node, *cluster, *at;
    if (!path)
        return MT_FAIL(err, MT_E_NOMEM, "identity");
    int rc = mt_id_read(path, &text, err);
    if (rc < 0)
        return rc;
    mt_cleanup(identity_freep) struct mt_identity *id = calloc(1, sizeof *id);
    if (!id)
        return MT_FAIL(err, MT_E_NOMEM, "identity");
    (void)pthread_mutex_init(&id->mu, NULL);
    (void)pthread_mutex_init(&id->files, NULL);
    if ((rc = mt_json_parse(text, strlen(text), ID_TEXT_MAX, 4, &doc, err)) < 0 || (rc = mt_json_get_str(doc, "node_id", MT_ID_SIZE, &node, err)) < 0 ||
        (rc = mt_id_check(MT_ID_NODE, node, err)) < 0 || (rc = mt_json_get_str(doc, "cluster_id", 63, &cluster, err)) < 0 ||
        (rc = mt_json_get_str(doc, "control", 260, &at, err)) < 0 || (rc = mt_json_opt_bool(doc, "edge", false, &id->edge, err)) < 0)
        return mt_err_wrap(err, "'%s'", path);
    id->data_dir = strdup(data_dir);
    id->control = strdup(control ? control : at);
    id->pem_path = mt_id_path(data_dir, "node.pem");
    id->ca_path = mt_id_path(data_dir, "ca.crt");
    (void)snprintf(id->node_id, sizeof id->node_id, "%s", node);
    (void)snprintf(id->cluster_id, sizeof id->cluster_id, "%s", cluster);
    if (!id->data_dir || !id->control || !id->pem_path || !id->ca_path)
        return MT_FAIL(err, MT_E_NOMEM, "identity");
    if ((rc = mt_sock_split(id->control, id->host, &id->port, err)) < 0 || (rc = make_ctx(id, &id->ctx, err)) < 0 ||
        (rc = mt_id_read(id->ca_path, &ca, err)) < 0)
        return rc;
    mt_sha256_hex(ca, strlen(ca), id->trust);
    *ret = MT_TAKE(id);
    return 0;
}

const char *mt_identity_node_id(const struct mt_identity *id)
{
    return id->node_id;
}

const char *mt_identity_cluster_id(const struct mt_identity *id)
{
    return id->cluster_id;
}

const char *mt_identity_control(const struct mt_identity *id)
{
    return id->control;
}

struct mt_http_client *mt_identity_client(struct mt_identity *id, unsigned *ret_generation)
{
    (void)pthread_mutex_lock(&id->mu);
    struct mt_http_client *c = mt_http_client_new_tls(id->host, id->port, id->ctx, "moat-control");
    *ret_generation = id->generation;
    (void)pthread_mutex_unlock(&id->mu);
    if (c)
        mt_node_call_says(c);
    return c;
}

void mt_identity_follow(struct mt_identity *id, struct mt_http_client *c, unsigned *generation)
{
    (void)pthread_mutex_lock(&id->mu);
    if (*generation != id->generation) {
        mt_http_client_set_tls(c, id->ctx);
        *generation = id->generation;
    }
    (void)pthread_mutex_unlock(&id->mu);
}

/* The authority signs two kinds of certificates: for nodes and their edges, which carry a URI, and the control plane's own. */
static int is_control(const struct mt_tls_peer *peer, void *arg, struct mt_err *err)
{
    (void)arg;
    if (MT_STREQ(peer->cn, "moat-control") && peer->uri[0] == '\0')
        return 0;
    return MT_FAIL(err, MT_E_DENIED, "the caller's certificate is for '%s', not for the control plane", peer->cn);
}

int mt_identity_server(struct mt_identity *id, struct mt_tls_ctx **ctx, unsigned *generation, struct mt_err *err)
{
    const struct mt_tls_conf conf = {.server = true, .min = MT_TLS_1_3, .cert_file = id->pem_path, .key_file = id->pem_path, .ca_file = id->ca_path,
                                     .peer_required = true, .verify = is_control};
    struct mt_tls_ctx *fresh = NULL;
    (void)pthread_mutex_lock(&id->mu);
    unsigned now = id->generation;
    (void)pthread_mutex_unlock(&id->mu);
    if (*ctx && *generation == now)
        return 0;
    int rc = mt_tls_ctx_new(&conf, &fresh, err);
    if (rc < 0)
        return rc;
    mt_tls_ctx_unref(*ctx);
    *ctx = fresh;
    *generation = now;
    return 0;
}

int64_t mt_identity_not_after(struct mt_identity *id)
{
    (void)pthread_mutex_lock(&id->mu);
    int64_t at = mt_tls_ctx_not_after(id->ctx);
    (void)pthread_mutex_unlock(&id->mu);
    return at;
}

/* ---------------------------------------------------------------- renewal */

static void signer_of(struct mt_identity *id, char ret[41])
{
    (void)pthread_mutex_lock(&id->mu);
    memcpy(ret, id->signer, sizeof id->signer);
    (void)pthread_mutex_unlock(&id->mu);
}

/* True when the certificate in @path is not there, not ours to use, near its end, or of an authority that has been replaced. */
static bool due(struct mt_identity *id, const char *path)
{
    mt_auto_free char *text = NULL;
    struct mt_x509_cert about;
    struct mt_err ignored;
    char signer[41];
    signer_of(id, signer);
    if (mt_id_read(path, &text, &ignored) < 0 || mt_x509_read(text, &about, &ignored) < 0)
        return true;
    explicit_bzero(text, strlen(text));
    if (*signer && !MT_STREQ(signer, about.issuer_key_id))
        return true;
    int64_t now = mt_clock_wall_us() / 1000000;
    return (about.not_after_s - now) * 3 < about.not_after_s - about.not_before_s;
}

/* A new key, a new certificate, into @path. */
static int renew(struct mt_identity *id, const char *kind, const char *path, gid_t gid, struct mt_err *err)
{
    mt_auto_free char *key = NULL;
    mt_auto_free char *csr = NULL;
    mt_auto_json json_t *doc = NULL;
    const char *cert;
    unsigned generation;
    struct mt_x509_cert about;
    char signer[41];
    struct mt_http_client *c = mt_identity_client(id, &generation);
    int rc = c ? mt_x509_key_new(&key, err) : MT_FAIL(err, MT_E_NOMEM, "renewal");
    if (rc == 0 && (rc = mt_x509_csr_new(key, id->node_id, &csr, err)) == 0 &&
        (rc = mt_id_post(c, "/internal/v1/nodes/self/cert", json_pack("{s:s,s:s}", "csr", csr, "kind", kind), &doc, err)) == 0 &&
        (rc = mt_json_get_str(doc, "certificate", MT_X509_PEM_MAX, &cert, err)) == 0 && (rc = mt_x509_read(cert, &about, err)) == 0) {
        signer_of(id, signer);
        if (!mt_x509_belongs(key, cert))
            rc = MT_FAIL(err, MT_E_CORRUPT, "the new certificate is for another key");
        else if (*signer && !MT_STREQ(signer, about.issuer_key_id)) /* a server that has not heard of its new authority yet */
            rc = MT_FAIL(err, MT_E_UNAVAILABLE, "the new certificate is not of the authority that signs by now");
        else
            rc = mt_id_write_pem(path, cert, key, gid, err);
    }
    mt_http_client_free(c);
    if (key)
        explicit_bzero(key, strlen(key));
    if (rc == 0)
        mt_log(MT_INFO, "identity.renewed", KV("kind", kind), KV("file", path));
    return rc;
}

/* The files have changed: connections from now on use what they say. */
static int use_files(struct mt_identity *id, struct mt_err *err)
{
    struct mt_tls_ctx *fresh = NULL, *before = NULL;
    (void)pthread_mutex_lock(&id->files); /* certificate and authorities may be written by two threads at once */
    int rc = make_ctx(id, &fresh, err);
    if (rc == 0) {
        (void)pthread_mutex_lock(&id->mu);
        before = id->ctx;
        id->ctx = fresh;
        id->generation++;
        (void)pthread_mutex_unlock(&id->mu);
    }
    (void)pthread_mutex_unlock(&id->files);
    mt_tls_ctx_unref(before);
    return rc;
}

static int renew_own(struct mt_identity *id, struct mt_err *err)
{
    int rc = renew(id, "node", id->pem_path, (gid_t)-1, err);
    return rc < 0 ? rc : use_files(id, err);
}

/* What the edge trusts is what the agent trusts. */
static int trust_edge(struct mt_identity *id, struct mt_err *err)
{
    mt_auto_free char *ca = mt_id_path(id->data_dir, "edge/ca.crt");
    mt_auto_free char *text = NULL;
    mt_auto_free char *have = NULL;
    struct mt_err ignored;
    if (!ca)
        return MT_FAIL(err, MT_E_NOMEM, "edge's certificate");
    int rc = mt_id_read(id->ca_path, &text, err);
    if (rc < 0 || (mt_id_read(ca, &have, &ignored) == 0 && MT_STREQ(have, text)))
        return rc;
    return mt_file_write(ca, text, strlen(text), 0644, err);
}

/* The edge is another user: it gets a certificate of its own in a folder that its group may read. */
static int renew_edge(struct mt_identity *id, const char *edge_user, struct mt_err *err)
{
    char buf[4096];
    struct passwd pw, *found = NULL;
    mt_auto_free char *dir = mt_id_path(id->data_dir, "edge");
    mt_auto_free char *pem = mt_id_path(id->data_dir, "edge/node.pem");
    mt_auto_free char *keys = mt_id_path(id->data_dir, "");
    int rc;
    if (!dir || !pem || !keys)
        return MT_FAIL(err, MT_E_NOMEM, "edge's certificate");
    if (!due(id, pem))
        return trust_edge(id, err);
    if (getpwnam_r(edge_user, &pw, buf, sizeof buf, &found) != 0 || !found)
        return MT_FAIL(err, MT_E_NOT_FOUND, "there is no user '%s' for the edge", edge_user);
    if ((rc = mt_file_mkdirs(dir, 0750, err)) < 0 || (rc = trust_edge(id, err)) < 0)
        return rc;
    /* the folder of the keys may be walked through, not read; what lies in it is 0600 */
    if (chmod(keys, 0711) < 0 || chown(dir, (uid_t)-1, pw.pw_gid) < 0 || chmod(dir, 0750) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "folder '%s'", dir);
    rc = renew(id, "edge", pem, pw.pw_gid, err);
    return rc < 0 ? rc : 1;
}

int mt_identity_renew(struct mt_identity *id, const char *edge_user, struct mt_err *err)
{
    int n = 0, rc;
    if (due(id, id->pem_path)) {
        if ((rc = renew_own(id, err)) < 0)
            return rc;
        n++;
    }
    if (!id->edge)
        return n;
    rc = renew_edge(id, edge_user, err);
    return rc < 0 ? rc : n + rc;
}

/* ---------------------------------------------------------------- rotation of the authority */

void mt_identity_trust(struct mt_identity *id, char ret[65])
{
    (void)pthread_mutex_lock(&id->mu);
    memcpy(ret, id->trust, sizeof id->trust);
    (void)pthread_mutex_unlock(&id->mu);
}

/* One of the new authorities is trusted already: the control plane that said so was, and must go on being. */
static int continues(const char *was, const char *is, struct mt_err *err)
{
    struct mt_x509_cert a[TRUST_MAX], b[TRUST_MAX];
    int n = mt_x509_read_all(was, a, TRUST_MAX, err), m = n < 0 ? n : mt_x509_read_all(is, b, TRUST_MAX, err);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < m; k++)
            if (MT_STREQ(a[i].spki_sha256, b[k].spki_sha256))
                return 0;
    return m < 0 ? m : MT_FAIL(err, MT_E_DENIED, "none of the authorities that are to be trusted is one that is");
}

static int take_trust(struct mt_identity *id, const char *trust, struct mt_err *err)
{
    mt_auto_free char *was = NULL;
    mt_auto_free char *edge = mt_id_path(id->data_dir, "edge/ca.crt");
    int rc = edge ? mt_id_read(id->ca_path, &was, err) : MT_FAIL(err, MT_E_NOMEM, "authorities");
    if (rc < 0 || (rc = continues(was, trust, err)) < 0 || (rc = mt_file_write(id->ca_path, trust, strlen(trust), 0644, err)) < 0)
        return rc;
    if ((rc = use_files(id, err)) < 0) { /* what TLS cannot use is not kept */
        struct mt_err ignored;
        (void)mt_file_write(id->ca_path, was, strlen(was), 0644, &ignored);
        return rc;
    }
    (void)pthread_mutex_lock(&id->mu);
    mt_sha256_hex(trust, strlen(trust), id->trust);
    (void)pthread_mutex_unlock(&id->mu);
    mt_log(MT_INFO, "identity.trusts", KV("ca_trust", (const char *)id->trust));
    return id->edge && access(edge, F_OK) == 0 ? trust_edge(id, err) : 0;
}

int mt_identity_authority(struct mt_identity *id, const char *trust, const char *key_id, bool *ret_due, struct mt_err *err)
{
    int rc = 0;
    *ret_due = false;
    if (trust && strlen(trust) >= MT_X509_PEM_MAX)
        return MT_FAIL(err, MT_E_INVALID, "the authorities to trust are more than %d bytes", MT_X509_PEM_MAX);
    if (trust && (rc = take_trust(id, trust, err)) < 0)
        return rc;
    if (!key_id || !*key_id || strlen(key_id) >= sizeof id->signer || strspn(key_id, "0123456789abcdef") != strlen(key_id))
        return 0;
    (void)pthread_mutex_lock(&id->mu);
    bool other = !MT_STREQ(id->signer, key_id);
    memcpy(id->signer, key_id, strlen(key_id) + 1); /* it fits: asked above */
    (void)pthread_mutex_unlock(&id->mu);
    *ret_due = other && due(id, id->pem_path);
    return 0;
}
