/* SPDX-License-Identifier: Apache-2.0 */
/* One vsock stream: see conn.h. */
#include "vsock/conn.h"

#include "base/assert.h"
#include "base/num.h"
#include "base/str.h"

#include <sys/socket.h>

#define TO(s) (1U << (s))
static const unsigned conn_may[MT_VS_STATE_MAX] = {
    [MT_VS_FREE] = TO(MT_VS_LINE) | TO(MT_VS_OPEN),
    [MT_VS_LINE] = TO(MT_VS_WAIT) | TO(MT_VS_FREE),
    [MT_VS_WAIT] = TO(MT_VS_OPEN) | TO(MT_VS_RESET) | TO(MT_VS_FREE),
    [MT_VS_OPEN] = TO(MT_VS_LINGER) | TO(MT_VS_RESET) | TO(MT_VS_DRAIN) | TO(MT_VS_FREE),
    [MT_VS_LINGER] = TO(MT_VS_RESET) | TO(MT_VS_FREE),
    [MT_VS_RESET] = TO(MT_VS_FREE),
    [MT_VS_DRAIN] = TO(MT_VS_FREE),
};

void mt_vs_conn_set_state(struct mt_vs_conn *c, enum mt_vs_state to)
{
    MT_ASSERT(conn_may[c->state] & TO(to));
    c->state = to;
}

uint32_t mt_vs_conn_room(const struct mt_vs_conn *c)
{
    uint32_t in_flight = c->tx_cnt - c->peer_fwd; /* both count modulo 2^32 */
    return in_flight >= c->peer_alloc ? 0 : c->peer_alloc - in_flight;
}

static bool may_read(const struct mt_vs_conn *c)
{
    return c->state == MT_VS_OPEN && c->readable && !c->host_eof && !(c->guest_shut & MT_VS_SHUT_RCV);
}

bool mt_vs_conn_wants_rx(const struct mt_vs_conn *c)
{
    return c->pending != 0 || (may_read(c) && (mt_vs_conn_room(c) > 0 || !c->credit_asked));
}

/* Count bytes that reached the host and tell the guest once half of what it may send is free again. */
static void forwarded(struct mt_vs_conn *c, size_t n)
{
    c->fwd_cnt += (uint32_t)n;
    if (c->fwd_cnt - c->fwd_told >= MT_VS_BUF / 2 && c->state == MT_VS_OPEN)
        c->pending |= TO(MT_VS_OP_CREDIT_UPDATE);
}

/* Bytes the socket took. */
static size_t send_some(struct mt_vs_conn *c, struct iovec *iov, size_t count)
{
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
        return (size_t)n;
    if (errno == EAGAIN)
        c->writable = false;
    else if (errno != EINTR)
        c->host_deaf = true;
    return 0;
}

void mt_vs_conn_flush(struct mt_vs_conn *c)
{
    while (c->buf_len > 0 && c->writable && !c->host_deaf) {
        struct iovec iov = {.iov_base = c->buf + c->buf_off, .iov_len = c->buf_len};
        size_t n = send_some(c, &iov, 1);
        c->buf_off += n;
        c->buf_len -= n;
        forwarded(c, n);
    }
    if (c->host_deaf) {
        forwarded(c, c->buf_len);
        c->buf_len = 0;
    }
    if (c->buf_len > 0)
        return;
    free(c->buf);
    c->buf = NULL;
    c->buf_off = 0;
    if ((c->guest_shut & MT_VS_SHUT_SEND) && !c->host_wr_shut) {
        (void)shutdown(c->fd, SHUT_WR);
        c->host_wr_shut = true;
    }
}

int mt_vs_conn_from_guest(struct mt_vs_conn *c, const struct mt_vs_chain *payload)
{
    struct iovec iov[MT_VS_CHAIN_MAX];
    size_t sent = 0;
    if (payload->bytes > MT_VS_BUF - c->buf_len)
        return -1; /* it had no credit for this */
    if (c->buf_len == 0 && c->writable && !c->host_deaf && payload->bytes > 0) {
        size_t count = mt_vs_packet_slice(payload, 0, payload->bytes, iov);
        sent = send_some(c, iov, count);
        forwarded(c, sent);
    }
    if (c->host_deaf) {
        forwarded(c, payload->bytes - sent);
        return 0;
    }
    if (sent == payload->bytes)
        return 0;
    if (!c->buf && !(c->buf = malloc(MT_VS_BUF)))
        return -1;
    if (c->buf_off + c->buf_len + payload->bytes - sent > MT_VS_BUF) {
        memmove(c->buf, c->buf + c->buf_off, c->buf_len);
        c->buf_off = 0;
    }
    size_t count = mt_vs_packet_slice(payload, sent, payload->bytes - sent, iov);
    for (size_t i = 0; i < count; i++) {
        memcpy(c->buf + c->buf_off + c->buf_len, iov[i].iov_base, iov[i].iov_len);
        c->buf_len += iov[i].iov_len;
    }
    mt_vs_conn_flush(c);
    return 0;
}

int mt_vs_conn_read_line(struct mt_vs_conn *c)
{
    static const char word[] = "CONNECT ";
    for (;;) {
        char ch;
        /* byte by byte: what follows the line belongs to the stream */
        ssize_t n = recv(c->fd, &ch, 1, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            c->readable = false;
            return 0;
        }
        if (n <= 0 || c->line_len == sizeof c->line - 1)
            return -1;
        if (ch == '\n')
            break;
        c->line[c->line_len++] = ch;
    }
    c->line[c->line_len] = '\0';
    uint64_t port;
    if (strlen(c->line) != c->line_len || !mt_starts_with(c->line, word) ||
        mt_parse_u64(c->line + sizeof word - 1, 0, UINT32_MAX - 1, &port, NULL) < 0)
        return -1;
    c->guest_port = (uint32_t)port;
    return 1;
}
