/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manifest in canonical TOML, comments kept.
 *
 * Places a comment can hold on to ("anchors") are the keys, headers and array items of the text. Each comment belongs to one:
 * as a line before it, behind it on its line, or as a block directly below it that a blank line ends. Then the tree is written
 * in the order of the table of fields, and every anchor takes its comments along. Anchors that are not written themselves
 * (`ports = [...]` becomes headers) hand theirs on to what is written next, so that none is lost.
 */
#include "model/manifest.h"

#include "model/manifest_ctx.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/str.h"

enum { WIDTH = 100 }; /* an array is written on one line up to here */
enum role { LEAD = 0, TRAIL, FOOT, TAIL };

struct anchor {
    struct mt_toml_pos pos;
    const struct mt_toml_value *value; /* identity: the written value, the table, the item */
    const struct mt_toml_value *array; /* the array it is an item of, or NULL */
    bool statement;                    /* begins a line of its own: not inside brackets or braces */
    size_t before;                     /* index of the last statement up to here, itself included */
    size_t first, n;                   /* its comments */
};

struct note {
    const struct mt_toml_comment *c;
    size_t anchor;
    enum role role;
};

struct fmt {
    struct mt_buf *out;
    const struct mt_toml *toml;
    uint8_t *blank; /* by line number from 0: nothing but blanks on it */
    size_t n_lines; /* lines 1..n_lines are of the text */
    struct anchor *anchors; /* by place */
    size_t n_anchors, room;
    struct anchor **by_value;
    struct note *notes; /* by anchor, then place */
    size_t *pending;    /* notes of anchors that are not written */
    size_t n_pending;
    bool fresh; /* at the start, behind a header or a blank line: another blank line would be one too many */
    bool nomem;
};

/* ---- anchors ---- */

static bool before(struct mt_toml_pos a, struct mt_toml_pos b)
{
    return a.line != b.line ? a.line < b.line : a.column < b.column;
}

static void add(struct fmt *f, struct mt_toml_pos pos, const struct mt_toml_value *value, const struct mt_toml_value *array, bool statement)
{
    if (f->n_anchors == f->room) {
        size_t room = f->room ? f->room * 2 : 64;
        struct anchor *v = realloc(f->anchors, room * sizeof *v);
        if (!v) {
            f->nomem = true;
            return;
        }
        f->anchors = v;
        f->room = room;
    }
    f->anchors[f->n_anchors] = (struct anchor){.pos = pos, .value = value, .array = array, .statement = statement, .before = f->n_anchors};
    f->n_anchors++;
}

/* Everything below a table; @outside: not within braces or brackets. Depth is bounded by the TOML reader. */
static void collect(struct fmt *f, const struct mt_toml_value *table, bool outside)
{
    for (size_t i = 0; i < table->table.n; i++) {
        const struct mt_toml_entry *e = &table->table.v[i];
        const struct mt_toml_value *v = e->value;
        if (v->type == MT_TOML_TABLE) {
            bool braces = e->pos.line == v->pos.line && before(e->pos, v->pos); /* a header begins before the name in it, or elsewhere */
            if (mt_toml_written(v))
                add(f, braces ? e->pos : v->pos, v, NULL, outside);
            collect(f, v, outside && !braces);
            continue;
        }
        /* [[name]]: the list begins where its first table does, and only its tables are written */
        bool header = outside && v->type == MT_TOML_ARRAY && v->array.n && !before(v->pos, v->array.v[0]->pos);
        if (!header)
            add(f, e->pos, v, NULL, outside);
        for (size_t k = 0; v->type == MT_TOML_ARRAY && k < v->array.n; k++) {
            const struct mt_toml_value *item = v->array.v[k];
            add(f, item->pos, item, v, header);
            if (item->type == MT_TOML_TABLE)
                collect(f, item, header);
        }
    }
}

static int by_place(const void *a, const void *b)
{
    const struct anchor *x = a, *y = b;

    if (x->pos.line != y->pos.line || x->pos.column != y->pos.column)
        return before(x->pos, y->pos) ? -1 : 1;
    return (x->before > y->before) - (x->before < y->before); /* as collected */
}

static int by_identity(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)(*(struct anchor *const *)a)->value, y = (uintptr_t)(*(struct anchor *const *)b)->value;

    return (x > y) - (x < y);
}

static const struct anchor *anchor_of(const struct fmt *f, const struct mt_toml_value *value)
{
    struct anchor key = {.value = value}, *wanted = &key;
    struct anchor **found = bsearch(&wanted, f->by_value, f->n_anchors, sizeof(struct anchor *), by_identity);

    return found ? *found : NULL;
}

