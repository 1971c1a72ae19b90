/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of the guest as one state machine: handshake, prestart, running, stopping, ending, reporting.
 * Takes events (a line from the host, a dead child, a deadline) and acts; main.c waits for them.
 */
#pragma once

#include <sys/types.h>

#include "init/boot.h"
#include "init/channel.h"
#include "init/exec.h"
#include "init/logs.h"
#include "init/pressure.h"
#include "init/quiesce.h"
#include "init/stats.h"
#include "init/workload.h"

enum mt_pid1_stage {
    MT_PID1_HANDSHAKE = 0,
    MT_PID1_SECRETS, /**< configured; waits for the secrets that the config announced */ /**< connecting, hello, waiting for config */
    MT_PID1_PRESTART,      /**< a prestart command runs */
    MT_PID1_RUNNING,       /**< the workload runs */
    MT_PID1_STOPPING,      /**< shutdown asked: stop signal sent, grace runs */
    MT_PID1_ENDING,        /**< workload is over: everything else gets TERM, then KILL */
    MT_PID1_DRAINING,      /**< last log bytes on their way */
    MT_PID1_REPORTING,     /**< terminal status sent or wanting to be; waits for bye */
    MT_PID1_GONE,          /**< reset the machine now */
    MT_PID1_STAGE_MAX,
};

struct mt_pid1 {
    enum mt_pid1_stage stage;
    struct mt_cmdline cmdline;
    char kernel[65];
    bool slow; /**< under TCG: longer limits */
    struct mt_channel channel;
    struct mt_logs logs;
    struct mt_stats stats;
    struct mt_guest_config config; /**< in config_mem; valid once @accepted */
    struct mt_guest_mem config_mem, message_mem;
    char config_sha256[65];
    bool accepted;
    struct mt_user user;
    struct mt_workload_env env;
    struct mt_exec exec;
    struct mt_quiesce quiesce;
    struct mt_pressure pressure;
    pid_t pid; /**< of the workload or the prestart command; 0 none */
    size_t prestart_at;
    uint64_t oom_at_start;
    bool killed_by_us;
    struct mt_guest_status last; /**< strings in last_detail and static text */
    char last_detail[MT_GUEST_TEXT_MAX], last_signal[16];
    bool have_last;
    bool unheard; /**< a silent host was dialled again; in the handshake once */
    /* deadlines, CLOCK_MONOTONIC ns; 0 none */
    int64_t handshake_until, heard_until, secrets_until, redial_at, logs_redial_at, prestart_until, kill_at, drain_until, bye_until,
        report_until;
    uint64_t ignored; /**< messages of unknown type or broken lines */
};

/** Everything at rest, stage handshake. @mem blocks and buffers are borrowed for ever. */
void mt_pid1_init(struct mt_pid1 *p, const struct mt_cmdline *cmdline, char *in_buf, size_t in_cap,
                  struct mt_guest_mem config_mem, struct mt_guest_mem message_mem);

/** The control socket is readable or writable, or broken. */
void mt_pid1_control_ready(struct mt_pid1 *p, int64_t now);
/** The log socket is writable or broken. */
void mt_pid1_logs_ready(struct mt_pid1 *p, int64_t now);
/** The child that holds a volume still has something to say. */
void mt_pid1_quiesce_ready(struct mt_pid1 *p, int64_t now);
/** SIGCHLD: reap every child that is dead. */
void mt_pid1_reap(struct mt_pid1 *p, int64_t now);
/** TERM, INT or HUP was sent to init from inside: pass it on. */
void mt_pid1_forward(struct mt_pid1 *p, int signo);
/** Do what is due; called every turn. */
void mt_pid1_tick(struct mt_pid1 *p, int64_t now);
/** Next deadline, or INT64_MAX. */
int64_t mt_pid1_deadline(const struct mt_pid1 *p);
