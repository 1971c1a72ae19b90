/* SPDX-License-Identifier: Apache-2.0 */
/* One arena for one request or pass: bounded, freed as a whole. */
#pragma once

#include "base/cleanup.h"
#include "base/err.h"

struct mt_arena_block;

struct mt_arena {
    struct mt_arena_block *head;
    size_t total; /* bytes handed out */
    size_t max;   /* bound on total */
};

void mt_arena_init(struct mt_arena *a, size_t max);
void mt_arena_done(struct mt_arena *a);
/** @n zeroed bytes aligned for any type, valid until mt_arena_done; NULL at the bound or when memory is out. */
void *mt_arena_alloc(struct mt_arena *a, size_t n);
/** Copy of @n bytes plus a NUL. */
char *mt_arena_strndup(struct mt_arena *a, const char *s, size_t n);
char *mt_arena_strdup(struct mt_arena *a, const char *s);
char *mt_arena_printf(struct mt_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define mt_auto_arena mt_cleanup(mt_arena_done)
