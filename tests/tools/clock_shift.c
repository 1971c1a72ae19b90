/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clock that a test sets, for a real program (LD_PRELOAD): the wall clock and the monotonic one go on as they do, plus what two numbers in the
 * file MOAT_CLOCK_FILE say (two native int64, ns; mapped, so a change holds at once). Waits end by the changed clock: an hour passes for the
 * program when the file says so, and with the wall number alone its clock is wrong. What the kernel does by itself (timerfd, socket timeouts)
 * goes on by the true clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define S INT64_C(1000000000)
#define SLICE_NS (20 * INT64_C(1000000)) /* how long a wait may miss a change of the file */

static const volatile int64_t *offsets; /* wall, monotonic */

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("MOAT_CLOCK_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *m = fd < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        (void)close(fd);
    if (m != MAP_FAILED)
        offsets = m;
}

static int64_t true_ns(clockid_t clock)
{
    struct timespec t;
    (void)syscall(SYS_clock_gettime, clock, &t);
    return t.tv_sec * S + t.tv_nsec;
}

static int64_t shift(clockid_t clock)
{
    if (!offsets)
        return 0;
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? offsets[0] : clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE ? offsets[1] : 0;
}

static int64_t shown_ns(clockid_t clock)
{
    return true_ns(clock) + shift(clock);
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, ret);
    int64_t by = rc == 0 ? shift(clock) : 0;
    if (by) {
        int64_t ns = ret->tv_sec * S + ret->tv_nsec + by;
        ret->tv_sec = ns / S;
        ret->tv_nsec = ns % S;
    }
    return rc;
}

time_t time(time_t *ret)
{
    time_t t = shown_ns(CLOCK_REALTIME) / S;
    if (ret)
        *ret = t;
    return t;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    (void)zone;
    int64_t ns = shown_ns(CLOCK_REALTIME);
    ret->tv_sec = ns / S;
    ret->tv_usec = ns % S / 1000;
    return 0;
}

/* Milliseconds of the next part of a wait that ends at @end_ns by the shown clock; -1: no end. */
static int part_ms(int timeout, int64_t end_ns)
{
    int64_t left = timeout < 0 ? SLICE_NS : end_ns - shown_ns(CLOCK_MONOTONIC);
    if (left > SLICE_NS)
        left = SLICE_NS;
    return timeout < 0 ? -1 : left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

int epoll_wait(int epfd, struct epoll_event *ev, int max, int timeout)
{
    int64_t end = shown_ns(CLOCK_MONOTONIC) + (int64_t)timeout * 1000000;
    for (;;) {
        int n = (int)syscall(SYS_epoll_pwait, epfd, ev, max, part_ms(timeout, end), NULL, 0);
        if (n != 0 || (timeout >= 0 && shown_ns(CLOCK_MONOTONIC) >= end))
            return n;
    }
}

int poll(struct pollfd *fds, nfds_t nfds, int timeout)
{
    int64_t end = shown_ns(CLOCK_MONOTONIC) + (int64_t)timeout * 1000000;
    for (;;) {
        int ms = part_ms(timeout, end);
        struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
        int n = (int)syscall(SYS_ppoll, fds, nfds, ms < 0 ? NULL : &ts, NULL, 0);
        if (n != 0 || (timeout >= 0 && shown_ns(CLOCK_MONOTONIC) >= end))
            return n;
    }
}

/* Whichever clock the condition was made with: seconds since 1970 are more than a machine has been up. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mu, const struct timespec *restrict until)
{
    clockid_t clock = until->tv_sec > 1000000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    int64_t end = until->tv_sec * S + until->tv_nsec;
    for (;;) {
        int64_t left = end - shown_ns(clock), at = true_ns(CLOCK_MONOTONIC) + (left < SLICE_NS ? left : SLICE_NS);
        if (left <= 0)
            return ETIMEDOUT;
        struct timespec ts = {.tv_sec = at / S, .tv_nsec = at % S};
        int rc = pthread_cond_clockwait(cond, mu, CLOCK_MONOTONIC, &ts);
        if (rc != ETIMEDOUT)
            return rc;
    }
}
