/* SPDX-License-Identifier: Apache-2.0 */
/* nftables set elements by libmnl. See nfset.h. */
#include "agent/net/nfset.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>
#include <sys/socket.h>

#define NL_BUF 32768
#define ELEM_BYTES 128       /* room that one element takes in a request, generous */
#define CHANGE_MAX 4096
#define PER_MESSAGE 256      /* elements in one list attribute: its length is 16 bits */
#define ANSWER_TIMEOUT_S 5
#define SEND_BYTES (2 << 20) /* a whole transaction is one send */

#define EACH_ATTR(a, first, tail) \
    for ((a) = (first); mnl_attr_ok((a), (int)((const char *)(tail) - (const char *)(a))); (a) = mnl_attr_next(a))
#define NEST_TAIL(a) ((const char *)(a) + mnl_attr_get_len(a))

struct mt_nfset {
    struct mnl_socket *sock;
    unsigned portid;
    uint32_t seq;
    char buf[NL_BUF];
};

static uint16_t type_of(unsigned msg)
{
    return (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | msg);
}

int mt_nfset_open(struct mt_nfset **ret, struct mt_err *err)
{
    struct mt_nfset *n = calloc(1, sizeof *n);
    if (!n)
        return MT_FAIL(err, MT_E_NOMEM, "netfilter socket: out of memory");
    n->sock = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
    if (!n->sock || mnl_socket_bind(n->sock, 0, MNL_SOCKET_AUTOPID) < 0) {
        MT_FAIL_ERRNO(err, MT_E_IO, "open netfilter socket");
        mt_nfset_close(n);
        return -MT_E_IO;
    }
    int on = 1, size = SEND_BYTES;
    struct timeval wait = {.tv_sec = ANSWER_TIMEOUT_S};
    int fd = mnl_socket_get_fd(n->sock);
    (void)mnl_socket_setsockopt(n->sock, NETLINK_CAP_ACK, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait); /* an answer that never comes is an error, no hang */
    n->portid = mnl_socket_get_portid(n->sock);
    *ret = n;
    return 0;
}

void mt_nfset_close(struct mt_nfset *n)
{
    if (!n)
        return;
    if (n->sock)
        (void)mnl_socket_close(n->sock);
    free(n);
}

static struct nlmsghdr *begin(struct mt_nfset *n, char *at, uint16_t type, uint16_t flags, uint8_t family)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(at);
    h->nlmsg_type = type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    h->nlmsg_seq = ++n->seq;
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof *g);
    g->nfgen_family = family;
    g->version = NFNETLINK_V0;
    g->res_id = 0;
    return h;
}

/* Ask and run over the answers. 0 or -1 with errno. */
static int ask(struct mt_nfset *n, struct nlmsghdr *h, mnl_cb_t fn, void *arg)
{
    uint32_t seq = h->nlmsg_seq;

    if (mnl_socket_sendto(n->sock, h, h->nlmsg_len) < 0)
        return -1;
    for (;;) {
        ssize_t got = mnl_socket_recvfrom(n->sock, n->buf, sizeof n->buf);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        const struct nlmsghdr *first = (const void *)n->buf;
        if (first->nlmsg_seq != seq)
            continue; /* left over from a request that was given up */
        int rc = mnl_cb_run(n->buf, (size_t)got, seq, n->portid, fn, arg);
        if (rc <= 0)
            return rc;
    }
}

static int ignore(const struct nlmsghdr *h, void *arg)
{
    (void)h;
    (void)arg;
    return MNL_CB_OK;
}

int mt_nfset_exists(struct mt_nfset *n, const char *table, const char *set, bool *ret, struct mt_err *err)
{
    struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETSET), NLM_F_ACK, NFPROTO_INET);
    mnl_attr_put_strz(h, NFTA_SET_TABLE, table);
    mnl_attr_put_strz(h, NFTA_SET_NAME, set);
    int rc = ask(n, h, ignore, NULL);
    if (rc < 0 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look up firewall set '%s'", set);
    *ret = rc == 0;
    return 0;
}

