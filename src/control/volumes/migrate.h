/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of a migration, the same for an operator who asks for one and for a drain (storage-and-secrets.md §5.2). */
#pragma once

#include "control/control.h"
#include "control/scheduler/place.h"
#include "control/volumes/volume_sql.h"
#include "model/ids.h"

#define MT_MIGRATION_REPLACES "replace" /* reason of one that moves nothing: a volume that is there takes the place of another, whose process is stopped for it */
#define MT_MIGRATION_VOLUMES_MAX 8 /* of one process (storage-and-secrets.md §2.5) */

struct mt_migrating_volume {
    char volume_id[MT_ID_SIZE], new_volume_id[MT_ID_SIZE], name[33], new_name[33];
    uint64_t size_bytes;
    bool backup_enabled;
    int64_t version;
};

/* What is taken on a node by migrations that are only thought of. */
struct mt_migration_booking {
    char node_id[MT_ID_SIZE];
    uint64_t bytes;            /* of volumes */
    struct mt_place_size size; /* of the process, all 0: none */
};

struct mt_migration_new {
    char migration_id[MT_ID_SIZE], org_id[MT_ID_SIZE], app_id[MT_ID_SIZE], env_id[MT_ID_SIZE], process_type[64]; /* "": no process mounts it */
    char source_node_id[MT_ID_SIZE], target_node_id[MT_ID_SIZE];
    const char *reason; /* user, drain, replace */
    struct mt_migrating_volume volumes[MT_MIGRATION_VOLUMES_MAX];
    size_t n;
    struct mt_migration_booking booking; /* result: what it would take on the target */
    const struct mt_migration_booking *booked; /* given: what is to be taken as taken */
    size_t n_booked;
    /* when it was refused */
    const char *code; /* of the problem */
    char why[480];
};

/**
 * What a migration of @volume_id and of all volumes that its process mounts would be. @target NULL: the node is chosen, by the scheduler's own
 * filters for the process and by room for the volumes, among those to which nothing moves at the moment (code `busy`: one of them would do). Returns 1 it can begin, 0 it cannot: @ret->code and @ret->why say so, with the mend; -code.
 */
int mt_migration_plan(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, const char *volume_id, const char *target, struct mt_migration_new *ret, struct mt_err *err);

/** Add to @cmd all that begins it: the job, and for each volume a snapshot, the new volume, and the pre-copy that waits for the snapshot. */
int mt_migration_begin(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_migration_new *m, struct mt_err *err);

/* One volume takes the place of another; all borrowed. */
struct mt_migration_replacement {
    struct mt_cmd_ids ids;
    const char *process_type, *source_node_id, *target_node_id, *volume_id, *new_volume_id;
};

/** Add to @cmd what begins one that replaces: the job alone. @ret_id: its id. */
int mt_migration_begin_replace(struct mt_cmd *cmd, const struct mt_migration_replacement *r, char ret_id[MT_ID_SIZE], struct mt_err *err);

/** Why the process would not be placed on @node_id now, in a word or two; "" it would. */
int mt_migration_refusal(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, const char *process_type, const char *node_id, char ret[64], struct mt_err *err);

/** "data" becomes "data-1", or the first number that is free in the environment, cut so that the whole is a name. */
int mt_volume_spare_name(struct mt_pg *pg, const char *env_id, const char *name, char ret[33], struct mt_err *err);