/* ---- comments to anchors ---- */

static bool is_blank(const struct fmt *f, uint32_t line)
{
    return line == 0 || line > f->n_lines || f->blank[line];
}

/* Number of anchors before a place. */
static size_t anchors_before(const struct fmt *f, struct mt_toml_pos pos)
{
    size_t low = 0, high = f->n_anchors;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (before(f->anchors[mid].pos, pos))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void place_in_array(const struct fmt *f, struct note *n)
{
    size_t next = anchors_before(f, n->c->pos), last = next;

    while (last > 0 && before(n->c->array->pos, f->anchors[last - 1].pos) && f->anchors[last - 1].array != n->c->array)
        last--;
    bool has_last = last > 0 && f->anchors[last - 1].array == n->c->array;
    if (has_last && !n->c->alone && f->anchors[last - 1].pos.line == n->c->pos.line) {
        n->anchor = last - 1;
        n->role = TRAIL;
    } else if (next < f->n_anchors && f->anchors[next].array == n->c->array) {
        n->anchor = next;
        n->role = LEAD;
    } else if (has_last) {
        n->anchor = last - 1;
        n->role = FOOT;
    } else {
        const struct anchor *owner = anchor_of(f, n->c->array);
        n->anchor = owner ? (size_t)(owner - f->anchors) : 0;
        n->role = owner ? LEAD : TAIL;
    }
}

/* A block of comments on lines of their own, [i, end). */
static void place_block(const struct fmt *f, struct note *n, size_t count)
{
    size_t next = anchors_before(f, n[0].c->pos);
    bool below = next > 0 && !is_blank(f, n[0].c->pos.line - 1) && is_blank(f, n[count - 1].c->pos.line + 1);

    for (size_t i = 0; i < count; i++) {
        if (below) {
            n[i].anchor = f->anchors[next - 1].before;
            n[i].role = FOOT;
        } else if (next < f->n_anchors) {
            n[i].anchor = next;
            n[i].role = LEAD;
        } else {
            n[i].anchor = f->n_anchors;
            n[i].role = TAIL;
        }
    }
}

static int by_anchor(const void *a, const void *b)
{
    const struct note *x = a, *y = b;

    if (x->anchor != y->anchor)
        return x->anchor < y->anchor ? -1 : 1;
    return (x->c > y->c) - (x->c < y->c);
}

static void place_comments(struct fmt *f)
{
    size_t n = f->toml->n_comments;

    for (size_t i = 0; i < n; i++)
        f->notes[i].c = &f->toml->comments[i];
    for (size_t i = 0, count; i < n; i += count) {
        const struct mt_toml_comment *c = f->notes[i].c;
        count = 1;
        if (c->array) {
            place_in_array(f, &f->notes[i]);
        } else if (!c->alone) {
            size_t next = anchors_before(f, c->pos);
            f->notes[i].anchor = next > 0 ? f->anchors[next - 1].before : f->n_anchors;
            f->notes[i].role = next > 0 ? TRAIL : TAIL;
        } else {
            while (i + count < n && f->notes[i + count].c->alone && !f->notes[i + count].c->array &&
                   f->notes[i + count].c->pos.line == c->pos.line + count)
                count++;
            place_block(f, &f->notes[i], count);
        }
    }
    qsort(f->notes, n, sizeof *f->notes, by_anchor);
    for (size_t i = 0; i < n && f->notes[i].anchor < f->n_anchors; i++) {
        struct anchor *a = &f->anchors[f->notes[i].anchor];
        if (a->n++ == 0)
            a->first = i;
    }
}

/* ---- writing ---- */

static void put_blank(struct fmt *f)
{
    if (!f->fresh)
        mt_buf_putc(f->out, '\n');
    f->fresh = true;
}

static void put_comment(struct fmt *f, const struct note *n)
{
    size_t len = n->c->len;

    while (len > 1 && (n->c->s[len - 1] == ' ' || n->c->s[len - 1] == '\t'))
        len--;
    mt_buf_put(f->out, n->c->s, len);
}

static void put_comment_line(struct fmt *f, const struct note *n, const char *indent)
{
    mt_buf_puts(f->out, indent);
    put_comment(f, n);
    mt_buf_putc(f->out, '\n');
    f->fresh = false;
}

static void flush_pending(struct fmt *f)
{
    for (size_t i = 0; i < f->n_pending; i++)
        put_comment_line(f, &f->notes[f->pending[i]], "");
    f->n_pending = 0;
}

/* The anchor of @v is not written itself: its comments go before what comes next. */
static void hand_on(struct fmt *f, const struct mt_toml_value *v)
{
    const struct anchor *a = anchor_of(f, v);

    for (size_t i = 0; a && i < a->n; i++)
        f->pending[f->n_pending++] = a->first + i;
}

/* What stands before a line: handed-on comments, its own, and a blank line where one was. */
static void begin(struct fmt *f, const struct mt_toml_value *v, bool header)
{
    const struct anchor *a = v ? anchor_of(f, v) : NULL;
    size_t lead = 0;

    if (header)
        put_blank(f);
    flush_pending(f);
    for (size_t i = 0; a && i < a->n; i++) {
        const struct note *n = &f->notes[a->first + i];
        if (n->role != LEAD)
            continue;
        if ((lead || !header) && is_blank(f, n->c->pos.line - 1))
            put_blank(f);
        put_comment_line(f, n, "");
        lead++;
    }
    if (a && a->statement && (lead || !header) && is_blank(f, a->pos.line - 1))
        put_blank(f);
}

static void put_role(struct fmt *f, const struct mt_toml_value *v, enum role role, const char *indent)
{
    const struct anchor *a = v ? anchor_of(f, v) : NULL;

    for (size_t i = 0; a && i < a->n; i++) {
        const struct note *n = &f->notes[a->first + i];
        if (n->role != role)
            continue;
        if (role == TRAIL) {
            mt_buf_putc(f->out, ' ');
            put_comment(f, n);
        } else {
            put_comment_line(f, n, indent);
        }
    }
}

static void finish(struct fmt *f, const struct mt_toml_value *v, bool header)
{
    put_role(f, v, TRAIL, "");
    mt_buf_putc(f->out, '\n');
    f->fresh = header;
    put_role(f, v, FOOT, "");
}

/* Text of several lines stays so; everything else is one basic string. */
static void put_string(struct mt_buf *out, const char *s, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    bool lines = memchr(s, '\n', len) != NULL;
    unsigned quotes = 0;

    mt_buf_puts(out, lines ? "\"\"\"\n" : "\"");
    for (size_t i = 0; i < len; i++) {
        unsigned char ch = (unsigned char)s[i];
        quotes = ch == '"' ? quotes + 1 : 0;
        if (ch == '\\') {
            mt_buf_puts(out, "\\\\");
        } else if (ch == '"' && (!lines || quotes == 3 || i + 1 == len)) {
            mt_buf_puts(out, "\\\"");
            quotes = 0;
        } else if (ch == '\t') {
            mt_buf_puts(out, lines ? "\t" : "\\t");
        } else if (ch == '\r') {
            mt_buf_puts(out, "\\r");
        } else if ((ch < 0x20 && ch != '\n') || ch == 0x7f) {
            char u[7] = {'\\', 'u', '0', '0', hex[ch >> 4], hex[ch & 15], '\0'};
            mt_buf_puts(out, u);
        } else {
            mt_buf_putc(out, (char)ch);
        }
    }
    mt_buf_puts(out, lines ? "\"\"\"" : "\"");
}

static void put_scalar(struct mt_buf *out, const struct mt_toml_value *v, enum mt_mf_kind kind)
{
    if (v->type == MT_TOML_STRING) {
        put_string(out, v->string.s, v->string.len);
    } else if (v->type == MT_TOML_BOOL) {
        mt_buf_puts(out, v->boolean ? "true" : "false");
    } else if (kind == MT_MF_CPU) {
        uint32_t n = mt_mf_cpu_millis(v->text);
        char digits[8];
        (void)snprintf(digits, sizeof digits, ".%03u", n % 1000);
        for (size_t len = strlen(digits); len > 0 && (digits[len - 1] == '0' || digits[len - 1] == '.');)
            digits[--len] = '\0';
        mt_buf_printf(out, "%u%s", n / 1000, digits);
    } else {
        mt_buf_printf(out, "%lld", (long long)v->integer);
    }
}

static void put_array(struct fmt *f, const struct mt_toml_value *v, size_t used)
{
    mt_auto_buf struct mt_buf line = MT_BUF_INIT(f->out->max);
    bool one = true;

    for (size_t i = 0; i < v->array.n; i++) {
        const struct anchor *a = anchor_of(f, v->array.v[i]);
        mt_buf_puts(&line, i ? ", " : "");
        put_scalar(&line, v->array.v[i], MT_MF_TEXT);
        one = one && !(a && a->n);
    }
    if (one && used + line.len <= WIDTH && !memchr(mt_buf_cstr(&line), '\n', line.len)) {
        mt_buf_printf(f->out, "[%s]", mt_buf_cstr(&line));
        return;
    }
    mt_buf_puts(f->out, "[\n");
    for (size_t i = 0; i < v->array.n; i++) {
        const struct mt_toml_value *item = v->array.v[i];
        put_role(f, item, LEAD, "    ");
        mt_buf_puts(f->out, "    ");
        put_scalar(f->out, item, MT_MF_TEXT);
        mt_buf_putc(f->out, ',');
        put_role(f, item, TRAIL, "");
        mt_buf_putc(f->out, '\n');
        put_role(f, item, FOOT, "    ");
    }
    mt_buf_putc(f->out, ']');
}

static bool is_line(const struct mt_mf_field *field, const struct mt_toml_value *v)
{
    if (field->kind == MT_MF_LIST)
        return v->array.n == 0;
    return v->type != MT_TOML_TABLE;
}

static void put_key(struct fmt *f, const char *key, const struct mt_toml_value *v, enum mt_mf_kind kind)
{
    begin(f, v, false);
    mt_buf_printf(f->out, "%s = ", key);
    if (v->type == MT_TOML_ARRAY)
        put_array(f, v, strlen(key) + 5);
    else
        put_scalar(f->out, v, kind);
    finish(f, v, false);
}

static void put_header(struct fmt *f, const struct mt_toml_value *v, const char *path, bool item)
{
    begin(f, v, true);
    mt_buf_printf(f->out, item ? "[[%s]]" : "[%s]", path);
    finish(f, v, true);
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(const struct mt_toml_entry *const *)a)->key, (*(const struct mt_toml_entry *const *)b)->key);
}

