-- SPDX-License-Identifier: Apache-2.0
-- Events of one organisation or environment that are written together share an entry in its index (runs.c, docs/formats/event-log.md).
-- n > 0: the entry stands for the events of that organisation up to n ids further, too. -1: an earlier event's entry stands for this one.
-- NULL: an entry of its own, as every event has that was written before this, or by a program that knows nothing of it.
-- On a log of a million events the two indexes take about three seconds, for which nothing is appended.
ALTER TABLE moat.events ADD COLUMN org_run int NULL, ADD COLUMN env_run int NULL;
CREATE INDEX events_org_runs ON moat.events (org_id, event_id) WHERE (org_run < 0) IS NOT TRUE;
CREATE INDEX events_env_runs ON moat.events (env_id, event_id) WHERE env_id IS NOT NULL AND (env_run < 0) IS NOT TRUE;
DROP INDEX moat.events_org;
DROP INDEX moat.events_env;
