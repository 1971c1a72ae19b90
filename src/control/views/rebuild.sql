-- SPDX-License-Identifier: Apache-2.0
-- What is known about the views themselves (control-plane.md §8.1).

-- Every definition of the views (tables and statements) this database has had, one of them current. Readers who look at
-- several views under one snapshot lock this table in ACCESS SHARE mode before they take it; the swap of a rebuild excludes
-- them, because rows that were written after a snapshot are not there for it.
CREATE TABLE moat.views_state (
  fingerprint   text PRIMARY KEY,
  is_current    boolean NOT NULL,
  made_at       timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX views_state_current ON moat.views_state (is_current) WHERE is_current;

-- Rebuilds that were asked for and are not done: taken up by the projector, again after a crash.
CREATE TABLE moat.rebuild_requests (
  view         text PRIMARY KEY, -- 'all' or a name
  requested_at timestamptz NOT NULL DEFAULT now(),
  requested_by text NOT NULL,
  failed       text NULL -- why it will not be tried again
);

-- Why an operator appended an event by hand (`moat-control append`).
CREATE TABLE moat.corrections (
  event_id bigint PRIMARY KEY,
  reason   text NOT NULL,
  os_user  text NOT NULL,
  made_at  timestamptz NOT NULL DEFAULT now()
);
