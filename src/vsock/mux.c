/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and packets of one guest: see mux.h. */
#include "vsock/mux.h"

#include "base/assert.h"
#include "base/cleanup.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define OP(op) (1U << (op))

static unsigned hash(uint32_t host_port, uint32_t guest_port)
{
    uint32_t h = (host_port ^ (guest_port << 16 | guest_port >> 16)) * UINT32_C(2654435761);
    return h >> 26; /* 6 bits: MT_VS_BUCKETS */
}

static struct mt_vs_conn *find(struct mt_vs_mux *mux, uint32_t host_port, uint32_t guest_port)
{
    struct mt_vs_conn *c = mux->bucket[hash(host_port, guest_port)];
    while (c && (c->host_port != host_port || c->guest_port != guest_port))
        c = c->hash_next;
    return c;
}

static void key(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    struct mt_vs_conn **b = &mux->bucket[hash(c->host_port, c->guest_port)];
    c->hash_next = *b;
    *b = c;
    c->keyed = true;
}

static void unkey(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    if (!c->keyed)
        return;
    struct mt_vs_conn **p = &mux->bucket[hash(c->host_port, c->guest_port)];
    while (*p != c)
        p = &(*p)->hash_next;
    *p = c->hash_next;
    c->hash_next = NULL;
    c->keyed = false;
}

static struct mt_vs_conn *conn_new(struct mt_vs_mux *mux, int fd, enum mt_vs_state state)
{
    struct mt_vs_conn *c = mux->conn;
    while (c < mux->conn + MT_VS_CONN_MAX && c->state != MT_VS_FREE)
        c++;
    if (c == mux->conn + MT_VS_CONN_MAX)
        return NULL;
    uint16_t generation = (uint16_t)(c->generation + 1);
    if (mux->epoll_fd >= 0) {
        /* edge triggered: readiness is a flag of ours until EAGAIN, so nothing is re-armed and nothing spins */
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
            .data.u64 = (uint64_t)(c - mux->conn) | (uint64_t)generation << 16};
        if (epoll_ctl(mux->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == -1)
            return NULL;
    }
    *c = (struct mt_vs_conn){.generation = generation, .fd = fd, .readable = true, .writable = true};
    mt_list_init(&c->ready);
    mt_vs_conn_set_state(c, state);
    mux->conn_count++;
    return c;
}

static void drop_host(struct mt_vs_conn *c)
{
    mt_closep(&c->fd); /* also leaves the epoll set: no other descriptor refers to it */
    free(c->buf);
    c->buf = NULL;
    c->buf_len = c->buf_off = 0;
}

static void conn_free(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    drop_host(c);
    unkey(mux, c);
    mt_list_remove(&c->ready);
    c->is_ready = false;
    c->pending = 0;
    c->deadline_ms = 0;
    mt_vs_conn_set_state(c, MT_VS_FREE);
    mux->conn_count--;
}

/* Put it in the queue for the rx ring if it has something for the guest. */
static void wake(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    if (c->state == MT_VS_FREE || c->is_ready || !mt_vs_conn_wants_rx(c))
        return;
    mt_list_push_back(&mux->ready, &c->ready);
    c->is_ready = true;
}

/* End it on both sides: the guest gets RST as soon as it has a buffer for it. */
static void abort_conn(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    drop_host(c);
    c->deadline_ms = 0;
    c->pending = OP(MT_VS_OP_RST);
    if (c->state != MT_VS_RESET)
        mt_vs_conn_set_state(c, MT_VS_RESET);
    wake(mux, c);
}

/* A host program gave up, or the guest did not answer it in time. */
static void give_up_connect(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    if (c->pending & OP(MT_VS_OP_REQUEST))
        conn_free(mux, c); /* the guest never heard of it */
    else
        abort_conn(mux, c);
}

/* The host side is gone for good: let the guest read what it has, then finish. */
static void host_gone(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    drop_host(c);
    if (c->guest_shut == MT_VS_SHUT_BOTH) {
        abort_conn(mux, c);
        return;
    }
    mt_vs_conn_set_state(c, MT_VS_LINGER);
    c->pending = (c->pending & OP(MT_VS_OP_RESPONSE)) | OP(MT_VS_OP_SHUTDOWN);
    c->deadline_ms = mux->now_ms + MT_VS_LINGER_MS;
    c->linger_end_ms = mux->now_ms + MT_VS_LINGER_MAX_MS;
    wake(mux, c);
}

