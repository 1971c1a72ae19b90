/* SPDX-License-Identifier: Apache-2.0 */
/* The known end of the log: compared at every look, written to a file by a thread of its own at most twice a second. */
#include "control/log/history.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_MS 500
#define FILE_MAX 512
#define MAGIC "moat-high-water 1"

struct mt_history {
    pthread_mutex_t mu;
    pthread_cond_t wake;
    bool stop, started;
    pthread_t thread;
    struct mt_log_head *head; /* set before the first look */
    char *path; /* NULL: memory only */
    /* under mu */
    struct mt_mark known, saved;
    int64_t seen_epoch, seen_event; /* end of the log as of the look that `state` and `epoch` are from */
    char cluster_id[64]; /* whose history it is; "": not known yet */
    int64_t doubted_epoch; /* not believed while its epoch is not above this; 0: none */
    char complaint[240];
    _Atomic int state; /* enum mt_recovery as of the last look */
    _Atomic int64_t epoch;
    atomic_bool behind;
};

static const struct mt_pg_stmt st_look = {
    "history_look",
    "SELECT c.last_event_id, c.last_chain_hash, c.epoch, (SELECT e.chain_hash FROM events e WHERE e.event_id = $1),"
    " coalesce((SELECT i.value #>> '{}' FROM cluster_view i WHERE i.key = 'cluster_id'), ''),"
    " coalesce(r.value->>'state', ''), coalesce(r.last_event_id, 0), coalesce(r.resource_version, 0)"
    " FROM event_counter c LEFT JOIN cluster_view r ON r.key = 'recovery'"};

const char *mt_recovery_name(enum mt_recovery r)
{
    static const char *const names[] = {[MT_RECOVERY_NONE] = "none", [MT_RECOVERY_FROZEN] = "frozen", [MT_RECOVERY_APPLIED] = "applied"};
    return names[r];
}

static enum mt_recovery state_of(const char *text)
{
    return MT_STREQ(text, "frozen") ? MT_RECOVERY_FROZEN : MT_STREQ(text, "applied") ? MT_RECOVERY_APPLIED : MT_RECOVERY_NONE;
}

enum mt_history_verdict mt_history_compare(const struct mt_mark *known, const struct mt_mark *log, const uint8_t *there)
{
    if (known->event_id == 0)
        return MT_HISTORY_SAME;
    if (log->epoch != known->epoch)
        return log->epoch > known->epoch ? MT_HISTORY_NEWER : MT_HISTORY_BEHIND;
    if (log->event_id < known->event_id || !there)
        return MT_HISTORY_BEHIND;
    return known->hashed && memcmp(known->hash, there, 32) != 0 ? MT_HISTORY_OTHER : MT_HISTORY_SAME;
}

/* ---- the file ---- */

void mt_mark_print(const struct mt_mark *m, const char *cluster_id, char *ret, size_t size)
{
    char hex[65];
    mt_hex_encode(m->hash, 32, hex);
    (void)snprintf(ret, size, MAGIC " cluster=%s epoch=%lld event=%lld hash=%s\n", cluster_id, (long long)m->epoch,
                   (long long)m->event_id, hex);
}

/* The word behind @key, up to the next blank; false when the text does not go on with it. */
static bool word(const char **p, const char *key, char *ret, size_t size)
{
    size_t k = strlen(key), n;
    if (strncmp(*p, key, k) != 0)
        return false;
    n = strcspn(*p + k, " \n");
    if (n == 0 || n >= size)
        return false;
    memcpy(ret, *p + k, n);
    ret[n] = 0;
    *p += k + n;
    return true;
}

int mt_mark_parse(const char *text, size_t len, struct mt_mark *ret, char ret_cluster_id[64], struct mt_err *err)
{
    const char *p = text;
    char epoch[24], event[24], hash[65];
    size_t n = strlen(MAGIC);
    *ret = (struct mt_mark){.hashed = true};
    if (len < n || len > FILE_MAX || strlen(text) != len || strncmp(text, MAGIC, n) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "is no high-water file of this version");
    p += n;
    if (!word(&p, " cluster=", ret_cluster_id, 64) || !word(&p, " epoch=", epoch, sizeof epoch) ||
        !word(&p, " event=", event, sizeof event) || !word(&p, " hash=", hash, sizeof hash) || strcmp(p, "\n") != 0 ||
        mt_parse_i64(epoch, 1, INT64_MAX - 1, &ret->epoch, NULL) < 0 || mt_parse_i64(event, 1, INT64_MAX - 1, &ret->event_id, NULL) < 0 ||
        strlen(hash) != 64 || mt_hex_decode(hash, 32, ret->hash) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "has a malformed line");
    return 0;
}

