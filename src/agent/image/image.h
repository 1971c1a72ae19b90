/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Root disks of images: make sure the disk of a digest is on this node, pin it, and give space back.
 *
 * Knows the images folder of the data folder, the programs moat-fetch and moat-unpack, and nothing of instances: an owner
 * is a text. Plain files only; the index is rebuilt by scanning at open. Everything here is thread-safe. No function but
 * mt_image_ensure, mt_image_gc and mt_image_verify_next waits for long.
 *
 * Layout below images_dir (runtime.md 4, 13-16; docs/formats/rootdisk.md):
 *   blobs/sha256/<hex>      verified blobs, owned by the fetch user
 *   rootdisks/<key>.ext4    0444; <key>.json beside it; <key>.used (its mtime is the last use)
 *   tmp/                    work in progress, never trusted, removed after an hour or when its maker is gone
 */
#pragma once

#include "base/err.h"
#include "model/reason.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MT_IMAGE_KEY_HEX 64 /* length of a root disk key, without NUL */
#define MT_IMAGE_PATIENCE_MS 30000 /* of a child that gives way wholly: a machine that is always full would starve it */

/** The part of the image's config that a workload inherits. Strings are UTF-8 without NUL; lists end in NULL. */
struct mt_image_config {
    char **entrypoint;    /* never NULL, may be empty */
    char **cmd;
    char **env;           /* "KEY=value" */
    char **exposed_ports; /* "8443/tcp", in byte order */
    char *working_dir;    /* "" when the image names none */
    char *user;           /* "" likewise */
    char *stop_signal;    /* "" likewise; else as given: "SIGTERM", "TERM" or a number */
};

/** A root disk in the cache. Owned by the caller after mt_image_ensure; free with mt_rootdisk_done. */
struct mt_rootdisk {
    char *path;                     /* absolute path of the ext4 file, mode 0444 */
    char key[MT_IMAGE_KEY_HEX + 1]; /* sha256(resolved_digest ":" format_version), hex */
    char uuid[37];                  /* filesystem UUID as text */
    char digest[72];                /* "sha256:<hex>" of the manifest it was built from */
    uint64_t bytes;                 /* size of the file, a multiple of 1 MiB (sparse) */
    uint64_t used_bytes;            /* bytes of it that hold data and metadata */
    struct mt_image_config config;
    bool cached;                    /* no network and no build was needed */
    uint64_t pull_ms, build_ms;     /* time spent in the two phases, 0 when cached */
};

/** Free what @disk owns and zero it; safe on a zeroed struct. */
void mt_rootdisk_done(struct mt_rootdisk *disk);

enum mt_image_phase {
    MT_IMAGE_PULLING = 0, /* status_detail pulling_image */
    MT_IMAGE_BUILDING,    /* status_detail building_rootfs */
    MT_IMAGE_PHASE_MAX
};

/** "pulling_image" or "building_rootfs", the words of runtime.md 2.3. */
const char *mt_image_phase_name(enum mt_image_phase phase);

/** Borrowed for the time of the call. */
struct mt_image_request {
    const char *repository; /* host[:port]/path, no tag (WorkloadSpec image.repository) */
    const char *digest;     /* "sha256:<hex>": image.resolved_digest; NULL or "" gives image_unresolved */
    const char *arch;       /* "amd64" or "arm64" */
    const char *owner;      /* pinned for this owner on success: the instance id */
    const char *username;   /* registry credential, NULL for none; lives in memory only */
    const char *password;
    /* Called on the calling thread when a phase begins; not called for a cached disk. May be NULL. */
    void (*on_phase)(void *arg, enum mt_image_phase phase);
    void *arg;
    atomic_bool *cancelled; /* may be NULL; set it with mt_image_cancel */
};

/** Why ensure failed, in the words of runtime.md 6. */
struct mt_image_failure {
    enum mt_reason reason; /* IMAGE_PULL_FAILED, IMAGE_PULL_TIMEOUT, IMAGE_TOO_LARGE, IMAGE_LAYER_INVALID, IMAGE_ARCH_MISMATCH,
                              IMAGE_UNRESOLVED, ROOTFS_BUILD_FAILED, DISK_FULL; MT_REASON_NONE when cancelled */
    char detail[160];      /* reason_detail: "http_404", "digest_mismatch", "U1 ../etc/passwd", "layer_deadline" */
};

struct mt_image_conf {
    const char *images_dir;    /* absolute; made when missing */
    const char *fetch_path;    /* absolute path of moat-fetch */
    const char *unpack_path;   /* absolute path of moat-unpack */
    const char *e2fsck_path;   /* absolute; NULL means /sbin/e2fsck */
    uid_t worker_uid;          /* the user both programs drop to when the agent is root; 0: 65534 */
    gid_t worker_gid;
    const char *const *local_registries;    /* "host:port", NULL ended or NULL: may live at non-public addresses */
    const char *const *insecure_registries; /* "host:port": plain HTTP */
    const char *ca_file;                    /* extra trust anchors for registries, NULL for the system's */
    const char *cgroup_parent;              /* of the VMs: beside it the children get a group that gives way to them; NULL: by priority alone */
    const char *format_version;             /* NULL means "r1" */
    uint32_t layer_timeout_s;               /* 0: 300, at most 3600 */
    uint32_t total_timeout_s;               /* 0: 1800, at most 14400 */
    uint64_t max_compressed_bytes;          /* 0: 10 GiB */
    uint64_t max_unpacked_bytes;            /* 0: 50 GiB */
    uint32_t parallel_pulls;                /* 0: 4 */
    uint32_t parallel_builds;               /* 0: 2 */
    uint64_t cache_budget_bytes;            /* 0: the smaller of 20 % of the filesystem and 100 GiB */
    uint64_t blob_keep_bytes;               /* 0: 10 GiB */
    uint32_t min_age_s;                     /* an unpinned disk is not evicted before this; 0: 600. UINT32_MAX: none (tests) */
    uint32_t failure_memory_s;              /* a failed digest is not tried again for this long when the image itself is at
                                               fault; 0: 600 */
};

