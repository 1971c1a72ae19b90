/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-init: PID 1 of every microVM. Entry, early steps, the wait loop, the reset.
 *
 * The loop is poll(), not epoll: two dozen descriptors at most, whose interest changes with every turn, so that
 * computing the set afresh is shorter than keeping a kernel copy of it right.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <unistd.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"
#include "init/modules.h"
#include "init/mounts.h"
#include "init/net.h"
#include "init/pid1.h"
#include "init/readfile.h"
#include "init/say.h"

#define MODULES_LIST "/modules.list"

/* All large memory is here, in .bss: pages that are never touched cost nothing. */
static struct mt_pid1 pid1;
static char line_buf[MT_GUEST_LINE_TO_GUEST_MAX + 1];
static uint8_t config_mem[MT_GUEST_MEM_TO_GUEST], message_mem[MT_GUEST_MEM_TO_GUEST];

__attribute__((noreturn)) static void reset_machine(void)
{
    /* RB_AUTOBOOT with reboot=k makes every VMM exit; halt and poweroff do not */
    (void)reboot(RB_AUTOBOOT);
    for (;;)
        (void)pause();
}

__attribute__((noreturn)) static void give_up(const char *reason, const struct mt_err *err)
{
    mt_say(MT_SAY_ERROR, "%s: %s", reason, err->msg);
    /* let the serial line carry the sentence out before the machine is gone */
    (void)nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    reset_machine();
}

static bool under_tcg(void)
{
#ifdef __x86_64__
    unsigned a, b, c, d;
    char name[13] = {0};
    __cpuid(0x40000000, a, b, c, d);
    memcpy(name, &b, 4);
    memcpy(name + 4, &c, 4);
    memcpy(name + 8, &d, 4);
    return MT_STREQ(name, "TCGTCGTCGTCG");
#else
    return true; /* only means longer limits */
#endif
}

/* descriptors 0 to 2 must be taken, or a pipe could land there */
static void hold_standard_fds(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd < 2);
    if (fd > 2)
        (void)close(fd);
}

static int open_signals(void)
{
    static const int wanted[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
    sigset_t set;
    (void)sigemptyset(&set);
    for (size_t i = 0; i < MT_ARRAY_LEN(wanted); i++)
        (void)sigaddset(&set, wanted[i]);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    MT_ASSERT(fd >= 0);
    return fd;
}

static void read_signals(int fd, int64_t now)
{
    struct signalfd_siginfo info;
    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            mt_pid1_reap(&pid1, now);
        else
            mt_pid1_forward(&pid1, (int)info.ssi_signo);
    }
}

static int timeout_ms(int64_t now)
{
    int64_t at = mt_pid1_deadline(&pid1);
    if (at == INT64_MAX)
        return -1;
    if (at <= now)
        return 0;
    int64_t ms = (at - now + MT_NS_PER_MS - 1) / MT_NS_PER_MS;
    return ms > 60000 ? 60000 : (int)ms;
}

enum { POLL_SIGNALS = 0, POLL_STDOUT, POLL_STDERR, POLL_CONTROL, POLL_LOGS, POLL_QUIESCE, POLL_PRESSURE, POLL_EXEC, POLL_MAX = POLL_EXEC + MT_EXEC_POLLFDS };

