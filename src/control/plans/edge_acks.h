/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each edge has applied. In memory only: edges post every 10 s and after each apply, so a restarted control plane
 * knows again within seconds, and until then nothing is cut short. Thread-safe.
 */
#pragma once

#include "model/ids.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_edges;

struct mt_edges *mt_edges_new(void);
void mt_edges_free(struct mt_edges *e);
/** An edge reported (@epoch, @revision) at @now_ns (monotonic). */
void mt_edges_note(struct mt_edges *e, const char *node_id, int64_t revision, int64_t now_ns);
/** Highest revision any edge that reported within the last 30 s has applied; 0 when none. */
int64_t mt_edges_best(struct mt_edges *e, int64_t now_ns);
/** True when every one of the @n edge nodes named has applied @revision or later. False for n = 0. */
bool mt_edges_all_at(struct mt_edges *e, const char *const *node_ids, size_t n, int64_t revision);
/** Forget all: revisions count anew. */
void mt_edges_clear(struct mt_edges *e);
