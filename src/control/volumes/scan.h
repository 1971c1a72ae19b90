/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of backups made again from the store, after the database was lost or put back to an older point (storage-and-secrets.md 4.8): a backup exists if its
 * manifest is there and opens, and the row is only its index. Needs the bucket and the master keys, nothing else.
 */
#pragma once

#include "control/control.h"

struct mt_scan_wish {
    bool apply;          /* else it is only told what would be entered */
    const char *node_id; /* home of volumes that the database does not know; NULL: refused when there are any */
    const char *reason, *os_user; /* of the record of a correction */
};

/**
 * @ctl: with cluster_id, pg_conf, appender, keys and its configuration. What is found in the store and in no row is entered: its organisation under its old id with an
 * app and an environment "recovered", the volume as one whose device is missing, its keys, its backups as made by hand, so that nothing is given up by itself.
 * What is there already is left alone, so that it can be run again after any end. The result as one line of JSON to @told.
 */
int mt_scan(struct mt_control *ctl, const struct mt_scan_wish *wish, FILE *told, struct mt_err *err);
