-- SPDX-License-Identifier: Apache-2.0
-- Migration 16: a second fence between tenants (control-plane.md §10.5). A session sees the rows of the organisation that it has named in
-- the setting moat.org_id, those of all when that is '*' (controllers, nodes, operators' routes), and none while it has named nothing.
-- Row security binds everybody but the owner of the tables and roles with BYPASSRLS; the server does not serve as one of these.

-- Fence the tables of a schema that say whose their rows are. A rebuild of the views calls it for the ones it makes.
CREATE FUNCTION moat.fence(in_schema text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  t record;
  setting text;
  projector boolean := EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_projector');
BEGIN
  FOR t IN
    SELECT c.relname, a.attnotnull FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped
    WHERE c.relnamespace = in_schema::regnamespace AND c.relkind = 'r'
      -- A token is found before it is known where its owner may go; these rows are asked for by hash or by id of the token's owner.
      AND c.relname NOT IN ('access_tokens', 'personal_tokens', 'service_principals_view')
      AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant')
  LOOP
    -- The setting is asked for each row where few are found by key, and once for a statement where many are read. It is NULL before it was
    -- ever set, and '' after that was rolled back.
    setting := $s$current_setting('moat.org_id', true)$s$;
    IF NOT t.attnotnull THEN
      setting := '(SELECT COALESCE(' || setting || ', ''''))';
    END IF;
    -- CASE and not OR: the planner takes half of the rows for hidden and not 199 of 200, so that who sees all keeps good plans. What belongs to
    -- no organisation (events of nodes) is no tenant's secret; records of the audit log without one are the operators'.
    EXECUTE format($p$CREATE POLICY tenant ON %I.%I USING (CASE %s WHEN org_id THEN true WHEN '*' THEN true %s END)$p$, in_schema, t.relname, setting,
                   CASE WHEN t.attnotnull OR t.relname = 'audit_log' THEN 'ELSE false' ELSE $p$WHEN '' THEN false ELSE org_id IS NULL$p$ END);
    IF projector THEN
      EXECUTE format('CREATE POLICY log ON %I.%I TO moat_projector USING (true) WITH CHECK (true)', in_schema, t.relname);
    END IF;
    EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', in_schema, t.relname);
  END LOOP;
END $$;
SELECT moat.fence('moat'), moat.fence('moat_views');
