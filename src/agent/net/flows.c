/* SPDX-License-Identifier: Apache-2.0 */
/* Flows as the kernel tells of them. See flows.h. */
#include "agent/net/flows.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define RECEIVE_BYTES (4 << 20)
#define FLUSH_MS 1000
#define MESSAGES_BYTES 8192U
#define IP_AT 32 /* of the first address in a message: two headers, then tuple, addresses, source */

struct mt_flows {
    struct mt_flowring *ring;
    int fd, stop;
    pthread_t thread;
};

#define EACH_IN(a, nest) \
    for ((a) = mnl_attr_get_payload(nest); mnl_attr_ok((a), (int)((const char *)(nest) + mnl_attr_get_len(nest) - (const char *)(a))); (a) = mnl_attr_next(a))

struct tuple {
    struct in6_addr src, dst;
    uint8_t proto;
    uint16_t sport, dport; /* of echoes: its identifier, type and code */
    int have;
};

static uint16_t port_of(const struct nlattr *a)
{
    return mnl_attr_get_payload_len(a) == sizeof(uint16_t) ? ntohs(mnl_attr_get_u16(a)) : 0;
}

static void read_tuple(const struct nlattr *nest, struct tuple *t)
{
    const struct nlattr *a, *b;
    EACH_IN(a, nest) {
        if (mnl_attr_get_type(a) == CTA_TUPLE_IP) {
            EACH_IN(b, a) {
                if (mnl_attr_get_payload_len(b) != sizeof t->src)
                    continue;
                if (mnl_attr_get_type(b) == CTA_IP_V6_SRC)
                    memcpy(&t->src, mnl_attr_get_payload(b), sizeof t->src);
                else if (mnl_attr_get_type(b) == CTA_IP_V6_DST)
                    memcpy(&t->dst, mnl_attr_get_payload(b), sizeof t->dst);
                else
                    continue;
                t->have++;
            }
        } else if (mnl_attr_get_type(a) == CTA_TUPLE_PROTO) {
            EACH_IN(b, a) {
                if (mnl_attr_get_type(b) == CTA_PROTO_NUM && mnl_attr_get_payload_len(b) == 1)
                    t->proto = mnl_attr_get_u8(b);
                else if (mnl_attr_get_type(b) == CTA_PROTO_SRC_PORT || mnl_attr_get_type(b) == CTA_PROTO_ICMPV6_ID)
                    t->sport = port_of(b);
                else if (mnl_attr_get_type(b) == CTA_PROTO_DST_PORT)
                    t->dport = port_of(b);
            }
        }
    }
}

bool mt_flows_decode(const struct nlmsghdr *h, struct mt_flow_rec *ret)
{
    struct tuple out = {0}, back = {0};
    const struct nlattr *a;
    unsigned msg = h->nlmsg_type & 0xffU;
    if (h->nlmsg_type >> 8 != NFNL_SUBSYS_CTNETLINK || (msg != IPCTNL_MSG_CT_NEW && msg != IPCTNL_MSG_CT_DELETE) ||
        mnl_nlmsg_get_payload_len(h) < sizeof(struct nfgenmsg))
        return false;
    for (a = mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg)); mnl_attr_ok(a, (int)((const char *)mnl_nlmsg_get_payload_tail(h) - (const char *)a)); a = mnl_attr_next(a)) {
        if (mnl_attr_get_type(a) == CTA_TUPLE_ORIG)
            read_tuple(a, &out);
        else if (mnl_attr_get_type(a) == CTA_TUPLE_REPLY)
            read_tuple(a, &back);
    }
    if (out.have != 2 || back.have != 2)
        return false;
    /* answers go to what the world saw as the source; of an echo it is the identifier */
    *ret = (struct mt_flow_rec){.ts_us = mt_clock_wall_us(), .kind = msg == IPCTNL_MSG_CT_NEW ? MT_FLOW_NEW : MT_FLOW_END, .proto = out.proto, .sport = out.sport,
                                .dport = out.dport, .nat_port = out.proto == IPPROTO_ICMPV6 ? back.sport : back.dport, .src = out.src, .dst = out.dst, .nat = back.dst};
    return true;
}

