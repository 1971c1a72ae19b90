/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ClientHello reader: hellos of real clients, hellos built field by field, and the property that the cutting of the
 * stream into pieces and records never changes the answer.
 */
#include "wire/clienthello.h"

#include "base/buf.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#include "captured.h"

/* What to build; zero values give a plain TLS 1.3 hello without extensions. */
struct build {
    const char *name;       /* server name, NULL for none */
    size_t name_len;        /* 0: strlen */
    unsigned name_times;    /* copies of the extension, 0 means 1 when there is a name */
    size_t key_share;       /* bytes of a key share extension */
    bool grease, ech, no_ext_list;
    uint16_t list_off;      /* added to the list length of server_name */
    uint8_t name_type;      /* entry type of server_name */
    uint8_t sid_len;        /* claimed session id length, that many bytes are there */
    uint16_t cs_len;        /* cipher suite bytes, 0 means 2 */
    uint8_t cm_len;         /* compression bytes, 0 means 1 */
    bool cs_empty, cm_empty;
    size_t trailing;        /* bytes after the extension list, inside the message */
    uint8_t type;           /* handshake type, 0 means 1 */
    bool two_entries;       /* server_name with a second entry */
};

static void put_zeros(struct mt_buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        mt_buf_putc(b, 0);
}

static void put_name_ext(struct mt_buf *e, const struct build *o)
{
    size_t n = o->name_len ? o->name_len : strlen(o->name);
    size_t entry = 3 + n;
    size_t list = o->two_entries ? entry + 4 : entry;
    mt_buf_put_be16(e, 0);
    mt_buf_put_be16(e, (uint16_t)(2 + list));
    mt_buf_put_be16(e, (uint16_t)(list + o->list_off));
    mt_buf_putc(e, (char)o->name_type);
    mt_buf_put_be16(e, (uint16_t)n);
    mt_buf_put(e, o->name, n);
    if (o->two_entries) {
        mt_buf_putc(e, 0);
        mt_buf_put_be16(e, 1);
        mt_buf_putc(e, 'x');
    }
}

/* The handshake message, without records. */
static void build_message(struct mt_buf *m, const struct build *o)
{
    mt_auto_buf struct mt_buf e = MT_BUF_INIT(1 << 20);
    mt_auto_buf struct mt_buf body = MT_BUF_INIT(1 << 20);
    if (o->grease) {
        mt_buf_put_be16(&e, 0x4a4a);
        mt_buf_put_be16(&e, 0);
    }
    mt_buf_put(&e, "\x00\x2b\x00\x07\x06\x2a\x2a\x03\x04\x03\x03", 11); /* supported_versions with GREASE */
    if (o->key_share) {
        mt_buf_put_be16(&e, 51);
        mt_buf_put_be16(&e, (uint16_t)o->key_share);
        put_zeros(&e, o->key_share);
    }
    if (o->ech) {
        mt_buf_put_be16(&e, 0xfe0d);
        mt_buf_put_be16(&e, 40);
        put_zeros(&e, 40);
    }
    for (unsigned i = 0; o->name && i < (o->name_times ? o->name_times : 1); i++)
        put_name_ext(&e, o);
    if (o->grease) {
        mt_buf_put_be16(&e, 0xdada);
        mt_buf_put_be16(&e, 1);
        mt_buf_putc(&e, 0);
    }
    mt_buf_put_be16(&body, 0x0303);
    put_zeros(&body, 32);
    mt_buf_putc(&body, (char)o->sid_len);
    put_zeros(&body, o->sid_len);
    size_t cs = o->cs_empty ? 0 : o->cs_len ? o->cs_len : 2;
    mt_buf_put_be16(&body, (uint16_t)cs);
    put_zeros(&body, cs);
    size_t cm = o->cm_empty ? 0 : o->cm_len ? o->cm_len : 1;
    mt_buf_putc(&body, (char)cm);
    put_zeros(&body, cm);
    if (!o->no_ext_list) {
        mt_buf_put_be16(&body, (uint16_t)e.len);
        mt_buf_put(&body, e.p, e.len);
    }
    put_zeros(&body, o->trailing);
    mt_buf_putc(m, (char)(o->type ? o->type : 1));
    mt_buf_putc(m, (char)(body.len >> 16));
    mt_buf_put_be16(m, (uint16_t)(body.len & 0xffff));
    mt_buf_put(m, body.p, body.len);
    assert_int_equal(mt_buf_check(m, NULL), 0);
}

