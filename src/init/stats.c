/* SPDX-License-Identifier: Apache-2.0 */
#include "init/stats.h"

#include <fcntl.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "init/readfile.h"

static int open_below(const char *dir, const char *name)
{
    char path[128];
    if (mt_fmt(path, sizeof path, NULL, "%s/%s", dir, name) < 0)
        return -1;
    return open(path, O_RDONLY | O_CLOEXEC);
}

void mt_stats_open(struct mt_stats *stats, const char *proc, const char *root)
{
    stats->meminfo_fd = open_below(proc, "meminfo");
    stats->vmstat_fd = open_below(proc, "vmstat");
    stats->loadavg_fd = open_below(proc, "loadavg");
    stats->root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

void mt_stats_done(struct mt_stats *stats)
{
    mt_closep(&stats->meminfo_fd);
    mt_closep(&stats->vmstat_fd);
    mt_closep(&stats->loadavg_fd);
    mt_closep(&stats->root_fd);
}

static uint64_t digits(const char **at)
{
    uint64_t v = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++)
        v = v > UINT64_MAX / 100 ? v : v * 10 + (uint64_t)(**at - '0');
    return v;
}

uint64_t mt_stats_value(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *line = text; *line;) {
        if (strncmp(line, key, n) == 0 && line[n] == ' ') {
            line += n + strspn(line + n, " ");
            return digits(&line);
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return 0;
}

uint64_t mt_stats_milli(const char *text)
{
    uint64_t whole = digits(&text), part = 0, scale = 100;
    if (*text++ != '.')
        return 0;
    for (; scale > 0 && *text >= '0' && *text <= '9'; text++, scale /= 10)
        part += (uint64_t)(*text - '0') * scale;
    return whole > UINT64_MAX / 1000 - 1 ? UINT64_MAX : whole * 1000 + part;
}

static const char *whole(int fd, char *buf, size_t cap)
{
    size_t len;
    return fd >= 0 && mt_readfile_fd(fd, buf, cap, &len) == 0 ? buf : "";
}

uint64_t mt_stats_oom_kills(const struct mt_stats *stats)
{
    char buf[16384];
    return mt_stats_value(whole(stats->vmstat_fd, buf, sizeof buf), "oom_kill");
}

void mt_stats_fill(const struct mt_stats *stats, struct mt_guest_pong *ret)
{
    char buf[4096];
    struct sysinfo info;
    struct statfs fs;
    const char *mem = whole(stats->meminfo_fd, buf, sizeof buf);
    ret->mem_total_bytes = mt_stats_value(mem, "MemTotal:") * 1024;
    ret->mem_available_bytes = mt_stats_value(mem, "MemAvailable:") * 1024;
    ret->load1_milli = mt_stats_milli(whole(stats->loadavg_fd, buf, sizeof buf));
    ret->oom_kills = mt_stats_oom_kills(stats);
    if (sysinfo(&info) == 0)
        ret->procs = info.procs;
    if (stats->root_fd >= 0 && fstatfs(stats->root_fd, &fs) == 0)
        ret->rootfs_used_bytes = (uint64_t)(fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
}
