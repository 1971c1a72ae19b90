/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ClientHello reader under any bytes: no over-read; the same answer whole, byte by byte and in uneven pieces; and the answer of a
 * slow reader written from RFC 8446 4.1.2, 5.1 and RFC 6066 3, which has the whole message before it. Once there is an answer it
 * stays, so the pieces end there but for one that says so: most mutated hellos are refused early.
 */
#include "wire/clienthello.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of a vector; @bad once something was longer than what holds it. */
struct cut {
    const uint8_t *p;
    size_t n;
    bool bad;
};

static struct cut take(struct cut *c, size_t n)
{
    if (n > c->n)
        c->bad = true;
    if (c->bad)
        return (struct cut){.bad = true};
    struct cut r = {.p = c->p, .n = n};
    c->p += n;
    c->n -= n;
    return r;
}

static size_t number(struct cut *c, size_t bytes)
{
    struct cut f = take(c, bytes);
    size_t v = 0;
    for (size_t i = 0; i < f.n; i++)
        v = v << 8 | f.p[i];
    return v;
}

struct answer {
    enum mt_hello_result r; /* MALFORMED stands for all refusals */
    char name[256];
    uint16_t version;
    bool ech;
};

static const struct answer refused = {.r = MT_HELLO_MALFORMED};

/* networking.md 8.4, the row "name" */
static bool good_name(struct cut w, char *ret)
{
    if (w.n > 0 && w.p[w.n - 1] == '.')
        w.n--;
    if (w.n == 0 || w.n > 253)
        return false;
    size_t labels = 1, label = 0, digits = 0;
    for (size_t i = 0; i < w.n; i++) {
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
        if (w.p[i] == 0 || !strchr(allowed, w.p[i]))
            return false;
        digits += w.p[i] >= '0' && w.p[i] <= '9';
        if (w.p[i] == '.') {
            if (label == 0)
                return false;
            labels++;
            label = 0;
        } else if (++label > 63) {
            return false;
        }
        ret[i] = (char)(w.p[i] >= 'A' && w.p[i] <= 'Z' ? w.p[i] | 0x20 : w.p[i]);
    }
    ret[w.n] = '\0';
    return label > 0 && !(labels == 4 && digits + 3 == w.n);
}

static struct answer slow_body(struct cut body)
{
    struct answer a = {.r = MT_HELLO_NO_NAME, .version = (uint16_t)number(&body, 2)};
    struct cut name = {0}, list;
    uint16_t best = 0;
    (void)take(&body, 32);
    if (take(&body, number(&body, 1)).n > 32)
        return refused;
    struct cut suites = take(&body, number(&body, 2)), methods = take(&body, number(&body, 1));
    if (body.bad || suites.n < 2 || suites.n % 2 || methods.n < 1)
        return refused;
    struct cut exts = {0};
    if (body.n > 0) {
        exts = take(&body, number(&body, 2));
        if (body.bad || body.n > 0)
            return refused;
    }
    while (exts.n > 0) {
        size_t type = number(&exts, 2);
        struct cut e = take(&exts, number(&exts, 2));
        if (exts.bad)
            return refused;
        switch (type) {
        case 0: /* one entry, of type host_name, that fills the list, which fills the extension */
            list = take(&e, number(&e, 2));
            if (e.bad || e.n > 0 || name.p || number(&list, 1) != 0)
                return refused;
            name = take(&list, number(&list, 2));
            if (list.bad || list.n > 0 || name.n < 1 || name.n > 255)
                return refused;
            break;
        case 43:
            list = take(&e, number(&e, 1));
            if (e.bad || e.n > 0 || list.n < 2 || list.n % 2)
                return refused;
            for (uint16_t v; list.n > 0;) {
                v = (uint16_t)number(&list, 2);
                best = v >= 0x0300 && v <= 0x03ff && v > best ? v : best;
            }
            break;
        case 0xfe0d:
            a.ech = true;
            break;
        default:
            break;
        }
    }
    a.version = best ? best : a.version;
    if (name.p)
        a.r = good_name(name, a.name) ? MT_HELLO_NAME : MT_HELLO_BAD_NAME;
    return a;
}

