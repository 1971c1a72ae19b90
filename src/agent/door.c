/* SPDX-License-Identifier: Apache-2.0 */
/* The door of a VM's port. See door.h. */
#include "agent/door.h"

#include "base/cleanup.h"
#include "os/sock.h"

#define AT_ONCE 128 /* as many as a listening socket holds */
#define BURST 20
#define PER_S 2 /* twice what a guest's own retry makes */
#define SHUT_MS 1000

struct mt_door {
    struct mt_loop *loop;
    int listen_fd;
    struct mt_source *src, *opens;
    uid_t vm_uid;
    struct mt_door_events ev;
    void *arg;
    int64_t milli_tokens, tokens_at_ns; /* thousandths of a connection */
};

static bool may_come(struct mt_door *d)
{
    int64_t ms = (mt_loop_now(d->loop) - d->tokens_at_ns) / MT_NS_PER_MS;
    if (ms > 0) {
        d->milli_tokens += ms > BURST * 1000 ? BURST * 1000 : ms * PER_S;
        if (d->milli_tokens > BURST * 1000)
            d->milli_tokens = BURST * 1000;
        d->tokens_at_ns += ms * MT_NS_PER_MS;
    }
    if (d->milli_tokens < 1000)
        return false;
    d->milli_tokens -= 1000;
    return true;
}

void mt_door_look(struct mt_door *d)
{
    mt_auto_fd int newest = -1;
    bool crowd = false;
    for (int i = 0; i < AT_ONCE; i++) {
        mt_auto_fd int fd = -1;
        uid_t uid;
        if (mt_sock_accept(d->listen_fd, &fd, NULL) != 1)
            break;
        if (mt_sock_peercred(fd, &uid, NULL, NULL, NULL) < 0 || uid != d->vm_uid) {
            if (d->ev.stranger)
                d->ev.stranger(d->arg);
            continue;
        }
        crowd |= !may_come(d);
        mt_closep(&newest);
        newest = MT_TAKE_FD(fd);
    }
    if (crowd) {
        mt_door_shut(d);
        if (d->ev.crowd)
            d->ev.crowd(d->arg);
    }
    if (newest >= 0)
        d->ev.came(d->arg, MT_TAKE_FD(newest));
}

static void on_ready(struct mt_source *s, int listen_fd, uint32_t revents, void *arg)
{
    (void)s;
    (void)listen_fd;
    (void)revents;
    mt_door_look(arg);
}

static void on_opens(struct mt_source *s, void *arg)
{
    struct mt_door *d = arg;
    (void)s;
    (void)mt_loop_fd_events(d->src, EPOLLIN, NULL);
}

void mt_door_shut(struct mt_door *d)
{
    if (mt_loop_fd_events(d->src, 0, NULL) == 0)
        mt_loop_timer_after(d->opens, SHUT_MS);
}

struct mt_door *mt_door_new(struct mt_loop *loop, const char *name, int listen_fd, uid_t vm_uid, const struct mt_door_events *ev, void *arg, struct mt_err *err)
{
    struct mt_door *d = calloc(1, sizeof *d);
    if (!d) {
        (void)MT_FAIL(err, MT_E_NOMEM, "%s: out of memory", name);
        (void)close(listen_fd);
        return NULL;
    }
    *d = (struct mt_door){.loop = loop, .listen_fd = listen_fd, .vm_uid = vm_uid, .ev = *ev, .arg = arg, .milli_tokens = BURST * 1000, .tokens_at_ns = mt_loop_now(loop)};
    d->opens = mt_loop_timer(loop, name, on_opens, d, err);
    d->src = d->opens ? mt_loop_fd(loop, name, listen_fd, EPOLLIN, on_ready, d, err) : NULL;
    if (!d->src) {
        mt_door_free(d);
        return NULL;
    }
    return d;
}

void mt_door_free(struct mt_door *d)
{
    if (!d)
        return;
    mt_loop_del(d->src);
    mt_loop_del(d->opens);
    mt_closep(&d->listen_fd);
    free(d);
}
