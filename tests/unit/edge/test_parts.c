/* SPDX-License-Identifier: Apache-2.0 */
/* Timer wheel, source limits, pool and the file of the last known good configuration. */
#include "base/clock.h"
#include "edge/limits.h"
#include "edge/pipes.h"
#include "edge/slab.h"
#include "edge/store.h"
#include "edge/unrouted.h"
#include "edge/wheel.h"
#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct probe {
    struct mt_edge_timer t;
    int64_t fired_at;
};
static int64_t virtual_now;

static void on_fire(struct mt_edge_timer *t, void *arg)
{
    (void)arg;
    MT_CONTAINER(t, struct probe, t)->fired_at = virtual_now;
}

static void timers_fire_once_never_early_and_at_most_two_slots_late(void **state)
{
    (void)state;
    static struct mt_edge_wheel w;
    static struct probe p[2000];
    int64_t start = 123456789;
    mt_edge_wheel_init(&w, start);
    for (unsigned i = 0; i < 2000; i++) {
        mt_edge_timer_init(&p[i].t);
        p[i].fired_at = 0;
        /* up to 40 s: more than two turns of the wheel */
        mt_edge_wheel_set(&w, &p[i].t, start + (int64_t)(i * 7919 % 2000) * 20 * MT_NS_PER_MS);
    }
    for (unsigned i = 0; i < 100; i++)
        mt_edge_wheel_clear(&p[i].t);
    virtual_now = start;
    for (;;) {
        int ms = mt_edge_wheel_wait_ms(&w, virtual_now);
        if (ms < 0)
            break;
        virtual_now += ms * MT_NS_PER_MS;
        mt_edge_wheel_run(&w, virtual_now, on_fire, NULL);
        assert_true(virtual_now < start + 60 * MT_NS_PER_S);
    }
    for (unsigned i = 0; i < 2000; i++) {
        if (i < 100) {
            assert_int_equal(p[i].fired_at, 0);
            continue;
        }
        assert_true(p[i].fired_at >= p[i].t.at);
        assert_true(p[i].fired_at <= p[i].t.at + 2 * MT_EDGE_WHEEL_TICK_NS + 2 * MT_NS_PER_MS);
    }
}

static void a_timer_set_after_a_long_sleep_fires_in_time(void **state)
{
    (void)state;
    static struct mt_edge_wheel w;
    struct probe p = {0};
    mt_edge_wheel_init(&w, 0);
    assert_int_equal(mt_edge_wheel_wait_ms(&w, 0), -1);
    virtual_now = 3600 * MT_NS_PER_S; /* no turn was run for an hour */
    mt_edge_wheel_run(&w, virtual_now, on_fire, NULL);
    mt_edge_timer_init(&p.t);
    mt_edge_wheel_set(&w, &p.t, virtual_now + 100 * MT_NS_PER_MS);
    int ms = mt_edge_wheel_wait_ms(&w, virtual_now);
    assert_true(ms >= 100 && ms <= 100 + 34);
    virtual_now += ms * MT_NS_PER_MS;
    mt_edge_wheel_run(&w, virtual_now, on_fire, NULL);
    assert_int_equal(p.fired_at, virtual_now);
}

static union mt_edge_addr v6(uint8_t net, uint8_t host)
{
    union mt_edge_addr a;
    memset(&a, 0, sizeof a);
    a.in6.sin6_family = AF_INET6;
    a.in6.sin6_addr.s6_addr[0] = 0x20;
    a.in6.sin6_addr.s6_addr[7] = net;
    a.in6.sin6_addr.s6_addr[15] = host;
    return a;
}

