/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One desired instance on this node: its state, what runs for it, and the moves between phases.
 *
 * inst.c   life: creation, phases, decisions, ends of attempts, saving
 * work.c   jobs on workers: image, prepare, teardown, adoption
 * live.c   the running VM: channels, deadlines, health, stop
 * held.c   volumes of an attempt and their locks
 * told.c   the autopsy of an attempt that failed, until the control plane has it
 * initlog.c what init says of itself, read out of the guest
 * send.c   the config line and the secrets for the guest
 * Loop thread only, but for the jobs of work.c, which see copies and immutable parts.
 */
#pragma once

#include "agent/agent.h"
#include "agent/channel.h"
#include "agent/health.h"
#include "agent/instance/autopsy.h"
#include "agent/instance/initlog.h"
#include "agent/instance/state.h"
#include "agent/logchan.h"
#include "agent/logstore.h"
#include "agent/volumes.h"
#include "base/log.h"

#include <stdatomic.h>

/* What must wait until the state of this moment is on disk; bits of mt_inst.after_*. */
enum mt_after {
    MT_AFTER_SHUTDOWN = 1U << 0, /* send `shutdown` to the guest */
    MT_AFTER_BYE = 1U << 1,      /* acknowledge the terminal status */
    MT_AFTER_REPORT = 1U << 2,   /* let the report go */
};

struct mt_job; /* work.c */

struct mt_inst {
    uint32_t magic;
    struct mt_agent *a;
    struct mt_state st;
    char dir[PATH_MAX];
    struct mt_workload *spec; /* in force; owned; NULL before the first */

    /* what the plan wants; @as points into a->plan and is renewed with it */
    const struct mt_assignment *as;
    int64_t absent_since_ns;
    bool removing; /* stopped, told and not in the plan: the folder goes */
    bool absent; /* missing from the plan and confirmed */

    /* work */
    struct mt_job *job; /* at most one action in flight */
    bool job_waits;     /* for a save that is under way */
    atomic_bool cancelled;
    bool stuck;        /* teardown cannot finish: condition vm_stuck */
    bool waiting_boot; /* image is there, waits for a boot slot */
    const char *detail; /* status_detail of the present phase, or NULL */
    struct mt_rootdisk disk;
    bool have_disk;
    bool check_volumes; /* the guest could not mount one in the attempt before */

    /* locks of the volumes that the attempt may have; closed when its VM is gone for sure */
    struct {
        char volume_id[MT_ID_SIZE];
        int fd;
    } held[MT_VMM_VOLUMES_MAX];
    size_t held_n;

    /* saving */
    bool saving, save_again;
    unsigned after_running, after_next;
    int64_t next_retry_ns, drain_until_ns; /* monotonic counterparts */

    /* the live VM */
    struct mt_vmm *vmm;
    struct mt_vmm_run run;
    char bundle[64]; /* that it was launched with, until its hello; "" */
    int listen_fds[2];
    struct mt_source *proc_src[MT_VMM_PROCS_MAX];
    struct mt_source *console_src;
    struct mt_source *deadline; /* of the present phase */
    struct mt_source *tick;     /* ping and liveness */
    const char *deadline_what;
    struct mt_channel *chan;
    struct mt_logchan *logchan;
    struct mt_log_store *log;
    bool log_fails; /* the last line could not be written */
    struct mt_log_source *source; /* how far it is, for who forwards lines; with `log` */
    bool breach_told;    /* the first one of this attempt, in the log */
    bool guest_known;    /* hello was accepted once in this attempt */
    bool bye_owed;       /* guest sent a terminal status */
    bool shutdown_sent;
    bool config_acked;
    char config_sha256[65];
    uint64_t grace_ms;
    uint64_t oom_kills;
    int64_t silent_since_ns;
    bool vmm_bad; /* last check failed */
    bool checking;         /* a liveness check of the monitor runs on a worker */
    bool teardown_waiting; /* teardown begins when it is back */
    uint64_t cpu_seen_ns; /* processor time of the VM on the last metrics page; 0 none */
    struct mt_guest_pong pong;
    struct mt_initlog *initlog; /* somebody reads the guest's boot log */

    /* health */
    struct mt_health_conf hconf;
    struct mt_health_count hcount;
    struct mt_probe *probe;
    struct mt_source *health_timer;
    char health_why[96];
    int health_status; /* of the last answer that was a failure, and what it said */
    char health_body[MT_PROBE_BODY_MAX];
    size_t health_body_len;
    int64_t ready_since_ns;
    int64_t ready_total_ns; /* in this attempt */

    /* autopsy */
    const char *end_phase, *end_step; /* where the attempt was when it failed; static texts, NULL while it has not */
    char explain[256];                /* a sentence about it, "" none */
    json_t *autopsy;                  /* of the newest attempt that failed, while the control plane does not have it; owned */
    bool autopsy_unsaved;

    /* reports */
    uint64_t seq;       /* of the newest change */
    bool report_due;    /* that change is not acknowledged yet */
    bool report_now;    /* and may not wait to be coalesced */
};

/* ---- inst.c ------------------------------------------------------------------------------ */

/** Field of a log line: the trace of the request that the plan's wish came of; none when that is not known. */
static inline struct mt_kv mt_inst_kv_trace(const struct mt_inst *in)
{
    return KV_OPT("trace_id", in->as ? in->as->trace_id : NULL);
}

