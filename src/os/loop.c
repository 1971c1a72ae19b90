/* SPDX-License-Identifier: Apache-2.0 */
#include "os/loop.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/list.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { SOURCE_MAGIC = 0x50c3, BATCH = 64 };
enum source_kind { SRC_FD = 0, SRC_TIMER, SRC_SIGNAL, SRC_CHILD, SRC_KIND_MAX };

struct mt_source {
    uint32_t magic;
    enum source_kind kind;
    bool dead;
    bool polled;
    const char *name;
    struct mt_loop *loop;
    struct mt_list link;
    int fd; /* watched; owned for SRC_SIGNAL only */
    int64_t at_ns;
    size_t heap_at; /* place in the timer heap, SIZE_MAX when disarmed */
    pid_t pid;
    void *arg;
    union {
        mt_fd_fn fd;
        mt_timer_fn timer;
        mt_signal_fn signal;
        mt_child_fn child;
    } fn;
};

struct task {
    struct task *next;
    mt_task_fn fn;
    void *arg;
};

struct mt_loop {
    int epfd, wakefd;
    int64_t now;
    bool stop;
    int value;
    struct mt_list sources, graveyard;
    struct mt_source **heap; /* binary min-heap of armed timers by at_ns */
    size_t heap_len, heap_cap, timers; /* heap_cap >= timers: arming never allocates */
    pthread_mutex_t lock; /* guards the task queue */
    struct task *first, **last;
};

struct mt_loop *mt_loop_new(struct mt_err *err)
{
    struct mt_loop *l = calloc(1, sizeof *l);
    if (!l) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for an event loop");
        return NULL;
    }
    l->last = &l->first;
    mt_list_init(&l->sources);
    mt_list_init(&l->graveyard);
    (void)pthread_mutex_init(&l->lock, NULL);
    l->now = mt_clock_mono();
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (l->epfd < 0 || l->wakefd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev) < 0) {
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "create event loop");
        mt_loop_free(l);
        return NULL;
    }
    return l;
}

static void bury(struct mt_loop *l)
{
    for (struct mt_list *n; (n = mt_list_pop_front(&l->graveyard));) {
        struct mt_source *s = MT_CONTAINER(n, struct mt_source, link);
        s->magic = 0;
        free(s);
    }
}