static void a_source_is_its_64_and_its_limits_hold(void **state)
{
    (void)state;
    const struct mt_edge_limit_conf c = {.conns = 3, .new_per_s = 10, .burst = 5, .preroute = 2};
    struct mt_edge_limits *l = mt_edge_limits_new(&c);
    struct mt_edge_source *s[4], *t;
    union mt_edge_addr a = v6(1, 1), same = v6(1, 2), other = v6(2, 1);
    int64_t now = MT_NS_PER_S;
    assert_int_equal(mt_edge_limits_enter(l, &a, now, &s[0]), MT_EDGE_ADMIT_OK);
    assert_int_equal(mt_edge_limits_enter(l, &same, now, &s[1]), MT_EDGE_ADMIT_OK);
    assert_ptr_equal(s[0], s[1]);
    assert_int_equal(mt_edge_limits_enter(l, &a, now, &s[2]), MT_EDGE_ADMIT_PREROUTE);
    assert_int_equal(mt_edge_limits_enter(l, &a, now, &s[3]), MT_EDGE_ADMIT_CONNS);
    assert_null(s[3]);
    assert_int_equal(mt_edge_limits_enter(l, &other, now, &t), MT_EDGE_ADMIT_OK);
    mt_edge_limits_leave(l, t, false);
    mt_edge_limits_routed(l, s[0]);
    mt_edge_limits_leave(l, s[0], true);
    mt_edge_limits_leave(l, s[1], false);
    mt_edge_limits_leave(l, s[2], false);
    for (unsigned i = 0; i < 2; i++) { /* the burst of five is spent with these */
        assert_int_equal(mt_edge_limits_enter(l, &a, now, &t), MT_EDGE_ADMIT_OK);
        mt_edge_limits_leave(l, t, false);
    }
    assert_int_equal(mt_edge_limits_enter(l, &a, now, &t), MT_EDGE_ADMIT_RATE);
    assert_int_equal(mt_edge_limits_enter(l, &a, now + 99 * MT_NS_PER_MS, &t), MT_EDGE_ADMIT_RATE);
    assert_int_equal(mt_edge_limits_enter(l, &a, now + 100 * MT_NS_PER_MS, &t), MT_EDGE_ADMIT_OK);
    mt_edge_limits_leave(l, t, false);
    union mt_edge_addr lo;
    memset(&lo, 0, sizeof lo);
    lo.in6.sin6_family = AF_INET6;
    lo.in6.sin6_addr = in6addr_loopback;
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(mt_edge_limits_enter(l, &lo, now, &t), MT_EDGE_ADMIT_OK);
        assert_null(t);
    }
    mt_edge_limits_free(l);
}

static union mt_edge_addr numbered(uint32_t i)
{
    union mt_edge_addr x = v6(0, 1);
    memcpy(&x.in6.sin6_addr.s6_addr[1], &i, 4);
    return x;
}

/* 65,536 /64s are the /48 that anybody is given: whoever has it must not switch the limits off for the rest of it. */
static void held_connections_of_many_sources_switch_no_limit_off(void **state)
{
    (void)state;
    const struct mt_edge_limit_conf c = {.conns = 2};
    struct mt_edge_limits *l = mt_edge_limits_new(&c);
    static struct mt_edge_source *held[MT_EDGE_SOURCES_MAX * 2], *t;
    uint32_t n = 0, i = 1;
    for (; n < 10000; i++) { /* the oldest of the table: each holds one connection */
        union mt_edge_addr x = numbered(i);
        assert_int_equal(mt_edge_limits_enter(l, &x, 1, &held[n]), MT_EDGE_ADMIT_OK);
        assert_non_null(held[n++]);
    }
    for (uint32_t k = 0; k < 3 * MT_EDGE_SOURCES_MAX; k++, i++) { /* many come and go: some of them have to find an entry */
        union mt_edge_addr x = numbered(i);
        if (mt_edge_limits_enter(l, &x, 1, &t) == MT_EDGE_ADMIT_OK) {
            assert_non_null(t);
            mt_edge_limits_leave(l, t, false);
        }
    }
    unsigned ok = 0;
    for (uint32_t k = 0; k < 1000; k++, i++) { /* each new one may have two, not three */
        union mt_edge_addr x = numbered(i);
        struct mt_edge_source *s[3] = {NULL};
        for (unsigned j = 0; j < 3; j++) {
            if (mt_edge_limits_enter(l, &x, 1, &s[j]) != MT_EDGE_ADMIT_OK)
                continue;
            assert_true(j < 2);
            assert_non_null(s[j]);
            ok++;
        }
        for (unsigned j = 0; j < 3; j++)
            mt_edge_limits_leave(l, s[j], false);
    }
    assert_true(ok > 1900); /* free entries are found behind the held ones */
    /* then none is free, and what comes more is one crowd for each shard: two connections for all of it */
    uint32_t refused = 0;
    for (; refused < 1000 && n < MT_EDGE_SOURCES_MAX * 2; i++) {
        union mt_edge_addr x = numbered(i);
        if (mt_edge_limits_enter(l, &x, 1, &t) == MT_EDGE_ADMIT_OK)
            held[n++] = t;
        else
            refused++;
    }
    assert_int_equal(refused, 1000);
    assert_true(n <= MT_EDGE_SOURCES_MAX + 64 * 2);
    while (n > 0)
        mt_edge_limits_leave(l, held[--n], false);
    mt_edge_limits_free(l);
}

