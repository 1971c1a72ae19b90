/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent writes down about one instance, and its file.
 *
 * A plain value without pointers: the loop thread owns the live one, a worker that runs steps gets a
 * copy and hands it back. Layout and rules: docs/formats/agent-state.md, runtime.md §4. No secrets.
 */
#pragma once

#include "agent/instance/phase.h"
#include "agent/instance/steps.h"
#include "agent/restart.h"
#include "agent/vmm/vmm.h"
#include "base/err.h"
#include "model/ids.h"

#include <jansson.h>
#include <net/if.h>

#define MT_STATE_FORMAT 1
#define MT_STATE_DETAIL 512
#define MT_STATE_NO_SLOT UINT32_MAX

/** How the latest boot attempt ended; reason[0] == 0: it has not. */
struct mt_end {
    char reason[40];              /* reason code of runtime.md §6 */
    char detail[MT_STATE_DETAIL]; /* reason_detail */
    bool has_exit_code;
    int32_t exit_code; /* 0..255 */
    char signal[16];   /* "SIGSEGV", "" for none */
    bool from_guest;   /* the guest said so itself: not overwritten by what the host sees later */
};

/** Points of the latest attempt in wall time, microseconds since 1970; 0 = not reached. */
struct mt_timeline {
    int64_t plan, prepare, image, disk, network, launch, vm, hello, configured, started, ready;
};

struct mt_state {
    char instance_id[MT_ID_SIZE];
    char env_id[MT_ID_SIZE];
    char boot_id[MT_ID_SIZE]; /* "" before the first attempt */
    uint64_t boot_seq;        /* attempts begun */
    uint64_t generation;
    char spec_hash[65]; /* of spec.json; "" when there is none */
    enum mt_phase phase;
    uint32_t undo; /* MT_STEP_BIT of what may exist */
    uint32_t slot; /* MT_STATE_NO_SLOT without */
    struct mt_vmm_ids vmm;
    char host_boot[40]; /* kernel's boot id when the VM was launched: other = node reboot */
    char address[46];   /* overlay address */
    char digest[72]; /* "sha256:" and 64 digits */
    char driver[16], accel[8]; /* of the VM, as in vmm.h */
    char root_uuid[37], scratch_uuid[37];
    uint64_t seq_reserved; /* report sequence numbers below this may have been used */
    struct mt_restart_counters counters;
    int64_t next_retry_us; /* wall time, 0 = none */
    bool crash_loop;       /* the wait reads `failed` */
    bool planned;          /* the attempt ends because the plan wants it: no backoff, no blame */
    bool interrupted;      /* prepare was broken off by a crash of the agent: no blame either */
    bool stop_reported;    /* final status acknowledged by the control plane */
    char stop_reason[40];  /* planned-stop reason, echoed */
    struct mt_end end;
    struct mt_timeline t;
};

/** A new instance: nothing held, sequence numbers above any that a lost state may have used. */
void mt_state_init(struct mt_state *s, const char *instance_id, int64_t wall_us);

/** "mt" + 5 hex digits of the slot (runtime.md §0). */
void mt_state_tap(const struct mt_state *s, char ret[IFNAMSIZ]);
/** Jail id: ULID of the instance, '-', boot sequence. */
int mt_state_jail_id(const struct mt_state *s, char ret[MT_VMM_JAIL_ID_MAX + 1], struct mt_err *err);

/** State as JSON text with format and crc32c; malloc'ed. -MT_E_NOMEM. */
int mt_state_encode(const struct mt_state *s, char **ret, struct mt_err *err);
/** Decode and check; -MT_E_CORRUPT names what is wrong. */
int mt_state_decode(const char *text, size_t len, struct mt_state *ret, struct mt_err *err);

/** Write @dir/state.json durably. */
int mt_state_save(const char *dir, const struct mt_state *s, struct mt_err *err);
/**
 * Read @dir/state.json. A file that fails its check is moved to state.json.bad.
 * Returns 0, -MT_E_NOT_FOUND (missing or moved aside, @err says which), -MT_E_IO.
 */
int mt_state_load(const char *dir, struct mt_state *ret, struct mt_err *err);

/**
 * Any JSON object with format and crc32c around it: spec.json, plan.json, node.json use the same
 * rule. @doc is not changed. Text is malloc'ed.
 */
int mt_sealed_encode(const json_t *doc, char **ret, struct mt_err *err);
/** Check format and crc32c of @text; the object without the two in @ret (new reference). */
int mt_sealed_decode(const char *text, size_t len, json_t **ret, struct mt_err *err);
/** Write and read of such a file; reading moves a broken one to <path>.bad and says -MT_E_NOT_FOUND. */
int mt_sealed_save(const char *path, const json_t *doc, struct mt_err *err);
int mt_sealed_load(const char *path, size_t max, json_t **ret, struct mt_err *err);
