/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TOML 1.0: tables, keys and the tree. Values are read in toml_value.c, text and numbers in toml_scalar.c.
 *
 * One pass over the text; all memory comes from one arena that goes with the document. Keys are found through one hash
 * table for the whole document, so no text can make a lookup slow.
 */
#include "wire/toml.h"

#include "wire/toml_parse.h"

#include "base/assert.h"
#include "base/str.h"
#include "os/file.h"

#include <stdarg.h>

static const char *const type_names[MT_TOML_TYPE_MAX] = {
    [MT_TOML_STRING] = "string",
    [MT_TOML_INTEGER] = "integer",
    [MT_TOML_FLOAT] = "float",
    [MT_TOML_BOOL] = "boolean",
    [MT_TOML_OFFSET_DATETIME] = "date-time",
    [MT_TOML_LOCAL_DATETIME] = "local date-time",
    [MT_TOML_LOCAL_DATE] = "local date",
    [MT_TOML_LOCAL_TIME] = "local time",
    [MT_TOML_ARRAY] = "array",
    [MT_TOML_TABLE] = "table",
};

const char *mt_toml_type_name(enum mt_toml_type type)
{
    MT_ASSERT((unsigned)type < MT_TOML_TYPE_MAX);
    return type_names[type];
}

/* ---- positions and problems ---- */

struct mt_toml_pos mt_tp_pos(struct mt_tp *t, const char *at)
{
    /* Columns are counted once per character of a line: positions asked for grow, save for the rare look back. */
    if (at < t->col_at || t->col_line != t->line) {
        t->col_line = t->line;
        t->col_at = t->line_start;
        t->col = 1;
    }
    for (; t->col_at < at; t->col_at++)
        if (((unsigned char)*t->col_at & 0xC0) != 0x80)
            t->col++;
    return (struct mt_toml_pos){t->line, t->col};
}

int (mt_tp_fail_pos)(struct mt_tp *t, struct mt_toml_pos pos, const char *fmt, ...)
{
    va_list ap;

    if (t->doc->n_problems >= MT_TOML_PROBLEMS_MAX)
        return -1;
    struct mt_toml_problem *p = &t->doc->problems[t->doc->n_problems++];
    p->pos = pos;
    va_start(ap, fmt);
    (void)vsnprintf(p->message, sizeof p->message, fmt, ap);
    va_end(ap);
    return -1;
}

int mt_tp_nomem(struct mt_tp *t)
{
    t->nomem = true;
    return -1;
}

void mt_tp_newline(struct mt_tp *t)
{
    t->line++;
    t->line_start = t->p;
}

/* ---- keys of tables ---- */

struct slot {
    const struct mt_toml_value *table; /* NULL: free */
    size_t index;
};

static uint64_t key_hash(const struct mt_tp *t, const struct mt_toml_value *table, const char *key, size_t len)
{
    uint64_t h = t->seed ^ (uint64_t)(uintptr_t)table;

    for (size_t i = 0; i < len; i++)
        h = ((h ^ (unsigned char)key[i]) * UINT64_C(0x9E3779B97F4A7C15)) ^ (h >> 29);
    return h ^ (h >> 32);
}

static struct slot *slot_of(const struct mt_tp *t, const struct mt_toml_value *table, const char *key, size_t len)
{
    for (uint64_t i = key_hash(t, table, key, len);; i++) {
        struct slot *s = &t->slots[i & (t->n_slots - 1)];
        if (!s->table)
            return s;
        if (s->table == table) {
            const struct mt_toml_entry *e = &table->table.v[s->index];
            if (e->key_len == len && memcmp(e->key, key, len) == 0)
                return s;
        }
    }
}

static int slots_grow(struct mt_tp *t)
{
    struct slot *old = t->slots;
    size_t n_old = t->n_slots;

    t->n_slots = n_old ? n_old * 2 : 64;
    t->slots = calloc(t->n_slots, sizeof *t->slots);
    if (!t->slots) {
        t->slots = old;
        t->n_slots = n_old;
        return mt_tp_nomem(t);
    }
    for (size_t i = 0; i < n_old; i++)
        if (old[i].table) {
            const struct mt_toml_entry *e = &old[i].table->table.v[old[i].index];
            *slot_of(t, old[i].table, e->key, e->key_len) = old[i];
        }
    free(old);
    return 0;
}