int mt_nfset_link_table(struct mt_nfset *n, const char *table, bool *ret, struct mt_err *err)
{
    struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETTABLE), NLM_F_ACK, NFPROTO_NETDEV);
    mnl_attr_put_strz(h, NFTA_TABLE_NAME, table);
    int rc = ask(n, h, ignore, NULL);
    if (rc < 0 && errno != ENOENT && errno != EAFNOSUPPORT && errno != EOPNOTSUPP)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look up firewall table '%s'", table);
    *ret = rc == 0;
    return 0;
}

bool mt_nfset_has(struct mt_nfset *n, const char *table, const struct mt_nfset_elem *e)
{
    struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETSETELEM), NLM_F_ACK, NFPROTO_INET);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, e->set);
    struct nlattr *list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
    struct nlattr *one = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
    struct nlattr *key = mnl_attr_nest_start(h, NFTA_SET_ELEM_KEY);
    mnl_attr_put(h, NFTA_DATA_VALUE, e->len, e->key);
    mnl_attr_nest_end(h, key);
    mnl_attr_nest_end(h, one);
    mnl_attr_nest_end(h, list);
    return ask(n, h, ignore, NULL) >= 0;
}

/* ---- changing ---------------------------------------------------------------------------- */

static void put_mark(struct mt_nfset *n, struct mnl_nlmsg_batch *b, uint16_t type)
{
    struct nlmsghdr *h = begin(n, mnl_nlmsg_batch_current(b), type, 0, AF_UNSPEC);
    struct nfgenmsg *g = mnl_nlmsg_get_payload(h);
    g->res_id = htons(NFNL_SUBSYS_NFTABLES);
    (void)mnl_nlmsg_batch_next(b);
}

/* One message with neighbours of the same set and verb; returns how many it took. */
static size_t put_elems(struct mt_nfset *n, struct mnl_nlmsg_batch *b, const char *table, const struct mt_nfset_elem *e, size_t count,
                        bool ack)
{
    size_t k = 0;
    uint16_t flags = (uint16_t)((e->add ? NLM_F_CREATE : 0) | (ack ? NLM_F_ACK : 0));
    struct nlmsghdr *h = begin(n, mnl_nlmsg_batch_current(b), type_of(e->add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM), flags, NFPROTO_INET);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, e->set);
    struct nlattr *list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
    for (; k < count && k < PER_MESSAGE && e[k].add == e->add && strcmp(e[k].set, e->set) == 0; k++) {
        struct nlattr *one = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
        struct nlattr *key = mnl_attr_nest_start(h, NFTA_SET_ELEM_KEY);
        mnl_attr_put(h, NFTA_DATA_VALUE, e[k].len, e[k].key);
        mnl_attr_nest_end(h, key);
        mnl_attr_nest_end(h, one);
    }
    mnl_attr_nest_end(h, list);
    (void)mnl_nlmsg_batch_next(b);
    return k;
}

/* Every refused message answers, and the last one in any case. */
static int answers(struct mt_nfset *n, uint32_t last)
{
    int failed = 0;

    for (;;) {
        ssize_t got = mnl_socket_recvfrom(n->sock, n->buf, sizeof n->buf);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failed ? failed : errno;
        int left = (int)got;
        for (const struct nlmsghdr *h = (const void *)n->buf; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
            if (h->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(h) < sizeof(struct nlmsgerr))
                continue;
            const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
            if ((int32_t)(h->nlmsg_seq - last) > 0 || (int32_t)(last - h->nlmsg_seq) > CHANGE_MAX + 2)
                continue; /* of another request */
            if (e->error && !failed)
                failed = -e->error;
            if (h->nlmsg_seq == last)
                return failed;
        }
    }
}

