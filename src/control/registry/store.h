/* SPDX-License-Identifier: Apache-2.0 */
/* Who an organisation is at a registry: a user name in the log, a password in an envelope (docs/formats/secrets.md). Plaintext
 * exists only in locked memory of the caller, for as long as one question to a registry takes. */
#pragma once

#include "base/cleanup.h"

#include "control/log/append.h"
#include "control/secrets/keys.h"
#include "model/ids.h"
#include "os/lockmem.h"

#define MT_REGISTRY_USER_MAX 256      /* bytes */
#define MT_REGISTRY_PASSWORD_MAX 4096 /* bytes; tokens of cloud registries are long */

struct mt_registry_login {
    char reg_id[MT_ID_SIZE];
    char username[MT_REGISTRY_USER_MAX + 1];
    struct mt_lockmem password; /* text with NUL; len without it */
};
void mt_registry_login_done(struct mt_registry_login *l);
#define mt_auto_registry_login mt_cleanup(mt_registry_login_done)

/**
 * The credential of @org_id for @host ("registry.example.com:5000", as it stands before a repository).
 * 1 found; 0 there is none; -MT_E_UNAVAILABLE the master key is not loaded; -MT_E_CORRUPT it does not open.
 */
int mt_registry_login(struct mt_keys *keys, struct mt_pg *pg, const char *org_id, const char *host, struct mt_registry_login *ret,
                      struct mt_err *err);

/**
 * The secret of @id, whose row is at material @material_id: a password, or the token of a log drain, which is kept here too.
 * Errors as above, -MT_E_CORRUPT also when there is none.
 */
int mt_registry_secret(struct mt_keys *keys, struct mt_pg *pg, const char *org_id, const char *id, const char *material_id, struct mt_lockmem *ret,
                       struct mt_err *err);

/** Encrypt @password and add its row to @cmd, in place of what @reg_id had. @ret_material its id, for the event. */
int mt_registry_put(struct mt_keys *keys, struct mt_cmd *cmd, const char *org_id, const char *reg_id, const char *password, size_t n,
                    char ret_material[MT_ID_SIZE], struct mt_err *err);
/** Destroy the password of @reg_id with @cmd. */
int mt_registry_drop(struct mt_cmd *cmd, const char *reg_id, struct mt_err *err);
/** The end of an organisation: its credentials and log drains are deleted with it, passwords and tokens destroyed. */
int mt_registry_end(struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_cmd_ids *ids, struct mt_err *err);