static void a_route_takes_its_burst_and_then_its_pace(void **state)
{
    (void)state;
    _Atomic int64_t at = 0;
    int64_t now = 77 * MT_NS_PER_S;
    for (unsigned i = 0; i < 2000; i++)
        assert_true(mt_edge_rate_take(&at, 1000, 2000, now));
    assert_false(mt_edge_rate_take(&at, 1000, 2000, now));
    assert_false(mt_edge_rate_take(&at, 1000, 2000, now + MT_NS_PER_MS - 1));
    assert_true(mt_edge_rate_take(&at, 1000, 2000, now + MT_NS_PER_MS));
    assert_false(mt_edge_rate_take(&at, 1000, 2000, now + MT_NS_PER_MS));
    unsigned taken = 0;
    for (unsigned ms = 2; ms <= 3001; ms++) /* asked for ten times as often as allowed */
        for (unsigned k = 0; k < 10; k++)
            taken += mt_edge_rate_take(&at, 1000, 2000, now + ms * MT_NS_PER_MS);
    assert_int_equal(taken, 3000);
    assert_true(mt_edge_rate_take(&at, 0, 1, now)); /* no limit */
    atomic_store(&at, 0);
    assert_true(mt_edge_rate_take(&at, 1, 1, now));
    assert_false(mt_edge_rate_take(&at, 1, 1, now + MT_NS_PER_S - 1));
    assert_true(mt_edge_rate_take(&at, 1, 1, now + MT_NS_PER_S));
}

/* As an unprivileged user whose pipes are all full of what nobody takes. Exit status: 0 as it should be, else a step. */
static int with_no_pipe_pages_left(void)
{
    enum { MOST = 600 };
    static struct mt_edge_pipe taken[MOST];
    struct mt_edge_pipes ps = {.n = 0};
    struct mt_edge_pipe p;
    unsigned n = 0, tries = 0;
    const struct rlimit rl = {4096, 4096};
    if (setrlimit(RLIMIT_NOFILE, &rl) == -1 || (geteuid() == 0 && (setgid(64321) == -1 || setuid(64321) == -1)))
        return 1;
    while (n < MOST && mt_edge_pipe_get(&ps, &taken[n]))
        if (fcntl(taken[n++].wr, F_GETPIPE_SZ) < MT_EDGE_PIPE_LEAST)
            return 2; /* a tiny one was given out */
    if (n == 0 || n == MOST)
        return n == MOST ? 77 : 3; /* this kernel has no bound, or a far higher one */
    for (unsigned i = 0; i < n; i++)
        mt_edge_pipe_put(&ps, &taken[i], false);
    while (tries < 1000 && !mt_edge_pipe_get(&ps, &p))
        tries++;
    return tries == 1000 ? 4 : tries == 0 ? 5 : 0; /* it asks again, but not at once */
}

