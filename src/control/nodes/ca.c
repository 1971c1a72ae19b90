/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/ca.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/digest.h"
#include "os/file.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAY_S (24 * 3600)
#define CA_DAYS 3650
#define SERVER_DAYS 90
/* A node whose clock is a little behind must not find a certificate of the future. */
#define BACKDATE_S 3600

/* What the files said at one moment. Never changes and stays until the end: whoever reads holds texts of it, and there are as many as changes. */
struct set {
    struct set *next;
    char *key, *cert; /* PEM of the authority that signs */
    char *other;      /* of the prepared or the replaced one, NULL: none */
    char *trust;      /* of all that are trusted, the one that signs first */
    char trust_sha256[MT_SHA256_HEX];
    struct mt_node_ca_about about;
    time_t server_made; /* of the listener's certificate */
    long server_made_ns;
};

struct mt_node_ca {
    char *dir;
    char *trust_path, *server_cert, *server_key;
    pthread_mutex_t mu;       /* one reload or step at a time in this process; between processes it is the lock file */
    _Atomic(struct set *) now;
    atomic_uint generation;
    struct set *all;          /* under mu */
    struct timespec looked[5]; /* under mu: times of the files that the present set is of */
    int64_t looked_s;
};

static const char *const watched[5] = {"node-ca.crt", "node-ca-next.key", "node-ca-old.crt", "node-server.crt", "node-ca.key"};

const char *mt_cert_kind_name(enum mt_cert_kind kind)
{
    MT_ASSERT(kind < MT_CERT_KIND_MAX);
    return kind == MT_CERT_NODE ? "node" : "edge";
}

const char *mt_node_ca_phase_name(enum mt_node_ca_phase phase)
{
    return phase == MT_NODE_CA_STEADY ? "steady" : phase == MT_NODE_CA_PREPARED ? "prepared" : "switched";
}

static void set_free(struct set *s)
{
    if (!s)
        return;
    if (s->key)
        explicit_bzero(s->key, strlen(s->key));
    free(s->key);
    free(s->cert);
    free(s->other);
    free(s->trust);
    free(s);
}

static void set_freep(struct set **s)
{
    set_free(*s);
}

void mt_node_ca_free(struct mt_node_ca *ca)
{
    if (!ca)
        return;
    for (struct set *s = ca->all, *next; s; s = next) {
        next = s->next;
        set_free(s);
    }
    pthread_mutex_destroy(&ca->mu);
    free(ca->dir);
    free(ca->trust_path);
    free(ca->server_cert);
    free(ca->server_key);
    free(ca);
}

static void ca_freep(struct mt_node_ca **ca)
{
    mt_node_ca_free(*ca);
}

static const struct set *now(const struct mt_node_ca *ca)
{
    return atomic_load(&((struct mt_node_ca *)(uintptr_t)ca)->now);
}

const char *mt_node_ca_pin(const struct mt_node_ca *ca)
{
    return now(ca)->about.pin;
}

int64_t mt_node_ca_ends_s(const struct mt_node_ca *ca)
{
    return now(ca)->about.ends_s;
}

const char *mt_node_ca_trust(const struct mt_node_ca *ca, const char **ret_sha256)
{
    const struct set *s = now(ca);
    if (ret_sha256)
        *ret_sha256 = s->trust_sha256;
    return s->trust;
}

const struct mt_node_ca_about *mt_node_ca_about(const struct mt_node_ca *ca)
{
    return &now(ca)->about;
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
    return ca->trust_path;
}

static int64_t now_s(void)
{
    return mt_clock_wall_us() / 1000000;
}

static char *path_of(const struct mt_node_ca *ca, const char *name)
{
    return mt_asprintf("%s/%s", ca->dir, name);
}

