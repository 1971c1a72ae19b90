/* SPDX-License-Identifier: Apache-2.0 */
/* Receives and sends in batches: the same answers as plain calls give, with a ring and without. */
#include "edge/batch.h"
#include "edge/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS 50

/* Pairs: 0 has five bytes, 1 has none, 2 was closed by its peer, 3 has more than there is room for, 4 is no descriptor. */
static void receives(struct mt_edge_batch *b)
{
    static const int32_t want[] = {5, -EAGAIN, 0, 8, -EBADF};
    static const char more[] = "more than eight";
    uint8_t room[5][8];
    struct mt_edge_call v[5];
    for (unsigned round = 0; round < ROUNDS; round++) {
        int p[4][2];
        memset(room, 0, sizeof room);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p[i]), 0); /* blocking: no call may wait all the same */
        assert_int_equal(send(p[0][1], "fives", 5, 0), 5);
        assert_int_equal(close(p[2][1]), 0);
        assert_int_equal(send(p[3][1], more, sizeof more, 0), sizeof more);
        for (unsigned i = 0; i < 5; i++)
            v[i] = (struct mt_edge_call){.fd = i < 4 ? p[i][0] : -1, .p = room[i], .len = 8};
        mt_edge_batch_run(b, false, v, 5);
        for (unsigned i = 0; i < 5; i++)
            assert_int_equal(v[i].res, want[i]);
        assert_memory_equal(room[0], "fives\0\0\0", 8);
        assert_memory_equal(room[3], more, 8);
        for (unsigned i = 0; i < 4; i++) {
            (void)close(p[i][0]);
            if (i != 2)
                (void)close(p[i][1]);
        }
    }
}

/* 0 takes all, 1 is full, 2 was closed by its peer, 3 has room for a part. */
static void sends(struct mt_edge_batch *b)
{
    static uint8_t big[1 << 22];
    uint8_t got[8] = {0};
    struct mt_edge_call v[4];
    for (unsigned round = 0; round < ROUNDS; round++) {
        int p[4][2];
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p[i]), 0);
        while (send(p[1][0], big, 4096, MSG_DONTWAIT) > 0) {
        }
        assert_int_equal(close(p[2][1]), 0);
        for (unsigned i = 0; i < 4; i++)
            v[i] = (struct mt_edge_call){.fd = p[i][0], .flags = MSG_NOSIGNAL, .p = big, .len = i == 3 ? sizeof big : 7};
        big[6] = (uint8_t)round;
        mt_edge_batch_run(b, true, v, 4);
        assert_int_equal(v[0].res, 7);
        assert_int_equal(v[1].res, -EAGAIN);
        assert_int_equal(v[2].res, -EPIPE);
        assert_true(v[3].res > 0 && v[3].res < (int32_t)sizeof big);
        assert_int_equal(recv(p[0][1], got, sizeof got, 0), 7);
        assert_int_equal(got[6], round);
        for (unsigned i = 0; i < 4; i++) {
            (void)close(p[i][0]);
            if (i != 2)
                (void)close(p[i][1]);
        }
    }
}

static void a_ring_answers_as_plain_calls_do(void **state)
{
    (void)state;
    struct mt_edge_batch b;
    bool has = mt_edge_batch_init(&b);
    if (!has)
        skip(); /* io_uring is not allowed here */
    receives(&b);
    sends(&b);
    assert_true(b.fd >= 0); /* it was the ring all the time */
    mt_edge_batch_done(&b);
}

static void without_a_ring_the_calls_are_made_one_by_one(void **state)
{
    (void)state;
    struct mt_edge_batch b = {.fd = -1};
    receives(&b);
    sends(&b);
}

static void a_ring_that_fails_is_given_up_and_nothing_is_lost(void **state)
{
    (void)state;
    struct mt_edge_batch b;
    if (!mt_edge_batch_init(&b))
        skip();
    (void)close(b.fd);
    b.fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* no ring: each entry fails */
    assert_true(b.fd >= 0);
    receives(&b);
    assert_int_equal(b.fd, -1);
    sends(&b);
}

