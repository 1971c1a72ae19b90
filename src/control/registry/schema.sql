-- SPDX-License-Identifier: Apache-2.0
-- Passwords of registries (control-plane.md §9.4). Not a projection: a rebuild from the log could not make them again. As with
-- secrets, no column holds a value or an unwrapped key; who it is for is in registry_credentials_view.
CREATE TABLE moat.registry_secrets (
  material_id      text PRIMARY KEY,
  reg_id           text NOT NULL,
  org_id           text NOT NULL,
  envelope         bytea NOT NULL,
  wrapped_data_key bytea NOT NULL CHECK (length(wrapped_data_key) = 72),
  master_key_id    text NOT NULL
);
CREATE INDEX registry_secrets_reg ON moat.registry_secrets (reg_id);
CREATE INDEX registry_secrets_org ON moat.registry_secrets (org_id);
CREATE INDEX registry_secrets_master ON moat.registry_secrets (master_key_id, material_id);