static void *work(void *arg)
{
    struct mt_flows *f = arg;
    mt_auto_free char *buf = malloc(MESSAGES_BYTES);
    int64_t flushed = mt_clock_mono();
    bool failed = false, waiting = false;
    struct mt_err err = {0};
    while (buf) {
        struct pollfd p[2] = {{.fd = f->fd, .events = POLLIN}, {.fd = f->stop, .events = POLLIN}};
        (void)poll(p, 2, waiting ? FLUSH_MS : -1);
        if (p[1].revents)
            break;
        ssize_t got = p[0].revents ? recv(f->fd, buf, MESSAGES_BYTES, MSG_DONTWAIT) : -1;
        if (got < 0 && p[0].revents && errno == ENOBUFS) {
            const struct mt_flow_rec lost = {.ts_us = mt_clock_wall_us(), .kind = MT_FLOW_LOST, .v = {1}};
            mt_flowring_add(f->ring, &lost);
            waiting = true;
        }
        int left = (int)got;
        struct mt_flow_rec rec;
        for (const struct nlmsghdr *h = (const void *)buf; got > 0 && mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
            if (mt_flows_decode(h, &rec)) {
                mt_flowring_add(f->ring, &rec);
                waiting = true;
            }
        }
        if (!waiting || mt_clock_mono() - flushed < FLUSH_MS * MT_NS_PER_MS)
            continue;
        flushed = mt_clock_mono();
        waiting = false;
        bool bad = mt_flowring_flush(f->ring, &err) < 0;
        if (bad && !failed)
            mt_log(MT_ERROR, "flows.not_written", KV_ERR(&err));
        failed = bad;
    }
    return NULL;
}

/* Of what the kernel tells only IPv6 whose first tuple's source begins with @prefix: decided before anything is queued. */
static int only_prefix(int fd, const struct in6_addr *prefix)
{
    uint32_t w[2];
    uint16_t half;
    memcpy(w, prefix->s6_addr, sizeof w);
    memcpy(&half, prefix->s6_addr + 8, sizeof half);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, sizeof(struct nlmsghdr)), /* nfgen_family */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 0, 7),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IP_AT),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(w[0]), 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IP_AT + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(w[1]), 0, 3),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, IP_AT + 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohs(half), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog prog = {.len = MT_ARRAY_LEN(code), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog);
}

struct mt_flows *mt_flows_start(struct mt_flowring *ring, const struct in6_addr *prefix, struct mt_err *err)
{
    mt_auto_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    mt_auto_fd int stop = eventfd(0, EFD_CLOEXEC);
    struct sockaddr_nl at = {.nl_family = AF_NETLINK};
    const int groups[] = {NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY};
    int size = RECEIVE_BYTES;
    bool ok = fd >= 0 && stop >= 0 && only_prefix(fd, prefix) == 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    if (ok)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    for (size_t i = 0; ok && i < MT_ARRAY_LEN(groups); i++)
        ok = setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof groups[i]) == 0;
    if (!ok) {
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "be told of flows (module nf_conntrack_netlink)");
        return NULL;
    }
    struct mt_flows *f = calloc(1, sizeof *f);
    if (!f) {
        (void)MT_FAIL(err, MT_E_NOMEM, "flow log: out of memory");
        return NULL;
    }
    f->ring = ring;
    f->fd = MT_TAKE_FD(fd);
    f->stop = MT_TAKE_FD(stop);
    sigset_t all, old;
    (void)sigfillset(&all); /* signals belong to the loop */
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int bad = pthread_create(&f->thread, NULL, work, f);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (bad) {
        (void)MT_FAIL(err, MT_E_NOMEM, "flow log: no thread");
        mt_closep(&f->fd);
        mt_closep(&f->stop);
        free(f);
        return NULL;
    }
    return f;
}

void mt_flows_stop(struct mt_flows *f)
{
    if (!f)
        return;
    (void)eventfd_write(f->stop, 1);
    (void)pthread_join(f->thread, NULL);
    mt_closep(&f->fd);
    mt_closep(&f->stop);
    free(f);
}
