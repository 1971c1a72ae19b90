/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/ca.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"

#include <fcntl.h>
#include <sys/file.h>

#define DAY_S (24 * 3600)
#define CA_DAYS 3650
#define SERVER_DAYS 90
/* A node whose clock is a little behind must not find a certificate of the future. */
#define BACKDATE_S 3600

struct mt_node_ca {
    char *key, *cert;                          /* PEM */
    char *ca_path, *server_cert, *server_key;  /* paths */
    char pin[65];
    int64_t ends_s; /* Unix seconds */
};

const char *mt_cert_kind_name(enum mt_cert_kind kind)
{
    MT_ASSERT(kind < MT_CERT_KIND_MAX);
    return kind == MT_CERT_NODE ? "node" : "edge";
}

void mt_node_ca_free(struct mt_node_ca *ca)
{
    if (!ca)
        return;
    if (ca->key)
        explicit_bzero(ca->key, strlen(ca->key));
    free(ca->key);
    free(ca->cert);
    free(ca->ca_path);
    free(ca->server_cert);
    free(ca->server_key);
    free(ca);
}

static void ca_freep(struct mt_node_ca **ca)
{
    mt_node_ca_free(*ca);
}

const char *mt_node_ca_pin(const struct mt_node_ca *ca)
{
    return ca->pin;
}

int64_t mt_node_ca_ends_s(const struct mt_node_ca *ca)
{
    return ca->ends_s;
}

const char *mt_node_ca_pem(const struct mt_node_ca *ca)
{
    return ca->cert;
}

const char *mt_node_ca_server_cert(const struct mt_node_ca *ca)
{
    return ca->server_cert;
}

const char *mt_node_ca_server_key(const struct mt_node_ca *ca)
{
    return ca->server_key;
}

const char *mt_node_ca_file(const struct mt_node_ca *ca)
{
    return ca->ca_path;
}

static int64_t now_s(void)
{
    return mt_clock_wall_us() / 1000000;
}

/* A text file of ours; -MT_E_NOT_FOUND when it is not there. */
static int load(const char *path, char **ret, struct mt_err *err)
{
    size_t n = 0;
    int rc = mt_file_read(path, MT_X509_PEM_MAX, ret, &n, err);
    return rc < 0 ? rc : strlen(*ret) == n ? 0 : MT_FAIL(err, MT_E_CORRUPT, "'%s' holds a NUL byte", path);
}

static int make_authority(struct mt_node_ca *ca, const char *key_path, struct mt_err *err)
{
    char ulid[MT_ULID_SIZE], cn[48];
    mt_ulid_new(ulid);
    snprintf(cn, sizeof cn, "moat nodes %s", ulid);
    int rc = mt_x509_ca_new(cn, now_s() - BACKDATE_S, now_s() + (int64_t)CA_DAYS * DAY_S, &ca->key, &ca->cert, err);
    /* the certificate first: a key without one is made again, a certificate without its key would be a riddle */
    if (rc == 0 && (rc = mt_file_write(ca->ca_path, ca->cert, strlen(ca->cert), 0644, err)) == 0)
        rc = mt_file_write(key_path, ca->key, strlen(ca->key), 0600, err);
    if (rc == 0)
        mt_log(MT_INFO, "node_ca.made", KV("file", (const char *)key_path));
    return rc;
}

static int open_authority(struct mt_node_ca *ca, const char *data_dir, struct mt_err *err)
{
    mt_auto_free char *key_path = mt_asprintf("%s/node-ca.key", data_dir);
    struct mt_x509_cert about;
    if (!key_path)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    int rc = load(key_path, &ca->key, err);
    if (rc == -MT_E_NOT_FOUND)
        rc = make_authority(ca, key_path, err);
    else if (rc == 0)
        rc = load(ca->ca_path, &ca->cert, err);
    if (rc == 0 && !mt_x509_belongs(ca->key, ca->cert))
        rc = MT_FAIL(err, MT_E_CORRUPT, "'%s' is not the key of '%s': put back the files that belong together", key_path, ca->ca_path);
    if (rc == 0 && (rc = mt_x509_read(ca->cert, &about, err)) == 0) {
        snprintf(ca->pin, sizeof ca->pin, "%s", about.spki_sha256);
        ca->ends_s = about.not_after_s;
    }
    return rc;
}

/* True while the listener's certificate is ours, has its key, and a third of its life is left. */
static bool server_good(const struct mt_node_ca *ca)
{
    mt_auto_free char *key = NULL;
    mt_auto_free char *chain = NULL;
    struct mt_x509_cert about;
    struct mt_err ignored;
    bool good = load(ca->server_key, &key, &ignored) == 0 && load(ca->server_cert, &chain, &ignored) == 0 && mt_x509_belongs(key, chain) &&
                mt_x509_read(chain, &about, &ignored) == 0 && strstr(chain, ca->cert) != NULL &&
                about.not_after_s - now_s() > SERVER_DAYS * DAY_S / 3;
    if (key)
        explicit_bzero(key, strlen(key));
    return good;
}

