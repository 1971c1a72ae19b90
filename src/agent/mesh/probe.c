/* SPDX-License-Identifier: Apache-2.0 */
/* Echo over the mesh. See probe.h. Source: RFC 4443 4.1. */
#include "agent/mesh/probe.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "os/file.h"

#include <netinet/icmp6.h>
#include <stdlib.h>
#include <sys/socket.h>

#define BIG_EVERY 12 /* rounds, once big packets are known to pass */
#define SMALL_BYTES 64
#define READ_MAX 512 /* replies a turn */
#define IP6_HEADER 40

struct target {
    struct in6_addr addr;
    uint16_t seq;       /* of the running round, 0: none yet */
    bool got, big_sent, big_got;
    bool reached; /* it has answered before */
    int64_t sent_ns, answered_ns;
    uint32_t rtt_us;
    uint16_t history; /* one bit a round, newest lowest, 1 lost */
    unsigned rounds, lost_in_row, big_lost_in_row;
    bool big_known, big_ok;
};

struct mt_mprobe {
    struct mt_loop *loop;
    struct mt_source *source;
    int fd;
    uint32_t nonce;
    uint16_t ident, seq;
    unsigned round;
    uint32_t mtu;
    size_t n;
    struct target t[MT_MPROBE_PEERS_MAX];
    uint8_t packet[9216];
};

/* What the payload says: which target and which kind; the nonce keeps replies of another process apart. */
struct payload {
    uint32_t nonce;
    uint16_t index, big;
};

static void on_readable(struct mt_source *s, int fd, uint32_t revents, void *arg);

struct mt_mprobe *mt_mprobe_new(struct mt_loop *l, struct mt_err *err)
{
    struct mt_mprobe *p = calloc(1, sizeof *p);
    struct icmp6_filter only;
    int dont = 1, size = 1 << 20;

    if (!p) {
        (void)MT_FAIL(err, MT_E_NOMEM, "probe: out of memory");
        return NULL;
    }
    p->loop = l;
    p->fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMPV6);
    ICMP6_FILTER_SETBLOCKALL(&only);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &only);
    if (p->fd < 0 || setsockopt(p->fd, IPPROTO_ICMPV6, ICMP6_FILTER, &only, sizeof only) < 0 ||
        setsockopt(p->fd, IPPROTO_IPV6, IPV6_DONTFRAG, &dont, sizeof dont) < 0) {
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "open a socket for ICMPv6");
        mt_mprobe_free(p);
        return NULL;
    }
    (void)setsockopt(p->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    (void)setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    mt_random(&p->nonce, sizeof p->nonce);
    mt_random(&p->ident, sizeof p->ident);
    p->source = mt_loop_fd(l, "mesh.probe", p->fd, EPOLLIN, on_readable, p, err);
    if (!p->source) {
        mt_mprobe_free(p);
        return NULL;
    }
    return p;
}

void mt_mprobe_free(struct mt_mprobe *p)
{
    if (!p)
        return;
    mt_loop_del(p->source);
    mt_closep(&p->fd);
    free(p);
}

int mt_mprobe_targets(struct mt_mprobe *p, const struct in6_addr *own, const struct in6_addr *addrs, size_t n, uint32_t mtu, struct mt_err *err)
{
    struct sockaddr_in6 from = {.sin6_family = AF_INET6, .sin6_addr = *own};
    mt_auto_free struct target *old = malloc(sizeof p->t);
    size_t old_n = p->n;

    if (!old)
        return MT_FAIL(err, MT_E_NOMEM, "probe: out of memory");
    memcpy(old, p->t, sizeof p->t);
    memset(p->t, 0, sizeof p->t);
    p->n = n < MT_MPROBE_PEERS_MAX ? n : MT_MPROBE_PEERS_MAX;
    for (size_t i = 0; i < p->n; i++) {
        p->t[i].addr = addrs[i];
        for (size_t k = 0; k < old_n; k++) {
            if (memcmp(&old[k].addr, &addrs[i], sizeof addrs[i]) == 0) {
                p->t[i] = old[k];
                p->t[i].seq = 0; /* its place may have changed: a reply on the way would be told of another */
                break;
            }
        }
        if (mtu != p->mtu) {
            p->t[i].big_known = false;
            p->t[i].big_lost_in_row = 0;
        }
    }
    p->mtu = mtu;
    /* replies come to the address that the peers know as this node's */
    if (bind(p->fd, (struct sockaddr *)&from, sizeof from) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "bind the probe to the overlay address");
    return 0;
}