/** New instance with its folder, or the one there is. NULL and @err on failure. */
struct mt_inst *mt_inst_get(struct mt_agent *a, const char *instance_id, struct mt_err *err);
/** Load every state folder at start; broken ones are set aside and logged. */
int mt_inst_load_all(struct mt_agent *a, struct mt_err *err);
/** Free memory and descriptors; processes and files stay. */
void mt_inst_free(struct mt_inst *in);
/** Decide and act: the one entry of the reconcile loop. */
void mt_inst_look(struct mt_inst *in);
/** The only place where a phase changes. */
void mt_inst_set_phase(struct mt_inst *in, enum mt_phase to, const char *why);
/** Write state.json soon; @after is done once what is in memory now is on disk. */
void mt_inst_save(struct mt_inst *in, unsigned after);
/** Something visible changed: make a report. @now: bypass coalescing (ruling R23). */
void mt_inst_report(struct mt_inst *in, bool now);
/** Set the end of the attempt unless it has one. */
void mt_inst_end(struct mt_inst *in, enum mt_reason reason, const char *detail);
/** The attempt's undo list is empty: restart, rest, or be done. */
void mt_inst_attempt_over(struct mt_inst *in);
/** The control plane has the report numbered @seq. */
void mt_inst_acked(struct mt_inst *in, uint64_t seq);
/** Remember where the attempt is, unless it has failed already. */
void mt_inst_note_place(struct mt_inst *in);
/** May the instance be forgotten now? */
bool mt_inst_removable(const struct mt_inst *in);
/** Remove its folder and free it; only when removable. */
void mt_inst_remove(struct mt_inst *in);
/** True when the planned end of the platform has nothing left to do here. */
bool mt_inst_at_rest(const struct mt_inst *in);

/* ---- told.c ------------------------------------------------------------------------------ */

/** The attempt failed and is taken down: make its record, to be saved with the state and sent with the next report. */
void mt_inst_make_autopsy(struct mt_inst *in, const char *console, size_t console_len, const struct mt_autopsy_tail *tail, uint64_t oom_cgroup);
/** After an agent start: the record that was not told yet, if there is one. */
void mt_inst_load_autopsy(struct mt_inst *in);
/** Write @record to @dir; on a worker. */
int mt_inst_save_autopsy(const char *dir, const json_t *record, struct mt_err *err);
/** The control plane has the record of @boot_id. */
void mt_inst_autopsy_told(struct mt_inst *in, const char *boot_id);
/** Boot id of the record that waits, NULL none. */
const char *mt_inst_autopsy_boot(const struct mt_inst *in);

/* ---- work.c ------------------------------------------------------------------------------ */

/** Begin an attempt with the assignment's spec (phase becomes preparing). */
void mt_inst_begin(struct mt_inst *in);
/** The image is there and a boot may start: run the rest of prepare. */
void mt_inst_boot(struct mt_inst *in);
/** Break off a running prepare; the undo follows by itself. */
void mt_inst_cancel(struct mt_inst *in);
/** Undo everything that is recorded (phase becomes teardown). */
void mt_inst_teardown(struct mt_inst *in, const char *why);
/** After an agent start: see whether the VM lives. */
void mt_inst_adopt(struct mt_inst *in);

/** A save is over: start the job that waited for it, if one did. */
void mt_inst_job_start(struct mt_inst *in);
/** The VM as the firewall sees it. */
void mt_inst_fw_vm(const struct mt_inst *in, struct mt_fw_vm *ret);
/** Its limits, 0 none. Loop thread. */
struct mt_limits mt_inst_limits(const struct mt_inst *in);
struct mt_tap;
/** Of them those that its tap has to hold, because its monitor does not (net/limit.h). */
void mt_inst_limit_tap(struct mt_tap *t, const struct mt_agent *a, const struct mt_vmm *vmm, const struct mt_limits *l);

/* ---- held.c ------------------------------------------------------------------------------ */

/** The mounts of its spec, as the plan of now has them, for an attempt. Returns their number. */
size_t mt_inst_attachments(const struct mt_inst *in, struct mt_attachment ret[MT_VMM_VOLUMES_MAX]);
/** Worker. Before anything of the VM is there: each volume present, ours alone, of the right filesystem, as long as it is wanted. The error
 * begins with a reason_detail of volume_attach_failed. Locks that were taken stay in @at, also after a failure. */
int mt_inst_attach_volumes(struct mt_agent *a, const char *instance_id, struct mt_attachment *at, size_t n, struct mt_err *err);
/** The attempt has the lock @fd (ownership passes). */
void mt_inst_hold_volume(struct mt_inst *in, const char *volume_id, int fd);
/** Give the volumes of the attempt back: its VM is gone. */
void mt_inst_release_volumes(struct mt_inst *in);
/** After an agent start, before any job of anybody: take the locks of what the attempt may have. */
void mt_inst_retake_volumes(struct mt_inst *in);

/* ---- live.c ------------------------------------------------------------------------------ */

/** The VM runs (launched or adopted): watch it. */
void mt_inst_live(struct mt_inst *in, bool adopted);
/** Stop watching, close descriptors; before teardown. */
void mt_inst_unlive(struct mt_inst *in);
/** Ask the guest to end, kill it when it does not. */
void mt_inst_stop(struct mt_inst *in, const char *why);
/** Keep serving for the drain delay, then stop. */
void mt_inst_drain(struct mt_inst *in);
/** Continuations of saved states. */
void mt_inst_send_shutdown(struct mt_inst *in);
void mt_inst_send_bye(struct mt_inst *in);

/* ---- send.c ------------------------------------------------------------------------------ */

/** Build and send the config line. Returns 0 or the reason why this workload cannot be configured. */
int mt_inst_send_config(struct mt_inst *in, enum mt_reason *ret_reason, struct mt_err *err);
/** Send what the config announced as a message of its own; nothing to do without secrets. */
int mt_inst_send_secrets(struct mt_inst *in, struct mt_err *err);
