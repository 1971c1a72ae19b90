/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator does on the machine of the database, without the API (control-plane.md §17): init, migrate, check-config,
 * verify-log, verify-views, rebuild, append, backup, check-backup, restore, scan-backups, rekey-backups, check-database, audit-checkpoint,
 * check-audit-checkpoint. Results on stdout, reasons on stderr. */
#pragma once

#include "control/control.h"
#include "control/log/append.h"

/** Options of all verbs. */
struct mt_offline_args {
    bool force; /* init: a link although an operator can sign in */
    bool apply;  /* scan-backups: enter what is found */
    const char *verb;
    const char *node;                                      /* scan-backups: home of volumes without a row */
    const char *key;                                       /* checkpoints of the audit log: a file */
    const char *view;                                      /* rebuild: a name or "all" */
    const char *type, *id, *org, *app, *env, *payload, *reason; /* append; payload: JSON or @FILE */
};

/** The record of who corrected the log without the API, and why, in @cmd's transaction. */
int mt_offline_correction(struct mt_cmd *cmd, const char *reason, const char *os_user, struct mt_err *err);
/** True when @verb is one of ours. */
bool mt_offline_verb(const char *verb);
/** Carry it out with a loaded configuration. Exit status: 0 done and good, 1 failed or not good, 2 wrong usage. */
int mt_offline_run(struct mt_control *ctl, const struct mt_offline_args *a);
