/* SPDX-License-Identifier: Apache-2.0 */
#include "control/secrets/keys.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/lockmem.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

struct set {
    struct mt_masterkey keys[MT_MASTERKEYS_MAX];
    size_t n;
};

struct mt_keys {
    char *path;
    pthread_rwlock_t lock;
    struct mt_lockmem mem; /* a struct set, or nothing */
    char problem[240];
};

/* The file may be read by its owner alone, who is this process; a systemd credential belongs to root and lets its group read. */
static int check_owner(int fd, const char *path, struct mt_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look at '%s'", path);
    if (!S_ISREG(st.st_mode))
        return MT_FAIL(err, MT_E_DENIED, "'%s' is not a file", path);
    if (!(st.st_uid == geteuid() && (st.st_mode & 07777) == 0400) && !(st.st_uid == 0 && (st.st_mode & 07337) == 0))
        return MT_FAIL(err, MT_E_DENIED, "'%s' has mode %04o and owner %u: it must be 0400 and the server's own (chown, chmod 0400)",
                       path, (unsigned)(st.st_mode & 07777), (unsigned)st.st_uid);
    return 0;
}

static int read_all(int fd, uint8_t *p, size_t cap, size_t *ret_n, struct mt_err *err)
{
    *ret_n = 0;
    for (;;) {
        ssize_t k = read(fd, p + *ret_n, cap - *ret_n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read");
        if (k == 0)
            return 0;
        *ret_n += (size_t)k;
        if (*ret_n == cap)
            return MT_FAIL(err, MT_E_LIMIT, "more than %zu bytes", cap - 1);
    }
}

static int load(const char *path, struct mt_lockmem *ret, struct mt_err *err)
{
    mt_auto_lockmem struct mt_lockmem text = {0};
    size_t n = 0;
    if (!path)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no master_keys_file is configured");
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", path);
    int rc = check_owner(fd, path, err);
    if (rc < 0 || (rc = mt_lockmem_new(&text, MT_MASTERKEYS_FILE + 1, err)) < 0)
        return rc;
    if ((rc = read_all(fd, text.p, text.cap, &n, err)) == 0 && (rc = mt_lockmem_new(ret, sizeof(struct set), err)) == 0) {
        struct set *s = (void *)ret->p;
        rc = mt_masterkeys_read((const char *)text.p, n, s->keys, &s->n, err);
        if (rc < 0)
            mt_lockmem_done(ret);
    }
    return rc < 0 ? mt_err_wrap(err, "'%s'", path) : 0;
}

int mt_keys_reload(struct mt_keys *k, struct mt_err *err)
{
    struct mt_lockmem fresh = {0};
    int rc = load(k->path, &fresh, err);
    (void)pthread_rwlock_wrlock(&k->lock);
    if (rc == 0) {
        mt_lockmem_done(&k->mem);
        k->mem = fresh;
        k->problem[0] = '\0';
    } else {
        (void)snprintf(k->problem, sizeof k->problem, "%s", err->msg);
    }
    bool have = k->mem.p != NULL;
    size_t n = have ? ((struct set *)(void *)k->mem.p)->n : 0;
    (void)pthread_rwlock_unlock(&k->lock);
    if (rc == 0)
        mt_log(MT_INFO, "master_keys.loaded", KV("keys", n));
    else if (k->path)
        mt_log(MT_ERROR, have ? "master_keys.kept_old" : "master_keys.unavailable", KV_ERR(err));
    return rc;
}

int mt_keys_new(const char *path, struct mt_keys **ret, struct mt_err *err)
{
    struct mt_keys *k = calloc(1, sizeof *k);
    struct mt_err why = {0};
    if (!k || (path && !(k->path = mt_strndup(path, strlen(path))))) {
        free(k);
        return MT_FAIL(err, MT_E_NOMEM, "master keys");
    }
    (void)pthread_rwlock_init(&k->lock, NULL);
    (void)mt_keys_reload(k, &why);
    *ret = k;
    return 0;
}

void mt_keys_free(struct mt_keys *k)
{
    if (!k)
        return;
    mt_lockmem_done(&k->mem);
    (void)pthread_rwlock_destroy(&k->lock);
    free(k->path);
    free(k);
}

void mt_keys_problem(struct mt_keys *k, char *ret, size_t size)
{
    (void)pthread_rwlock_rdlock(&k->lock);
    (void)snprintf(ret, size, "%s", k->problem);
    (void)pthread_rwlock_unlock(&k->lock);
}

/* Under the lock: the key named @id, or the active one for NULL. */
static const struct mt_masterkey *find(const struct mt_keys *k, const char *id)
{
    const struct set *s = (const void *)k->mem.p;
    for (size_t i = 0; s && i < s->n; i++)
        if (id ? MT_STREQ(s->keys[i].id, id) : s->keys[i].active)
            return &s->keys[i];
    return NULL;
}

int mt_keys_forget(struct mt_keys *k, const char *id, struct mt_err *err)
{
    (void)pthread_rwlock_wrlock(&k->lock);
    struct set *s = (void *)k->mem.p;
    size_t i = 0;
    while (s && i < s->n && !MT_STREQ(s->keys[i].id, id))
        i++;
    bool there = s && i < s->n, active = there && s->keys[i].active;
    if (there && !active) {
        s->keys[i] = s->keys[--s->n];
        explicit_bzero(&s->keys[s->n], sizeof s->keys[s->n]);
    }
    (void)pthread_rwlock_unlock(&k->lock);
    if (active)
        return MT_FAIL(err, MT_E_CONFLICT, "master key %s is the active one", id);
    return there ? 0 : MT_FAIL(err, MT_E_NOT_FOUND, "master key %s is not loaded", id);
}

static int missing(const struct mt_keys *k, const char *id, struct mt_err *err)
{
    if (k->mem.p && id)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "master key %s is not loaded", id);
    return MT_FAIL(err, MT_E_UNAVAILABLE, "no master key is loaded: %s", k->problem);
}

