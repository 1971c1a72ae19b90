/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/handover.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "os/sock.h"

#define MAGIC 0x6d6f6831U /* "moh1": version in the last digit */
#define PEER_MS 5000

enum kind { KIND_ASK = 1, KIND_SOCKET, KIND_END, KIND_READY, KIND_DONE };

struct frame {
    uint32_t magic, kind;
    mt_edge_key key;
    union mt_edge_addr addr;
};

struct mt_edge_handover {
    struct mt_edge_hub *hub;
    struct mt_loop *loop;
    struct mt_edge_handover_calls calls;
    int fd, conn;
    struct mt_source *listen, *peer;
    char path[MT_UNIX_PATH_MAX + 1];
};

static int put_frame(int conn, enum kind kind, const struct frame *more, int fd, struct mt_err *err)
{
    struct frame f;
    memset(&f, 0, sizeof f);
    if (more)
        f = *more;
    f.magic = MAGIC;
    f.kind = kind;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec iov = {.iov_base = &f, .iov_len = sizeof f};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    if (sendmsg(conn, &m, MSG_NOSIGNAL) != (ssize_t)sizeof f)
        return MT_FAIL_ERRNO(err, MT_E_IO, "handover: send");
    return 0;
}

/* One frame and the descriptor with it (-1: none). */
static int get_frame(int conn, struct frame *ret, int *ret_fd, struct mt_err *err)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = ret, .iov_len = sizeof *ret};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *ret_fd = -1;
    ssize_t n = recvmsg(conn, &m, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    if (n < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "handover: receive");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(ret_fd, CMSG_DATA(c), sizeof *ret_fd);
    if (n != (ssize_t)sizeof *ret || ret->magic != MAGIC || (m.msg_flags & MSG_CTRUNC)) {
        mt_closep(ret_fd);
        return MT_FAIL(err, MT_E_UNAVAILABLE, "handover: the other process ended it, or speaks another version");
    }
    return 0;
}

/* --- the old process --- */

static int give_one(void *arg, mt_edge_key key, const union mt_edge_addr *addr, int fd, struct mt_err *err)
{
    const struct mt_edge_handover *x = arg;
    struct frame f;
    memset(&f, 0, sizeof f);
    f.key = key;
    f.addr = *addr;
    return put_frame(x->conn, KIND_SOCKET, &f, fd, err);
}

static void drop_peer(struct mt_edge_handover *x)
{
    mt_loop_del(x->peer);
    x->peer = NULL;
    mt_closep(&x->conn);
}

static void on_peer(struct mt_source *s, int fd, uint32_t events, void *arg)
{
    struct mt_edge_handover *x = arg;
    struct frame f;
    struct mt_err err = {0};
    mt_auto_fd int none = -1;
    (void)s;
    (void)events;
    if (get_frame(fd, &f, &none, &err) < 0 || f.kind != KIND_READY) {
        mt_log(MT_WARN, "edge.handover_missed", KV("error", err.msg[0] ? err.msg : "unexpected message"),
               KV("mend", "none needed: this process goes on; see the log of the one that did not come up"));
        drop_peer(x);
        x->calls.missed(x->calls.arg);
        return;
    }
    int conn = MT_TAKE_FD(x->conn);
    mt_loop_del(x->peer);
    x->peer = NULL;
    x->calls.done(x->calls.arg); /* frees x */
    (void)put_frame(conn, KIND_DONE, NULL, -1, &err);
    (void)close(conn);
}

static int greet(struct mt_edge_handover *x, struct mt_err *err)
{
    struct frame f;
    mt_auto_fd int none = -1;
    uid_t uid;
    gid_t gid;
    pid_t pid;
    if (mt_sock_peercred(x->conn, &uid, &gid, &pid, err) < 0)
        return -(int)err->code;
    if (uid != geteuid() && uid != 0)
        return MT_FAIL(err, MT_E_DENIED, "handover: asked by user %u", (unsigned)uid);
    if (mt_sock_nonblock(x->conn, false, err) < 0 || mt_sock_timeout(x->conn, PEER_MS, err) < 0 ||
        get_frame(x->conn, &f, &none, err) < 0)
        return -(int)err->code;
    return f.kind == KIND_ASK ? 0 : MT_FAIL(err, MT_E_INVALID, "handover: unexpected message %u", f.kind);
}