/* A write to the host failed: it closed, or only its reading side. */
static void host_deaf(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    if (c->host_eof) {
        host_gone(mux, c);
        return;
    }
    c->readable = true; /* it may have left bytes for the guest before it closed */
    c->pending |= OP(MT_VS_OP_SHUTDOWN);
}

/* An OPEN connection after bytes went to the host, or a side shut something down. */
static void settle(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    bool was_deaf = c->host_deaf;
    mt_vs_conn_flush(c);
    if (c->guest_shut == MT_VS_SHUT_BOTH && c->buf_len == 0) {
        abort_conn(mux, c); /* all delivered; RST is how virtio ends a stream that was shut down */
        return;
    }
    if (c->host_deaf && !was_deaf)
        host_deaf(mux, c);
    wake(mux, c);
}

void mt_vs_mux_init(struct mt_vs_mux *mux, uint64_t guest_cid, int epoll_fd, mt_vs_dial_fn *dial, void *user)
{
    *mux = (struct mt_vs_mux){.guest_cid = guest_cid, .dial = dial, .user = user, .epoll_fd = epoll_fd,
        .next_port = MT_VS_HOST_PORT_MIN};
    mt_list_init(&mux->ready);
    for (size_t i = 0; i < MT_VS_CONN_MAX; i++) {
        mux->conn[i].fd = -1;
        mt_list_init(&mux->conn[i].ready);
    }
}

void mt_vs_mux_reset(struct mt_vs_mux *mux)
{
    for (size_t i = 0; i < MT_VS_CONN_MAX; i++) {
        if (mux->conn[i].state != MT_VS_FREE)
            conn_free(mux, &mux->conn[i]);
    }
    mux->rst_count = 0;
}

/* ---- guest to host ---- */

static void answer_rst(struct mt_vs_mux *mux, const struct mt_vs_hdr *h)
{
    if (h->op == MT_VS_OP_RST)
        return;
    MT_ASSERT(mux->rst_count < MT_VS_RST_MAX); /* from_guest stops before */
    size_t at = (mux->rst_head + mux->rst_count++) % MT_VS_RST_MAX;
    mux->rst[at] = (struct mt_vs_rst){.host_port = h->dst_port, .guest_port = h->src_port, .type = h->type};
}

static void guest_request(struct mt_vs_mux *mux, const struct mt_vs_hdr *h)
{
    int fd = mux->conn_count < MT_VS_CONN_MAX ? mux->dial(mux->user, h->dst_port) : -1;
    struct mt_vs_conn *c = fd >= 0 ? conn_new(mux, fd, MT_VS_OPEN) : NULL;
    if (!c) {
        mt_closep(&fd);
        answer_rst(mux, h);
        return;
    }
    c->host_port = h->dst_port;
    c->guest_port = h->src_port;
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    c->tx_cnt = h->fwd_cnt; /* nothing is under way yet, whatever it starts counting from */
    c->pending = OP(MT_VS_OP_RESPONSE);
    key(mux, c);
    wake(mux, c);
}