static void a_full_batch_keeps_its_order(void **state)
{
    (void)state;
    struct mt_edge_batch b;
    int p[2];
    uint8_t out[MT_EDGE_BATCH], in[MT_EDGE_BATCH] = {0};
    struct mt_edge_call v[MT_EDGE_BATCH];
    (void)mt_edge_batch_init(&b);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < MT_EDGE_BATCH; i++) {
            out[i] = (uint8_t)(i + round);
            v[i] = (struct mt_edge_call){.fd = p[0], .flags = MSG_NOSIGNAL, .p = &out[i], .len = 1};
        }
        mt_edge_batch_run(&b, true, v, MT_EDGE_BATCH);
        for (unsigned i = 0; i < MT_EDGE_BATCH; i++)
            v[i] = (struct mt_edge_call){.fd = p[1], .p = &in[i], .len = 1};
        mt_edge_batch_run(&b, false, v, MT_EDGE_BATCH);
        assert_memory_equal(in, out, sizeof out);
    }
    (void)close(p[0]);
    (void)close(p[1]);
    mt_edge_batch_done(&b);
}

/* What a batch read and wrote, noted at the connection: no byte is lost, and none of that direction is read before the rest is out. */
static void what_did_not_fit_waits_and_holds_its_direction_back(void **state)
{
    (void)state;
    static const uint8_t data[] = "0123456789";
    struct mt_edge_worker *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->now = 7;
    struct mt_edge_conn c = {.magic = MT_EDGE_CONN_MAGIC, .state = MT_EDGE_RELAY, .w = w, .prompt = true,
                             .cl = {.fd = -1, .rd = true, .wr = true}, .be = {.fd = -1, .rd = true, .wr = true}};
    assert_true(mt_edge_relay_may_take(&c, true) && mt_edge_relay_may_take(&c, false));
    mt_edge_relay_took(&c, true, 10, 2048);
    assert_true(!c.be.rd && c.cl.rd && c.down.bytes == 10 && c.up.bytes == 0 && c.moved_at == 7);
    mt_edge_relay_gave(&c, true, data, 10, 10);
    assert_true(c.cl.wr && !c.down.spill);
    mt_edge_relay_took(&c, true, 2048, 2048);
    assert_true(c.be.rd); /* the slot was full: there may be more */
    mt_edge_relay_gave(&c, true, data, 10, 4);
    assert_true(!c.cl.wr && c.down.spill_len == 6);
    assert_memory_equal(c.down.spill, "456789", 6);
    c.cl.wr = true;
    assert_false(mt_edge_relay_may_take(&c, true));
    assert_true(mt_edge_relay_may_take(&c, false)); /* the other direction goes on */
    mt_edge_relay_gave(&c, false, data, 10, -EAGAIN);
    assert_true(!c.be.wr && c.up.spill_len == 10);
    c.cl.rd = true;
    mt_edge_relay_dry(&c, false, -EAGAIN);
    assert_true(!c.cl.rd && !c.up.eof);
    mt_edge_relay_dry(&c, true, 0);
    assert_true(!c.be.rd && c.down.eof);
    free(c.up.spill);
    free(c.down.spill);
    c = (struct mt_edge_conn){.magic = MT_EDGE_CONN_MAGIC, .state = MT_EDGE_DEAD, .w = w};
    mt_edge_relay_gave(&c, true, data, 10, 0); /* closed by an event of the same turn: nothing to note */
    mt_edge_relay_dry(&c, true, 0);
    assert_true(!c.down.spill && !c.down.eof && !mt_edge_relay_may_take(&c, true));
    free(w);
}

static void many_bulk_streams_share_a_turn(void **state)
{
    (void)state;
    static const uint32_t n[] = {0, 1, 8, 16, 64, 65, 100000}, kib[] = {512, 512, 512, 256, 64, 64, 64};
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++)
        assert_int_equal(mt_edge_worker_share(n[i]), kib[i] * 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_ring_answers_as_plain_calls_do),
        cmocka_unit_test(without_a_ring_the_calls_are_made_one_by_one),
        cmocka_unit_test(a_ring_that_fails_is_given_up_and_nothing_is_lost),
        cmocka_unit_test(a_full_batch_keeps_its_order),
        cmocka_unit_test(many_bulk_streams_share_a_turn),
        cmocka_unit_test(what_did_not_fit_waits_and_holds_its_direction_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