/* A text file of ours; -MT_E_NOT_FOUND when it is not there. */
static int load(const char *path, char **ret, struct mt_err *err)
{
    size_t n = 0;
    int rc = path ? mt_file_read(path, MT_X509_PEM_MAX, ret, &n, err) : MT_FAIL(err, MT_E_NOMEM, "node CA");
    return rc < 0 ? rc : strlen(*ret) == n ? 0 : MT_FAIL(err, MT_E_CORRUPT, "'%s' holds a NUL byte", path);
}

static int load_name(const struct mt_node_ca *ca, const char *name, char **ret, struct mt_err *err)
{
    mt_auto_free char *path = path_of(ca, name);
    return load(path, ret, err);
}

/* A new authority into two files. The certificate first: a key without one would be a riddle, a certificate without its key is made again. */
static int make_authority(const struct mt_node_ca *ca, const char *cert_name, const char *key_name, struct mt_err *err)
{
    char ulid[MT_ULID_SIZE], cn[48];
    mt_auto_free char *cert_path = path_of(ca, cert_name);
    mt_auto_free char *key_path = path_of(ca, key_name);
    mt_auto_free char *key = NULL;
    mt_auto_free char *cert = NULL;
    if (!cert_path || !key_path)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    mt_ulid_new(ulid);
    snprintf(cn, sizeof cn, "moat nodes %s", ulid);
    int rc = mt_x509_ca_new(cn, now_s() - BACKDATE_S, now_s() + (int64_t)CA_DAYS * DAY_S, &key, &cert, err);
    if (rc == 0 && (rc = mt_file_write(cert_path, cert, strlen(cert), 0644, err)) == 0)
        rc = mt_file_write(key_path, key, strlen(key), 0600, err);
    if (key)
        explicit_bzero(key, strlen(key));
    if (rc == 0)
        mt_log(MT_INFO, "node_ca.made", KV("file", (const char *)key_path));
    return rc;
}

static int move(const struct mt_node_ca *ca, const char *from, const char *to, struct mt_err *err)
{
    mt_auto_free char *a = path_of(ca, from);
    mt_auto_free char *b = path_of(ca, to);
    if (!a || !b)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    return rename(a, b) < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "rename '%s' to '%s'", a, b) : mt_file_sync_dir(ca->dir, err);
}

static int drop(const struct mt_node_ca *ca, const char *name, struct mt_err *err)
{
    mt_auto_free char *path = path_of(ca, name);
    if (!path)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    return unlink(path) < 0 && errno != ENOENT ? MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path) : mt_file_sync_dir(ca->dir, err);
}

/* The authority that signs. A switch that was cut between its two renames left the new certificate beside the old key: it is ended here. */
static int load_signer(const struct mt_node_ca *ca, struct set *s, struct mt_err *err)
{
    mt_auto_free char *prepared = NULL;
    struct mt_err ignored;
    int rc = load_name(ca, "node-ca.key", &s->key, err);
    if (rc == -MT_E_NOT_FOUND) {
        rc = make_authority(ca, "node-ca.crt", "node-ca.key", err);
        if (rc == 0)
            rc = load_name(ca, "node-ca.key", &s->key, err);
    }
    if (rc < 0 || (rc = load_name(ca, "node-ca.crt", &s->cert, err)) < 0 || mt_x509_belongs(s->key, s->cert))
        return rc;
    bool cut = load_name(ca, "node-ca-next.key", &prepared, &ignored) == 0 && mt_x509_belongs(prepared, s->cert);
    if (prepared)
        explicit_bzero(prepared, strlen(prepared));
    if (!cut)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s/node-ca.key' is not the key of 'node-ca.crt' beside it: put back the files that belong together", ca->dir);
    explicit_bzero(s->key, strlen(s->key));
    free(MT_TAKE(s->key));
    return (rc = move(ca, "node-ca-next.key", "node-ca.key", err)) < 0 ? rc : load_name(ca, "node-ca.key", &s->key, err);
}

