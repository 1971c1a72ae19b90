/* SPDX-License-Identifier: Apache-2.0 */
/* Log channel, host side. See logchan.h. */
#include "agent/logchan.h"

#include "agent/door.h"
#include "base/cleanup.h"

#include <sys/socket.h>

#define BUF_BYTES 65536
#define READS_PER_TURN 4
#define DRAIN_READS 256 /* at most 16 MiB when the VM is over */

struct mt_logchan {
    struct mt_loop *loop;
    struct mt_door *door;
    int fd;
    struct mt_source *src;
    mt_logchan_fn fn;
    void (*crowd)(void *arg);
    void *arg;
    uint8_t *buf; /* BUF_BYTES; there while records are read or a part of one is: what every VM has should be small */
    size_t len;
};

static void drop(struct mt_logchan *c)
{
    mt_loop_del(c->src);
    c->src = NULL;
    mt_closep(&c->fd);
    c->len = 0;
}

/* False when the connection is gone or has nothing more now. */
static bool read_some(struct mt_logchan *c)
{
    if (!c->buf && !(c->buf = malloc(BUF_BYTES))) {
        drop(c);
        return false;
    }
    ssize_t n = recv(c->fd, c->buf + c->len, BUF_BYTES - c->len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        drop(c);
        return false;
    }
    c->len += (size_t)n;
    size_t at = 0;
    for (;;) {
        struct mt_guest_log_record r;
        size_t used;
        int rc = mt_guest_log_decode(c->buf + at, c->len - at, &r, &used, NULL);
        if (rc == 1)
            break;
        if (rc < 0) {
            mt_door_shut(c->door);
            drop(c);
            return false;
        }
        c->fn(c->arg, &r);
        at += used;
    }
    memmove(c->buf, c->buf + at, c->len - at);
    c->len -= at;
    return true;
}

static void read_up_to(struct mt_logchan *c, int times)
{
    for (int i = 0; i < times && c->fd >= 0 && read_some(c); i++)
        continue;
    if (c->len == 0) {
        free(c->buf);
        c->buf = NULL;
    }
}

static void on_io(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_logchan *c = arg;
    (void)s;
    (void)fd;
    (void)revents;
    read_up_to(c, READS_PER_TURN);
}

static void on_crowd(void *arg)
{
    struct mt_logchan *c = arg;
    if (c->crowd)
        c->crowd(c->arg);
}

static void on_came(void *arg, int came)
{
    struct mt_logchan *c = arg;
    mt_auto_fd int fd = came;
    drop(c);
    c->src = mt_loop_fd(c->loop, "guest.log", fd, EPOLLIN, on_io, c, NULL);
    if (c->src)
        c->fd = MT_TAKE_FD(fd);
}

struct mt_logchan *mt_logchan_new(struct mt_loop *loop, int listen_fd, uid_t vm_uid, mt_logchan_fn fn, void (*crowd)(void *arg), void *arg,
                                  struct mt_err *err)
{
    static const struct mt_door_events door = {.came = on_came, .crowd = on_crowd};
    struct mt_logchan *c = calloc(1, sizeof *c);
    if (c)
        *c = (struct mt_logchan){.loop = loop, .fd = -1, .fn = fn, .crowd = crowd, .arg = arg};
    if (!c) {
        (void)MT_FAIL(err, MT_E_NOMEM, "log channel: out of memory");
        (void)close(listen_fd);
        return NULL;
    }
    c->door = mt_door_new(loop, "guest.log.listen", listen_fd, vm_uid, &door, c, err);
    if (!c->door) {
        mt_logchan_free(c);
        return NULL;
    }
    return c;
}

void mt_logchan_drain(struct mt_logchan *c)
{
    if (!c)
        return;
    if (c->fd < 0)
        mt_door_look(c->door);
    read_up_to(c, DRAIN_READS);
}

void mt_logchan_free(struct mt_logchan *c)
{
    if (!c)
        return;
    drop(c);
    mt_door_free(c->door);
    free(c->buf);
    free(c);
}
