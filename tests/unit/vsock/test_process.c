/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real moat-vsock, with this test as QEMU (vhost-user messages, guest memory in a memfd) and as the host programs:
 * many streams at once with half-close, its confinement, its end with QEMU's, and messages that break the protocol.
 * First argument: the program.
 */
#include "kit.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { STREAMS = 32, PORT = 7000, LIMIT_S = 60 };
#define STREAM_BYTES (256U * 1024)

static const char *program;

struct vm {
    pid_t pid;
    int fd; /* vhost-user */
    int memfd, kick[2], call[2];
    struct kit kit;
    char dir[32];
};

static void message(int fd, uint32_t request, uint32_t flags, const void *payload, uint32_t size, const int *fds, size_t nfds)
{
    uint32_t head[3] = {request, 1 | flags, size};
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
        struct cmsghdr align;
    } control = {.bytes = {0}};
    struct iovec iov[2] = {{.iov_base = head, .iov_len = sizeof head}};
    memcpy(&iov[1].iov_base, &payload, sizeof payload);
    iov[1].iov_len = size;
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    if (nfds) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
    }
    (void)sendmsg(fd, &m, MSG_NOSIGNAL);
}

static uint64_t answer(int fd)
{
    uint32_t head[3];
    uint8_t body[512] = {0};
    uint64_t v;
    assert_int_equal(recv(fd, head, sizeof head, MSG_WAITALL), sizeof head);
    assert_int_equal(head[1], 5);
    assert_true(head[2] <= sizeof body);
    assert_int_equal(recv(fd, body, head[2], MSG_WAITALL), head[2]);
    memcpy(&v, body + (head[0] == 24 ? 12 : 0), sizeof v);
    return v;
}

static void start(struct vm *vm)
{
    int p[2];
    char uds[64], number[12];
    *vm = (struct vm){.memfd = -1};
    (void)snprintf(vm->dir, sizeof vm->dir, "/tmp/moat-vsock-XXXXXX");
    assert_non_null(mkdtemp(vm->dir));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p), 0);
    (void)snprintf(uds, sizeof uds, "%s/v.sock", vm->dir);
    (void)snprintf(number, sizeof number, "%d", p[1]);
    vm->pid = fork();
    if (vm->pid == 0) {
        (void)fcntl(p[1], F_SETFD, 0);
        (void)execl(program, program, "--uds", uds, "--cid", "3", "--vhost-fd", number, (char *)NULL);
        _exit(127);
    }
    (void)close(p[1]);
    vm->fd = p[0];
}

static void set_ring(struct vm *vm, uint32_t q)
{
    uint64_t base = KIT_UVA + (q ? KIT_TX : KIT_RX);
    uint32_t num[2] = {q, KIT_NUM}, zero[2] = {q, 0}, one[2] = {q, 1};
    struct {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
    } addr = {q, 0, base, base + KIT_USED, base + KIT_AVAIL, 0};
    uint64_t index = q;
    message(vm->fd, 8, 0, num, sizeof num, NULL, 0);
    message(vm->fd, 10, 0, zero, sizeof zero, NULL, 0);
    message(vm->fd, 9, 0, &addr, sizeof addr, NULL, 0);
    message(vm->fd, 12, 0, &index, 8, &vm->kick[q], 1);
    message(vm->fd, 13, 0, &index, 8, &vm->call[q], 1);
    message(vm->fd, 18, 8, one, sizeof one, NULL, 0);
    assert_int_equal(answer(vm->fd), 0);
}

static void set_memory(struct vm *vm)
{
    struct {
        uint32_t count, pad;
        uint64_t gpa, size, uva, offset;
    } table = {1, 0, KIT_GPA, KIT_MEM, KIT_UVA, 4096};
    vm->memfd = memfd_create("guest", MFD_CLOEXEC);
    assert_int_equal(ftruncate(vm->memfd, KIT_MEM + 4096), 0);
    uint8_t *mem = mmap(NULL, KIT_MEM, PROT_READ | PROT_WRITE, MAP_SHARED, vm->memfd, 4096);
    assert_ptr_not_equal(mem, MAP_FAILED);
    kit_init(&vm->kit, mem);
    kit_offer_rx(&vm->kit, KIT_NUM);
    message(vm->fd, 5, 8, &table, sizeof table, &vm->memfd, 1);
    assert_int_equal(answer(vm->fd), 0);
}

