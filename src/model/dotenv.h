/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of KEY=VALUE lines as other tools keep them (.env), read into the entries of a secrets file (control-plane.md §12, "dotenv
 * import"; docs/formats/secrets.md says what is understood). Pure, never allocates; values appear in no message.
 */
#pragma once

#include "model/secretfile.h"

/** True when the first line that is not blank looks like the header of a secrets file: then it is to be read as one. */
bool mt_dotenv_is_secretfile(const void *data, size_t len);

/**
 * Read a .env file: `export` before a key, '...' and "..." (over several lines, \n \r \t \\ \" \$ in the latter), comments. Nothing is
 * interpolated.
 * @data, @len  hostile bytes
 * @mem         at least @len bytes that stay as long as @ret is used; keys and values are put there. Wipe it.
 * Returns 0, or -MT_E_INVALID with ret->fault and a message of line number and key, never of a value.
 */
int mt_dotenv_read(const void *data, size_t len, uint8_t *mem, struct mt_secretfile *ret, struct mt_err *err);
