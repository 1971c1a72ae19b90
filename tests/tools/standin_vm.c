/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM that is none, for tests of scale: what the qemu driver starts as QEMU and as moat-vsock, with a guest that is configured at once, runs
 * and does nothing. Everything on the agent's side of these two processes is real: jail, cgroup, confinement, monitor, disks, tap, firewall,
 * control and log channel, health checks. It shows what the agent costs, never that something runs.
 *
 * Both roles are this file under two names. As QEMU: QMP, and the ids of the boot arguments, told to the other over the vhost-user socket. As
 * moat-vsock: the guest's end of the control and log channel, in the guest's own words (init/channel.h). Each ends when the other does.
 *
 * A workload with the variable MOAT_STANDIN_FLOOD says too much, for as long as it runs: twenty times a second several control messages, of which
 * some are none, connections that take the place of its own, and 100 KiB of log records.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "init/channel.h"
#include "init/sha256.h"

enum { IDS_MAX = 256, LINE = 4096, CONNS = 4, VHOST_FD = 3, FLOOD_MS = 50, FLOOD_RECORDS = 200, FLOOD_TEXT = 500 };

/* As the real ones: the agent refuses a VM whose threads have no filter. */
static void sandbox(void)
{
    struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog prog = {.len = 1, .filter = &all};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
        exit(3);
}

static int unix_socket(const char *path, bool server)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || mt_fmt(a.sun_path, sizeof a.sun_path, NULL, "%s", path) < 0)
        return -1;
    if (server ? bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, CONNS) == 0 : connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

/* ---- as QEMU ---- */

