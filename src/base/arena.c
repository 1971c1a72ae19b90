/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <stdarg.h>

struct mt_arena_block {
    struct mt_arena_block *next;
    size_t used, cap;
    _Alignas(max_align_t) uint8_t data[];
};

enum { BLOCK = 4000 };

void mt_arena_init(struct mt_arena *a, size_t max)
{
    *a = (struct mt_arena){.max = max};
}

void mt_arena_done(struct mt_arena *a)
{
    for (struct mt_arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    a->head = NULL;
    a->total = 0;
}

void *mt_arena_alloc(struct mt_arena *a, size_t n)
{
    const size_t align = _Alignof(max_align_t);
    if (n > a->max || n > SIZE_MAX - align)
        return NULL;
    n = (n + align - 1) & ~(align - 1);
    if (n > a->max || a->total > a->max - n)
        return NULL;
    struct mt_arena_block *b = a->head;
    if (!b || b->cap - b->used < n) {
        size_t cap = n > BLOCK ? n : BLOCK;
        b = malloc(sizeof *b + cap);
        if (!b)
            return NULL;
        b->used = 0;
        b->cap = cap;
        b->next = a->head;
        a->head = b;
    }
    void *p = b->data + b->used;
    b->used += n;
    a->total += n;
    return memset(p, 0, n);
}

char *mt_arena_strndup(struct mt_arena *a, const char *s, size_t n)
{
    char *p = n == SIZE_MAX ? NULL : mt_arena_alloc(a, n + 1);
    if (p && n)
        memcpy(p, s, n);
    return p;
}

char *mt_arena_strdup(struct mt_arena *a, const char *s)
{
    return mt_arena_strndup(a, s, strlen(s));
}

char *mt_arena_printf(struct mt_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : mt_arena_alloc(a, (size_t)n + 1);
    if (p)
        (void)vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}
