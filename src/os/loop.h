/* SPDX-License-Identifier: Apache-2.0 */
/* One epoll loop per thread. Sources: descriptor, timer, signal, child (pidfd), wake-up from other threads.
 * Sources are heap objects owned by the loop until mt_loop_*_del; deleting inside any callback is safe: events of the same
 * batch that belong to a deleted source are dropped, and its memory goes at the end of the turn. Callbacks bound their work. */
#pragma once

#include "base/clock.h"
#include "base/err.h"

#include <signal.h>
#include <sys/epoll.h>

struct mt_loop;
struct mt_source;

/** @revents EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR, EPOLLRDHUP. */
typedef void (*mt_fd_fn)(struct mt_source *s, int fd, uint32_t revents, void *arg);
typedef void (*mt_timer_fn)(struct mt_source *s, void *arg);
typedef void (*mt_signal_fn)(struct mt_source *s, int signo, void *arg);
/** @status as of waitid: si_code (CLD_EXITED, CLD_KILLED, CLD_DUMPED) and si_status. */
typedef void (*mt_child_fn)(struct mt_source *s, pid_t pid, int code, int status, void *arg);
typedef void (*mt_task_fn)(void *arg);

/** New loop; NULL and @err when the kernel refuses. */
struct mt_loop *mt_loop_new(struct mt_err *err);
/** Free the loop and every source left in it. Must not run. */
void mt_loop_free(struct mt_loop *l);
/** Run until mt_loop_stop; returns the value given to it, or -code when epoll fails. */
int mt_loop_run(struct mt_loop *l);
/** One turn: wait at most @timeout_ms (-1: until something happens), dispatch. */
int mt_loop_turn(struct mt_loop *l, int timeout_ms);
/** End mt_loop_run after this turn. From the loop's own thread only. */
void mt_loop_stop(struct mt_loop *l, int value);
/** Time of this turn, monotonic nanoseconds; refreshed after each wait. */
int64_t mt_loop_now(const struct mt_loop *l);

/** Watch @fd (borrowed; the caller closes it after mt_loop_del). @name is kept by reference for logs. */
struct mt_source *mt_loop_fd(struct mt_loop *l, const char *name, int fd, uint32_t events, mt_fd_fn fn, void *arg, struct mt_err *err);
/** Change the watched events of a descriptor source. */
int mt_loop_fd_events(struct mt_source *s, uint32_t events, struct mt_err *err);
/** One-shot timer, disarmed at first; arm with mt_loop_timer_set. */
struct mt_source *mt_loop_timer(struct mt_loop *l, const char *name, mt_timer_fn fn, void *arg, struct mt_err *err);
/** Fire once at monotonic @at_ns (past: next turn); -1 disarms. May be called again at any time. */
void mt_loop_timer_set(struct mt_source *s, int64_t at_ns);
/** Fire once @ms from now. */
void mt_loop_timer_after(struct mt_source *s, int64_t ms);
bool mt_loop_timer_armed(const struct mt_source *s);
/** Deliver @signo through the loop; the signal is blocked in the calling thread (block it before threads start). */
struct mt_source *mt_loop_signal(struct mt_loop *l, int signo, mt_signal_fn fn, void *arg, struct mt_err *err);
/** Call @fn once when the process behind @pidfd (borrowed) ends. A child is reaped here; for a process that is not our child
 * code and status are 0. */
struct mt_source *mt_loop_child(struct mt_loop *l, const char *name, pid_t pid, int pidfd, mt_child_fn fn, void *arg, struct mt_err *err);
/** Remove a source; NULL is fine. The pointer is dead for the caller at once. */
void mt_loop_del(struct mt_source *s);
/** Run @fn(@arg) on the loop's thread; the one call allowed from other threads. -MT_E_NOMEM. */
int mt_loop_post(struct mt_loop *l, mt_task_fn fn, void *arg);
/** The loop that owns @s. */
struct mt_loop *mt_loop_of(const struct mt_source *s);