static void one_turn(int signal_fd)
{
    struct mt_logs *logs = &pid1.logs;
    bool logs_write = logs->fd >= 0 && (logs->connecting || mt_logs_pending(logs));
    struct pollfd fds[POLL_MAX] = {
        [POLL_SIGNALS] = {.fd = signal_fd, .events = POLLIN},
        [POLL_STDOUT] = {.fd = logs->streams[0].fd, .events = POLLIN},
        [POLL_STDERR] = {.fd = logs->streams[1].fd, .events = POLLIN},
        [POLL_CONTROL] = {.fd = pid1.channel.fd,
                          .events = (short)((pid1.channel.connecting ? 0 : POLLIN) |
                                            (mt_channel_wants_write(&pid1.channel) ? POLLOUT : 0))},
        [POLL_LOGS] = {.fd = logs->fd, .events = (short)(logs_write ? POLLOUT : 0)},
        [POLL_QUIESCE] = {.fd = pid1.quiesce.fd, .events = POLLIN},
        [POLL_PRESSURE] = {.fd = pid1.pressure.fd, .events = POLLPRI},
    };
    mt_exec_poll(&pid1.exec, fds + POLL_EXEC);
    if (poll(fds, POLL_MAX, timeout_ms(mt_clock_mono())) < 0)
        MT_ASSERT(errno == EINTR || errno == EAGAIN || errno == ENOMEM);
    int64_t now = mt_clock_mono();
    if (fds[POLL_STDOUT].revents)
        mt_logs_read(logs, &logs->streams[0]);
    if (fds[POLL_STDERR].revents)
        mt_logs_read(logs, &logs->streams[1]);
    if (fds[POLL_LOGS].revents & (POLLERR | POLLHUP) && !logs->connecting) {
        mt_logs_close(logs);
        pid1.logs_redial_at = now + MT_NS_PER_S;
    } else if (fds[POLL_LOGS].revents) {
        mt_pid1_logs_ready(&pid1, now);
    }
    if (fds[POLL_QUIESCE].revents)
        mt_pid1_quiesce_ready(&pid1, now);
    if (fds[POLL_PRESSURE].revents)
        mt_pressure_turn(&pid1.pressure, fds[POLL_PRESSURE].revents, &pid1.stats, now);
    if (fds[POLL_CONTROL].revents)
        mt_pid1_control_ready(&pid1, now);
    if (fds[POLL_SIGNALS].revents)
        read_signals(signal_fd, now);
    mt_exec_turn(&pid1.exec, fds + POLL_EXEC, now);
    mt_pid1_tick(&pid1, now);
}

static void read_cmdline(struct mt_cmdline *ret)
{
    static char text[4096];
    struct mt_err err;
    size_t len;
    if (mt_readfile("/proc/cmdline", text, sizeof text, &len, &err) < 0 || mt_cmdline_parse(text, ret, &err) < 0)
        give_up("config_fetch_failed", &err);
}

int main(int argc, char **argv)
{
    struct mt_err err = {0};
    struct mt_cmdline cmdline;
    if (getpid() != 1) {
        if (argc == 2 && MT_STREQ(argv[1], "--version")) {
            printf("moat-init %s proto %d-%d\n", MOAT_VERSION, MT_GUEST_PROTO_MIN, MT_GUEST_PROTO_MAX);
            return 0;
        }
        fprintf(stderr, "moat-init is the first process of a microVM and runs only there; try --version\n");
        return 2;
    }
    if (mt_mounts_early(&err) < 0)
        give_up("boot_timeout", &err);
    hold_standard_fds();
    mt_say_open();
    (void)reboot(RB_DISABLE_CAD);
    (void)mt_readfile_put("/proc/self/oom_score_adj", "-1000", NULL);
    int signal_fd = open_signals();
    if (mt_modules_load(MODULES_LIST, &err) < 0)
        give_up("boot_timeout", &err);
    mt_modules_forget(MODULES_LIST);
    read_cmdline(&cmdline);
    if (mt_net_loopback(&err) < 0)
        mt_say(MT_SAY_WARN, "%s", err.msg);
    pid1.slow = under_tcg();
    mt_pid1_init(&pid1, &cmdline, line_buf, sizeof line_buf,
                 (struct mt_guest_mem){.base = config_mem, .cap = sizeof config_mem},
                 (struct mt_guest_mem){.base = message_mem, .cap = sizeof message_mem});
    while (pid1.stage != MT_PID1_GONE)
        one_turn(signal_fd);
    reset_machine();
}