/* Put @n message bytes into records of at most @chunk payload bytes. */
static void put_records(struct mt_buf *s, const uint8_t *p, size_t n, size_t chunk)
{
    while (n > 0) {
        size_t k = n < chunk ? n : chunk;
        mt_buf_put(s, "\x16\x03\x01", 3);
        mt_buf_put_be16(s, (uint16_t)k);
        mt_buf_put(s, p, k);
        p += k;
        n -= k;
    }
    assert_int_equal(mt_buf_check(s, NULL), 0);
}

static enum mt_hello_result feed_by(struct mt_hello *h, const uint8_t *p, size_t n, size_t step)
{
    enum mt_hello_result r = mt_hello_feed(h, p, 0);
    for (size_t i = 0; i < n && r == MT_HELLO_MORE; i += step) {
        size_t k = n - i < step ? n - i : step;
        /* an exact heap copy, so that reading one byte too far is seen by the sanitizer */
        uint8_t *piece = malloc(k);
        assert_non_null(piece);
        memcpy(piece, p + i, k);
        r = mt_hello_feed(h, piece, k);
        free(piece);
    }
    return r;
}

/* Whole, two pieces at every position, one byte at a time: all must say the same. Returns the result of the whole. */
static enum mt_hello_result read_all_ways(struct mt_hello *whole, const uint8_t *p, size_t n)
{
    struct mt_hello h;
    mt_hello_init(whole, MT_HELLO_MAX);
    enum mt_hello_result want = feed_by(whole, p, n, n ? n : 1);
    mt_hello_init(&h, MT_HELLO_MAX);
    assert_int_equal(feed_by(&h, p, n, 1), want);
    assert_string_equal(h.name, whole->name);
    assert_int_equal(h.best_version, whole->best_version);
    for (size_t cut = 0; cut <= n; cut++) {
        mt_hello_init(&h, MT_HELLO_MAX);
        (void)mt_hello_feed(&h, p, cut);
        assert_int_equal(mt_hello_feed(&h, p + cut, n - cut), want);
        assert_string_equal(h.name, whole->name);
    }
    return want;
}

static enum mt_hello_result read_built(struct mt_hello *h, const struct build *o)
{
    mt_auto_buf struct mt_buf m = MT_BUF_INIT(1 << 20), s = MT_BUF_INIT(1 << 20);
    build_message(&m, o);
    put_records(&s, m.p, m.len, 16384);
    return read_all_ways(h, s.p, s.len);
}

static void real_clients_are_read_however_the_stream_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof captured / sizeof captured[0]; i++) {
        const struct captured *c = &captured[i];
        size_t n = strlen(c->hex) / 2;
        uint8_t *raw = malloc(n);
        assert_non_null(raw);
        assert_int_equal(mt_hex_decode(c->hex, n, raw), 0);
        struct mt_hello h;
        assert_int_equal(read_all_ways(&h, raw, n), c->name[0] ? MT_HELLO_NAME : MT_HELLO_NO_NAME);
        assert_string_equal(h.name, c->name);
        assert_int_equal(h.best_version, MT_STREQ(c->client, "py_tls12") ? 0x0303 : 0x0304);
        for (size_t len = 0; len < n; len++) { /* every true prefix is incomplete, never anything else */
            mt_hello_init(&h, MT_HELLO_MAX);
            assert_int_equal(mt_hello_feed(&h, raw, len), MT_HELLO_MORE);
        }
        free(raw);
    }
}

