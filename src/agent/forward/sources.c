/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/forward/sources.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <limits.h>
#include <sys/stat.h>

#define ABOUT_MAX 4096

static const char *const names[MT_LOGFWD_IDS] = {"org_id", "app_id", "env_id", "process", "instance_id"};

int mt_log_sources_init(struct mt_log_sources *s, const char *logs_dir)
{
    uint64_t seed;
    mt_random(&seed, sizeof seed);
    mt_map_init(&s->map, seed);
    s->dir = logs_dir;
    return pthread_mutex_init(&s->lock, NULL) == 0 ? 0 : -MT_E_NOMEM;
}

void mt_log_sources_done(struct mt_log_sources *s)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(&s->map, &pos, NULL, &v))
        free(v);
    mt_map_done(&s->map);
    (void)pthread_mutex_destroy(&s->lock);
}

static int about_path(const struct mt_log_sources *s, const char *env, const char *instance, char ret[PATH_MAX])
{
    return mt_fmt(ret, PATH_MAX, NULL, "%s/%s/%s/" MT_LOG_ABOUT_FILE, s->dir, env, instance);
}

static void write_about(const struct mt_log_sources *s, const struct mt_log_source *src)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    mt_auto_json json_t *o = json_object();
    for (int i = 0; o && i < MT_LOGFWD_IDS; i++)
        (void)json_object_set_new(o, names[i], json_string(src->ids[i]));
    mt_auto_free char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    mt_auto_free char *there = NULL;
    size_t n = 0;
    if (!text || about_path(s, src->ids[MT_LOGFWD_ENV], src->ids[MT_LOGFWD_INSTANCE], path) < 0)
        return;
    if (mt_file_read(path, ABOUT_MAX, &there, &n, NULL) == 0 && MT_STREQ(there, text))
        return;
    if (mt_file_write(path, text, strlen(text), 0600, &err) < 0)
        mt_log(MT_WARN, "forward.no_about", KV("instance_id", (const char *)src->ids[MT_LOGFWD_INSTANCE]), KV_ERR(&err));
}

static struct mt_log_source *make(struct mt_log_sources *s, const char *const ids[MT_LOGFWD_IDS])
{
    struct mt_log_source *src = mt_map_get(&s->map, ids[MT_LOGFWD_INSTANCE]);
    if (src)
        return src;
    src = calloc(1, sizeof *src);
    if (!src)
        return NULL;
    for (int i = 0; i < MT_LOGFWD_IDS; i++)
        (void)snprintf(src->ids[i], sizeof src->ids[i], "%s", ids[i]);
    if (mt_map_put(&s->map, src->ids[MT_LOGFWD_INSTANCE], src) < 0) {
        free(src);
        return NULL;
    }
    return src;
}

static void forget(struct mt_log_sources *s, struct mt_log_source *src)
{
    (void)mt_map_remove(&s->map, src->ids[MT_LOGFWD_INSTANCE]);
    free(src);
}

struct mt_log_source *mt_log_source_hold(struct mt_log_sources *s, const char *const ids[MT_LOGFWD_IDS], uint64_t last)
{
    (void)pthread_mutex_lock(&s->lock);
    struct mt_log_source *src = make(s, ids);
    if (src) {
        src->held = true;
        atomic_store(&src->last, last);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (src)
        write_about(s, src);
    return src;
}

void mt_log_source_release(struct mt_log_sources *s, struct mt_log_source *src)
{
    if (!src)
        return;
    (void)pthread_mutex_lock(&s->lock);
    src->held = false;
    if (!s->keep)
        forget(s, src);
    (void)pthread_mutex_unlock(&s->lock);
}

/* A folder that no running instance holds: who it is of, and how far it goes. */
static void take_in(struct mt_log_sources *s, const char *env, const char *instance)
{
    char path[PATH_MAX];
    const char *ids[MT_LOGFWD_IDS];
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *o = NULL;
    size_t n;
    uint64_t last = 0;
    (void)pthread_mutex_lock(&s->lock);
    bool known = mt_map_get(&s->map, instance) != NULL;
    (void)pthread_mutex_unlock(&s->lock);
    if (known || about_path(s, env, instance, path) < 0 || mt_file_read(path, ABOUT_MAX, &text, &n, NULL) < 0 || mt_json_parse(text, n, ABOUT_MAX, 2, &o, NULL) < 0)
        return;
    for (int i = 0; i < MT_LOGFWD_IDS; i++)
        if (mt_json_get_str(o, names[i], MT_SOURCE_NAME - 1, &ids[i], NULL) < 0)
            return;
    if (!MT_STREQ(ids[MT_LOGFWD_INSTANCE], instance) || mt_log_last_seq(s->dir, instance, &last, NULL) < 0)
        return;
    (void)pthread_mutex_lock(&s->lock);
    struct mt_log_source *src = s->keep ? make(s, ids) : NULL;
    if (src && !src->held)
        atomic_store(&src->last, last);
    (void)pthread_mutex_unlock(&s->lock);
}

static void forget_gone(struct mt_log_sources *s)
{
    size_t pos = 0;
    void *v;
    char path[PATH_MAX];
    struct stat st;
    (void)pthread_mutex_lock(&s->lock);
    while (mt_map_next(&s->map, &pos, NULL, &v)) {
        struct mt_log_source *src = v;
        if (src->held || mt_fmt(path, sizeof path, NULL, "%s/%s/%s", s->dir, src->ids[MT_LOGFWD_ENV], src->ids[MT_LOGFWD_INSTANCE]) < 0 || stat(path, &st) == 0 || errno != ENOENT)
            continue;
        forget(s, src);
    }
    (void)pthread_mutex_unlock(&s->lock);
}

static void forget_ended(struct mt_log_sources *s)
{
    size_t pos = 0;
    void *v;
    (void)pthread_mutex_lock(&s->lock);
    while (mt_map_next(&s->map, &pos, NULL, &v))
        if (!((struct mt_log_source *)v)->held)
            forget(s, v);
    (void)pthread_mutex_unlock(&s->lock);
}

static bool keeps(struct mt_log_sources *s)
{
    (void)pthread_mutex_lock(&s->lock);
    bool keep = s->keep;
    (void)pthread_mutex_unlock(&s->lock);
    return keep;
}

void mt_log_sources_keep(struct mt_log_sources *s, bool keep)
{
    (void)pthread_mutex_lock(&s->lock);
    bool was = s->keep;
    s->keep = keep;
    (void)pthread_mutex_unlock(&s->lock);
    if (keep && !was)
        mt_log_sources_sweep(s);
    else if (was && !keep)
        forget_ended(s);
}

void mt_log_sources_sweep(struct mt_log_sources *s)
{
    char env[PATH_MAX];
    if (!keeps(s))
        return;
    forget_gone(s);
    mt_auto_dir DIR *d = opendir(s->dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!mt_id_valid(MT_ID_ENV, e->d_name, strlen(e->d_name)) || mt_fmt(env, sizeof env, NULL, "%s/%s", s->dir, e->d_name) < 0)
            continue;
        mt_auto_dir DIR *sub = opendir(env);
        for (struct dirent *i; sub && (i = readdir(sub));)
            if (mt_id_valid(MT_ID_INSTANCE, i->d_name, strlen(i->d_name)))
                take_in(s, e->d_name, i->d_name);
    }
}
