-- SPDX-License-Identifier: Apache-2.0
-- Token buckets that servers share (control-plane.md §14). Nothing is lost with it: a bucket that is not there is full.
CREATE UNLOGGED TABLE moat.rate_buckets (
  key        text PRIMARY KEY,
  cap        bigint NOT NULL, -- millionths of a request; gained once a minute
  tokens     bigint NOT NULL,
  updated_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);
