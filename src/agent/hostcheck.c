/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/hostcheck.h"

#include "agent/skew.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/spawn.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NOFILE_LEAST 1048576u
#define SKEW_MOST_MS 1000
#define UID_FIRST 200000u /* of slot 0 (runtime.md §0), up to the last slot's */
#define UID_LAST 265535u

enum item { KERNEL, NFTABLES, E2FSPROGS, FORWARDING, MOUNTS, UIDS, CLOCK, NOFILE, OPENAT2, CGROUPS, TUN, FOLDERS, SWAP, KSM, SMT, INODES, OVERLAY };

static const struct {
    const char *check, *condition;
    bool may_accept;
} items[MT_HOSTCHECK_ROWS] = {
    [KERNEL] = {"agent.kernel", "host_kernel", false},
    [NFTABLES] = {"agent.nftables", "host_nftables", false},
    [E2FSPROGS] = {"agent.e2fsprogs", "host_e2fsprogs", false},
    [FORWARDING] = {"agent.forwarding", "host_forwarding", false},
    [MOUNTS] = {"agent.mounts", "host_mounts", false},
    [UIDS] = {"agent.uids", "host_uids", false},
    [CLOCK] = {"agent.clock", "host_clock", false},
    [NOFILE] = {"agent.nofile", "host_nofile", true},
    [OPENAT2] = {"agent.openat2", "host_openat2", false},
    [CGROUPS] = {"agent.cgroups", "host_cgroups", false},
    [TUN] = {"agent.tun", "host_tun", false},
    [FOLDERS] = {"agent.folders", "host_folders", false},
    [SWAP] = {"agent.swap", "host_swap", true},
    [KSM] = {"agent.ksm", "host_ksm", true},
    [SMT] = {"agent.smt", "host_smt", true},
    [INODES] = {"agent.inodes", "host_inodes", true},
    [OVERLAY] = {"agent.overlay", "host_overlay", false},
};

static const char *name_of(size_t i)
{
    return items[i].check + sizeof "agent." - 1;
}

bool mt_hostcheck_may_accept(const char *item)
{
    for (size_t i = 0; i < MT_HOSTCHECK_ROWS; i++)
        if (items[i].may_accept && MT_STREQ(name_of(i), item))
            return true;
    return false;
}

/* What is wrong with @i counts as much as this. */
static int bad(const struct mt_hostcheck *h, enum item i)
{
    if (!items[i].may_accept)
        return 2;
    for (size_t k = 0; k < h->n_accepted; k++)
        if (MT_STREQ(h->accepted[k], name_of(i)))
            return 1;
    return h->strict;
}

__attribute__((format(printf, 5, 6))) static void row(struct mt_hostcheck_row *rows, enum item i, int level, const char *mend, const char *fmt, ...)
{
    va_list ap;
    rows[i] = (struct mt_hostcheck_row){.check = items[i].check, .condition = items[i].condition, .level = level, .mend = mend};
    va_start(ap, fmt);
    (void)vsnprintf(rows[i].finding, sizeof rows[i].finding, fmt, ap);
    va_end(ap);
}

static void kernel(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    unsigned major = 0, minor = 0;
    bool known = sscanf(h->release, "%u.%u", &major, &minor) == 2;
    row(r, KERNEL, known && (major > 6 || (major == 6 && minor >= 1)) ? 0 : 2, "apt-get install linux-image-amd64, and reboot: 6.1 is the least", "Linux %s", h->release);
}

static bool there(const struct mt_hostcheck *h, const char *name)
{
    char path[PATH_MAX];
    if (!h->programs)
        return mt_find_program(name, NULL, path, sizeof path, NULL) == 0;
    return mt_fmt(path, sizeof path, NULL, "%s/%s", h->programs, name) == 0 && access(path, X_OK) == 0;
}

static void tools(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char *const names[] = {"mkfs.ext4", "e2fsck", "resize2fs"};
    static const char mend[] = "apt-get install e2fsprogs";
    const char *missing = NULL;
    unsigned major = 0, minor = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !missing; i++)
        missing = there(h, names[i]) ? NULL : names[i];
    bool old = sscanf(h->e2fs_version, "%u.%u", &major, &minor) == 2 && (major < 1 || (major == 1 && minor < 46));
    if (missing)
        row(r, E2FSPROGS, 2, mend, "%s is missing", missing);
    else if (old)
        row(r, E2FSPROGS, 2, mend, "e2fsprogs %.20s, 1.46 is the least", h->e2fs_version);
    else
        row(r, E2FSPROGS, 0, mend, "mkfs.ext4, e2fsck, resize2fs%s%.20s", h->e2fs_version[0] ? " of " : "", h->e2fs_version);
    bool have = there(h, "nft");
    row(r, NFTABLES, have ? 0 : 2, "apt-get install nftables", have ? "nft" : "nft is missing: no VM gets a firewall, so none starts");
}

