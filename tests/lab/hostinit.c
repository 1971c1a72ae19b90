/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PID 1 of a lab host: from the initramfs to a test program, with as few processes as possible (a fork costs 30 ms under TCG).
 *
 * Its root is the root of the machine that runs the tests, read-only over virtiofs, with a tmpfs on top; /data is a real ext4
 * on a scratch disk. /modules.list names the modules to load; /job holds the program, its arguments and its environment
 * ("NAME=value" words first), each ended by NUL. The job's output goes to the virtio console, the kernel's to the serial line.
 * With LAB_KEEP=1 what is written to the root and to /data is on the second disk and there again after a reboot, as on any machine. LAB_MODULES
 * names what its udev would load, by commas.
 * The last line is "LAB-RC n"; then the host is off. With LAB_SYSTEMD=1 among the job's environment systemd becomes PID 1 instead and the
 * job is a service of its (lab.service), in a target that has nothing else but what systemd itself needs; this program starts the job and ends
 * the host for it. Any failure is said on the console and switches the host off as well.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { WORDS = 64, JOB_MAX = 16384 };

static void off(const char *what)
{
    if (what)
        dprintf(2, "LAB-FAILED %s: %s\n", what, strerror(errno));
    sync();
    (void)reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

static void put(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    (void)mkdir(target, 0755);
    if (mount(source, target, type, flags, data) == -1)
        off(target);
}

static void load_modules(void)
{
    char line[256];
    FILE *f = fopen("/modules.list", "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        int fd = open(line, O_RDONLY | O_CLOEXEC);
        if (fd == -1 || (syscall(SYS_finit_module, fd, "", 0) == -1 && errno != EEXIST))
            off(line);
        (void)close(fd);
    }
    if (f)
        (void)fclose(f);
}

static void loopback(void)
{
    struct ifreq r = {.ifr_name = "lo"};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s == -1 || ioctl(s, SIOCGIFFLAGS, &r) == -1)
        off("lo");
    r.ifr_flags |= IFF_UP;
    if (ioctl(s, SIOCSIFFLAGS, &r) == -1)
        off("lo");
    (void)close(s);
}

static void new_root(bool keep)
{
    put("root", "/low", "virtiofs", MS_RDONLY, NULL);
    put(keep ? "/dev/vdb" : "upper", "/up", keep ? "ext4" : "tmpfs", 0, keep ? NULL : "mode=755");
    (void)mkdir("/up/u", 0755);
    (void)mkdir("/up/w", 0755);
    (void)mkdir("/up/data", 0755);
    put("root", "/new", "overlay", 0, "lowerdir=/low,upperdir=/up/u,workdir=/up/w");
    put("mods", "/new/lib/modules", "virtiofs", MS_RDONLY, NULL);
    put("/dev", "/new/dev", NULL, MS_MOVE, NULL);
    if (umount("/proc") == -1)
        off("/proc");
    put("proc", "/new/proc", "proc", 0, NULL);
    put("sys", "/new/sys", "sysfs", 0, NULL);
    put("run", "/new/run", "tmpfs", 0, "mode=755");
    put("pts", "/new/dev/pts", "devpts", 0, NULL);
    put("shm", "/new/dev/shm", "tmpfs", 0, NULL);
    put("cgroup", "/new/sys/fs/cgroup", "cgroup2", 0, NULL);
    if (keep)
        put("/up/data", "/new/data", NULL, MS_BIND, NULL);
    else
        put("/new/dev/vda", "/new/data", "ext4", 0, NULL);
    (void)mkdir("/new/run/lock", 0755);
    if (symlink("/proc/self/fd", "/new/dev/fd") == -1)
        off("/dev/fd");
    /* not pivot_root: an initramfs cannot be left that way. Kernel threads share our root and see the new one too. */
    if (chdir("/new") == -1 || mount(".", "/", NULL, MS_MOVE, NULL) == -1 || chroot(".") == -1 || chdir("/") == -1)
        off("new root");
}

static void write_file(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (fd == -1 || write(fd, data, len) != (ssize_t)len)
        off(path);
    (void)close(fd);
}

/* ---- as PID 1's helper: systemd runs the job ---- */

