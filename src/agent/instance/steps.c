/* SPDX-License-Identifier: Apache-2.0 */
/* Step names and kill points. See steps.h. */
#include "agent/instance/steps.h"

#include "base/assert.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static const char *const step_names[MT_STEP_MAX] = {
    [MT_STEP_SLOT] = "slot",         [MT_STEP_IMAGE] = "image", [MT_STEP_VOLUMES] = "volumes", [MT_STEP_SCRATCH] = "scratch",
    [MT_STEP_FIREWALL] = "firewall", [MT_STEP_TAP] = "tap",     [MT_STEP_JAIL] = "jail",
    [MT_STEP_LAUNCH] = "launch",
};

/* X(kind, index, when, name): the one list of kill points */
#define POINTS_OF(X, STEP, step)                                              \
    X(MT_KILL_PREPARE, MT_STEP_##STEP, MT_KILL_RECORDED, "prepare." step ".recorded") \
    X(MT_KILL_PREPARE, MT_STEP_##STEP, MT_KILL_DONE, "prepare." step ".done")
#define UNDO_OF(X, STEP, step)                                                 \
    X(MT_KILL_TEARDOWN, MT_STEP_##STEP, MT_KILL_RECORDED, "teardown." step ".recorded") \
    X(MT_KILL_TEARDOWN, MT_STEP_##STEP, MT_KILL_DONE, "teardown." step ".done")
#define LIFE(X, WHAT, what) X(MT_KILL_LIFE, MT_LIFE_##WHAT, MT_KILL_RECORDED, "life." what)
#define VOLUME(X, WHAT, what) X(MT_KILL_VOLUME, MT_KILL_VOLUME_##WHAT, MT_KILL_RECORDED, "volume." what)
#define POINTS(X)                    \
    POINTS_OF(X, SLOT, "slot")       \
    POINTS_OF(X, IMAGE, "image")     \
    POINTS_OF(X, VOLUMES, "volumes") \
    POINTS_OF(X, SCRATCH, "scratch") \
    POINTS_OF(X, FIREWALL, "firewall") \
    POINTS_OF(X, TAP, "tap")         \
    POINTS_OF(X, JAIL, "jail")       \
    X(MT_KILL_PREPARE, MT_STEP_LAUNCH, MT_KILL_RECORDED, "prepare.launch.recorded") \
    LIFE(X, HELD, "held")            \
    X(MT_KILL_PREPARE, MT_STEP_LAUNCH, MT_KILL_DONE, "prepare.launch.done") \
    LIFE(X, CONFIG_SENT, "config_sent") \
    LIFE(X, STARTED, "started")      \
    LIFE(X, READY, "ready")          \
    LIFE(X, DRAINING, "draining")    \
    LIFE(X, STOPPING, "stopping")    \
    LIFE(X, EXITED, "exited")        \
    UNDO_OF(X, LAUNCH, "launch")     \
    UNDO_OF(X, JAIL, "jail")         \
    UNDO_OF(X, TAP, "tap")           \
    UNDO_OF(X, FIREWALL, "firewall") \
    UNDO_OF(X, SCRATCH, "scratch")   \
    UNDO_OF(X, VOLUMES, "volumes")   \
    UNDO_OF(X, IMAGE, "image")       \
    UNDO_OF(X, SLOT, "slot")         \
    LIFE(X, STOPPED, "stopped")      \
    VOLUME(X, RESERVED, "reserved")  \
    VOLUME(X, FORMATTED, "formatted") \
    VOLUME(X, NAMED, "named")        \
    VOLUME(X, EXTENDED, "extended")  \
    VOLUME(X, GROWN, "grown")        \
    VOLUME(X, CHECKED, "checked")    \
    VOLUME(X, REMOVED, "removed")    \
    VOLUME(X, RESTORE_RESERVED, "restore_reserved") \
    VOLUME(X, RESTORE_FETCHED, "restore_fetched") \
    VOLUME(X, RESTORE_CHECKED, "restore_checked") \
    VOLUME(X, RESTORE_NAMED, "restore_named") VOLUME(X, SNAPPED, "snapped") \
    VOLUME(X, PROBE_PREPARED, "probe_prepared") VOLUME(X, PROBE_LAUNCHED, "probe_launched") \
    VOLUME(X, PROBE_STARTED, "probe_started") VOLUME(X, PROBE_ENDED, "probe_ended")

#define X_ENTRY(k, i, w, n) {(k), (i), (w), (n)},
static const struct point {
    enum mt_kill_kind kind;
    int index;
    enum mt_kill_when when;
    const char *name;
} points[] = {POINTS(X_ENTRY)};

static const struct point *armed; /* written once before any thread starts */

const char *mt_step_name(enum mt_step s)
{
    return (unsigned)s < MT_STEP_MAX ? step_names[s] : "invalid";
}

bool mt_step_parse(const char *name, enum mt_step *ret)
{
    for (int i = 0; i < MT_STEP_MAX; i++) {
        if (strcmp(step_names[i], name) == 0) {
            *ret = (enum mt_step)i;
            return true;
        }
    }
    return false;
}

size_t mt_kill_count(void)
{
    return MT_ARRAY_LEN(points);
}

const char *mt_kill_name(size_t i)
{
    MT_ASSERT(i < MT_ARRAY_LEN(points));
    return points[i].name;
}

bool mt_kill_init(const char *name)
{
    armed = NULL;
    if (!name || !*name)
        return true;
    for (size_t i = 0; i < MT_ARRAY_LEN(points); i++) {
        if (strcmp(points[i].name, name) == 0)
            armed = &points[i];
    }
    return armed != NULL;
}

void mt_kill_here(enum mt_kill_kind kind, int index, enum mt_kill_when when)
{
    if (!armed || armed->kind != kind || armed->index != index)
        return;
    if (kind != MT_KILL_LIFE && kind != MT_KILL_VOLUME && armed->when != when)
        return;
    (void)kill(getpid(), SIGKILL);
    for (;;)
        (void)pause(); /* another thread may run on until the signal lands; this one does nothing more */
}
