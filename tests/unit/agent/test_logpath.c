/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of a workload's lines: its pipe, moat-init's ring, the channel, the node's store. Both ends are the programs' own code, the
 * socket between them stands for vsock; time is given, so that a rate is a rate on every machine. What is written is there afterwards,
 * or its bytes are counted in a line that says so, and the workload has never waited.
 */
#include "agent/logchan.h"
#include "agent/logstore.h"
#include "base/clock.h"
#include "base/num.h"
#include "init/logs.h"
#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define ENV "env_01hzzzzzzzzzzzzzzzzzzzzzzz"
#define INST "inst_01hzzzzzzzzzzzzzzzzzzzzzzz"

static struct path {
    char dir[64];
    struct sockaddr_un at;
    struct mt_loop *loop;
    struct mt_logchan *chan;
    struct mt_log_store *store;
    struct mt_logs guest;
    int64_t now;
    uint64_t lines, bytes; /* written by the workload */
} p;

/* As the agent's on_log does it (instance/live.c). */
static void on_record(void *arg, const struct mt_guest_log_record *r)
{
    struct mt_err err = {0};
    uint64_t seq;
    (void)arg;
    if (r->flags & MT_GUEST_LOG_GAP) {
        if (mt_log_append_gap(p.store, mt_guest_log_gap_bytes(r), 1, r->seq, p.now, &err) < 0)
            p.now = -1;
        return;
    }
    const struct mt_log_record rec = {.boot = 1, .guest_seq = r->seq, .stream = r->stream, .line = r->payload, .len = r->payload_len};
    if (mt_log_append(p.store, &rec, p.now, &seq, &err) < 0)
        p.now = -1;
}

static int setup(void **s)
{
    struct mt_err err = {0};
    (void)s;
    memset(&p, 0, sizeof p);
    p.now = MT_NS_PER_S;
    (void)snprintf(p.dir, sizeof p.dir, "/tmp/mt-logpath-XXXXXX");
    if (!mkdtemp(p.dir))
        return -1;
    p.at.sun_family = AF_UNIX;
    (void)snprintf(p.at.sun_path, sizeof p.at.sun_path, "%s/log.sock", p.dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    p.loop = mt_loop_new(&err);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&p.at, sizeof p.at) != 0 || listen(fd, 4) != 0 || !p.loop)
        return -1;
    p.chan = mt_logchan_new(p.loop, fd, getuid(), on_record, NULL, NULL, &err);
    mt_logs_init(&p.guest);
    return p.chan && mt_log_store_open(p.dir, ENV, INST, &p.store, &err) == 0 && mt_logs_start(&p.guest, 0, 0, &err) == 0 ? 0 : -1;
}

static int teardown(void **s)
{
    (void)s;
    mt_logs_release_pipes(&p.guest);
    mt_logs_close(&p.guest);
    for (size_t i = 0; i < 2; i++)
        if (p.guest.streams[i].fd >= 0)
            (void)close(p.guest.streams[i].fd);
    mt_log_store_close(p.store);
    mt_logchan_free(p.chan);
    mt_loop_free(p.loop);
    return mt_file_remove_tree(AT_FDCWD, p.dir, NULL);
}

static void connect_host(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0 && connect(fd, (const struct sockaddr *)&p.at, sizeof p.at) == 0);
    mt_logs_open(&p.guest, fd, false);
}

/* @n lines of @len bytes each from the workload, then what init and the agent do in a turn of their loops. */
static void write_lines(unsigned n, size_t len)
{
    static char text[65536];
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        int head = snprintf(text + at, sizeof text - at, "%010llu ", (unsigned long long)p.lines++);
        memset(text + at + head, '.', len - (size_t)head);
        text[at + len] = '\n';
        at += len + 1;
        p.bytes += len;
    }
    assert_true(at <= 65536); /* what a pipe holds: more would ask for turns in between */
    assert_int_equal(write(p.guest.write_fds[0], text, at), at); /* a blocking pipe: the test would hang where a workload would */
}

static void guest_turn(void)
{
    struct mt_err err = {0};
    mt_logs_read(&p.guest, &p.guest.streams[0]);
    assert_int_equal(mt_logs_flush(&p.guest, &err), 0);
}

static void turns(unsigned most)
{
    for (unsigned i = 0; i < most && (i == 0 || mt_logs_pending(&p.guest)); i++) {
        guest_turn();
        assert_true(mt_loop_turn(p.loop, 0) >= 0);
    }
    mt_logchan_drain(p.chan);
    assert_true(p.now > 0);
}

