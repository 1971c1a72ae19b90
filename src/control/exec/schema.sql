-- SPDX-License-Identifier: Apache-2.0
-- Exec sessions on their way (control-plane.md §11.3): what a session token is good for, once, and who carries the session. A row lives from
-- grant to end; the views keep the history.
CREATE TABLE moat.exec_tokens (
  session_id text PRIMARY KEY,
  token_hash bytea NOT NULL UNIQUE,
  org_id     text NOT NULL,
  app_id     text NOT NULL,
  env_id     text NOT NULL,
  grant_json jsonb NOT NULL,          -- for the agent: command, env, user, tty, ...
  expires_at timestamptz NOT NULL,
  used_at    timestamptz NULL,
  gateway    text NULL,               -- the process that carries it
  alive_at   timestamptz NULL,        -- its last sign of life
  revoked    boolean NOT NULL DEFAULT false
);
CREATE INDEX exec_tokens_gateway ON moat.exec_tokens (gateway) WHERE gateway IS NOT NULL;
