/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of SQL about volumes that several rooms share. */
#pragma once

#include "control/volumes/schedule.h"

/* Column @column of the newest backup, s, of the volume of row @v. */
#define MT_SQL_LAST_BACKUP(v, column)                                                                                                    \
    "SELECT " column " FROM snapshots_view s WHERE s.volume_id = " v ".volume_id AND s.status = 'succeeded' AND s.pruned_at IS NULL AND NOT s.damaged" \
    " ORDER BY s.captured_at DESC, s.snapshot_id DESC LIMIT 1"

/* When a backup of the volume of row @v was last restored and found whole; null when none was. */
#define MT_SQL_PROVEN(v) "SELECT max(s.restored_at) FROM snapshots_view s WHERE s.volume_id = " v ".volume_id"

/* Its newest backup is as good as none when nothing of it was restored for that long (schedule.h). */
#define MT_SQL_PROOF_STALE(v)                                                                                                            \
    v ".backup_enabled AND NOT " v ".deleted AND coalesce((" MT_SQL_PROVEN(v) "), (SELECT min(s.finished_at) FROM snapshots_view s WHERE s.volume_id = " v \
    ".volume_id AND s.status = 'succeeded')) < now() - make_interval(secs => " MT_PROOF_STALE_SQL ")"

/* Its newest backup, or the volume when there is none, is older than two intervals (storage-and-secrets.md §2.1). */
#define MT_SQL_BACKUP_STALE(v)                                                                                                           \
    v ".backup_enabled AND NOT " v ".deleted AND coalesce((" MT_SQL_LAST_BACKUP(v, "s.captured_at") "), " v ".created_at) < now()"       \
    " - make_interval(secs => 2 * coalesce((SELECT e.backup_interval_seconds FROM envs_view e WHERE e.env_id = " v ".env_id), " MT_BACKUP_INTERVAL_SQL "))"

/* What was attached by hand, beside what releases mount: live attachments of row @g's environment and process (env_id, process_type). */
#define MT_SQL_BY_HAND(g) \
    "volume_attachments_view ha WHERE ha.env_id = " g ".env_id AND ha.process_type = " g ".process_type AND ha.managed_by = 'api' AND NOT ha.deleted"

/* The same as mounts of a manifest (mt_manifest_with_mounts), JSON text; null when there are none. @more: conditions on ha and its volume hv. */
#define MT_SQL_MOUNTS_BY_HAND(g, more)                                                                                     \
    "(SELECT json_agg(json_build_object('path',hm.mount_path,'read_only',hm.read_only,'volume',hm.name) ORDER BY hm.mount_path COLLATE \"C\")::text FROM" \
    " (SELECT ha.mount_path, ha.read_only, hv.name FROM volumes_view hv, " MT_SQL_BY_HAND(g) " AND hv.volume_id = ha.volume_id" more ") hm)"

/* True while an instance that is not observed stopped mounts the volume of row @v (of volumes_view), or is of a process that it is attached to by
 * hand: one that was there before the attachment does not mount it, and goes before the next one comes. */
#define MT_SQL_VOLUME_HELD(v)                                                                                              \
    "EXISTS (SELECT 1 FROM instances_view hi JOIN releases_view hr ON hr.release_id = hi.release_id WHERE hi.env_id = " v   \
    ".env_id AND hi.released_at IS NULL AND hi.status <> 'stopped' AND (hr.manifest->'processes'->hi.process_type->'mounts'" \
    " @> jsonb_build_array(jsonb_build_object('volume', " v ".name)) OR EXISTS (SELECT 1 FROM " MT_SQL_BY_HAND("hi") " AND ha.volume_id = " v ".volume_id)))"

/* True while nothing may run of the process whose volumes row @m (of volume_migrations_view) moves. */
#define MT_SQL_MIGRATION_HOLDS(m) m ".status = 'running' AND " m ".phase IN ('stopping', 'final_copy', 'checking', 'returning')"

/* True while row @m moves the volume of row @v, or makes it. */
#define MT_SQL_MIGRATES(m, v) \
    m ".env_id = " v ".env_id AND " m ".status IN ('queued', 'running') AND (" v ".volume_id = ANY (" m ".volume_ids) OR " v ".volume_id = ANY (" m ".new_volume_ids))"
