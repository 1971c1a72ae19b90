/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/listing.h"

#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"

#include <string.h>

#define ENTRIES_MAX 1000
#define DEPTH_MAX 8

struct xml {
    const char *p, *end;
    const char *name; /* of the tag just read */
    size_t name_len;
    bool closing, empty;
    const char *text; /* what stood before it since the last tag */
    size_t text_len;
};

/* Next tag: 1, 0 at the end of the text, -1 malformed. */
static int next_tag(struct xml *x)
{
    for (;;) {
        const char *lt = memchr(x->p, '<', (size_t)(x->end - x->p));
        if (!lt)
            return 0;
        const char *gt = memchr(lt, '>', (size_t)(x->end - lt));
        if (!gt || gt == lt + 1)
            return -1;
        x->text = x->p;
        x->text_len = (size_t)(lt - x->p);
        x->p = gt + 1;
        if (lt[1] == '?')
            continue; /* the declaration */
        if (lt[1] == '!')
            return -1; /* document types, comments, CDATA: S3 sends none, and entities of somebody's own are not wanted */
        x->closing = lt[1] == '/';
        x->empty = gt[-1] == '/';
        x->name = lt + 1 + x->closing;
        size_t n = 0;
        while (x->name + n < gt && !strchr(" \t\r\n/", x->name[n]))
            n++;
        x->name_len = n;
        return n ? 1 : -1;
    }
}

static bool named(const struct xml *x, const char *name)
{
    return x->name_len == strlen(name) && memcmp(x->name, name, x->name_len) == 0;
}

/* Text with entities resolved; false when it does not fit or is not such text. */
static bool unescape(const char *p, size_t n, char *ret, size_t size)
{
    static const struct {
        const char *name;
        char c;
    } known[] = {{"amp;", '&'}, {"lt;", '<'}, {"gt;", '>'}, {"quot;", '"'}, {"apos;", '\''}};
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        char c = p[i++];
        if (c == '&') {
            size_t used = 0;
            for (size_t e = 0; e < sizeof known / sizeof known[0] && !used; e++) {
                if (n - i >= strlen(known[e].name) && memcmp(p + i, known[e].name, strlen(known[e].name)) == 0) {
                    c = known[e].c;
                    used = strlen(known[e].name);
                }
            }
            if (!used && n - i >= 3 && p[i] == '#') { /* one byte only: our names are ASCII, others are not ours */
                unsigned v = 0;
                bool hex = p[i + 1] == 'x';
                for (used = hex ? 2 : 1; i + used < n && p[i + used] != ';' && used < 8; used++) {
                    const char *digits = "0123456789abcdef", *d = strchr(digits, p[i + used] | 0x20);
                    if (!p[i + used] || !d || (!hex && d - digits > 9))
                        return false;
                    v = v * (hex ? 16 : 10) + (unsigned)(d - digits);
                }
                if (i + used >= n || p[i + used] != ';' || v == 0 || v > 127)
                    return false;
                used++;
                c = (char)v;
            }
            if (!used)
                return false;
            i += used;
        }
        if (c == 0 || k + 1 >= size)
            return false;
        ret[k++] = c;
    }
    ret[k] = 0;
    return true;
}

static int bad(struct mt_err *err, const char *what)
{
    return MT_FAIL(err, MT_E_CORRUPT, "the store's list is not to be understood (%s)", what);
}

struct reader {
    struct xml x;
    struct mt_bk_listed e;
    struct mt_bk_page page;
    bool in_contents, in_prefixes;
};

/* One element's end with its text. */
static int take(struct reader *r, struct mt_err *err)
{
    const struct xml *x = &r->x;
    char number[64];
    bool ok = true;
    if (r->in_contents && named(x, "Key"))
        ok = unescape(x->text, x->text_len, r->e.key, sizeof r->e.key);
    else if (r->in_contents && named(x, "Size"))
        ok = unescape(x->text, x->text_len, number, sizeof number) && mt_parse_u64(number, 0, INT64_MAX, &r->e.size, err) == 0;
    else if (r->in_contents && named(x, "LastModified"))
        ok = unescape(x->text, x->text_len, number, sizeof number) && mt_rfc3339_parse(number, &r->e.modified_us, err) == 0;
    else if (r->in_prefixes && named(x, "Prefix"))
        ok = unescape(x->text, x->text_len, r->e.prefix, sizeof r->e.prefix);
    else if (!r->in_contents && !r->in_prefixes && named(x, "IsTruncated"))
        r->page.truncated = x->text_len == 4 && memcmp(x->text, "true", 4) == 0;
    else if (!r->in_contents && !r->in_prefixes && named(x, "NextContinuationToken"))
        ok = unescape(x->text, x->text_len, r->page.token, sizeof r->page.token);
    return ok ? 0 : bad(err, "an element's text");
}

int mt_bk_list_read(const char *text, size_t len, int (*each)(const struct mt_bk_listed *e, void *arg), void *arg, struct mt_bk_page *ret,
                    struct mt_err *err)
{
    struct reader r = {.x = {.p = text, .end = text + len}};
    unsigned depth = 0;
    int got;
    bool whole = false;
    while ((got = next_tag(&r.x)) > 0) {
        const struct xml *x = &r.x;
        bool ends = x->closing || x->empty;
        if (!x->closing && ++depth > DEPTH_MAX)
            return bad(err, "nesting");
        if (depth == 0 || whole)
            return bad(err, "tags after its end");
        if (depth == 1 && !named(x, "ListBucketResult"))
            return bad(err, "another document");
        if (depth == 2 && !x->closing) {
            r.in_contents = named(x, "Contents");
            r.in_prefixes = named(x, "CommonPrefixes");
            if (r.in_contents || r.in_prefixes)
                r.e = (struct mt_bk_listed){0};
        }
        if (!ends)
            continue;
        if (x->empty)
            r.x.text_len = 0;
        if (depth == 2 && (r.in_contents || r.in_prefixes)) {
            if (r.in_contents ? !r.e.key[0] : !r.e.prefix[0])
                return bad(err, "an entry without name");
            if (++r.page.entries > ENTRIES_MAX)
                return bad(err, "more entries than were asked for");
            if (each(&r.e, arg) < 0)
                return MT_FAIL(err, MT_E_CANCELLED, "stopped");
            r.in_contents = r.in_prefixes = false;
        } else if ((depth == 2 || depth == 3) && take(&r, err) < 0) {
            return -MT_E_CORRUPT;
        }
        depth--;
        whole = depth == 0;
    }
    if (got < 0 || !whole)
        return bad(err, "cut off or malformed");
    if (r.page.truncated != (r.page.token[0] != 0)) {
        if (r.page.truncated)
            return bad(err, "it goes on, but says not how");
        r.page.token[0] = 0;
    }
    *ret = r.page;
    return 0;
}

void mt_bk_error_code(const char *text, size_t len, char *ret, size_t size)
{
    struct xml x = {.p = text, .end = text + len};
    ret[0] = 0;
    while (next_tag(&x) > 0) {
        if (x.closing && named(&x, "Code")) {
            if (!unescape(x.text, x.text_len, ret, size))
                ret[0] = 0;
            mt_make_printable(ret);
            return;
        }
    }
}