void mt_loop_free(struct mt_loop *l)
{
    if (!l)
        return;
    MT_LIST_EACH(n, &l->sources)
        mt_loop_del(MT_CONTAINER(n, struct mt_source, link));
    bury(l);
    for (struct task *t = l->first, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    free(l->heap);
    mt_closep(&l->epfd);
    mt_closep(&l->wakefd);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

/* timers: a binary heap, so that arming and firing cost log n whatever the number of instances */
static void heap_set(struct mt_loop *l, size_t i, struct mt_source *s)
{
    l->heap[i] = s;
    s->heap_at = i;
}

static void heap_up(struct mt_loop *l, size_t i)
{
    struct mt_source *s = l->heap[i];
    for (; i > 0 && l->heap[(i - 1) / 2]->at_ns > s->at_ns; i = (i - 1) / 2)
        heap_set(l, i, l->heap[(i - 1) / 2]);
    heap_set(l, i, s);
}

static void heap_down(struct mt_loop *l, size_t i)
{
    struct mt_source *s = l->heap[i];
    for (size_t c; (c = 2 * i + 1) < l->heap_len; i = c) {
        if (c + 1 < l->heap_len && l->heap[c + 1]->at_ns < l->heap[c]->at_ns)
            c++;
        if (l->heap[c]->at_ns >= s->at_ns)
            break;
        heap_set(l, i, l->heap[c]);
    }
    heap_set(l, i, s);
}

static void timer_disarm(struct mt_source *s)
{
    struct mt_loop *l = s->loop;
    size_t i = s->heap_at;
    if (i == SIZE_MAX)
        return;
    s->heap_at = SIZE_MAX;
    struct mt_source *moved = l->heap[--l->heap_len];
    if (moved == s)
        return;
    heap_set(l, i, moved);
    heap_up(l, i);
    heap_down(l, moved->heap_at);
}

void mt_loop_timer_set(struct mt_source *s, int64_t at_ns)
{
    MT_CHECK(s, SOURCE_MAGIC);
    MT_ASSERT(s->kind == SRC_TIMER && !s->dead);
    timer_disarm(s);
    if (at_ns < 0)
        return;
    struct mt_loop *l = s->loop;
    MT_ASSERT(l->heap_len < l->heap_cap); /* room was made when the timer was created */
    s->at_ns = at_ns;
    l->heap_len++;
    heap_set(l, l->heap_len - 1, s);
    heap_up(l, l->heap_len - 1);
}

void mt_loop_timer_after(struct mt_source *s, int64_t ms)
{
    mt_loop_timer_set(s, mt_clock_mono() + ms * MT_NS_PER_MS);
}

bool mt_loop_timer_armed(const struct mt_source *s)
{
    return s->heap_at != SIZE_MAX;
}

static struct mt_source *source_new(struct mt_loop *l, enum source_kind kind, const char *name, void *arg, struct mt_err *err)
{
    struct mt_source *s = calloc(1, sizeof *s);
    if (!s) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for event source '%s'", name);
        return NULL;
    }
    *s = (struct mt_source){.magic = SOURCE_MAGIC, .kind = kind, .name = name, .loop = l, .fd = -1, .heap_at = SIZE_MAX, .arg = arg};
    mt_list_push_back(&l->sources, &s->link);
    return s;
}

static int poll_add(struct mt_source *s, int fd, uint32_t events, struct mt_err *err)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    if (epoll_ctl(s->loop->epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "watch '%s'", s->name);
    s->fd = fd;
    s->polled = true;
    return 0;
}

struct mt_source *mt_loop_fd(struct mt_loop *l, const char *name, int fd, uint32_t events, mt_fd_fn fn, void *arg, struct mt_err *err)
{
    struct mt_source *s = source_new(l, SRC_FD, name, arg, err);
    if (!s)
        return NULL;
    s->fn.fd = fn;
    if (poll_add(s, fd, events, err) < 0) {
        mt_loop_del(s);
        return NULL;
    }
    return s;
}

int mt_loop_fd_events(struct mt_source *s, uint32_t events, struct mt_err *err)
{
    MT_CHECK(s, SOURCE_MAGIC);
    struct epoll_event ev = {.events = events, .data.ptr = s};
    if (epoll_ctl(s->loop->epfd, EPOLL_CTL_MOD, s->fd, &ev) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "change watch '%s'", s->name);
    return 0;
}

struct mt_source *mt_loop_timer(struct mt_loop *l, const char *name, mt_timer_fn fn, void *arg, struct mt_err *err)
{
    if (l->timers == l->heap_cap) {
        size_t cap = l->heap_cap ? l->heap_cap * 2 : 16;
        struct mt_source **heap = realloc(l->heap, cap * sizeof(struct mt_source *));
        if (!heap) {
            (void)MT_FAIL(err, MT_E_NOMEM, "no memory for timer '%s'", name);
            return NULL;
        }
        l->heap = heap;
        l->heap_cap = cap;
    }
    struct mt_source *s = source_new(l, SRC_TIMER, name, arg, err);
    if (!s)
        return NULL;
    s->fn.timer = fn;
    l->timers++;
    return s;
}

struct mt_source *mt_loop_signal(struct mt_loop *l, int signo, mt_signal_fn fn, void *arg, struct mt_err *err)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, signo);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    mt_auto_fd int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "watch signal %d", signo);
        return NULL;
    }
    struct mt_source *s = source_new(l, SRC_SIGNAL, "signal", arg, err);
    if (!s)
        return NULL;
    s->fn.signal = fn;
    if (poll_add(s, fd, EPOLLIN, err) < 0) {
        mt_loop_del(s);
        return NULL;
    }
    fd = -1; /* owned by the source now */
    return s;
}

struct mt_source *mt_loop_child(struct mt_loop *l, const char *name, pid_t pid, int pidfd, mt_child_fn fn, void *arg, struct mt_err *err)
{
    struct mt_source *s = source_new(l, SRC_CHILD, name, arg, err);
    if (!s)
        return NULL;
    s->pid = pid;
    s->fn.child = fn;
    if (poll_add(s, pidfd, EPOLLIN, err) < 0) {
        mt_loop_del(s);
        return NULL;
    }
    return s;
}