static void put_table(struct fmt *f, const struct mt_toml_value *table, const struct mt_mf_field *fields, const char *path, bool item);

static void put_map(struct fmt *f, const struct mt_toml_value *map, const struct mt_mf_field *fields, const char *path)
{
    const struct mt_toml_entry *sorted[64] = {NULL};
    const struct anchor *a = anchor_of(f, map);
    char name[MT_MF_PATH];
    size_t n = map->table.n < MT_ARRAY_LEN(sorted) ? map->table.n : 0; /* a good manifest has at most 16 */

    if (a && a->n)
        put_header(f, map, path, false);
    for (size_t i = 0; i < n; i++)
        sorted[i] = &map->table.v[i];
    qsort(sorted, n, sizeof sorted[0], by_key);
    for (size_t i = 0; i < n; i++) {
        mt_mf_path(name, path, sorted[i]->key);
        put_table(f, sorted[i]->value, fields, name, false);
    }
}

static void put_vars(struct fmt *f, const struct mt_toml_value *vars, const char *path)
{
    put_header(f, vars, path, false);
    for (size_t i = 0; i < vars->table.n; i++)
        put_key(f, vars->table.v[i].key, vars->table.v[i].value, MT_MF_TEXT);
}

/* Keys first, tables below; a header only where keys, comments or nothing at all stand under it. */
static void put_table(struct fmt *f, const struct mt_toml_value *table, const struct mt_mf_field *fields, const char *path, bool item)
{
    const struct anchor *a = anchor_of(f, table);
    const struct mt_toml_entry *e;
    bool header = item || table->table.n == 0 || (a && a->n);
    char name[MT_MF_PATH];

    for (const struct mt_mf_field *d = fields; d->key; d++)
        header = header || ((e = mt_toml_find(table, d->key)) && is_line(d, e->value));
    if (header && *path)
        put_header(f, table, path, item);
    for (const struct mt_mf_field *d = fields; d->key; d++)
        if ((e = mt_toml_find(table, d->key)) && is_line(d, e->value))
            put_key(f, d->key, e->value, d->kind);
    for (const struct mt_mf_field *d = fields; d->key; d++) {
        if (!(e = mt_toml_find(table, d->key)) || is_line(d, e->value))
            continue;
        mt_mf_path(name, path, d->key);
        if (d->kind == MT_MF_MAP) {
            put_map(f, e->value, d->sub, name);
        } else if (d->kind == MT_MF_VARS) {
            put_vars(f, e->value, name);
        } else if (d->kind == MT_MF_LIST) {
            hand_on(f, e->value);
            for (size_t i = 0; i < e->value->array.n; i++)
                put_table(f, e->value->array.v[i], d->sub, name, true);
        } else {
            put_table(f, e->value, d->sub, name, false);
        }
    }
}