static void records_of_any_size_carry_the_same_hello(void **state)
{
    (void)state;
    const struct build o = {.name = "app.example.com", .grease = true, .ech = true, .sid_len = 32};
    mt_auto_buf struct mt_buf m = MT_BUF_INIT(1 << 20);
    build_message(&m, &o);
    for (size_t chunk = 1; chunk <= m.len; chunk++) {
        mt_auto_buf struct mt_buf s = MT_BUF_INIT(1 << 20);
        put_records(&s, m.p, m.len, chunk);
        for (size_t step = 1; step <= 7; step++) {
            struct mt_hello h;
            mt_hello_init(&h, MT_HELLO_MAX);
            assert_int_equal(feed_by(&h, s.p, s.len, step), MT_HELLO_NAME);
            assert_string_equal(h.name, "app.example.com");
            assert_true(h.saw_ech);
            assert_int_equal(h.best_version, 0x0304);
        }
    }
}

static void post_quantum_sizes_and_what_follows_the_hello_are_fine(void **state)
{
    (void)state;
    const struct build o = {.name = "pq.example.com", .key_share = 1260, .grease = true, .sid_len = 32, .cs_len = 200};
    mt_auto_buf struct mt_buf m = MT_BUF_INIT(1 << 20), s = MT_BUF_INIT(1 << 20);
    build_message(&m, &o);
    put_records(&s, m.p, m.len, 16384);
    mt_buf_put(&s, "\x14\x03\x03\x00\x01\x01garbage", 13); /* early data: not looked at */
    struct mt_hello h;
    assert_int_equal(read_all_ways(&h, s.p, s.len), MT_HELLO_NAME);
    assert_string_equal(h.name, "pq.example.com");
    assert_true(s.len > 1700 - 200);
}

struct verdict {
    const char *what;
    struct build o;
    enum mt_hello_result want;
};

static void rules_of_the_body_are_kept(void **state)
{
    (void)state;
    static char long_name[300];
    memset(long_name, 'a', sizeof long_name);
    const struct verdict v[] = {
        {"plain", {.name = "a.example.com"}, MT_HELLO_NAME},
        {"no server_name", {.grease = true}, MT_HELLO_NO_NAME},
        {"no extension list", {.no_ext_list = true}, MT_HELLO_NO_NAME},
        {"duplicate server_name", {.name = "a.example.com", .name_times = 2}, MT_HELLO_MALFORMED},
        {"two entries", {.name = "a.example.com", .two_entries = true}, MT_HELLO_MALFORMED},
        {"entry type 1", {.name = "a.example.com", .name_type = 1}, MT_HELLO_MALFORMED},
        {"list longer than extension", {.name = "a.example.com", .list_off = 1}, MT_HELLO_MALFORMED},
        {"list shorter than extension", {.name = "a.example.com", .list_off = 0xffff}, MT_HELLO_MALFORMED},
        {"empty name", {.name = ""}, MT_HELLO_MALFORMED},
        {"256 bytes of name", {.name = long_name, .name_len = 256}, MT_HELLO_MALFORMED},
        {"255 bytes of name in one label", {.name = long_name, .name_len = 255}, MT_HELLO_BAD_NAME},
        {"session id of 33", {.name = "a.example.com", .sid_len = 33}, MT_HELLO_MALFORMED},
        {"odd cipher suites", {.name = "a.example.com", .cs_len = 3}, MT_HELLO_MALFORMED},
        {"no cipher suites", {.name = "a.example.com", .cs_empty = true}, MT_HELLO_MALFORMED},
        {"no compression", {.name = "a.example.com", .cm_empty = true}, MT_HELLO_MALFORMED},
        {"255 compression methods", {.name = "a.example.com", .cm_len = 255}, MT_HELLO_NAME},
        {"trailing byte", {.name = "a.example.com", .trailing = 1}, MT_HELLO_MALFORMED},
        {"trailing byte, no list", {.no_ext_list = true, .trailing = 1}, MT_HELLO_MALFORMED},
        {"server hello", {.name = "a.example.com", .type = 2}, MT_HELLO_MALFORMED},
        {"upper case and dot", {.name = "A.Example.COM."}, MT_HELLO_NAME},
        {"address", {.name = "192.0.2.1"}, MT_HELLO_BAD_NAME},
        {"space", {.name = "a b.example.com"}, MT_HELLO_BAD_NAME},
        {"NUL inside", {.name = "a\0b.example.com", .name_len = 15}, MT_HELLO_BAD_NAME},
    };
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        struct mt_hello h;
        enum mt_hello_result r = read_built(&h, &v[i].o);
        if (r != v[i].want)
            fail_msg("%s: got %s, want %s", v[i].what, mt_hello_result_name(r), mt_hello_result_name(v[i].want));
        if (r != MT_HELLO_NAME)
            assert_string_equal(r == MT_HELLO_BAD_NAME ? h.name : "", "");
    }
}

