/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/out.h"

#include "base/clock.h"
#include "base/str.h"

#include <stdio.h>
#include <unistd.h>

static int step_fd = -1;

void mt_bk_out_steps(int fd)
{
    step_fd = fd;
}

bool mt_bk_line(json_t *line)
{
    bool ok = line && json_dumpf(line, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF && fflush(stdout) == 0;
    json_decref(line);
    return ok;
}

void mt_bk_step(const char *name)
{
    char byte;
    if (step_fd < 0)
        return;
    (void)mt_bk_line(json_pack("{s:s}", "step", name));
    while (read(step_fd, &byte, 1) < 0 && errno == EINTR) {
    }
}

void mt_bk_progress(const char *phase, uint64_t done, uint64_t total, uint64_t uploaded)
{
    static const char *last;
    static int64_t told_ns;
    int64_t now = mt_clock_mono();
    if (last && MT_STREQ(last, phase) && now - told_ns < MT_NS_PER_S)
        return;
    last = phase;
    told_ns = now;
    if (!mt_bk_line(json_pack("{s:{s:s,s:I,s:I,s:I}}", "progress", "phase", phase, "bytes_done", (json_int_t)done, "bytes_total", (json_int_t)total,
                              "uploaded_bytes", (json_int_t)uploaded)))
        _exit(3); /* who started us is gone: the next one runs the same again, and two beside each other would do all twice */
}