static void a_pipe_too_small_to_be_of_use_is_none(void **state)
{
    (void)state;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(with_no_pipe_pages_left());
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void source_table_is_bounded_and_never_forgets_a_connected_one(void **state)
{
    (void)state;
    const struct mt_edge_limit_conf c = {.conns = 1};
    struct mt_edge_limits *l = mt_edge_limits_new(&c);
    struct mt_edge_source *kept, *t;
    union mt_edge_addr a = v6(0, 1);
    assert_int_equal(mt_edge_limits_enter(l, &a, 1, &kept), MT_EDGE_ADMIT_OK);
    for (uint32_t i = 1; i < 3 * MT_EDGE_SOURCES_MAX; i++) {
        union mt_edge_addr x = v6(0, 1);
        memcpy(&x.in6.sin6_addr.s6_addr[1], &i, 4);
        assert_int_equal(mt_edge_limits_enter(l, &x, 1, &t), MT_EDGE_ADMIT_OK);
        mt_edge_limits_leave(l, t, false);
    }
    assert_int_equal(mt_edge_limits_enter(l, &a, 1, &t), MT_EDGE_ADMIT_CONNS);
    mt_edge_limits_leave(l, kept, false);
    mt_edge_limits_free(l);
}

enum { WAIT_SOURCES = 200, WAIT_EACH = 40, WAIT_ALL = WAIT_SOURCES * WAIT_EACH };

/* Nanoseconds of processor time of many look-ups of the oldest of source @i. */
static int64_t cost_of_oldest(const struct mt_edge_unrouted *u, const void *of, const struct mt_edge_waiting *want)
{
    struct timespec a, b;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (unsigned k = 0; k < 20000; k++)
        assert_ptr_equal(mt_edge_unrouted_oldest_of(u, of), want);
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    return (int64_t)(b.tv_sec - a.tv_sec) * MT_NS_PER_S + (b.tv_nsec - a.tv_nsec);
}

static void the_oldest_of_a_source_is_found_whoever_waits_before_it(void **state)
{
    (void)state;
    static struct mt_edge_unrouted u;
    static struct mt_edge_waiting c[WAIT_ALL], exempt[8000], late;
    static char source[WAIT_SOURCES][64], stranger;
    mt_edge_unrouted_init(&u);
    assert_null(mt_edge_unrouted_oldest(&u));
    mt_edge_waiting_init(&late);
    mt_edge_unrouted_add(&u, &late, &stranger);
    int64_t alone = cost_of_oldest(&u, &stranger, &late);
    mt_edge_unrouted_remove(&u, &late);
    mt_edge_unrouted_remove(&u, &late); /* harmless */
    for (unsigned i = 0; i < 8000; i++) {
        mt_edge_waiting_init(&exempt[i]);
        mt_edge_unrouted_add(&u, &exempt[i], NULL);
    }
    for (unsigned i = 0; i < WAIT_ALL; i++) { /* the sources take turns */
        mt_edge_waiting_init(&c[i]);
        mt_edge_unrouted_add(&u, &c[i], source[i % WAIT_SOURCES]);
    }
    mt_edge_unrouted_add(&u, &late, &stranger);
    assert_int_equal(u.n, 8000 + WAIT_ALL + 1);
    assert_ptr_equal(mt_edge_unrouted_oldest(&u), &exempt[0]);
    assert_null(mt_edge_unrouted_oldest_of(&u, NULL));
    int64_t crowded = cost_of_oldest(&u, &stranger, &late);
    /* going through those before it costs 16,000 steps, a thousand times what one costs; a bucket may hold a few other sources */
    if (crowded > 200 * alone)
        fail_msg("%lld ns behind others, %lld ns alone", (long long)crowded, (long long)alone);
    for (unsigned turn = 0; turn < WAIT_EACH; turn++) {
        for (unsigned i = 0; i < WAIT_SOURCES; i++) {
            struct mt_edge_waiting *o = mt_edge_unrouted_oldest_of(&u, source[i]);
            assert_ptr_equal(o, &c[turn * WAIT_SOURCES + i]);
            mt_edge_unrouted_remove(&u, o);
        }
    }
    assert_null(mt_edge_unrouted_oldest_of(&u, source[0]));
    for (unsigned i = 0; i < 8000; i++) {
        assert_ptr_equal(mt_edge_unrouted_oldest(&u), &exempt[i]);
        mt_edge_unrouted_remove(&u, &exempt[i]);
    }
    assert_ptr_equal(mt_edge_unrouted_oldest(&u), &late);
    assert_int_equal(u.n, 1);
}

static void pool_gives_zeroed_objects_and_reuses_them(void **state)
{
    (void)state;
    struct mt_edge_slab s;
    mt_edge_slab_init(&s, 100);
    char *p[100];
    for (unsigned i = 0; i < 100; i++) {
        p[i] = mt_edge_slab_get(&s);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (unsigned k = 0; k < 100; k++)
            assert_int_equal(p[i][k], 0);
        memset(p[i], 0xff, 100);
    }
    assert_int_equal(s.in_use, 100);
    mt_edge_slab_put(&s, p[42]);
    assert_ptr_equal(mt_edge_slab_get(&s), p[42]);
    assert_int_equal(p[42][0], 0);
    mt_edge_slab_done(&s);
}

static void stored_file_is_golden_and_every_flipped_bit_is_found(void **state)
{
    (void)state;
    char dir[] = "/tmp/moat-edge-store.XXXXXX", path[64], prev[64];
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    (void)snprintf(prev, sizeof prev, "%s/config.json.prev", dir);
    struct mt_err err = {0};
    char *text = NULL, *file = NULL;
    size_t len;
    assert_int_equal(mt_edge_store_load(dir, false, &text, &len, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_edge_store_save(dir, "{}", 2, 3, 4, &err), 0);
    assert_int_equal(mt_edge_store_load(dir, true, &text, &len, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_file_read(path, 4096, &file, &len, &err), 0);
    assert_string_equal(file, "moat-edge-config 1 length=2 sha256=44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
                              " epoch=3 revision=4\n{}");
    size_t first_digit_of_epoch = (size_t)(strstr(file, " epoch=") - file);
    for (size_t i = 0; i < len; i++) {
        if (i >= first_digit_of_epoch && file[i] != '{' && file[i] != '}')
            continue; /* epoch and revision of the header are for people; the snapshot has its own */
        file[i] ^= 1;
        assert_int_equal(mt_file_write(path, file, len, 0600, &err), 0);
        int r = mt_edge_store_load(dir, false, &text, &len, &err);
        if (r != -MT_E_CORRUPT)
            fail_msg("bit of byte %zu was not found: %d", i, r);
        file[i] ^= 1;
    }
    assert_int_equal(mt_edge_store_save(dir, "[1]", 3, 3, 5, &err), 0);
    assert_int_equal(mt_edge_store_save(dir, "[2]", 3, 3, 6, &err), 0);
    assert_int_equal(mt_edge_store_load(dir, false, &text, &len, &err), 0);
    assert_string_equal(text, "[2]");
    free(text);
    assert_int_equal(mt_edge_store_load(dir, true, &text, &len, &err), 0);
    assert_string_equal(text, "[1]");
    free(text);
    free(file);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, dir, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_of_a_source_is_found_whoever_waits_before_it),
        cmocka_unit_test(timers_fire_once_never_early_and_at_most_two_slots_late),
        cmocka_unit_test(a_timer_set_after_a_long_sleep_fires_in_time),
        cmocka_unit_test(a_source_is_its_64_and_its_limits_hold),
        cmocka_unit_test(held_connections_of_many_sources_switch_no_limit_off),
        cmocka_unit_test(a_route_takes_its_burst_and_then_its_pace),
        cmocka_unit_test(a_pipe_too_small_to_be_of_use_is_none),
        cmocka_unit_test(source_table_is_bounded_and_never_forgets_a_connected_one),
        cmocka_unit_test(pool_gives_zeroed_objects_and_reuses_them),
        cmocka_unit_test(stored_file_is_golden_and_every_flipped_bit_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