/* When a file was written, Unix seconds; 0 when it is not there. */
static int64_t written_s(const struct mt_node_ca *ca, const char *name)
{
    struct stat st;
    mt_auto_free char *path = path_of(ca, name);
    return path && stat(path, &st) == 0 ? st.st_mtim.tv_sec : 0;
}

/* The one beside it: prepared (its key is there), or replaced. */
static int load_other(const struct mt_node_ca *ca, struct set *s, struct mt_err *err)
{
    mt_auto_free char *key = NULL;
    struct mt_x509_cert about;
    int rc = load_name(ca, "node-ca-next.key", &key, err);
    if (rc == 0) {
        rc = load_name(ca, "node-ca-next.crt", &s->other, err);
        if (rc == 0 && !mt_x509_belongs(key, s->other))
            rc = MT_FAIL(err, MT_E_CORRUPT, "'%s/node-ca-next.key' is not the key of 'node-ca-next.crt' beside it: remove both", ca->dir);
        explicit_bzero(key, strlen(key));
        s->about.phase = MT_NODE_CA_PREPARED;
        s->about.since_s = written_s(ca, "node-ca-next.key");
    } else if (rc == -MT_E_NOT_FOUND) {
        rc = load_name(ca, "node-ca-old.crt", &s->other, err);
        if (rc == -MT_E_NOT_FOUND)
            return 0;
        if (rc == 0 && MT_STREQ(s->other, s->cert)) { /* a switch that did not come further than its first step, and was given up */
            free(MT_TAKE(s->other));
            return 0;
        }
        s->about.phase = MT_NODE_CA_SWITCHED;
        s->about.since_s = written_s(ca, "node-ca-old.crt");
    }
    if (rc < 0 || (rc = mt_x509_read(s->other, &about, err)) < 0)
        return rc;
    snprintf(s->about.other_pin, sizeof s->about.other_pin, "%s", about.spki_sha256);
    snprintf(s->about.other_key_id, sizeof s->about.other_key_id, "%s", about.key_id);
    s->about.other_ends_s = about.not_after_s;
    return 0;
}

/* True while the listener's certificate is of the authority that signs, has its key, and a third of its life is left. */
static bool server_good(const struct mt_node_ca *ca, const struct set *s)
{
    mt_auto_free char *key = NULL;
    mt_auto_free char *chain = NULL;
    struct mt_x509_cert about;
    struct mt_err ignored;
    bool good = load(ca->server_key, &key, &ignored) == 0 && load(ca->server_cert, &chain, &ignored) == 0 && mt_x509_belongs(key, chain) &&
                mt_x509_read(chain, &about, &ignored) == 0 && strstr(chain, s->cert) != NULL &&
                about.not_after_s - now_s() > SERVER_DAYS * DAY_S / 3;
    if (key)
        explicit_bzero(key, strlen(key));
    return good;
}

static int make_server(const struct mt_node_ca *ca, const struct set *s, struct mt_err *err)
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
        rc = mt_x509_sign(s->key, s->cert, csr, &spec, &pem, NULL, err);
    if (rc == 0 && !(chain = mt_asprintf("%s%s", pem, s->cert)))
        rc = MT_FAIL(err, MT_E_NOMEM, "server certificate");
    if (rc == 0 && (rc = mt_file_write(ca->server_key, key, strlen(key), 0600, err)) == 0)
        rc = mt_file_write(ca->server_cert, chain, strlen(chain), 0644, err);
    if (key)
        explicit_bzero(key, strlen(key));
    return rc;
}

/* What peers are checked by, derived from the others. */
static int put_trust(const struct mt_node_ca *ca, struct set *s, struct mt_err *err)
{
    mt_auto_free char *have = NULL;
    struct mt_err ignored;
    if (!(s->trust = mt_asprintf("%s%s", s->cert, s->other ? s->other : "")))
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    mt_sha256_hex(s->trust, strlen(s->trust), s->trust_sha256);
    if (load(ca->trust_path, &have, &ignored) == 0 && MT_STREQ(have, s->trust))
        return 0;
    return mt_file_write(ca->trust_path, s->trust, strlen(s->trust), 0644, err);
}

