/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of agent/image share. Nobody else includes this. */
#pragma once

#include "agent/image/image.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/map.h"
#include "os/cgroup.h"

#include <jansson.h>
#include <pthread.h>

/* A root disk in the index. */
struct image_entry {
    struct mt_rootdisk disk;
    char sha256[65];
    int64_t verified_ns; /* monotonic; 0: not since open */
    bool quarantined;    /* its bytes are wrong: never handed out, removed once unpinned */
};

struct image_pin {
    struct mt_list link;
    char digest[72];
    char owner[]; /* NUL terminated */
};

/* A digest whose image is at fault, not to be tried again for a while. */
struct image_failed {
    int64_t until_ns;
    struct mt_image_failure failure;
    char message[240];
};

struct image_job;

struct mt_image_store {
    struct mt_image_conf conf; /* strings owned */
    char **local, **insecure;  /* owned copies behind conf */
    int lock_fd;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* phases, ends of jobs, free places, cancellations */
    /* Guarded by the lock: */
    struct mt_map disks;    /* digest -> struct image_entry */
    struct mt_map failures; /* digest -> struct image_failed */
    struct mt_map jobs;     /* digest -> struct image_job that new callers may join */
    struct mt_list pins;
    char **keep;
    unsigned jobs_alive, pulls, builds;
    bool closing;
    bool pressure, critical;
    /* Of the children's cgroup; own lock, held for a few writes: */
    pthread_mutex_t group_lock;
    struct mt_cgroup_host group_host;
    bool group_usable, beside_vms;
};

/* disk.c: a root disk's JSON. */
int image_disk_from_json(const json_t *doc, const char *dir, struct image_entry *ret, struct mt_err *err);
int image_disk_load(const char *path, const char *dir, struct image_entry *ret, struct mt_err *err);
int image_disk_save(const char *path, const json_t *doc, struct mt_err *err);
int image_disk_copy(const struct mt_rootdisk *from, struct mt_rootdisk *ret, struct mt_err *err);
void image_entry_free(struct image_entry *e);

/* store.c */
int image_path(const struct mt_image_store *s, char *ret, size_t size, struct mt_err *err, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
bool image_pinned(const struct mt_image_store *s, const char *digest);
bool image_kept(const struct mt_image_store *s, const char *digest);
int image_pin_locked(struct mt_image_store *s, const char *digest, const char *owner, struct mt_err *err);
void image_touch_used(const struct mt_image_store *s, const char *key);
int image_index_put(struct mt_image_store *s, struct image_entry *e, struct mt_err *err);
void image_remove_files(const struct mt_image_store *s, const char *key);

/* job.c: the work for one digest, in a thread of its own. */
void image_jobs_cancel_all(struct mt_image_store *s); /* with the lock held */

/* child.c */
struct image_child {
    const char *path;
    const char *const *argv;
    const char *input; /* to stdin, wiped by the caller if secret */
    size_t input_len;
    int cancel_fd;     /* readable: kill the child */
    int64_t timeout_ms;
    struct mt_image_store *store; /* whose cgroup it joins */
};
/** group.c: make the children's cgroup as it is to be now; the file to join it by, "" for none. */
void image_group_set(struct mt_image_store *s, enum mt_cgroup_yield yield, char ret_procs[MT_CGROUP_PATH * 2]);
void image_group_open(struct mt_image_store *s);
/** Run to the end, stdout into @out. 0 whatever its exit status; -MT_E_CANCELLED, -MT_E_TIMEOUT (killed), -code of mt_spawn. */
int image_child_run(const struct image_child *c, struct mt_buf *out, struct mt_err *err);
