/* SPDX-License-Identifier: Apache-2.0 */
/* The desktop's keyring (Secret Service), by way of libsecret's secret-tool (control-plane.md §15.2). */
#pragma once

#include "cli/cli.h"

/** Is there a session bus on which a keyring may answer, the program to ask it, and nobody who said MOAT_KEYRING=off? */
bool cli_keyring_there(void);
/** Keep @entry for @server, in place of what is kept. -code: it did not take it, nothing has changed. */
int cli_keyring_put(const char *server, const json_t *entry, struct mt_err *err);
/** What is kept for @server, owned by the caller. -MT_E_NOT_FOUND: nothing, or the keyring stays locked; other -code: it does not answer. */
int cli_keyring_get(const char *server, json_t **ret, struct mt_err *err);
/** Forget what is kept for @server; nothing is fine as well. */
int cli_keyring_forget(const char *server, struct mt_err *err);