int mt_nfset_change(struct mt_nfset *n, const char *table, const struct mt_nfset_elem *e, size_t count, struct mt_err *err)
{
    if (count == 0)
        return 0;
    if (count > CHANGE_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "%zu elements in one firewall transaction; at most %d", count, CHANGE_MAX);
    /* each message has its headers too; sized for the worst case that every element is a message */
    size_t size = (count + 2) * (2 * (size_t)ELEM_BYTES) + NL_BUF;
    mt_auto_free char *mem = malloc(size);
    struct mnl_nlmsg_batch *b = mem ? mnl_nlmsg_batch_start(mem, size) : NULL;
    if (!b)
        return MT_FAIL(err, MT_E_NOMEM, "firewall elements: out of memory");
    put_mark(n, b, NFNL_MSG_BATCH_BEGIN);
    uint32_t last = 0;
    for (size_t i = 0; i < count;) {
        size_t same = 1;
        while (i + same < count && same < PER_MESSAGE && e[i + same].add == e[i].add && strcmp(e[i + same].set, e[i].set) == 0)
            same++;
        i += put_elems(n, b, table, &e[i], count - i, i + same == count);
        last = n->seq;
    }
    put_mark(n, b, NFNL_MSG_BATCH_END);
    ssize_t sent = mnl_socket_sendto(n->sock, mnl_nlmsg_batch_head(b), mnl_nlmsg_batch_size(b));
    mnl_nlmsg_batch_stop(b);
    if (sent < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "send firewall elements");
    int failed = answers(n, last);
    if (failed) {
        errno = failed;
        return MT_FAIL_ERRNO(err, failed == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "change firewall elements of '%s'", e->set);
    }
    return 0;
}

int mt_nfset_drop_link_table(struct mt_nfset *n, const char *table, struct mt_err *err)
{
    char mem[2048];
    struct mnl_nlmsg_batch *b = mnl_nlmsg_batch_start(mem, sizeof mem);
    if (!b)
        return MT_FAIL(err, MT_E_NOMEM, "firewall table: out of memory");
    put_mark(n, b, NFNL_MSG_BATCH_BEGIN);
    struct nlmsghdr *h = begin(n, mnl_nlmsg_batch_current(b), type_of(NFT_MSG_DELTABLE), NLM_F_ACK, NFPROTO_NETDEV);
    mnl_attr_put_strz(h, NFTA_TABLE_NAME, table);
    uint32_t last = n->seq;
    (void)mnl_nlmsg_batch_next(b);
    put_mark(n, b, NFNL_MSG_BATCH_END);
    ssize_t sent = mnl_socket_sendto(n->sock, mnl_nlmsg_batch_head(b), mnl_nlmsg_batch_size(b));
    mnl_nlmsg_batch_stop(b);
    int failed = sent < 0 ? errno : answers(n, last);
    if (failed == 0 || failed == ENOENT)
        return 0;
    errno = failed;
    return MT_FAIL_ERRNO(err, MT_E_IO, "remove firewall table '%s'", table);
}

/* ---- reading ----------------------------------------------------------------------------- */

struct dump {
    uint8_t *keys;
    size_t len, count, cap;
    bool nomem;
};

static void on_elem(void *arg, const struct nlattr *elem)
{
    struct dump *d = arg;
    const struct nlattr *a, *v;
    EACH_ATTR(a, mnl_attr_get_payload(elem), NEST_TAIL(elem)) {
        if (mnl_attr_get_type(a) != NFTA_SET_ELEM_KEY)
            continue;
        EACH_ATTR(v, mnl_attr_get_payload(a), NEST_TAIL(a)) {
            if (mnl_attr_get_type(v) != NFTA_DATA_VALUE || mnl_attr_get_payload_len(v) != d->len)
                continue;
            if (d->count == d->cap) {
                size_t cap = d->cap ? d->cap * 2 : 64;
                uint8_t *more = realloc(d->keys, cap * d->len);
                if (!more) {
                    d->nomem = true;
                    return;
                }
                d->keys = more;
                d->cap = cap;
            }
            memcpy(d->keys + d->count++ * d->len, mnl_attr_get_payload(v), d->len);
        }
    }
}

/* What is called with each element of a dump. */
struct each {
    void (*fn)(void *arg, const struct nlattr *elem);
    void *arg;
};

