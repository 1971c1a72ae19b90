/* SPDX-License-Identifier: Apache-2.0 */
/* Canonical JSON from a tree, and from the text of a jsonb without building one; the chain hash. */
#include "control/log/canon.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"

#include <stdlib.h>
#include <string.h>

static const char hex[] = "0123456789abcdef";

/* Letter after the backslash for the short escapes, 'u' for the long one, 0 for none. */
static inline char escape_of(unsigned char c)
{
    switch (c) {
    case '"':
    case '\\':
        return (char)c;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return c < 0x20 ? 'u' : 0;
    }
}

void mt_canon_str(struct mt_buf *b, const char *s, size_t n)
{
    size_t from = 0;
    mt_buf_putc(b, '"');
    for (size_t i = mt_plain_run(s, n); i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        char e = escape_of(c);
        if (!e)
            continue;
        mt_buf_put(b, s + from, i - from);
        from = i + 1;
        if (e == 'u') {
            const char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            mt_buf_put(b, u, sizeof u);
        } else {
            const char two[2] = {'\\', e};
            mt_buf_put(b, two, sizeof two);
        }
    }
    mt_buf_put(b, s + from, n - from);
    mt_buf_putc(b, '"');
}

/* ---- from a tree ---- */

/* Where in the tree: made into words only when something is wrong. */
struct place {
    const struct place *up; /* NULL: directly in the root */
    const char *name;       /* NULL: an array's element */
    size_t index;
};

struct walk {
    struct mt_buf *b;
    struct mt_err *err;
    const struct place *at; /* NULL: the root */
};

static int bad(struct walk *w, const char *what)
{
    const struct place *way[MT_CANON_DEPTH + 2] = {NULL};
    char path[128] = "", piece[80], at[128];
    size_t n = 0, len = 0;
    for (const struct place *p = w->at; p && n < MT_ARRAY_LEN(way); p = p->up)
        way[n++] = p;
    while (n-- > 0) {
        int k = way[n]->name ? snprintf(piece, sizeof piece, "%s%.60s", len ? "." : "", way[n]->name) : snprintf(piece, sizeof piece, "[%zu]", way[n]->index);
        if (k > 0 && len + (size_t)k < sizeof path) {
            memcpy(path + len, piece, (size_t)k + 1);
            len += (size_t)k;
        }
    }
    return MT_FAIL(w->err, MT_E_INVALID, "field '%s': %s", mt_printable(path, len, at, sizeof at), what);
}

struct field {
    const char *key;
    const json_t *value;
};