static void load(struct mt_history *h)
{
    mt_auto_free char *text = NULL;
    size_t n = 0;
    struct mt_err err = {0};
    int rc = mt_file_read(h->path, FILE_MAX, &text, &n, &err);
    if (rc == -MT_E_NOT_FOUND)
        return;
    if (rc == 0)
        rc = mt_mark_parse(text, n, &h->known, h->cluster_id, &err);
    if (rc < 0) {
        h->known = (struct mt_mark){0};
        h->cluster_id[0] = 0;
        mt_log(MT_WARN, "history.file_unusable", KV("file", h->path), KV_ERR(&err),
               KV("mend", "none needed: it is written anew; until then only agents and edges tell of a restored database"));
    }
    h->saved = h->known;
}

/* Under the mutex, which is let go while the file is written. */
static void save(struct mt_history *h)
{
    char line[256];
    struct mt_err err = {0};
    if (!h->path || !h->cluster_id[0] || h->known.event_id == 0 || !h->known.hashed || atomic_load(&h->behind) ||
        (h->known.event_id == h->saved.event_id && h->known.epoch == h->saved.epoch))
        return;
    struct mt_mark m = h->known;
    mt_mark_print(&m, h->cluster_id, line, sizeof line);
    (void)pthread_mutex_unlock(&h->mu);
    int rc = mt_file_write(h->path, line, strlen(line), 0600, &err);
    (void)pthread_mutex_lock(&h->mu);
    if (rc == 0)
        h->saved = m;
    if (rc < 0 && !MT_STREQ(h->complaint, err.msg))
        mt_log(MT_WARN, "history.not_saved", KV("file", h->path), KV_ERR(&err));
    (void)snprintf(h->complaint, sizeof h->complaint, "%s", rc < 0 ? err.msg : "");
}

static void *history_main(void *arg)
{
    struct mt_history *h = arg;
    (void)pthread_setname_np(pthread_self(), "history");
    (void)pthread_mutex_lock(&h->mu);
    while (!h->stop) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += SAVE_MS * MT_NS_PER_MS;
        until.tv_sec += until.tv_nsec / MT_NS_PER_S;
        until.tv_nsec %= MT_NS_PER_S;
        (void)pthread_cond_timedwait(&h->wake, &h->mu, &until);
        save(h);
    }
    (void)pthread_mutex_unlock(&h->mu);
    return NULL;
}

int mt_history_new(const char *dir, struct mt_history **ret, struct mt_err *err)
{
    struct mt_history *h = calloc(1, sizeof *h);
    pthread_condattr_t mono;
    if (!h)
        return MT_FAIL(err, MT_E_NOMEM, "history");
    MT_ASSERT(pthread_mutex_init(&h->mu, NULL) == 0 && pthread_condattr_init(&mono) == 0 &&
              pthread_condattr_setclock(&mono, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&h->wake, &mono) == 0);
    (void)pthread_condattr_destroy(&mono);
    int rc = 0;
    if (dir) {
        h->path = mt_asprintf("%s/high-water", dir);
        if (!h->path)
            rc = MT_FAIL(err, MT_E_NOMEM, "history");
        else
            load(h);
    }
    if (rc == 0 && h->path && pthread_create(&h->thread, NULL, history_main, h) != 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "history thread");
    h->started = rc == 0 && h->path;
    if (rc < 0) {
        mt_history_free(h);
        return rc;
    }
    *ret = h;
    return 0;
}

void mt_history_follow(struct mt_history *h, struct mt_log_head *head)
{
    h->head = head;
}

void mt_history_free(struct mt_history *h)
{
    if (!h)
        return;
    (void)pthread_mutex_lock(&h->mu);
    h->stop = true;
    (void)pthread_cond_signal(&h->wake);
    (void)pthread_mutex_unlock(&h->mu);
    if (h->started)
        (void)pthread_join(h->thread, NULL); /* its last turn saves */
    (void)pthread_cond_destroy(&h->wake);
    (void)pthread_mutex_destroy(&h->mu);
    free(h->path);
    free(h);
}

/* ---- looking ---- */

static int ask(struct mt_pg *pg, const struct mt_mark *known, struct mt_history_look *l, struct mt_pg_res **res, struct mt_err *err)
{
    struct mt_pg_params p;
    size_t n = 0;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, known->event_id);
    int rc = mt_pg_query_one(pg, &st_look, &p, res, err);
    if (rc < 0)
        return rc;
    const void *hash = mt_pg_bytes(*res, 0, 1, &n);
    if (!hash || n != 32)
        return MT_FAIL(err, MT_E_CORRUPT, "event_counter has no chain hash");
    *l = (struct mt_history_look){.known = *known,
                                  .log = {.epoch = mt_pg_i64(*res, 0, 2), .event_id = mt_pg_i64(*res, 0, 0), .hashed = true},
                                  .recovery = state_of(mt_pg_text(*res, 0, 5)),
                                  .changed_event_id = mt_pg_i64(*res, 0, 6),
                                  .version = mt_pg_i64(*res, 0, 7)};
    memcpy(l->log.hash, hash, 32);
    return 0;
}