static int on_elems(const struct nlmsghdr *h, void *arg)
{
    const struct each *each = arg;
    const struct nlattr *a, *e;
    if (h->nlmsg_type != type_of(NFT_MSG_NEWSETELEM))
        return MNL_CB_OK;
    EACH_ATTR(a, mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg)), mnl_nlmsg_get_payload_tail(h)) {
        if (mnl_attr_get_type(a) == NFTA_SET_ELEM_LIST_ELEMENTS)
            EACH_ATTR(e, mnl_attr_get_payload(a), NEST_TAIL(a))
                each->fn(each->arg, e);
    }
    return MNL_CB_OK;
}

static int dump_set(struct mt_nfset *n, const char *table, const char *set, struct dump *d, struct mt_err *err)
{
    for (int tries = 0;; tries++) {
        struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETSETELEM), NLM_F_DUMP, NFPROTO_INET);
        mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table);
        mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, set);
        d->count = 0;
        if (ask(n, h, on_elems, &(struct each){on_elem, d}) == 0)
            break;
        if (errno == EINTR && tries < 5)
            continue; /* changed while it was read */
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "read firewall set '%s'", set);
    }
    return d->nomem ? MT_FAIL(err, MT_E_NOMEM, "read firewall set '%s': out of memory", set) : 0;
}

static int by_key(const void *a, const void *b, void *len)
{
    return memcmp(a, b, *(const size_t *)len);
}

int mt_nfset_sync(struct mt_nfset *n, const char *table, const char *set, const uint8_t *keys, size_t len, size_t count,
                  size_t *ret_changed, struct mt_err *err)
{
    struct dump d = {.len = len};
    mt_auto_free uint8_t *want = malloc(count * len + 1);
    mt_auto_free struct mt_nfset_elem *todo = NULL;
    size_t changes = 0, i = 0, k = 0;
    int rc = want && len <= MT_NFSET_KEY_MAX ? dump_set(n, table, set, &d, err)
                                             : MT_FAIL(err, MT_E_NOMEM, "firewall set '%s': out of memory", set);
    mt_auto_free uint8_t *have = d.keys;

    if (rc < 0)
        return rc;
    if (count)
        memcpy(want, keys, count * len);
    qsort_r(want, count, len, by_key, &len);
    if (d.count)
        qsort_r(have, d.count, len, by_key, &len);
    todo = calloc(count + d.count + 1, sizeof *todo);
    if (!todo)
        return MT_FAIL(err, MT_E_NOMEM, "firewall set '%s': out of memory", set);
    while (i < count || k < d.count) {
        const uint8_t *w = i < count ? want + i * len : NULL, *h = k < d.count ? have + k * len : NULL;
        int c = !w ? 1 : !h ? -1 : memcmp(w, h, len);
        if (c != 0) {
            struct mt_nfset_elem *e = &todo[changes++];
            *e = (struct mt_nfset_elem){.set = set, .add = c < 0, .len = (uint8_t)len};
            memcpy(e->key, c < 0 ? w : h, len);
        }
        i += c <= 0;
        k += c >= 0;
        while (c <= 0 && i < count && memcmp(want + i * len, want + (i - 1) * len, len) == 0)
            i++; /* given twice */
    }
    for (size_t at = 0; rc == 0 && at < changes; at += CHANGE_MAX)
        rc = mt_nfset_change(n, table, todo + at, changes - at < CHANGE_MAX ? changes - at : CHANGE_MAX, err);
    if (rc == 0 && ret_changed)
        *ret_changed = changes;
    return rc;
}

/* ---- counters ---------------------------------------------------------------------------- */

static void read_counter(const struct nlattr *data, uint64_t *packets, uint64_t *bytes)
{
    const struct nlattr *a;
    EACH_ATTR(a, mnl_attr_get_payload(data), NEST_TAIL(data)) {
        if (mnl_attr_get_payload_len(a) != sizeof(uint64_t))
            continue;
        if (mnl_attr_get_type(a) == NFTA_COUNTER_PACKETS)
            *packets = be64toh(mnl_attr_get_u64(a));
        else if (mnl_attr_get_type(a) == NFTA_COUNTER_BYTES)
            *bytes = be64toh(mnl_attr_get_u64(a));
    }
}