/* Under both locks: the files as they are become what is used. */
static int take(struct mt_node_ca *ca, struct mt_err *err)
{
    mt_cleanup(set_freep) struct set *s = calloc(1, sizeof *s);
    struct mt_x509_cert about;
    struct stat st;
    if (!s)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    int rc = load_signer(ca, s, err);
    if (rc < 0 || (rc = load_other(ca, s, err)) < 0 || (rc = mt_x509_read(s->cert, &about, err)) < 0 || (rc = put_trust(ca, s, err)) < 0)
        return rc;
    snprintf(s->about.pin, sizeof s->about.pin, "%s", about.spki_sha256);
    snprintf(s->about.key_id, sizeof s->about.key_id, "%s", about.key_id);
    s->about.ends_s = about.not_after_s;
    if (!server_good(ca, s) && (rc = make_server(ca, s, err)) < 0)
        return rc;
    if (stat(ca->server_cert, &st) == 0) {
        s->server_made = st.st_mtim.tv_sec;
        s->server_made_ns = st.st_mtim.tv_nsec;
    }
    const struct set *was = atomic_load(&ca->now);
    bool changed = !was || !MT_STREQ(was->trust, s->trust) || was->about.phase != s->about.phase || was->server_made != s->server_made ||
                   was->server_made_ns != s->server_made_ns;
    for (size_t i = 0; i < MT_ARRAY_LEN(watched); i++) {
        mt_auto_free char *path = path_of(ca, watched[i]);
        ca->looked[i] = path && stat(path, &st) == 0 ? st.st_mtim : (struct timespec){0};
    }
    ca->looked_s = now_s();
    if (!changed)
        return 0;
    s->next = ca->all;
    ca->all = s;
    atomic_store(&ca->now, MT_TAKE(s));
    atomic_fetch_add(&ca->generation, 1);
    return 0;
}

/* The lock of the folder: servers that share it make and change its files one at a time. */
static int lock_files(const struct mt_node_ca *ca, int *ret_fd, struct mt_err *err)
{
    mt_auto_free char *path = path_of(ca, "node-ca.lock");
    mt_auto_fd int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "lock '%s'", path ? path : "");
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_node_ca_open(const char *data_dir, struct mt_node_ca **ret, struct mt_err *err)
{
    mt_cleanup(ca_freep) struct mt_node_ca *ca = calloc(1, sizeof *ca);
    mt_auto_fd int lock = -1;
    if (!ca)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    pthread_mutex_init(&ca->mu, NULL);
    if (!(ca->dir = strdup(data_dir)) || !(ca->trust_path = path_of(ca, "node-ca-trust.crt")) ||
        !(ca->server_cert = path_of(ca, "node-server.crt")) || !(ca->server_key = path_of(ca, "node-server.key")))
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    int rc = lock_files(ca, &lock, err);
    if (rc < 0 || (rc = take(ca, err)) < 0)
        return rc;
    *ret = MT_TAKE(ca);
    return 0;
}

/* Have the files been written since they were read? The certificate of the listener wants a look once an hour too. */
static bool touched(struct mt_node_ca *ca)
{
    struct stat st;
    if (now_s() - ca->looked_s > 3600 || now_s() < ca->looked_s)
        return true;
    for (size_t i = 0; i < MT_ARRAY_LEN(watched); i++) {
        mt_auto_free char *path = path_of(ca, watched[i]);
        struct timespec t = path && stat(path, &st) == 0 ? st.st_mtim : (struct timespec){0};
        if (t.tv_sec != ca->looked[i].tv_sec || t.tv_nsec != ca->looked[i].tv_nsec)
            return true;
    }
    return false;
}

