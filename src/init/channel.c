/* SPDX-License-Identifier: Apache-2.0 */
#include "init/channel.h"

#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

void mt_channel_init(struct mt_channel *c, char *in_buf, size_t in_cap)
{
    c->fd = -1;
    c->connecting = false;
    c->tx_seq = c->rx_seq = 0;
    c->in = (struct mt_guest_lines){.buf = in_buf, .cap = in_cap};
    c->out_len = c->out_sent = 0;
}

void mt_channel_open(struct mt_channel *c, int fd, bool connecting)
{
    mt_channel_close(c);
    mt_channel_init(c, c->in.buf, c->in.cap);
    c->fd = fd;
    c->connecting = connecting;
}

void mt_channel_close(struct mt_channel *c)
{
    mt_closep(&c->fd);
    c->connecting = false;
}

int mt_channel_flush(struct mt_channel *c, struct mt_err *err)
{
    while (c->out_sent < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "send to the host");
        c->out_sent += (size_t)n;
    }
    c->out_len = c->out_sent = 0;
    return 0;
}

int mt_channel_send(struct mt_channel *c, struct mt_guest_msg *msg, struct mt_err *err)
{
    size_t n;
    if (!mt_channel_up(c))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "not connected to the host");
    if (c->out_sent > 0) {
        c->out_len -= c->out_sent;
        memmove(c->out, c->out + c->out_sent, c->out_len);
        c->out_sent = 0;
    }
    msg->seq = c->tx_seq + 1;
    int res = mt_guest_encode(msg, c->out + c->out_len, sizeof c->out - c->out_len, &n, err);
    if (res < 0)
        return res;
    c->tx_seq++;
    c->out_len += n;
    return mt_channel_flush(c, err);
}

int mt_channel_fill(struct mt_channel *c, struct mt_err *err)
{
    char *at;
    size_t room = mt_guest_lines_room(&c->in, &at);
    ssize_t n;
    do {
        n = recv(c->fd, at, room, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read from the host");
    if (n == 0)
        return MT_FAIL(err, MT_E_IO, "the host closed the connection");
    mt_guest_lines_fed(&c->in, (size_t)n);
    return 0;
}

int mt_channel_next(struct mt_channel *c, const char **ret_line, size_t *ret_len)
{
    return mt_guest_lines_next(&c->in, ret_line, ret_len);
}

void mt_channel_wipe(struct mt_channel *c)
{
    struct mt_guest_lines *l = &c->in;
    explicit_bzero(l->buf, l->taken);
    explicit_bzero(l->buf + l->len, l->cap - l->len); /* where longer content was moved away from */
}
