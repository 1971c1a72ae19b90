/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backup and restore of the control plane itself (scheduling-and-operations.md §11.1): the database as one snapshot, and of data_dir what is in no
 * database: MAC key, node authority, operator token. Not in it: the master keys, which open it. Format: docs/formats/control-backup.md.
 *
 * A backup is a stream; who writes it to a file gives it its name when it is whole (src/cli/control_backup.c). A restore looks at every byte before it
 * changes anything, wants a database without tables, and fills it in one transaction: killed at any place, there is nothing or all of it.
 */
#pragma once

#include "control/control.h"

/** Write a backup to @fd; what is in it as one line of JSON to @told. */
int mt_save(struct mt_control *ctl, int fd, FILE *told, struct mt_err *err);
/** Read all of the file at @fd, check it, and tell what is in it as one line of JSON. Changes nothing. */
int mt_save_check(struct mt_control *ctl, int fd, FILE *told, struct mt_err *err);
/** mt_save_check, then data_dir and database are made of it. The server starts in recovery mode then, whatever it knew (docs/recovery.md). */
int mt_save_restore(struct mt_control *ctl, int fd, FILE *told, struct mt_err *err);
