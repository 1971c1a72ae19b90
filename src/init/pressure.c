/* SPDX-License-Identifier: Apache-2.0 */
#include "init/pressure.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "init/say.h"

static int open_below(const char *dir, const char *name, int flags)
{
    char path[128];
    return mt_fmt(path, sizeof path, NULL, "%s/%s", dir, name) < 0 ? -1 : open(path, flags | O_CLOEXEC);
}

int mt_pressure_open(struct mt_pressure *p, const char *proc)
{
    char trigger[64];
    *p = (struct mt_pressure){.fd = open_below(proc, "pressure/memory", O_RDWR | O_NONBLOCK),
                              .kill_fd = open_below(proc, "sysrq-trigger", O_WRONLY)};
    int n = snprintf(trigger, sizeof trigger, "some %d %d", MT_PRESSURE_STALL_MS * 1000, MT_PRESSURE_WINDOW_MS * 1000);
    if (p->fd >= 0 && p->kill_fd >= 0 && write(p->fd, trigger, (size_t)n + 1) == n + 1)
        return 0;
    mt_closep(&p->fd);
    mt_closep(&p->kill_fd);
    return -1;
}

bool mt_pressure_count(struct mt_pressure *p, uint64_t total_bytes, uint64_t available_bytes, int64_t now)
{
    /* told at most once a window, and as late as a guest that hardly runs can be */
    bool again = p->windows > 0 && now - p->last_ns <= 2 * MT_PRESSURE_WINDOW_MS * MT_NS_PER_MS;
    p->last_ns = now;
    p->windows = available_bytes >= total_bytes / MT_PRESSURE_LEFT ? 0 : again ? p->windows + 1 : 1;
    if (p->windows < MT_PRESSURE_WINDOWS)
        return false;
    p->windows = 0;
    return true;
}

void mt_pressure_turn(struct mt_pressure *p, short revents, const struct mt_stats *stats, int64_t now)
{
    struct mt_guest_pong mem = {0};
    if (revents & (POLLERR | POLLNVAL)) {
        mt_closep(&p->fd);
        return;
    }
    mt_stats_fill(stats, &mem);
    if (!(revents & POLLPRI) || !mt_pressure_count(p, mem.mem_total_bytes, mem.mem_available_bytes, now))
        return;
    mt_say(MT_SAY_WARN, "memory: %llu KiB are left and all wait for it: calling the OOM killer", (unsigned long long)mem.mem_available_bytes / 1024);
    if (write(p->kill_fd, "f", 1) != 1)
        mt_say(MT_SAY_WARN, "the OOM killer cannot be called");
}