/* Under the mutex: take the end of the log as known, or say that it is not the known history. */
static void settle(struct mt_history *h, struct mt_history_look *l, const char *cluster_id)
{
    bool newer = l->verdict == MT_HISTORY_NEWER, good = newer || l->verdict == MT_HISTORY_SAME;
    if (good && h->doubted_epoch && l->log.epoch <= h->doubted_epoch) {
        l->verdict = MT_HISTORY_BEHIND;
        good = false;
    }
    if (good) {
        if (newer && h->head)
            mt_log_head_reset(h->head, l->log.event_id);
        h->doubted_epoch = 0;
        if (l->log.epoch > h->known.epoch || l->log.event_id >= h->known.event_id)
            h->known = l->log;
        if (cluster_id[0])
            (void)snprintf(h->cluster_id, sizeof h->cluster_id, "%s", cluster_id);
        if (l->log.epoch > h->seen_epoch || l->log.event_id >= h->seen_event) { /* looks overtake each other */
            h->seen_epoch = l->log.epoch;
            h->seen_event = l->log.event_id;
            atomic_store(&h->epoch, l->log.epoch);
            atomic_store(&h->state, l->recovery);
        }
    }
    atomic_store(&h->behind, !good);
}

int mt_history_look(struct mt_history *h, struct mt_pg *pg, struct mt_history_look *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_history_look l;
    (void)pthread_mutex_lock(&h->mu);
    struct mt_mark known = h->known;
    (void)pthread_mutex_unlock(&h->mu);
    /* What other servers have committed is known too, if only by its number. */
    int64_t heard = h->head ? mt_log_head_get(h->head) : 0, epoch = atomic_load(&h->epoch);
    int rc = ask(pg, &known, &l, &res, err);
    if (rc < 0)
        return rc;
    const char *cluster_id = mt_pg_text(res, 0, 4);
    size_t n = 0;
    const void *there = mt_pg_null(res, 0, 3) ? NULL : mt_pg_bytes(res, 0, 3, &n);
    (void)pthread_mutex_lock(&h->mu);
    if (h->known.epoch > known.epoch && h->known.epoch > l.log.epoch) { /* settled by another thread since we asked */
        l.verdict = MT_HISTORY_SAME;
        l.recovery = MT_RECOVERY_FROZEN;
        (void)pthread_mutex_unlock(&h->mu);
        *ret = l;
        return 0;
    }
    if (h->cluster_id[0] && !MT_STREQ(h->cluster_id, cluster_id)) {
        /* A new database, not an old one: nothing of what is known was ever in it. */
        if (cluster_id[0])
            mt_log(MT_WARN, "history.other_cluster", KV("was", (const char *)h->cluster_id), KV("is", cluster_id));
        h->known = h->saved = (struct mt_mark){0};
        h->cluster_id[0] = 0;
        known = l.known = h->known;
        heard = 0;
    }
    l.verdict = mt_history_compare(&known, &l.log, n == 32 ? there : NULL);
    if (l.verdict == MT_HISTORY_SAME && l.log.epoch == epoch && l.log.event_id < heard)
        l.verdict = MT_HISTORY_BEHIND;
    settle(h, &l, cluster_id);
    (void)pthread_mutex_unlock(&h->mu);
    *ret = l;
    return 0;
}

void mt_history_note(struct mt_history *h, int64_t event_id, const uint8_t hash[32])
{
    (void)pthread_mutex_lock(&h->mu);
    if (h->known.epoch == atomic_load(&h->epoch) && event_id > h->known.event_id) {
        h->known.event_id = event_id;
        h->known.hashed = true;
        memcpy(h->known.hash, hash, 32);
    }
    (void)pthread_mutex_unlock(&h->mu);
}

void mt_history_doubt(struct mt_history *h, int64_t epoch)
{
    (void)pthread_mutex_lock(&h->mu);
    if (epoch > h->doubted_epoch)
        h->doubted_epoch = epoch;
    atomic_store(&h->behind, true);
    (void)pthread_mutex_unlock(&h->mu);
}

enum mt_recovery mt_history_state(const struct mt_history *h)
{
    if (!h)
        return MT_RECOVERY_NONE;
    return atomic_load(&h->behind) ? MT_RECOVERY_FROZEN : (enum mt_recovery)atomic_load(&h->state);
}

int64_t mt_history_epoch(const struct mt_history *h)
{
    return h ? atomic_load(&h->epoch) : 0;
}
