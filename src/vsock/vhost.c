/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user messages: see vhost.h. Integers are in host order, as the protocol says. */
#include "vsock/vhost.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <sys/socket.h>

enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    RESET_OWNER = 4,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};

enum { FLAG_VERSION = 1, FLAG_VERSION_MASK = 3, FLAG_REPLY = 4, FLAG_NEED_REPLY = 8 };
enum { VRING_INDEX_MASK = 0xff, VRING_NO_FD = 0x100 };
enum { CONFIG_MAX = 256, FDS_MAX = MT_VS_REGIONS_MAX };

#define F_VERSION_1 (UINT64_C(1) << 32)
#define F_PROTOCOL (UINT64_C(1) << 30)
#define PF_REPLY_ACK (UINT64_C(1) << 3)
#define PF_CONFIG (UINT64_C(1) << 9)

struct header {
    uint32_t request, flags, size;
};

struct vring_state {
    uint32_t index, num;
};

struct vring_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};

struct mem_table {
    uint32_t count, pad;
    struct {
        uint64_t gpa, size, uva, offset;
    } region[MT_VS_REGIONS_MAX];
};

struct config {
    uint32_t offset, size, flags;
    uint8_t bytes[CONFIG_MAX];
};

struct message {
    struct header h;
    union {
        uint64_t u64;
        struct vring_state state;
        struct vring_addr addr;
        struct mem_table mem;
        struct config config;
        uint8_t raw[sizeof(struct mem_table) > sizeof(struct config) ? sizeof(struct mem_table) : sizeof(struct config)];
    } p;
    int fd[FDS_MAX]; /* owned until taken (set to -1) */
    size_t fd_count;
};

static void message_done(struct message *m)
{
    for (size_t i = 0; i < m->fd_count; i++)
        mt_closep(&m->fd[i]);
}

void mt_vs_vhost_init(struct mt_vs_vhost *v, int fd, uint64_t cid)
{
    *v = (struct mt_vs_vhost){.fd = fd, .cid = cid};
    for (size_t i = 0; i < MT_VS_QUEUES; i++)
        mt_vs_ring_init(&v->ring[i]);
}

void mt_vs_vhost_done(struct mt_vs_vhost *v)
{
    for (size_t i = 0; i < MT_VS_QUEUES; i++)
        mt_vs_ring_done(&v->ring[i]);
    mt_vs_mem_done(&v->mem);
}

static int bad(const struct message *m, struct mt_err *err)
{
    return MT_FAIL(err, MT_E_INVALID, "vhost-user request %u of %u bytes with %zu descriptors is malformed", m->h.request,
                   m->h.size, m->fd_count);
}

static void take_fds(struct message *m, struct msghdr *mh, bool *ret_too_many)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (m->fd_count < FDS_MAX) {
                m->fd[m->fd_count++] = fd;
            } else {
                (void)close(fd);
                *ret_too_many = true;
            }
        }
    }
    if (mh->msg_flags & MSG_CTRUNC)
        *ret_too_many = true;
}

/* 0, 1 closed, -code; on every way out message_done is due */
static int receive(int fd, struct message *m, struct mt_err *err)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = &m->h, .iov_len = sizeof m->h};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    bool too_many = false;
    ssize_t n = recvmsg(fd, &mh, MSG_WAITALL | MSG_CMSG_CLOEXEC);
    if (n == 0)
        return 1;
    if (n < 0)
        return errno == ECONNRESET ? 1 : MT_FAIL_ERRNO(err, MT_E_IO, "vhost-user receive");
    take_fds(m, &mh, &too_many);
    if ((size_t)n != sizeof m->h || too_many || (m->h.flags & FLAG_VERSION_MASK) != FLAG_VERSION || m->h.size > sizeof m->p)
        return bad(m, err);
    if (m->h.size > 0 && recv(fd, &m->p, m->h.size, MSG_WAITALL) != (ssize_t)m->h.size)
        return MT_FAIL(err, MT_E_IO, "vhost-user request %u is cut short", m->h.request);
    return 0;
}