struct mt_toml_entry *mt_tp_find(const struct mt_tp *t, const struct mt_toml_value *table, const char *key, size_t len)
{
    if (t->n_slots == 0)
        return NULL;
    const struct slot *s = slot_of(t, table, key, len);
    return s->table ? &table->table.v[s->index] : NULL;
}

/* Doubling copies inside the arena: what is left behind adds up to no more than the final size. */
static void *grown(struct mt_tp *t, const void *old, size_t n, size_t *room, size_t item)
{
    if (n < *room)
        return NULL;
    size_t want = *room ? *room * 2 : 4;
    void *p = mt_arena_alloc(&t->mem->arena, want * item);
    if (!p) {
        (void)mt_tp_nomem(t);
        return NULL;
    }
    if (n)
        memcpy(p, old, n * item);
    *room = want;
    return p;
}

int mt_tp_add(struct mt_tp *t, struct mt_toml_value *table, const struct mt_tp_part *part, struct mt_toml_value *value)
{
    if (table->table.n >= table->room) {
        struct mt_toml_entry *v = grown(t, table->table.v, table->table.n, &table->room, sizeof *v);
        if (!v)
            return -1;
        table->table.v = v;
    }
    if ((t->n_keys + 1) * 2 > t->n_slots && slots_grow(t) < 0)
        return -1;
    struct slot *s = slot_of(t, table, part->s, part->len);
    MT_ASSERT(!s->table);
    MT_ASSERT(table->table.v); /* grown above when it was full, and it is full while there is none */
    *s = (struct slot){table, table->table.n};
    table->table.v[table->table.n++] =
        (struct mt_toml_entry){.key = part->s, .key_len = part->len, .pos = part->pos, .value = value};
    t->n_keys++;
    return 0;
}

int mt_tp_append(struct mt_tp *t, struct mt_toml_value *array, struct mt_toml_value *value)
{
    if (array->array.n >= array->room) {
        struct mt_toml_value **v = grown(t, array->array.v, array->array.n, &array->room, sizeof(struct mt_toml_value *));
        if (!v)
            return -1;
        array->array.v = v;
    }
    array->array.v[array->array.n++] = value;
    return 0;
}

struct mt_toml_value *mt_tp_new(struct mt_tp *t, enum mt_toml_type type, struct mt_toml_pos pos)
{
    struct mt_toml_value *v = mt_arena_alloc(&t->mem->arena, sizeof *v);

    if (!v) {
        (void)mt_tp_nomem(t);
        return NULL;
    }
    v->type = type;
    v->pos = pos;
    return v;
}

/* ---- white space, comments, line ends ---- */

void mt_tp_blanks(struct mt_tp *t)
{
    while (t->p < t->end && (*t->p == ' ' || *t->p == '\t'))
        t->p++;
}

bool mt_tp_at_eol(const struct mt_tp *t)
{
    return t->p == t->end || *t->p == '\n' || (*t->p == '\r' && t->p + 1 < t->end && t->p[1] == '\n');
}

void mt_tp_eat_eol(struct mt_tp *t)
{
    if (t->p == t->end)
        return;
    t->p += *t->p == '\r' ? 2 : 1;
    mt_tp_newline(t);
}

/* Keep the comment from @start to here. */
static int keep_comment(struct mt_tp *t, const char *start)
{
    struct mt_toml *doc = t->doc;
    if (doc->n_comments == t->comment_room) {
        size_t room = t->comment_room ? t->comment_room * 2 : 16;
        struct mt_toml_comment *v = mt_arena_alloc(&t->mem->arena, room * sizeof *v);
        if (!v)
            return mt_tp_nomem(t);
        if (doc->n_comments)
            memcpy(v, doc->comments, doc->n_comments * sizeof *v);
        doc->comments = v;
        t->comment_room = room;
    }
    const char *before = t->line_start;
    while (before < start && (*before == ' ' || *before == '\t'))
        before++;
    doc->comments[doc->n_comments++] = (struct mt_toml_comment){.pos = mt_tp_pos(t, start), .s = start, .len = (size_t)(t->p - start),
                                                               .alone = before == start, .array = t->array};
    return 0;
}

int mt_tp_comment(struct mt_tp *t)
{
    const char *start = t->p;
    if (t->p == t->end || *t->p != '#')
        return 0;
    t->p++;
    while (!mt_tp_at_eol(t)) {
        size_t n = mt_utf8_len(t->p, (size_t)(t->end - t->p));
        if (n == 0)
            return mt_tp_fail(t, t->p, "comment is not valid UTF-8");
        if (((unsigned char)*t->p < 0x20 && *t->p != '\t') || *t->p == 0x7f)
            return mt_tp_fail(t, t->p, "comment holds a control character (byte 0x%02x)", (unsigned)(unsigned char)*t->p);
        t->p += n;
    }
    return keep_comment(t, start);
}

