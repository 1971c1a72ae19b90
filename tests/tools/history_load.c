/* SPDX-License-Identifier: Apache-2.0 */
/* Random mixed commands for tests/scenario/test_eventlog_mixed.py. One line per fact on stdout, before or after it happens:
 *   run DIR TAG SEED CLIENTS   until stdin closes: each client an organisation's history; a command whose outcome is not known is
 *                              repeated under its key until it is
 *        "try KEY EVENTS"      a command is about to be given to the appender
 *        "ack KEY EVENT_ID"    it was answered: durable, this is its last event
 *   check DIR                  "log EVENTS BAD WHAT", "views ROWS DIFFERENCES FIRST"
 * DIR is a cluster made by `eventlog-load up DIR`. */
#include "control/log/verify.h"
#include "control/views/rebuild.h"
#include "history.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLIENTS_MAX 64

struct client {
    pthread_t thread;
    struct history now, before; /* before: as it was when the command under way was made */
};

static struct mt_appender *appender;
static _Atomic bool stopping;
static pthread_mutex_t out = PTHREAD_MUTEX_INITIALIZER;

static void say(const char *line)
{
    (void)pthread_mutex_lock(&out);
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        stopping = true;
    (void)pthread_mutex_unlock(&out);
}

/* 0 done; 1 unknown: again. */
static int once(struct client *c, bool again)
{
    struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    struct mt_err err = {0};
    char line[160];
    c->now = c->before;
    if (history_next(&c->now, &cmd, &err) < 0) {
        (void)fprintf(stderr, "history: %s\n", err.msg);
        exit(1);
    }
    if (!again) {
        (void)snprintf(line, sizeof line, "try %s-%d %lld\n", c->now.tag, c->before.n, (long long)(c->now.events - c->before.events));
        say(line);
    }
    int r = mt_append(appender, cmd, 20000, &done, &err);
    int64_t id = done.event_id;
    enum mt_cmd_end end = done.end;
    mt_cmd_done_free(&done);
    if (r == 0) {
        (void)snprintf(line, sizeof line, "ack %s-%d %lld\n", c->now.tag, c->before.n, (long long)id);
        say(line);
        return 0;
    }
    if (end == MT_END_ERROR && (err.code == MT_E_UNAVAILABLE || err.code == MT_E_TIMEOUT || err.code == MT_E_CANCELLED || err.code == MT_E_LIMIT))
        return 1;
    (void)fprintf(stderr, "refused: end %d: %s\n", (int)end, err.msg); /* a history is never refused */
    exit(1);
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    bool again = false;
    while (!stopping) {
        again = once(c, again) != 0;
        if (again)
            (void)usleep(20000);
        else
            c->before = c->now;
    }
    return NULL;
}

static int run(const char *control, const char *tag, uint64_t seed, int n)
{
    static struct client cs[CLIENTS_MAX];
    struct mt_err err = {0};
    const struct mt_appender_conf conf = {.pg = {.conninfo = control, .role = "moat_projector"}};
    if (n < 1 || n > CLIENTS_MAX || mt_appender_new(&conf, &appender, &err) < 0)
        return 2;
    for (int i = 0; i < n; i++) {
        char own[32];
        (void)snprintf(own, sizeof own, "%s%02d", tag, i);
        history_init(&cs[i].before, own, seed + (uint64_t)i);
        if (pthread_create(&cs[i].thread, NULL, client_main, &cs[i]) != 0)
            return 3;
    }
    while (!stopping) {
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&in, 1, 50) > 0)
            stopping = true;
    }
    for (int i = 0; i < n; i++)
        (void)pthread_join(cs[i].thread, NULL);
    mt_appender_free(appender);
    return 0;
}

static int check(const char *owner)
{
    struct mt_err err = {0};
    struct mt_log_verdict log;
    struct mt_views_verdict views;
    mt_auto_pg struct mt_pg *pg = NULL;
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = owner, .call_timeout_ms = 120000}, &pg, &err) < 0 ||
        mt_log_verify(pg, NULL, NULL, &log, &err) < 0 || mt_views_verify(pg, NULL, &views, &err) < 0) {
        (void)fprintf(stderr, "error: %s\n", err.msg);
        return 1;
    }
    printf("log %lld %lld %s\n", (long long)log.events, (long long)log.bad_event_id, log.bad_event_id ? log.what : "good");
    printf("views %lld %lld %s %s | %s | %s\n", (long long)views.rows, (long long)views.differences, views.view, views.column, views.live, views.rebuilt);
    return 0;
}

int main(int argc, char **argv)
{
    char control[256], owner[256];
    mt_log_init("history-load", MT_ERROR, false);
    if (argc >= 3) {
        (void)snprintf(control, sizeof control, "host=%s/sock dbname=moat user=moat_control", argv[2]);
        (void)snprintf(owner, sizeof owner, "host=%s/sock dbname=moat user=moat_owner", argv[2]);
        if (MT_STREQ(argv[1], "run") && argc == 6)
            return run(control, argv[3], strtoull(argv[4], NULL, 10), (int)strtol(argv[5], NULL, 10));
        if (MT_STREQ(argv[1], "check"))
            return check(owner);
    }
    (void)fprintf(stderr, "usage: history-load run DIR TAG SEED CLIENTS | check DIR\n");
    return 2;
}