static bool send_one(struct mt_mprobe *p, size_t i, bool big)
{
    size_t len = big ? p->mtu - IP6_HEADER : SMALL_BYTES;
    struct icmp6_hdr *h = (void *)p->packet;
    struct payload body = {.nonce = p->nonce, .index = (uint16_t)i, .big = big};
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = p->t[i].addr};

    if (len > sizeof p->packet)
        return false;
    memset(p->packet, 0, sizeof *h + sizeof body);
    h->icmp6_type = ICMP6_ECHO_REQUEST;
    h->icmp6_id = p->ident;
    h->icmp6_seq = htons(p->t[i].seq);
    memcpy(p->packet + sizeof *h, &body, sizeof body);
    return sendto(p->fd, p->packet, len, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) == (ssize_t)len;
}

static void judge(struct target *t)
{
    bool lost = !t->got;
    if (!lost && !t->reached) { /* what was sent before there was anybody to answer is no loss of this path */
        t->reached = true;
        t->rounds = t->history = 0;
    }
    t->history = (uint16_t)(t->history << 1 | (lost ? 1 : 0));
    t->rounds += t->rounds < MT_MPROBE_WINDOW;
    t->lost_in_row = lost ? t->lost_in_row + 1 : 0;
    if (!t->big_sent || lost)
        return; /* says nothing of the size */
    t->big_lost_in_row = t->big_got ? 0 : t->big_lost_in_row + 1;
    if (t->big_got || t->big_lost_in_row >= 3) {
        t->big_known = true;
        t->big_ok = t->big_got;
    }
}

void mt_mprobe_round(struct mt_mprobe *p)
{
    p->round++;
    p->seq = (uint16_t)(p->seq + 1 ? p->seq + 1 : 1);
    for (size_t i = 0; i < p->n; i++) {
        struct target *t = &p->t[i];
        if (t->seq)
            judge(t);
        bool big = !t->big_known || !t->big_ok || t->big_lost_in_row || (p->round + i) % BIG_EVERY == 0;
        t->seq = p->seq;
        t->got = t->big_got = false;
        t->sent_ns = mt_clock_mono();
        (void)send_one(p, i, false); /* what cannot be sent is lost */
        t->big_sent = big && send_one(p, i, true);
    }
}

static void on_reply(struct mt_mprobe *p, const uint8_t *data, size_t len, const struct in6_addr *from)
{
    const struct icmp6_hdr *h = (const void *)data;
    struct payload body;

    if (len < sizeof *h + sizeof body || h->icmp6_id != p->ident)
        return;
    memcpy(&body, data + sizeof *h, sizeof body);
    if (body.nonce != p->nonce || body.index >= p->n)
        return;
    struct target *t = &p->t[body.index];
    if (memcmp(from, &t->addr, sizeof *from) != 0 || !t->seq || ntohs(h->icmp6_seq) != t->seq)
        return;
    if (body.big) {
        t->big_got = true;
        return;
    }
    if (t->got)
        return;
    t->got = true;
    t->answered_ns = t->sent_ns;
    int64_t us = (mt_clock_mono() - t->sent_ns) / 1000;
    t->rtt_us = us < 1 ? 1 : us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void on_readable(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_mprobe *p = arg;
    (void)s;
    (void)revents;
    for (int i = 0; i < READ_MAX; i++) {
        struct sockaddr_in6 from;
        socklen_t len = sizeof from;
        _Alignas(struct icmp6_hdr) uint8_t head[64]; /* the rest of a big one is not looked at */
        ssize_t got = recvfrom(fd, head, sizeof head, 0, (struct sockaddr *)&from, &len);
        if (got < 0)
            return;
        on_reply(p, head, (size_t)got, &from.sin6_addr);
    }
}

struct mt_mprobe_result mt_mprobe_of(const struct mt_mprobe *p, size_t i)
{
    struct mt_mprobe_result r = {0};
    if (i >= p->n)
        return r;
    const struct target *t = &p->t[i];
    r.answered_ns = t->answered_ns;
    if (t->rounds == 0)
        return r;
    unsigned lost = (unsigned)__builtin_popcount(t->history & ((1U << t->rounds) - 1));
    r.any = true;
    r.rtt_us = t->rtt_us;
    r.loss_percent = lost * 100 / t->rounds;
    r.lost_in_row = t->lost_in_row;
    r.big_known = t->big_known;
    r.big_ok = t->big_ok;
    return r;
}