/* ---- keys as written ---- */

static bool bare_char(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

int mt_tp_key(struct mt_tp *t, struct mt_tp_part parts[MT_TOML_KEY_PARTS_MAX], size_t *ret_n)
{
    size_t n = 0;

    for (;;) {
        const char *start = t->p;
        if (n == MT_TOML_KEY_PARTS_MAX)
            return mt_tp_fail(t, start, "key has more than %d parts", MT_TOML_KEY_PARTS_MAX);
        struct mt_tp_part *part = &parts[n];
        *part = (struct mt_tp_part){.pos = mt_tp_pos(t, start)};
        if (t->p < t->end && (*t->p == '"' || *t->p == '\'')) {
            if (t->end - t->p >= 3 && t->p[1] == *t->p && t->p[2] == *t->p)
                return mt_tp_fail(t, start, "a key cannot be a multi-line string");
            if (mt_tp_string(t, &part->s, &part->len) < 0)
                return -1;
        } else {
            while (t->p < t->end && bare_char(*t->p))
                t->p++;
            if (t->p == start) {
                char shown[16];
                if (mt_tp_at_eol(t))
                    return mt_tp_fail(t, start, "a key is missing");
                size_t len = mt_utf8_len(start, (size_t)(t->end - start));
                return mt_tp_fail(t, start, "'%s' cannot start a key (bare keys are made of A-Z a-z 0-9 _ -)",
                                  mt_printable(start, len ? len : 1, shown, sizeof shown));
            }
            part->len = (size_t)(t->p - start);
            part->s = mt_arena_strndup(&t->mem->arena, start, part->len);
            if (!part->s)
                return mt_tp_nomem(t);
        }
        n++;
        mt_tp_blanks(t);
        if (t->p == t->end || *t->p != '.')
            break;
        t->p++;
        mt_tp_blanks(t);
    }
    *ret_n = n;
    return 0;
}

static int dup_fail(struct mt_tp *t, const struct mt_tp_part *part, const struct mt_toml_entry *first, const char *what)
{
    char shown[64];

    return mt_tp_fail_pos(t, part->pos, "%s '%s' is already defined at line %u, column %u", what,
                          mt_printable(part->s, part->len, shown, sizeof shown), (unsigned)first->pos.line,
                          (unsigned)first->pos.column);
}

int mt_tp_put(struct mt_tp *t, struct mt_toml_value *table, const struct mt_tp_part *parts, size_t n,
              struct mt_toml_value *value)
{
    for (size_t i = 0; i + 1 < n; i++) {
        const struct mt_toml_entry *e = mt_tp_find(t, table, parts[i].s, parts[i].len);
        if (!e) {
            struct mt_toml_value *sub = mt_tp_new(t, MT_TOML_TABLE, parts[i].pos);
            if (!sub)
                return -1;
            sub->state = MT_TP_DOTTED;
            if (mt_tp_add(t, table, &parts[i], sub) < 0)
                return -1;
            table = sub;
            continue;
        }
        if (e->value->type != MT_TOML_TABLE || (e->value->state & (MT_TP_EXPLICIT | MT_TP_INLINE)))
            return dup_fail(t, &parts[i], e, "a dotted key cannot add to it:");
        e->value->state |= MT_TP_DOTTED;
        table = e->value;
    }
    const struct mt_toml_entry *e = mt_tp_find(t, table, parts[n - 1].s, parts[n - 1].len);
    if (e)
        return dup_fail(t, &parts[n - 1], e, "key");
    return mt_tp_add(t, table, &parts[n - 1], value);
}

/* ---- [table] and [[array of tables]] ---- */

/* The table that the parts but the last lead to, made on the way where it is missing. */
static struct mt_toml_value *header_parent(struct mt_tp *t, const struct mt_tp_part *parts, size_t n)
{
    struct mt_toml_value *table = t->doc->root;

    for (size_t i = 0; i + 1 < n; i++) {
        const struct mt_toml_entry *e = mt_tp_find(t, table, parts[i].s, parts[i].len);
        if (!e) {
            struct mt_toml_value *sub = mt_tp_new(t, MT_TOML_TABLE, parts[i].pos);
            if (!sub || mt_tp_add(t, table, &parts[i], sub) < 0)
                return NULL;
            table = sub;
            continue;
        }
        table = e->value;
        if (table->type == MT_TOML_ARRAY && (table->state & MT_TP_TABLES))
            table = table->array.v[table->array.n - 1];
        if (table->type != MT_TOML_TABLE || (table->state & MT_TP_INLINE)) {
            (void)dup_fail(t, &parts[i], e, "a table header cannot extend it:");
            return NULL;
        }
    }
    return table;
}

static int header(struct mt_tp *t)
{
    struct mt_tp_part parts[MT_TOML_KEY_PARTS_MAX];
    const char *start = t->p;
    struct mt_toml_pos pos = mt_tp_pos(t, start);
    size_t n;

    t->current = t->nowhere; /* until the header is known to be good, its keys lead nowhere */
    t->p++;
    bool array = t->p < t->end && *t->p == '[';
    if (array)
        t->p++;
    mt_tp_blanks(t);
    if (mt_tp_key(t, parts, &n) < 0)
        return -1;
    if (t->p == t->end || *t->p != ']')
        return mt_tp_fail(t, t->p, "table header is not closed: expected ']'");
    t->p++;
    if (array) {
        if (t->p == t->end || *t->p != ']')
            return mt_tp_fail(t, t->p, "header of an array of tables is not closed: expected ']]'");
        t->p++;
    }

    struct mt_toml_value *parent = header_parent(t, parts, n);
    if (!parent)
        return -1;
    const struct mt_tp_part *last = &parts[n - 1];
    const struct mt_toml_entry *e = mt_tp_find(t, parent, last->s, last->len);
    struct mt_toml_value *table;
    if (array) {
        struct mt_toml_value *list = e ? e->value : NULL;
        if (list && (list->type != MT_TOML_ARRAY || !(list->state & MT_TP_TABLES)))
            return dup_fail(t, last, e, "not an array of tables:");
        if (!list) {
            list = mt_tp_new(t, MT_TOML_ARRAY, pos);
            if (!list || mt_tp_add(t, parent, last, list) < 0)
                return -1;
            list->state = MT_TP_TABLES;
        }
        table = mt_tp_new(t, MT_TOML_TABLE, pos);
        if (!table || mt_tp_append(t, list, table) < 0)
            return -1;
    } else if (e) {
        table = e->value;
        if (table->type != MT_TOML_TABLE || (table->state & (MT_TP_EXPLICIT | MT_TP_INLINE | MT_TP_DOTTED)))
            return dup_fail(t, last, e, "table");
        table->pos = pos;
    } else {
        table = mt_tp_new(t, MT_TOML_TABLE, pos);
        if (!table || mt_tp_add(t, parent, last, table) < 0)
            return -1;
    }
    table->state |= MT_TP_EXPLICIT;
    t->current = table;
    return 0;
}

/* ---- lines ---- */

static int key_value(struct mt_tp *t)
{
    struct mt_tp_part parts[MT_TOML_KEY_PARTS_MAX];
    struct mt_toml_value *value;
    size_t n;

    if (mt_tp_key(t, parts, &n) < 0)
        return -1;
    if (t->p == t->end || *t->p != '=') {
        char shown[64];
        return mt_tp_fail(t, t->p, "expected '=' after key '%s'",
                          mt_printable(parts[n - 1].s, parts[n - 1].len, shown, sizeof shown));
    }
    t->p++;
    mt_tp_blanks(t);
    if (mt_tp_value(t, 1, &value) < 0)
        return -1;
    return mt_tp_put(t, t->current, parts, n, value);
}

/* After a problem: go on at the next line. Inside a value of several lines, at the next one that looks like a start. */
static void recover(struct mt_tp *t, bool nested)
{
    do {
        const char *nl = memchr(t->p, '\n', (size_t)(t->end - t->p));
        t->p = nl ? nl + 1 : t->end;
        if (nl)
            mt_tp_newline(t);
        if (!nested || t->p == t->end)
            return;
        const char *stop = memchr(t->p, '\n', (size_t)(t->end - t->p));
        const char *q = t->p;
        stop = stop ? stop : t->end;
        while (q < stop && (*q == ' ' || *q == '\t'))
            q++;
        if (q < stop && (*q == '[' || (bare_char(*q) && memchr(q, '=', (size_t)(stop - q)))))
            return;
    } while (t->p < t->end);
}

static void parse(struct mt_tp *t)
{
    while (t->p < t->end && !t->nomem && t->doc->n_problems < MT_TOML_PROBLEMS_MAX) {
        uint32_t first_line = t->line;
        int r = 0;
        mt_tp_blanks(t);
        if (t->p < t->end && *t->p == '[')
            r = header(t);
        else if (!mt_tp_at_eol(t) && *t->p != '#')
            r = key_value(t);
        /* a key that is a duplicate was still read to its end: only what follows it can be wrong too */
        if (r == 0) {
            mt_tp_blanks(t);
            r = mt_tp_comment(t);
            if (r == 0 && !mt_tp_at_eol(t)) {
                char shown[16];
                size_t len = mt_utf8_len(t->p, (size_t)(t->end - t->p));
                r = mt_tp_fail(t, t->p, "unexpected '%s': one key or one header a line",
                               mt_printable(t->p, len ? len : 1, shown, sizeof shown));
            }
        }
        if (r == 0)
            mt_tp_eat_eol(t);
        else
            recover(t, t->line != first_line || t->in_value > 0);
        t->in_value = 0;
        t->array = NULL;
    }
}

static int by_pos(const void *a, const void *b)
{
    const struct mt_toml_problem *x = a, *y = b;

    if (x->pos.line != y->pos.line)
        return x->pos.line < y->pos.line ? -1 : 1;
    return (x->pos.column > y->pos.column) - (x->pos.column < y->pos.column);
}

int mt_tp_begin(struct mt_tp *ret_t, const char *text, size_t len, struct mt_toml **ret, struct mt_err *err)
{
    mt_auto_toml struct mt_toml *doc = calloc(1, sizeof *doc);
    struct mt_tp_memory *mem = calloc(1, sizeof *mem);
    if (!doc || !mem) {
        free(mem);
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    }
    mt_arena_init(&mem->arena, MT_TP_ARENA_MAX);
    doc->memory = mem;

    struct mt_tp t = {.p = text, .end = text + len, .line = 1, .line_start = text, .col_at = text, .col = 1, .col_line = 1,
                      .doc = doc, .mem = mem};
    mt_random(&t.seed, sizeof t.seed);
    doc->problems = mt_arena_alloc(&mem->arena, MT_TOML_PROBLEMS_MAX * sizeof *doc->problems);
    doc->root = mt_tp_new(&t, MT_TOML_TABLE, (struct mt_toml_pos){1, 1});
    t.nowhere = mt_tp_new(&t, MT_TOML_TABLE, (struct mt_toml_pos){1, 1});
    if (!doc->problems || !doc->root || !t.nowhere)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    doc->root->state = MT_TP_EXPLICIT;
    t.current = doc->root;
    *ret_t = t;
    *ret = MT_TAKE(doc);
    return 0;
}

int mt_toml_parse(const char *text, size_t len, struct mt_toml **ret, struct mt_err *err)
{
    mt_auto_toml struct mt_toml *doc = NULL;
    struct mt_tp t;
    if (len > MT_TOML_BYTES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "text of %zu bytes is above the limit of %u", len, MT_TOML_BYTES_MAX);
    int r = mt_tp_begin(&t, text, len, &doc, err);
    if (r < 0)
        return r;
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark is allowed and ignored */
        t.p += 3;
        t.line_start = t.p;
        t.col_at = t.p;
    }
    parse(&t);
    free(t.slots);
    if (t.nomem)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    qsort(doc->problems, doc->n_problems, sizeof *doc->problems, by_pos);
    *ret = MT_TAKE(doc);
    return 0;
}

void mt_toml_free(struct mt_toml *toml)
{
    if (!toml)
        return;
    struct mt_tp_memory *mem = toml->memory;
    if (mem)
        mt_arena_done(&mem->arena);
    free(mem);
    free(toml);
}

bool mt_toml_written(const struct mt_toml_value *table)
{
    return (table->state & (MT_TP_EXPLICIT | MT_TP_INLINE)) != 0 && !(table->state & MT_TP_DOTTED);
}

const struct mt_toml_entry *mt_toml_find(const struct mt_toml_value *table, const char *key)
{
    size_t len = strlen(key);

    MT_ASSERT(table->type == MT_TOML_TABLE);
    for (size_t i = 0; i < table->table.n; i++)
        if (table->table.v[i].key_len == len && memcmp(table->table.v[i].key, key, len) == 0)
            return &table->table.v[i];
    return NULL;
}
