/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of SQL about volumes that several rooms share. */
#pragma once

/* Column @column of the newest backup, s, of the volume of row @v. */
#define MT_SQL_LAST_BACKUP(v, column)                                                                                                    \
    "SELECT " column " FROM snapshots_view s WHERE s.volume_id = " v ".volume_id AND s.status = 'succeeded' AND s.pruned_at IS NULL AND NOT s.damaged" \
    " ORDER BY s.captured_at DESC, s.snapshot_id DESC LIMIT 1"

/* True while an instance that is not observed stopped mounts the volume of row @v (of volumes_view). */
#define MT_SQL_VOLUME_HELD(v)                                                                                              \
    "EXISTS (SELECT 1 FROM instances_view hi JOIN releases_view hr ON hr.release_id = hi.release_id WHERE hi.env_id = " v   \
    ".env_id AND hi.released_at IS NULL AND hi.status <> 'stopped' AND hr.manifest->'processes'->hi.process_type->'mounts'" \
    " @> jsonb_build_array(jsonb_build_object('volume', " v ".name)))"
