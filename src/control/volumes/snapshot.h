/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of a snapshot, the same for whoever asks: a user, the schedule, a migration (storage-and-secrets.md §4.2). */
#pragma once

#include "control/control.h"

struct mt_snapshot_new {
    const char *snapshot_id;
    const char *org_id, *app_id, *env_id, *volume_id; /* the volume and who owns it */
    const char *node_id;                              /* where it lives */
    int64_t volume_version;                           /* resource_version of its row as read */
    const char *origin;                               /* scheduled, manual, migration */
    const char *note;                                 /* NULL: none */
    const char *migration_id;                         /* what it is taken for, or NULL */
};

/**
 * Add to @cmd what makes the snapshot: the event, the volume as it was read, that no other snapshot of it is active when the command is
 * appended, and the first key of its backups where it has none. -MT_E_UNAVAILABLE: no master key is loaded.
 */
int mt_snapshot_begin(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_snapshot_new *n, struct mt_err *err);

/** @cmd holds only while nobody restores the snapshot into a volume when it is appended; a proof holds up nobody. */
int mt_snapshot_rely_unread(struct mt_cmd *cmd, const char *snapshot_id, struct mt_err *err);
