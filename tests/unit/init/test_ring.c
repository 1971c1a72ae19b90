/* SPDX-License-Identifier: Apache-2.0 */
/* Log ring and line cutting of moat-init: nothing is lost unsaid, nothing out of order. */
#include "init/logs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static uint8_t store[64 * 1024], out[128 * 1024];
static struct mt_logs logs;

/* decodes @n bytes; counts records and bytes (payload + newline), checks seq order */
struct seen {
    uint64_t last_seq, bytes, lost, records, gaps;
};

static void look(struct seen *s, const uint8_t *data, size_t n)
{
    while (n > 0) {
        struct mt_guest_log_record r;
        struct mt_err err = {0};
        size_t used = 0;
        assert_int_equal(mt_guest_log_decode(data, n, &r, &used, &err), 0);
        assert_true(r.seq > s->last_seq);
        s->last_seq = r.seq;
        if (r.flags & MT_GUEST_LOG_GAP) {
            s->gaps++;
            s->lost += mt_guest_log_gap_bytes(&r);
        } else {
            s->records++;
            s->bytes += r.payload_len + 1;
        }
        data += used;
        n -= used;
    }
}

static void records_come_out_in_order(void **state)
{
    (void)state;
    struct mt_ring ring;
    struct seen s = {0};
    mt_ring_init(&ring, store, sizeof store);
    assert_true(mt_ring_empty(&ring));
    assert_int_equal(mt_ring_take(&ring, out, sizeof out), 0);
    mt_ring_put(&ring, MT_GUEST_STREAM_STDOUT, 0, 1, "one", 3);
    mt_ring_put(&ring, MT_GUEST_STREAM_STDERR, 0, 2, "", 0);
    /* room for one record only: the rest stays */
    size_t n = mt_ring_take(&ring, out, MT_GUEST_LOG_HEAD + 3);
    assert_int_equal(n, MT_GUEST_LOG_HEAD + 3);
    look(&s, out, n);
    assert_int_equal(mt_ring_take(&ring, out, MT_GUEST_LOG_HEAD - 1), 0);
    n = mt_ring_take(&ring, out, sizeof out);
    look(&s, out, n);
    assert_int_equal(s.records, 2);
    assert_int_equal(s.last_seq, 2);
    assert_true(mt_ring_empty(&ring));
}

static void overflow_drops_the_oldest_and_says_how_much(void **state)
{
    (void)state;
    struct mt_ring ring;
    struct seen s = {0};
    uint64_t put = 0;
    char payload[2048];
    memset(payload, 'x', sizeof payload);
    mt_ring_init(&ring, store, sizeof store);
    for (size_t i = 0; i < 5000; i++) {
        size_t n = (i * 7919) % sizeof payload;
        mt_ring_put(&ring, MT_GUEST_STREAM_STDOUT, 0, i, payload, n);
        put += n + 1;
        if (i % 300 == 299)
            look(&s, out, mt_ring_take(&ring, out, 30000));
    }
    for (size_t n; (n = mt_ring_take(&ring, out, 30000)) > 0;)
        look(&s, out, n);
    assert_true(s.gaps > 1);
    assert_int_equal(s.bytes + s.lost, put);
    assert_int_equal(s.last_seq, 5000);
}

static void the_largest_record_fits_the_smallest_ring(void **state)
{
    (void)state;
    struct mt_ring ring;
    struct seen s = {0};
    static char payload[MT_GUEST_LOG_PAYLOAD_MAX];
    mt_ring_init(&ring, store, sizeof store);
    for (int i = 0; i < 10; i++)
        mt_ring_put(&ring, MT_GUEST_STREAM_STDOUT, 0, 1, payload, sizeof payload);
    look(&s, out, mt_ring_take(&ring, out, sizeof out));
    assert_int_equal(s.records, 3);
    assert_int_equal(s.lost, 7 * (sizeof payload + 1));
}

static void setup_logs(size_t line_max)
{
    mt_logs_init(&logs);
    mt_ring_init(&logs.ring, store, sizeof store);
    logs.line_max = line_max;
}

static void assert_next(size_t *at, size_t n, const char *payload, uint8_t flags)
{
    struct mt_guest_log_record r;
    size_t used;
    assert_true(*at < n);
    assert_int_equal(mt_guest_log_decode(out + *at, n - *at, &r, &used, NULL), 0);
    assert_int_equal(r.payload_len, strlen(payload));
    assert_memory_equal(r.payload, payload, r.payload_len);
    assert_int_equal(r.flags, flags);
    *at += used;
}

static void lines_are_cut_at_newline_and_limit(void **state)
{
    (void)state;
    static const char text[] = "ab\n\nlong line of 20 bytes\nexactly8\nexactly8+\nrest";
    /* however the bytes arrive, the records are the same */
    for (size_t step = 1; step < sizeof text; step++) {
        size_t at = 0;
        setup_logs(8);
        for (size_t i = 0; i < sizeof text - 1; i += step) {
            size_t n = sizeof text - 1 - i < step ? sizeof text - 1 - i : step;
            mt_logs_feed(&logs, &logs.streams[0], text + i, n, 1);
        }
        size_t n = mt_ring_take(&logs.ring, out, sizeof out);
        assert_next(&at, n, "ab", 0);
        assert_next(&at, n, "", 0);
        assert_next(&at, n, "long lin", MT_GUEST_LOG_CONTINUES);
        assert_next(&at, n, "e of 20 ", MT_GUEST_LOG_CONTINUES);
        assert_next(&at, n, "bytes", 0);
        assert_next(&at, n, "exactly8", 0);
        assert_next(&at, n, "exactly8", MT_GUEST_LOG_CONTINUES);
        assert_next(&at, n, "+", 0);
        assert_int_equal(at, n);
        assert_int_equal(logs.streams[0].len, 4);
    }
}

static void the_end_of_a_pipe_flushes_its_last_line(void **state)
{
    (void)state;
    struct mt_err err = {0};
    size_t at = 0;
    mt_logs_init(&logs);
    assert_int_equal(mt_logs_start(&logs, 65536, 0, &err), 0);
    assert_int_equal(write(logs.write_fds[1], "no newline", 10), 10);
    mt_logs_read(&logs, &logs.streams[1]);
    mt_logs_read(&logs, &logs.streams[1]); /* nothing there: not the end */
    assert_false(mt_logs_pending(&logs));
    assert_true(logs.streams[1].fd >= 0);
    mt_logs_release_pipes(&logs);
    mt_logs_read(&logs, &logs.streams[1]);
    mt_logs_read(&logs, &logs.streams[0]);
    assert_false(mt_logs_pipes_open(&logs));
    size_t n = mt_ring_take(&logs.ring, out, sizeof out);
    assert_next(&at, n, "no newline", 0);
    assert_int_equal(at, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_out_in_order),
        cmocka_unit_test(overflow_drops_the_oldest_and_says_how_much),
        cmocka_unit_test(the_largest_record_fits_the_smallest_ring),
        cmocka_unit_test(lines_are_cut_at_newline_and_limit),
        cmocka_unit_test(the_end_of_a_pipe_flushes_its_last_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
