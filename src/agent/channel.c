/* SPDX-License-Identifier: Apache-2.0 */
/* Control channel, host side. See channel.h. */
#include "agent/channel.h"

#include "agent/door.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "os/digest.h"

#include <sys/socket.h>

#define CHANNEL_MAGIC 0x6c686331U
#define OUT_MAX (4U << 20) /* bytes waiting for a guest that does not read */
#define RATE_PER_S 20
#define RATE_BURST 50

struct mt_channel {
    uint32_t magic;
    struct mt_loop *loop;
    struct mt_door *door;
    struct mt_channel_events ev;
    void *arg;
    /* the connection, when there is one */
    int fd;
    struct mt_source *src;
    uint32_t seq_in, seq_out;
    struct mt_guest_lines lines; /* its buffer is there while a part of a line is: what every VM has should be small */
    struct mt_buf out;
    bool out_secret; /* it holds or held secrets: wiped when it is empty or given up */
    int64_t milli_tokens, tokens_at_ns; /* thousandths of a message */
    int64_t heard_ns;
    uint64_t breaches;
    bool *freed; /* set while a message is handed out: the receiver may end the VM and free this channel */
};

static void wipe_out(struct mt_channel *c)
{
    if (c->out_secret && c->out.p)
        explicit_bzero(c->out.p, c->out.cap);
    c->out_secret = false;
}

static void free_lines(struct mt_channel *c)
{
    free(c->lines.buf);
    c->lines = (struct mt_guest_lines){.cap = MT_GUEST_LINE_TO_HOST_MAX + 1};
}

void mt_channel_drop(struct mt_channel *c, const char *why)
{
    if (c->fd < 0)
        return;
    mt_loop_del(c->src);
    c->src = NULL;
    mt_closep(&c->fd);
    wipe_out(c);
    mt_buf_done(&c->out);
    free_lines(c);
    c->ev.closed(c->arg, why);
}

static void count_breach(struct mt_channel *c, enum mt_breach kind)
{
    c->breaches++;
    if (c->ev.breach)
        c->ev.breach(c->arg, kind);
}

static void breach(struct mt_channel *c, enum mt_breach kind, const char *why)
{
    mt_door_shut(c->door); /* what it says next is not better in this moment */
    count_breach(c, kind);
    mt_channel_drop(c, why);
}

static bool rate_ok(struct mt_channel *c)
{
    int64_t now = mt_loop_now(c->loop);
    int64_t ms = (now - c->tokens_at_ns) / MT_NS_PER_MS;
    if (ms > 0) {
        c->milli_tokens += ms > 10000 ? RATE_BURST * 1000 : ms * RATE_PER_S;
        if (c->milli_tokens > RATE_BURST * 1000)
            c->milli_tokens = RATE_BURST * 1000;
        c->tokens_at_ns += ms * MT_NS_PER_MS;
    }
    if (c->milli_tokens < 1000)
        return false;
    c->milli_tokens -= 1000;
    return true;
}

/* False when the connection is gone afterwards. */
static bool take_line(struct mt_channel *c, const char *line, size_t len, struct mt_guest_mem *mem)
{
    struct mt_guest_msg msg;
    struct mt_err err = {0};

    if (!rate_ok(c)) {
        breach(c, MT_BREACH_RATE, "more than 20 messages a second");
        return false;
    }
    if (mt_guest_decode(MT_GUEST_FROM_GUEST, line, len, mem, &msg, &err) < 0) {
        breach(c, MT_BREACH_MESSAGE, err.msg);
        return false;
    }
    if (!mt_guest_seq_ok(c->seq_in, msg.seq)) {
        breach(c, MT_BREACH_SEQUENCE, "sequence does not grow");
        return false;
    }
    c->seq_in = msg.seq;
    c->heard_ns = mt_loop_now(c->loop);
    if (msg.type != MT_GUEST_UNKNOWN) {
        bool freed = false;
        // cppcheck-suppress autoVariables ; taken back before this returns, unless c is gone by then
        c->freed = &freed;
        c->ev.message(c->arg, &msg);
        if (freed)
            return false;
        c->freed = NULL;
    }
    return c->fd >= 0;
}

static void flush(struct mt_channel *c)
{
    while (c->out.len > 0) {
        ssize_t n = send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            mt_channel_drop(c, "write failed");
            return;
        }
        mt_buf_consume(&c->out, (size_t)n);
    }
    if (c->out.len == 0)
        wipe_out(c);
    if (c->src)
        (void)mt_loop_fd_events(c->src, c->out.len ? EPOLLIN | EPOLLOUT : EPOLLIN, NULL);
}

