/* SPDX-License-Identifier: Apache-2.0 */
#include "init/boot.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "init/etc.h"
#include "init/modules.h"
#include "init/mounts.h"
#include "init/net.h"
#include "init/readfile.h"
#include "init/say.h"

enum { DISK_WAIT_MS = 2000, CLOCK_SLACK_MS = 500 };

int mt_boot_fail(struct mt_boot_failure *ret, const char *reason, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    ret->reason = reason;
    (void)vsnprintf(ret->detail, sizeof ret->detail, fmt, ap);
    va_end(ap);
    return -1;
}

int mt_boot_accept(const struct mt_guest_config *c, const struct mt_cmdline *cmdline, struct mt_boot_failure *ret)
{
    static const char reason[] = "config_fetch_failed";
    if (!MT_STREQ(c->instance_id, cmdline->instance_id) || !MT_STREQ(c->boot_id, cmdline->boot_id))
        return mt_boot_fail(ret, reason, "parse: config is for %s/%s, this is %s/%s", c->instance_id, c->boot_id,
                            cmdline->instance_id, cmdline->boot_id);
    if (c->required_features_count > 0)
        return mt_boot_fail(ret, reason, "unknown_feature: %s", c->required_features[0]);
    if (c->secrets.required && !c->secrets.present)
        return mt_boot_fail(ret, "secrets_missing", "required, but no version exists");
    return 0;
}

static void set_sysctls(void)
{
    static const char *const zero[] = {"accept_ra", "autoconf", "dad_transmits", "accept_dad"};
    static const char *const protect[] = {"protected_hardlinks", "protected_symlinks", "protected_fifos",
                                          "protected_regular"};
    static const char *const where[] = {"all", "default"};
    char path[96];
    for (size_t w = 0; w < 2; w++)
        for (size_t i = 0; i < sizeof zero / sizeof zero[0]; i++)
            if (mt_fmt(path, sizeof path, NULL, "/proc/sys/net/ipv6/conf/%s/%s", where[w], zero[i]) == 0)
                (void)mt_readfile_put(path, "0", NULL);
    for (size_t i = 0; i < sizeof protect / sizeof protect[0]; i++)
        if (mt_fmt(path, sizeof path, NULL, "/proc/sys/fs/%s", protect[i]) == 0)
            (void)mt_readfile_put(path, "1", NULL);
    if (mt_readfile_put("/proc/sys/kernel/panic_on_oops", "1", NULL) < 0 ||
        mt_readfile_put("/proc/sys/kernel/dmesg_restrict", "1", NULL) < 0)
        mt_say(MT_SAY_WARN, "some kernel settings could not be made");
}

static void set_clock(int64_t host_ns)
{
    struct timespec now;
    if (host_ns <= 0 || clock_gettime(CLOCK_REALTIME, &now) != 0)
        return;
    int64_t here = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    int64_t off_ms = (host_ns - here) / 1000000;
    if (off_ms <= CLOCK_SLACK_MS && off_ms >= -CLOCK_SLACK_MS)
        return;
    const struct timespec to = {.tv_sec = host_ns / 1000000000, .tv_nsec = host_ns % 1000000000};
    if (clock_settime(CLOCK_REALTIME, &to) != 0)
        mt_say(MT_SAY_WARN, "clock is off by %lld ms and cannot be set", (long long)off_ms);
}

static int write_etc(const struct mt_guest_config *c, struct mt_err *err)
{
    (void)mkdir("/etc", 0755);
    mt_auto_fd int fd = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '/etc'");
    return mt_etc_write(fd, c->hostname, &c->network, err);
}

int mt_boot_setup(const struct mt_guest_config *c, struct mt_boot_failure *ret)
{
    struct mt_err err = {0};
    int res = mt_modules_wait_device(c->root.lower, DISK_WAIT_MS, &err);
    if (res == 0)
        res = mt_modules_wait_device(c->root.upper, DISK_WAIT_MS, &err);
    if (res == 0)
        res = mt_mounts_root(&c->root, &err);
    if (res == 0)
        res = mt_mounts_system(&c->tmpfs, &err);
    if (res == 0)
        res = mt_mounts_switch(&err);
    if (res < 0)
        return mt_boot_fail(ret, "rootfs_mount_failed", "%s", err.msg);
    if (mkdir("/run/moat", 0700) == 0)
        mt_say_to_file("/run/moat/init.log");
    set_sysctls();
    if (sethostname(c->hostname, strlen(c->hostname)) != 0)
        mt_say(MT_SAY_WARN, "host name cannot be set");
    set_clock(c->time_ns);
    res = mt_net_configure(&c->network, &err);
    if (res < 0)
        return mt_boot_fail(ret, "network_setup_failed", "guest_netlink: %s", err.msg);
    res = write_etc(c, &err);
    if (res < 0)
        return mt_boot_fail(ret, "network_setup_failed", "%s", err.msg);
    return 0;
}
