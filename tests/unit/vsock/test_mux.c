/* SPDX-License-Identifier: Apache-2.0 */
/* Connections: the host contract, credit, half-close, bounds. Guest memory is an array, host sockets are socket pairs. */
#include "kit.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static uint8_t mem_bytes[KIT_MEM] __attribute__((aligned(4096)));

struct world {
    struct kit kit;
    struct mt_vs_mem mem;
    struct mt_vs_ring rx, tx;
    struct mt_vs_mux mux;
    int64_t now;
    int epoll;
    bool refuse;
    uint32_t dialled;
    int host[MT_VS_CONN_MAX + 8]; /* our ends of dialled sockets */
    size_t hosts;
};

static int dial(void *user, uint32_t port)
{
    struct world *w = user;
    int p[2];
    w->dialled = port;
    if (w->refuse || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p) == -1)
        return -1;
    w->host[w->hosts++] = p[1];
    return p[0];
}

static struct world *world_new(unsigned rx_buffers)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    kit_init(&w->kit, mem_bytes);
    kit_offer_rx(&w->kit, rx_buffers);
    assert_int_equal(kit_map(&w->rx, &w->mem, &w->kit, 0, eventfd(0, EFD_CLOEXEC)), 0);
    assert_int_equal(kit_map(&w->tx, &w->mem, &w->kit, 1, eventfd(0, EFD_CLOEXEC)), 0);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->now = 1000;
    mt_vs_mux_init(&w->mux, KIT_CID, w->epoll, dial, w);
    return w;
}

static void world_free(struct world *w)
{
    mt_vs_mux_reset(&w->mux);
    assert_int_equal(w->mux.conn_count, 0);
    for (size_t i = 0; i < w->hosts; i++) {
        if (w->host[i] >= 0)
            (void)close(w->host[i]);
    }
    mt_vs_ring_done(&w->rx);
    mt_vs_ring_done(&w->tx);
    (void)close(w->epoll);
    free(w);
}

/* Everything that can happen now happens. */
static void turn(struct world *w)
{
    for (int i = 0; i < 64; i++) {
        struct epoll_event ev[64];
        int n = epoll_wait(w->epoll, ev, 64, 0);
        for (int e = 0; e < n; e++)
            mt_vs_mux_host_event(&w->mux, ev[e].data.u64, ev[e].events, w->now);
        bool more = mt_vs_mux_from_guest(&w->mux, &w->tx, &w->mem, w->now);
        more |= mt_vs_mux_to_guest(&w->mux, &w->rx, &w->mem, w->now);
        if (n == 0 && !more)
            return;
    }
}

static struct kit_stream stream(uint32_t guest_port, uint32_t host_port)
{
    return (struct kit_stream){.guest_port = guest_port, .host_port = host_port, .buf_alloc = 256 * 1024};
}

/* The next packet must be @op for @s. */
static struct mt_vs_hdr expect(struct world *w, struct kit_stream *s, enum mt_vs_op op, uint8_t *data)
{
    struct mt_vs_hdr h = {0};
    turn(w);
    assert_int_equal(kit_recv(&w->kit, &h, data), 1);
    assert_int_equal(h.op, op);
    assert_int_equal(h.src_cid, MT_VS_CID_HOST);
    assert_int_equal(h.dst_cid, KIT_CID);
    assert_int_equal(h.dst_port, s->guest_port);
    assert_int_equal(h.src_port, s->host_port);
    s->peer_alloc = h.buf_alloc;
    s->peer_fwd = h.fwd_cnt;
    return h;
}

static void expect_nothing(struct world *w)
{
    struct mt_vs_hdr h;
    turn(w);
    assert_int_equal(kit_recv(&w->kit, &h, NULL), 0);
}

static struct kit_stream guest_connects(struct world *w, uint32_t guest_port, uint32_t host_port)
{
    struct kit_stream s = stream(guest_port, host_port);
    kit_send(&w->kit, &s, MT_VS_OP_REQUEST, 0, NULL, 0);
    (void)expect(w, &s, MT_VS_OP_RESPONSE, NULL);
    return s;
}

/* A host program connects and writes @line; returns its end. */
static int host_connects(struct world *w, const char *line)
{
    int p[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p), 0);
    mt_vs_mux_accept(&w->mux, p[0], w->now);
    if (line)
        assert_int_equal(send(p[1], line, strlen(line), MSG_NOSIGNAL), (ssize_t)strlen(line));
    turn(w);
    return p[1];
}