static void handshake(struct vm *vm)
{
    uint64_t features;
    struct {
        uint32_t offset, size, flags;
        uint8_t bytes[8];
    } config = {0, 8, 0, {0}};
    message(vm->fd, 1, 0, NULL, 0, NULL, 0);
    features = answer(vm->fd);
    assert_int_equal(features, UINT64_C(1) << 32 | UINT64_C(1) << 30);
    message(vm->fd, 15, 0, NULL, 0, NULL, 0);
    assert_int_equal(answer(vm->fd), 1 << 3 | 1 << 9);
    message(vm->fd, 16, 0, &(uint64_t){1 << 3 | 1 << 9}, 8, NULL, 0);
    message(vm->fd, 3, 0, NULL, 0, NULL, 0);
    message(vm->fd, 24, 0, &config, sizeof config, NULL, 0);
    assert_int_equal(answer(vm->fd), KIT_CID);
    message(vm->fd, 2, 0, &features, 8, NULL, 0);
    set_memory(vm);
    for (uint32_t q = 0; q < 2; q++) {
        vm->kick[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        vm->call[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        set_ring(vm, q);
    }
}

static int ended(struct vm *vm)
{
    int status = 0;
    for (int i = 0; i < 500; i++) {
        if (waitpid(vm->pid, &status, WNOHANG) == vm->pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        (void)usleep(10000);
    }
    (void)kill(vm->pid, SIGKILL);
    (void)waitpid(vm->pid, &status, 0);
    return -1000;
}

static void clean(struct vm *vm)
{
    char path[64];
    if (vm->memfd >= 0) {
        (void)munmap(vm->kit.mem, KIT_MEM);
        (void)close(vm->memfd);
        for (int q = 0; q < 2; q++) {
            (void)close(vm->kick[q]);
            (void)close(vm->call[q]);
        }
    }
    if (vm->fd >= 0)
        (void)close(vm->fd);
    (void)snprintf(path, sizeof path, "%s/v.sock", vm->dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/v.sock_%d", vm->dir, PORT);
    (void)unlink(path);
    (void)rmdir(vm->dir);
}

static int listener(const struct vm *vm)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s/v.sock_%d", vm->dir, PORT);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, STREAMS), 0);
    return fd;
}

static void kick(struct vm *vm, int q)
{
    assert_int_equal(write(vm->kick[q], &(uint64_t){1}, 8), 8);
}

/* ---- many streams: the guest sends, the host echoes, the guest checks; the guest half-closes, the host answers with its own end ---- */

struct flow {
    struct kit_stream s;
    uint32_t received; /* by the guest */
    bool open, shut, host_done, over, asked;
    uint32_t told;
};

struct echo {
    int fd;
    uint8_t buf[16384];
    size_t off, len;
};

static uint8_t pattern(unsigned stream, uint32_t at)
{
    return (uint8_t)(at * 31 + (at >> 8) + stream * 7);
}

static void guest_sends(struct vm *vm, struct flow *f, unsigned i)
{
    uint8_t data[KIT_BUF - MT_VS_HDR_LEN];
    while (f->open && !f->over && kit_tx_free(&vm->kit)) {
        uint32_t credit = f->s.peer_alloc - (f->s.sent - f->s.peer_fwd), left = STREAM_BYTES - f->s.sent;
        uint32_t n = left < sizeof data ? left : (uint32_t)sizeof data;
        if (n == 0 && !f->shut) {
            kit_send(&vm->kit, &f->s, MT_VS_OP_SHUTDOWN, MT_VS_SHUT_SEND, NULL, 0);
            f->shut = true;
        }
        if (n == 0 || credit < n)
            return;
        for (uint32_t k = 0; k < n; k++)
            data[k] = pattern(i, f->s.sent + k);
        kit_send(&vm->kit, &f->s, MT_VS_OP_RW, 0, data, n);
    }
}

static void guest_receives(struct vm *vm, struct flow *flows, unsigned *over)
{
    struct mt_vs_hdr h;
    uint8_t data[KIT_BUF];
    while (kit_recv(&vm->kit, &h, data) == 1) {
        unsigned i = h.dst_port - 1000;
        assert_true(i < STREAMS);
        struct flow *f = &flows[i];
        f->s.peer_alloc = h.buf_alloc;
        f->s.peer_fwd = h.fwd_cnt;
        if (h.op == MT_VS_OP_RESPONSE) {
            f->open = true;
        } else if (h.op == MT_VS_OP_RW) {
            for (uint32_t k = 0; k < h.len; k++) {
                if (data[k] != pattern(i, f->received + k))
                    fail_msg("stream %u differs at byte %u", i, f->received + k);
            }
            f->received += h.len;
            f->s.fwd_cnt += h.len;
        } else if (h.op == MT_VS_OP_SHUTDOWN && (h.flags & MT_VS_SHUT_SEND) && !f->host_done) {
            f->host_done = true;
            assert_int_equal(f->received, STREAM_BYTES);
            while (!kit_tx_free(&vm->kit)) {
            }
            kit_send(&vm->kit, &f->s, MT_VS_OP_SHUTDOWN, MT_VS_SHUT_BOTH, NULL, 0);
        } else if (h.op == MT_VS_OP_RST) {
            assert_true(f->host_done);
            f->over = true;
            (*over)++;
        }
        f->asked = f->asked || h.op == MT_VS_OP_CREDIT_REQUEST;
    }
}

/* Apart from receiving: what finds the ring full has to be told later, or its stream waits for ever. */
static void guest_tells_credit(struct vm *vm, struct flow *f)
{
    if ((f->s.fwd_cnt - f->told < f->s.buf_alloc / 2 && !f->asked) || f->over || !kit_tx_free(&vm->kit))
        return;
    kit_send(&vm->kit, &f->s, MT_VS_OP_CREDIT_UPDATE, 0, NULL, 0);
    f->told = f->s.fwd_cnt;
    f->asked = false;
}

static void host_echoes(struct echo *e)
{
    while (e->fd >= 0) {
        if (e->len == 0) {
            ssize_t n = recv(e->fd, e->buf, sizeof e->buf, MSG_DONTWAIT);
            if (n == 0) {
                (void)close(e->fd);
                e->fd = -1;
            }
            if (n <= 0)
                return;
            e->off = 0;
            e->len = (size_t)n;
        }
        ssize_t n = send(e->fd, e->buf + e->off, e->len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0)
            return;
        e->off += (size_t)n;
        e->len -= (size_t)n;
    }
}

static void many_streams_echo_every_byte_and_half_close(void **state)
{
    struct vm vm;
    struct flow *flows = calloc(STREAMS, sizeof *flows);
    struct echo *echoes = calloc(STREAMS, sizeof *echoes);
    unsigned accepted = 0, over = 0;
    (void)state;
    assert_non_null(flows);
    assert_non_null(echoes);
    start(&vm);
    handshake(&vm);
    int lfd = listener(&vm);
    for (unsigned i = 0; i < STREAMS; i++) {
        echoes[i].fd = -1;
        flows[i].s = (struct kit_stream){.guest_port = 1000 + i, .host_port = PORT, .buf_alloc = 32768};
        kit_send(&vm.kit, &flows[i].s, MT_VS_OP_REQUEST, 0, NULL, 0);
    }
    kick(&vm, 1);
    int64_t t0 = mt_clock_mono();
    while (over < STREAMS && mt_clock_mono() - t0 < LIMIT_S * MT_NS_PER_S) {
        struct pollfd p[2 + STREAMS] = {{.fd = vm.call[0], .events = POLLIN}, {.fd = lfd, .events = POLLIN}};
        for (unsigned i = 0; i < STREAMS; i++)
            p[2 + i] = (struct pollfd){.fd = echoes[i].fd, .events = (short)(echoes[i].len ? POLLOUT : POLLIN)};
        (void)poll(p, 2 + STREAMS, 20);
        uint64_t count;
        (void)!read(vm.call[0], &count, 8);
        (void)!read(vm.call[1], &count, 8);
        int fd;
        while (accepted < STREAMS && (fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
            echoes[accepted++].fd = fd;
        for (unsigned i = 0; i < STREAMS; i++)
            host_echoes(&echoes[i]);
        guest_receives(&vm, flows, &over);
        for (unsigned i = 0; i < STREAMS; i++)
            guest_tells_credit(&vm, &flows[i]);
        for (unsigned i = 0; i < STREAMS; i++)
            guest_sends(&vm, &flows[i], i);
        kick(&vm, 0);
        kick(&vm, 1);
    }
    double s = (double)(mt_clock_mono() - t0) / 1e9;
    assert_int_equal(over, STREAMS);
    (void)printf("# %d streams, %u KiB each way each, %.2f s, %.0f MiB/s in all\n", STREAMS, STREAM_BYTES / 1024, s,
                 2.0 * STREAMS * STREAM_BYTES / s / (1 << 20));
    (void)close(lfd);
    (void)close(vm.fd);
    vm.fd = -1;
    assert_int_equal(ended(&vm), 0); /* QEMU is gone: so is it */
    clean(&vm);
    free(flows);
    free(echoes);
}

static void it_confines_itself(void **state)
{
    struct vm vm;
    char path[64], text[4096];
    (void)state;
    start(&vm);
    message(vm.fd, 1, 0, NULL, 0, NULL, 0);
    (void)answer(vm.fd); /* it answers only from inside its sandbox */
    (void)snprintf(path, sizeof path, "/proc/%d/status", vm.pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof text - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_non_null(strstr(text, "\nNoNewPrivs:\t1\n"));
    assert_non_null(strstr(text, "\nSeccomp:\t2\n"));
    (void)close(fd);
    (void)close(vm.fd);
    vm.fd = -1;
    assert_int_equal(ended(&vm), 0);
    clean(&vm);
}

static void messages_that_break_the_protocol_end_it(void **state)
{
    static const struct {
        const char *what;
        uint32_t request, size;
        uint32_t word[12];
        size_t fds;
    } t[] = {
        {"unknown request", 77, 0, {0}, 0},
        {"too large", 2, 4096, {0}, 0},
        {"features we never offered", 2, 8, {0, 2}, 0},
        {"short features", 2, 4, {0}, 0},
        {"nine regions", 5, 8, {9, 0}, 0},
        {"a region without its descriptor", 5, 40, {1, 0, 0, 0, 4096, 0, 0, 0, 0, 0}, 0},
        {"a region larger than its file", 5, 40, {1, 0, 0, 0, 8192, 0, 0, 0, 0, 0}, 1},
        {"a region that wraps around", 5, 40, {1, 0, 0xfffff000, 0xffffffff, 0x2000, 0, 0, 0, 0, 0}, 1},
        {"more descriptors than regions", 5, 40, {1, 0, 0, 0, 4096, 0, 0, 0, 0, 0}, 2},
        {"sixteen descriptors", 5, 40, {1, 0, 0, 0, 4096, 0, 0, 0, 0, 0}, 16},
        {"third queue", 8, 8, {2, 64}, 0},
        {"ring without memory", 9, 40, {0}, 0},
        {"kick of queue 255", 12, 8, {0xff, 0}, 1},
        {"kick without descriptor", 12, 8, {0, 0}, 0},
        {"base of queue 9", 11, 8, {9, 0}, 0},
        {"configuration past its bound", 24, 12, {0, 300, 0}, 0},
        {"configuration size that lies", 24, 12, {0, 8, 0}, 0},
    };
    int fds[16];
    (void)state;
    for (size_t i = 0; i < 16; i++) {
        fds[i] = memfd_create("x", MFD_CLOEXEC);
        assert_int_equal(ftruncate(fds[i], 4096), 0);
    }
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct vm vm;
        static uint8_t payload[4096];
        start(&vm);
        memset(payload, 0, sizeof payload);
        memcpy(payload, t[i].word, sizeof t[i].word);
        message(vm.fd, t[i].request, 8, payload, t[i].size, fds, t[i].fds);
        int status = ended(&vm);
        if (status != 1)
            fail_msg("%s: ended with %d, expected 1", t[i].what, status);
        clean(&vm);
    }
    for (size_t i = 0; i < 16; i++)
        (void)close(fds[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_confines_itself),
        cmocka_unit_test(many_streams_echo_every_byte_and_half_close),
        cmocka_unit_test(messages_that_break_the_protocol_end_it),
    };
    if (argc < 2)
        return 2;
    program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