static void forwarding(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    char path[PATH_MAX], text[16] = "";
    mt_auto_file FILE *f = mt_fmt(path, sizeof path, NULL, "%s/sys/net/ipv6/conf/all/forwarding", h->proc) == 0 ? fopen(path, "re") : NULL;
    if (!f || !fgets(text, sizeof text, f))
        row(r, FORWARDING, 2, "boot without ipv6.disable=1", "this kernel has no IPv6");
    else
        row(r, FORWARDING, text[0] == '0' && h->forwards ? 2 : 0, "sysctl -w net.ipv6.conf.all.forwarding=1", "IPv6 forwarding is %s",
            text[0] != '0' ? "on" : h->forwards ? "off: nothing reaches a VM from another machine" : "off, and not needed by one machine alone");
}

static void overlay(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    bool clash = h->overlay_clash && h->overlay_clash[0];
    row(r, OVERLAY, clash ? 2 : 0, "ip -6 route: take the route away, or build the cluster with another cluster_prefix",
        clash ? "a route of another network leads into the cluster's prefix: %.80s" : "no other network has the cluster's prefix%s",
        clash ? h->overlay_clash : "");
}

static void mounts(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char mend[] = "mount -o remount,dev,exec on the filesystem of jail_dir, and the same in /etc/fstab";
    struct statvfs v;
    if (statvfs(h->jail_dir, &v) < 0)
        row(r, MOUNTS, 2, mend, "the folder of jails cannot be read");
    else
        row(r, MOUNTS, v.f_flag & (ST_NODEV | ST_NOEXEC) ? 2 : 0, mend, "the filesystem of jails is mounted %s",
            v.f_flag & ST_NODEV ? "nodev: no VM can open its devices" : v.f_flag & ST_NOEXEC ? "noexec: no monitor can run in it" : "with dev and exec");
}

/* Name and number of an entry that has a number of ours. */
static bool taken(const char *file, char name[64], uint64_t *number)
{
    char line[1024];
    mt_auto_file FILE *f = fopen(file, "re");
    while (f && fgets(line, sizeof line, f)) {
        char *second = strchr(line, ':'), *third = second ? strchr(second + 1, ':') : NULL;
        char *end = third ? third + 1 + strcspn(third + 1, ":\n") : NULL;
        if (!end)
            continue;
        *second = *end = '\0';
        if (mt_parse_u64(third + 1, UID_FIRST, UID_LAST, number, NULL) == 0) {
            (void)snprintf(name, 64, "%.63s", line);
            return true;
        }
    }
    return false;
}

static void numbers(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char mend[] = "usermod -u / groupmod -g: give it a number outside of 200000 to 265535, which are those of VMs";
    char name[64];
    uint64_t number;
    if (taken(h->passwd, name, &number))
        row(r, UIDS, 2, mend, "user '%s' has the number %llu of a VM", name, (unsigned long long)number);
    else if (taken(h->group, name, &number))
        row(r, UIDS, 2, mend, "group '%s' has the number %llu of a VM", name, (unsigned long long)number);
    else
        row(r, UIDS, 0, mend, "200000 to 265535 are nobody else's");
}

static bool read_line(const char *dir, const char *name, char *ret, size_t size)
{
    char path[PATH_MAX];
    mt_auto_file FILE *f = mt_fmt(path, sizeof path, NULL, "%s/%s", dir, name) == 0 ? fopen(path, "re") : NULL;
    if (!f || !fgets(ret, (int)size, f))
        return false;
    ret[strcspn(ret, "\n")] = '\0';
    return true;
}

/* A device whose pages cannot be read from a disk without a key: dm-crypt, or memory itself. */
static bool sealed(const struct mt_hostcheck *h, const char *device)
{
    char real[PATH_MAX], name[PATH_MAX], text[256];
    const char *base = realpath(device, real) ? strrchr(real, '/') : NULL;
    if (!base)
        return false;
    if (mt_fmt(name, sizeof name, NULL, "block%s/dm/uuid", base) == 0 && read_line(h->sys, name, text, sizeof text))
        return strncmp(text, "CRYPT-", 6) == 0;
    if (strncmp(base, "/zram", 5) != 0 || mt_fmt(name, sizeof name, NULL, "block%s/backing_dev", base) < 0)
        return false;
    return !read_line(h->sys, name, text, sizeof text) || MT_STREQ(text, "none");
}

static void swap(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char mend[] = "swapoff -a, and its line out of /etc/fstab (or swap on dm-crypt): memory of VMs must not reach a disk";
    char path[PATH_MAX], line[1024];
    bool any = false;
    mt_auto_file FILE *f = mt_fmt(path, sizeof path, NULL, "%s/swaps", h->proc) == 0 ? fopen(path, "re") : NULL;
    for (size_t n = 0; f && fgets(line, sizeof line, f); n++) {
        line[strcspn(line, " \t\n")] = '\0';
        if (n == 0 || !line[0])
            continue;
        if (!sealed(h, line)) {
            row(r, SWAP, bad(h, SWAP), mend, "swap is on and not encrypted: %.80s", line);
            return;
        }
        any = true;
    }
    row(r, SWAP, 0, mend, any ? "swap is encrypted" : "swap is off");
}