static void guest_response(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    char ok[32];
    int n = snprintf(ok, sizeof ok, "OK %u\n", c->host_port);
    /* first bytes on a fresh socket: they fit or the host is gone */
    if (c->state != MT_VS_WAIT || send(c->fd, ok, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n) {
        abort_conn(mux, c);
        return;
    }
    mt_vs_conn_set_state(c, MT_VS_OPEN);
    c->deadline_ms = 0;
    c->readable = true;
    wake(mux, c);
}

static void guest_rst(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    if (c->state == MT_VS_OPEN && c->guest_shut == MT_VS_SHUT_BOTH && c->buf_len > 0) {
        /* it closed properly and only lost patience with a slow host: the bytes are still owed */
        unkey(mux, c);
        mt_list_remove(&c->ready);
        c->is_ready = false;
        c->pending = 0;
        mt_vs_conn_set_state(c, MT_VS_DRAIN);
        c->deadline_ms = mux->now_ms + MT_VS_LINGER_MAX_MS;
        return;
    }
    conn_free(mux, c);
}

static void guest_shutdown(struct mt_vs_mux *mux, struct mt_vs_conn *c, uint32_t flags)
{
    unsigned before = c->guest_shut;
    if (c->state == MT_VS_WAIT) {
        abort_conn(mux, c);
        return;
    }
    c->guest_shut |= flags & MT_VS_SHUT_BOTH;
    if (c->state == MT_VS_LINGER) {
        if (c->guest_shut == MT_VS_SHUT_BOTH)
            abort_conn(mux, c);
        return;
    }
    if ((c->guest_shut & MT_VS_SHUT_RCV) && !(before & MT_VS_SHUT_RCV))
        (void)shutdown(c->fd, SHUT_RD); /* writers on the host get EPIPE */
    settle(mux, c);
}

static void guest_data(struct mt_vs_mux *mux, struct mt_vs_conn *c, const struct mt_vs_chain *payload)
{
    bool was_deaf = c->host_deaf;
    if (c->state != MT_VS_OPEN || (c->guest_shut & MT_VS_SHUT_SEND) || mt_vs_conn_from_guest(c, payload) < 0) {
        abort_conn(mux, c);
        return;
    }
    if (c->host_deaf && !was_deaf)
        host_deaf(mux, c);
    wake(mux, c);
}

static void guest_packet(struct mt_vs_mux *mux, const struct mt_vs_hdr *h, const struct mt_vs_chain *payload)
{
    if (h->type != MT_VS_TYPE_STREAM || h->dst_cid != MT_VS_CID_HOST || h->src_cid != mux->guest_cid) {
        answer_rst(mux, h);
        return;
    }
    struct mt_vs_conn *c = find(mux, h->dst_port, h->src_port);
    if (!c) {
        if (h->op == MT_VS_OP_REQUEST)
            guest_request(mux, h);
        else
            answer_rst(mux, h);
        return;
    }
    if (c->state == MT_VS_RESET) {
        if (h->op == MT_VS_OP_RST)
            conn_free(mux, c); /* both ended it */
        return;                /* else our RST is on its way */
    }
    c->peer_alloc = h->buf_alloc;
    c->peer_fwd = h->fwd_cnt;
    if (mt_vs_conn_room(c) > 0)
        c->credit_asked = false;
    switch (h->op) {
    case MT_VS_OP_RESPONSE:
        guest_response(mux, c);
        break;
    case MT_VS_OP_RST:
        guest_rst(mux, c);
        break;
    case MT_VS_OP_SHUTDOWN:
        guest_shutdown(mux, c, h->flags);
        break;
    case MT_VS_OP_RW:
        guest_data(mux, c, payload);
        break;
    case MT_VS_OP_CREDIT_UPDATE:
        wake(mux, c);
        break;
    case MT_VS_OP_CREDIT_REQUEST:
        c->pending |= OP(MT_VS_OP_CREDIT_UPDATE);
        wake(mux, c);
        break;
    default: /* a second REQUEST for the same pair, or an operation we do not know */
        abort_conn(mux, c);
        break;
    }
}

bool mt_vs_mux_from_guest(struct mt_vs_mux *mux, struct mt_vs_ring *tx, const struct mt_vs_mem *mem, int64_t now_ms)
{
    struct mt_vs_chain chain;
    mux->now_ms = now_ms;
    for (int i = 0; i < MT_VS_BUDGET; i++) {
        if (mux->rst_count == MT_VS_RST_MAX)
            return false;
        int r = mt_vs_ring_peek(tx, mem, false, &chain);
        if (r <= 0) {
            if (tx->broken)
                mt_vs_mux_reset(mux);
            return false;
        }
        struct mt_vs_hdr h;
        if (mt_vs_packet_parse(&chain, &h) == 0)
            guest_packet(mux, &h, &chain);
        mt_vs_ring_use(tx, &chain, 0); /* malformed packets are swallowed: there is nobody to answer */
    }
    return true;
}

/* ---- host to guest ---- */

/* What to send next. Data comes before SHUTDOWN by itself: eof is only found after the last byte was read. */
static enum mt_vs_op next_control(const struct mt_vs_conn *c)
{
    static const enum mt_vs_op order[] = {MT_VS_OP_RST, MT_VS_OP_REQUEST, MT_VS_OP_RESPONSE, MT_VS_OP_CREDIT_UPDATE,
        MT_VS_OP_CREDIT_REQUEST, MT_VS_OP_SHUTDOWN};
    for (size_t i = 0; i < MT_ARRAY_LEN(order); i++) {
        if (c->pending & OP(order[i]))
            return order[i];
    }
    return MT_VS_OP_INVALID;
}

static struct mt_vs_hdr header(struct mt_vs_mux *mux, struct mt_vs_conn *c, enum mt_vs_op op, uint32_t len)
{
    c->fwd_told = c->fwd_cnt;
    return (struct mt_vs_hdr){.src_cid = MT_VS_CID_HOST, .dst_cid = mux->guest_cid, .src_port = c->host_port,
        .dst_port = c->guest_port, .len = len, .type = MT_VS_TYPE_STREAM, .op = (uint16_t)op, .buf_alloc = MT_VS_BUF,
        .fwd_cnt = c->fwd_cnt};
}

static void send_control(struct mt_vs_mux *mux, struct mt_vs_conn *c, enum mt_vs_op op, const struct mt_vs_chain *chain)
{
    struct mt_vs_hdr h = header(mux, c, op, 0);
    if (op == MT_VS_OP_SHUTDOWN)
        h.flags = c->state == MT_VS_LINGER ? MT_VS_SHUT_BOTH
                                           : (c->host_eof ? MT_VS_SHUT_SEND : 0U) | (c->host_deaf ? MT_VS_SHUT_RCV : 0U);
    mt_vs_packet_put(chain, &h);
    c->pending &= ~OP(op);
    c->pending &= ~OP(MT_VS_OP_CREDIT_UPDATE); /* every header carries it */
    if (op == MT_VS_OP_RST)
        conn_free(mux, c);
}

/* Read from the host straight into guest memory. Returns bytes written to the chain, 0 when nothing was to send. */
static uint32_t send_data(struct mt_vs_mux *mux, struct mt_vs_conn *c, const struct mt_vs_chain *chain)
{
    struct iovec iov[MT_VS_CHAIN_MAX];
    uint32_t room = mt_vs_conn_room(c);
    if (room == 0) {
        c->pending |= OP(MT_VS_OP_CREDIT_REQUEST);
        c->credit_asked = true;
        return 0;
    }
    size_t max = room < MT_VS_PAYLOAD_MAX ? room : MT_VS_PAYLOAD_MAX;
    size_t count = mt_vs_packet_slice(chain, MT_VS_HDR_LEN, max, iov);
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT);
    if (n > 0) {
        struct mt_vs_hdr h = header(mux, c, MT_VS_OP_RW, (uint32_t)n);
        mt_vs_packet_put(chain, &h);
        c->pending &= ~OP(MT_VS_OP_CREDIT_UPDATE);
        c->tx_cnt += (uint32_t)n;
        return MT_VS_HDR_LEN + (uint32_t)n;
    }
    if (n < 0 && errno == EINTR)
        return 0;
    if (n < 0 && errno == EAGAIN) {
        c->readable = false;
        return 0;
    }
    /* end of the host's stream; an error (it closed with our bytes unread) is the same end, only both ways */
    c->host_eof = true;
    if (n < 0 || c->hup || c->host_deaf)
        host_gone(mux, c);
    else
        c->pending |= OP(MT_VS_OP_SHUTDOWN);
    return 0;
}

