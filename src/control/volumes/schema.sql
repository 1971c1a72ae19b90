-- SPDX-License-Identifier: Apache-2.0
-- Migration 13: keys of backups (storage-and-secrets.md §4.4). Not a projection: a rebuild from the log could not make them again.
-- Wrapped: they open only with a master key, which is never here, and only as the key of this volume and epoch.
CREATE TABLE moat.volume_backup_keys (
  volume_id     text NOT NULL,
  key_epoch     bigint NOT NULL CHECK (key_epoch BETWEEN 1 AND 4294967295),
  org_id        text NOT NULL,
  wrapped_key   bytea NOT NULL CHECK (length(wrapped_key) = 72),
  master_key_id text NOT NULL,
  created_at    timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT volume_backup_keys_pkey PRIMARY KEY (volume_id, key_epoch)
);
CREATE INDEX volume_backup_keys_master ON moat.volume_backup_keys (master_key_id);