static void assert_eof(int fd)
{
    char c;
    assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
}

static void assert_open(int fd)
{
    char c;
    assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

static void guest_reaches_the_socket_of_its_port(void **state)
{
    struct world *w = world_new(32);
    uint8_t data[KIT_BUF];
    char got[16];
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    assert_int_equal(w->dialled, 5161);
    kit_send(&w->kit, &s, MT_VS_OP_RW, 0, "ping", 4);
    turn(w);
    assert_int_equal(recv(w->host[0], got, sizeof got, 0), 4);
    assert_memory_equal(got, "ping", 4);
    assert_int_equal(send(w->host[0], "pong!", 5, 0), 5);
    struct mt_vs_hdr h = expect(w, &s, MT_VS_OP_RW, data);
    assert_int_equal(h.len, 5);
    assert_memory_equal(data, "pong!", 5);
    world_free(w);
}

static void nobody_on_the_port_is_a_reset(void **state)
{
    struct world *w = world_new(32);
    struct kit_stream s = stream(1000, 9);
    (void)state;
    w->refuse = true;
    kit_send(&w->kit, &s, MT_VS_OP_REQUEST, 0, NULL, 0);
    (void)expect(w, &s, MT_VS_OP_RST, NULL);
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void host_gets_ok_when_the_guest_accepts(void **state)
{
    struct world *w = world_new(32);
    struct kit_stream s = stream(52, MT_VS_HOST_PORT_MIN);
    uint8_t data[KIT_BUF];
    char got[64];
    (void)state;
    int fd = host_connects(w, "CONNECT 52\nearly");
    (void)expect(w, &s, MT_VS_OP_REQUEST, NULL);
    assert_open(fd);
    kit_send(&w->kit, &s, MT_VS_OP_RESPONSE, 0, NULL, 0);
    struct mt_vs_hdr h = expect(w, &s, MT_VS_OP_RW, data); /* what followed the line belongs to the stream */
    assert_int_equal(h.len, 5);
    assert_memory_equal(data, "early", 5);
    ssize_t n = recv(fd, got, sizeof got, MSG_DONTWAIT);
    assert_int_equal(n, 14);
    assert_memory_equal(got, "OK 1073741824\n", 14);
    (void)close(fd);
    world_free(w);
}

static void host_is_closed_when_the_guest_refuses(void **state)
{
    struct world *w = world_new(32);
    struct kit_stream s = stream(52, MT_VS_HOST_PORT_MIN);
    (void)state;
    int fd = host_connects(w, "CONNECT 52\n");
    (void)expect(w, &s, MT_VS_OP_REQUEST, NULL);
    kit_send(&w->kit, &s, MT_VS_OP_RST, 0, NULL, 0);
    turn(w);
    assert_eof(fd);
    assert_int_equal(w->mux.conn_count, 0);
    (void)close(fd);
    world_free(w);
}

static void unanswered_connect_ends_after_two_seconds(void **state)
{
    struct world *w = world_new(32);
    struct kit_stream s = stream(52, MT_VS_HOST_PORT_MIN);
    (void)state;
    int fd = host_connects(w, "CONNECT 52\n");
    (void)expect(w, &s, MT_VS_OP_REQUEST, NULL);
    assert_int_equal(mt_vs_mux_tick(&w->mux, w->now), MT_VS_CONNECT_MS);
    w->now += MT_VS_CONNECT_MS - 1;
    (void)mt_vs_mux_tick(&w->mux, w->now);
    assert_open(fd);
    w->now += 1;
    assert_int_equal(mt_vs_mux_tick(&w->mux, w->now), -1);
    assert_eof(fd);
    (void)expect(w, &s, MT_VS_OP_RST, NULL);
    assert_int_equal(w->mux.conn_count, 0);
    (void)close(fd);
    /* and so does a host program that never sends its line, or one that calls a guest without a driver */
    int silent = host_connects(w, "CONN");
    w->now += MT_VS_CONNECT_MS;
    (void)mt_vs_mux_tick(&w->mux, w->now);
    assert_eof(silent);
    assert_int_equal(w->mux.conn_count, 0);
    (void)close(silent);
    world_free(w);
    w = world_new(0);
    fd = host_connects(w, "CONNECT 52\n");
    w->now += MT_VS_CONNECT_MS;
    (void)mt_vs_mux_tick(&w->mux, w->now);
    assert_eof(fd);
    assert_int_equal(w->mux.conn_count, 0);
    (void)close(fd);
    world_free(w);
}

static void malformed_connect_lines_are_closed(void **state)
{
    static const char *const bad[] = {"HELLO 52\n", "CONNECT\n", "CONNECT \n", "CONNECT -1\n", "CONNECT 4294967295\n", "CONNECT 52 \n",
        "CONNECT 5x\n", "connect 52\n", "\n", "CONNECT 00000000000000000000000000052\n"};
    struct world *w = world_new(32);
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = host_connects(w, bad[i]);
        char c;
        ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
        if (n != 0 && !(n == -1 && errno == ECONNRESET)) /* reset: it closed with our bytes unread */
            fail_msg("'%s' was not closed", bad[i]);
        (void)close(fd);
    }
    expect_nothing(w);
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void connections_are_capped(void **state)
{
    struct world *w = world_new(32);
    (void)state;
    for (uint32_t i = 0; i < MT_VS_CONN_MAX; i++)
        (void)guest_connects(w, 1000 + i, 5161);
    struct kit_stream s = stream(5000, 5161);
    kit_send(&w->kit, &s, MT_VS_OP_REQUEST, 0, NULL, 0);
    (void)expect(w, &s, MT_VS_OP_RST, NULL);
    assert_int_equal(w->hosts, MT_VS_CONN_MAX); /* the host was not even asked */
    int fd = host_connects(w, NULL);
    assert_eof(fd);
    (void)close(fd);
    s = stream(1000, 5161);
    kit_send(&w->kit, &s, MT_VS_OP_RST, 0, NULL, 0);
    turn(w);
    (void)guest_connects(w, 6000, 5161); /* one ended: there is room again */
    world_free(w);
}

static void host_sends_no_more_than_the_guest_can_take(void **state)
{
    struct world *w = world_new(32);
    uint8_t data[KIT_BUF];
    char block[100];
    (void)state;
    struct kit_stream s = stream(1000, 5161);
    s.buf_alloc = 100;
    kit_send(&w->kit, &s, MT_VS_OP_REQUEST, 0, NULL, 0);
    (void)expect(w, &s, MT_VS_OP_RESPONSE, NULL);
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 3; i++)
        assert_int_equal(send(w->host[0], block, sizeof block, 0), 100);
    assert_int_equal(expect(w, &s, MT_VS_OP_RW, data).len, 100);
    (void)expect(w, &s, MT_VS_OP_CREDIT_REQUEST, NULL); /* asked once, not in a loop */
    expect_nothing(w);
    s.fwd_cnt = 60;
    kit_send(&w->kit, &s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
    assert_int_equal(expect(w, &s, MT_VS_OP_RW, data).len, 60);
    (void)expect(w, &s, MT_VS_OP_CREDIT_REQUEST, NULL);
    s.fwd_cnt = 200000; /* more than was ever sent: nonsense gives no credit */
    kit_send(&w->kit, &s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
    expect_nothing(w);
    world_free(w);
}

static void guest_without_credit_is_reset(void **state)
{
    struct world *w = world_new(32);
    static uint8_t block[4000];
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    int small = 4096;
    assert_int_equal(setsockopt(w->mux.conn[0].fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    bool reset = false;
    for (size_t i = 0; i < 2 * MT_VS_BUF / sizeof block && !reset; i++) { /* the host reads nothing: MT_VS_BUF fit in our buffer, then it is over */
        struct mt_vs_hdr h;
        kit_send(&w->kit, &s, MT_VS_OP_RW, 0, block, sizeof block);
        turn(w);
        while (kit_recv(&w->kit, &h, NULL) == 1)
            reset |= h.op == MT_VS_OP_RST;
        assert_true(w->mux.conn[0].buf_len <= MT_VS_BUF);
    }
    assert_true(reset);
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void guest_gets_its_credit_back(void **state)
{
    struct world *w = world_new(32);
    static uint8_t block[4000], got[8192];
    size_t received = 0, sent = 0;
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    assert_int_equal(s.peer_alloc, MT_VS_BUF);
    while (sent < 1 << 20) {
        struct mt_vs_hdr h;
        if (s.peer_alloc - (s.sent - s.peer_fwd) >= sizeof block) {
            memset(block, (int)(sent / sizeof block) & 0xff, sizeof block);
            kit_send(&w->kit, &s, MT_VS_OP_RW, 0, block, sizeof block);
            sent += sizeof block;
        } else {
            ssize_t n = recv(w->host[0], got, sizeof got, MSG_DONTWAIT);
            assert_true(n > 0); /* out of credit means that the host has something to read */
            for (ssize_t i = 0; i < n; i++)
                assert_int_equal(got[i], ((received + (size_t)i) / sizeof block) & 0xff);
            received += (size_t)n;
        }
        turn(w);
        while (kit_recv(&w->kit, &h, NULL) == 1) {
            assert_int_equal(h.op, MT_VS_OP_CREDIT_UPDATE);
            s.peer_fwd = h.fwd_cnt;
        }
    }
    for (ssize_t n; (n = recv(w->host[0], got, sizeof got, MSG_DONTWAIT)) > 0; turn(w))
        received += (size_t)n;
    assert_int_equal(received, sent);
    world_free(w);
}

static void guest_may_stop_sending_and_go_on_reading(void **state)
{
    struct world *w = world_new(32);
    uint8_t data[KIT_BUF];
    char got[8];
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    kit_send(&w->kit, &s, MT_VS_OP_RW, 0, "end", 3);
    kit_send(&w->kit, &s, MT_VS_OP_SHUTDOWN, MT_VS_SHUT_SEND, NULL, 0);
    turn(w);
    assert_int_equal(recv(w->host[0], got, sizeof got, MSG_DONTWAIT), 3);
    assert_eof(w->host[0]);
    assert_int_equal(send(w->host[0], "reply", 5, MSG_NOSIGNAL), 5);
    assert_int_equal(expect(w, &s, MT_VS_OP_RW, data).len, 5);
    kit_send(&w->kit, &s, MT_VS_OP_RW, 0, "x", 1); /* it said it would not */
    (void)expect(w, &s, MT_VS_OP_RST, NULL);
    world_free(w);
}

static void host_may_stop_sending_and_go_on_reading(void **state)
{
    struct world *w = world_new(32);
    uint8_t data[KIT_BUF];
    char got[8];
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    assert_int_equal(send(w->host[0], "last", 4, 0), 4);
    assert_int_equal(shutdown(w->host[0], SHUT_WR), 0);
    assert_int_equal(expect(w, &s, MT_VS_OP_RW, data).len, 4);
    assert_int_equal(expect(w, &s, MT_VS_OP_SHUTDOWN, NULL).flags, MT_VS_SHUT_SEND);
    kit_send(&w->kit, &s, MT_VS_OP_RW, 0, "answer", 6);
    turn(w);
    assert_int_equal(recv(w->host[0], got, sizeof got, MSG_DONTWAIT), 6);
    kit_send(&w->kit, &s, MT_VS_OP_SHUTDOWN, MT_VS_SHUT_BOTH, NULL, 0);
    (void)expect(w, &s, MT_VS_OP_RST, NULL); /* a stream shut down on both sides ends with a reset */
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void what_the_host_sent_before_it_closed_arrives(void **state)
{
    struct world *w = world_new(32);
    uint8_t data[KIT_BUF];
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    s.buf_alloc = 3;
    kit_send(&w->kit, &s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
    kit_send(&w->kit, &s, MT_VS_OP_RW, 0, "unread", 6); /* the host closes with this unread: still an end, not a loss */
    turn(w);
    assert_int_equal(send(w->host[0], "abcdef", 6, 0), 6);
    (void)close(w->host[0]);
    w->host[0] = -1;
    assert_int_equal(expect(w, &s, MT_VS_OP_RW, data).len, 3);
    (void)expect(w, &s, MT_VS_OP_CREDIT_REQUEST, NULL);
    s.fwd_cnt = 3;
    s.buf_alloc = 100;
    kit_send(&w->kit, &s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
    assert_int_equal(expect(w, &s, MT_VS_OP_RW, data).len, 3);
    assert_memory_equal(data, "def", 3);
    /* the guest has not read "def": no reset may come, it would throw it away */
    bool shut = false;
    for (int i = 0; i < 3; i++) {
        struct mt_vs_hdr h;
        turn(w);
        while (kit_recv(&w->kit, &h, NULL) == 1) {
            assert_int_not_equal(h.op, MT_VS_OP_RST);
            shut |= h.op == MT_VS_OP_SHUTDOWN && h.flags == MT_VS_SHUT_BOTH;
            if (h.op == MT_VS_OP_CREDIT_REQUEST)
                kit_send(&w->kit, &s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
        }
        w->now += MT_VS_LINGER_MS;
        (void)mt_vs_mux_tick(&w->mux, w->now);
    }
    assert_true(shut);
    s.fwd_cnt = 6;
    kit_send(&w->kit, &s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
    turn(w);
    w->now += MT_VS_LINGER_MS;
    (void)mt_vs_mux_tick(&w->mux, w->now);
    struct mt_vs_hdr h = {0};
    turn(w);
    while (kit_recv(&w->kit, &h, NULL) == 1) {
    }
    assert_int_equal(h.op, MT_VS_OP_RST);
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void dead_host_does_not_hold_a_slot_for_ever(void **state)
{
    struct world *w = world_new(32);
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    assert_int_equal(send(w->host[0], "abc", 3, 0), 3);
    turn(w);
    (void)close(w->host[0]);
    w->host[0] = -1;
    turn(w);
    for (int64_t t = 0; t <= MT_VS_LINGER_MAX_MS; t += MT_VS_LINGER_MS) { /* a guest that never reads and never answers */
        w->now += MT_VS_LINGER_MS;
        (void)mt_vs_mux_tick(&w->mux, w->now);
        turn(w);
        struct mt_vs_hdr h;
        while (kit_recv(&w->kit, &h, NULL) == 1) {
        }
    }
    (void)s;
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void what_the_guest_sent_before_it_closed_arrives(void **state)
{
    struct world *w = world_new(32);
    static uint8_t block[4000];
    size_t got = 0, sent = 0;
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    int small = 4096;
    assert_int_equal(setsockopt(w->mux.conn[0].fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    for (int i = 0; i < 15; i++, sent += sizeof block)
        kit_send(&w->kit, &s, MT_VS_OP_RW, 0, block, sizeof block);
    kit_send(&w->kit, &s, MT_VS_OP_SHUTDOWN, MT_VS_SHUT_BOTH, NULL, 0);
    turn(w);
    assert_true(w->mux.conn[0].buf_len > 0);
    kit_send(&w->kit, &s, MT_VS_OP_RST, 0, NULL, 0); /* Linux gives up after 8 s and resets */
    turn(w);
    for (;;) {
        uint8_t buf[4096];
        ssize_t n = recv(w->host[0], buf, sizeof buf, MSG_DONTWAIT);
        if (n <= 0) {
            assert_int_equal(n, 0);
            break;
        }
        got += (size_t)n;
        turn(w);
    }
    assert_int_equal(got, sent);
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void answers_to_nonsense_are_bounded(void **state)
{
    struct world *w = world_new(0); /* the guest offers no buffer for answers */
    struct kit_stream s = stream(1, 1);
    unsigned sent = 0;
    (void)state;
    for (int i = 0; i < 400; i++) {
        if (kit_tx_free(&w->kit)) {
            s.guest_port = (uint32_t)i;
            kit_send(&w->kit, &s, MT_VS_OP_RW, 0, "x", 1);
            sent++;
        }
        turn(w);
        assert_true(w->mux.rst_count <= MT_VS_RST_MAX);
    }
    assert_int_equal(sent, MT_VS_RST_MAX + KIT_NUM); /* then nothing more is taken from it */
    kit_offer_rx(&w->kit, KIT_NUM);
    unsigned answers = 0;
    for (int i = 0; i < 10; i++) {
        struct mt_vs_hdr h;
        turn(w);
        while (kit_recv(&w->kit, &h, NULL) == 1) {
            assert_int_equal(h.op, MT_VS_OP_RST);
            answers++;
        }
    }
    assert_int_equal(answers, sent);
    world_free(w);
}

static void packets_that_are_not_ours_are_answered_with_reset(void **state)
{
    static const struct {
        uint64_t src, dst;
        uint16_t type, op;
        bool answer;
    } t[] = {
        {4, 2, 1, MT_VS_OP_REQUEST, true},     {KIT_CID, 9, 1, MT_VS_OP_REQUEST, true}, {KIT_CID, 2, 2, MT_VS_OP_REQUEST, true},
        {KIT_CID, 2, 1, MT_VS_OP_RST, false},  {KIT_CID, 2, 1, MT_VS_OP_RW, true},      {KIT_CID, 2, 1, 99, true},
        {KIT_CID, 2, 1, MT_VS_OP_RESPONSE, true},
    };
    struct world *w = world_new(32);
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_vs_hdr h = {.src_cid = t[i].src, .dst_cid = t[i].dst, .src_port = 7, .dst_port = 8, .type = t[i].type, .op = t[i].op}, r;
        kit_send_hdr(&w->kit, &h, NULL, 0);
        turn(w);
        assert_int_equal(kit_recv(&w->kit, &r, NULL), t[i].answer);
        if (t[i].answer)
            assert_int_equal(r.op, MT_VS_OP_RST);
    }
    assert_int_equal(w->mux.conn_count, 0);
    assert_int_equal(w->hosts, 0);
    world_free(w);
}

static void a_second_request_for_a_stream_ends_it(void **state)
{
    struct world *w = world_new(32);
    (void)state;
    struct kit_stream s = guest_connects(w, 1000, 5161);
    kit_send(&w->kit, &s, MT_VS_OP_REQUEST, 0, NULL, 0);
    (void)expect(w, &s, MT_VS_OP_RST, NULL);
    assert_eof(w->host[0]);
    (void)guest_connects(w, 1000, 5161);
    world_free(w);
}

static void a_broken_ring_ends_all_streams(void **state)
{
    struct world *w = world_new(32);
    (void)state;
    (void)guest_connects(w, 1000, 5161);
    (void)guest_connects(w, 1001, 5161);
    kit_desc(&w->kit, 1, 7, KIT_GPA, 64, 1, 7);
    kit_offer(&w->kit, 1, 7);
    turn(w);
    assert_true(w->tx.broken);
    assert_int_equal(w->mux.conn_count, 0);
    assert_eof(w->host[0]);
    assert_eof(w->host[1]);
    world_free(w);
}

static void buffers_too_small_for_data_break_the_ring(void **state)
{
    struct world *w = world_new(0);
    struct kit_stream s = stream(1000, 5161);
    (void)state;
    kit_desc(&w->kit, 0, 0, kit_buf(0, 0), MT_VS_HDR_LEN, 2, 0);
    kit_offer(&w->kit, 0, 0);
    kit_send(&w->kit, &s, MT_VS_OP_REQUEST, 0, NULL, 0);
    turn(w);
    assert_true(w->rx.broken);
    assert_int_equal(w->mux.conn_count, 0);
    world_free(w);
}

static void streams_share_the_ring_fairly(void **state)
{
    struct world *w = world_new(8);
    static char block[60000];
    unsigned got[4] = {0};
    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        (void)guest_connects(w, 1000 + i, 5161);
    for (int i = 0; i < 4; i++)
        assert_true(send(w->host[i], block, sizeof block, MSG_DONTWAIT) > 0);
    for (int round = 0; round < 4; round++) {
        struct mt_vs_hdr h;
        turn(w);
        while (kit_recv(&w->kit, &h, NULL) == 1) {
            assert_int_equal(h.op, MT_VS_OP_RW);
            got[h.dst_port - 1000]++;
        }
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(got[i], 8); /* 4 rounds of 8 buffers, shared by 4 */
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_reaches_the_socket_of_its_port),
        cmocka_unit_test(nobody_on_the_port_is_a_reset),
        cmocka_unit_test(host_gets_ok_when_the_guest_accepts),
        cmocka_unit_test(host_is_closed_when_the_guest_refuses),
        cmocka_unit_test(unanswered_connect_ends_after_two_seconds),
        cmocka_unit_test(malformed_connect_lines_are_closed),
        cmocka_unit_test(connections_are_capped),
        cmocka_unit_test(host_sends_no_more_than_the_guest_can_take),
        cmocka_unit_test(guest_without_credit_is_reset),
        cmocka_unit_test(guest_gets_its_credit_back),
        cmocka_unit_test(guest_may_stop_sending_and_go_on_reading),
        cmocka_unit_test(host_may_stop_sending_and_go_on_reading),
        cmocka_unit_test(what_the_host_sent_before_it_closed_arrives),
        cmocka_unit_test(dead_host_does_not_hold_a_slot_for_ever),
        cmocka_unit_test(what_the_guest_sent_before_it_closed_arrives),
        cmocka_unit_test(answers_to_nonsense_are_bounded),
        cmocka_unit_test(packets_that_are_not_ours_are_answered_with_reset),
        cmocka_unit_test(a_second_request_for_a_stream_ends_it),
        cmocka_unit_test(a_broken_ring_ends_all_streams),
        cmocka_unit_test(buffers_too_small_for_data_break_the_ring),
        cmocka_unit_test(streams_share_the_ring_fairly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
