/* SPDX-License-Identifier: Apache-2.0 */
/* Cursors of lists: opaque to clients, bound to the list, its filters and its order (control-plane.md §9.1). Pure. */
#pragma once

#include "model/ids.h"

#define MT_CURSOR_SIZE 96

/** Cursor after the item @id of the list that @key describes (path, filters, order). False when @id is no id. */
bool mt_cursor_make(const char *id, const char *key, char ret[MT_CURSOR_SIZE]);

/** The id in a cursor that was made with the same @key; false for anything else. */
bool mt_cursor_read(const char *text, const char *key, char ret_id[MT_ID_SIZE]);