struct raw {
    const char *what;
    const char *hex;
    enum mt_hello_result want;
};

static void record_layer_is_strict(void **state)
{
    (void)state;
    const struct raw v[] = {
        {"http", "474554202f20", MT_HELLO_NOT_TLS},
        {"sslv2", "802e010301001500000010", MT_HELLO_NOT_TLS},
        {"major 2", "1602", MT_HELLO_NOT_TLS},
        {"any minor", "160309", MT_HELLO_MORE},
        {"alert first", "15030100020228", MT_HELLO_NOT_TLS},
        {"zero-length fragment", "1603010000", MT_HELLO_MALFORMED},
        {"record of 16385", "1603014001", MT_HELLO_MALFORMED},
        {"record of 16384", "1603014000", MT_HELLO_MORE},
        {"other content inside", "16030100010117", MT_HELLO_MALFORMED},
        {"second record major 2", "160301000101" "1602", MT_HELLO_MALFORMED},
        {"second record empty", "160301000101" "1603010000", MT_HELLO_MALFORMED},
        {"message shorter than any hello", "160301000401000028", MT_HELLO_MALFORMED},
        {"message above the bound", "160301000401004001", MT_HELLO_TOO_BIG},
        {"message far above the bound", "1603010004010fffff", MT_HELLO_TOO_BIG},
    };
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        uint8_t raw[64];
        size_t n = strlen(v[i].hex) / 2;
        assert_int_equal(mt_hex_decode(v[i].hex, n, raw), 0);
        struct mt_hello h;
        enum mt_hello_result r = read_all_ways(&h, raw, n);
        if (r != v[i].want)
            fail_msg("%s: got %s, want %s", v[i].what, mt_hello_result_name(r), mt_hello_result_name(v[i].want));
    }
}

static void bound_counts_record_headers_too(void **state)
{
    (void)state;
    const struct build o = {.name = "a.example.com", .key_share = 3000};
    mt_auto_buf struct mt_buf m = MT_BUF_INIT(1 << 20), s = MT_BUF_INIT(1 << 20);
    build_message(&m, &o);
    put_records(&s, m.p, m.len, 1); /* six bytes on the wire for one */
    assert_true(s.len > MT_HELLO_MAX && m.len < MT_HELLO_MAX);
    struct mt_hello h;
    mt_hello_init(&h, MT_HELLO_MAX);
    assert_int_equal(mt_hello_feed(&h, s.p, MT_HELLO_MAX - 1), MT_HELLO_MORE);
    assert_int_equal(mt_hello_feed(&h, s.p + MT_HELLO_MAX - 1, 1), MT_HELLO_TOO_BIG);
    mt_hello_init(&h, MT_HELLO_MAX);
    assert_int_equal(mt_hello_feed(&h, s.p, s.len), MT_HELLO_TOO_BIG);
    mt_hello_init(&h, MT_HELLO_MAX_CEIL);
    assert_int_equal(mt_hello_feed(&h, s.p, s.len), MT_HELLO_NAME);
    /* complete with the very last allowed byte */
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(1 << 20), m2 = MT_BUF_INIT(1 << 20);
    const struct build exact = {.name = "a.example.com", .key_share = MT_HELLO_MAX - 5 - 4 - 41 - 2 - 11 - 4 - 22};
    build_message(&m2, &exact);
    put_records(&t, m2.p, m2.len, 16384);
    assert_int_equal(t.len, MT_HELLO_MAX);
    mt_hello_init(&h, MT_HELLO_MAX);
    assert_int_equal(mt_hello_feed(&h, t.p, t.len), MT_HELLO_NAME);
}