static void send_rst(struct mt_vs_mux *mux, struct mt_vs_ring *rx, const struct mt_vs_chain *chain)
{
    const struct mt_vs_rst *r = &mux->rst[mux->rst_head];
    struct mt_vs_hdr h = {.src_cid = MT_VS_CID_HOST, .dst_cid = mux->guest_cid, .src_port = r->host_port,
        .dst_port = r->guest_port, .type = r->type, .op = MT_VS_OP_RST};
    mt_vs_packet_put(chain, &h);
    mt_vs_ring_use(rx, chain, MT_VS_HDR_LEN);
    mux->rst_head = (mux->rst_head + 1) % MT_VS_RST_MAX;
    mux->rst_count--;
}

bool mt_vs_mux_to_guest(struct mt_vs_mux *mux, struct mt_vs_ring *rx, const struct mt_vs_mem *mem, int64_t now_ms)
{
    struct mt_vs_chain chain;
    mux->now_ms = now_ms;
    for (int i = 0; i < MT_VS_BUDGET; i++) {
        if (mux->rst_count == 0 && mt_list_empty(&mux->ready))
            return false;
        if (mt_vs_ring_peek(rx, mem, true, &chain) <= 0)
            break;
        if (chain.bytes <= MT_VS_HDR_LEN) { /* no driver offers such buffers, and data could never move in them */
            rx->broken = true;
            break;
        }
        if (mux->rst_count > 0) {
            send_rst(mux, rx, &chain);
            continue;
        }
        struct mt_vs_conn *c = MT_CONTAINER(mt_list_pop_front(&mux->ready), struct mt_vs_conn, ready);
        c->is_ready = false;
        enum mt_vs_op op = next_control(c);
        uint32_t written = 0;
        if (op != MT_VS_OP_INVALID) {
            send_control(mux, c, op, &chain);
            written = MT_VS_HDR_LEN;
        } else if (mt_vs_conn_wants_rx(c)) {
            written = send_data(mux, c, &chain);
        }
        if (written > 0)
            mt_vs_ring_use(rx, &chain, written);
        wake(mux, c);
    }
    if (rx->broken)
        mt_vs_mux_reset(mux);
    return mt_vs_ring_ready(rx) && (mux->rst_count > 0 || !mt_list_empty(&mux->ready)) &&
           mt_vs_ring_peek(rx, mem, true, &chain) > 0;
}

