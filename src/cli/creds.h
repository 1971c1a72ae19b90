/* SPDX-License-Identifier: Apache-2.0 */
/* Stored logins: $XDG_STATE_HOME/moat/credentials, one entry for each server (control-plane.md §15.2). */
#pragma once

#include "cli/cli.h"

/** Exchange JSON with the server without a token and without printing: *ret_status and *ret (owned, may be NULL). Exit code
 * only when nobody answered; then the error has been printed. */
int cli_exchange(struct cli *c, const char *path, const json_t *body, int *ret_status, json_t **ret);
/** The error of an answer that cli_exchange gave. Exit code. */
int cli_exchange_failed(struct cli *c, int status, const json_t *problem);

/**
 * Find a token for c->api when none was given: MOAT_CLIENT_ID and MOAT_CLIENT_SECRET are exchanged; else the stored login,
 * refreshed under a lock when it is about to end. *ret_found false: there is neither. Exit code.
 */
int cli_credential(struct cli *c, bool *ret_found);

/** Path of the file, malloc'ed; NULL when memory is out. */
char *cli_creds_path(void);
/** Entry of c->api, NULL when there is none; owned by the caller. Refuses a file that others can read. Exit code. */
int cli_creds_get(struct cli *c, json_t **ret);
/** Set (or with NULL remove) the entry of c->api. Exit code. */
int cli_creds_put(struct cli *c, const json_t *entry);
/** Entry out of an answer with tokens; NULL when it is none. Owned by the caller. */
json_t *cli_creds_entry(const json_t *tokens, const char *email);