/* Deterministic mutations of a good hello: whatever comes out, cutting must not change it. */
static void mutated_hellos_read_the_same_however_they_are_cut(void **state)
{
    (void)state;
    const struct build o = {.name = "app.example.com", .grease = true, .ech = true, .sid_len = 8};
    mt_auto_buf struct mt_buf m = MT_BUF_INIT(1 << 20), s = MT_BUF_INIT(1 << 20);
    build_message(&m, &o);
    put_records(&s, m.p, m.len, 50);
    static const uint8_t values[] = {0x00, 0x01, 0x02, 0x16, 0x7f, 0x80, 0xff};
    for (size_t at = 0; at < s.len; at++) {
        uint8_t keep = s.p[at];
        for (size_t k = 0; k < sizeof values; k++) {
            struct mt_hello a, b, c;
            s.p[at] = values[k];
            mt_hello_init(&a, MT_HELLO_MAX);
            mt_hello_init(&b, MT_HELLO_MAX);
            mt_hello_init(&c, MT_HELLO_MAX);
            enum mt_hello_result ra = mt_hello_feed(&a, s.p, s.len);
            assert_int_equal(feed_by(&b, s.p, s.len, 1), ra);
            assert_int_equal(feed_by(&c, s.p, s.len, 1 + at % 13), ra);
            assert_string_equal(a.name, b.name);
            assert_string_equal(a.name, c.name);
        }
        s.p[at] = keep;
    }
}

static void names_are_normalised_or_refused(void **state)
{
    (void)state;
    const struct {
        const char *in, *out;
    } v[] = {
        {"example.com", "example.com"}, {"EXAMPLE.com.", "example.com"}, {"a_b-c.d", "a_b-c.d"}, {"x", "x"},
        {"1.2.3", "1.2.3"}, {"1.2.3.4", NULL}, {"999.2.3.4", NULL}, {"1.2.3.4a", "1.2.3.4a"},
        {"", NULL}, {".", NULL}, {"a..b", NULL}, {".a", NULL}, {"a..", NULL}, {"b\xc3\xbc.de", NULL}, {"a:1", NULL},
        {"*.example.com", NULL},
    };
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        char out[256] = "";
        size_t n = mt_hello_normal_name(v[i].in, strlen(v[i].in), out);
        assert_int_equal(n, v[i].out ? strlen(v[i].out) : 0);
        assert_string_equal(out, v[i].out ? v[i].out : "");
    }
    char label[70], out[256];
    memset(label, 'a', sizeof label);
    assert_int_equal(mt_hello_normal_name(label, 63, out), 63);
    assert_int_equal(mt_hello_normal_name(label, 64, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_clients_are_read_however_the_stream_is_cut),
        cmocka_unit_test(records_of_any_size_carry_the_same_hello),
        cmocka_unit_test(post_quantum_sizes_and_what_follows_the_hello_are_fine),
        cmocka_unit_test(rules_of_the_body_are_kept),
        cmocka_unit_test(record_layer_is_strict),
        cmocka_unit_test(bound_counts_record_headers_too),
        cmocka_unit_test(mutated_hellos_read_the_same_however_they_are_cut),
        cmocka_unit_test(names_are_normalised_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
