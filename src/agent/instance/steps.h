/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of a boot attempt, in order, and the points at which a test may end the agent.
 *
 * Every step is recorded in the undo list of state.json before it acts; teardown works the list off
 * in reverse. The table here is what `moat-agent --list-steps` prints and what the scenario that
 * kills the agent everywhere is driven by. Knows nothing of what a step does.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mt_step {
    MT_STEP_SLOT = 0, /* slot number, and with it uid, tap name, MACs */
    MT_STEP_IMAGE,    /* root disk there and pinned */
    MT_STEP_VOLUMES,  /* volumes' locks; nothing of them on the disk */
    MT_STEP_SCRATCH,  /* scratch disk made */
    MT_STEP_FIREWALL, /* set elements of the VM, before its tap is up */
    MT_STEP_TAP,      /* tap, address, route, neighbour */
    MT_STEP_JAIL,     /* jail folder, cgroup, vsock listeners */
    MT_STEP_LAUNCH,   /* VMM processes */
    MT_STEP_MAX
};

/** Bit of a step in an undo list. */
#define MT_STEP_BIT(s) (1U << (s))
/** Every bit an undo list may hold. */
#define MT_STEP_ALL ((1U << MT_STEP_MAX) - 1U)

/** Name of a step ("scratch"); never NULL. */
const char *mt_step_name(enum mt_step s);
/** Step of a name; false when unknown. */
bool mt_step_parse(const char *name, enum mt_step *ret);

/** Where in a step the agent may be told to die. */
enum mt_kill_when {
    MT_KILL_RECORDED = 0, /* written down, not done */
    MT_KILL_DONE,         /* done, and what follows not written down */
    MT_KILL_WHEN_MAX
};

/** What kind of point: a step of prepare, the undo of one, or a turn of the life itself. */
enum mt_kill_kind { MT_KILL_PREPARE = 0, MT_KILL_TEARDOWN, MT_KILL_LIFE, MT_KILL_VOLUME, MT_KILL_KIND_MAX };

/** Points of the life between prepare and teardown. */
enum mt_kill_life {
    MT_LIFE_HELD = 0,     /* processes held at their gate, recorded, not yet released */
    MT_LIFE_CONFIG_SENT,  /* guest got its config */
    MT_LIFE_STARTED,      /* `started` recorded */
    MT_LIFE_READY,        /* `ready` recorded */
    MT_LIFE_DRAINING,     /* `draining` recorded */
    MT_LIFE_STOPPING,     /* `stopping` recorded, shutdown not sent */
    MT_LIFE_EXITED,       /* exit recorded, `bye` not sent */
    MT_LIFE_STOPPED,      /* `stopped` recorded, not reported */
    MT_LIFE_MAX
};

/** Points of the steps on one volume (volume/steps.h). */
enum mt_kill_volume {
    MT_KILL_VOLUME_RESERVED = 0, /* space is reserved under the temporary name */
    MT_KILL_VOLUME_FORMATTED,    /* the filesystem is on it, it has no name yet */
    MT_KILL_VOLUME_NAMED,        /* it is there, not told */
    MT_KILL_VOLUME_EXTENDED,     /* longer, its filesystem not grown yet */
    MT_KILL_VOLUME_GROWN,        /* grown, not told */
    MT_KILL_VOLUME_CHECKED,      /* looked at, perhaps mended, not told */
    MT_KILL_VOLUME_REMOVED,      /* gone, its lock still there, not told */
    MT_KILL_VOLUME_RESTORE_RESERVED, /* a restore has its space, and nothing in it */
    MT_KILL_VOLUME_RESTORE_FETCHED,  /* all is in it, its filesystem not checked */
    MT_KILL_VOLUME_RESTORE_CHECKED,  /* checked, and without a name */
    MT_KILL_VOLUME_RESTORE_NAMED,    /* it is there, not told, its journal still there */
    MT_KILL_VOLUME_SNAPPED,          /* a snapshot is there, not remembered */
    MT_KILL_VOLUME_PROBE_PREPARED,   /* the jail of a proof's probe is there, nothing runs in it */
    MT_KILL_VOLUME_PROBE_LAUNCHED,   /* its VM boots */
    MT_KILL_VOLUME_PROBE_STARTED,    /* the command runs on the volume */
    MT_KILL_VOLUME_PROBE_ENDED,      /* it has ended, and all of it is still there */
    MT_KILL_VOLUME_MAX
};

/** Number of kill points. */
size_t mt_kill_count(void);
/** Name of point @i < mt_kill_count(): "prepare.scratch.recorded", "life.exited", ... */
const char *mt_kill_name(size_t i);

/**
 * The point is reached: when the environment variable MT_TEST_KILL_STEP names it, the process ends
 * itself by SIGKILL. @index: an enum mt_step, mt_kill_life or mt_kill_volume by @kind; @when is ignored for the latter two.
 * Without the variable this is one compare.
 */
void mt_kill_here(enum mt_kill_kind kind, int index, enum mt_kill_when when);

/** Read MT_TEST_KILL_STEP once, at start. Returns false when it names no point. */
bool mt_kill_init(const char *name);
