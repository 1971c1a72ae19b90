/* SPDX-License-Identifier: Apache-2.0 */
/* The request of moat-backup, docs/formats/backup.md. Pure but for locked memory. */
#pragma once

#include "backup/manifest.h"
#include "os/lockmem.h"

#include <sys/types.h>

enum mt_bk_verb { MT_BK_BACKUP = 0, MT_BK_RESTORE, MT_BK_VERIFY_VERB, MT_BK_SCAN, MT_BK_GC, MT_BK_PUT_KEY, MT_BK_GET_KEY, MT_BK_PUT_FILE, MT_BK_GET_FILE, MT_BK_LIST_FILES, MT_BK_VERB_MAX };

#define MT_BK_KEYS_MAX 64
#define MT_BK_LIST_MAX 1000
#define MT_BK_FILE_NAME 129

/* Kept in locked memory: the request lives as long as the program. */
struct mt_bk_secrets {
    char access_key[256], secret_key[256], session_token[4096];
    struct mt_bk_keys keys[MT_BK_KEYS_MAX];
    size_t key_count;
};

struct mt_bk_store {
    bool tls, virtual_style;
    char host[262];     /* as it goes into Host: bucket in front for virtual style, port when given */
    char bucket[64], region[64], prefix[201], ca_file[256];
    uint32_t parallel, tries, retry_base_ms, timeout_s;
    uint64_t upload_limit, download_limit; /* bytes per second, 0: none */
};

struct mt_bk_id_list {
    char (*ids)[MT_ID_SIZE];
    size_t count;
};

struct mt_bk_request {
    enum mt_bk_verb verb;
    struct mt_bk_store store;
    struct mt_bk_scope scope;  /* volume "" in a scan of the cluster */
    struct mt_lockmem locked;
    struct mt_bk_secrets *secret; /* inside locked */
    uid_t uid;
    gid_t gid;
    uint32_t total_timeout_s;
    int step_fd, image_fd, ranges_fd, journal_fd; /* -1: none */
    char snapshot[MT_ID_SIZE], base[MT_ID_SIZE], parent[MT_ID_SIZE]; /* base: also have_snapshot_id */
    uint32_t key_epoch;
    uint64_t size_bytes, captured_at_ms;
    bool filesystem, zeroed, salvage, sample, check_chunks;
    bool distrust; /* nothing that is stored is taken for good: neither by the base's word nor by the store's */
    uint32_t sample_percent;
    bool want_root, want_sha;
    uint8_t root[32], sha[32];
    struct mt_bk_id_list delete_manifests, expect_manifests;
    uint32_t min_age_s;
    bool chunks, purge, dry_run;
    uint8_t wrapped[72];
    char name[MT_BK_FILE_NAME]; /* of a file; its descriptor is image_fd */
};

/** The verb of that name; false when there is none. */
bool mt_bk_verb_of(const char *name, enum mt_bk_verb *ret);
/** Parse and check. -MT_E_INVALID names the member. Give back with mt_bk_request_done, also after a failure. */
int mt_bk_request_parse(const char *text, size_t len, enum mt_bk_verb verb, struct mt_bk_request *ret, struct mt_err *err);
/** Can a stored file have this name: 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-', no dot first? */
bool mt_bk_file_name(const char *name);
/** Wipe and free. */
void mt_bk_request_done(struct mt_bk_request *r);
/** Keys of an epoch, NULL when there are none. */
const struct mt_bk_keys *mt_bk_request_keys(const struct mt_bk_request *r, uint32_t epoch);
