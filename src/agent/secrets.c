/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/secrets.h"

#include "agent/identity/identity.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "wire/http_client.h"
#include "wire/json.h"
#include "wire/node_call.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define TARGET "/internal/v1/nodes/self/secrets"
#define REGISTRY_TARGET "/internal/v1/nodes/self/registry-credential"
#define REGISTRY_ANSWER_MAX ((size_t)32 * 1024)
#define TIMEOUT_MS 5000
#define CONTENT_MAX ((size_t)262144)
#define ANSWER_MAX ((size_t)400 * 1024)
#define TMPFS_MAGIC_NUMBER 0x01021994

struct held {
    struct mt_list link;
    char version_id[MT_ID_SIZE], sha256[MT_SHA256_HEX];
    struct mt_lockmem bytes;
};

struct mt_secret_store {
    pthread_mutex_t lock;
    struct mt_list all;
    char *dir;
    int dir_fd; /* -1: not mounted; it is with the first version that comes */
    char *control_socket;
    struct mt_identity *identity;
    uid_t trusted[MT_HTTP_TRUST_MAX];
    size_t trusted_n;
};

/* ---- the tmpfs: files named by version, 64 hex digits of the digest, then the content ---- */

static bool is_tmpfs(const char *dir)
{
    struct statfs f;
    return statfs(dir, &f) == 0 && f.f_type == TMPFS_MAGIC_NUMBER;
}

