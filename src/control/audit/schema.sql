-- SPDX-License-Identifier: Apache-2.0
-- The audit log (scheduling-and-operations.md §10.4, control-plane.md §10.6). docs/formats/audit-log.md says what is stored.

-- What was written in the transaction it tells of, and not yet in its chain: rows of a batch of commands, a page each at most, or one record.
-- Lines of [first_event_id, events, time in us, {record}]. The sealer takes rows away in the transaction that chains them.
CREATE TABLE moat.audit_pending (
  pending_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  body       text NOT NULL
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_threshold = -1);
-- Read once, soon: compressing it would cost more than its bytes.
ALTER TABLE moat.audit_pending ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE moat.audit_log (
  chain                text NOT NULL, -- org_id, or 'platform'
  seq                  bigint NOT NULL CHECK (seq > 0), -- 1, 2, 3... in the chain
  audit_id             text NOT NULL,
  ts                   timestamptz NOT NULL,
  org_id               text NULL,
  app_id               text NULL,
  env_id               text NULL,
  actor_type           text NULL,
  actor_id             text NULL,
  token_id             text NULL,
  scopes               text NULL,
  action               text NOT NULL,
  resource_type        text NULL,
  resource_id          text NULL,
  decision             text NOT NULL,
  reason               text NULL,
  request_id           text NULL,
  idempotency_key_hash text NULL,
  source_ip            text NULL,
  user_agent           text NULL,
  result               text NOT NULL,
  error_code           text NULL,
  event_id             bigint NULL, -- first event of the change
  prev_hash            bytea NOT NULL,
  hash                 bytea NOT NULL,
  CONSTRAINT audit_log_pkey PRIMARY KEY (chain, seq),
  CONSTRAINT audit_log_id_key UNIQUE (audit_id)
);
CREATE INDEX audit_log_ts ON moat.audit_log USING brin (ts) WITH (pages_per_range = 16, autosummarize = on);

-- Where each chain ends, and where it begins after pruning: the last record taken away, by number and hash.
CREATE TABLE moat.audit_chains (
  chain       text PRIMARY KEY,
  last_seq    bigint NOT NULL,
  last_hash   bytea NOT NULL,
  anchor_seq  bigint NOT NULL DEFAULT 0,
  anchor_hash bytea NULL, -- NULL: the genesis of the chain
  pruned_at   timestamptz NULL
) WITH (fillfactor = 70);

CREATE FUNCTION moat.audit_is_forever() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Retention may take away what is older than the shortest retention there is, nothing else may take away anything.
  IF TG_OP = 'DELETE' AND OLD.ts < now() - interval '90 days' THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'audit records are never changed, and not deleted within 90 days (scheduling-and-operations.md 10.4)'
    USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON moat.audit_log
  FOR EACH ROW EXECUTE FUNCTION moat.audit_is_forever();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON moat.audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION moat.audit_is_forever();

-- Take away what is older than @days from the beginning of each chain, at most @at_most records of a chain, and leave an anchor.
-- Returns the number of records taken away. Runs as the owner: no role has DELETE on the table.
CREATE FUNCTION moat.audit_prune(days int, at_most int) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = moat, pg_temp AS $$
DECLARE
  c record;
  upto bigint;
  total bigint := 0;
  n bigint;
BEGIN
  IF days < 90 OR at_most < 1 THEN
    RAISE EXCEPTION 'audit records are kept for at least 90 days' USING ERRCODE = 'check_violation';
  END IF;
  FOR c IN SELECT chain, anchor_seq, last_seq FROM audit_chains WHERE anchor_seq < last_seq ORDER BY chain FOR UPDATE LOOP
    SELECT COALESCE(min(seq), c.last_seq + 1) - 1 INTO upto FROM audit_log
      WHERE chain = c.chain AND seq <= c.anchor_seq + at_most AND ts >= now() - make_interval(days => days);
    upto := LEAST(upto, c.anchor_seq + at_most, c.last_seq);
    CONTINUE WHEN upto <= c.anchor_seq;
    UPDATE audit_chains a SET anchor_seq = upto, pruned_at = now(),
      anchor_hash = (SELECT l.hash FROM audit_log l WHERE l.chain = c.chain AND l.seq = upto) WHERE a.chain = c.chain;
    DELETE FROM audit_log WHERE chain = c.chain AND seq <= upto;
    GET DIAGNOSTICS n = ROW_COUNT;
    total := total + n;
  END LOOP;
  RETURN total;
END $$;
REVOKE ALL ON FUNCTION moat.audit_prune(int, int) FROM PUBLIC;