/* Comments behind everything. */
static void put_tail(struct fmt *f)
{
    bool first = true;

    if (f->n_pending) {
        put_blank(f);
        flush_pending(f);
        first = false;
    }
    for (size_t i = 0; i < f->toml->n_comments; i++) {
        if (f->notes[i].role != TAIL)
            continue;
        if (first || is_blank(f, f->notes[i].c->pos.line - 1))
            put_blank(f);
        put_comment_line(f, &f->notes[i], "");
        first = false;
    }
}

static int find_blank_lines(struct fmt *f, const char *text, size_t len)
{
    f->n_lines = 1;
    for (size_t i = 0; i < len; i++)
        f->n_lines += text[i] == '\n';
    if (len == 0 || text[len - 1] == '\n')
        f->n_lines--;
    f->blank = calloc(f->n_lines + 2, 1);
    if (!f->blank)
        return -MT_E_NOMEM;
    const char *p = text, *end = text + len;
    for (size_t line = 1; line <= f->n_lines; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end, *q = p;
        while (q < stop && (*q == ' ' || *q == '\t' || *q == '\r'))
            q++;
        f->blank[line] = q == stop;
        p = nl ? nl + 1 : end;
    }
    return 0;
}

static int format(struct fmt *f, const char *text, size_t len, struct mt_err *err)
{
    collect(f, f->toml->root, true);
    f->by_value = calloc(f->n_anchors + 1, sizeof *f->by_value);
    f->notes = calloc(f->toml->n_comments + 1, sizeof *f->notes);
    f->pending = calloc(f->toml->n_comments + 1, sizeof *f->pending);
    if (f->nomem || !f->by_value || !f->notes || !f->pending || find_blank_lines(f, text, len) < 0)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (f->n_anchors) /* of an empty file there is no array */
        qsort(f->anchors, f->n_anchors, sizeof *f->anchors, by_place);
    size_t statement = 0;
    for (size_t i = 0; i < f->n_anchors; i++) {
        statement = f->anchors[i].statement ? i : statement;
        f->anchors[i].before = statement;
        f->by_value[i] = &f->anchors[i];
    }
    qsort(f->by_value, f->n_anchors, sizeof *f->by_value, by_identity);
    place_comments(f);
    put_table(f, f->toml->root, mt_mf_root_fields, "", false);
    put_tail(f);
    return mt_buf_check(f->out, err);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? MT_STREQ(a, b) : a == b;
}

