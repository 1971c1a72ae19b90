-- SPDX-License-Identifier: Apache-2.0
-- What agents say they run while the platform is in recovery (control-plane.md §16): the log does not know all of it, so it
-- cannot be an event yet. Emptied when a recovery begins and when it ends.

CREATE TABLE moat.recovery_nodes (
  node_id   text PRIMARY KEY,
  listed_at timestamptz NOT NULL -- its last full list
);
CREATE TABLE moat.recovery_reports (
  node_id     text NOT NULL,
  instance_id text NOT NULL,
  status      text NOT NULL,
  boot_id     text NULL,
  reported_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (node_id, instance_id)
);