/* ---- host sockets ---- */

void mt_vs_mux_accept(struct mt_vs_mux *mux, int fd, int64_t now_ms)
{
    mux->now_ms = now_ms;
    struct mt_vs_conn *c = conn_new(mux, fd, MT_VS_LINE);
    if (!c) {
        (void)close(fd);
        return;
    }
    c->deadline_ms = now_ms + MT_VS_CONNECT_MS;
}

static void host_line(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    int r = mt_vs_conn_read_line(c);
    if (r < 0)
        conn_free(mux, c);
    if (r <= 0)
        return;
    do {
        c->host_port = mux->next_port++;
        if (mux->next_port > MT_VS_HOST_PORT_MAX)
            mux->next_port = MT_VS_HOST_PORT_MIN;
    } while (find(mux, c->host_port, c->guest_port)); /* ends: there are far fewer connections than ports */
    key(mux, c);
    c->pending = OP(MT_VS_OP_REQUEST);
    c->deadline_ms = mux->now_ms + MT_VS_CONNECT_MS;
    mt_vs_conn_set_state(c, MT_VS_WAIT);
    wake(mux, c);
}

void mt_vs_mux_host_event(struct mt_vs_mux *mux, uint64_t token, uint32_t events, int64_t now_ms)
{
    size_t slot = (size_t)(token & 0xffff);
    MT_ASSERT(slot < MT_VS_CONN_MAX);
    struct mt_vs_conn *c = &mux->conn[slot];
    mux->now_ms = now_ms;
    if (c->state == MT_VS_FREE || c->generation != (uint16_t)(token >> 16) || c->fd < 0)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        c->writable = true;
    if (events & (EPOLLHUP | EPOLLERR))
        c->hup = true;
    switch (c->state) {
    case MT_VS_LINE:
        host_line(mux, c);
        break;
    case MT_VS_WAIT:
        if (c->hup)
            give_up_connect(mux, c);
        break;
    case MT_VS_OPEN:
        if (c->hup && (c->host_eof || (c->guest_shut & MT_VS_SHUT_RCV)))
            host_gone(mux, c);
        else
            settle(mux, c);
        break;
    case MT_VS_DRAIN:
        mt_vs_conn_flush(c);
        if (c->buf_len == 0)
            conn_free(mux, c);
        break;
    case MT_VS_FREE:
    case MT_VS_LINGER:
    case MT_VS_RESET:
    case MT_VS_STATE_MAX:
        break;
    }
}

static void overdue(struct mt_vs_mux *mux, struct mt_vs_conn *c)
{
    c->deadline_ms = 0;
    switch (c->state) {
    case MT_VS_LINE:
    case MT_VS_DRAIN:
        conn_free(mux, c);
        break;
    case MT_VS_WAIT:
        give_up_connect(mux, c);
        break;
    case MT_VS_LINGER:
        /* RST makes Linux throw away what the guest has not read yet: only when it has read all, or at the very end */
        if (c->tx_cnt == c->peer_fwd || mux->now_ms >= c->linger_end_ms) {
            abort_conn(mux, c);
        } else {
            c->pending |= OP(MT_VS_OP_CREDIT_REQUEST);
            c->deadline_ms = mux->now_ms + MT_VS_LINGER_MS;
            wake(mux, c);
        }
        break;
    case MT_VS_OPEN:
    case MT_VS_FREE:
    case MT_VS_RESET:
    case MT_VS_STATE_MAX:
        break;
    }
}

int mt_vs_mux_tick(struct mt_vs_mux *mux, int64_t now_ms)
{
    int64_t next = INT64_MAX;
    mux->now_ms = now_ms;
    for (size_t i = 0; i < MT_VS_CONN_MAX && mux->conn_count > 0; i++) {
        struct mt_vs_conn *c = &mux->conn[i];
        if (c->deadline_ms != 0 && now_ms >= c->deadline_ms)
            overdue(mux, c);
        if (c->deadline_ms != 0 && c->deadline_ms < next)
            next = c->deadline_ms;
    }
    return next == INT64_MAX ? -1 : (int)(next - now_ms);
}