struct mt_image_store;

/**
 * Open the store: make the folders, remove what a killed predecessor left in tmp/, index the root disks whose JSON, size and
 * format are right (others are removed: they can be built again). @conf and its strings are copied.
 * Errors: MT_E_INVALID (a path), MT_E_IO, MT_E_CONFLICT (another live store uses the folder), MT_E_NOMEM.
 */
int mt_image_store_open(const struct mt_image_conf *conf, struct mt_image_store **ret_store, struct mt_err *err);

/** Cancel all work, wait for its children to end, free. NULL is fine. */
void mt_image_store_close(struct mt_image_store *store);

/**
 * Give the root disk of a digest, pulling and building it when it is not cached. Blocks for up to the total deadline: call it
 * on a pool thread. Any number of callers may ask for one digest: one download and one build happen, all share the result.
 * The work goes on while at least one caller wants it; a cancelled caller returns at once, and when the last one is cancelled
 * the children are killed.
 *
 * On success the disk is pinned for request->owner before this returns. A disk that is cached needs no network.
 * Returns 0; -MT_E_CANCELLED (failure->reason is MT_REASON_NONE); otherwise failure tells the reason code, err the
 * sentence for people.
 */
int mt_image_ensure(struct mt_image_store *store, const struct mt_image_request *request, struct mt_rootdisk *ret_disk,
                    struct mt_image_failure *ret_failure, struct mt_err *err);

/**
 * VMs run on this node, or none does any more. moat-fetch and moat-unpack get what processor and disk leave over in any case; beside VMs
 * no more than one CPU of it. A child that has not ended after MT_IMAGE_PATIENCE_MS gets a tenth of a CPU from then on. Any thread.
 */
void mt_image_beside_vms(struct mt_image_store *store, bool vms);

/** At the end of the platform on this machine, when no work is under way: remove the children's cgroup. */
void mt_image_remove_group(struct mt_image_store *store);

/** Set *@cancelled and wake the ensure that watches it. Any thread. */
void mt_image_cancel(struct mt_image_store *store, atomic_bool *cancelled);

/** Forget that a digest failed (a new generation wants it); unknown digests are fine. */
void mt_image_forget_failure(struct mt_image_store *store, const char *digest);

/** Read a cached disk without pinning or building. -MT_E_NOT_FOUND. */
int mt_image_lookup(struct mt_image_store *store, const char *digest, struct mt_rootdisk *ret_disk, struct mt_err *err);

/**
 * Pin @digest's root disk for @owner: it is never evicted while pinned. Idempotent per owner. Used at agent start to restore
 * the pins from the instances' state files. -MT_E_NOT_FOUND when no such disk is cached (the pin is kept all the same, and
 * holds once the disk appears).
 */
int mt_image_pin(struct mt_image_store *store, const char *digest, const char *owner, struct mt_err *err);

/** Drop every pin of @owner; unknown owners are fine. Touches the last-use time of the disks. */
void mt_image_release(struct mt_image_store *store, const char *owner);

/** The digests named in the current plan (@n of them): kept even when unpinned. Replaces the former list. -MT_E_NOMEM. */
int mt_image_keep(struct mt_image_store *store, const char *const *digests, size_t n, struct mt_err *err);

struct mt_image_usage {
    uint64_t rootdisk_bytes, blob_bytes, tmp_bytes; /* allocated on disk, not apparent size */
    uint64_t budget_bytes;
    uint64_t fs_free_bytes, fs_total_bytes;
    uint32_t rootdisks, blobs, pinned;
    bool disk_pressure; /* less than 10 % free after the last GC: accept no starts (disk_full) */
    bool disk_critical; /* less than 3 % free: also stop spooling logs */
};

struct mt_image_gc_report {
    uint32_t tmp_removed, blobs_removed, rootdisks_removed;
    uint64_t bytes_freed;
    struct mt_image_usage after;
};

/**
 * One pass by runtime.md 16: tmp older than an hour; blobs that no running pull needs, down to blob_keep_bytes (all of them
 * under pressure); unpinned root disks by last use, when above 90 % of the budget or below 15 % free, down to 75 % / 20 %.
 * @now_s is wall time in seconds, an argument so that tests replay it. Call every minute or so, and on ENOSPC.
 */
int mt_image_gc(struct mt_image_store *store, int64_t now_s, struct mt_image_gc_report *ret_report, struct mt_err *err);

/** Current figures without removing anything. */
int mt_image_usage(struct mt_image_store *store, struct mt_image_usage *ret_usage, struct mt_err *err);

/**
 * Hash the root disk that was verified longest ago (call once an hour). A mismatch quarantines it: it is not handed out any
 * more and is removed once unpinned. Returns 0 with ret_key "" when there is nothing to do, -MT_E_CORRUPT on a mismatch.
 */
int mt_image_verify_next(struct mt_image_store *store, char ret_key[MT_IMAGE_KEY_HEX + 1], struct mt_err *err);

/** The root disk key of a digest: hex of sha256(digest ":" format_version). -MT_E_INVALID when @digest is not sha256:<64 hex>. */
int mt_image_key(const char *digest, const char *format_version, char ret_key[MT_IMAGE_KEY_HEX + 1], struct mt_err *err);