static int reply(const struct mt_vs_vhost *v, struct message *m, size_t size, struct mt_err *err)
{
    m->h.flags = FLAG_VERSION | FLAG_REPLY;
    m->h.size = (uint32_t)size;
    struct iovec iov[2] = {{.iov_base = &m->h, .iov_len = sizeof m->h}, {.iov_base = &m->p, .iov_len = size}};
    struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2};
    if (sendmsg(v->fd, &mh, MSG_NOSIGNAL) != (ssize_t)(sizeof m->h + size))
        return MT_FAIL_ERRNO(err, MT_E_IO, "vhost-user reply");
    return 0;
}

static int reply_u64(const struct mt_vs_vhost *v, struct message *m, uint64_t value, struct mt_err *err)
{
    m->p.u64 = value;
    return reply(v, m, sizeof m->p.u64, err);
}

static int remap(struct mt_vs_vhost *v, struct mt_err *err)
{
    for (size_t i = 0; i < MT_VS_QUEUES; i++) {
        if (v->ring[i].addr_set && mt_vs_ring_map(&v->ring[i], &v->mem, err) < 0)
            return -(int)err->code;
    }
    return 0;
}

static int set_mem_table(struct mt_vs_vhost *v, const struct message *m, struct mt_err *err)
{
    const struct mem_table *t = &m->p.mem;
    size_t fixed = offsetof(struct mem_table, region);
    if (m->h.size < fixed || t->count > MT_VS_REGIONS_MAX || m->h.size != fixed + t->count * sizeof t->region[0] ||
        t->count != m->fd_count)
        return bad(m, err);
    mt_vs_mem_done(&v->mem);
    for (size_t i = 0; i < MT_VS_QUEUES; i++)
        v->ring[i].desc = v->ring[i].avail = v->ring[i].used = NULL;
    for (size_t i = 0; i < t->count; i++) {
        if (mt_vs_mem_add(&v->mem, t->region[i].gpa, t->region[i].uva, t->region[i].size, t->region[i].offset, m->fd[i], err) < 0)
            return -(int)err->code;
    }
    return remap(v, err);
}

static int set_addr(struct mt_vs_vhost *v, const struct message *m, struct mt_err *err)
{
    const struct vring_addr *a = &m->p.addr;
    if (m->h.size != sizeof *a || a->index >= MT_VS_QUEUES)
        return bad(m, err);
    struct mt_vs_ring *r = &v->ring[a->index];
    r->desc_uva = a->desc;
    r->used_uva = a->used;
    r->avail_uva = a->avail;
    r->addr_set = true;
    return mt_vs_ring_map(r, &v->mem, err);
}

static int set_state(struct mt_vs_vhost *v, const struct message *m, struct mt_err *err)
{
    if (m->h.size != sizeof m->p.state || m->p.state.index >= MT_VS_QUEUES)
        return bad(m, err);
    struct mt_vs_ring *r = &v->ring[m->p.state.index];
    if (m->h.request == SET_VRING_NUM) {
        r->num = m->p.state.num;
        r->desc = r->avail = r->used = NULL; /* the new size holds once the address is checked against it */
    } else if (m->h.request == SET_VRING_BASE) {
        r->last_avail = (uint16_t)m->p.state.num;
    } else {
        r->enabled = m->p.state.num != 0;
    }
    return 0;
}

static int get_base(struct mt_vs_vhost *v, struct message *m, struct mt_err *err)
{
    if (m->h.size != sizeof m->p.state || m->p.state.index >= MT_VS_QUEUES)
        return bad(m, err);
    struct mt_vs_ring *r = &v->ring[m->p.state.index];
    m->p.state.num = r->last_avail;
    r->desc = r->avail = r->used = NULL;
    r->addr_set = false;
    mt_closep(&r->kick_fd);
    v->stopped = true;
    return reply(v, m, sizeof m->p.state, err);
}

