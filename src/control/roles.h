/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Singleton roles among several moat-control (control-plane.md §1, §16). A role belongs to the session that holds its advisory
 * lock; its row in `leases` carries the epoch, one more with each new holder. What a holder appends relies on the epoch
 * (MT_RELY_LEASE), so a former one that does not know it yet appends nothing. One thread keeps all roles of this process; when
 * its session is lost, all of them are. A holder that stops renewing (stopped, stuck) loses its session to the others.
 */
#pragma once

#include "control/control.h"

enum mt_lead {
    MT_LEAD_SCHEDULER = 0, /* with deploy-controller: one pass does both */
    MT_LEAD_GC,
    MT_LEAD_PROJECTOR,
    MT_LEAD_BACKUPS, /* asks for the backups that are due */
    MT_LEAD_MAX
};

struct mt_roles;

/** Called on the roles' thread when a role was won or lost. */
typedef void mt_roles_fn(void *arg);

/** The object, holding nothing yet; then its thread, once everybody who is told exists. */
int mt_roles_new(struct mt_control *ctl, mt_roles_fn *changed, void *arg, struct mt_roles **ret, struct mt_err *err);
int mt_roles_start(struct mt_roles *r, struct mt_err *err);
/** Let go of all roles; whoever waits has them within a second. */
void mt_roles_free(struct mt_roles *r);
/** Epoch under which this process holds @role, 0 when it does not. Any thread. */
int64_t mt_roles_epoch(const struct mt_roles *r, enum mt_lead role);
