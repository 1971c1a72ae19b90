/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a guest's boot log over the real channel: in parts and at a pace that does not break the guest's rate; and what a guest that lies, says
 * nothing or goes away makes of it: an error that names the instance, nothing more. */
#include "agent/instance/initlog.h"

#include "agent/instance/inst.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/sock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define LOG_BYTES 50000 /* seven parts */

static struct {
    struct mt_agent agent;
    struct mt_inst inst;
    char path[64];
    int fd; /* the guest's end */
    unsigned seq, ended;
    char text[LOG_BYTES + 1];
    size_t len;
    enum mt_code code; /* MT_OK: it came */
    char why[256];
} t;

static void on_message(void *arg, const struct mt_guest_msg *msg)
{
    (void)arg;
    if (msg->type == MT_GUEST_LOG_CHUNK)
        mt_initlog_chunk(&t.inst, &msg->u.log_chunk);
}

static void on_closed(void *arg, const char *why)
{
    (void)arg;
    mt_initlog_over(&t.inst, why);
}

static void on_done(void *arg, const char *text, size_t len, const struct mt_err *err)
{
    assert_ptr_equal(arg, &t);
    t.ended++;
    t.code = err ? err->code : MT_OK;
    (void)snprintf(t.why, sizeof t.why, "%s", err ? err->msg : "");
    assert_true(len <= LOG_BYTES);
    memcpy(t.text, text, len);
    t.len = len;
}

static int setup(void **s)
{
    static const struct mt_channel_events events = {.message = on_message, .closed = on_closed};
    struct mt_err err = {0};
    int fd = -1;
    (void)s;
    memset(&t, 0, sizeof t);
    (void)snprintf(t.path, sizeof t.path, "/tmp/mtinitlog.%d", (int)getpid());
    t.agent.loop = mt_loop_new(&err);
    t.agent.conf.patience = 1;
    t.inst.a = &t.agent;
    t.inst.guest_known = true;
    (void)snprintf(t.inst.st.instance_id, sizeof t.inst.st.instance_id, "inst_a");
    assert_int_equal(mt_sock_unix_listen(t.path, 0600, (uid_t)-1, (gid_t)-1, &fd, &err), 0);
    t.inst.chan = mt_channel_new(t.agent.loop, fd, getuid(), &events, &t, &err);
    assert_non_null(t.inst.chan);
    assert_int_equal(mt_sock_unix_connect(t.path, &t.fd, NULL), 0);
    for (int i = 0; i < 20; i++)
        (void)mt_loop_turn(t.agent.loop, 0);
    assert_true(mt_channel_connected(t.inst.chan));
    return 0;
}

static int teardown(void **s)
{
    (void)s;
    mt_initlog_cancel(&t.inst, &t);
    assert_null(t.inst.initlog);
    mt_channel_free(t.inst.chan);
    mt_loop_free(t.agent.loop);
    mt_closep(&t.fd);
    (void)unlink(t.path);
    return 0;
}

/* The next question that comes within @ms, its offset; -1 none. */
static int64_t asked(int ms)
{
    static char line[512];
    int64_t end = mt_clock_mono() + ms * MT_NS_PER_MS;
    do {
        (void)mt_loop_turn(t.agent.loop, 10);
        ssize_t n = recv(t.fd, line, sizeof line - 1, MSG_DONTWAIT);
        if (n > 0) {
            line[n] = '\0';
            const char *at = strstr(line, "\"type\":\"fetch_log\"");
            assert_non_null(at);
            assert_null(strstr(at + 18, "fetch_log")); /* one at a time */
            return strtoll(strstr(line, "\"offset\":") + 9, NULL, 10);
        }
    } while (!t.ended && mt_clock_mono() < end);
    return -1;
}

static void say(uint64_t offset, const char *data, size_t n, bool last)
{
    static char text[MT_B64_SIZE(16384)], line[32768];
    (void)mt_b64_encode(data, n, text);
    int len = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"log_chunk\",\"seq\":%u,\"offset\":%llu,\"data\":\"%s\",\"last\":%s}\n", ++t.seq,
                       (unsigned long long)offset, text, last ? "true" : "false");
    assert_int_equal(send(t.fd, line, (size_t)len, MSG_NOSIGNAL), len);
    for (int i = 0; i < 20; i++)
        (void)mt_loop_turn(t.agent.loop, 0);
}

