-- SPDX-License-Identifier: Apache-2.0
-- Schema `moat`: the event log and the operational tables (control-plane.md §6.1, §7, §8.3). Migration 1, first half.
-- The projections live in schema `moat_views` (views/schema.sql), so that a rebuild can make them again beside the live ones.
-- The database's search_path is `moat_views, moat`: queries name tables without a schema.

CREATE TABLE moat.events (
  event_id        bigint PRIMARY KEY,
  occurred_at     timestamptz NOT NULL,
  org_id          text NULL,
  app_id          text NULL,
  env_id          text NULL,
  aggregate_type  text NOT NULL,
  aggregate_id    text NOT NULL,
  aggregate_seq   int NOT NULL,
  event_type      text NOT NULL,
  event_version   int NOT NULL DEFAULT 1,
  actor_type      text NOT NULL CHECK (actor_type IN ('user', 'service_principal', 'node', 'operator', 'system')),
  actor_id        text NOT NULL,
  request_id      text NOT NULL,
  idempotency_key text NULL,
  correlation_id  text NULL,
  -- Ids are gap-free and rows stay for ever: below the own id is the same as a foreign key, without its trigger per row.
  causation_id    bigint NULL CONSTRAINT events_causation_earlier CHECK (causation_id > 0 AND causation_id < event_id),
  payload         jsonb NOT NULL,
  chain_hash      bytea NOT NULL,
  -- The id first: it tells most entries apart, so that a descent compares one column.
  CONSTRAINT events_aggregate_seq_key UNIQUE (aggregate_id, aggregate_seq, aggregate_type)
);
CREATE INDEX events_org ON moat.events (org_id, event_id);
CREATE INDEX events_env ON moat.events (env_id, event_id) WHERE env_id IS NOT NULL;
CREATE INDEX events_correlation ON moat.events (correlation_id) WHERE correlation_id IS NOT NULL;
-- Times follow the ids: a block range index finds them as well, at a fraction of a tree's cost per event.
CREATE INDEX events_occurred ON moat.events USING brin (occurred_at) WITH (pages_per_range = 16, autosummarize = on);

CREATE FUNCTION moat.events_are_forever() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'events are never updated or deleted (control-plane.md invariant I1); append a corrective event'
    USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON moat.events
  FOR EACH ROW EXECUTE FUNCTION moat.events_are_forever();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON moat.events
  FOR EACH STATEMENT EXECUTE FUNCTION moat.events_are_forever();

-- One row: the last id given out, the chain hash of that event, the epoch of the history (bumped after a restore to an
-- older point). Updated once per batch; the fill factor keeps its versions on one page.
CREATE TABLE moat.event_counter (
  one             boolean PRIMARY KEY DEFAULT true CHECK (one),
  last_event_id   bigint NOT NULL,
  last_chain_hash bytea NOT NULL,
  epoch           bigint NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000);
INSERT INTO moat.event_counter (last_event_id, last_chain_hash, epoch)
  VALUES (0, decode(repeat('00', 32), 'hex'), 1);

CREATE TABLE moat.projection_checkpoints (
  projection            text PRIMARY KEY,
  schema_version        int NOT NULL,
  state                 text NOT NULL CHECK (state IN ('rebuilding', 'live', 'failed')),
  last_applied_event_id bigint NOT NULL,
  updated_at            timestamptz NOT NULL DEFAULT now()
);

-- Scope of a key: org ('-' when none), actor, method + route template + path ids, the key itself (§7).
CREATE TABLE moat.idempotency_records (
  org_id        text NOT NULL,
  actor_id      text NOT NULL,
  route         text NOT NULL,
  key           text NOT NULL,
  request_mac   bytea NOT NULL,
  status        int NOT NULL,
  response_body text NOT NULL,
  event_id      bigint NOT NULL,
  created_at    timestamptz NOT NULL,
  CONSTRAINT idempotency_records_pkey PRIMARY KEY (key, org_id, actor_id, route)
);
CREATE INDEX idempotency_records_created ON moat.idempotency_records USING brin (created_at);

CREATE TABLE moat.personal_tokens (
  token_id     text PRIMARY KEY,
  user_id      text NOT NULL,
  name         text NOT NULL,
  token_hash   bytea NOT NULL UNIQUE,
  scopes       text[] NOT NULL DEFAULT '{}',
  restrict_to  jsonb NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NULL,
  revoked_at   timestamptz NULL,
  last_used_at timestamptz NULL
);
CREATE INDEX personal_tokens_user ON moat.personal_tokens (user_id);

-- Last heartbeat of a node, whole body kept (runtime.md §2.3). Observations, never events.
CREATE TABLE moat.node_heartbeats (
  node_id       text PRIMARY KEY,
  received_at   timestamptz NOT NULL,
  host_boot_id  text NULL,
  agent_version text NULL,
  epoch         bigint NOT NULL DEFAULT 0,
  plan_cursor   bigint NOT NULL DEFAULT 0,
  body          jsonb NOT NULL
) WITH (fillfactor = 50);

-- Next instance address of a node, as an offset into its prefix; only grows.
CREATE TABLE moat.ipam_counters (
  node_id      text PRIMARY KEY,
  next_address bigint NOT NULL CHECK (next_address > 0)
);

-- Singleton roles (scheduler, deploy-controller, gc): `epoch` grows with each new holder and fences the old one.
CREATE TABLE moat.leases (
  name        text PRIMARY KEY,
  holder      text NOT NULL,
  epoch       bigint NOT NULL,
  acquired_at timestamptz NOT NULL DEFAULT now(),
  renewed_at  timestamptz NOT NULL DEFAULT now()
);