struct counts {
    size_t len;
    mt_nfset_count_fn *fn;
    void *arg;
};

static void on_counted(void *arg, const struct nlattr *elem)
{
    const struct counts *c = arg;
    const struct nlattr *a, *v, *key = NULL;
    uint64_t packets = 0, bytes = 0;
    EACH_ATTR(a, mnl_attr_get_payload(elem), NEST_TAIL(elem)) {
        if (mnl_attr_get_type(a) == NFTA_SET_ELEM_KEY) {
            EACH_ATTR(v, mnl_attr_get_payload(a), NEST_TAIL(a))
                if (mnl_attr_get_type(v) == NFTA_DATA_VALUE && mnl_attr_get_payload_len(v) == c->len)
                    key = v;
        } else if (mnl_attr_get_type(a) == NFTA_SET_ELEM_EXPR) {
            EACH_ATTR(v, mnl_attr_get_payload(a), NEST_TAIL(a))
                if (mnl_attr_get_type(v) == NFTA_EXPR_DATA)
                    read_counter(v, &packets, &bytes);
        }
    }
    if (key)
        c->fn(c->arg, mnl_attr_get_payload(key), c->len, packets, bytes);
}

int mt_nfset_counts(struct mt_nfset *n, const char *table, const char *set, size_t len, mt_nfset_count_fn *fn, void *arg, struct mt_err *err)
{
    struct counts c = {.len = len, .fn = fn, .arg = arg};
    struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETSETELEM), NLM_F_DUMP, NFPROTO_INET);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, table);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, set);
    if (ask(n, h, on_elems, &(struct each){on_counted, &c}) == 0)
        return 0;
    return MT_FAIL_ERRNO(err, errno == EINTR ? MT_E_CONFLICT : errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "read firewall counters '%s'", set);
}

struct named {
    mt_nfset_counter_fn *fn;
    void *arg;
};

static int on_named(const struct nlmsghdr *h, void *arg)
{
    const struct named *c = arg;
    const struct nlattr *a;
    const char *name = NULL;
    uint64_t packets = 0, bytes = 0;
    if (h->nlmsg_type != type_of(NFT_MSG_NEWOBJ))
        return MNL_CB_OK;
    EACH_ATTR(a, mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg)), mnl_nlmsg_get_payload_tail(h)) {
        if (mnl_attr_get_type(a) == NFTA_OBJ_NAME && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
            name = mnl_attr_get_str(a);
        else if (mnl_attr_get_type(a) == NFTA_OBJ_DATA)
            read_counter(a, &packets, &bytes);
    }
    if (name)
        c->fn(c->arg, name, packets, bytes);
    return MNL_CB_OK;
}

int mt_nfset_counters(struct mt_nfset *n, const char *table, mt_nfset_counter_fn *fn, void *arg, struct mt_err *err)
{
    struct named c = {.fn = fn, .arg = arg};
    for (int tries = 0;; tries++) {
        struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETOBJ), NLM_F_DUMP, NFPROTO_INET);
        mnl_attr_put_strz(h, NFTA_OBJ_TABLE, table);
        mnl_attr_put_u32(h, NFTA_OBJ_TYPE, htonl(NFT_OBJECT_COUNTER));
        if (ask(n, h, on_named, &c) == 0 || errno == ENOENT)
            return 0;
        if (errno != EINTR || tries == 5) /* told again from the start: each one is the whole figure */
            return MT_FAIL_ERRNO(err, MT_E_IO, "list firewall counters");
    }
}

/* ---- rules ------------------------------------------------------------------------------- */