static void sharing(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    char text[32];
    bool ksm = read_line(h->sys, "kernel/mm/ksm/run", text, sizeof text) && text[0] == '1';
    row(r, KSM, ksm ? bad(h, KSM) : 0, "echo 2 > /sys/kernel/mm/ksm/run (systemctl disable --now ksm ksmtuned)", ksm ? "KSM is on: VMs can tell what is in each other's memory" : "KSM is off");
    bool smt = read_line(h->sys, "devices/system/cpu/smt/active", text, sizeof text) && text[0] == '1';
    row(r, SMT, smt ? bad(h, SMT) : 0, "echo off > /sys/devices/system/cpu/smt/control, or in agent.toml: host_accepted = [\"smt\"]",
        smt ? "SMT is on: two VMs may run on one core at a time" : "SMT is off");
}

static void folders(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char mend[] = "jail_dir, images_dir, scratch_dir and storage.dir of /etc/moat/agent.toml: set them to one filesystem, systemctl restart moat-agent";
    struct stat jail, st;
    struct statvfs v;
    const char *apart = NULL;
    bool known = stat(h->jail_dir, &jail) == 0; /* when not, MOUNTS says so */
    for (size_t i = 0; known && i < sizeof h->linked / sizeof h->linked[0] && !apart && h->linked[i]; i++)
        apart = stat(h->linked[i], &st) == 0 && st.st_dev == jail.st_dev ? NULL : h->linked[i];
    row(r, FOLDERS, apart ? 2 : 0, mend, apart ? "'%.90s' is not on the filesystem of jails" : "jails and what is linked into them on one filesystem", apart);
    bool full = statvfs(h->data_dir, &v) == 0 && v.f_files > 0 && v.f_favail <= v.f_files / 10;
    row(r, INODES, full ? bad(h, INODES) : 0, "df -i names the filesystem; remove what is not needed, or mkfs with more inodes",
        full ? "not more than 10 %% of inodes are free" : "more than 10 %% of inodes are free");
}

static void limits(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    /* runtime.md §22 says a second, scheduling-and-operations.md §1 degrades a node from five on: between them it is told */
    int64_t skew = h->skew_ms < 0 ? -h->skew_ms : h->skew_ms;
    bool off = skew > SKEW_MOST_MS;
    row(r, CLOCK, skew > MT_SKEW_DEGRADED_MS ? 2 : off ? 1 : 0, "systemctl restart systemd-timesyncd (apt-get install systemd-timesyncd)",
        off ? "the clock is off by %lld ms at least" : "within a second of the control plane's", (long long)h->skew_ms);
    row(r, NOFILE, h->nofile < NOFILE_LEAST ? bad(h, NOFILE) : 0, "systemctl edit moat-agent: LimitNOFILE=1048576", "%llu descriptors", (unsigned long long)h->nofile);
    row(r, OPENAT2, h->openat2 ? 0 : 2, "let it through what filters system calls: a container's profile, or RestrictSUIDSGID= of the unit",
        h->openat2 ? "openat2 is there" : "openat2 is refused: no folder of a jail can be entered safely");
    bool tun = access(h->tun, R_OK | W_OK) == 0;
    row(r, TUN, tun ? 0 : 2, "modprobe tun", tun ? "%s" : "%s cannot be opened: no VM has a network", h->tun);
}

/* A cgroup2 mount without the option; where the mounts cannot be read nothing is found. */
static bool slow_moves(const struct mt_hostcheck *h)
{
    char path[PATH_MAX], line[1024];
    bool slow = false;
    mt_auto_file FILE *f = mt_fmt(path, sizeof path, NULL, "%s/self/mounts", h->proc) == 0 ? fopen(path, "re") : NULL;
    while (f && fgets(line, sizeof line, f))
        slow |= strstr(line, " cgroup2 ") && !strstr(line, "favordynmods");
    return slow;
}

static void cgroups(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char mend[] = "boot with systemd.unified_cgroup_hierarchy=1: cgroup v2 with cpu, memory, io and pids";
    if (h->cgroups < 0)
        row(r, CGROUPS, 1, mend, "not known before there is a driver");
    else if (h->cgroups == 1)
        row(r, CGROUPS, h->needs_v2 ? 2 : 1, mend, "v1: shares and memory limit, no cgroup.kill");
    else if (h->cgroups == 2 && h->strict == 2 && slow_moves(h)) /* runtime.md §7.3: SHOULD, so it never blocks */
        row(r, CGROUPS, 1, "mount -o remount,favordynmods /sys/fs/cgroup (for good: a unit that does it before moat-agent.service)",
            "v2, without favordynmods: each VM waits longer for its cgroup");
    else
        row(r, CGROUPS, h->cgroups == 2 ? 0 : 2, mend, h->cgroups == 2 ? "v2" : "no controllers for cpu, memory, io and pids");
}

void mt_hostcheck(const struct mt_hostcheck *h, struct mt_hostcheck_row ret[MT_HOSTCHECK_ROWS])
{
    kernel(h, ret);
    tools(h, ret);
    forwarding(h, ret);
    overlay(h, ret);
    mounts(h, ret);
    numbers(h, ret);
    limits(h, ret);
    cgroups(h, ret);
    swap(h, ret);
    sharing(h, ret);
    folders(h, ret);
}
