/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Last known good configuration on disk: `config.json` and `config.json.prev` in the data folder, each a header line with
 * length, SHA-256 and revision before the snapshot bytes. Format: docs/formats/edge-config.md 2.
 */
#pragma once

#include "base/err.h"

/**
 * Keep @text as the current file; the one before becomes .prev. Durable when it returns 0; a crash at any point leaves at
 * least one good file. -MT_E_IO.
 */
int mt_edge_store_save(const char *dir, const char *text, size_t len, uint64_t epoch, uint64_t revision, struct mt_err *err);
/**
 * Read one of the two files (@prev chooses) and check its header. *ret_text is malloc'ed, NUL-terminated.
 * -MT_E_NOT_FOUND no file; -MT_E_CORRUPT the header does not fit the bytes; -MT_E_IO.
 */
int mt_edge_store_load(const char *dir, bool prev, char **ret_text, size_t *ret_len, struct mt_err *err);