size_t mt_keys_list(struct mt_keys *k, struct mt_key_info *ret, size_t max)
{
    size_t n = 0;
    (void)pthread_rwlock_rdlock(&k->lock);
    const struct set *s = (const void *)k->mem.p;
    for (; s && n < s->n && n < max; n++) {
        memcpy(ret[n].id, s->keys[n].id, sizeof ret[n].id);
        ret[n].active = s->keys[n].active;
    }
    (void)pthread_rwlock_unlock(&k->lock);
    return n;
}

int mt_keys_active(struct mt_keys *k, char ret[MT_MASTERKEY_ID], struct mt_err *err)
{
    (void)pthread_rwlock_rdlock(&k->lock);
    const struct mt_masterkey *m = find(k, NULL);
    int rc = m ? 0 : missing(k, NULL, err);
    if (m)
        memcpy(ret, m->id, sizeof m->id);
    (void)pthread_rwlock_unlock(&k->lock);
    return rc;
}

int mt_keys_wrap(struct mt_keys *k, const struct mt_seal_context *c, const uint8_t key[MT_AEAD_KEY], uint8_t ret[MT_SEAL_WRAPPED],
                 char ret_id[MT_MASTERKEY_ID], struct mt_err *err)
{
    uint8_t id[8];
    (void)pthread_rwlock_rdlock(&k->lock);
    const struct mt_masterkey *m = find(k, NULL);
    int rc = m ? mt_hex_decode(m->id, sizeof id, id) : missing(k, NULL, err);
    if (rc == 0 && (rc = mt_seal_wrap(m->key, id, c, key, NULL, ret, err)) == 0)
        memcpy(ret_id, m->id, sizeof m->id);
    (void)pthread_rwlock_unlock(&k->lock);
    return rc;
}

int mt_keys_unwrap(struct mt_keys *k, const struct mt_seal_context *c, const void *wrapped, size_t len, uint8_t ret[MT_AEAD_KEY],
                   struct mt_err *err)
{
    char id[MT_MASTERKEY_ID];
    int rc = mt_seal_wrapped_by(wrapped, len, id, err);
    if (rc < 0)
        return rc;
    (void)pthread_rwlock_rdlock(&k->lock);
    const struct mt_masterkey *m = find(k, id);
    rc = m ? mt_seal_unwrap(m->key, c, wrapped, len, ret, err) : missing(k, id, err);
    (void)pthread_rwlock_unlock(&k->lock);
    return rc;
}
