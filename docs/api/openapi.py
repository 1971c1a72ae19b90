#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/api/openapi.yaml: the route table of the program (`moat-control --routes`) joined with what is said here of
requests and answers. Usage: docs/api/openapi.py bin/moat-control > docs/api/openapi.yaml

A route without an entry in OPS, or an entry without a route, is an error. tests/scenario/test_openapi.py makes the file again
and compares, then walks it against a running server: every answer must fit its schema, with no member left undescribed."""
import json, re, subprocess, sys

# Objects: "member[?]:type". Types: str int bool time id digest any object, Name (an object), [T], {T} (map), a|b|c (words),
# str(max), int(min,max). "?" may be absent.
VERSIONED = "resource_version:int created_at:time updated_at:time"
OBJECTS = {
    "Problem": "type:str title:str status:int detail:str instance?:str code:str request_id:str retryable:bool retry_after_seconds?:int "
               "errors?:[FieldError] details?:object",
    "FieldError": "field:str code:str message:str path?:str line?:int column?:int hint?:str severity?:str",
    "Receipt": "operation:str resource_ids?:object event_id:any replayed:bool desired?:object next?:[NextStep]",
    "NextStep": "label:str command:str",
    "Change": "event_type:str aggregate_type:str aggregate_id:str payload:object",
    "TokenEnd": "id:id kind:personal|session|service_principal|break_glass subject_id:id already_revoked:bool",
    "Deleted": "ok:bool already_deleted:bool dry_run?:bool changes?:[Change] receipt?:Receipt",
    "Org": "id:id name:str billing_email?:str developer_exec:bool suspended:bool suspended_reason?:str deleted?:bool " + VERSIONED,
    "Member": "id:id org_id:id email:str user_id?:id role:owner|admin|developer|readonly state:invited|active " + VERSIONED,
    "Restrict": "app_ids?:[id] env_ids?:[id]",
    "ServicePrincipal": "id:id org_id:id name:str client_id:str client_secret?:any secret_shown?:bool old_valid_until?:time scopes:[str] "
                        "restrict?:Restrict last_used_at?:time " + VERSIONED,
    "LogDrain": "id:id org_id:id name:str kind:syslog|otlp target:str header?:str ca_pem?:str has_token:bool updated_by:str " + VERSIONED,
    "RegistryCredential": "id:id org_id:id host:str username:str updated_by:str " + VERSIONED,
    "Quarantine": "target_type:instance|env|org target_id:id reason:str updated_by:str " + VERSIONED,
    "SchedulerSwitch": "paused:bool reason?:str changed_at?:time",
    "SchedulerLeader": "holder:str epoch:int since:time renewed_at:time",
    "SchedulerGroups": "ok:int blocked:int held:int",
    "WaitingGroup": "org_id:id app_id:id env_id:id process_type:str condition:blocked|held reason?:str detail?:str since:time",
    "Scheduler": "paused:bool reason?:str changed_at?:time groups:SchedulerGroups waiting:[WaitingGroup] leader?:SchedulerLeader",
    "GroupCondition": "env_id:id process_type:str condition:ok|blocked|held detail?:str",
    "NodeAnswer": "node_id:id admin_state:str health:str takes_one_more:bool refuses_for?:str",
    "Placement": "process_type:str desired:int target_spec?:str stable_spec?:str nodes:[NodeAnswer]",
    "ExplainedStatus": "env_id:id name:str conditions:[Condition] processes:[Group] last_deploy?:StatusDeploy routes:[StatusRoute] secrets:StatusSecrets "
                       "volumes:[Volume] failure?:Failure",
    "Explanation": "org_id:id org:str app_id:id app:str env_id:id instance_id?:id scheduler:SchedulerSwitch status:ExplainedStatus placement:[Placement] "
                   "why?:[Event]",
    "ImageBlock": "digest:digest evict:bool reason:str updated_by:str " + VERSIONED,
    "Project": "id:id org_id:id name:str deleted?:bool " + VERSIONED,
    "App": "id:id org_id:id name:str description?:str project_id?:id deleted?:bool " + VERSIONED,
    "Env": "id:id org_id:id app_id:id name:str private_network:bool protected:bool label_selector?:{str} backup_interval_seconds?:int "
           "config_gate:unset|confirmed_none|set secrets?:EnvSecrets ipv4?:EnvIpv4 deleted?:bool " + VERSIONED,
    "EnvIpv4": "address:str allocation_id:id",
    "EnvSecrets": "bundle_id:id version_id:id",
    "Platform": "os:str arch:str variant?:str digest:digest",
    "Release": "id:id org_id:id app_id:id number:int image_ref:str image_digest:digest image_kind:manifest|index platforms:[Platform] "
               "image_verified:bool manifest_hash:str manifest:object process_types:[str] created_by:str deduplicated?:bool dry_run?:bool "
               "changes?:[Change] " + VERSIONED,
    "ReleaseSide": "release_id:id number:int image_ref:str image_digest:digest",
    "FieldChange": "path:str op:add|remove|replace from?:any to?:any",
    "ProcessChanges": "added:[str] removed:[str] changed:[str]",
    "ReleaseDiff": "from:ReleaseSide to:ReleaseSide same:bool image_changed:bool processes:ProcessChanges changes:[FieldChange]",
    "ManifestVerdict": "ok:bool manifest_hash?:str canonical?:object errors:[object]",
    "RouteChange": "action:create|update|delete route_id:id hostname?:str listen_port:int",
    "VolumeChange": "action:create|attach|detach volume_id:id name:str process_type:str",
    "VolumeAttachment": "id:id process_type:str mount_path:str read_only:bool managed_by:api|manifest",
    "AttachmentReplaced": "id:id volume_id:id old_volume_id:id process_type:str migration_id?:id status?:queued",
    "Attachment": "id:id org_id:id app_id:id env_id:id volume_id:id process_type:str mount_path:str read_only:bool managed_by:api|manifest deleted?:bool " + VERSIONED,
    "Snapshot": "id:id org_id:id app_id:id env_id:id volume_id:id source_node_id:id origin:scheduled|manual|migration status:queued|running|succeeded|failed "
                "phase?:capturing|uploading|verifying consistency?:crash|filesystem captured_at?:time finished_at?:time size_bytes?:int changed_bytes?:int "
                "uploaded_bytes?:int note?:str failed_reason?:str requested_by:str verified_at?:time restored_at?:time damaged?:bool pruned_at?:time dry_run?:bool changes?:[Change] " + VERSIONED,
    "Restore": "id:id org_id:id app_id:id env_id:id snapshot_id:id source_volume_id:id new_volume_id:id target_node_id:id status:queued|running|succeeded|failed "
               "phase?:downloading|checking bytes_done?:int bytes_total?:int failed_reason?:str requested_by:str finished_at?:time migration_id?:id dry_run?:bool changes?:[Change] " + VERSIONED,
    "Migration": "id:id org_id:id app_id:id env_id:id process_type?:str volume_ids:[id] new_volume_ids:[id] source_node_id:id target_node_id:id reason:user|drain|replace "
                 "status:queued|running|succeeded|failed phase?:precopy|stopping|final_copy|checking|starting|returning bytes_total?:int bytes_uploaded?:int downtime_ms?:int "
                 "failed_reason?:str requested_by:str finished_at?:time dry_run?:bool changes?:[Change] " + VERSIONED,
    "VolumeMigration": "id:id status:queued|running phase?:precopy|stopping|final_copy|checking|starting|returning target_node_id:id",
    "LatestSnapshot": "id:id origin:scheduled|manual|migration status:queued|running|succeeded|failed phase?:capturing|uploading|verifying failed_reason?:str created_at:time",
    "Proof": "snapshot_id:id at:time kind:readback|restore result:ok|damaged|failed bytes:int duration_ms:int failed_reason?:str probe_ms?:int probe_exit_code?:int "
             "probe_detail?:str probe_output?:str",
    "FilesystemCheck": "repair:bool pending:bool result?:clean|repaired|damaged|failed|in_use detail?:str checked_at?:time",
    "Volume": "id:id org_id:id app_id:id env_id:id name:str size_bytes:int resize_to_bytes?:int filesystem:ext4 fs_uuid?:str backup_enabled:bool "
              "home_node_id:id state:creating|available|in_use|deleting|deleted|error error_reason?:str reachable?:bool node_lost?:bool deleted?:bool "
              "last_backup_at?:time last_backup_snapshot_id?:id backup_stale?:bool proof_stale?:bool backup_lag_seconds?:int latest_snapshot?:LatestSnapshot last_proven_restore_at?:time last_proof?:Proof collected_at?:time collect_failed?:str from_snapshot_id?:id deploy_id?:id "
              "migration?:VolumeMigration attachment?:VolumeAttachment check?:FilesystemCheck dry_run?:bool changes?:[Change] " + VERSIONED,
    "Warning": "code:str process_type?:str desired?:int max?:int",
    "Failure": "instance_id:id process_type?:str status:str reason_code:str reason_detail?:str reason_text?:str exit_code?:int "
               "restart_count:int last_lines?:[str] last_console?:[str]",
    "Group": "process_type:str release_id?:id release_number?:int desired:int wanted?:int ready:int matching:int starting:int failed:int "
             "old:int old_ready:int draining:int sched_condition:ok|blocked|held reason?:str detail?:str since:time "
             "next_try?:time|room|command|resume next_try_at?:time",
    "Deploy": "id:id org_id:id app_id:id env_id:id kind:deploy|rollback|restart release_id?:id release_ids:{id} previous_release_ids:{id} "
              "process_types:[str] strategy:str on_failure:hold|rollback status:queued|rolling|succeeded|failed|superseded message?:str "
              "failed_reason?:str superseded_by?:id timeout_seconds:int note?:str warnings?:[Warning] created_by:str deadline_at?:time "
              "finished_at?:time progress?:[Group] failure?:Failure routes?:[RouteChange] volumes?:[VolumeChange] dry_run?:bool changes?:[Change] " + VERSIONED,
    "ScaleEntry": "process_type:str desired:int source:manifest|user max:int",
    "Scale": "env_id:id processes:[ScaleEntry] resource_version:int dry_run?:bool changes?:[Change]",
    "Instance": "id:id org_id:id app_id:id env_id:id process_type:str release_id:id deploy_id?:id node_id:id desired_state:running|draining|stopped "
                "desired_reason?:str status:booting|starting|ready|unready|draining|stopped|failed status_detail?:str reason_code?:str "
                "reason_detail?:str exit_code?:int restart_count:int restart_requested?:bool overlay_ipv6:str secret_version_id?:id "
                "cpu_millis:int memory_bytes:int disk_bytes:int arch:str image_digest:digest generation:int spec_hash:str replaces?:id "
                "boot_id?:str started_at?:time ready_at?:time last_transition_at:time released_at?:time " + VERSIONED,
    "Route": "id:id org_id:id app_id:id env_id:id hostname?:str listen_port:int protocol:tls_passthrough|tcp_raw address_scope:shared6|ipv4 "
             "backend_process_type:str backend_port:int proxy_protocol:off|v2 backend_expects_proxy_protocol:bool proxy_tlv:bool "
             "ipv4_required:bool max_connections?:int idle_timeout_seconds?:int balance:round_robin|least_conn min_tls_version?:1.0|1.1|1.2|1.3 default_for_listener:bool "
             "allow_non_tls:bool disabled:bool managed_by:api|manifest deleted?:bool status:pending|active|degraded hints:[str] "
             "addresses?:[str] dns_ok?:bool dns_checked_at?:time dns_records?:[DnsRecord] dry_run?:bool changes?:[Change] " + VERSIONED,
    "DnsRecord": "name:str type:A|AAAA|TXT ttl:int value:str",
    "DomainProof": "required:bool name:str value:str",
    "Listener": "protocol:str address_scope:str listen_port:int routes:int ipv4_routes:int",
    "Ipv4": "ipv4_address:str allocation_id:id status:pending|active|degraded edge_node_id?:id detail?:str enabled_at?:time dry_run?:bool changes?:[Change]",
    "Ipv4PoolAddress": "address:str state:free|allocated|cooldown|withdrawn allocation_id?:id org_id?:id env_id?:id edge_node_id?:id cooldown_until?:time " + VERSIONED,
    "Networking": "env_id:id ipv6:[str] ipv4:Ipv4? listeners:[Listener] hostnames:[str] domain_proof:DomainProof platform_hostname:str?",
    "StatusRoute": "id:id hostname?:str listen_port:int protocol:str backend_process_type:str backend_port:int ready_backends:int "
                   "disabled?:bool status:pending|active|degraded",
    "StatusDeploy": "id:id kind:str release_id?:id status:str message?:str failed_reason?:str process_types:[str] created_at:time finished_at?:time",
    "Condition": "type:blocked|held|failing|progressing|scale_clamped|route_disabled|route_degraded|deploy_failed|org_suspended|scheduler_paused "
                 "process_type?:str reason?:str detail?:str ready?:int desired?:int wanted?:int route_id?:id hostname?:str listen_port?:int "
                 "deploy_id?:id",
    "StatusSecrets": "config_gate:unset|confirmed_none|set version_id?:id version_number?:int key_count?:int",
    "EnvStatus": "env_id:id name:str conditions:[Condition] processes:[Group] last_deploy?:StatusDeploy routes:[StatusRoute] secrets:StatusSecrets volumes:[Volume] "
                 "failure?:Failure as_of_event_id:int",
    "Moment": "asked:str event_id:int last_event_at:time",
    "StateInstance": "id:id process_type:str release_id:id deploy_id?:id node_id:id desired_state:running|draining|stopped desired_reason?:str "
                     "status:booting|starting|ready|unready|draining|stopped|failed status_detail?:str reason_code?:str reason_detail?:str exit_code?:int "
                     "restart_count:int overlay_ipv6:str secret_version_id?:id generation:int started_at?:time ready_at?:time",
    "EnvState": "env_id:id name:str private_network:bool protected:bool label_selector?:{str} backup_interval_seconds?:int conditions:[Condition] "
                "processes:[Group] last_deploy?:StatusDeploy routes:[StatusRoute] secrets:StatusSecrets volumes:[Volume] failure?:Failure instances:[StateInstance] "
                "as_of_event_id?:int at?:Moment",
    "StateRelease": "id:id number:int image_digest:digest manifest_hash:str",
    "AppState": "app_id:id name:str description?:str project_id?:id releases_made:int releases:[StateRelease] envs:[EnvState] as_of_event_id?:int "
                "at?:Moment",
    "StateMember": "id:id email:str user_id?:id role:owner|admin|developer|readonly state:invited|active",
    "StatePrincipal": "id:id name:str client_id:str scopes:[str] restrict?:Restrict",
    "StateProject": "id:id name:str",
    "StateLimit": "dimension:str limit:int",
    "OrgState": "org_id:id name:str billing_email?:str developer_exec:bool suspended:bool suspended_reason?:str members:[StateMember] "
                "service_principals:[StatePrincipal] projects:[StateProject] limits:[StateLimit] apps:[AppState] as_of_event_id?:int at?:Moment",
    "StateChange": "kind:str text:str app_id?:id env_id?:id process_type?:str id?:id field?:str from?:any to?:any at?:time reason?:str reason_code?:str "
                   "exit_code?:int",
    "PatchStep": "op:add|remove|replace|move path:str from?:str value?:any",
    "StateDiff": "of:organisation|app|environment from:Moment to:Moment same:bool changes:[StateChange] patch:[PatchStep]",
    "Actor": "type:user|service_principal|node|operator|system id:str display?:str",
    "Event": "event_id:int occurred_at:time event_type:str event_version:int org_id?:id app_id?:id env_id?:id aggregate_type:str "
             "aggregate_id:str aggregate_seq:int actor:Actor request_id:str correlation_id?:str causation_id?:int summary:str payload:object",
    "Why": "instance_id:id items:[Event]",
    "ExecSession": "id:id org_id:id app_id:id env_id:id instance_id:id actor_type:str actor_id:str command:[str] tty:bool user?:str "
                   "status:granted|connected|ended expires_at:time max_duration_seconds:int connected_at?:time ended_at?:time exit_code?:int "
                   "signal?:str end_reason?:exited|killed|timeout|connect_timeout|client_disconnect|revoked|instance_stopped|agent_unreachable|"
                   "start_failed|protocol_error stdin_bytes?:int output_bytes?:int " + VERSIONED,
    "ExecGrant": "exec_session_id:id instance_id:id expires_at:time connect_url:str session_token:str? secret_shown?:bool",
    "EventPage": "items:[Event] next_after_event_id:int head_event_id:int epoch:int",
    "EventSchema": "event_type:str event_version:int aggregate_type:str audience:tenant|operator payload:object",
    "EventSchemas": "items:[EventSchema]",
    "LogLine": "ts:time seq:int stream:stdout|stderr|system process_type:str instance_id:id line:str truncated:bool",
    "AutopsyHealth": "type:http|tcp port:int path?:str failures:int error?:str status?:int body?:str",
    "AutopsyOom": "guest_kills:int cgroup_kills:int memory_bytes?:int memory_available_bytes?:int",
    "AutopsyLine": "ts:time stream:stdout|stderr|system line:str",
    "AutopsyRecord": "boot_id:id boot_seq:int ended_at:time reason_code:str reason_detail?:str explain?:str phase?:str step?:str exit_code?:int signal?:str vmm?:str"
    " oom:AutopsyOom health?:AutopsyHealth console:[str] log:[AutopsyLine]",
    "Autopsy": "boot_id:id instance_id:id release_id:id process_type:str node_id:id ended_at:time reason_code:str reason_text?:str record:AutopsyRecord",
    "Autopsies": "items:[Autopsy]",
    "LogPage": "items:[LogLine] next_cursor?:str missing_nodes:[id]",
    "Audit": "id:id chain:str seq:int ts:time org_id:any app_id:any env_id:any actor_type:any actor_id:any token_id:any scopes:any action:str "
             "resource_type:any resource_id:any decision:str reason:any request_id:any idempotency_key_hash:any source_ip:any user_agent:any "
             "result:any error_code:any event_id:any prev_hash:str hash:str",
    "AuditChain": "chain:str ok:bool records:int anchor_seq:int head_seq:int head_hash:str bad?:object",
    "AuditVerdict": "ok:bool pending:int chains:[AuditChain]",
    "Quota": "dimension:str limit:int? used:int source:str counts:str",
    "UsageHour": "env_id:id app_id:id kind:vcpu|memory|volume|backup|ipv4 unit:vcpu_milliseconds|mib_seconds|address_seconds from:time to:time quantity:int final:bool",
    "UsageItem": "app_id:id app:str env_id:id env:str kind:vcpu|memory|volume|backup|ipv4 unit:vcpu_milliseconds|mib_seconds|address_seconds quantity:int",
    "UsageTotal": "kind:vcpu|memory|volume|backup|ipv4 unit:vcpu_milliseconds|mib_seconds|address_seconds quantity:int",
    "UsageMonth": "month:str from:time to:time as_of:time final:bool items:[UsageItem] totals:[UsageTotal]",
    "MeshRemoval": "revision:int reason:str",
    "NodeAuthority": "role:signs|prepared|replaced pin:str ends_at:time",
    "NodeAuthorityNode": "node_id:id name:str trusts:bool renewed:bool last_heartbeat_at?:time",
    "NodeCa": "phase:steady|prepared|switched since?:time authorities:[NodeAuthority] nodes:[NodeAuthorityNode] waiting:int",
    "NodeCaStep": "step:prepare|switch|retire|abort reason:str force?:bool",
    "Maintenance": "on:bool reason?:str changed_at?:time",
    "Delivery": "process_type:str instances_on_current:int instances_total:int",
    "Secrets": "env_id:id config_gate:unset|confirmed_none|set bundle_id?:id version_id?:id version_number:int key_count:int key_names:[str] "
               "size_bytes?:int data_hash?:str updated_at?:time updated_by?:str resource_version:int delivery:[Delivery]",
    "SecretsChanged": "env_id:id config_gate:confirmed_none|set bundle_id:id version_id:id version_number:int key_count:int key_names:[str] "
                      "size_bytes:int data_hash:str updated_by:str unchanged:bool resource_version:int",
    "SecretsMaterial": "env_id:id version_number:int format:moat_env_v1 version_id:id encoding:base64 sha256:str data:str",
    "SecretVersion": "id:id bundle_id:id env_id:id version_number:int data_hash:str key_names:[str] size_bytes:int source:put|patch|activate "
                     "created_by:str material_state:present|shredded current:bool created_at:time",
    "MasterKey": "id:str state:active|retired|missing rows:int",
    "MasterKeys": "keys:[MasterKey] problem?:str",
    "Rewrapped": "rewrapped:int remaining:int failed:int",
    "KeysVerified": "wrapped_keys:int opened:int envelopes:int envelopes_opened:int",
    "RecoveryCounts": "adopt:int start:int stop:int ignore:int unknown:int",
    "RecoveryNode": "node_id:id name:str listed_at?:time heartbeat_at?:time epoch?:int cursor_event_id?:int next_address?:int",
    "RecoveryItem": "node_id:id instance_id:id action:adopt|start|stop|ignore|unknown reported?:str wanted?:str address?:str app_id?:id env_id?:id "
                    "process_type?:str",
    "Doctor": "ok:bool checks:[DoctorCheck]",
    "DoctorCheck": "check:str severity:ok|warn|fail finding:str mend?:str",
    "Edge": "node_id:id name:str admin_state:str health:str state:never_heard|silent|serving|draining draining:bool public_ipv6?:str public_ipv4?:str version?:str epoch?:int "
            "revision?:int connections?:int last_report_at?:time seconds_since_report?:int ipv4?:[str] ipv4_errors?:[object] resource_version:int dry_run?:bool changes?:[Change]",
    "MeshNode": "name:str id:id health:str device?:str rejected?:str failed?:str revision?:int mtu?:int underlay_mtu?:int repairs?:int",
    "MeshPair": "a:str b:str state:ok|unknown|missing|broken|one-way|narrow|lossy cause?:str handshake_age_s?:int rtt_us?:int loss_percent?:int mtu_ok?:bool",
    "Mesh": "ok:bool meshed:int nodes:[MeshNode] pairs:[MeshPair]",
    "BackupsKey": "volume_id:id key_epoch:int dry_run?:bool changes?:[Change]",
    "KeyForgotten": "id:str state:forgotten next:str",
    "IpamPool": "pool:nodes|ipv4|shared_ports allocated:int cooldown:int retired:int free:int",
    "IpamLeak": "pool:nodes|instances|ipv4|shared_ports address:str id:id since:time why:str reclaim:str",
    "Capacity": "nodes:int eligible_nodes:int allocatable:Resources used:Resources headroom_memory_bytes:int worst_node_id?:id largest_instance_memory_bytes:int",
    "Simulation": "event:loss|drain node_id:id name:str instances:int restart:int missing:int stay:int groups:[SimulatedGroup] volumes:[SimulatedVolume]",
    "SimulatedGroup": "org_id:id app_id:id env_id:id app:str env:str process_type:str instances:int ready_elsewhere:int restart_on:[SimulatedPlace] missing:int "
                      "stay:int reason?:str detail?:str",
    "SimulatedPlace": "node_id:id name:str instances:int",
    "SimulatedVolume": "id:id name:str org_id:id app_id:id env_id:id app:str env:str size_bytes:int state:str last_backup_at:time? loses_seconds:int? moves_to?:id not_moved?:str",
    "Resources": "memory_bytes:int cpu_millis:int disk_bytes:int",
    "Recovery": "state:none|frozen|applied epoch:int head_event_id:int changed_at?:time reason?:str counts:RecoveryCounts nodes:[RecoveryNode] "
                "items:[RecoveryItem]",
    "RecoveryDecision": "state:none|applied epoch:int reason:str",
    "Usage": "instances:int cpu_millis:int memory_bytes:int disk_bytes:int",
    "Drain": "state:draining|blocked|complete remaining:int blocked_by_stateful:[DrainBlock] volumes?:int migrations?:[DrainMigration] not_moved?:[NotMoved]",
    "DrainMigration": "id:id env_id:id process_type?:str phase?:precopy|stopping|final_copy|checking|starting|returning target_node_id:id",
    "NotMoved": "volume_id:id name:str env_id:id code:str reason:str",
    "DrainBlock": "instance_id:id volume_id?:id env_id:id",
    "NodeState": "id:id name:str admin_state:str resource_version:int secrets_to_rotate?:[SecretsHeld]",
    "SecretsHeld": "org:str app:str env:str env_id:id",
    "EnrollmentToken": "id:id roles:[str] node_name?:str source_cidr?:str require_approval:bool expires_at:time created_by:str used_by?:id "
                       "used_at?:time state:unused|used|expired|revoked control_address?:str ca_pin?:str token?:any secret_shown?:bool " + VERSIONED,
    "HostRequirement": "item:str finding:str mend:str",
    "NodeSettings": "id:id name:str admin_state:str labels:{str} config:object resource_version:int dry_run?:bool changes?:[Change]",
    "Node": "id:id name:str roles:[str] admin_state:str admin_reason?:str health:str health_reason?:str conditions:[str] config:object vmm?:object "
            "arch:str labels:{str} overlay_ipv6:str instance_prefix:str public_ipv6?:str public_ipv4?:str capacity:object allocatable:object "
            "mtu?:int agent_version?:str mesh?:object host_requirements?:[HostRequirement] wireguard_public_key:str key_generation:int key_rotation?:waiting|running last_heartbeat_at?:time applied_cursor_event_id?:int usage:Usage drain?:Drain " + VERSIONED,
    "User": "id:id email:str display_name?:str state:active|disabled is_operator:bool has_password:bool has_totp:bool setup_url?:any "
            "secret_shown?:bool " + VERSIONED,
    "Whoami": "subject_type:str subject_id:id email?:str is_operator:bool scopes:[str] restrict?:Restrict orgs:[object] token:object",
    "Capabilities": "base_domain?:str server_version:str api_versions:[str] manifest_versions:[str] features:object limits:object",
    "Token": "id:id name:str scopes:[str] org_id?:id restrict?:Restrict created_at:time expires_at?:time last_used_at?:time token?:any secret_shown?:bool",
    "Rebuild": "view:str requested_at:time requested_by:str failed?:any",
    "Projection": "name:str state:str last_applied_event_id:int head_event_id:int updated_at:time rebuild?:Rebuild",
    # requests
    "Version": "expected_version?:int",
    "QuotaSet": "limit:int? reason:str",
    "SecretsSet": "format?:str data?:str values?:{str} values_base64?:{str} expected_version:int",
    "SecretsChange": "set?:{str} set_base64?:{str} unset?:[str] expected_version?:int",
    "MaintenanceSet": "on:bool reason:str",
    "RecoverySet": "reason:str",
    "OrgNew": "name:str billing_email?:str",
    "OrgChange": "name?:str billing_email?:str? developer_exec?:bool expected_version?:int",
    "Reason": "reason:str",
    "EdgeDrain": "reason:str force?:bool",
    "BackupsVerify": "volume_id:id snapshot_id?:id",
    "BackupsRekey": "volume_id:id reason:str",
    "NodePatch": "labels?:{str?} config?:{int?} reason?:str expected_version?:int",
    "NodeDrain": "reason:str stateful?:stay|stop|migrate",
    "RotateKey": "reason:str lead_seconds?:int",
    "Named": "name:str",
    "NameChange": "name?:str expected_version?:int",
    "AppNew": "name:str description?:str project_id?:str",
    "AppChange": "name?:str description?:str? project_id?:str? expected_version?:int",
    "EnvNew": "name:str private_network?:bool protected?:bool",
    "EnvChange": "name?:str private_network?:bool protected?:bool label_selector?:{str}? backup_interval_seconds?:int? expected_version?:int",
    "ManifestText": "manifest:str manifest_format?:toml|json image_ref?:str",
    "ReleaseNew": "manifest:str manifest_format?:toml|json image_ref?:str image_digest?:str verify_image?:bool",
    "DeployNew": "release_id:str process_types?:[str] on_failure?:hold|rollback timeout_seconds?:int force?:bool note?:str",
    "RollbackNew": "release_id?:str process_types?:[str] on_failure?:hold|rollback timeout_seconds?:int note?:str",
    "RestartNew": "process_types?:[str] on_failure?:hold|rollback",
    "RebalanceNew": "process_types?:[str]",
    "ScaleWanted": "process_type:str desired:int?",
    "ScaleSet": "processes:[ScaleWanted] expected_version?:int",
    "ExecNew": "command:[str] tty?:bool cols?:int rows?:int env?:{str} user?:str stdin?:bool max_duration_seconds?:int",
    "SnapshotNew": "note?:str",
    "AttachmentReplace": "new_volume_id:id drain?:bool expected_version?:int",
    "RecoverNew": "accept_loss_since:str node_id?:id",
    "RestoreNew": "snapshot_id:id name?:str size_bytes?:int target_node_id?:id target_env_id?:id replace?:bool",
    "VolumeNew": "name:str size_bytes:int filesystem?:ext4 backup_enabled?:bool node_id?:id",
    "AttachmentNew": "volume_id:id process_type:str mount_path:str read_only?:bool",
    "VolumePatch": "name?:str backup_enabled?:bool expected_version?:int",
    "VolumeResize": "size_bytes:int restart?:bool",
    "VolumeMigrate": "node_id:id",
    "VolumeVerify": "snapshot_id?:id",
    "VolumeDelete": "expected_version?:int delete_backups?:bool force?:bool",
    "RouteNew": "hostname?:str listen_port?:int protocol?:tls_passthrough|tcp_raw backend_process_type:str backend_port:int proxy_protocol?:off|v2 "
                "backend_expects_proxy_protocol?:bool proxy_tlv?:bool ipv4_required?:bool max_connections?:int idle_timeout_seconds?:int "
                "balance?:round_robin|least_conn min_tls_version?:1.0|1.1|1.2|1.3 default_for_listener?:bool allow_non_tls?:bool",
    "RoutePatch": "backend_process_type?:str backend_port?:int proxy_protocol?:off|v2 backend_expects_proxy_protocol?:bool proxy_tlv?:bool "
                  "ipv4_required?:bool max_connections?:int? idle_timeout_seconds?:int? balance?:round_robin|least_conn "
                  "min_tls_version?:1.0|1.1|1.2|1.3? default_for_listener?:bool allow_non_tls?:bool expected_version?:int",
    "MemberNew": "email:str role:owner|admin|developer|readonly",
    "MemberChange": "role:owner|admin|developer|readonly expected_version?:int",
    "LogDrainSet": "kind:syslog|otlp target:str(2048) token?:str(4096) header?:str(64) ca_pem?:str(16384) expected_version?:int",
    "RegistrySet": "username:str password:str expected_version?:int",
    "ImageBlockNew": "digest:digest evict?:bool reason:str",
    "ImageUnblock": "reason:str",
    "Ipv4PoolNew": "address:str(15)",
    "Ipv4PoolEnd": "reason?:str(500)",
    "QuarantineNew": "target_type:instance|env|org target_id:str reason:str",
    "QuarantineEnd": "reason:str",
    "SpNew": "name:str scopes:[str] restrict?:Restrict",
    "SpChange": "name?:str scopes?:[str] restrict?:Restrict? expected_version?:int",
    "SpRotate": "overlap_seconds?:int",
    "TokenNew": "name:str scopes:[str] org_id?:str restrict?:Restrict expires_in_days?:int",
    "DeviceStart": "client_name:str scopes?:[str]",
    "DeviceToken": "device_code:str",
    "ClientToken": "grant_type:client_credentials client_id:str client_secret:str scopes?:[str]",
    "Refresh": "refresh_token:str",
    "Revoke": "token:str",
    "NodeRemove": "reason?:str(500)",
    "EnrollmentTokenNew": "roles?:[worker|edge|control] node_name?:str(63) source_cidr?:str(49) require_approval?:bool ttl_seconds?:int(300,86400)",
    "UserNew": "email:str display_name?:str is_operator?:bool",
    "UserChange": "display_name?:str is_operator?:bool state?:active|disabled expected_version?:int",
    "BreakGlassNew": "org_id:str reason:str expires_in_seconds?:int",
    "Empty": "",
}

LIST, TIMES = "limit cursor order", "created_after created_before"
NAMED = "name include_deleted " + TIMES + " " + LIST
EVENTS = ("app_id env_id event_type aggregate_type aggregate_id correlation_id actor_id since until after_event_id")
LOGS = "process_type instance_id release_id since until limit stream contains previous"
O, A, E = "/v1/orgs/{org_id}", "/v1/orgs/{org_id}/apps/{app_id}", "/v1/orgs/{org_id}/apps/{app_id}/envs/{env_id}"
# (answer: Name, [Name] for a page of them, ndjson, or any), status of success, request, query parameters
OPS = {
    "GET /v1/auth/whoami": ("Whoami", 200, None, ""),
    "GET /v1/auth/tokens": ("[Token]", 200, None, LIST),
    "POST /v1/auth/tokens": ("Token", 201, "TokenNew", ""),
    "DELETE /v1/auth/tokens/{token_id}": ("Deleted", 200, None, ""),
    "POST /v1/auth/device/start": ("any", 200, "DeviceStart", ""),
    "POST /v1/auth/device/token": ("any", 200, "DeviceToken", ""),
    "POST /v1/auth/token": ("any", 200, "ClientToken", ""),
    "POST /v1/auth/token/refresh": ("any", 200, "Refresh", ""),
    "POST /v1/auth/token/revoke": ("any", 200, "Revoke", ""),
    "GET /v1/capabilities": ("Capabilities", 200, None, ""),
    "GET /v1/schemas/events": ("EventSchemas", 200, None, ""),
    "GET /v1/orgs": ("[Org]", 200, None, NAMED + " all"),
    "POST /v1/orgs": ("Org", 201, "OrgNew", ""),
    "GET " + O: ("Org", 200, None, ""),
    "PATCH " + O: ("Org", 200, "OrgChange", ""),
    "DELETE " + O: ("Deleted", 200, "Version", "dry_run"),
    "POST " + O + "/suspend": ("Org", 200, "Reason", ""),
    "POST " + O + "/resume": ("Org", 200, "Reason", ""),
    "GET " + O + "/members": ("[Member]", 200, None, "email " + LIST),
    "POST " + O + "/members": ("Member", 201, "MemberNew", ""),
    "PATCH " + O + "/members/{member_id}": ("Member", 200, "MemberChange", ""),
    "DELETE " + O + "/members/{member_id}": ("Deleted", 200, "Version", ""),
    "GET " + O + "/service-principals": ("[ServicePrincipal]", 200, None, "name " + LIST),
    "POST " + O + "/service-principals": ("ServicePrincipal", 201, "SpNew", ""),
    "GET " + O + "/service-principals/{sp_id}": ("ServicePrincipal", 200, None, ""),
    "PATCH " + O + "/service-principals/{sp_id}": ("ServicePrincipal", 200, "SpChange", ""),
    "POST " + O + "/service-principals/{sp_id}/rotate": ("any", 200, "SpRotate", ""),
    "DELETE " + O + "/service-principals/{sp_id}": ("Deleted", 200, "Version", ""),
    "GET " + O + "/log-drains": ("[LogDrain]", 200, None, "name " + LIST),
    "PUT " + O + "/log-drains/{drain}": ("LogDrain", 201, "LogDrainSet", ""),
    "DELETE " + O + "/log-drains/{drain}": ("Deleted", 200, "Version", ""),
    "GET " + O + "/registry-credentials": ("[RegistryCredential]", 200, None, "host " + LIST),
    "PUT " + O + "/registry-credentials/{host}": ("RegistryCredential", 201, "RegistrySet", ""),
    "DELETE " + O + "/registry-credentials/{host}": ("Deleted", 200, "Version", ""),
    "GET /v1/quarantine": ("[Quarantine]", 200, None, LIST),
    "POST /v1/quarantine": ("Quarantine", 201, "QuarantineNew", ""),
    "DELETE /v1/quarantine/{target_id}": ("Deleted", 200, "QuarantineEnd", ""),
    "GET /v1/image-blocks": ("[ImageBlock]", 200, None, LIST),
    "POST /v1/image-blocks": ("ImageBlock", 201, "ImageBlockNew", ""),
    "DELETE /v1/image-blocks/{digest}": ("Deleted", 200, "ImageUnblock", ""),
    "GET " + O + "/projects": ("[Project]", 200, None, NAMED),
    "POST " + O + "/projects": ("Project", 201, "Named", ""),
    "GET " + O + "/projects/{project_id}": ("Project", 200, None, ""),
    "PATCH " + O + "/projects/{project_id}": ("Project", 200, "NameChange", ""),
    "DELETE " + O + "/projects/{project_id}": ("Deleted", 200, "Version", "dry_run"),
    "GET " + O + "/apps": ("[App]", 200, None, NAMED + " project_id"),
    "POST " + O + "/apps": ("App", 201, "AppNew", ""),
    "GET " + A: ("App", 200, None, ""),
    "PATCH " + A: ("App", 200, "AppChange", ""),
    "DELETE " + A: ("Deleted", 200, "Version", "cascade dry_run"),
    "GET " + A + "/envs": ("[Env]", 200, None, NAMED),
    "POST " + A + "/envs": ("Env", 201, "EnvNew", ""),
    "GET " + E: ("Env", 200, None, ""),
    "PATCH " + E: ("Env", 200, "EnvChange", ""),
    "DELETE " + E: ("Deleted", 200, "Version", "cascade dry_run"),
    "GET " + E + "/status": ("EnvStatus", 200, None, ""),
    "POST " + A + "/manifest/validate": ("ManifestVerdict", 200, "ManifestText", ""),
    "GET " + A + "/releases": ("[Release]", 200, None, "number " + TIMES + " " + LIST),
    "POST " + A + "/releases": ("Release", 201, "ReleaseNew", "dry_run"),
    "GET " + A + "/releases/{release_id}": ("Release", 200, None, ""),
    "GET " + A + "/releases/{release_id}/diff": ("ReleaseDiff", 200, None, "against"),
    "GET " + E + "/deploys": ("[Deploy]", 200, None, "status process_type kind " + TIMES + " " + LIST),
    "POST " + E + "/deploys": ("Deploy", 201, "DeployNew", "dry_run"),
    "GET " + E + "/deploys/{deploy_id}": ("Deploy", 200, None, ""),
    "POST " + E + "/rollbacks": ("Deploy", 201, "RollbackNew", "dry_run"),
    "POST " + E + "/restarts": ("Deploy", 201, "RestartNew", ""),
    "GET " + E + "/scale": ("Scale", 200, None, ""),
    "PUT " + E + "/scale": ("Scale", 200, "ScaleSet", "dry_run"),
    "POST " + E + "/rebalance": ("Scale", 200, "RebalanceNew", ""),
    "GET " + E + "/instances": ("[Instance]", 200, None, "process_type status include_stopped release_id " + TIMES + " " + LIST),
    "GET " + E + "/instances/{instance_id}": ("Instance", 200, None, ""),
    "GET " + E + "/instances/{instance_id}/why": ("Why", 200, None, ""),
    "POST " + E + "/instances/{instance_id}/restart": ("Instance", 200, "Empty", ""),
    "POST " + E + "/instances/{instance_id}/exec": ("ExecGrant", 201, "ExecNew", ""),
    "GET " + E + "/exec-sessions": ("[ExecSession]", 200, None, "instance_id status " + TIMES + " " + LIST),
    "GET " + E + "/exec-sessions/{exec_session_id}": ("ExecSession", 200, None, ""),
    "DELETE " + E + "/exec-sessions/{exec_session_id}": ("Deleted", 200, "Empty", ""),
    "GET /v1/exec-sessions/{exec_session_id}/connect": ("any", 101, None, ""),
    "GET " + E + "/volumes": ("[Volume]", 200, None, "include_deleted " + LIST),
    "GET " + E + "/volume-attachments": ("[Attachment]", 200, None, "include_deleted " + LIST),
    "GET " + E + "/volume-attachments/{attachment_id}": ("Attachment", 200, None, ""),
    "POST " + E + "/volume-attachments": ("Attachment", 201, "AttachmentNew", "dry_run"),
    "POST " + E + "/volume-attachments/{attachment_id}/replace": ("AttachmentReplaced", 201, "AttachmentReplace", "dry_run"),
    "DELETE " + E + "/volume-attachments/{attachment_id}": ("Deleted", 200, "Version", "dry_run"),
    "GET /v1/admin/volumes": ("[Volume]", 200, None, "node_id volume_id include_deleted " + LIST),
    "POST /v1/admin/volumes/{volume_id}/fsck": ("Volume", 200, "Empty", "dry_run"),
    "POST /v1/admin/volumes/{volume_id}/repair": ("Volume", 200, "Empty", "dry_run"),
    "GET " + O + "/volumes": ("[Volume]", 200, None, "include_deleted " + LIST),
    "POST " + E + "/volumes": ("Volume", 201, "VolumeNew", "dry_run"),
    "GET " + E + "/volumes/{volume_id}": ("Volume", 200, None, ""),
    "PATCH " + E + "/volumes/{volume_id}": ("Volume", 200, "VolumePatch", "dry_run"),
    "POST " + E + "/volumes/{volume_id}/resize": ("Volume", 200, "VolumeResize", "dry_run"),
    "DELETE " + E + "/volumes/{volume_id}": ("Deleted", 200, "VolumeDelete", "dry_run delete_backups force"),
    "POST " + E + "/volumes/{volume_id}/restore": ("Restore", 201, "RestoreNew", "dry_run"),
    "POST " + E + "/volumes/{volume_id}/recover": ("Restore", 201, "RecoverNew", "dry_run"),
    "POST " + E + "/volumes/{volume_id}/verify": ("Restore", 201, "VolumeVerify", "dry_run"),
    "POST " + E + "/volumes/{volume_id}/migrate": ("Migration", 201, "VolumeMigrate", "dry_run"),
    "GET " + O + "/migrations": ("[Migration]", 200, None, LIST),
    "GET " + O + "/migrations/{migration_id}": ("Migration", 200, None, ""),
    "DELETE " + O + "/migrations/{migration_id}": ("Deleted", 200, "Empty", "dry_run"),
    "GET " + O + "/restores": ("[Restore]", 200, None, LIST),
    "GET " + O + "/restores/{restore_id}": ("Restore", 200, None, ""),
    "GET " + E + "/snapshots": ("[Snapshot]", 200, None, "include_deleted " + LIST),
    "GET " + E + "/snapshots/{snapshot_id}": ("Snapshot", 200, None, ""),
    "GET " + E + "/volumes/{volume_id}/snapshots": ("[Snapshot]", 200, None, "include_deleted " + LIST),
    "POST " + E + "/volumes/{volume_id}/snapshots": ("Snapshot", 201, "SnapshotNew", "dry_run"),
    "GET " + E + "/volumes/{volume_id}/snapshots/{snapshot_id}": ("Snapshot", 200, None, ""),
    "DELETE " + E + "/volumes/{volume_id}/snapshots/{snapshot_id}": ("Deleted", 200, "Version", "dry_run"),
    "GET " + E + "/routes": ("[Route]", 200, None, "hostname include_deleted process_type " + TIMES + " " + LIST),
    "GET " + O + "/routes": ("[Route]", 200, None, "hostname include_deleted process_type app_id env_id " + TIMES + " " + LIST),
    "POST " + E + "/routes": ("Route", 201, "RouteNew", "dry_run"),
    "GET " + E + "/routes/{route_id}": ("Route", 200, None, ""),
    "PATCH " + E + "/routes/{route_id}": ("Route", 200, "RoutePatch", ""),
    "DELETE " + E + "/routes/{route_id}": ("Deleted", 200, "Version", "dry_run"),
    "POST /v1/routes/{route_id}/disable": ("Route", 200, "Reason", ""),
    "POST /v1/routes/{route_id}/enable": ("Route", 200, "Reason", ""),
    "GET " + E + "/secrets": ("Secrets", 200, None, ""),
    "PUT " + E + "/secrets": ("SecretsChanged", 200, "SecretsSet", ""),
    "PATCH " + E + "/secrets": ("SecretsChanged", 200, "SecretsChange", ""),
    "POST " + E + "/secrets/confirm-none": ("SecretsChanged", 200, "Empty", ""),
    "GET " + E + "/secrets/material": ("SecretsMaterial", 200, None, ""),
    "GET " + E + "/secrets/versions": ("[SecretVersion]", 200, None, LIST),
    "POST " + E + "/secrets/versions/{version_id}/activate": ("SecretsChanged", 200, "Empty", ""),
    "GET /v1/admin/keys": ("MasterKeys", 200, None, ""),
    "POST /v1/admin/keys/rewrap": ("Rewrapped", 200, "Empty", ""),
    "POST /v1/admin/keys/verify": ("KeysVerified", 200, "Empty", ""),
    "GET " + E + "/networking": ("Networking", 200, None, ""),
    "POST " + E + "/networking/ipv4": ("Ipv4", 201, "Empty", "dry_run"),
    "DELETE " + E + "/networking/ipv4": ("Deleted", 200, "Empty", "dry_run force"),
    "GET /v1/ipv4-pool": ("[Ipv4PoolAddress]", 200, None, LIST),
    "POST /v1/ipv4-pool": ("Ipv4PoolAddress", 201, "Ipv4PoolNew", ""),
    "DELETE /v1/ipv4-pool/{address}": ("Deleted", 200, "Ipv4PoolEnd", ""),
    "GET " + O + "/events": ("EventPage", 200, None, EVENTS + " before_event_id limit order"),
    "GET " + O + "/events/stream": ("ndjson", 200, None, EVENTS),
    "GET " + O + "/history/status": ("OrgState", 200, None, "at"),
    "GET " + O + "/history/diff": ("StateDiff", 200, None, "from to"),
    "GET " + A + "/history/status": ("AppState", 200, None, "at"),
    "GET " + A + "/history/diff": ("StateDiff", 200, None, "from to"),
    "GET " + E + "/history/status": ("EnvState", 200, None, "at"),
    "GET " + E + "/history/diff": ("StateDiff", 200, None, "from to"),
    "GET " + O + "/audit": ("[Audit]", 200, None, "actor action decision resource since until " + LIST),
    "GET " + O + "/quotas": ("[Quota]", 200, None, ""),
    "PUT " + O + "/quotas/{dimension}": ("Quota", 200, "QuotaSet", ""),
    "GET " + O + "/usage": ("[UsageHour]", 200, None, "since until env_id kind " + LIST),
    "GET " + O + "/usage/month": ("UsageMonth", 200, None, "month env_id kind"),
    "GET " + O + "/audit/verify": ("AuditVerdict", 200, None, ""),
    "GET " + E + "/autopsies": ("Autopsies", 200, None, "release_id instance_id process_type limit"),
    "GET " + E + "/logs": ("LogPage", 200, None, LOGS + " cursor"),
    "GET " + E + "/logs/stream": ("ndjson", 200, None, LOGS + " cursor positions"),
    "GET /v1/users": ("[User]", 200, None, "email state " + LIST),
    "POST /v1/users": ("any", 201, "UserNew", ""),
    "GET /v1/users/{user_id}": ("User", 200, None, ""),
    "PATCH /v1/users/{user_id}": ("any", 200, "UserChange", ""),
    "POST /v1/users/{user_id}/setup-link": ("any", 201, "Empty", ""),
    "POST /v1/tokens/{token_id}/revoke": ("TokenEnd", 200, "Reason", ""),
    "POST /v1/admin/break-glass": ("any", 201, "BreakGlassNew", ""),
    "GET /v1/nodes": ("[Node]", 200, None, "name " + LIST),
    "GET /v1/nodes/{node_id}": ("Node", 200, None, ""),
    "PATCH /v1/nodes/{node_id}": ("NodeSettings", 200, "NodePatch", "dry_run"),
    "POST /v1/nodes/{node_id}/approve": ("NodeState", 200, "Reason", ""),
    "POST /v1/nodes/{node_id}/cordon": ("NodeState", 200, "Reason", ""),
    "POST /v1/nodes/{node_id}/uncordon": ("NodeState", 200, "Reason", ""),
    "POST /v1/nodes/{node_id}/drain": ("NodeState", 200, "NodeDrain", ""),
    "POST /v1/nodes/{node_id}/disable": ("NodeState", 200, "Reason", ""),
    "POST /v1/nodes/{node_id}/confirm-offline": ("NodeState", 200, "Reason", ""),
    "POST /v1/nodes/{node_id}/mark-lost": ("NodeState", 200, "Reason", ""),
    "POST /v1/nodes/{node_id}/rotate-key": ("NodeState", 200, "RotateKey", ""),
    "DELETE /v1/nodes/{node_id}": ("Deleted", 200, "NodeRemove", "force"),
    "GET /v1/enrollment-tokens": ("[EnrollmentToken]", 200, None, LIST),
    "POST /v1/enrollment-tokens": ("EnrollmentToken", 201, "EnrollmentTokenNew", ""),
    "DELETE /v1/enrollment-tokens/{enrollment_token_id}": ("Deleted", 200, "Empty", ""),
    "GET /v1/admin/events": ("EventPage", 200, None, EVENTS + " before_event_id limit order"),
    "GET /v1/admin/projections": ("[Projection]", 200, None, ""),
    "POST /v1/admin/projections/{name}/rebuild": ("Rebuild", 200, "Empty", ""),
    "GET /v1/admin/audit": ("[Audit]", 200, None, "chain actor action decision resource since until " + LIST),
    "GET /v1/admin/maintenance": ("Maintenance", 200, None, ""),
    "GET /v1/admin/node-ca": ("NodeCa", 200, None, "One authority signs, another is prepared or replaced while it is rotated. `waiting`: nodes that the next step waits for."),
    "POST /v1/admin/node-ca": ("NodeCa", 200, "NodeCaStep", "409 while nodes are not there yet; `force` does not wait for them, they have to join anew."),
    "POST /v1/admin/mesh-removal": ("MeshRemoval", 200, "Reason", ""),
    "POST /v1/admin/maintenance": ("Maintenance", 200, "MaintenanceSet", ""),
    "GET /v1/admin/capacity": ("Capacity", 200, None, ""),
    "GET /v1/admin/mesh": ("Mesh", 200, None, ""),
    "GET /v1/admin/edges": ("[Edge]", 200, None, "name " + LIST),
    "POST /v1/admin/edges/{node_id}/drain": ("Edge", 200, "EdgeDrain", "dry_run"),
    "POST /v1/admin/edges/{node_id}/undrain": ("Edge", 200, "Reason", "dry_run"),
    "GET /v1/admin/backups": ("[Volume]", 200, None, "stale node_id " + LIST),
    "POST /v1/admin/backups/verify": ("Restore", 201, "BackupsVerify", "dry_run"),
    "POST /v1/admin/backups/rekey": ("BackupsKey", 200, "BackupsRekey", "dry_run"),
    "POST /v1/admin/backups/scan": ("any", 200, "Empty", ""),
    "POST /v1/admin/keys/{key_id}/retire": ("KeyForgotten", 200, "Reason", ""),
    "GET /v1/admin/ipam": ("[IpamPool]", 200, None, ""),
    "GET /v1/admin/ipam/leaks": ("[IpamLeak]", 200, None, "Oldest first, 1000 at most: the others come when these were reclaimed."),
    "GET /v1/admin/doctor": ("Doctor", 200, None, ""),
    "GET /v1/admin/upgrade": ("Doctor", 200, None, "The preconditions of an upgrade, in the form of the doctor."),
    "GET /v1/admin/explain": ("Explanation", 200, None, "env_id instance_id"),
    "GET /v1/admin/scheduler": ("Scheduler", 200, None, ""),
    "POST /v1/admin/scheduler/pause": ("SchedulerSwitch", 200, "Reason", ""),
    "POST /v1/admin/scheduler/resume": ("SchedulerSwitch", 200, "Reason", ""),
    "POST /v1/admin/groups/{env_id}/{process_type}/hold": ("GroupCondition", 200, "Reason", ""),
    "POST /v1/admin/groups/{env_id}/{process_type}/resume": ("GroupCondition", 200, "Reason", ""),
    "GET /v1/nodes/{node_id}/simulate/loss": ("Simulation", 200, None, ""),
    "GET /v1/nodes/{node_id}/simulate/drain": ("Simulation", 200, None, ""),
    "GET /v1/admin/recovery": ("Recovery", 200, None, ""),
    "POST /v1/admin/recovery/apply": ("RecoveryDecision", 200, "RecoverySet", ""),
    "POST /v1/admin/recovery/finish": ("RecoveryDecision", 200, "RecoverySet", ""),
    "GET /v1/admin/audit/verify": ("AuditVerdict", 200, None, ""),
}
QUERY = {
    "limit": {"type": "integer", "minimum": 1}, "after_event_id": {"type": "integer", "minimum": 0}, "before_event_id": {"type": "integer", "minimum": 1},
    "order": {"enum": ["asc", "desc"]}, "dry_run": {"type": "boolean"}, "cascade": {"type": "boolean"}, "include_deleted": {"type": "boolean"},
    "include_stopped": {"type": "boolean"}, "previous": {"type": "boolean"}, "positions": {"type": "boolean"}, "all": {"type": "boolean"}, "created_after": {"type": "string", "format": "date-time"},
    "created_before": {"type": "string", "format": "date-time"},
}
SIMPLE = {
    "str": {"type": "string"}, "int": {"type": "integer"}, "bool": {"type": "boolean"}, "any": {}, "object": {"type": "object"},
    "id": {"type": "string", "pattern": "^[a-z0-9]+_[0-9a-z]{26}$"},
    "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"},
    "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
}


def schema(t):
    if t.endswith("?"):
        return {"anyOf": [schema(t[:-1]), {"type": "null"}]}
    if t[0] == "[":
        return {"type": "array", "items": schema(t[1:-1])}
    if t[0] == "{":
        return {"type": "object", "additionalProperties": schema(t[1:-1])}
    if t in SIMPLE:
        return dict(SIMPLE[t])
    if t in OBJECTS:
        return {"$ref": "#/components/schemas/" + t}
    return {"type": "string", "enum": t.split("|")}


def members(name):
    """[(member, type, required)] of an object."""
    out = []
    for word in OBJECTS[name].split():
        m, t = word.split(":", 1)
        out.append((m.rstrip("?"), t, not m.endswith("?")))
    return out


def is_request(name):
    return list(OBJECTS).index(name) >= list(OBJECTS).index("Version")


def component(name):
    o = {"type": "object", "properties": {m: schema(t) for m, t, _ in members(name)}}
    need = [m for m, _, r in members(name) if r]
    if need:
        o["required"] = need
    if is_request(name):
        o["additionalProperties"] = False
    return o


def routes(program):
    """[(method, path, scope, words)] of the public listener, in the order of the table."""
    out = []
    for line in subprocess.run([program, "--routes"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
        method, path, scope, words = line.split(None, 3)
        if path.startswith("/v1/"):
            out.append((method, path, scope, words))
    return out


def answer(kind):
    if kind == "ndjson":
        return {"application/x-ndjson": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    if kind.startswith("["):
        page = {"type": "object", "required": ["items", "next_cursor"], "properties": {"items": schema(kind), "next_cursor": schema("str?")}}
        return {"application/json": {"schema": page}}
    return {"application/json": {"schema": schema("object" if kind == "any" else kind)}}


def operation(method, path, scope, words):
    kind, status, body, query = OPS[method + " " + path]
    op = {"operationId": re.sub(r"[^a-z0-9]+", "_", (method + path.replace("/v1", "", 1)).lower()).strip("_"), "summary": words}
    if scope != "-":
        op["x-scope"] = scope
    params = [{"name": p, "in": "path", "required": True, "schema": {"type": "string"}} for p in re.findall(r"{(\w+)}", path)]
    if kind == "ndjson":
        params.append({"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}, "description":
                       "with Accept: text/event-stream, where to go on; goes before the query's"})
    params += [{"name": q, "in": "query", "schema": QUERY.get(q, {"type": "string"})} for q in query.split()]
    if method != "GET":
        params += [{"$ref": "#/components/parameters/IdempotencyKey"}]
    if method in ("PATCH", "PUT", "DELETE"):
        params += [{"$ref": "#/components/parameters/IfMatch"}]
    if params:
        op["parameters"] = params
    if body:
        op["requestBody"] = {"required": any(r for _, _, r in members(body)), "content": {"application/json": {"schema": schema(body)}}}
    op["responses"] = {str(status): {"description": "done", "content": answer(kind)}}
    if status == 201:
        op["responses"]["200"] = {"description": "what was there already, or a dry run", "content": answer(kind)}
    op["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
    return op


def document(program):
    table = routes(program)
    have, said = {m + " " + p for m, p, _, _ in table}, set(OPS)
    if have - said or said - have:
        raise SystemExit("not described: %s; described and not there: %s" % (sorted(have - said), sorted(said - have)))
    paths = {}
    for method, path, scope, words in table:
        paths.setdefault(path, {})[method.lower()] = operation(method, path, scope, words)
    return {
        "openapi": "3.1.0",
        "info": {"title": "moat", "version": "v1", "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                 "description": "Generated by docs/api/openapi.py from the route table; do not edit."},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": {
                "IdempotencyKey": {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                                   "description": "the same key and body again is answered with the stored answer"},
                "IfMatch": {"name": "If-Match", "in": "header", "schema": {"type": "string"},
                            "description": "the quoted resource_version the change is based on, in place of expected_version"},
            },
            "responses": {"Problem": {"description": "refused, or failed", "content": {"application/problem+json": {"schema": schema("Problem")}}}},
            "schemas": {n: component(n) for n in OBJECTS},
        },
    }


def yaml(v, indent=0):
    """Block style for what is long, JSON (which is YAML) for leaves and small things."""
    pad = "  " * indent
    flat = json.dumps(v)
    if not isinstance(v, (dict, list)) or not v or len(flat) + len(pad) <= 110 and indent > 2:
        return flat
    if isinstance(v, list):
        return "".join("\n%s- %s" % (pad, yaml(x, indent + 1).lstrip("\n ") if isinstance(x, dict) else yaml(x, indent + 1)) for x in v)
    out = ""
    for k, x in v.items():
        key = k if re.fullmatch(r"[A-Za-z_][\w-]*", k) and k not in ("on", "off", "yes", "no") else json.dumps(k)  # YAML 1.1 reads those as booleans
        t = yaml(x, indent + 1)
        out += "\n%s%s:%s%s" % (pad, key, "" if t.startswith("\n") else " ", t)
    return out


def text(program):
    return "# generated by docs/api/openapi.py; do not edit\n" + yaml(document(program)).lstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(text(sys.argv[1] if len(sys.argv) > 1 else "bin/moat-control"))