static int make_server(struct mt_node_ca *ca, struct mt_err *err)
{
    mt_auto_free char *key = NULL;
    mt_auto_free char *csr = NULL;
    mt_auto_free char *pem = NULL;
    mt_auto_free char *chain = NULL;
    const struct mt_x509_spec spec = {.cn = "moat-control",
                                      .dns = "moat-control",
                                      .not_before_s = now_s() - BACKDATE_S,
                                      .not_after_s = now_s() + (int64_t)SERVER_DAYS * DAY_S,
                                      .server = true,
                                      .client = true}; /* and when it calls an agent */
    int rc = mt_x509_key_new(&key, err);
    if (rc == 0 && (rc = mt_x509_csr_new(key, "moat-control", &csr, err)) == 0)
        rc = mt_x509_sign(ca->key, ca->cert, csr, &spec, &pem, NULL, err);
    if (rc == 0 && !(chain = mt_asprintf("%s%s", pem, ca->cert)))
        rc = MT_FAIL(err, MT_E_NOMEM, "server certificate");
    if (rc == 0 && (rc = mt_file_write(ca->server_key, key, strlen(key), 0600, err)) == 0)
        rc = mt_file_write(ca->server_cert, chain, strlen(chain), 0644, err);
    if (key)
        explicit_bzero(key, strlen(key));
    return rc;
}

int mt_node_ca_open(const char *data_dir, struct mt_node_ca **ret, struct mt_err *err)
{
    mt_cleanup(ca_freep) struct mt_node_ca *ca = calloc(1, sizeof *ca);
    mt_auto_free char *lock_path = mt_asprintf("%s/node-ca.lock", data_dir);
    if (!ca || !lock_path || !(ca->ca_path = mt_asprintf("%s/node-ca.crt", data_dir)) ||
        !(ca->server_cert = mt_asprintf("%s/node-server.crt", data_dir)) || !(ca->server_key = mt_asprintf("%s/node-server.key", data_dir)))
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    mt_auto_fd int lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) < 0) /* servers that share the folder make it once */
        return MT_FAIL_ERRNO(err, MT_E_IO, "lock '%s'", lock_path);
    int rc = open_authority(ca, data_dir, err);
    if (rc == 0 && !server_good(ca))
        rc = make_server(ca, err);
    if (rc < 0)
        return rc;
    *ret = MT_TAKE(ca);
    return 0;
}

int mt_node_uri(const char *cluster_id, enum mt_cert_kind kind, const char *node_id, char ret[160], struct mt_err *err)
{
    return mt_fmt(ret, 160, err, "moat://%s/%s/%s", cluster_id, mt_cert_kind_name(kind), node_id);
}

bool mt_node_uri_parse(const char *uri, const char *cluster_id, enum mt_cert_kind *ret_kind, char ret_node_id[40])
{
    size_t n = strlen(cluster_id);
    if (n == 0 || strncmp(uri, "moat://", 7) != 0 || strncmp(uri + 7, cluster_id, n) != 0)
        return false;
    const char *rest = uri + 7 + n;
    for (int k = 0; k < MT_CERT_KIND_MAX; k++) {
        char middle[16];
        int m = snprintf(middle, sizeof middle, "/%s/", mt_cert_kind_name((enum mt_cert_kind)k));
        if (strncmp(rest, middle, (size_t)m) != 0 || mt_id_check(MT_ID_NODE, rest + m, NULL) < 0)
            continue;
        *ret_kind = (enum mt_cert_kind)k;
        snprintf(ret_node_id, 40, "%s", rest + m);
        return true;
    }
    return false;
}

int mt_node_ca_sign(const struct mt_node_ca *ca, const char *csr_pem, const char *cluster_id, enum mt_cert_kind kind, const char *node_id,
                    const char *overlay, unsigned days, char **ret_pem, struct mt_x509_cert *ret, struct mt_err *err)
{
    char uri[160];
    int rc = mt_node_uri(cluster_id, kind, node_id, uri, err);
    const struct mt_x509_spec spec = {.cn = node_id,
                                      .uri = uri,
                                      .ip = kind == MT_CERT_NODE ? overlay : NULL,
                                      .not_before_s = now_s() - BACKDATE_S,
                                      .not_after_s = now_s() + (int64_t)days * DAY_S,
                                      .client = true,
                                      .server = kind == MT_CERT_NODE};
    return rc < 0 ? rc : mt_x509_sign(ca->key, ca->cert, csr_pem, &spec, ret_pem, ret, err);
}
