/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/hostcheck.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/spawn.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NOFILE_LEAST 1048576u
#define SKEW_MOST_MS 1000
#define UID_FIRST 200000u /* of slot 0 (runtime.md §0), up to the last slot's */
#define UID_LAST 265535u

__attribute__((format(printf, 5, 6))) static void row(struct mt_hostcheck_row *r, const char *check, int level, const char *mend, const char *fmt, ...)
{
    va_list ap;
    *r = (struct mt_hostcheck_row){.check = check, .level = level, .mend = mend};
    va_start(ap, fmt);
    (void)vsnprintf(r->finding, sizeof r->finding, fmt, ap);
    va_end(ap);
}

static void kernel(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    unsigned major = 0, minor = 0;
    bool known = sscanf(h->release, "%u.%u", &major, &minor) == 2;
    row(r, "agent.kernel", known && (major > 6 || (major == 6 && minor >= 1)) ? 0 : 2, "apt-get install linux-image-amd64, and reboot: 6.1 is the least", "Linux %s", h->release);
}

static bool there(const struct mt_hostcheck *h, const char *name)
{
    char path[PATH_MAX];
    if (!h->programs)
        return mt_find_program(name, NULL, path, sizeof path, NULL) == 0;
    return mt_fmt(path, sizeof path, NULL, "%s/%s", h->programs, name) == 0 && access(path, X_OK) == 0;
}

static void tools(const struct mt_hostcheck *h, struct mt_hostcheck_row *nft, struct mt_hostcheck_row *e2)
{
    static const char *const names[] = {"mkfs.ext4", "e2fsck", "resize2fs"};
    const char *missing = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !missing; i++)
        missing = there(h, names[i]) ? NULL : names[i];
    row(e2, "agent.e2fsprogs", missing ? 2 : 0, "apt-get install e2fsprogs", missing ? "%s is missing" : "mkfs.ext4, e2fsck, resize2fs", missing);
    bool have = there(h, "nft");
    row(nft, "agent.nftables", have ? 0 : 2, "apt-get install nftables", have ? "nft" : "nft is missing: no VM gets a firewall, so none starts");
}

static void forwarding(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    char path[PATH_MAX], text[16] = "";
    mt_auto_file FILE *f = mt_fmt(path, sizeof path, NULL, "%s/sys/net/ipv6/conf/all/forwarding", h->proc) == 0 ? fopen(path, "re") : NULL;
    if (!f || !fgets(text, sizeof text, f))
        row(r, "agent.forwarding", 2, "boot without ipv6.disable=1", "this kernel has no IPv6");
    else
        row(r, "agent.forwarding", text[0] == '0' && h->forwards ? 2 : 0, "sysctl -w net.ipv6.conf.all.forwarding=1", "IPv6 forwarding is %s",
            text[0] != '0' ? "on" : h->forwards ? "off: nothing reaches a VM from another machine" : "off, and not needed by one machine alone");
}

static void mounts(const struct mt_hostcheck *h, struct mt_hostcheck_row *r)
{
    static const char mend[] = "mount -o remount,dev,exec on the filesystem of jail_dir, and the same in /etc/fstab";
    struct statvfs v;
    if (statvfs(h->jail_dir, &v) < 0)
        row(r, "agent.mounts", 2, mend, "the folder of jails cannot be read");
    else
        row(r, "agent.mounts", v.f_flag & (ST_NODEV | ST_NOEXEC) ? 2 : 0, mend, "the filesystem of jails is mounted %s",
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
        row(r, "agent.uids", h->strict, mend, "user '%s' has the number %llu of a VM", name, (unsigned long long)number);
    else if (taken(h->group, name, &number))
        row(r, "agent.uids", h->strict, mend, "group '%s' has the number %llu of a VM", name, (unsigned long long)number);
    else
        row(r, "agent.uids", 0, mend, "200000 to 265535 are nobody else's");
}

void mt_hostcheck(const struct mt_hostcheck *h, struct mt_hostcheck_row ret[MT_HOSTCHECK_ROWS])
{
    kernel(h, &ret[0]);
    tools(h, &ret[1], &ret[2]);
    forwarding(h, &ret[3]);
    mounts(h, &ret[4]);
    numbers(h, &ret[5]);
    bool off = h->skew_ms > SKEW_MOST_MS || h->skew_ms < -SKEW_MOST_MS;
    row(&ret[6], "agent.clock", off ? h->strict : 0, "systemctl restart systemd-timesyncd (apt-get install systemd-timesyncd)",
        off ? "the clock is off by %lld ms at least" : "within a second of the control plane's", (long long)h->skew_ms);
    row(&ret[7], "agent.nofile", h->nofile < NOFILE_LEAST ? h->strict : 0, "systemctl edit moat-agent: LimitNOFILE=1048576", "%llu descriptors", (unsigned long long)h->nofile);
}