void mt_loop_del(struct mt_source *s)
{
    if (!s)
        return;
    MT_CHECK(s, SOURCE_MAGIC);
    MT_ASSERT(!s->dead);
    timer_disarm(s);
    s->loop->timers -= s->kind == SRC_TIMER;
    if (s->polled) /* EBADF: the owner closed it first, the kernel has forgotten it already */
        (void)epoll_ctl(s->loop->epfd, EPOLL_CTL_DEL, s->fd, NULL);
    if (s->kind == SRC_SIGNAL)
        mt_closep(&s->fd);
    s->dead = true;
    mt_list_remove(&s->link);
    mt_list_push_back(&s->loop->graveyard, &s->link);
}

int mt_loop_post(struct mt_loop *l, mt_task_fn fn, void *arg)
{
    struct task *t = calloc(1, sizeof *t);
    if (!t)
        return -MT_E_NOMEM;
    t->fn = fn;
    t->arg = arg;
    (void)pthread_mutex_lock(&l->lock);
    bool first = !l->first;
    *l->last = t;
    l->last = &t->next;
    (void)pthread_mutex_unlock(&l->lock);
    if (first) {
        uint64_t one = 1;
        (void)!write(l->wakefd, &one, sizeof one);
    }
    return 0;
}

struct mt_loop *mt_loop_of(const struct mt_source *s)
{
    return s->loop;
}

static void run_tasks(struct mt_loop *l)
{
    uint64_t drop;
    (void)!read(l->wakefd, &drop, sizeof drop);
    (void)pthread_mutex_lock(&l->lock);
    struct task *t = l->first;
    l->first = NULL;
    l->last = &l->first;
    (void)pthread_mutex_unlock(&l->lock);
    while (t) {
        struct task *next = t->next;
        t->fn(t->arg);
        free(t);
        t = next;
    }
}

static void run_timers(struct mt_loop *l)
{
    /* bounded: a timer that re-arms itself in the past waits for the next turn */
    for (size_t budget = l->heap_len; budget > 0 && l->heap_len > 0 && l->heap[0]->at_ns <= l->now; budget--) {
        struct mt_source *s = l->heap[0];
        timer_disarm(s);
        s->fn.timer(s, s->arg);
    }
}

static void fire(struct mt_source *s, uint32_t revents)
{
    if (s->kind == SRC_FD) {
        s->fn.fd(s, s->fd, revents, s->arg);
    } else if (s->kind == SRC_SIGNAL) {
        struct signalfd_siginfo si;
        while (!s->dead && read(s->fd, &si, sizeof si) == (ssize_t)sizeof si)
            s->fn.signal(s, (int)si.ssi_signo, s->arg);
    } else if (s->kind == SRC_CHILD) {
        siginfo_t si = {0};
        /* not our child (adopted): ECHILD, and only the fact that it ended is known */
        if (waitid((idtype_t)P_PIDFD, (id_t)s->fd, &si, WEXITED | WNOHANG) < 0)
            si.si_code = si.si_status = 0;
        else if (si.si_pid == 0)
            return;
        (void)epoll_ctl(s->loop->epfd, EPOLL_CTL_DEL, s->fd, NULL);
        s->polled = false;
        s->fn.child(s, s->pid, si.si_code, si.si_status, s->arg);
    }
}

int mt_loop_turn(struct mt_loop *l, int timeout_ms)
{
    int wait = timeout_ms;
    if (l->heap_len > 0) {
        int64_t left = l->heap[0]->at_ns - mt_clock_mono();
        int64_t ms = left <= 0 ? 0 : (left + MT_NS_PER_MS - 1) / MT_NS_PER_MS;
        if (wait < 0 || ms < wait)
            wait = ms > 3600000 ? 3600000 : (int)ms;
    }
    struct epoll_event ev[BATCH];
    int n = epoll_wait(l->epfd, ev, BATCH, wait);
    if (n < 0 && errno != EINTR)
        return -MT_E_IO;
    l->now = mt_clock_mono();
    bool tasks = false;
    for (int i = 0; i < n; i++) {
        struct mt_source *s = ev[i].data.ptr;
        if (!s)
            tasks = true;
        else if (!s->dead)
            fire(s, ev[i].events);
    }
    if (tasks)
        run_tasks(l);
    run_timers(l);
    bury(l);
    return 0;
}

int mt_loop_run(struct mt_loop *l)
{
    l->stop = false;
    while (!l->stop) {
        int r = mt_loop_turn(l, -1);
        if (r < 0)
            return r;
    }
    return l->value;
}

void mt_loop_stop(struct mt_loop *l, int value)
{
    l->stop = true;
    l->value = value;
}

int64_t mt_loop_now(const struct mt_loop *l)
{
    return l->now;
}