static void on_ask(struct mt_source *s, int fd, uint32_t events, void *arg)
{
    struct mt_edge_handover *x = arg;
    struct mt_err err = {0};
    int conn = -1;
    (void)s;
    (void)events;
    if (mt_sock_accept(fd, &conn, &err) <= 0)
        return;
    if (x->conn >= 0) { /* one successor at a time */
        (void)close(conn);
        return;
    }
    x->conn = conn;
    if (greet(x, &err) < 0) {
        mt_log(MT_WARN, "edge.handover_refused", KV_ERR(&err));
        mt_closep(&x->conn);
        return;
    }
    mt_log(MT_INFO, "edge.handover_asked");
    x->calls.asked(x->calls.arg);
    if (mt_edge_hub_each_socket(x->hub, give_one, x, &err) == 0 && put_frame(x->conn, KIND_END, NULL, -1, &err) == 0)
        x->peer = mt_loop_fd(x->loop, "handover-peer", x->conn, EPOLLIN, on_peer, x, &err);
    if (!x->peer) {
        mt_log(MT_WARN, "edge.handover_missed", KV_ERR(&err), KV("mend", "none needed: this process goes on"));
        mt_closep(&x->conn);
        x->calls.missed(x->calls.arg);
    }
}

struct mt_edge_handover *mt_edge_handover_serve(struct mt_loop *loop, const char *path, struct mt_edge_hub *h,
                                                const struct mt_edge_handover_calls *calls, struct mt_err *err)
{
    struct mt_edge_handover *x = calloc(1, sizeof *x);
    if (!x) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for the handover socket");
        return NULL;
    }
    *x = (struct mt_edge_handover){.hub = h, .loop = loop, .calls = *calls, .fd = -1, .conn = -1};
    (void)snprintf(x->path, sizeof x->path, "%s", path);
    if (mt_sock_unix_listen(path, 0600, (uid_t)-1, (gid_t)-1, &x->fd, err) == 0)
        x->listen = mt_loop_fd(loop, "handover", x->fd, EPOLLIN, on_ask, x, err);
    if (!x->listen) {
        mt_closep(&x->fd);
        free(x);
        return NULL;
    }
    return x;
}

void mt_edge_handover_stop(struct mt_edge_handover *x, bool keep_name)
{
    if (!x)
        return;
    mt_loop_del(x->listen);
    mt_loop_del(x->peer);
    mt_closep(&x->fd);
    mt_closep(&x->conn);
    if (!keep_name)
        (void)unlink(x->path);
    free(x);
}

/* --- the new process --- */

int mt_edge_handover_take(const char *path, struct mt_edge_hub *h, int *ret_conn, struct mt_err *err)
{
    mt_auto_fd int conn = -1;
    unsigned n = 0;
    int r = mt_sock_unix_connect(path, &conn, err);
    if (r == -MT_E_UNAVAILABLE || r == -MT_E_NOT_FOUND)
        return 0;
    if (r < 0 || mt_sock_timeout(conn, PEER_MS, err) < 0 || put_frame(conn, KIND_ASK, NULL, -1, err) < 0)
        return -(int)err->code;
    for (;; n++) {
        struct frame f;
        int fd;
        if (get_frame(conn, &f, &fd, err) < 0)
            return -(int)err->code;
        if (f.kind == KIND_END && fd < 0)
            break;
        if (f.kind != KIND_SOCKET || fd < 0) {
            mt_closep(&fd);
            return MT_FAIL(err, MT_E_INVALID, "handover: unexpected message %u", f.kind);
        }
        if (mt_edge_hub_inherit(h, f.key, &f.addr, fd, err) < 0) /* takes the descriptor in any case */
            return -(int)err->code;
    }
    mt_log(MT_INFO, "edge.handover_taken", KV("sockets", n));
    *ret_conn = MT_TAKE_FD(conn);
    return 1;
}

int mt_edge_handover_ready(int *conn, struct mt_err *err)
{
    mt_auto_fd int c = MT_TAKE_FD(*conn);
    struct frame f;
    mt_auto_fd int none = -1;
    if (put_frame(c, KIND_READY, NULL, -1, err) < 0 || get_frame(c, &f, &none, err) < 0)
        return -(int)err->code;
    return f.kind == KIND_DONE ? 0 : MT_FAIL(err, MT_E_INVALID, "handover: unexpected message %u", f.kind);
}
