-- SPDX-License-Identifier: Apache-2.0
-- What enrolment keeps beside the log (networking.md §1): hashes of tokens, and the certificates that were given out.
CREATE TABLE moat.enrollment_token_hashes (
  enr_id     text PRIMARY KEY,
  token_hash bytea NOT NULL UNIQUE,
  used_at    timestamptz NULL,
  used_for   text NULL               -- node id, fingerprint of the request's key, WireGuard key: the same three within 10 minutes are a repeat
);

-- Each certificate of a node. Certificates of ours that are not here come from a database that was put back: they count.
CREATE TABLE moat.node_certs (
  serial        text PRIMARY KEY,
  node_id       text NOT NULL,
  kind          text NOT NULL CHECK (kind IN ('node', 'edge')),
  spki_sha256   text NOT NULL,
  pem           text NOT NULL,
  issued_at     timestamptz NOT NULL DEFAULT now(),
  not_after     timestamptz NOT NULL,
  first_used_at timestamptz NULL,
  revoked_at    timestamptz NULL
);
CREATE INDEX node_certs_node ON moat.node_certs (node_id, kind);
