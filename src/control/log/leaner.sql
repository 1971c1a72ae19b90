-- SPDX-License-Identifier: Apache-2.0
-- Migration 17: less written for each event (docs/formats/event-log.md), and times found in the log by whoever may see but a part of it.

-- The id of the last event that is not younger than a time; 0 when there is none. Ids are gap-free and times follow them, so halves find it.
-- As its owner: to a session that sees the rows of one organisation, the events of others would be gaps.
CREATE FUNCTION moat.event_at(t timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, moat, pg_temp AS $$
DECLARE
  lo bigint := 0;
  hi bigint := (SELECT last_event_id FROM moat.event_counter);
  middle bigint;
BEGIN
  WHILE lo < hi LOOP
    middle := (lo + hi + 1) / 2;
    IF (SELECT occurred_at FROM moat.events WHERE event_id = middle) <= t THEN
      lo := middle;
    ELSE
      hi := middle - 1;
    END IF;
  END LOOP;
  RETURN lo;
END $$;

-- A block range index costs each row as much as a tree's entry. For events event_at stands in its place. Of replies the old ones are looked for
-- by the garbage collector alone; rows that come to lie where collected ones lay make every range one that may hold old ones.
DROP INDEX moat.events_occurred;
DROP INDEX moat.idempotency_records_created;

-- The records of a batch are alike: to compress them takes less time than to write them twice as they are. Never beside the table.
ALTER TABLE moat.audit_pending ALTER COLUMN body SET STORAGE MAIN, RESET (toast_tuple_target);