static int set_fd(struct mt_vs_vhost *v, struct message *m, struct mt_err *err)
{
    uint64_t index = m->p.u64 & VRING_INDEX_MASK;
    bool has = !(m->p.u64 & VRING_NO_FD);
    if (m->h.size != sizeof m->p.u64 || index >= MT_VS_QUEUES || m->fd_count != (has ? 1U : 0U))
        return bad(m, err);
    struct mt_vs_ring *r = &v->ring[index];
    int fd = has ? MT_TAKE_FD(m->fd[0]) : -1;
    if (has && fcntl(fd, F_SETFL, O_NONBLOCK) == -1) {
        mt_closep(&fd);
        return MT_FAIL_ERRNO(err, MT_E_IO, "set eventfd non-blocking");
    }
    if (m->h.request == SET_VRING_KICK) {
        mt_closep(&r->kick_fd);
        r->kick_fd = fd;
        v->kick_new[index] = has;
        if (!(v->features & F_PROTOCOL))
            r->enabled = true; /* without the feature there is no ENABLE message: a kick starts the ring */
    } else if (m->h.request == SET_VRING_CALL) {
        mt_closep(&r->call_fd);
        r->call_fd = fd;
    } else {
        mt_closep(&fd); /* nobody reads it */
    }
    return 0;
}

static int get_config(const struct mt_vs_vhost *v, struct message *m, struct mt_err *err)
{
    struct config *c = &m->p.config;
    size_t fixed = offsetof(struct config, bytes);
    if (m->h.size < fixed || c->size > CONFIG_MAX || m->h.size != fixed + c->size)
        return bad(m, err);
    uint8_t space[sizeof v->cid + CONFIG_MAX] = {0}; /* struct virtio_vsock_config: guest_cid, nothing behind it */
    for (size_t i = 0; i < sizeof v->cid; i++)
        space[i] = (uint8_t)(v->cid >> (8 * i));
    memset(c->bytes, 0, sizeof c->bytes);
    if (c->offset <= sizeof v->cid)
        memcpy(c->bytes, space + c->offset, c->size);
    return reply(v, m, fixed + c->size, err);
}

/* 0 done, 1 done and answered, -code */
static int act(struct mt_vs_vhost *v, struct message *m, struct mt_err *err)
{
    int r;
    switch (m->h.request) {
    case GET_FEATURES:
        r = reply_u64(v, m, F_VERSION_1 | F_PROTOCOL, err);
        return r < 0 ? r : 1;
    case GET_PROTOCOL_FEATURES:
        r = reply_u64(v, m, PF_CONFIG | PF_REPLY_ACK, err);
        return r < 0 ? r : 1;
    case GET_QUEUE_NUM:
        r = reply_u64(v, m, MT_VS_QUEUES, err);
        return r < 0 ? r : 1;
    case GET_CONFIG:
        r = get_config(v, m, err);
        return r < 0 ? r : 1;
    case GET_VRING_BASE:
        r = get_base(v, m, err);
        return r < 0 ? r : 1;
    case SET_FEATURES:
        if (m->h.size != sizeof m->p.u64 || (m->p.u64 & ~(F_VERSION_1 | F_PROTOCOL)))
            return bad(m, err);
        v->features = m->p.u64;
        return 0;
    case SET_PROTOCOL_FEATURES:
        if (m->h.size != sizeof m->p.u64 || (m->p.u64 & ~(PF_CONFIG | PF_REPLY_ACK)))
            return bad(m, err);
        return 0;
    case SET_OWNER:
    case RESET_OWNER:
        return 0;
    case SET_MEM_TABLE:
        return set_mem_table(v, m, err);
    case SET_VRING_NUM:
    case SET_VRING_BASE:
    case SET_VRING_ENABLE:
        return set_state(v, m, err);
    case SET_VRING_ADDR:
        return set_addr(v, m, err);
    case SET_VRING_KICK:
    case SET_VRING_CALL:
    case SET_VRING_ERR:
        return set_fd(v, m, err);
    default:
        return MT_FAIL(err, MT_E_INVALID, "vhost-user request %u is not one we offer", m->h.request);
    }
}

int mt_vs_vhost_handle(struct mt_vs_vhost *v, struct mt_err *err)
{
    mt_cleanup(message_done) struct message m = {.fd_count = 0};
    struct mt_err local = {.code = MT_OK};
    if (!err)
        err = &local;
    int r = receive(v->fd, &m, err);
    if (r != 0)
        return r;
    bool wants_reply = (m.h.flags & FLAG_NEED_REPLY) != 0;
    r = act(v, &m, err);
    if (r == 0 && wants_reply)
        r = reply_u64(v, &m, 0, err);
    return r < 0 ? r : 0;
}
