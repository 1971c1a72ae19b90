/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/up/service.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { PROBE_MS = 20, BACKOFF_MAX_MS = 10000 };

static const char *const state_name[SERVICE_STATE_MAX] = {"down", "starting", "ready", "backoff", "ended"};
#define TO(s) (1U << (s))
static const unsigned may[SERVICE_STATE_MAX] = {
    [SERVICE_DOWN] = TO(SERVICE_STARTING) | TO(SERVICE_ENDED) | TO(SERVICE_BACKOFF),
    [SERVICE_STARTING] = TO(SERVICE_READY) | TO(SERVICE_BACKOFF) | TO(SERVICE_ENDED),
    [SERVICE_READY] = TO(SERVICE_BACKOFF) | TO(SERVICE_ENDED),
    [SERVICE_BACKOFF] = TO(SERVICE_STARTING) | TO(SERVICE_ENDED) | TO(SERVICE_BACKOFF),
    [SERVICE_ENDED] = TO(SERVICE_STARTING),
};

static void set_state(struct service *s, enum service_state to)
{
    MT_ASSERT(may[s->state] & TO(to));
    enum service_state from = s->state;
    s->state = to;
    mt_log(MT_DEBUG, "service.state", KV("service", s->name), KV("from", state_name[from]), KV("to", state_name[to]));
    if (s->changed)
        s->changed(s, from);
}

pid_t service_find(const struct service *s)
{
    char want[4096];
    size_t len = 0;
    for (size_t i = 0; s->argv[i]; i++) {
        size_t n = strlen(s->argv[i]) + 1;
        MT_ASSERT(len + n <= sizeof want);
        memcpy(want + len, s->argv[i], n);
        len += n;
    }
    mt_auto_dir DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        uint64_t pid;
        char path[64];
        struct stat st;
        mt_auto_free char *text = NULL;
        size_t n;
        if (mt_parse_u64(e->d_name, 2, 1 << 22, &pid, NULL) < 0 || (pid_t)pid == getpid())
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
        if (mt_file_read(path, sizeof want, &text, &n, NULL) < 0 || n != len || memcmp(text, want, len) != 0)
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d", (int)pid);
        if (stat(path, &st) < 0 || st.st_uid != (s->set_ids ? s->uid : geteuid()))
            continue; /* somebody else's process with our command line is not ours */
        return (pid_t)pid;
    }
    return 0;
}

static void on_timer(struct mt_source *t, void *arg);
static void on_end(struct mt_source *c, pid_t pid, int code, int status, void *arg);

int service_init(struct service *s, struct mt_loop *loop, struct mt_err *err)
{
    s->loop = loop;
    s->pidfd = -1;
    s->timer = mt_loop_timer(loop, s->name, on_timer, s, err);
    return s->timer ? 0 : -MT_E_NOMEM;
}

void service_done(struct service *s)
{
    mt_loop_del(MT_TAKE(s->child));
    mt_loop_del(MT_TAKE(s->timer));
    mt_closep(&s->pidfd);
}

static int watch(struct service *s, struct mt_err *err)
{
    s->started_ns = mt_clock_mono();
    s->child = mt_loop_child(s->loop, s->name, s->pid, s->pidfd, on_end, s, err);
    if (!s->child)
        return -MT_E_NOMEM;
    set_state(s, SERVICE_STARTING);
    if (s->probe || s->adopted)
        mt_loop_timer_after(s->timer, s->adopted && !s->probe ? 0 : PROBE_MS);
    else if (!s->notify_path)
        set_state(s, SERVICE_READY);
    else if (s->start_ms)
        mt_loop_timer_after(s->timer, s->start_ms);
    return 0;
}

