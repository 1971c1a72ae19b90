/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets in the database: what an environment has, opening it, and the rows of a new version. Plaintext exists only in
 * locked memory of the caller. */
#pragma once

#include "base/cleanup.h"

#include "control/log/append.h"
#include "control/secrets/keys.h"
#include "model/ids.h"
#include "os/lockmem.h"

#define MT_SECRETS_KEPT 20 /* versions whose material stays, beside those in use */

/** The secrets of an environment as they are; bundle_id "" when it has none. */
struct mt_secrets_now {
    char bundle_id[MT_ID_SIZE], version_id[MT_ID_SIZE]; /* version_id "": none set yet */
    int64_t resource_version;
    int version_number, key_count;
    char data_hash[MT_SHA256_HEX];
    bool confirmed_none;
    uint8_t tag[MT_SEAL_WRAPPED]; /* the key of the bundle's data hashes, wrapped */
    size_t tag_len;               /* 0: none is there */
};
int mt_secrets_now(struct mt_pg *pg, const char *env_id, struct mt_secrets_now *ret, struct mt_err *err);

/** The content of a version as the database holds it, borrowed from the result that found it. */
struct mt_secrets_sealed {
    struct mt_pg_res *row; /* owned */
    struct mt_seal_ids ids;
    const void *envelope, *wrapped;
    size_t envelope_len, wrapped_len;
    bool shredded; /* there is no content any more */
};
/** Point @s, whose row is set, at the columns @envelope and @wrapped of its first row; @ids outlive it. */
void mt_secrets_sealed_in(struct mt_secrets_sealed *s, struct mt_seal_ids ids, int envelope, int wrapped);
void mt_secrets_sealed_done(struct mt_secrets_sealed *s);
#define mt_auto_secrets_sealed mt_cleanup(mt_secrets_sealed_done)
/**
 * What is there and the content of the current version, in one statement; @ret_sealed is the caller's to end and borrows from @ret.
 * Its row is NULL where the environment has no bundle; with no version set yet it is shredded.
 */
int mt_secrets_content(struct mt_pg *pg, const char *env_id, struct mt_secrets_now *ret, struct mt_secrets_sealed *ret_sealed,
                       struct mt_err *err);
/** The canonical file into @ret (a new buffer; its owner is the caller). Errors as mt_secrets_open, but for the first. */
int mt_secrets_unseal(struct mt_keys *keys, const struct mt_secrets_sealed *s, struct mt_lockmem *ret, struct mt_err *err);
/**
 * The canonical file of a version into @ret (a new buffer; its owner is the caller).
 * @env_id  the version must be of this environment
 * -MT_E_NOT_FOUND no such version; -MT_E_LIMIT its material is shredded; -MT_E_UNAVAILABLE its master key is not loaded;
 * -MT_E_CORRUPT it does not open: changed, moved, or another key.
 */
int mt_secrets_open(struct mt_keys *keys, struct mt_pg *pg, const char *env_id, const char *version_id, struct mt_lockmem *ret,
                    struct mt_err *err);

/** A version to be. */
struct mt_secrets_new {
    const char *org_id, *app_id, *env_id, *created_by;
    const char *source;        /* put, patch, activate */
    const uint8_t *canonical;
    size_t len;
    const char *const *names;  /* of the keys, ascending */
    size_t n;
    bool confirmed_none;
    /* filled */
    char bundle_id[MT_ID_SIZE], version_id[MT_ID_SIZE], data_hash[MT_SHA256_HEX];
    int version_number;
    int64_t resource_version; /* of the bundle afterwards */
    bool unchanged;           /* same content as now: nothing was added, the fields say what is there */
};
/** Encrypt @v and add events and rows to @cmd, which then relies on @now. -MT_E_UNAVAILABLE, -MT_E_CORRUPT as above. */
int mt_secrets_add(struct mt_keys *keys, struct mt_cmd *cmd, const struct mt_secrets_now *now,
                   struct mt_secrets_new *v, struct mt_err *err);

/** The end of an environment: its bundle is deleted with it, if it has one. Material goes a day later (mt_secrets_collect). */
int mt_secrets_end(struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_cmd_ids *ids, struct mt_err *err);
/** Destroy what belongs to environments deleted a day ago and versions that nobody needs. @ret_n rows. */
int mt_secrets_collect(struct mt_pg *pg, int64_t *ret_n, struct mt_err *err);