/* Nobody shall run something else because a file was made prettier. */
static int check_same(const struct mt_manifest *was, struct mt_buf *out, struct mt_err *err)
{
    static const struct mt_manifest_options options = {.image_given = true};
    mt_auto_manifest struct mt_manifest *now = NULL;

    if (out->len > MT_MANIFEST_BYTES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "the canonical text has %zu bytes, at most %u are allowed", out->len, MT_MANIFEST_BYTES_MAX);
    int rc = mt_manifest_parse(mt_buf_cstr(out), out->len, &options, &now, err);
    if (rc < 0)
        return rc;
    if (!MT_STREQ(was->hash, now->hash) || !same_text(was->app_name, now->app_name) || !same_text(was->image_ref, now->image_ref) ||
        !same_text(was->app_description, now->app_description))
        return MT_FAIL(err, MT_E_CORRUPT, "the canonical text would not say the same");
    return 0;
}

int mt_manifest_format(const char *text, size_t len, struct mt_buf *out, struct mt_err *err)
{
    static const struct mt_manifest_options options = {.image_given = true};
    mt_auto_manifest struct mt_manifest *m = NULL;
    mt_auto_toml struct mt_toml *toml = NULL;
    int rc = mt_manifest_parse(text, len, &options, &m, err);

    if (rc < 0)
        return rc;
    if (m->n_errors)
        return MT_FAIL(err, MT_E_INVALID, "the manifest has %zu problems", m->n_errors);
    if ((rc = mt_toml_parse(text, len, &toml, err)) < 0)
        return rc;
    struct fmt f = {.out = out, .toml = toml, .fresh = true};
    rc = format(&f, text, len, err);
    free(f.blank);
    free(f.anchors);
    free(f.by_value);
    free(f.notes);
    free(f.pending);
    return rc < 0 ? rc : check_same(m, out, err);
}