static int spawn(struct service *s, struct mt_err *err)
{
    mt_auto_fd int log = open(s->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (log < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open log '%s'", s->log_path);
    char notify[300];
    /* Each thread keeps some freed blocks of each size for itself, and what is kept pins the pages around it: with some thirty threads that is memory that
     * grows for an hour. The systemd units say the same. */
    const char *envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "GLIBC_TUNABLES=glibc.malloc.tcache_max=256", NULL, NULL};
    if (s->notify_path) {
        (void)snprintf(notify, sizeof notify, "NOTIFY_SOCKET=%s", s->notify_path);
        envp[3] = notify;
    }
    return mt_spawn(&(struct mt_spawn){.path = s->argv[0], .argv = s->argv, .envp = envp, .stdin_fd = -1, .stdout_fd = log, .stderr_fd = log,
                                       .uid = s->uid, .gid = s->gid, .set_ids = s->set_ids, .ambient_caps = s->ambient_caps, .new_session = true},
                    &s->pid, &s->pidfd, err);
}

static void bring_up_work(void *arg)
{
    struct service *s = arg;
    s->brought.rc = s->bring_up(s, &s->brought.pid, &s->brought.pidfd, &s->brought.adopted, &s->brought.err);
}

/* Milliseconds to wait before the next try, growing with each failure in a row. */
static int64_t backoff(struct service *s)
{
    int64_t ms = s->failures == 0 ? 0 : s->failures > 6 ? BACKOFF_MAX_MS : INT64_C(100) << s->failures;
    s->failures++;
    return ms;
}

static void failed(struct service *s, const struct mt_err *err)
{
    s->failures = s->failures ? s->failures : 1;
    int64_t ms = backoff(s);
    mt_log(MT_ERROR, "service.start_failed", KV("service", s->name), KV_ERR(err), KV("next_try_in_ms", ms));
    set_state(s, SERVICE_BACKOFF);
    mt_loop_timer_after(s->timer, ms);
}

static void bring_up_done(void *arg)
{
    struct service *s = arg;
    struct mt_err err;
    if (s->brought.rc < 0) {
        if (s->stopping)
            set_state(s, SERVICE_ENDED);
        else
            failed(s, &s->brought.err);
        return;
    }
    s->pid = s->brought.pid;
    s->pidfd = s->brought.pidfd;
    s->adopted = s->brought.adopted;
    s->child = mt_loop_child(s->loop, s->name, s->pid, s->pidfd, on_end, s, &err);
    MT_ASSERT(s->child);
    set_state(s, SERVICE_READY);
    if (s->stopping)
        service_stop(s);
}

int service_start(struct service *s, struct mt_err *err)
{
    if (s->state == SERVICE_STARTING || s->state == SERVICE_READY)
        return 0;
    s->stopping = false;
    if (s->bring_up) {
        s->started_ns = mt_clock_mono();
        set_state(s, SERVICE_STARTING);
        return mt_pool_submit(s->pool, bring_up_work, bring_up_done, s, err);
    }
    s->pid = service_find(s);
    s->adopted = s->pid != 0 && mt_pidfd_open(s->pid, &s->pidfd, NULL) == 0;
    if (!s->adopted && spawn(s, err) < 0) {
        failed(s, err);
        return 0; /* it goes on trying */
    }
    return watch(s, err);
}

void service_ready(struct service *s)
{
    if (s->state == SERVICE_STARTING && !s->probe)
        set_state(s, SERVICE_READY);
}

static void on_timer(struct mt_source *t, void *arg)
{
    struct service *s = arg;
    struct mt_err err;
    if (s->stopping) { /* asked long ago */
        mt_log(MT_WARN, "service.killed", KV("service", s->name), KV("pid", s->pid));
        (void)mt_pidfd_kill(s->pidfd, SIGKILL, NULL);
    } else if (s->state == SERVICE_BACKOFF) {
        if (service_start(s, &err) < 0)
            mt_log(MT_ERROR, "service.start_failed", KV("service", s->name), KV_ERR(&err));
    } else if (s->state == SERVICE_STARTING) {
        if (s->probe ? s->probe(s) : s->adopted) {
            set_state(s, SERVICE_READY);
        } else if (s->start_ms && mt_clock_mono() - s->started_ns >= s->start_ms * MT_NS_PER_MS) {
            mt_log(MT_WARN, "service.hangs", KV("service", s->name), KV("pid", s->pid), KV("after_ms", s->start_ms));
            (void)mt_pidfd_kill(s->pidfd, SIGKILL, NULL); /* its end starts it again */
        } else {
            mt_loop_timer_after(t, PROBE_MS);
        }
    }
}

/* An edge that took over from the one that has just ended (handover_socket) was started by somebody else: it has our command line
 * and ends with us. False: there is none. */
static bool end_successor(struct service *s)
{
    struct mt_err err;
    s->pid = s->bring_up ? 0 : service_find(s);
    if (!s->pid || mt_pidfd_open(s->pid, &s->pidfd, &err) < 0)
        return s->pid = 0, false;
    s->child = mt_loop_child(s->loop, s->name, s->pid, s->pidfd, on_end, s, &err);
    if (!s->child)
        return mt_closep(&s->pidfd), s->pid = 0, false;
    (void)mt_pidfd_kill(s->pidfd, s->stop_signal, NULL);
    mt_loop_timer_after(s->timer, s->stop_ms);
    return true;
}

static void on_end(struct mt_source *c, pid_t pid, int code, int status, void *arg)
{
    struct service *s = arg;
    (void)pid;
    s->child = NULL;
    mt_loop_del(c);
    mt_closep(&s->pidfd);
    mt_loop_timer_set(s->timer, -1);
    if (s->stopping) {
        if (!end_successor(s))
            set_state(s, SERVICE_ENDED);
        return;
    }
    if (mt_clock_mono() - s->started_ns > 30 * MT_NS_PER_S)
        s->failures = 0;
    int64_t delay = backoff(s);
    mt_log(MT_WARN, "service.died", KV("service", s->name), KV("pid", s->pid), KV("how", code == CLD_EXITED ? "exit" : code ? "signal" : "unknown"),
           KV("status", status), KV("restart_in_ms", delay), KV("log", s->log_path));
    s->pid = 0;
    set_state(s, SERVICE_BACKOFF);
    mt_loop_timer_after(s->timer, delay);
}

/* Daemons write with O_APPEND, so what is copied away can be cut off under them; a line written in between is lost, the disk is not. */
void service_trim_log(const char *path, off_t limit)
{
    struct stat st;
    char old[PATH_MAX];
    mt_auto_fd int from = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (from < 0 || fstat(from, &st) < 0 || st.st_size < limit || mt_fmt(old, sizeof old, NULL, "%s.1", path) < 0)
        return;
    mt_auto_fd int to = open(old, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    off_t at = 0;
    while (to >= 0 && at < st.st_size && sendfile(to, from, &at, (size_t)(st.st_size - at)) > 0)
        ;
    if (ftruncate(from, 0) < 0)
        mt_log(MT_WARN, "log.trim_failed", KV("path", path), KV("errno", errno));
}

void service_stop(struct service *s)
{
    s->stopping = true;
    if (s->state == SERVICE_ENDED || (s->bring_up && s->state == SERVICE_STARTING))
        return; /* the second: bring_up_done goes on from here */
    if (!s->child) {
        mt_loop_timer_set(s->timer, -1);
        set_state(s, SERVICE_ENDED);
        return;
    }
    (void)mt_pidfd_kill(s->pidfd, s->stop_signal, NULL);
    mt_loop_timer_after(s->timer, s->stop_ms);
}
