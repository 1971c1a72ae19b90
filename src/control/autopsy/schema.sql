-- SPDX-License-Identifier: Apache-2.0
-- Attempts of instances that failed, with the last words of the workload. Operational: bounded and not in the event log.
CREATE TABLE moat.autopsies (
  boot_id      text PRIMARY KEY,
  instance_id  text NOT NULL,
  org_id       text NOT NULL,
  app_id       text NOT NULL,
  env_id       text NOT NULL,
  release_id   text NOT NULL,
  process_type text NOT NULL,
  node_id      text NOT NULL,
  ended_at     timestamptz NOT NULL,
  received_at  timestamptz NOT NULL DEFAULT now(),
  reason_code  text NOT NULL,
  record       json NOT NULL -- as the agent wrote it: docs/formats/autopsy.md
);
CREATE INDEX autopsies_env ON moat.autopsies (env_id, ended_at DESC, boot_id DESC);
CREATE INDEX autopsies_release ON moat.autopsies (release_id, ended_at DESC, boot_id DESC);
CREATE INDEX autopsies_received ON moat.autopsies (received_at);