static int by_key(const void *a, const void *b)
{
    const struct field *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static void sort(struct field *f, size_t n)
{
    if (n > 16) {
        qsort(f, n, sizeof *f, by_key);
        return;
    }
    for (size_t i = 1; i < n; i++) {
        struct field one = f[i];
        size_t k = i;
        for (; k > 0 && strcmp(f[k - 1].key, one.key) > 0; k--)
            f[k] = f[k - 1];
        f[k] = one;
    }
}

static int put_tree(struct walk *w, const json_t *v, int depth);

static bool key_ok(const char *k)
{
    for (; *k; k++)
        if (escape_of((unsigned char)*k))
            return false;
    return true;
}

static int put_object(struct walk *w, const json_t *v, int depth)
{
    size_t n = json_object_size(v), at = 0;
    struct field few[16] __attribute__((uninitialized)); /* each is written before it is read */
    struct field *fields = n <= MT_ARRAY_LEN(few) ? few : malloc(n * sizeof *fields);
    if (!fields)
        return MT_FAIL(w->err, MT_E_NOMEM, "no memory for canonical JSON");
    json_t *tree;
    memcpy(&tree, &v, sizeof tree); /* iteration takes a non-const pointer and does not change it */
    for (void *it = json_object_iter(tree); it && at < n; it = json_object_iter_next(tree, it))
        fields[at++] = (struct field){json_object_iter_key(it), json_object_iter_value(it)};
    sort(fields, at);
    int r = 0;
    struct place here = {.up = w->at};
    // cppcheck-suppress autoVariables ; taken back before this returns
    w->at = &here;
    mt_buf_putc(w->b, '{');
    for (size_t i = 0; i < at && r == 0; i++) {
        here.name = fields[i].key;
        if (!key_ok(here.name)) {
            r = bad(w, "a key may not hold quotes, backslashes or control characters");
            break;
        }
        if (i)
            mt_buf_putc(w->b, ',');
        mt_canon_str(w->b, here.name, strlen(here.name));
        mt_buf_putc(w->b, ':');
        r = put_tree(w, fields[i].value, depth + 1);
    }
    mt_buf_putc(w->b, '}');
    w->at = here.up;
    if (fields != few)
        free(fields);
    return r;
}

static int put_array(struct walk *w, const json_t *v, int depth)
{
    struct place here = {.up = w->at};
    w->at = &here;
    mt_buf_putc(w->b, '[');
    int r = 0;
    for (size_t i = 0; i < json_array_size(v) && r == 0; i++) {
        here.index = i;
        if (i)
            mt_buf_putc(w->b, ',');
        r = put_tree(w, json_array_get(v, i), depth + 1);
    }
    mt_buf_putc(w->b, ']');
    w->at = here.up;
    return r;
}

static void put_digits(struct mt_buf *b, int64_t v)
{
    char digits[24];
    size_t at = sizeof digits;
    uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
    do
        digits[--at] = (char)('0' + u % 10);
    while ((u /= 10) != 0);
    if (v < 0)
        digits[--at] = '-';
    mt_buf_put(b, digits + at, sizeof digits - at);
}

static int put_tree(struct walk *w, const json_t *v, int depth)
{
    if (depth > MT_CANON_DEPTH)
        return bad(w, "nested too deeply");
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return put_object(w, v, depth);
    case JSON_ARRAY:
        return put_array(w, v, depth);
    case JSON_STRING: {
        const char *s = json_string_value(v);
        size_t n = json_string_length(v);
        if (memchr(s, 0, n))
            return bad(w, "text may not hold U+0000");
        mt_canon_str(w->b, s, n);
        return 0;
    }
    case JSON_INTEGER: {
        json_int_t i = json_integer_value(v);
        if (i > MT_CANON_INT_MAX || i < -MT_CANON_INT_MAX)
            return bad(w, "integers stay within +-(2^53-1)");
        put_digits(w->b, i);
        return 0;
    }
    case JSON_REAL:
        return bad(w, "there are no floating point numbers here; use an integer in a smaller unit");
    case JSON_TRUE:
        mt_buf_puts(w->b, "true");
        return 0;
    case JSON_FALSE:
        mt_buf_puts(w->b, "false");
        return 0;
    case JSON_NULL:
        mt_buf_puts(w->b, "null");
        return 0;
    }
    return bad(w, "unknown kind of value");
}

int mt_canon_json(const json_t *v, struct mt_buf *b, struct mt_err *err)
{
    struct walk w = {.b = b, .err = err};
    int r = put_tree(&w, v, 0);
    return r < 0 ? r : mt_buf_check(b, err);
}

/* ---- from text ----
 * The output is never longer than the input, so one reservation serves and bytes are written straight. */

#define MEMBERS_MAX 2048 /* on the way from the root to the place in sight; mt_ev_payload refuses what does not fit here */

struct member {
    uint32_t at, len, key_len; /* in the output: `"key":value` */
};

struct scan {
    const char *p, *end;
    char *out, *o;
    struct member *members; /* stack shared by all levels */
    size_t n_members;
    bool bad;
};

static inline void blanks(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
        s->p++;
}

