-- SPDX-License-Identifier: Apache-2.0
-- Migration 9: secrets (storage-and-secrets.md §7.1). Not projections: a rebuild from the log could not make them again.
-- No column holds a value or an unwrapped key: envelopes and wrapped keys open only with a master key, which is never here.

-- The key of data_hash, one for each bundle; apart from the view, which a rebuild makes anew.
CREATE TABLE moat.secret_bundle_keys (
  bundle_id       text PRIMARY KEY,
  org_id          text NOT NULL,
  env_id          text NOT NULL,
  wrapped_tag_key bytea NOT NULL CHECK (length(wrapped_tag_key) = 72),
  master_key_id   text NOT NULL
);
CREATE INDEX secret_bundle_keys_master ON moat.secret_bundle_keys (master_key_id);

CREATE TABLE moat.secret_versions (
  version_id     text PRIMARY KEY,
  bundle_id      text NOT NULL,
  org_id         text NOT NULL,
  env_id         text NOT NULL,
  version_number int NOT NULL,
  data_hash      text NOT NULL,             -- keyed: HMAC with the bundle's tag key
  key_names      text[] NOT NULL,
  size_bytes     int NOT NULL,
  source         text NOT NULL,
  created_at     timestamptz NOT NULL DEFAULT now(),
  created_by     text NOT NULL,
  material_state text NOT NULL DEFAULT 'present' CHECK (material_state IN ('present', 'shredded')),
  CONSTRAINT secret_versions_number_key UNIQUE (bundle_id, version_number)
);

CREATE TABLE moat.secret_material (
  version_id       text PRIMARY KEY,
  envelope         bytea NOT NULL,
  wrapped_data_key bytea NOT NULL CHECK (length(wrapped_data_key) = 72),
  master_key_id    text NOT NULL
);
CREATE INDEX secret_material_master ON moat.secret_material (master_key_id, version_id);