static int on_rule(const struct nlmsghdr *h, void *arg)
{
    uint64_t *sum = arg;
    const struct nlattr *a;
    if (h->nlmsg_type != type_of(NFT_MSG_NEWRULE))
        return MNL_CB_OK;
    EACH_ATTR(a, mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg)), mnl_nlmsg_get_payload_tail(h)) {
        /* the kernel gives each rule of a table a handle once and never again; the order of rules counts too */
        if (mnl_attr_get_type(a) == NFTA_RULE_HANDLE && mnl_attr_get_payload_len(a) == sizeof(uint64_t))
            *sum = (*sum ^ mnl_attr_get_u64(a)) * UINT64_C(0x100000001b3) + 1;
    }
    return MNL_CB_OK;
}

int mt_nfset_rules(struct mt_nfset *n, const char *table, uint64_t *ret, struct mt_err *err)
{
    for (int tries = 0;; tries++) {
        uint64_t sum = 0;
        struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETRULE), NLM_F_DUMP, NFPROTO_INET);
        mnl_attr_put_strz(h, NFTA_RULE_TABLE, table);
        if (ask(n, h, on_rule, &sum) == 0) {
            *ret = sum;
            return 0;
        }
        if (errno == ENOENT) {
            *ret = 0;
            return 0;
        }
        if (errno != EINTR || tries == 5)
            return MT_FAIL_ERRNO(err, MT_E_IO, "list firewall rules");
    }
}

static int on_generation(const struct nlmsghdr *h, void *arg)
{
    uint32_t *ret = arg;
    const struct nlattr *a;
    if (h->nlmsg_type != type_of(NFT_MSG_NEWGEN))
        return MNL_CB_OK;
    EACH_ATTR(a, mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg)), mnl_nlmsg_get_payload_tail(h)) {
        if (mnl_attr_get_type(a) == NFTA_GEN_ID && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
            *ret = ntohl(mnl_attr_get_u32(a));
    }
    return MNL_CB_OK;
}

int mt_nfset_generation(struct mt_nfset *n, uint32_t *ret, struct mt_err *err)
{
    struct nlmsghdr *h = begin(n, n->buf, type_of(NFT_MSG_GETGEN), NLM_F_ACK, AF_UNSPEC);
    return ask(n, h, on_generation, ret) < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "ask for the firewall's generation") : 0;
}

/* ---- watching ---------------------------------------------------------------------------- */

int mt_nfset_watch(int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
    struct sockaddr_nl at = {.nl_family = AF_NETLINK};
    int group = NFNLGRP_NFTABLES;
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
        setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "watch nftables");
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

/* The first attribute of each of these messages, number 1, is the name of the table. */
static bool takes_from(const struct nlmsghdr *h, const char *table, const char *but)
{
    const struct nlattr *a;
    bool ours = false;
    unsigned msg = h->nlmsg_type & 0xffU;
    if (h->nlmsg_type >> 8 != NFNL_SUBSYS_NFTABLES ||
        (msg != NFT_MSG_DELTABLE && msg != NFT_MSG_DELCHAIN && msg != NFT_MSG_DELRULE && msg != NFT_MSG_DELSET && msg != NFT_MSG_DELSETELEM &&
         msg != NFT_MSG_NEWRULE))
        return false;
    EACH_ATTR(a, mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg)), mnl_nlmsg_get_payload_tail(h)) {
        if (mnl_attr_get_type(a) == 1)
            ours = mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0 && strcmp(mnl_attr_get_str(a), table) == 0;
        else if (msg == NFT_MSG_DELSETELEM && mnl_attr_get_type(a) == NFTA_SET_ELEM_LIST_SET && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0 &&
                 strncmp(mnl_attr_get_str(a), but, strlen(but)) == 0)
            return false;
    }
    return ours;
}

bool mt_nfset_watch_read(int fd, const char *table, const char *but)
{
    _Alignas(struct nlmsghdr) char buf[8192];
    bool hit = false;

    for (int i = 0; i < 64; i++) {
        ssize_t got = recv(fd, buf, sizeof buf, 0);
        if (got < 0)
            return hit || errno == ENOBUFS; /* more happened than fitted: look */
        int left = (int)got;
        for (const struct nlmsghdr *h = (const void *)buf; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left))
            hit = hit || takes_from(h, table, but);
    }
    return hit;
}