static int open_dir(struct mt_secret_store *s, struct mt_err *err)
{
    const char *dir = s->dir;
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    int rc = mt_file_mkdirs(dir, 0700, err);
    if (rc < 0)
        return rc;
    if (!is_tmpfs(dir) && mount("moat-secrets", dir, "tmpfs", flags, "mode=0700,size=64m,noswap") != 0 && /* Linux 6.4 */
        mount("moat-secrets", dir, "tmpfs", flags, "mode=0700,size=64m") != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mount a tmpfs on '%s'", dir);
    s->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (s->dir_fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    if (fchmod(s->dir_fd, 0700) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set the mode of '%s'", dir);
    return 0;
}

/* Nothing is held: the host is left as it was. */
static void close_dir(struct mt_secret_store *s)
{
    mt_closep(&s->dir_fd);
    (void)umount2(s->dir, UMOUNT_NOFOLLOW);
    (void)rmdir(s->dir);
}

static void unlink_copy(struct mt_secret_store *s, const char *name)
{
    if (s->dir_fd >= 0)
        (void)unlinkat(s->dir_fd, name, 0);
}

static void keep_copy(struct mt_secret_store *s, const struct held *h)
{
    char temp[MT_ID_SIZE + 8];
    struct mt_err err = {0};
    if (s->dir_fd < 0 && open_dir(s, &err) < 0) {
        mt_log(MT_WARN, "secrets.memory_only", KV("dir", (const char *)s->dir), KV_ERR(&err));
        mt_closep(&s->dir_fd);
    }
    if (s->dir_fd < 0 || mt_fmt(temp, sizeof temp, NULL, ".%s", h->version_id) < 0)
        return;
    unlink_copy(s, temp);
    mt_auto_fd int fd = openat(s->dir_fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && write(fd, h->sha256, MT_SHA256_HEX - 1) == MT_SHA256_HEX - 1 &&
              write(fd, h->bytes.p, h->bytes.len) == (ssize_t)h->bytes.len && renameat(s->dir_fd, temp, s->dir_fd, h->version_id) == 0;
    if (!ok) {
        mt_log(MT_WARN, "secrets.no_copy", KV("version_id", (const char *)h->version_id), KV("errno", errno));
        unlink_copy(s, temp);
    }
}

static int read_copy(struct mt_secret_store *s, struct held *h, struct mt_err *err)
{
    struct stat st;
    char sha[MT_SHA256_HEX];
    mt_auto_fd int fd = s->dir_fd < 0 ? -1 : openat(s->dir_fd, h->version_id, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no copy of %s", h->version_id);
    const ssize_t head = MT_SHA256_HEX - 1;
    if (fstat(fd, &st) < 0 || st.st_size <= head || (size_t)(st.st_size - head) > CONTENT_MAX || read(fd, h->sha256, (size_t)head) != head)
        return MT_FAIL(err, MT_E_CORRUPT, "copy of %s", h->version_id);
    h->sha256[head] = '\0';
    size_t n = (size_t)(st.st_size - head);
    int rc = mt_lockmem_new(&h->bytes, n, err);
    if (rc < 0)
        return rc;
    if (read(fd, h->bytes.p, n) != (ssize_t)n)
        return MT_FAIL(err, MT_E_CORRUPT, "copy of %s", h->version_id);
    h->bytes.len = n;
    mt_sha256_hex(h->bytes.p, n, sha);
    return MT_STREQ(sha, h->sha256) ? 0 : MT_FAIL(err, MT_E_CORRUPT, "copy of %s", h->version_id);
}

/* ---- held in memory ---- */

static void held_free(struct held *h)
{
    if (!h)
        return;
    mt_lockmem_done(&h->bytes);
    free(h);
}

static struct held *find(struct mt_secret_store *s, const char *version_id)
{
    MT_LIST_EACH(n, &s->all)
        if (MT_STREQ(MT_CONTAINER(n, struct held, link)->version_id, version_id))
            return MT_CONTAINER(n, struct held, link);
    return NULL;
}

static struct held *held_new(const char *version_id, struct mt_err *err)
{
    struct held *h = calloc(1, sizeof *h);
    if (h)
        (void)snprintf(h->version_id, sizeof h->version_id, "%s", version_id);
    else
        (void)MT_FAIL(err, MT_E_NOMEM, "secrets");
    return h;
}

/* In memory, or taken from the tmpfs. Under the lock. */
static struct held *at_hand(struct mt_secret_store *s, const char *version_id, struct mt_err *err)
{
    struct held *h = find(s, version_id);
    if (h || !(h = held_new(version_id, err)))
        return h;
    int rc = read_copy(s, h, err);
    if (rc < 0) {
        if (rc == -MT_E_CORRUPT)
            unlink_copy(s, version_id);
        held_free(h);
        return NULL;
    }
    mt_list_push_back(&s->all, &h->link);
    return h;
}

/* ---- from the control plane ---- */

/* The value of a text member of a flat JSON object that our own control plane wrote: no parser copies the content about. */
static char *member(char *text, const char *name, size_t *ret_n)
{
    char key[32];
    if (mt_fmt(key, sizeof key, NULL, "\"%s\":\"", name) < 0)
        return NULL;
    char *at = strstr(text, key);
    if (!at)
        return NULL;
    at += strlen(key);
    char *end = strchr(at, '"');
    if (!end)
        return NULL;
    *ret_n = (size_t)(end - at);
    return at;
}

static const char *refusal(int status, const char *body)
{
    if (status == 403)
        return "forbidden";
    if (strstr(body, "\"master_key_unavailable\""))
        return "master_key_unavailable";
    return strstr(body, "\"decrypt_failed\"") ? "decrypt_failed" : "unavailable";
}

static int take_answer(struct held *h, char *body, const char **ret_detail, struct mt_err *err)
{
    char sha[MT_SHA256_HEX];
    size_t id_n = 0, sha_n = 0, data_n = 0;
    char *id = member(body, "version_id", &id_n), *want = member(body, "sha256", &sha_n), *data = member(body, "data", &data_n);
    *ret_detail = "format_invalid";
    if (!id || !want || !data || id_n != strlen(h->version_id) || memcmp(id, h->version_id, id_n) != 0 || sha_n != MT_SHA256_HEX - 1)
        return MT_FAIL(err, MT_E_CORRUPT, "the answer is not one of %s", h->version_id);
    int rc = mt_lockmem_new(&h->bytes, data_n / 4 * 3 + 3, err);
    if (rc < 0) {
        *ret_detail = "unavailable";
        return rc;
    }
    ssize_t n = mt_b64_decode(data, data_n, h->bytes.p, h->bytes.cap);
    if (n <= 0 || (size_t)n > CONTENT_MAX)
        return MT_FAIL(err, MT_E_CORRUPT, "the content of %s is not base64", h->version_id);
    h->bytes.len = (size_t)n;
    mt_sha256_hex(h->bytes.p, h->bytes.len, sha);
    memcpy(h->sha256, want, sha_n);
    *ret_detail = "hash_mismatch";
    return MT_STREQ(sha, h->sha256) ? 0 : MT_FAIL(err, MT_E_CORRUPT, "the content of %s has another digest", h->version_id);
}

static int ask(struct mt_secret_store *s, const char *instance_id, struct held *h, const char **ret_detail, struct mt_err *err)
{
    char body[2 * MT_ID_SIZE + 64];
    struct mt_http_reply reply = {0};
    unsigned generation;
    struct mt_http_client *c = s->identity ? mt_identity_client(s->identity, &generation) : mt_http_client_new(s->control_socket);
    *ret_detail = "unavailable";
    if (!c)
        return MT_FAIL(err, MT_E_NOMEM, "secrets");
    if (!s->identity)
        mt_http_client_trust(c, s->trusted, s->trusted_n);
    mt_node_call_says(c);
    (void)snprintf(body, sizeof body, "{\"instance_id\":\"%s\",\"version_id\":\"%s\"}", instance_id, h->version_id);
    const struct mt_http_request rq = {.method = "POST", .target = TARGET, .body = body, .body_len = strlen(body), .timeout_ms = TIMEOUT_MS, .secret = true};
    int rc = mt_http_do(c, &rq, ANSWER_MAX, &reply, err);
    if (rc == 0) {
        char *text = (char *)(uintptr_t)mt_buf_cstr(&reply.body);
        if (reply.status == 200) {
            rc = take_answer(h, text, ret_detail, err);
        } else {
            *ret_detail = refusal(reply.status, text);
            rc = MT_FAIL(err, reply.status == 403 ? MT_E_DENIED : MT_E_UNAVAILABLE, "the control plane answers %d", reply.status);
        }
        explicit_bzero(reply.body.p, reply.body.cap);
        mt_http_reply_done(&reply);
    }
    mt_http_client_free(c);
    return rc;
}

static int take_login(struct mt_buf *body, const char *repository, char ret_user[MT_REGISTRY_USER_SIZE], struct mt_lockmem *ret_password, struct mt_err *err)
{
    mt_auto_json json_t *o = NULL;
    const char *host, *user, *password;
    int rc = mt_json_parse(mt_buf_cstr(body), body->len, REGISTRY_ANSWER_MAX, 4, &o, err);
    if (rc < 0 || (rc = mt_json_get_str(o, "host", 300, &host, err)) < 0 || (rc = mt_json_get_str(o, "username", MT_REGISTRY_USER_SIZE - 1, &user, err)) < 0 ||
        (rc = mt_json_get_str(o, "password", 4096, &password, err)) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "the answer is no registry credential");
    size_t n = strlen(password), h = strlen(host);
    if (strncmp(repository, host, h) != 0 || repository[h] != '/') {
        explicit_bzero((char *)(uintptr_t)password, n);
        return 0;
    }
    (void)snprintf(ret_user, MT_REGISTRY_USER_SIZE, "%s", user);
    if ((rc = mt_lockmem_new(ret_password, n + 1, err)) == 0) {
        memcpy(ret_password->p, password, n);
        ret_password->len = n;
    }
    explicit_bzero((char *)(uintptr_t)password, n); /* jansson's copy */
    return rc < 0 ? rc : 1;
}

int mt_registry_credential(struct mt_secret_store *s, const char *owner_id, const char *repository, char ret_user[MT_REGISTRY_USER_SIZE],
                           struct mt_lockmem *ret_password, struct mt_err *err)
{
    char body[MT_ID_SIZE + 64];
    struct mt_http_reply reply = {0};
    unsigned generation;
    struct mt_http_client *c = s->identity ? mt_identity_client(s->identity, &generation) : mt_http_client_new(s->control_socket);
    *ret_password = (struct mt_lockmem){0};
    if (!c)
        return MT_FAIL(err, MT_E_NOMEM, "registry credential");
    if (!s->identity)
        mt_http_client_trust(c, s->trusted, s->trusted_n);
    mt_node_call_says(c);
    (void)snprintf(body, sizeof body, "{\"%s\":\"%s\"}", mt_id_check(MT_ID_RESTORE, owner_id, NULL) == 0 ? "restore_id" : "instance_id", owner_id);
    const struct mt_http_request rq = {.method = "POST", .target = REGISTRY_TARGET, .body = body, .body_len = strlen(body), .timeout_ms = TIMEOUT_MS, .secret = true};
    int rc = mt_http_do(c, &rq, REGISTRY_ANSWER_MAX, &reply, err);
    if (rc == 0) {
        if (reply.status == 200)
            rc = take_login(&reply.body, repository, ret_user, ret_password, err);
        else if (reply.status != 404 && reply.status != 403) /* 404: no credential, or a control plane that knows none */
            rc = MT_FAIL(err, MT_E_UNAVAILABLE, "the control plane answers %d", reply.status);
        explicit_bzero(reply.body.p, reply.body.cap);
        mt_http_reply_done(&reply);
    }
    mt_http_client_free(c);
    return rc;
}

/* ---- the store ---- */

int mt_secret_store_fetch(struct mt_secret_store *s, const char *instance_id, const char *version_id, const char **ret_detail,
                          struct mt_err *err)
{
    struct mt_err why;
    (void)pthread_mutex_lock(&s->lock);
    bool have = at_hand(s, version_id, &why) != NULL;
    (void)pthread_mutex_unlock(&s->lock);
    if (have)
        return 0;
    *ret_detail = "unavailable";
    struct held *h = held_new(version_id, err);
    if (!h)
        return -MT_E_NOMEM;
    int rc = ask(s, instance_id, h, ret_detail, err);
    if (rc < 0) {
        held_free(h);
        return mt_err_wrap(err, "secrets %s", version_id);
    }
    (void)pthread_mutex_lock(&s->lock);
    if (find(s, version_id)) { /* another instance was quicker */
        held_free(h);
    } else {
        mt_list_push_back(&s->all, &h->link);
        keep_copy(s, h);
    }
    (void)pthread_mutex_unlock(&s->lock);
    mt_log(MT_INFO, "secrets.fetched", KV("version_id", version_id), KV("instance_id", instance_id));
    return 0;
}

int mt_secret_store_info(struct mt_secret_store *s, const char *version_id, size_t *ret_len, char ret_sha256[65], struct mt_err *err)
{
    (void)pthread_mutex_lock(&s->lock);
    struct held *h = at_hand(s, version_id, err);
    if (h) {
        *ret_len = h->bytes.len;
        memcpy(ret_sha256, h->sha256, MT_SHA256_HEX);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return h ? 0 : -(int)err->code;
}

int mt_secret_store_text(struct mt_secret_store *s, const char *version_id, struct mt_lockmem *ret, char ret_sha256[65],
                         struct mt_err *err)
{
    (void)pthread_mutex_lock(&s->lock);
    struct held *h = at_hand(s, version_id, err);
    int rc = h ? mt_lockmem_new(ret, MT_B64_SIZE(h->bytes.len), err) : -(int)err->code;
    if (rc == 0) {
        ret->len = mt_b64_encode(h->bytes.p, h->bytes.len, (char *)ret->p);
        memcpy(ret_sha256, h->sha256, MT_SHA256_HEX);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return rc;
}

void mt_secret_store_sweep(struct mt_secret_store *s, bool (*used)(void *arg, const char *version_id), void *arg)
{
    (void)pthread_mutex_lock(&s->lock);
    bool wiped = false;
    MT_LIST_EACH(n, &s->all) {
        struct held *h = MT_CONTAINER(n, struct held, link);
        if (used(arg, h->version_id))
            continue;
        mt_log(MT_INFO, "secrets.wiped", KV("version_id", (const char *)h->version_id));
        unlink_copy(s, h->version_id);
        mt_list_remove(&h->link);
        held_free(h);
        wiped = true;
    }
    if (wiped && mt_list_empty(&s->all))
        close_dir(s);
    (void)pthread_mutex_unlock(&s->lock);
}

size_t mt_secret_store_count(struct mt_secret_store *s)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&s->lock);
    MT_LIST_EACH(n, &s->all)
        count++;
    (void)pthread_mutex_unlock(&s->lock);
    return count;
}

/* What is there from before is taken into memory, so that the next sweep sees it. */
static void find_copies(struct mt_secret_store *s)
{
    struct mt_err err;
    DIR *d = s->dir_fd >= 0 ? opendir(s->dir) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (MT_STREQ(e->d_name, ".") || MT_STREQ(e->d_name, ".."))
            continue;
        if (mt_id_check(MT_ID_SECRET_VERSION, e->d_name, &err) < 0 || !at_hand(s, e->d_name, &err))
            unlink_copy(s, e->d_name);
    }
    if (d)
        (void)closedir(d);
}

int mt_secret_store_new(const struct mt_secret_store_conf *conf, struct mt_secret_store **ret, struct mt_err *err)
{
    struct mt_secret_store *s = calloc(1, sizeof *s);
    struct mt_err why = {0};
    MT_ASSERT(conf->trusted_n <= MT_HTTP_TRUST_MAX);
    if (!s || !(s->control_socket = mt_strndup(conf->control_socket, strlen(conf->control_socket))) ||
        !(s->dir = mt_strndup(conf->dir, strlen(conf->dir)))) {
        if (s)
            free(s->control_socket);
        free(s);
        return MT_FAIL(err, MT_E_NOMEM, "secrets");
    }
    (void)pthread_mutex_init(&s->lock, NULL);
    mt_list_init(&s->all);
    s->dir_fd = -1;
    memcpy(s->trusted, conf->trusted, conf->trusted_n * sizeof *conf->trusted);
    s->trusted_n = conf->trusted_n;
    s->identity = conf->identity;
    if (is_tmpfs(s->dir) && open_dir(s, &why) < 0)
        mt_closep(&s->dir_fd);
    find_copies(s);
    *ret = s;
    return 0;
}

void mt_secret_store_free(struct mt_secret_store *s)
{
    if (!s)
        return;
    if (mt_list_empty(&s->all))
        close_dir(s);
    for (struct mt_list *n; (n = mt_list_pop_front(&s->all));)
        held_free(MT_CONTAINER(n, struct held, link));
    mt_closep(&s->dir_fd);
    (void)pthread_mutex_destroy(&s->lock);
    free(s->dir);
    free(s->control_socket);
    free(s);
}