unsigned mt_node_ca_generation(const struct mt_node_ca *ca)
{
    return atomic_load(&((struct mt_node_ca *)(uintptr_t)ca)->generation);
}

int mt_node_ca_reload(struct mt_node_ca *ca, struct mt_err *err)
{
    mt_auto_fd int lock = -1;
    int rc = 0;
    pthread_mutex_lock(&ca->mu);
    if (touched(ca) && (rc = lock_files(ca, &lock, err)) == 0)
        rc = take(ca, err);
    pthread_mutex_unlock(&ca->mu);
    return rc;
}

static int step(struct mt_node_ca *ca, enum mt_node_ca_step what, struct mt_err *err)
{
    const struct set *s = now(ca);
    mt_auto_free char *old = path_of(ca, "node-ca-old.crt");
    enum mt_node_ca_phase phase = s->about.phase;
    int rc = 0;
    if (!old)
        return MT_FAIL(err, MT_E_NOMEM, "node CA");
    switch (what) {
    case MT_NODE_CA_PREPARE:
        if (phase == MT_NODE_CA_SWITCHED)
            return MT_FAIL(err, MT_E_CONFLICT, "the authority before this one is not retired yet");
        return phase == MT_NODE_CA_PREPARED ? 0 : make_authority(ca, "node-ca-next.crt", "node-ca-next.key", err);
    case MT_NODE_CA_ABORT:
        if (phase == MT_NODE_CA_SWITCHED)
            return MT_FAIL(err, MT_E_CONFLICT, "the new authority signs already: go on (retire), or prepare another one after that");
        return (rc = drop(ca, "node-ca-next.key", err)) < 0 ? rc : drop(ca, "node-ca-next.crt", err);
    case MT_NODE_CA_SWITCH:
        if (phase != MT_NODE_CA_PREPARED)
            return phase == MT_NODE_CA_SWITCHED ? 0 : MT_FAIL(err, MT_E_CONFLICT, "no new authority is prepared");
        /* cut after any of the three: the next open ends it, or it is as if it had not begun */
        if ((rc = mt_file_write(old, s->cert, strlen(s->cert), 0644, err)) < 0 || (rc = move(ca, "node-ca-next.crt", "node-ca.crt", err)) < 0)
            return rc;
        return move(ca, "node-ca-next.key", "node-ca.key", err);
    case MT_NODE_CA_RETIRE:
        return phase == MT_NODE_CA_PREPARED ? MT_FAIL(err, MT_E_CONFLICT, "the new authority does not sign yet (switch)") : drop(ca, "node-ca-old.crt", err);
    case MT_NODE_CA_STEP_MAX:
        break;
    }
    return MT_FAIL(err, MT_E_INVALID, "no such step");
}

int mt_node_ca_do(struct mt_node_ca *ca, enum mt_node_ca_step what, struct mt_err *err)
{
    mt_auto_fd int lock = -1;
    pthread_mutex_lock(&ca->mu);
    int rc = lock_files(ca, &lock, err);
    if (rc == 0 && (rc = take(ca, err)) == 0 /* another server may have been first */
        && (rc = step(ca, what, err)) == 0)
        rc = take(ca, err);
    pthread_mutex_unlock(&ca->mu);
    return rc;
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
    const struct set *s = now(ca);
    char uri[160];
    int rc = mt_node_uri(cluster_id, kind, node_id, uri, err);
    const struct mt_x509_spec spec = {.cn = node_id,
                                      .uri = uri,
                                      .ip = kind == MT_CERT_NODE ? overlay : NULL,
                                      .not_before_s = now_s() - BACKDATE_S,
                                      .not_after_s = now_s() + (int64_t)days * DAY_S,
                                      .client = true,
                                      .server = kind == MT_CERT_NODE};
    return rc < 0 ? rc : mt_x509_sign(s->key, s->cert, csr_pem, &spec, ret_pem, ret, err);
}
