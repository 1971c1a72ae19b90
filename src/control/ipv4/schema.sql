-- SPDX-License-Identifier: Apache-2.0
-- The newest word of each edge (docs/formats/edge-config.md §3): what it has applied, and dedicated addresses on which it could not listen.
-- Observations, never events.
CREATE TABLE moat.edge_heartbeats (
  node_id     text PRIMARY KEY,
  received_at timestamptz NOT NULL,
  epoch       bigint NOT NULL,
  revision    bigint NOT NULL,
  ipv4_errors jsonb NOT NULL           -- [{address, error}]
) WITH (fillfactor = 50);
