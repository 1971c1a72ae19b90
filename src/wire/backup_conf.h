/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backup.toml: the store that this node's backups go to, with its credentials (storage-and-secrets.md 4.7). Only root may read it.
 */
#pragma once

#include "base/buf.h"
#include "wire/conf.h"

struct mt_backup_conf {
    char *endpoint, *region, *bucket, *prefix, *style, *access_key, *secret_key, *session_token, *ca_file;
    bool allow_insecure;
    uint64_t parallel, upload_limit_bytes, tries, request_timeout_s;
};

/** The table, for help and tests. */
const struct mt_conf_key *mt_backup_conf_keys(size_t *ret_n);
/** Read @path: a regular file of our own user that nobody else may read. -MT_E_NOT_FOUND there is none; -MT_E_INVALID names what is wrong. */
int mt_backup_conf_load(const char *path, struct mt_backup_conf *ret, struct mt_err *err);
/** Wipes the credentials. */
void mt_backup_conf_done(struct mt_backup_conf *c);
/** The `store` object of a request to moat-backup (docs/formats/backup.md) at the end of @b. */
void mt_backup_conf_put(const struct mt_backup_conf *c, struct mt_buf *b);
