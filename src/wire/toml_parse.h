/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the TOML reader: the parser's state and what its files call in each other. All int results: 0, or -1 with a
 * problem recorded (or `nomem` set). */
#pragma once

#include "wire/toml.h"

#include "base/arena.h"
#include "base/cleanup.h"

#define MT_TP_ARENA_MAX (96U * 1024U * 1024U) /* a text of 256 KiB needs far less: about 60 times its size at worst */

/* mt_toml_value.state */
enum {
    MT_TP_EXPLICIT = 1U << 0, /* table with a header of its own, or the root */
    MT_TP_DOTTED = 1U << 1,   /* table made or extended by dotted keys */
    MT_TP_INLINE = 1U << 2,   /* inline table: closed */
    MT_TP_TABLES = 1U << 3,   /* array made by [[headers]] */
};

struct mt_tp_memory {
    struct mt_arena arena;
};

struct slot;

struct mt_tp {
    const char *p, *end;
    uint32_t line;
    const char *line_start;
    const char *col_at; /* column cache: col is the column of col_at on line col_line */
    uint32_t col, col_line;
    unsigned in_value; /* arrays or inline tables entered on this line */
    bool nomem;
    struct mt_toml_value *array; /* innermost one being read */
    size_t comment_room;
    uint64_t seed;
    struct slot *slots;
    size_t n_slots, n_keys;
    struct mt_toml *doc;
    struct mt_tp_memory *mem;
    struct mt_toml_value *current; /* where keys go */
    struct mt_toml_value *nowhere; /* where keys below a broken header go */
};

struct mt_tp_part {
    const char *s;
    size_t len;
    struct mt_toml_pos pos;
};

/* toml.c */
/** An empty document and a parser at the start of @text; -MT_E_NOMEM. t->slots is the caller's to free. */
int mt_tp_begin(struct mt_tp *ret_t, const char *text, size_t len, struct mt_toml **ret, struct mt_err *err);
struct mt_toml_pos mt_tp_pos(struct mt_tp *t, const char *at);
int mt_tp_fail_pos(struct mt_tp *t, struct mt_toml_pos pos, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#ifdef __clang_analyzer__
#define mt_tp_fail_pos(...) mt_err_below_0((mt_tp_fail_pos)(__VA_ARGS__))
#endif
#define mt_tp_fail(t, at, ...) mt_tp_fail_pos((t), mt_tp_pos((t), (at)), __VA_ARGS__)
int mt_tp_nomem(struct mt_tp *t);
void mt_tp_newline(struct mt_tp *t); /* p stands behind a line end */
void mt_tp_blanks(struct mt_tp *t);
bool mt_tp_at_eol(const struct mt_tp *t);
void mt_tp_eat_eol(struct mt_tp *t);
int mt_tp_comment(struct mt_tp *t);
int mt_tp_key(struct mt_tp *t, struct mt_tp_part parts[MT_TOML_KEY_PARTS_MAX], size_t *ret_n);
int mt_tp_put(struct mt_tp *t, struct mt_toml_value *table, const struct mt_tp_part *parts, size_t n,
              struct mt_toml_value *value);
struct mt_toml_entry *mt_tp_find(const struct mt_tp *t, const struct mt_toml_value *table, const char *key, size_t len);
int mt_tp_add(struct mt_tp *t, struct mt_toml_value *table, const struct mt_tp_part *part, struct mt_toml_value *value);
int mt_tp_append(struct mt_tp *t, struct mt_toml_value *array, struct mt_toml_value *value);
struct mt_toml_value *mt_tp_new(struct mt_tp *t, enum mt_toml_type type, struct mt_toml_pos pos);

/* toml_value.c: arrays, inline tables, choice of scalar; @depth counts from 1 */
int mt_tp_value(struct mt_tp *t, unsigned depth, struct mt_toml_value **ret);

/* toml_scalar.c */
int mt_tp_string(struct mt_tp *t, const char **ret, size_t *ret_len); /* any of the four kinds, at its first quote */
int mt_tp_number_or_date(struct mt_tp *t, struct mt_toml_value *value);
