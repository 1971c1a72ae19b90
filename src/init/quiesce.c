/* SPDX-License-Identifier: Apache-2.0 */
#include "init/quiesce.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "init/volumes.h"

void mt_quiesce_init(struct mt_quiesce *q)
{
    *q = (struct mt_quiesce){.fd = -1, .mount_fd = -1};
}

/* ioctl() takes an int in one libc and a long in another. */
void mt_quiesce_thaw_fd(int fd)
{
    (void)syscall(SYS_ioctl, fd, FITHAW, 0);
}

static void say(int fd, enum mt_guest_quiesce what)
{
    char c = (char)('0' + (int)what);
    (void)!write(fd, &c, 1);
}

/* The child needs no more of init's descriptors than these: a connection that it kept open would not end. */
static void keep_only(unsigned a, unsigned b)
{
    unsigned lo = a < b ? a : b, hi = a < b ? b : a;
    if (lo > 3)
        (void)syscall(SYS_close_range, 3U, lo - 1, 0U);
    if (hi > lo + 1)
        (void)syscall(SYS_close_range, lo + 1, hi - 1, 0U);
    (void)syscall(SYS_close_range, hi + 1, ~0U, 0U);
}

/* The child. It inherits init's blocked signals: nothing but KILL ends it, and then init thaws. */
static void hold(int fd, int mount_fd)
{
    char order;
    keep_only((unsigned)fd, (unsigned)mount_fd);
    /* What is dirty goes to the disk before writers are held, not while they are: what is left for the freeze is little. */
    (void)syscall(SYS_syncfs, mount_fd);
    if (syscall(SYS_ioctl, mount_fd, FIFREEZE, 0) != 0) {
        say(fd, MT_GUEST_QUIESCE_FAILED);
        _exit(1);
    }
    say(fd, MT_GUEST_QUIESCE_FROZEN);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int got;
    while ((got = poll(&p, 1, MT_QUIESCE_MS)) < 0 && errno == EINTR)
        continue;
    bool asked = got > 0 && read(fd, &order, 1) == 1;
    mt_quiesce_thaw_fd(mount_fd);
    say(fd, asked ? MT_GUEST_QUIESCE_THAWED : MT_GUEST_QUIESCE_EXPIRED);
    _exit(0);
}

int mt_quiesce_begin(struct mt_quiesce *q, const char *volume_id, const char *path, struct mt_err *err)
{
    int pair[2];
    if (q->fd >= 0) /* a child that said its last word may be there for a moment more: it holds nothing */
        return MT_FAIL(err, MT_E_CONFLICT, "volume '%s' is held", q->volume_id);
    mt_auto_fd int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    mt_auto_fd int at = -1;
    int res = root < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "open the root folder") : mt_volumes_open_target(root, path, &at, err);
    mt_auto_fd int top = res < 0 ? -1 : openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (res < 0)
        return res;
    if (top < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", path);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket pair");
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(pair[0]);
        hold(pair[1], top);
    }
    (void)close(pair[1]);
    if (pid < 0) {
        (void)close(pair[0]);
        return MT_FAIL_ERRNO(err, MT_E_IO, "fork");
    }
    q->pid = pid;
    q->fd = pair[0];
    q->mount_fd = MT_TAKE_FD(top);
    (void)snprintf(q->volume_id, sizeof q->volume_id, "%s", volume_id);
    return 0;
}

void mt_quiesce_thaw(struct mt_quiesce *q, const char *volume_id)
{
    if (q->fd >= 0 && MT_STREQ(q->volume_id, volume_id))
        (void)send(q->fd, "t", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void forget(struct mt_quiesce *q)
{
    mt_closep(&q->fd);
    mt_closep(&q->mount_fd); /* it would keep the volume busy */
}

bool mt_quiesce_turn(struct mt_quiesce *q, enum mt_guest_quiesce *ret)
{
    char c;
    ssize_t n = recv(q->fd, &c, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n == 1 && c >= '0' && c < '0' + MT_GUEST_QUIESCE_MAX) {
        *ret = (enum mt_guest_quiesce)(c - '0');
        if (*ret != MT_GUEST_QUIESCE_FROZEN)
            forget(q);
        return true;
    }
    *ret = MT_GUEST_QUIESCE_FAILED; /* it died without a word */
    mt_quiesce_thaw_fd(q->mount_fd);
    forget(q);
    return true;
}

bool mt_quiesce_reaped(struct mt_quiesce *q, pid_t pid)
{
    if (q->pid == 0 || pid != q->pid)
        return false;
    q->pid = 0;
    if (q->mount_fd >= 0)
        mt_quiesce_thaw_fd(q->mount_fd); /* fails when it is thawed, as it should be */
    return true;
}

void mt_quiesce_end(struct mt_quiesce *q)
{
    if (q->mount_fd >= 0)
        mt_quiesce_thaw_fd(q->mount_fd);
    forget(q);
}