static void comes_whole_in_parts(void **s)
{
    static char log[LOG_BYTES];
    struct mt_err err = {0};
    (void)s;
    for (size_t i = 0; i < sizeof log; i++)
        log[i] = (char)(i % 251);
    say(0, "nobody asked", 12, true);
    assert_int_equal(mt_initlog_begin(&t.inst, on_done, &t, &err), 0);
    assert_int_equal(mt_initlog_begin(&t.inst, on_done, &t.seq, &err), -MT_E_CONFLICT);
    mt_initlog_cancel(&t.inst, &t.seq); /* not the reader: nothing happens */
    size_t parts = 0;
    for (int64_t at; (at = asked(5000)) >= 0; parts++) {
        size_t n = mt_min_u64(MT_GUEST_LOG_CHUNK_BYTES, sizeof log - (size_t)at);
        if (parts == 2)
            say(0, log, 10, true); /* of a question before: not taken */
        say((uint64_t)at, log + at, n, (size_t)at + n == sizeof log);
    }
    assert_int_equal(t.ended, 1);
    assert_int_equal(t.code, MT_OK);
    assert_int_equal(parts, 7);
    assert_int_equal(t.len, sizeof log);
    assert_memory_equal(t.text, log, sizeof log);
    assert_int_equal(mt_channel_breaches(t.inst.chan), 0);
    assert_null(t.inst.initlog);
}

static void a_guest_that_lies_ends_it(void **s)
{
    static char big[MT_GUEST_LOG_CHUNK_BYTES + 1];
    struct mt_err err = {0};
    (void)s;
    memset(big, 'x', sizeof big);
    for (int kind = 0; kind < 3; kind++) {
        t.ended = 0;
        assert_int_equal(mt_initlog_begin(&t.inst, on_done, &t, &err), 0);
        assert_int_equal(asked(5000), 0);
        if (kind == 0) {
            say(0, big, sizeof big, false); /* more than a part */
        } else if (kind == 1) {
            say(0, "", 0, false); /* nothing, for ever */
        } else {
            char line[160];
            int len = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"log_chunk\",\"seq\":%u,\"offset\":0,\"data\":\"a b\",\"last\":true}\n", ++t.seq);
            assert_int_equal(send(t.fd, line, (size_t)len, 0), len);
            for (int i = 0; i < 20; i++)
                (void)mt_loop_turn(t.agent.loop, 0);
        }
        assert_int_equal(t.ended, 1);
        assert_int_equal(t.code, MT_E_CORRUPT);
        assert_non_null(strstr(t.why, "inst_a"));
        assert_true(mt_channel_connected(t.inst.chan)); /* the VM goes on */
    }
}

static void a_reader_or_a_guest_that_goes(void **s)
{
    struct mt_err err = {0};
    (void)s;
    assert_int_equal(mt_initlog_begin(&t.inst, on_done, &t, &err), 0);
    assert_int_equal(asked(5000), 0);
    mt_initlog_cancel(&t.inst, &t); /* its reader goes in the middle; a late answer is nobody's */
    say(0, "late", 4, true);
    assert_int_equal(t.ended, 0);
    assert_int_equal(mt_initlog_begin(&t.inst, on_done, &t, &err), 0);
    assert_int_equal(asked(5000), 0);
    mt_closep(&t.fd); /* the guest goes */
    for (int i = 0; i < 50 && !t.ended; i++)
        (void)mt_loop_turn(t.agent.loop, 20);
    assert_int_equal(t.ended, 1);
    assert_int_equal(t.code, MT_E_UNAVAILABLE);
    assert_int_equal(mt_initlog_begin(&t.inst, on_done, &t, &err), -MT_E_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "ctl console inst_a"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_whole_in_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_guest_that_lies_ends_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reader_or_a_guest_that_goes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
