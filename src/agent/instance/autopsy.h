/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is kept of an attempt that failed: one bounded JSON object with the end, the place, out-of-memory figures, the last answer of
 * the health check, the last lines of console and workload (docs/formats/autopsy.md). No environment, no secret: of the workload only
 * what it printed and answered itself. Needs files and the model, knows nothing of the loop.
 */
#pragma once

#include "agent/instance/state.h"
#include "base/err.h"
#include "model/workload.h"

#define MT_AUTOPSY_MAX 16384  /* bytes of the whole text */
#define MT_AUTOPSY_LINES 20   /* of the console, and of the workload */
#define MT_AUTOPSY_BODY 512   /* bytes of the health check's last answer */

/** The last lines a workload printed in one attempt, oldest first, as a JSON array; "[]" when there are none. */
struct mt_autopsy_tail {
    size_t n;
    struct mt_autopsy_line {
        int64_t ts_us;
        uint8_t stream;
        uint16_t len;
        char text[400]; /* cut */
    } line[MT_AUTOPSY_LINES];
};

/** Read the tail of attempt @boot out of the node's log segments; an empty one when there is none or it cannot be read. Blocks. */
void mt_autopsy_tail(const char *logs_dir, const char *instance_id, uint32_t boot, struct mt_autopsy_tail *ret);

struct mt_autopsy_health {
    const struct mt_health *check; /* NULL: the attempt had none, or did not get so far */
    const char *error;             /* last error, "" none */
    int status;                    /* of the last HTTP answer, 0 none */
    const char *body;              /* its first bytes, as they came */
    size_t body_len;
    uint32_t failures; /* in a row */
};

struct mt_autopsy_in {
    const struct mt_state *st; /* with its end */
    const char *phase;         /* phase the attempt was in when it failed */
    const char *step;          /* status_detail of that moment, "" none */
    const char *explain;       /* a sentence for people, "" none */
    const char *console;       /* tail of the serial console */
    size_t console_len;
    const struct mt_autopsy_tail *tail;
    uint64_t oom_guest, oom_cgroup, memory_bytes, memory_available_bytes; /* the last 0: the guest never said */
    struct mt_autopsy_health health;
    int64_t ended_us;
};

/** The record as JSON text of at most MT_AUTOPSY_MAX bytes, malloc'ed; lines are left out when it would be longer. NULL: out of memory. */
char *mt_autopsy_text(const struct mt_autopsy_in *in);

#define MT_AUTOPSY_CONSOLE_LINE 200
/**
 * What of a serial console is worth keeping: its last lines, or those around a panic, malloc'ed (NULL: out of memory), and in @ret_line the one that
 * tells most about why a VM died: a panic or an out-of-memory report, else the last. @text has @n bytes and room for one more; it is cut at its end.
 */
char *mt_autopsy_console(char *text, size_t n, size_t *ret_len, char ret_line[MT_AUTOPSY_CONSOLE_LINE]);
/** Is that line the kernel's own last word that no memory was left and nobody to kill? The guest could not report it. */
bool mt_autopsy_says_oom(const char *line);