/* Read all of it: every line once and in order, what is missing counted before what follows. */
static void check(uint64_t *ret_lines, uint64_t *ret_bytes, uint64_t *ret_dropped, unsigned *ret_gaps)
{
    struct mt_log_reader *r = NULL;
    struct mt_log_record rec;
    struct mt_err err = {0};
    uint64_t next = 0, at = 0, number;
    *ret_lines = *ret_bytes = *ret_dropped = *ret_gaps = 0;
    assert_int_equal(mt_log_reader_open(p.dir, INST, 0, &r, &err), 0);
    while (mt_log_reader_next(r, &rec, &err) == 1) {
        char text[32];
        assert_int_equal(rec.seq, ++next);
        if (rec.flags & MT_LOG_GAP) {
            (void)snprintf(text, sizeof text, "%.*s", (int)(rec.len < 31 ? rec.len : 31), (const char *)rec.line);
            assert_int_equal(strncmp(text, "dropped=", 8), 0);
            assert_int_equal(mt_parse_u64(text + 8, 1, INT64_MAX, &number, &err), 0);
            *ret_dropped += number;
            ++*ret_gaps;
            at = UINT64_MAX;
            continue;
        }
        (void)snprintf(text, sizeof text, "%.10s", (const char *)rec.line);
        assert_int_equal(mt_parse_u64(text + strspn(text, "0") - (strspn(text, "0") == 10), 0, INT64_MAX, &number, &err), 0);
        assert_true(at == UINT64_MAX ? number >= *ret_lines : number == at); /* a hole only behind a line that counts it */
        at = number + 1;
        ++*ret_lines;
        *ret_bytes += rec.len;
    }
    mt_log_reader_close(r);
}

static int64_t cpu_us(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u);
    return (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

/* runtime.md §10, the rate: 20,000 lines of 48 bytes in each of ten seconds, 0.92 MiB/s of the 1 MiB/s that an instance has */
static void twenty_thousand_lines_a_second_arrive_whole(void **s)
{
    uint64_t lines, bytes, dropped;
    unsigned gaps;
    (void)s;
    connect_host();
    int64_t from = cpu_us();
    for (unsigned ms = 0; ms < 10000; ms += 5) {
        write_lines(100, 48);
        turns(4);
        p.now += 5 * MT_NS_PER_MS;
    }
    turns(1000);
    int64_t took = cpu_us() - from;
    check(&lines, &bytes, &dropped, &gaps);
    assert_int_equal(lines, 200000);
    assert_int_equal(bytes, p.bytes);
    assert_int_equal(gaps, 0);
    print_message("%lld us of processor time for 200,000 lines, both ends\n", (long long)took);
}

/* nobody takes them for a while: the ring keeps the newest MiB, the host hears how much is missing first */
static void what_nobody_took_is_counted(void **s)
{
    uint64_t lines, bytes, dropped;
    unsigned gaps;
    (void)s;
    for (unsigned i = 0; i < 2000; i++) {
        write_lines(100, 48);
        guest_turn(); /* no host: it reads all the same */
    }
    connect_host();
    turns(1000);
    write_lines(1, 48);
    turns(1000);
    check(&lines, &bytes, &dropped, &gaps);
    assert_int_equal(gaps, 1);
    assert_true(lines > 10000 && dropped > 0);
    assert_int_equal(bytes + dropped, p.bytes + (p.lines - lines)); /* the guest counts the newline of what it lost */
}

/* thrice the rate for twenty seconds: the burst is spent, what is above the rate is counted to the byte */
static void what_is_above_the_rate_is_counted(void **s)
{
    uint64_t lines, bytes, dropped;
    unsigned gaps;
    (void)s;
    connect_host();
    for (unsigned ms = 0; ms < 20000; ms += 10) {
        write_lines(66, 476); /* 3 MiB/s */
        turns(8);
        p.now += 10 * MT_NS_PER_MS;
    }
    turns(1000);
    p.now += 10 * MT_NS_PER_S;
    write_lines(1, 476);
    turns(1000);
    check(&lines, &bytes, &dropped, &gaps);
    assert_true(gaps >= 1 && bytes >= 24u << 20 && bytes <= 30u << 20); /* 8 MiB of burst and 20 s of 1 MiB/s, heads in the account too */
    assert_int_equal(bytes + dropped, p.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(twenty_thousand_lines_a_second_arrive_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(what_nobody_took_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_above_the_rate_is_counted, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
