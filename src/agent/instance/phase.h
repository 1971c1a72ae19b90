/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The phases of one desired instance on this node and the moves between them.
 *
 * Pure: knows no files, no clock, no VM. The table below is the only place that says which phase
 * may follow which; instance.c changes a phase through mt_inst_set_phase() alone, which asks here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/** Phase of an instance. Order is the order of a life; the numbers are never written to disk. */
enum mt_phase {
    MT_PH_NONE = 0,  /* a state folder exists, nothing is held */
    MT_PH_PREPARING, /* steps run, the VMM does not execute guest code yet */
    MT_PH_BOOTING,   /* VMM started, the guest has not reported `started` */
    MT_PH_STARTING,  /* workload runs, never ready in this boot attempt */
    MT_PH_READY,
    MT_PH_UNREADY,
    MT_PH_DRAINING, /* still serving, waiting for the drain delay to end */
    MT_PH_STOPPING, /* `shutdown` sent or about to be, waiting for the VMM to exit */
    MT_PH_TEARDOWN, /* the undo list is worked off */
    MT_PH_BACKOFF,  /* attempt ended, next one at next_retry_at */
    MT_PH_STOPPED,  /* final: stopped as wanted or completed */
    MT_PH_FAILED,   /* final: the restart policy gives up */
    MT_PH_MAX
};

/** Name of a phase as written to state.json and shown by describe; never NULL. */
const char *mt_phase_name(enum mt_phase p);

/** Phase of a name. Returns true and writes *ret when the name is known. */
bool mt_phase_parse(const char *name, enum mt_phase *ret);

/** May @from be followed by @to? */
bool mt_phase_may(enum mt_phase from, enum mt_phase to);

/**
 * Wire status (runtime.md §2.3) of a phase. @crash_loop: a backoff of the 5th or later attempt,
 * which reads `failed` instead of `booting`. Returns a static string, never NULL.
 */
const char *mt_phase_wire(enum mt_phase p, bool crash_loop);

/** True while a VM of this instance may exist and count as a live boot attempt. */
bool mt_phase_live(enum mt_phase p);
