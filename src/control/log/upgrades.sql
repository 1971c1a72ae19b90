-- SPDX-License-Identifier: Apache-2.0
-- Migration 18: what an upgrade has to know, and the way back from one.

-- The lowest version of the schema whose programs may go on with the database once this migration has run; NULL: none but its own. A migration that only
-- adds leaves the programs before it at work, beside the new ones and after a way back.
ALTER TABLE moat.schema_migrations ADD COLUMN least int NULL;

-- When the control plane itself was last backed up whole (`moat admin backup`): one row.
CREATE TABLE moat.control_backup_last (
  one           boolean PRIMARY KEY DEFAULT true CHECK (one),
  made_at       timestamptz NOT NULL,
  bytes         bigint NOT NULL,
  last_event_id bigint NOT NULL
);

ALTER TABLE moat.edge_heartbeats ADD COLUMN version text NULL; -- of its program, as it says itself