#define UNITS "/run/systemd/system/"
/* Nothing that a host without devices of its own needs; each costs seconds under emulation. */
static const char *const masked[] = {
    "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service", "systemd-random-seed.service",
    "systemd-update-utmp.service", "systemd-remount-fs.service", "systemd-modules-load.service", "systemd-hwdb-update.service", "systemd-binfmt.service",
    "systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-sysusers.service", "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-setup-dev.service", "systemd-firstboot.service", "systemd-boot-system-token.service", "systemd-machine-id-commit.service",
    "ldconfig.service", "apparmor.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount", "timers.target", "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service", "systemd-network-generator.service", "modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "modprobe@fuse.service", "networking.service", "nftables.service", "blk-availability.service", "lvm2-monitor.service", "lvm2-lvmpolld.socket", "dm-event.socket"};
static const char service[] =
    "[Unit]\nDescription=the test\n[Service]\nType=exec\nExecStart=/run/lab/hostinit job\nExecStopPost=/run/lab/hostinit end\nStandardInput=null\n"
    "StandardOutput=file:/dev/hvc0\nStandardError=inherit\nTimeoutStopSec=5\n";
static const char target[] = "[Unit]\nRequires=basic.target lab.service\nAfter=basic.target\nAllowIsolate=yes\n";
/* Of what multi-user.target has on the machine whose root this is, only ours is started. */
#define ENABLED "/etc/systemd/system/multi-user.target.wants/moat-agent.service"

static void become_systemd(const char *job, size_t len, const char *self, size_t self_len)
{
    char path[128];
    (void)mkdir("/run/lab", 0755);
    (void)mkdir("/run/systemd", 0755);
    (void)mkdir("/run/systemd/system", 0755);
    write_file("/run/lab/job", job, len);
    write_file("/run/lab/hostinit", self, self_len);
    write_file(UNITS "lab.service", service, sizeof service - 1);
    write_file(UNITS "lab.target", target, sizeof target - 1);
    for (size_t i = 0; i < sizeof masked / sizeof masked[0]; i++) {
        (void)snprintf(path, sizeof path, UNITS "%s", masked[i]);
        if (symlink("/dev/null", path) == -1)
            off(path);
    }
    if (access(ENABLED, F_OK) == 0) {
        (void)mkdir(UNITS "lab.target.wants", 0755);
        if (symlink(ENABLED, UNITS "lab.target.wants/moat-agent.service") == -1)
            off(ENABLED);
    }
    /* without one this would be a first boot, at which every unit's preset is applied */
    write_file("/etc/machine-id", "6d6f61746c6162000000000000000001\n", 33);
    (void)execl("/lib/systemd/systemd", "systemd", "--unit=lab.target", "--log-target=kmsg", "--log-level=warning", "--show-status=no", (char *)NULL);
    off("/lib/systemd/systemd");
}

/* Of the service: its end is the host's, unless it ends with the host. systemd tells how it ended. */
static int end_of_job(void)
{
    const char *code = getenv("EXIT_CODE"), *status = getenv("EXIT_STATUS");
    if (code && status && strcmp(code, "killed") == 0 && strcmp(status, "TERM") == 0)
        return 0;
    int fd = open("/dev/hvc0", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    dprintf(fd, "LAB-RC %d\n", code && status && strcmp(code, "exited") == 0 ? atoi(status) : 1);
    (void)tcdrain(fd);
    (void)usleep(100000);
    off(NULL);
    return 0;
}

static void run_job(char *job, size_t len);

static int helper(const char *what)
{
    static char job[JOB_MAX];
    if (strcmp(what, "end") == 0)
        return end_of_job();
    int fd = open("/run/lab/job", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd == -1 ? -1 : read(fd, job, sizeof job - 1);
    if (len > 0)
        run_job(job, (size_t)len);
    return 127;
}

/* ---- */

static void load_more(const char *job, size_t len)
{
    static const char word[] = "LAB_MODULES=";
    for (const char *p = job; p < job + len; p += strlen(p) + 1) {
        char names[256], *argv[16] = {"/sbin/modprobe", "-a"};
        size_t n = 2;
        if (strncmp(p, word, sizeof word - 1) != 0)
            continue;
        (void)snprintf(names, sizeof names, "%s", p + sizeof word - 1);
        for (char *at = strtok(names, ","); at && n < 15; at = strtok(NULL, ","))
            argv[n++] = at;
        pid_t pid = fork();
        if (pid == 0) {
            (void)execv(argv[0], argv);
            _exit(127);
        }
        int status = 1;
        if (pid == -1 || waitpid(pid, &status, 0) == -1 || status != 0)
            off(p);
    }
}

static pid_t start(char *job, size_t len)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    (void)setsid();
    run_job(job, len);
    return -1;
}

/* Never returns. */
static void run_job(char *job, size_t len)
{
    char *env[WORDS + 1] = {NULL}, *argv[WORDS + 1] = {NULL};
    size_t envs = 0, args = 0;
    for (char *p = job; p < job + len; p += strlen(p) + 1) {
        if (args == 0 && strchr(p, '=') && envs < WORDS)
            env[envs++] = p;
        else if (args < WORDS)
            argv[args++] = p;
    }
    (void)execve(argv[0], argv, env);
    dprintf(2, "LAB-FAILED exec %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static bool has_word(const char *job, size_t len, const char *word)
{
    for (const char *p = job; p < job + len; p += strlen(p) + 1)
        if (strcmp(p, word) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    static char job[JOB_MAX], self[1 << 20];
    if (argc == 2 && getpid() != 1)
        return helper(argv[1]);
    put("dev", "/dev", "devtmpfs", 0, NULL);
    put("proc", "/proc", "proc", 0, NULL);
    load_modules();
    int out = open("/dev/hvc0", O_RDWR | O_NOCTTY), in = open("/dev/null", O_RDONLY), fd = open("/job", O_RDONLY);
    if (out == -1 || in == -1 || dup2(in, 0) == -1 || dup2(out, 1) == -1 || dup2(out, 2) == -1)
        off("/dev/hvc0");
    ssize_t len = read(fd, job, sizeof job - 1);
    if (len <= 0)
        off("/job");
    (void)close(fd);
    (void)close(in);
    (void)close(out);
    int own = open("/init", O_RDONLY | O_CLOEXEC);
    ssize_t own_len = read(own, self, sizeof self);
    (void)close(own);
    new_root(has_word(job, (size_t)len, "LAB_KEEP=1"));
    loopback();
    load_more(job, (size_t)len);
    (void)sethostname("lab", 3);
    dprintf(1, "LAB-UP\n");
    if (has_word(job, (size_t)len, "LAB_SYSTEMD=1") && own_len > 0)
        become_systemd(job, (size_t)len, self, (size_t)own_len);
    pid_t pid = start(job, (size_t)len);
    for (;;) {
        int status;
        pid_t ended = wait(&status);
        if (ended == pid || (ended == -1 && errno == ECHILD)) {
            (void)tcdrain(1);
            dprintf(1, "LAB-RC %d\n", ended == -1 ? 126 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
            (void)usleep(100000); /* the console is asynchronous: let the line leave before the power does */
            off(NULL);
        }
    }
}
