-- SPDX-License-Identifier: Apache-2.0
-- Migration 2: credentials and sessions (control-plane.md §8.3, §10). Operational tables: not projections, not replayable.
-- Whatever a client holds is kept as SHA-256 of 256 random bits, so a stolen dump holds nothing that can be used.

ALTER TABLE moat.personal_tokens ADD COLUMN org_id text NULL;         -- NULL: all organisations of the user
ALTER TABLE moat.personal_tokens ADD COLUMN idempotency_key text NULL;
ALTER TABLE moat.personal_tokens ADD CONSTRAINT personal_tokens_idempotency UNIQUE (user_id, idempotency_key);

-- One login of a user: the refresh tokens and access tokens that came from it. Revoked as a whole.
CREATE TABLE moat.refresh_tokens (
  token_hash   bytea PRIMARY KEY,
  family_id    text NOT NULL,
  user_id      text NOT NULL,
  client_name  text NOT NULL,
  scopes       text[] NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL,        -- slides with each refresh
  family_until timestamptz NOT NULL,        -- does not
  used_at      timestamptz NULL,            -- exchanged for the next one
  revoked_at   timestamptz NULL
);
CREATE INDEX refresh_tokens_family ON moat.refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user ON moat.refresh_tokens (user_id);

-- kind: session (a login, user_id and family_id), service_principal (sp_id), break_glass (user_id of an operator, org_id).
CREATE TABLE moat.access_tokens (
  token_hash  bytea PRIMARY KEY,
  token_id    text NOT NULL UNIQUE,
  kind        text NOT NULL CHECK (kind IN ('session', 'service_principal', 'break_glass')),
  user_id     text NULL,
  sp_id       text NULL,
  org_id      text NULL,
  family_id   text NULL,
  scopes      text[] NOT NULL,
  reason      text NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  expires_at  timestamptz NOT NULL,
  revoked_at  timestamptz NULL,
  CONSTRAINT access_tokens_subject CHECK ((user_id IS NULL) <> (sp_id IS NULL))
);
CREATE INDEX access_tokens_family ON moat.access_tokens (family_id) WHERE family_id IS NOT NULL;
CREATE INDEX access_tokens_sp ON moat.access_tokens (sp_id) WHERE sp_id IS NOT NULL;
CREATE INDEX access_tokens_user ON moat.access_tokens (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX access_tokens_expires ON moat.access_tokens (expires_at);

CREATE TABLE moat.device_codes (
  code_hash     bytea PRIMARY KEY,
  user_code     text NOT NULL,
  state         text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'denied', 'consumed')),
  client_name   text NOT NULL,
  client_ip     text NOT NULL,
  scopes        text[] NOT NULL,
  user_id       text NULL,                  -- who approved
  created_at    timestamptz NOT NULL DEFAULT now(),
  expires_at    timestamptz NOT NULL,
  interval_s    int NOT NULL DEFAULT 5,
  polled_at     timestamptz NULL
);
-- Among codes that can still be typed in, a user code names one.
CREATE UNIQUE INDEX device_codes_user_code ON moat.device_codes (user_code) WHERE state = 'pending';
CREATE INDEX device_codes_expires ON moat.device_codes (expires_at);

CREATE TABLE moat.user_credentials (
  user_id       text PRIMARY KEY,
  password_hash text NOT NULL,              -- Argon2id, PHC string
  totp_secret   bytea NULL,                 -- nonce and secret, masked with a key that is not in the database
  totp_step     bigint NOT NULL DEFAULT 0,  -- last time step used: a code works once
  updated_at    timestamptz NOT NULL DEFAULT now()
);

-- One-time links: a person sets name, password and TOTP of a user. user_id NULL: the link makes the first operator.
CREATE TABLE moat.user_setups (
  code_hash   bytea PRIMARY KEY,
  user_id     text NULL,
  totp_secret bytea NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  expires_at  timestamptz NOT NULL,
  used_at     timestamptz NULL
);

CREATE TABLE moat.browser_sessions (
  session_hash bytea PRIMARY KEY,
  user_id      text NULL,                   -- NULL: not signed in yet
  wrong_codes  int NOT NULL DEFAULT 0,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL
);
CREATE INDEX browser_sessions_user ON moat.browser_sessions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX browser_sessions_expires ON moat.browser_sessions (expires_at);

-- 'account:<email>' and 'ip:<address>': how often a login failed in a row, for the exponential delay.
CREATE TABLE moat.login_failures (
  key      text PRIMARY KEY,
  failures int NOT NULL,
  last_at  timestamptz NOT NULL
);

CREATE TABLE moat.sp_secrets (
  secret_hash  bytea PRIMARY KEY,
  sp_id        text NOT NULL,
  rotation_id  text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  valid_until  timestamptz NULL,            -- NULL: until rotated
  last_used_at timestamptz NULL
);
CREATE INDEX sp_secrets_sp ON moat.sp_secrets (sp_id);