static struct answer slow(const uint8_t *data, size_t size, size_t limit)
{
    static uint8_t msg[MT_HELLO_MAX];
    size_t n = 0, need = 4;
    struct cut raw = {.p = data, .n = size < limit ? size : limit}; /* what is beyond it does not count */
    while (n < need) {
        size_t type = number(&raw, 1), major = number(&raw, 1);
        (void)number(&raw, 1);
        size_t len = number(&raw, 2);
        if (raw.bad || type != 22 || major != 3 || len < 1 || len > 16384)
            return refused;
        for (size_t i = 0; i < len && n < need; i++) {
            msg[n++] = (uint8_t)number(&raw, 1);
            if (raw.bad)
                return refused;
            if (n == 4)
                need = 4 + ((size_t)msg[1] << 16 | (size_t)msg[2] << 8 | msg[3]);
            if (need > sizeof msg)
                return refused;
        }
    }
    return msg[0] == 1 ? slow_body((struct cut){.p = msg + 4, .n = need - 4}) : refused;
}

/*
 * A hello by the grammar, with a fault here and there, for storm.c: what random changes of bytes do not find, lengths that agree with
 * each other, comes from here.
 */
struct out {
    uint8_t *p;
    size_t n, max;
    uint64_t *s;
};

size_t storm_make(uint8_t *ret, size_t max, uint64_t *s);
uint64_t storm_random(uint64_t *s) __attribute__((weak));

static size_t below(struct out *o, size_t n)
{
    return (size_t)(storm_random(o->s) % n);
}

static void put(struct out *o, size_t v, size_t bytes)
{
    for (size_t i = bytes; i > 0; i--)
        if (o->n < o->max)
            o->p[o->n++] = (uint8_t)(v >> (8 * (i - 1)));
}

static void put_random(struct out *o, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put(o, storm_random(o->s) & 0xff, 1);
}