static bool say(int fd, const char *text)
{
    return send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

/* One monitor connection at a time, a line for a line: what the driver asks. */
static void monitor(int fd)
{
    char buf[LINE];
    if (!say(fd, "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n"))
        return;
    for (ssize_t n; (n = recv(fd, buf, sizeof buf - 1, 0)) > 0;) {
        buf[n] = '\0';
        if (!say(fd, strstr(buf, "query-status") ? "{\"return\":{\"status\":\"running\",\"running\":true}}\n" : "{\"return\":{}}\n"))
            return;
    }
}

static int as_qemu(int argc, char **argv)
{
    const char *append = "", *inst, *boot;
    char ids[IDS_MAX];
    int vhost = -1;
    for (int i = 1; i + 1 < argc; i++) {
        if (MT_STREQ(argv[i], "-append"))
            append = argv[i + 1];
        if (MT_STREQ(argv[i], "-chardev"))
            (void)sscanf(argv[i + 1], "socket,id=vs,fd=%d", &vhost);
    }
    inst = strstr(append, "moat.instance=");
    boot = strstr(append, "moat.boot=");
    if (!inst || !boot || vhost < 0)
        return 2;
    sandbox();
    (void)snprintf(ids, sizeof ids, "%.*s %.*s\n", (int)strcspn(inst + 14, " "), inst + 14, (int)strcspn(boot + 10, " "), boot + 10);
    /* As QEMU, which has no monitor before its vhost-user device has been answered: who finds the monitor finds both in their sandboxes. */
    if (!say(vhost, ids) || recv(vhost, ids, 1, 0) != 1)
        return 2;
    int listener = unix_socket("/run/qmp.sock", true);
    if (listener < 0)
        return 2;
    for (;;) {
        struct pollfd p[2] = {{.fd = listener, .events = POLLIN}, {.fd = vhost, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 || p[1].revents)
            return 0;
        mt_auto_fd int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            monitor(fd);
    }
}

/* ---- as moat-vsock, with the guest behind it ---- */

struct guest {
    const char *uds;
    char instance[64], boot[64];
    struct mt_channel channel;
    bool running, over, floods;
    int logs, log_port;
    uint64_t lines;
};

static uint8_t mem_bytes[MT_GUEST_MEM_TO_GUEST];
static char line_buf[MT_GUEST_LINE_TO_GUEST_MAX + 1];

static int dial(const struct guest *g, int port)
{
    char path[108];
    return mt_fmt(path, sizeof path, NULL, "%s_%d", g->uds, port) < 0 ? -1 : unix_socket(path, false);
}

static void tell(struct guest *g, struct mt_guest_msg msg)
{
    struct mt_err err;
    (void)mt_channel_send(&g->channel, &msg, &err); /* a lost connection shows when it is read */
}

static void status(struct guest *g, enum mt_guest_state state, const char *reason)
{
    tell(g, (struct mt_guest_msg){.type = MT_GUEST_STATUS,
                                  .u.status = {.state = state, .reason = reason, .pid = state == MT_GUEST_STATE_STARTED ? 2 : 0,
                                               .exit_code = reason ? 0 : -1, .clean_umount = reason != NULL, .ts_ns = mt_clock_wall_us() * 1000}});
}

static void say_line(struct guest *g, const char *text)
{
    uint8_t buf[256];
    size_t n;
    struct mt_err err;
    const struct mt_guest_log_record r = {.stream = 1, .seq = ++g->lines, .unix_ns = (uint64_t)mt_clock_wall_us() * 1000, .payload = (const uint8_t *)text, .payload_len = strlen(text)};
    if (mt_guest_log_encode(&r, buf, sizeof buf, &n, &err) == 0)
        (void)send(g->logs, buf, n, MSG_NOSIGNAL);
}

/* What a part of a record leaves behind breaks the next one: the host then hangs up, and the next dial begins anew. */
static void flood_logs(struct guest *g)
{
    static uint8_t buf[FLOOD_RECORDS * (FLOOD_TEXT + 64)];
    static char text[FLOOD_TEXT];
    size_t at = 0;
    if (g->logs < 0)
        g->logs = dial(g, g->log_port);
    if (g->logs < 0)
        return;
    memset(text, 'x', sizeof text);
    for (int i = 0; i < FLOOD_RECORDS; i++) {
        size_t n;
        struct mt_err err;
        const struct mt_guest_log_record r = {.stream = 1, .seq = ++g->lines, .unix_ns = (uint64_t)mt_clock_wall_us() * 1000, .payload = (const uint8_t *)text, .payload_len = sizeof text};
        if (mt_guest_log_encode(&r, buf + at, sizeof buf - at, &n, &err) < 0)
            break;
        at += n;
    }
    ssize_t n = send(g->logs, buf, at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        mt_closep(&g->logs);
}

static void flood(struct guest *g, unsigned round)
{
    static char junk[MT_GUEST_LINE_TO_HOST_MAX + 100];
    static const char *const bad[] = {"{}\n", "[\n", "{\"v\":1,\"v\":1,\"type\":\"pong\",\"seq\":1}\n", "{\"v\":1,\"type\":\"config\",\"seq\":1}\n"};
    for (int i = 0; i < 3; i++)
        tell(g, (struct mt_guest_msg){.type = MT_GUEST_PONG, .u.pong = {.mem_total_bytes = round, .procs = 2}});
    if (round % 8 == 0 && g->channel.fd >= 0)
        (void)say(g->channel.fd, bad[round / 8 % (sizeof bad / sizeof bad[0])]);
    if (round % 32 == 1 && g->channel.fd >= 0) {
        memset(junk, 'a', sizeof junk);
        (void)send(g->channel.fd, junk, sizeof junk, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    if (round % 32 == 2)
        for (int i = 0; i < 4; i++) {
            int fd = dial(g, i % 2 ? g->log_port : (int)MT_GUEST_PORT_CONTROL);
            if (fd >= 0)
                (void)close(fd);
        }
    flood_logs(g);
}

static void take(struct guest *g, const char *line, size_t len)
{
    struct mt_guest_mem mem = {.base = mem_bytes, .cap = sizeof mem_bytes};
    struct mt_guest_msg m;
    struct mt_err err;
    char sha[65];
    if (mt_guest_decode(MT_GUEST_FROM_HOST, line, len, &mem, &m, &err) < 0)
        exit(4);
    if (m.type == MT_GUEST_CONFIG) {
        mt_sha256_hex(line, len, sha);
        tell(g, (struct mt_guest_msg){.type = MT_GUEST_ACK, .u.ack = {.generation = m.u.config.generation, .config_sha256 = sha}});
        status(g, MT_GUEST_STATE_CONFIGURED, NULL);
        for (size_t i = 0; i < m.u.config.process.env_count; i++)
            g->floods |= MT_STREQ(m.u.config.process.env[i].key, "MOAT_STANDIN_FLOOD");
        g->log_port = (int)m.u.config.logs.port;
        g->logs = dial(g, g->log_port);
        status(g, MT_GUEST_STATE_STARTED, NULL);
        g->running = true;
    } else if (m.type == MT_GUEST_PING) {
        tell(g, (struct mt_guest_msg){.type = MT_GUEST_PONG, .u.pong = {.ts_ns = m.u.ping.ts_ns, .mem_total_bytes = 64 << 20, .mem_available_bytes = 32 << 20, .procs = 2}});
    } else if (m.type == MT_GUEST_FETCH_LOG) { /* who reads what init said makes the workload say a line */
        say_line(g, "asked");
        tell(g, (struct mt_guest_msg){.type = MT_GUEST_LOG_CHUNK, .u.log_chunk = {.data = "", .last = true}});
    } else if (m.type == MT_GUEST_SHUTDOWN) {
        g->floods = false;
        status(g, MT_GUEST_STATE_EXITED, "completed");
    } else if (m.type == MT_GUEST_RESUME) {
        mt_closep(&g->logs); /* that of an agent that is gone */
        g->logs = dial(g, g->log_port);
        status(g, MT_GUEST_STATE_STARTED, NULL);
    } else if (m.type == MT_GUEST_BYE || m.type == MT_GUEST_REJECT) {
        g->over = true;
    }
}

static void connect_host(struct guest *g)
{
    int fd = dial(g, MT_GUEST_PORT_CONTROL);
    if (fd < 0)
        return;
    mt_channel_open(&g->channel, fd, false);
    tell(g, (struct mt_guest_msg){.type = MT_GUEST_HELLO,
                                  .u.hello = {.proto_min = MT_GUEST_PROTO_MIN, .proto_max = MT_GUEST_PROTO_MAX, .init_version = "standin", .arch = "amd64",
                                              .kernel = "none", .instance_id = g->instance, .boot_id = g->boot,
                                              .phase = g->running ? MT_GUEST_PHASE_RUNNING : MT_GUEST_PHASE_BOOT}});
}

static int as_vsock(int argc, char **argv)
{
    static struct guest g = {.logs = -1};
    char ids[IDS_MAX];
    unsigned round = 0;
    for (int i = 1; i + 1 < argc; i++)
        if (MT_STREQ(argv[i], "--uds"))
            g.uds = argv[i + 1];
    int listener = g.uds ? unix_socket(g.uds, true) : -1;
    sandbox(); /* before the first word, as moat-vsock does */
    ssize_t n = listener < 0 ? -1 : recv(VHOST_FD, ids, sizeof ids - 1, 0);
    if (n <= 0 || !say(VHOST_FD, "!"))
        return 2;
    ids[n] = '\0';
    if (sscanf(ids, "%63s %63s", g.instance, g.boot) != 2)
        return 2;
    mt_channel_init(&g.channel, line_buf, sizeof line_buf);
    while (!g.over) {
        struct mt_err err;
        const char *line;
        size_t len;
        if (g.channel.fd < 0)
            connect_host(&g);
        struct pollfd p[3] = {{.fd = VHOST_FD, .events = POLLIN}, {.fd = listener, .events = POLLIN}, {.fd = g.channel.fd, .events = POLLIN}};
        bool floods = g.floods && g.running;
        if (floods) /* its pace, whatever comes meanwhile: a breach is answered by the end of the connection, at once */
            (void)poll(NULL, 0, FLOOD_MS);
        if (poll(p, 3, floods ? 0 : g.channel.fd < 0 ? 1000 : -1) < 0 || p[0].revents)
            return 0;
        if (floods)
            flood(&g, ++round);
        if (p[1].revents) { /* nothing listens in this guest */
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0)
                (void)close(fd);
        }
        if (!p[2].revents)
            continue;
        bool gone = mt_channel_fill(&g.channel, &err) < 0;
        while (mt_channel_next(&g.channel, &line, &len) == 1)
            take(&g, line, len);
        if (gone)
            mt_channel_close(&g.channel);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && MT_STREQ(argv[1], "--version")) {
        puts("stand-in emulator version 0.0.1");
        return 0;
    }
    return strstr(argv[0], "moat-vsock") ? as_vsock(argc, argv) : as_qemu(argc, argv);
}