static void on_io(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_channel *c = arg;
    MT_CHECK(c, CHANNEL_MAGIC);
    (void)s;

    if (revents & EPOLLOUT) {
        flush(c);
        if (c->fd < 0)
            return;
    }
    if (!(revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    mt_auto_free uint8_t *block = malloc(MT_GUEST_MEM_TO_HOST);
    struct mt_guest_mem mem = {.base = block, .cap = MT_GUEST_MEM_TO_HOST};
    if (!c->lines.buf)
        c->lines.buf = malloc(c->lines.cap);
    if (!block || !c->lines.buf) {
        mt_channel_drop(c, "out of memory");
        return;
    }
    char *at;
    size_t room = mt_guest_lines_room(&c->lines, &at);
    ssize_t n = recv(fd, at, room, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        mt_channel_drop(c, n == 0 ? "closed by the guest" : "read failed");
        return;
    }
    mt_guest_lines_fed(&c->lines, (size_t)n);
    for (;;) {
        const char *line;
        size_t len;
        int rc = mt_guest_lines_next(&c->lines, &line, &len);
        if (rc == 0)
            break;
        if (rc < 0) {
            breach(c, MT_BREACH_LINE, "line too long");
            return;
        }
        if (!take_line(c, line, len, &mem))
            return; /* c may be gone, too */
    }
    if (c->lines.len == c->lines.taken)
        free_lines(c);
}

static void on_stranger(void *arg)
{
    count_breach(arg, MT_BREACH_PEER);
}

static void on_crowd(void *arg)
{
    count_breach(arg, MT_BREACH_CONNECTS);
}

static void on_came(void *arg, int came)
{
    struct mt_channel *c = arg;
    MT_CHECK(c, CHANNEL_MAGIC);
    mt_auto_fd int fd = came;
    if (c->fd >= 0)
        mt_channel_drop(c, "replaced by a newer connection");
    struct mt_source *src = mt_loop_fd(c->loop, "guest.control", fd, EPOLLIN, on_io, c, NULL);
    if (!src)
        return;
    c->src = src;
    c->fd = MT_TAKE_FD(fd);
    c->seq_in = c->seq_out = 0; /* the rate is the guest's, not the connection's: a new one brings no new burst */
    mt_buf_init(&c->out, OUT_MAX);
}

struct mt_channel *mt_channel_new(struct mt_loop *loop, int listen_fd, uid_t vm_uid, const struct mt_channel_events *ev,
                                  void *arg, struct mt_err *err)
{
    static const struct mt_door_events door = {.came = on_came, .stranger = on_stranger, .crowd = on_crowd};
    struct mt_channel *c = calloc(1, sizeof *c);
    if (c) {
        *c = (struct mt_channel){.magic = CHANNEL_MAGIC, .loop = loop, .ev = *ev, .arg = arg, .fd = -1};
        free_lines(c);
        c->milli_tokens = RATE_BURST * 1000;
        c->tokens_at_ns = mt_loop_now(loop);
    }
    if (!c) {
        (void)MT_FAIL(err, MT_E_NOMEM, "control channel: out of memory");
        (void)close(listen_fd);
        return NULL;
    }
    c->door = mt_door_new(loop, "guest.listen", listen_fd, vm_uid, &door, c, err);
    if (!c->door) {
        mt_channel_free(c);
        return NULL;
    }
    return c;
}

void mt_channel_free(struct mt_channel *c)
{
    if (!c)
        return;
    if (c->freed)
        *c->freed = true;
    mt_loop_del(c->src);
    mt_door_free(c->door);
    mt_closep(&c->fd);
    wipe_out(c);
    mt_buf_done(&c->out);
    free_lines(c);
    c->magic = 0;
    free(c);
}

bool mt_channel_connected(const struct mt_channel *c)
{
    return c && c->fd >= 0;
}

bool mt_channel_greeted(const struct mt_channel *c)
{
    return mt_channel_connected(c) && c->seq_in > 0;
}

int mt_channel_send(struct mt_channel *c, struct mt_guest_msg *msg, char ret_sha256[65], struct mt_err *err)
{
    if (!mt_channel_connected(c))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "the guest is not connected");
    bool secret = msg->type == MT_GUEST_SECRETS;
    size_t cap = msg->type == MT_GUEST_CONFIG ? MT_GUEST_LINE_TO_GUEST_MAX + 1 : secret ? strlen(msg->u.secrets.data) + 1024 : 4096, len = 0;
    mt_auto_free char *line = malloc(cap);
    if (!line)
        return MT_FAIL(err, MT_E_NOMEM, "control channel: out of memory");
    msg->seq = ++c->seq_out;
    int rc = mt_guest_encode(msg, line, cap, &len, err);
    if (rc < 0) {
        if (secret)
            explicit_bzero(line, cap);
        return rc;
    }
    if (secret) {
        c->out_secret = true;
        (void)mt_buf_reserve(&c->out, len + 65536); /* what follows must not make it move: a copy would stay behind */
    }
    if (ret_sha256)
        mt_sha256_hex(line, len - 1, ret_sha256); /* without the line end, as the guest hashes it */
    mt_buf_put(&c->out, line, len);
    if (secret)
        explicit_bzero(line, cap);
    if (mt_buf_check(&c->out, err) < 0) {
        breach(c, MT_BREACH_UNREAD, "the guest does not read");
        return -MT_E_LIMIT;
    }
    flush(c);
    return mt_channel_connected(c) ? 0 : MT_FAIL(err, MT_E_UNAVAILABLE, "the guest went away");
}

int64_t mt_channel_heard_ns(const struct mt_channel *c)
{
    return c ? c->heard_ns : 0;
}

uint64_t mt_channel_breaches(const struct mt_channel *c)
{
    return c ? c->breaches : 0;
}

const char *mt_breach_word(enum mt_breach kind)
{
    static const char *const words[MT_BREACH_MAX] = {"rate", "message", "sequence", "line", "peer", "unread", "identity", "connects"};
    return words[kind];
}
