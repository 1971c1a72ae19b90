-- SPDX-License-Identifier: Apache-2.0
-- The projections (control-plane.md §8.3). Run with search_path set to the schema they belong in: `moat_views` for the live
-- ones, a shadow schema during a rebuild. Only projections.c writes these tables. `deleted` is the spec's "sd" column.
-- Fill factors leave room for new versions of rows that are updated often, so that their indexes need no new entries.
-- Constraint and index names are part of the contract: a unique violation is reported by its name.

CREATE TABLE users_view (
  user_id          text CONSTRAINT users_view_pkey PRIMARY KEY,
  email            text NOT NULL CONSTRAINT users_view_email_key UNIQUE,
  display_name     text NULL,
  state            text NOT NULL DEFAULT 'active',
  is_operator      boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

CREATE TABLE orgs_view (
  org_id           text CONSTRAINT orgs_view_pkey PRIMARY KEY,
  name             text NOT NULL,
  billing_email    text NULL,
  developer_exec   boolean NOT NULL DEFAULT false,
  suspended        boolean NOT NULL DEFAULT false,
  suspended_reason text NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX orgs_view_name_live ON orgs_view (name) WHERE NOT deleted;

CREATE TABLE org_members_view (
  member_id        text CONSTRAINT org_members_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  email            text NOT NULL,
  user_id          text NULL, -- NULL: invited, nobody with this address has signed in yet
  role             text NOT NULL,
  state            text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX org_members_view_email_live ON org_members_view (org_id, email) WHERE NOT deleted;
-- Read by every request of a user: is this user a member here?
CREATE INDEX org_members_view_user ON org_members_view (user_id, org_id) WHERE NOT deleted;
CREATE INDEX org_members_view_invited ON org_members_view (email) WHERE NOT deleted AND state = 'invited';

CREATE TABLE service_principals_view (
  sp_id            text CONSTRAINT service_principals_view_pkey PRIMARY KEY,
  client_id        text NOT NULL CONSTRAINT service_principals_view_client_id_key UNIQUE,
  org_id           text NOT NULL,
  name             text NOT NULL,
  scopes           text[] NOT NULL,
  restrict_to      jsonb NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE INDEX service_principals_view_org ON service_principals_view (org_id) WHERE NOT deleted;

-- Who an organisation is at a registry; the password is in moat.registry_secrets.
CREATE TABLE registry_credentials_view (
  reg_id           text CONSTRAINT registry_credentials_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  host             text NOT NULL,
  username         text NOT NULL,
  material_id      text NOT NULL,
  set_by           text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX registry_credentials_view_host_live ON registry_credentials_view (org_id, host) WHERE NOT deleted;

-- Where an organisation's log lines go besides; the token is in moat.registry_secrets, by material_id.
CREATE TABLE log_drains_view (
  drain_id         text CONSTRAINT log_drains_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  name             text NOT NULL,
  kind             text NOT NULL,
  target           text NOT NULL,
  header           text,
  ca_pem           text,
  material_id      text,
  set_by           text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX log_drains_view_name_live ON log_drains_view (org_id, name) WHERE NOT deleted;

-- Limits that an operator set; NULL: taken back, the tier's default counts again.
CREATE TABLE org_quotas_view (
  org_id           text NOT NULL,
  dimension        text NOT NULL,
  limit_value      bigint NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL,
  CONSTRAINT org_quotas_view_pkey PRIMARY KEY (org_id, dimension)
);

CREATE TABLE projects_view (
  project_id       text CONSTRAINT projects_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  name             text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX projects_view_name_live ON projects_view (org_id, name) WHERE NOT deleted;

CREATE TABLE apps_view (
  app_id              text CONSTRAINT apps_view_pkey PRIMARY KEY,
  org_id              text NOT NULL,
  name                text NOT NULL,
  description         text NULL,
  project_id          text NULL,
  next_release_number int NOT NULL DEFAULT 1,
  deleted             boolean NOT NULL DEFAULT false,
  created_at          timestamptz NOT NULL,
  updated_at          timestamptz NOT NULL,
  resource_version    bigint NOT NULL,
  last_event_id       bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX apps_view_name_live ON apps_view (org_id, name) WHERE NOT deleted;

CREATE TABLE envs_view (
  env_id                  text CONSTRAINT envs_view_pkey PRIMARY KEY,
  org_id                  text NOT NULL,
  app_id                  text NOT NULL,
  name                    text NOT NULL,
  private_network         boolean NOT NULL DEFAULT false,
  protected               boolean NOT NULL DEFAULT false,
  label_selector          jsonb NULL,
  backup_interval_seconds int NULL,
  deleted                 boolean NOT NULL DEFAULT false,
  created_at              timestamptz NOT NULL,
  updated_at              timestamptz NOT NULL,
  resource_version        bigint NOT NULL,
  last_event_id           bigint NOT NULL
);
CREATE UNIQUE INDEX envs_view_name_live ON envs_view (app_id, name) WHERE NOT deleted;

CREATE TABLE releases_view (
  release_id       text CONSTRAINT releases_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  app_id           text NOT NULL,
  number           int NOT NULL,
  image_ref        text NOT NULL,
  image_digest     text NOT NULL,
  image_kind       text NOT NULL,
  platforms        jsonb NOT NULL,
  image_verified   boolean NOT NULL,
  manifest_hash    text NOT NULL,
  manifest         jsonb NOT NULL,
  process_types    text[] NOT NULL, -- sorted bytewise
  created_by       text NOT NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL,
  CONSTRAINT releases_view_number_key UNIQUE (app_id, number),
  CONSTRAINT releases_view_content_key UNIQUE (app_id, image_digest, manifest_hash)
);

CREATE TABLE deploys_view (
  deploy_id            text CONSTRAINT deploys_view_pkey PRIMARY KEY,
  org_id               text NOT NULL,
  app_id               text NOT NULL,
  env_id               text NOT NULL,
  kind                 text NOT NULL,
  release_id           text NULL,
  release_ids          jsonb NOT NULL,
  previous_release_ids jsonb NOT NULL,
  process_types        text[] NOT NULL,
  strategy             text NOT NULL,
  on_failure           text NOT NULL,
  timeout_seconds      int NOT NULL,
  deadline_at          timestamptz NOT NULL, -- created_at + timeout_seconds
  status               text NOT NULL DEFAULT 'queued',
  message              text NULL,
  failed_reason        text NULL,
  superseded_by        text NULL,
  note                 text NULL,
  warnings             jsonb NULL, -- [{code, ...}]: what was taken along in spite of it
  created_by           text NOT NULL,
  finished_at          timestamptz NULL,
  created_at           timestamptz NOT NULL,
  updated_at           timestamptz NOT NULL,
  resource_version     bigint NOT NULL,
  last_event_id        bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX deploys_view_env ON deploys_view (env_id, deploy_id);
-- Not by status: a deploy that goes from queued to rolling keeps its index entries.
CREATE INDEX deploys_view_open ON deploys_view (env_id) WHERE finished_at IS NULL;

CREATE TABLE env_desired_view (
  env_id               text NOT NULL,
  process_type         text NOT NULL,
  org_id               text NOT NULL,
  app_id               text NOT NULL,
  release_id           text NULL,  -- NULL: never deployed, or cleared
  deploy_id            text NULL,  -- the deploy that last set or cleared release_id
  desired_user         int NULL,   -- replicas the user asked for; NULL = manifest default
  restart_generation   int NOT NULL DEFAULT 0,
  rebalance_generation int NOT NULL DEFAULT 0,
  sched_condition      text NOT NULL DEFAULT 'ok',
  sched_reason         text NULL,
  sched_detail         text NULL,
  sched_since          timestamptz NULL, -- since when condition and reason are these; NULL: from the beginning
  sched_next_at        timestamptz NULL, -- when it is tried again, where time alone decides
  stable_spec          text NULL,
  target_spec          text NULL,
  created_at           timestamptz NOT NULL,
  updated_at           timestamptz NOT NULL,
  resource_version     bigint NOT NULL,
  last_event_id        bigint NOT NULL,
  CONSTRAINT env_desired_view_pkey PRIMARY KEY (env_id, process_type)
) WITH (fillfactor = 50);

CREATE TABLE routes_view (
  route_id             text CONSTRAINT routes_view_pkey PRIMARY KEY,
  org_id               text NOT NULL,
  app_id               text NOT NULL,
  env_id               text NOT NULL,
  hostname             text NULL,
  listen_port          int NOT NULL,
  protocol             text NOT NULL,
  address_scope        text NOT NULL,
  address_scope_key    text NOT NULL GENERATED ALWAYS AS
                         (CASE address_scope WHEN 'shared6' THEN 'shared6' ELSE address_scope || ':' || env_id END) STORED,
  backend_process_type text NOT NULL,
  backend_port         int NOT NULL,
  proxy_protocol       text NOT NULL,
  backend_expects_proxy_protocol boolean NOT NULL,
  proxy_tlv            boolean NOT NULL DEFAULT false,
  ipv4_required        boolean NOT NULL,
  max_connections      int NULL,
  idle_timeout_seconds int NULL,
  balance              text NOT NULL DEFAULT 'round_robin',
  min_tls_version      text NULL,
  default_for_listener boolean NOT NULL DEFAULT false,
  allow_non_tls        boolean NOT NULL DEFAULT false,
  disabled             boolean NOT NULL DEFAULT false,
  managed_by           text NOT NULL,
  deleted              boolean NOT NULL DEFAULT false,
  created_at           timestamptz NOT NULL,
  updated_at           timestamptz NOT NULL,
  resource_version     bigint NOT NULL,
  last_event_id        bigint NOT NULL
);
CREATE UNIQUE INDEX routes_view_hostname_live ON routes_view (hostname, listen_port)
  WHERE NOT deleted AND protocol = 'tls_passthrough';
CREATE UNIQUE INDEX routes_view_port_live ON routes_view (address_scope_key, listen_port)
  WHERE NOT deleted AND protocol = 'tcp_raw';
CREATE INDEX routes_view_env ON routes_view (env_id) WHERE NOT deleted;

-- All routes of a hostname belong to one env. The projection writes '' where a second env would come in, and the check
-- makes that an error with a name: hostname_owners_view_one_env.
CREATE TABLE hostname_owners_view (
  hostname         text CONSTRAINT hostname_owners_view_pkey PRIMARY KEY,
  env_id           text NOT NULL CONSTRAINT hostname_owners_view_one_env CHECK (env_id <> ''),
  route_count      int NOT NULL CHECK (route_count >= 0), -- 0: free for any env
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

-- One for each environment that has secrets or has said that it needs none. Names, sizes and material: moat.secret_versions.
CREATE TABLE secret_bundles_view (
  bundle_id          text CONSTRAINT secret_bundles_view_pkey PRIMARY KEY,
  org_id             text NOT NULL,
  app_id             text NOT NULL,
  env_id             text NOT NULL,
  format             text NOT NULL,
  current_version_id text NULL,
  version_number     int NOT NULL DEFAULT 0,
  data_hash          text NULL,
  key_count          int NOT NULL DEFAULT 0,
  confirmed_none     boolean NOT NULL DEFAULT false,
  deleted            boolean NOT NULL DEFAULT false,
  created_at         timestamptz NOT NULL,
  updated_at         timestamptz NOT NULL,
  resource_version   bigint NOT NULL,
  last_event_id      bigint NOT NULL
);
CREATE UNIQUE INDEX secret_bundles_view_env_live ON secret_bundles_view (env_id) WHERE NOT deleted;

CREATE TABLE instances_view (
  instance_id         text CONSTRAINT instances_view_pkey PRIMARY KEY,
  org_id              text NOT NULL,
  app_id              text NOT NULL,
  env_id              text NOT NULL,
  process_type        text NOT NULL,
  node_id             text NOT NULL,
  release_id          text NOT NULL,
  deploy_id           text NULL,
  secret_version_id   text NULL,
  overlay_ipv6        text NOT NULL CONSTRAINT instances_view_overlay_ipv6_key UNIQUE, -- for ever, also after release
  cpu_millis          int NOT NULL,
  memory_bytes        bigint NOT NULL,
  disk_bytes          bigint NOT NULL,
  arch                text NOT NULL,
  image_digest        text NOT NULL,
  spec_hash           text NOT NULL,
  generation          int NOT NULL,
  replaces            text NULL,
  desired_state       text NOT NULL DEFAULT 'running',
  desired_reason      text NULL, -- why it left `running`
  desired_changed_at  timestamptz NOT NULL,
  restart_requested   boolean NOT NULL DEFAULT false, -- a replacement comes first, then it drains
  grace_seconds       int NULL,
  drain_delay_seconds int NULL,
  status              text NOT NULL DEFAULT 'booting',
  status_detail       text NULL DEFAULT 'assigned',
  boot_id             text NULL,
  reason_code         text NULL,
  reason_detail       text NULL,
  exit_code           int NULL,
  restart_count       int NOT NULL DEFAULT 0,
  next_retry_at       timestamptz NULL, -- when its agent tries again
  started_at          timestamptz NULL, -- last time it entered `starting` (or `ready` without it)
  ready_at            timestamptz NULL, -- first time it became `ready`
  last_transition_at  timestamptz NOT NULL,
  released_at         timestamptz NULL,
  created_at          timestamptz NOT NULL,
  updated_at          timestamptz NOT NULL,
  resource_version    bigint NOT NULL,
  last_event_id       bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX instances_view_env ON instances_view (env_id, process_type) WHERE released_at IS NULL;
CREATE INDEX instances_view_node ON instances_view (node_id) WHERE released_at IS NULL;
-- Released ones stay for ever: what a pass of the scheduler asks about the few must not walk through all that there ever were.
CREATE INDEX instances_view_ending ON instances_view (instance_id) WHERE released_at IS NULL AND desired_state <> 'running';
CREATE INDEX instances_view_replacing ON instances_view (env_id, created_at) WHERE replaces IS NOT NULL;

CREATE TABLE exec_sessions_view (
  session_id           text CONSTRAINT exec_sessions_view_pkey PRIMARY KEY,
  org_id               text NOT NULL,
  app_id               text NOT NULL,
  env_id               text NOT NULL,
  instance_id          text NOT NULL,
  actor_type           text NOT NULL,
  actor_id             text NOT NULL,
  command              jsonb NOT NULL,
  tty                  boolean NOT NULL,
  run_as               text NULL,
  status               text NOT NULL DEFAULT 'granted',
  revoked              boolean NOT NULL DEFAULT false,
  expires_at           timestamptz NOT NULL,
  max_duration_seconds int NOT NULL,
  connected_at         timestamptz NULL,
  ended_at             timestamptz NULL,
  exit_code            int NULL,
  signal               text NULL,
  end_reason           text NULL,
  stdin_bytes          bigint NULL,
  output_bytes         bigint NULL,
  created_at           timestamptz NOT NULL,
  updated_at           timestamptz NOT NULL,
  resource_version     bigint NOT NULL,
  last_event_id        bigint NOT NULL
);
CREATE INDEX exec_sessions_view_env ON exec_sessions_view (env_id, session_id);
CREATE INDEX exec_sessions_view_live ON exec_sessions_view (instance_id) WHERE status <> 'ended';
CREATE INDEX exec_sessions_view_org ON exec_sessions_view (org_id, created_at);

-- A volume is `in_use` while an instance that is not observed stopped mounts it: that follows from the instances and is not kept here.
CREATE TABLE volumes_view (
  volume_id        text CONSTRAINT volumes_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  app_id           text NOT NULL,
  env_id           text NOT NULL,
  name             text NOT NULL,
  size_bytes       bigint NOT NULL,
  resize_to_bytes  bigint NULL,
  filesystem       text NOT NULL,
  fs_uuid          text NULL, -- of the filesystem that is on it
  backup_enabled   boolean NOT NULL,
  home_node_id     text NOT NULL,
  from_snapshot_id text NULL,
  state            text NOT NULL DEFAULT 'creating',
  error_reason     text NULL,
  was_available    boolean NOT NULL DEFAULT false, -- from then on it is never made again empty
  deleted          boolean NOT NULL DEFAULT false,
  deleted_at       timestamptz NULL,
  delete_backups   boolean NOT NULL DEFAULT false, -- its backups go with it
  collected_at     timestamptz NULL, -- what of its backups is given up was last taken out of the store, all of it up to this event
  collected_upto   bigint NOT NULL DEFAULT 0,
  collect_tried_at timestamptz NULL,
  collect_failed   text NULL, -- why the last try came to nothing
  backups_purged   boolean NOT NULL DEFAULT false, -- nothing of it is in the store any more
  move_refused_node text NULL, -- a drain of this node could not move it, for this reason, as of then
  move_refused_code text NULL,
  move_refused     text NULL,
  move_refused_at  timestamptz NULL,
  check_number     bigint NOT NULL DEFAULT 0, -- of the check that was asked for last
  check_repair     boolean NOT NULL DEFAULT false,
  check_pending    boolean NOT NULL DEFAULT false, -- its node has not told of its end yet
  check_result     text NULL,
  check_detail     text NULL,
  checked_at       timestamptz NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX volumes_view_name_live ON volumes_view (env_id, name) WHERE NOT deleted;
CREATE INDEX volumes_view_node ON volumes_view (home_node_id) WHERE NOT deleted;
CREATE INDEX volumes_view_org ON volumes_view (org_id) WHERE NOT deleted;

CREATE TABLE volume_attachments_view (
  attachment_id    text CONSTRAINT volume_attachments_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  app_id           text NOT NULL,
  env_id           text NOT NULL,
  volume_id        text NOT NULL,
  process_type     text NOT NULL,
  mount_path       text NOT NULL,
  read_only        boolean NOT NULL,
  managed_by       text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX volume_attachments_view_volume_live ON volume_attachments_view (volume_id) WHERE NOT deleted;
CREATE UNIQUE INDEX volume_attachments_view_path_live ON volume_attachments_view (env_id, process_type, mount_path) WHERE NOT deleted;

-- One backup of a volume from its request to its end (storage-and-secrets.md §4.1). A row that is pruned while it is not final is a job
-- that shall be cancelled.
CREATE TABLE snapshots_view (
  snapshot_id        text CONSTRAINT snapshots_view_pkey PRIMARY KEY,
  org_id             text NOT NULL,
  app_id             text NOT NULL,
  env_id             text NOT NULL,
  volume_id          text NOT NULL,
  source_node_id     text NOT NULL,
  origin             text NOT NULL,
  status             text NOT NULL DEFAULT 'queued',
  phase              text NULL,
  consistency        text NULL,
  captured_at        timestamptz NULL,
  finished_at        timestamptz NULL,
  size_bytes         bigint NULL,
  changed_bytes      bigint NULL,
  uploaded_bytes     bigint NULL,
  note               text NULL,
  migration_id       text NULL, -- what it was taken for
  failed_reason      text NULL,
  key_epoch          bigint NULL,
  image_root         text NULL,
  manifest_sha256    text NULL,
  parent_snapshot_id text NULL,
  requested_by       text NOT NULL,
  verified_at        timestamptz NULL, -- when all of it was last read back, or restored
  restored_at        timestamptz NULL, -- when it was last restored and its file system was checked
  damaged            boolean NOT NULL DEFAULT false,
  damaged_event_id   bigint NULL,      -- what said so last
  created_event_id   bigint NULL,
  distrusted_stored  boolean NOT NULL DEFAULT false, -- it succeeded, and all its chunks were sent for it
  proof              jsonb NULL,       -- what the last proof of it said
  proof_at           timestamptz NULL,
  pruned_at          timestamptz NULL,
  created_at         timestamptz NOT NULL,
  updated_at         timestamptz NOT NULL,
  resource_version   bigint NOT NULL,
  last_event_id      bigint NOT NULL
);
CREATE INDEX snapshots_view_volume ON snapshots_view (volume_id, snapshot_id);
CREATE INDEX snapshots_view_active ON snapshots_view (source_node_id) WHERE status IN ('queued', 'running');

-- A restore of a snapshot into a volume that the same command made; org, app and environment are those of the new one. One whose purpose is a
-- proof has no such volume: its node makes one under that id, checks it and throws it away. A migration has two for each of its volumes: a pre-copy,
-- which its node only fetches, and one that goes on with it when the process has stopped. Both are made together with their snapshot, and their
-- node is told of them when that has succeeded.
CREATE TABLE restores_view (
  restore_id       text CONSTRAINT restores_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  app_id           text NOT NULL,
  env_id           text NOT NULL,
  snapshot_id      text NOT NULL,
  source_volume_id text NOT NULL,
  new_volume_id    text NOT NULL,
  target_node_id   text NOT NULL,
  purpose          text NULL,
  migration_id     text NULL,
  base_restore_id  text NULL,
  status           text NOT NULL DEFAULT 'queued',
  phase            text NULL,
  bytes_done       bigint NULL,
  bytes_total      bigint NULL,
  failed_reason    text NULL,
  requested_by     text NOT NULL,
  finished_at      timestamptz NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE INDEX restores_view_org ON restores_view (org_id, restore_id);
CREATE UNIQUE INDEX restores_view_volume ON restores_view (new_volume_id) WHERE purpose IS DISTINCT FROM 'precopy';
CREATE INDEX restores_view_migration ON restores_view (migration_id) WHERE migration_id IS NOT NULL;
CREATE INDEX restores_view_proofs ON restores_view (source_volume_id, restore_id) WHERE purpose = 'proof';
CREATE INDEX restores_view_active ON restores_view (target_node_id) WHERE status IN ('queued', 'running');

-- All volumes of one process on their way to another node (storage-and-secrets.md §5.2); or one that no process mounts. new_volume_ids run in step
-- with volume_ids. While the phase is one of stopping, final_copy, checking and returning nothing of the process may run: the scheduler looks here.
CREATE TABLE volume_migrations_view (
  migration_id     text CONSTRAINT volume_migrations_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  app_id           text NOT NULL,
  env_id           text NOT NULL,
  process_type     text NULL,
  volume_ids       text[] NOT NULL,
  new_volume_ids   text[] NOT NULL,
  source_node_id   text NOT NULL,
  target_node_id   text NOT NULL,
  reason           text NOT NULL,
  status           text NOT NULL DEFAULT 'queued',
  phase            text NULL,
  phase_at         timestamptz NOT NULL,
  stopped_at       timestamptz NULL, -- when it was told to stop
  downtime_ms      bigint NULL,
  failed_reason    text NULL,
  requested_by     text NOT NULL,
  finished_at      timestamptz NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE INDEX volume_migrations_view_org ON volume_migrations_view (org_id, migration_id);
CREATE INDEX volume_migrations_view_active ON volume_migrations_view (env_id) WHERE status IN ('queued', 'running');

CREATE TABLE nodes_view (
  node_id              text CONSTRAINT nodes_view_pkey PRIMARY KEY,
  name                 text NOT NULL,
  roles                text[] NOT NULL,
  arch                 text NOT NULL,
  admin_state          text NOT NULL DEFAULT 'enrolled',
  admin_reason         text NULL,
  drain_stops_stateful boolean NOT NULL DEFAULT false, -- while draining: instances with volumes stop too
  drain_migrates       boolean NOT NULL DEFAULT false, -- while draining: volumes move to other nodes, and what mounts them
  health               text NOT NULL DEFAULT 'ready',
  health_reason        text NULL,
  conditions           text[] NOT NULL DEFAULT '{}',
  config               jsonb NOT NULL DEFAULT '{}',
  labels               jsonb NOT NULL DEFAULT '{}',
  vmm                  jsonb NULL,
  wireguard_public_key text NOT NULL CONSTRAINT nodes_view_wireguard_key UNIQUE,
  cert_fingerprint     text NOT NULL,
  overlay_ipv6         text NOT NULL CONSTRAINT nodes_view_overlay_ipv6_key UNIQUE,
  instance_prefix      text NOT NULL CONSTRAINT nodes_view_instance_prefix_key UNIQUE,
  public_ipv6          text NULL,
  public_ipv4          text NULL,
  capacity             jsonb NOT NULL,
  allocatable          jsonb NOT NULL, -- capacity until the agent reports it
  mtu                  int NULL,
  agent_version        text NULL,
  endpoints            text[] NOT NULL DEFAULT '{}', -- underlay, in the order to try
  key_generation       int NOT NULL DEFAULT 1,
  retired_keys         text[] NOT NULL DEFAULT '{}', -- WireGuard keys it had before: nobody gets them again
  next_public_key      text NULL,           -- while a rotation of the WireGuard key runs
  cutover_unix_ms      bigint NULL,
  key_at               timestamptz NULL,    -- since when it has its WireGuard key; NULL: since created_at
  rotation_ended_at    timestamptz NULL,    -- when a rotation last ended, either way
  rotation_lead_s      int NULL,            -- a rotation was asked for and has not begun: so long before its moment it is to be told
  mesh_event_id        bigint NOT NULL,     -- newest event that changed what the mesh is made of
  deleted              boolean NOT NULL DEFAULT false,
  created_at           timestamptz NOT NULL,
  updated_at           timestamptz NOT NULL,
  resource_version     bigint NOT NULL,
  last_event_id        bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX nodes_view_name_live ON nodes_view (name) WHERE NOT deleted;

CREATE TABLE enrollment_tokens_view (
  enr_id           text CONSTRAINT enrollment_tokens_view_pkey PRIMARY KEY,
  roles            text[] NOT NULL,
  node_name        text NULL,
  source_cidr      text NULL,
  require_approval boolean NOT NULL,
  expires_at       timestamptz NOT NULL,
  created_by       text NOT NULL,
  used_by          text NULL,
  used_at          timestamptz NULL,
  deleted          boolean NOT NULL DEFAULT false, -- revoked
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

-- Images that may not run, by digest: of the reference or of one platform.
CREATE TABLE image_blocks_view (
  digest           text CONSTRAINT image_blocks_view_pkey PRIMARY KEY,
  evict            boolean NOT NULL, -- what runs of it is drained too
  reason           text NOT NULL,
  set_by           text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

-- What may send nothing of its own accord any more: instances, alone or by their environment or organisation.
CREATE TABLE quarantines_view (
  target_id        text CONSTRAINT quarantines_view_pkey PRIMARY KEY,
  target_type      text NOT NULL,
  reason           text NOT NULL,
  set_by           text NOT NULL,
  deleted          boolean NOT NULL DEFAULT false,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

-- IPv4 addresses that operators gave. Which of them are free or cool down follows from the allocations.
CREATE TABLE ipv4_pool_view (
  address          text CONSTRAINT ipv4_pool_view_pkey PRIMARY KEY,
  deleted          boolean NOT NULL DEFAULT false, -- withdrawn
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

-- Each time that an environment had such an address, those that ended too: cooldown and usage are asked of them.
CREATE TABLE ipv4_allocations_view (
  allocation_id    text CONSTRAINT ipv4_allocations_view_pkey PRIMARY KEY,
  org_id           text NOT NULL,
  app_id           text NOT NULL,
  env_id           text NOT NULL,
  ipv4_address     text NOT NULL,
  edge_node_id     text NULL,            -- the edge that carries it
  carrier_at       timestamptz NOT NULL, -- since when that is so
  ended_at         timestamptz NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
CREATE UNIQUE INDEX ipv4_allocations_view_env_live ON ipv4_allocations_view (env_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX ipv4_allocations_view_address_live ON ipv4_allocations_view (ipv4_address) WHERE ended_at IS NULL;
CREATE INDEX ipv4_allocations_view_org ON ipv4_allocations_view (org_id, created_at);

-- What was cut for billing: one row for each hour of an allocation.
CREATE TABLE usage_view (
  usage_id         text CONSTRAINT usage_view_pkey PRIMARY KEY, -- ALLOCATION.YYYYMMDDHH, UTC
  org_id           text NOT NULL,
  env_id           text NOT NULL,
  kind             text NOT NULL,
  allocation_id    text NOT NULL,
  ipv4_address     text NOT NULL,
  since            timestamptz NOT NULL,
  until            timestamptz NOT NULL,
  extra_ports      int NOT NULL, -- different ports beside 80 and 443
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);

CREATE TABLE cluster_view (
  key              text CONSTRAINT cluster_view_pkey PRIMARY KEY,
  value            jsonb NOT NULL,
  reason           text NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  resource_version bigint NOT NULL,
  last_event_id    bigint NOT NULL
);