/* Write at @at the length of what came after it; one in @rare is wrong. */
static void close_length(struct out *o, size_t at, size_t bytes, size_t rare)
{
    if (at + bytes > o->max || o->n < at + bytes)
        return;
    size_t v = o->n - at - bytes;
    v += below(o, rare) == 0 ? below(o, 5) - 2 : 0;
    for (size_t i = 0; i < bytes; i++)
        o->p[at + i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
}

static size_t open_length(struct out *o, size_t bytes)
{
    put(o, 0, bytes);
    return o->n - bytes;
}

static void put_name(struct out *o)
{
    static const char usual[] = "abcxyzABCXYZ0189-_", odd[] = "\0 /*\x80\xff@[`{.";
    size_t labels = 1 + below(o, below(o, 8) ? 4 : 8), from = o->n;
    for (size_t i = 0; i < labels; i++) {
        size_t n = below(o, 12) ? 1 + below(o, 8) : 60 + below(o, 6);
        size_t digits = below(o, 3) == 0;
        n = below(o, 64) ? n : 0;
        for (size_t k = 0; k < n; k++)
            put(o, (uint8_t)(digits ? "0123456789"[below(o, 10)] : below(o, 200) ? usual[below(o, sizeof usual - 1)] : odd[below(o, sizeof odd - 1)]), 1);
        if (i + 1 < labels || below(o, 8) == 0)
            put(o, '.', 1);
    }
    if (below(o, 24) == 0) /* about as long as a name may be */
        for (size_t want = 250 + below(o, 9); o->n - from < want && o->n < o->max;)
            put(o, (o->n - from) % 50 == 49 ? '.' : 'l', 1);
}

static void put_extension(struct out *o)
{
    static const uint16_t types[] = {0, 0, 0, 43, 43, 0xfe0d, 0x0a0a, 0xfafa, 10, 13, 16, 21, 51};
    size_t type = types[below(o, sizeof types / sizeof types[0])];
    put(o, type, 2);
    size_t ext = open_length(o, 2), list, name;
    switch (type) {
    case 0:
        list = open_length(o, 2);
        put(o, below(o, 40) == 0, 1);
        name = open_length(o, 2);
        put_name(o);
        close_length(o, name, 2, 60);
        close_length(o, list, 2, 60);
        break;
    case 43:
        list = open_length(o, 1);
        for (size_t i = below(o, 16) ? 1 + below(o, 4) : 0; i > 0; i--)
            put(o, below(o, 3) ? 0x0300 + below(o, 6) : storm_random(o->s) & 0xffff, 2);
        put(o, 3, below(o, 40) == 0);
        close_length(o, list, 1, 60);
        break;
    default:
        put_random(o, below(o, 40));
    }
    close_length(o, ext, 2, 80);
}

static size_t make_message(struct out *o)
{
    put(o, below(o, 60) ? 1 : 2, 1);
    size_t all = open_length(o, 3);
    put(o, below(o, 8) ? 0x0301 + below(o, 4) : storm_random(o->s) & 0xffff, 2);
    put_random(o, 32);
    size_t n = below(o, 2) ? 32 : below(o, 34), part = open_length(o, 1);
    put_random(o, n);
    close_length(o, part, 1, 100);
    part = open_length(o, 2);
    put_random(o, 2 * below(o, 9) + (below(o, 60) == 0));
    close_length(o, part, 2, 100);
    part = open_length(o, 1);
    put_random(o, below(o, 60) ? 1 + below(o, 3) : 0);
    close_length(o, part, 1, 100);
    if (below(o, 16)) {
        part = open_length(o, 2);
        for (size_t i = below(o, 6); i > 0; i--)
            put_extension(o);
        close_length(o, part, 2, 60);
        put_random(o, below(o, 60) ? 0 : 1 + below(o, 4));
    }
    close_length(o, all, 3, 60);
    return o->n;
}

size_t storm_make(uint8_t *ret, size_t max, uint64_t *s)
{
    static uint8_t msg[4096];
    struct out m = {.p = msg, .max = sizeof msg, .s = s}, o = {.p = ret, .max = max, .s = s};
    size_t n = make_message(&m), most = below(&m, 2) ? 16384 : 1 + below(&m, 50);
    for (size_t at = 0; at < n && o.n < max;) {
        size_t k = most < 100 ? 1 + below(&o, most) : most;
        k = k < n - at ? k : n - at;
        put(&o, below(&o, 400) ? 22 : 23, 1);
        put(&o, below(&o, 400) ? 3 : 2, 1);
        put(&o, 1, 1);
        put(&o, below(&o, 400) ? k : 0, 2);
        for (size_t i = 0; i < k; i++)
            put(&o, msg[at++], 1);
    }
    put_random(&o, below(&o, 4) ? 0 : below(&o, 30));
    return o.n;
}

static bool is_answer(enum mt_hello_result r)
{
    return r == MT_HELLO_NAME || r == MT_HELLO_NO_NAME || r == MT_HELLO_BAD_NAME;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_hello whole, one, odd;
    const uint32_t limit = size & 1 ? MT_HELLO_MAX_FLOOR : MT_HELLO_MAX;
    mt_hello_init(&whole, limit);
    mt_hello_init(&one, limit);
    mt_hello_init(&odd, limit);
    enum mt_hello_result r = mt_hello_feed(&whole, data, size);
    enum mt_hello_result r1 = MT_HELLO_MORE, r2 = MT_HELLO_MORE;
    size_t i = 0, k = 0;
    for (; i < size && r1 == MT_HELLO_MORE; i++)
        r1 = mt_hello_feed(&one, data + i, 1);
    for (size_t step = 1; k < size && r2 == MT_HELLO_MORE; k += step) {
        step = 1 + (step * 7 + 3) % 29;
        if (step > size - k)
            step = size - k;
        r2 = mt_hello_feed(&odd, data + k, step);
    }
    if (r != r1 || r != r2)
        abort();
    /* what comes after the answer changes nothing */
    if (mt_hello_feed(&one, data + i, size - i) != r || mt_hello_feed(&odd, data + k, size - k) != r)
        abort();
    const struct answer a = slow(data, size, limit);
    if (is_answer(r) != is_answer(a.r) || (is_answer(r) && (r != a.r || whole.best_version != a.version || whole.saw_ech != a.ech)))
        abort();
    if (r == MT_HELLO_NAME) {
        char again[256];
        if (strcmp(whole.name, a.name) != 0 || strcmp(whole.name, one.name) != 0 || strcmp(whole.name, odd.name) != 0 ||
            strlen(whole.name) != whole.name_len)
            abort();
        if (mt_hello_normal_name(whole.name, whole.name_len, again) != whole.name_len || strcmp(again, whole.name) != 0)
            abort(); /* normalising twice changes nothing */
    }
    return 0;
}
