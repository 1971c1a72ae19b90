-- SPDX-License-Identifier: Apache-2.0
-- Migration 15: who collects the objects of a volume's backups right now (storage-and-secrets.md §4.10). While the row holds, no node is told of a
-- snapshot of the volume; it is renewed by its holder and counts for nothing after its end. What came of a collection is an event.
CREATE TABLE moat.backup_collections (
  volume_id   text CONSTRAINT backup_collections_pkey PRIMARY KEY,
  lease_epoch bigint NOT NULL, -- of the role backups
  began_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  until       timestamptz NOT NULL
);
