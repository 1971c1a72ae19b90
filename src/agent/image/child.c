/* SPDX-License-Identifier: Apache-2.0 */
/* moat-fetch and moat-unpack as children: input, output with a bound, deadline, cancellation. Nothing survives the call. */
#include "agent/image/internal.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

static int pump(const struct image_child *c, int in, int out_fd, struct mt_buf *out, int64_t until_ns, struct mt_err *err)
{
    size_t sent = 0;
    char procs[MT_CGROUP_PATH * 2];
    int64_t patient_until = mt_clock_mono() + MT_IMAGE_PATIENCE_MS * MT_NS_PER_MS;
    mt_auto_fd int to = in;
    if (c->input_len == 0)
        mt_closep(&to);
    for (;;) {
        int64_t left_ms = (until_ns - mt_clock_mono()) / MT_NS_PER_MS;
        struct pollfd p[3] = {{.fd = c->cancel_fd, .events = POLLIN}, {.fd = out_fd, .events = POLLIN}, {.fd = to, .events = POLLOUT}};
        if (left_ms <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "'%s' did not end in time", c->path);
        int64_t patient_ms = (patient_until - mt_clock_mono()) / MT_NS_PER_MS;
        if (patient_ms <= 0) {
            image_group_set(c->store, MT_CGROUP_YIELD_MOSTLY, procs);
            patient_until = until_ns + MT_NS_PER_S;
            patient_ms = 60000;
        }
        left_ms = left_ms < patient_ms ? left_ms : patient_ms;
        if (poll(p, 3, left_ms > 60000 ? 60000 : (int)left_ms) < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "poll");
        if (p[0].revents)
            return MT_FAIL(err, MT_E_CANCELLED, "cancelled");
        if (p[2].revents) {
            ssize_t n = write(to, c->input + sent, c->input_len - sent);
            if (n > 0)
                sent += (size_t)n;
            if ((n < 0 && errno != EAGAIN && errno != EINTR) || sent == c->input_len)
                mt_closep(&to);
        }
        if (p[1].revents) {
            char chunk[4096];
            ssize_t n = read(out_fd, chunk, sizeof chunk);
            if (n == 0)
                return 0;
            if (n > 0)
                mt_buf_put(out, chunk, (size_t)n); /* too much sets its failed flag, seen when it is parsed */
            else if (errno != EINTR && errno != EAGAIN)
                return MT_FAIL_ERRNO(err, MT_E_IO, "read from '%s'", c->path);
        }
    }
}

int image_child_run(const struct image_child *c, struct mt_buf *out, struct mt_err *err)
{
    int to[2], from[2];
    pid_t pid;
    mt_auto_fd int pidfd = -1;
    struct mt_run_result ended;
    if (pipe2(to, O_CLOEXEC) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    mt_auto_fd int to_read = to[0];
    mt_auto_fd int to_write = to[1];
    if (pipe2(from, O_CLOEXEC) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    mt_auto_fd int from_read = from[0];
    mt_auto_fd int from_write = from[1];
    if (fcntl(to_write, F_SETFL, O_NONBLOCK) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "fcntl");
    char procs[MT_CGROUP_PATH * 2];
    image_group_set(c->store, MT_CGROUP_YIELD_WHOLLY, procs);
    struct mt_spawn s = {.path = c->path, .argv = c->argv, .stdin_fd = to_read, .stdout_fd = from_write, .stderr_fd = STDERR_FILENO,
                         .parent_death_signal = SIGKILL, .yields = procs[0] != '\0', .cgroup_procs = {procs[0] ? procs : NULL}};
    int r = mt_spawn(&s, &pid, &pidfd, err);
    if (r < 0 && r != -MT_E_NOT_FOUND && procs[0]) { /* a group that cannot be joined is no reason not to have an image */
        s.cgroup_procs[0] = NULL;
        s.yields = false;
        r = mt_spawn(&s, &pid, &pidfd, err);
    }
    if (r < 0)
        return r;
    mt_closep(&to_read);
    mt_closep(&from_write);
    r = pump(c, MT_TAKE_FD(to_write), from_read, out, mt_clock_mono() + c->timeout_ms * MT_NS_PER_MS, err);
    if (r < 0)
        (void)mt_pidfd_kill(pidfd, SIGKILL, NULL); /* its own children die with it */
    struct mt_err wait_err;
    if (mt_pidfd_wait(pidfd, 10000, &ended, &wait_err) < 0) { /* output closed but still running */
        (void)mt_pidfd_kill(pidfd, SIGKILL, NULL);
        (void)mt_pidfd_wait(pidfd, 10000, &ended, &wait_err);
    }
    return r;
}