static inline bool take(struct scan *s, char c)
{
    blanks(s);
    if (s->p >= s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* jsonb prints every character but the escapes of canonical JSON as itself, so only control bytes come as \u. */
static void scan_escape(struct scan *s)
{
    if (s->end - s->p < 2) {
        s->bad = true;
        return;
    }
    char c = s->p[1];
    if (c == 'u') {
        int v = s->end - s->p >= 6 ? hex4(s->p + 2) : -1;
        if (v < 1 || v >= 0x20 || escape_of((unsigned char)v) != 'u') {
            s->bad = true;
            return;
        }
        memcpy(s->o, "\\u00", 4);
        s->o[4] = hex[v >> 4];
        s->o[5] = hex[v & 15];
        s->o += 6;
        s->p += 6;
    } else if (strchr("\"\\bfnrt", c) && c) {
        *s->o++ = '\\';
        *s->o++ = c;
        s->p += 2;
    } else {
        s->bad = true;
    }
}

static void scan_string(struct scan *s)
{
    *s->o++ = '"';
    while (s->p < s->end && !s->bad) {
        const char *from = s->p;
        while (s->p < s->end && *s->p != '"' && *s->p != '\\' && (unsigned char)*s->p >= 0x20)
            s->p++;
        memcpy(s->o, from, (size_t)(s->p - from));
        s->o += s->p - from;
        if (s->p >= s->end)
            break;
        if (*s->p == '"') {
            s->p++;
            *s->o++ = '"';
            return;
        }
        if (*s->p != '\\')
            break;
        scan_escape(s);
    }
    s->bad = true;
}

static int member_cmp(const char *out, const struct member *a, const struct member *b)
{
    size_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
    int c = memcmp(out + a->at + 1, out + b->at + 1, n);
    return c ? c : (a->key_len > b->key_len) - (a->key_len < b->key_len);
}

/* Put the members of one object, which lie in @out in the order of the text, into the order of their keys. */
static void sort_members(struct scan *s, struct member *m, size_t n)
{
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = member_cmp(s->out, &m[i - 1], &m[i]) < 0;
    if (sorted)
        return;
    size_t start = m[0].at, total = (size_t)(s->o - s->out) - start;
    for (size_t i = 1; i < n; i++) { /* insertion: few members, nearly in order */
        struct member x = m[i];
        size_t j = i;
        for (; j > 0 && member_cmp(s->out, &m[j - 1], &x) > 0; j--)
            m[j] = m[j - 1];
        m[j] = x;
    }
    char few[2048];
    char *copy = total <= sizeof few ? few : malloc(total);
    if (!copy) {
        s->bad = true;
        return;
    }
    memcpy(copy, s->out + start, total);
    char *o = s->out + start;
    for (size_t i = 0; i < n; i++) {
        if (i)
            *o++ = ',';
        memcpy(o, copy + (m[i].at - start), m[i].len);
        o += m[i].len;
    }
    if (copy != few)
        free(copy);
}

static void scan_value(struct scan *s, int depth);

static void scan_object(struct scan *s, int depth)
{
    size_t first = s->n_members;
    *s->o++ = '{';
    if (take(s, '}')) {
        *s->o++ = '}';
        return;
    }
    do {
        if (s->n_members == MEMBERS_MAX || !take(s, '"')) {
            s->bad = true;
            return;
        }
        if (s->n_members > first)
            *s->o++ = ',';
        size_t slot = s->n_members++;
        struct member m = {.at = (uint32_t)(s->o - s->out)};
        scan_string(s);
        m.key_len = (uint32_t)(s->o - s->out) - m.at - 2;
        if (s->bad || !take(s, ':')) {
            s->bad = true;
            return;
        }
        *s->o++ = ':';
        scan_value(s, depth + 1);
        if (s->bad)
            return;
        m.len = (uint32_t)(s->o - s->out) - m.at;
        s->members[slot] = m;
    } while (take(s, ','));
    if (!take(s, '}')) {
        s->bad = true;
        return;
    }
    sort_members(s, s->members + first, s->n_members - first);
    s->n_members = first;
    *s->o++ = '}';
}

static void scan_array(struct scan *s, int depth)
{
    *s->o++ = '[';
    if (!take(s, ']')) {
        bool more = false;
        do {
            if (more)
                *s->o++ = ',';
            more = true;
            scan_value(s, depth + 1);
        } while (!s->bad && take(s, ','));
        if (s->bad || !take(s, ']')) {
            s->bad = true;
            return;
        }
    }
    *s->o++ = ']';
}

static void scan_word(struct scan *s, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0) {
        s->bad = true;
        return;
    }
    memcpy(s->o, word, n);
    s->o += n;
    s->p += n;
}

static void scan_number(struct scan *s)
{
    const char *from = s->p;
    if (s->p < s->end && *s->p == '-')
        s->p++;
    const char *digits = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    size_t n = (size_t)(s->p - from), d = (size_t)(s->p - digits);
    if (d == 0 || d > 16 || (d > 1 && *digits == '0') || (s->p < s->end && strchr(".eE", *s->p))) {
        s->bad = true;
        return;
    }
    memcpy(s->o, from, n);
    s->o += n;
}

static void scan_value(struct scan *s, int depth)
{
    blanks(s);
    if (s->p >= s->end || depth > MT_CANON_DEPTH) {
        s->bad = true;
        return;
    }
    switch (*s->p) {
    case '{':
        s->p++;
        scan_object(s, depth);
        return;
    case '[':
        s->p++;
        scan_array(s, depth);
        return;
    case '"':
        s->p++;
        scan_string(s);
        return;
    case 't':
        scan_word(s, "true");
        return;
    case 'f':
        scan_word(s, "false");
        return;
    case 'n':
        scan_word(s, "null");
        return;
    default:
        scan_number(s);
        return;
    }
}

int mt_canon_text(const char *text, size_t len, struct mt_buf *b, struct mt_err *err)
{
    struct member members[MEMBERS_MAX] __attribute__((uninitialized)); /* each is written before it is read; clearing 24 KiB is most of the work */
    char *out = mt_buf_reserve(b, len + 8); /* a literal may be written one byte past a cut text before that is seen */
    if (!out || len > UINT32_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "JSON text of %zu bytes is too long", len);
    struct scan s = {.p = text, .end = text + len, .out = out, .o = out, .members = members};
    scan_value(&s, 0);
    blanks(&s);
    if (s.bad || s.p != s.end)
        return MT_FAIL(err, MT_E_CORRUPT, "stored JSON is malformed at byte %zu", (size_t)(s.p - text));
    b->len += (size_t)(s.o - out);
    return 0;
}

/* ---- the chain ---- */

static void put_text(struct mt_buf *b, const char *name, const char *v)
{
    mt_buf_puts(b, name);
    if (v)
        mt_canon_str(b, v, strlen(v));
    else
        mt_buf_put(b, "null", 4);
}

static void put_int(struct mt_buf *b, const char *name, int64_t v)
{
    mt_buf_puts(b, name);
    put_digits(b, v);
}

/* Events of a batch share their time: its text is made once. */
static const char *when_text(int64_t us)
{
    static _Thread_local int64_t last;
    static _Thread_local char text[MT_RFC3339_LEN];
    if (us != last || !text[0]) {
        (void)mt_rfc3339(us, text);
        last = us;
    }
    return text;
}

int mt_chain_hash(const uint8_t prev[32], const struct mt_chain_event *e, struct mt_buf *b, uint8_t ret[32], struct mt_err *err)
{
    mt_buf_reset(b);
    put_text(b, "{\"actor_id\":", e->actor_id);
    put_text(b, ",\"actor_type\":", e->actor_type);
    put_text(b, ",\"aggregate_id\":", e->aggregate_id);
    put_int(b, ",\"aggregate_seq\":", e->aggregate_seq);
    put_text(b, ",\"aggregate_type\":", e->aggregate_type);
    put_text(b, ",\"app_id\":", e->app_id);
    if (e->causation_id)
        put_int(b, ",\"causation_id\":", e->causation_id);
    else
        put_text(b, ",\"causation_id\":", NULL);
    put_text(b, ",\"correlation_id\":", e->correlation_id);
    put_text(b, ",\"env_id\":", e->env_id);
    put_int(b, ",\"event_id\":", e->event_id);
    put_text(b, ",\"event_type\":", e->event_type);
    put_int(b, ",\"event_version\":", e->event_version);
    put_text(b, ",\"idempotency_key\":", e->idempotency_key);
    put_text(b, ",\"occurred_at\":", when_text(e->occurred_us));
    put_text(b, ",\"org_id\":", e->org_id);
    mt_buf_puts(b, ",\"payload\":");
    mt_buf_put(b, e->payload, e->payload_len);
    put_text(b, ",\"request_id\":", e->request_id);
    mt_buf_putc(b, '}');
    int r = mt_buf_check(b, err);
    return r < 0 ? r : mt_sha256_two(prev, 32, b->p, b->len, ret, err);
}
