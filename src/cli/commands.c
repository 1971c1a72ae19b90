/* SPDX-License-Identifier: Apache-2.0 */
/* The one table of commands: parsing, help and completion are driven by it. No code here. */
#include "cli/cli.h"

const struct cli_option cli_global_options[] = {
    {"org", 0, "NAME", "organisation, by name or id (MOAT_ORG)"},
    {"project", 0, "NAME", "project (MOAT_PROJECT); apps create and update: it belongs there, empty: to none"},
    {"app", 'a', "NAME", "app (MOAT_APP, app.name of ./moat.toml)"},
    {"env", 'e', "NAME", "environment (MOAT_ENV)"},
    {"api", 0, "URL", "server, https://host[:port] or unix:/path/to/api.sock (MOAT_API)"},
    {"ca-file", 0, "FILE", "https: trust these authorities instead of the system's (MOAT_CA_FILE)"},
    {"pin", 0, "SHA256", "https: the server's key must be this one (MOAT_PIN)"},
    {"profile", 0, "NAME", "section of the configuration file (MOAT_PROFILE)"},
    {"token", 0, "TOKEN", "bearer token (rather MOAT_TOKEN or the configuration)"},
    {"json", 0, NULL, "one JSON document on stdout (streams: one object per line)"},
    {"ndjson", 0, NULL, "one JSON object per line, lists too"},
    {"output", 'o', "MODE", "table, wide or json (MOAT_OUTPUT)"},
    {"quiet", 'q', NULL, "ids only"},
    {"no-color", 0, NULL, "no colours"},
    {"no-input", 0, NULL, "never ask"},
    {"yes", 'y', NULL, "do not ask for confirmation"},
    {"idempotency-key", 0, "KEY", "pin the key of a mutation, so that a script may repeat it"},
    {"timeout", 0, "DURATION", "limit for one request (default 30s)"},
    {"debug", 0, NULL, "show each request on stderr"},
    {"help", 'h', NULL, "this help"},
    {NULL, 0, NULL, NULL},
};

#define WAIT_OPTIONS \
    {"wait", 0, NULL, "wait until it has converged (deploy, run and rollback do on a terminal)"}, {"no-wait", 0, NULL, "return once it is accepted"}, \
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"}
static const struct cli_option wait_options[] = {WAIT_OPTIONS, {NULL, 0, NULL, NULL}};

static const struct cli_option up_options[] = {
    {"data-dir", 0, "DIR", "folder of everything it keeps (default /var/lib/moat)"},
    {"vmm", 0, "DRIVER", "auto, firecracker or qemu (default auto)"},
    {"listen", 0, "ADDRESS", "address the edge serves (default [::])"},
    {"tls-port", 0, "PORT", "local port for routes of port 443 (default 443, or the next free one from 8443)"},
    {"registry", 0, "HOST:PORT", "use this registry and start none"},
    {"detach", 'd', NULL, "return when it is ready and leave it running"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option down_options[] = {
    {"data-dir", 0, "DIR", "folder given to moat up (default /var/lib/moat)"},
    {"purge", 0, NULL, "remove the data too"},
    {NULL, 0, NULL, NULL},
};
#define DATA_DIR_OPTION {"data-dir", 0, "DIR", "folder given to moat up (default: of the platform in use, else /var/lib/moat)"}
static const struct cli_option doctor_options[] = {
    DATA_DIR_OPTION,
    {NULL, 0, NULL, NULL},
};
#define MANIFEST_OPTION {"manifest", 'f', "PATH", "manifest (default moat.toml; - reads stdin)"}
#define GENERATE_OPTIONS \
    {"name", 0, "APP", "app name (default: from the image)"}, {"port", 'p', "PORT", "port the process listens on"}, \
    {"hostname", 0, "HOST", "public host name of the port"}, {"memory", 0, "SIZE", "memory cap, e.g. 256Mi (default 256Mi)"}
static const struct cli_option init_options[] = {
    {"image", 0, "REF", "image reference"},
    GENERATE_OPTIONS,
    MANIFEST_OPTION,
    {"force", 0, NULL, "replace an existing manifest"},
    {NULL, 0, NULL, NULL},
};
#define GATE_OPTION {"confirm-no-secrets", 0, NULL, "the environment needs no secrets: go on without"}
static const struct cli_option releases_create_options[] = {
    MANIFEST_OPTION,
    {"image", 0, "REF", "image, instead of the manifest's"},
    {"image-digest", 0, "DIGEST", "this one of the image, sha256:..., whatever its tag says now"},
    {"unverified", 0, NULL, "do not ask the registry: with a digest, where only the nodes reach it"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option confirm_options[] = {{"none", 0, NULL, "the environment needs no secrets"}, {NULL, 0, NULL, NULL}};
static const struct cli_option run_options[] = {GENERATE_OPTIONS, GATE_OPTION, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option deploy_options[] = {
    MANIFEST_OPTION,
    {"image", 0, "REF", "image, instead of the manifest's"},
    {"release", 0, "RELEASE", "deploy an existing release (v3 or its id)"},
    {"process", 0, "NAME", "only this process type; may be repeated"},
    {"on-failure", 0, "ACTION", "hold (default) or rollback"},
    {"note", 0, "TEXT", "kept with the deploy"},
    {"dry-run", 0, NULL, "run all checks, change nothing"},
    GATE_OPTION,
    {"force", 0, NULL, "deploy even if a route loses its port"},
    {"app-override", 0, NULL, "deploy to --app although app.name of the manifest is another"},
    WAIT_OPTIONS,
    {NULL, 0, NULL, NULL},
};
static const struct cli_option plan_options[] = {
    MANIFEST_OPTION,
    {"image", 0, "REF", "image, instead of the manifest's"},
    {"release", 0, "RELEASE", "an existing release (v3 or its id)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option rollback_options[] = {
    {"to", 0, "RELEASE", "release to go back to (default: the last one that succeeded)"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option process_wait_options[] = {{"process", 0, "NAME", "only this process type; may be repeated"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
#define OF_OPTION {"of", 0, "WHAT", "env (default), app or org"}
static const struct cli_option status_options[] = {{"watch", 'w', NULL, "refresh until interrupted"},
                                                   {"at", 0, "TIME", "as it was at a moment: a time, -2h, @EVENT_ID"},
                                                   OF_OPTION,
                                                   {NULL, 0, NULL, NULL}};
static const struct cli_option diff_options[] = {
    {"from", 0, "TIME", "the earlier moment: a time, -2h, @EVENT_ID"}, {"to", 0, "TIME", "the later one (default now)"}, OF_OPTION, {NULL, 0, NULL, NULL}};
static const struct cli_option instances_options[] = {
    {"all", 0, NULL, "stopped ones too"}, {"process", 0, "NAME", "only this process type"}, {NULL, 0, NULL, NULL}};
static const struct cli_option logs_options[] = {
    {"follow", 'f', NULL, "keep printing what comes"},
    {"process", 0, "NAME", "only this process type"},
    {"instance", 0, "ID", "only this instance"},
    {"release", 0, "RELEASE", "only instances of this release (v3 or its id)"},
    {"previous", 0, NULL, "the boot attempt before the present one of each instance"},
    {"lines", 'n', "N", "at most this many lines of history (default 100)"},
    {"since", 0, "TIME", "from this RFC 3339 time"},
    {"until", 0, "TIME", "to this RFC 3339 time"},
    {"stream", 0, "NAME", "stdout, stderr or system"},
    {"contains", 0, "TEXT", "only lines that hold this text"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option exec_options[] = {
    {"interactive", 'i', NULL, "pass stdin on"},
    {"tty", 't', NULL, "with a terminal; stdin goes there"},
    {"process", 0, "NAME", "the newest ready instance of this process type"},
    {"user", 'u', "USER", "as this user of the image, name or id[:group] (default: the workload's)"},
    {"variable", 'e', "KEY=VALUE", "one more environment variable; may be repeated"},
    {"limit", 0, "DURATION", "end the session after this long (1m to 24h, default 1h)"},
    {NULL, 0, NULL, NULL},
};
#define EVENTS_OPTIONS \
    {"follow", 'f', NULL, "keep printing what comes"}, {"type", 0, "TYPE", "event type, or a prefix such as instance.*"}, \
    {"after", 0, "EVENT_ID", "only later events"}, {"since", 0, "TIME", "from this RFC 3339 time"}, \
    {"until", 0, "TIME", "to this RFC 3339 time"}, {"lines", 'n', "N", "at most this many (default 50)"}
static const struct cli_option admin_events_options[] = {EVENTS_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option events_options[] = {
    {"follow", 'f', NULL, "keep printing what comes"},
    {"type", 0, "TYPE", "event type, or a prefix such as instance.*"},
    {"deploy", 0, "ID", "only what this deploy caused"},
    {"instance", 0, "ID", "only this instance"},
    {"after", 0, "EVENT_ID", "only later events"},
    {"since", 0, "TIME", "from this RFC 3339 time"},
    {"until", 0, "TIME", "to this RFC 3339 time"},
    {"lines", 'n', "N", "at most this many (default 50)"},
    {NULL, 0, NULL, NULL},
};
#define AUDIT_OPTIONS                                                                                   \
    {"since", 0, "TIME", "from this RFC 3339 time, or so long ago (90m)"}, {"until", 0, "TIME", "before this time"}, \
    {"actor", 0, "ID", "only what this user, service principal or node did"}, \
    {"action", 0, "NAME", "only this action, or a group such as app.*"}, \
    {"resource", 0, "ID", "only what was done to this"}, {"denied", 0, NULL, "only what was refused"}, \
    {"lines", 'n', "N", "at most this many (default 50)"}
static const struct cli_option usage_options[] = {
    {"since", 0, "TIME", "from this RFC 3339 time, or so long ago (default 24 hours)"},
    {"until", 0, "TIME", "before this time"},
    {"kind", 0, "NAME", "vcpu, memory, volume, backup or ipv4"},
    {"month", 0, "[YYYY-MM]", "a whole month of UTC, by environment and in all; without a value this one"},
    {"csv", 0, NULL, "the month as comma-separated values"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option audit_options[] = {AUDIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option admin_audit_options[] = {
    AUDIT_OPTIONS, {"all", 0, NULL, "those of every organisation too"}, {NULL, 0, NULL, NULL}};
static const struct cli_option control_backup_options[] = {{"config", 0, "FILE", "configuration of moat-control (default: /etc/moat/control.toml, or that of moat up)"}, {NULL, 0, NULL, NULL}};
static const struct cli_option audit_checkpoint_options[] = {
    {"key", 0, "FILE", "Ed25519 private key, PEM (default: /etc/moat/audit-key.pem)"},
    {"config", 0, "FILE", "configuration of moat-control (default: /etc/moat/control.toml, or that of moat up)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option audit_check_options[] = {
    {"key", 0, "FILE", "its public half, PEM (default: /etc/moat/audit-key.pub.pem)"},
    {"config", 0, "FILE", "configuration of moat-control (default: /etc/moat/control.toml, or that of moat up)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option backups_scan_options[] = {
    {"apply", 0, NULL, "enter what is found; else it is only told"},
    {"node", 0, "NODE", "id of the node that becomes the home of volumes that the database does not know"},
    {"reason", 0, "TEXT", "why; kept beside the events"},
    {"config", 0, "FILE", "configuration of moat-control (default: /etc/moat/control.toml, or that of moat up)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option backups_rekey_options[] = {
    {"reason", 0, "TEXT", "why; kept in the event"},
    {"config", 0, "FILE", "on this machine, by its configuration of moat-control, without a server"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option stored_backup_options[] = {{"store", 0, "FILE", "the store with its credentials (default: /etc/moat/control-backup.toml)"}, {NULL, 0, NULL, NULL}};
static const struct cli_option upgrade_options[] = {{"check", 0, NULL, "look only; packages are what upgrades (docs/packages.md)"}, {NULL, 0, NULL, NULL}};
static const struct cli_option audit_export_options[] = {
    {"since", 0, "TIME", "from this RFC 3339 time, or so long ago (90m)"}, {"until", 0, "TIME", "before this time"}, {NULL, 0, NULL, NULL}};
static const struct cli_option edge_explain_options[] = {
    {"from-hello", 0, "FILE", "first bytes of a connection, as a capture holds them"},
    {"listen", 0, "PORT", "listen port of the route (default 443)"},
    {"address", 0, "IPV4", "dedicated address (default: the shared listener)"},
    {"socket", 0, "PATH", "admin_socket of the edge (default: of the platform in --data-dir)"},
    {"data-dir", 0, "DIR", "folder given to moat up (default /var/lib/moat)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option routes_list_options[] = {{"all", 0, NULL, "routes of every environment"}, {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_list_options[] = {{"all", 0, NULL, "volumes of every environment"}, {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_restore_options[] = {{"snapshot", 0, "ID", "this one instead of the last backup of VOLUME"},
                                                            {"name", 0, "NAME", "of the new volume (default: that of the old one and -restored)"},
                                                            {"size", 0, "SIZE", "<number>Gi, or bytes; not less than it was"},
                                                            {"node", 0, "NODE", "where it shall live, by id; for operators"},
                                                            {"to-env", 0, "ENV", "into this environment: a name of this app, or an id of the organisation"},
                                                            {"replace", 0, NULL, "then give it name and process of VOLUME, which stops for it and stays under another name"},
                                                            WAIT_OPTIONS,
                                                            {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_verify_options[] = {{"snapshot", 0, "ID", "this backup instead of the last one"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_recover_options[] = {{"accept-loss-since", 0, "TIME", "the moment of the last backup, as it is told without this option: what was written since is given up"},
                                                            {"to-node", 0, "NODE", "where it shall live now, by id; for operators"},
                                                            {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"},
                                                            {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_migrate_options[] = {{"to-node", 0, "NODE", "where it shall live, by id"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option snapshots_create_options[] = {{"note", 0, "TEXT", "kept with the snapshot"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option backups_status_options[] = {{"all", 0, NULL, "volumes of every environment"},
                                                           {"stale", 0, NULL, "only volumes that had no backup for two intervals"},
                                                           {NULL, 0, NULL, NULL}};
static const struct cli_option admin_volumes_options[] = {{"node", 0, "NODE", "only those that live on this node, by id"}, {NULL, 0, NULL, NULL}};
static const struct cli_option admin_backups_options[] = {
    {"stale", 0, NULL, "only volumes that had no backup for two intervals"}, {"node", 0, "NODE", "only those that live on this node, by id"}, {NULL, 0, NULL, NULL}};
static const struct cli_option admin_backups_verify_options[] = {{"snapshot", 0, "ID", "this backup instead of the last one"}, {NULL, 0, NULL, NULL}};
static const struct cli_option admin_volumes_check_options[] = {WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_delete_options[] = {{"delete-backups", 0, NULL, "its backups go at once, and not a week later"},
                                                           {"force", 0, NULL, "its process is scaled to 0 and loses it; for operators"},
                                                           {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_replace_options[] = {{"drain", 0, NULL, "stop the process for it, then scale it as it was"},
                                                            {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"},
                                                            {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_attach_options[] = {{"process", 0, "NAME", "process type that gets it"},
                                                           {"path", 0, "PATH", "where it is mounted, for example /data"},
                                                           {"read-only", 0, NULL, "it may not be written to"},
                                                           {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_update_options[] = {{"name", 0, "NAME", "a new name; refused while a process has it"},
                                                           {"backup", 0, "on|off", "make backups of it"},
                                                           {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_create_options[] = {{"size", 0, "SIZE", "<number>Gi, or bytes"}, {"node", 0, "NODE", "where it shall live, by id; for operators"}, {NULL, 0, NULL, NULL}};
static const struct cli_option volumes_resize_options[] = {{"size", 0, "SIZE", "<number>Gi, or bytes"},
                                                           {"restart", 0, NULL, "restart its process, so that it grows now"},
                                                           WAIT_OPTIONS,
                                                           {NULL, 0, NULL, NULL}};
static const struct cli_option routes_create_options[] = {
    {"process", 0, "NAME", "process type behind it (default web)"},
    {"port", 'p', "PORT", "port of that process"},
    {"listen", 0, "PORT", "public port (default 443)"},
    {"raw", 0, NULL, "raw TCP by port instead of TLS by host name"},
    {"proxy", 0, "v2", "send a PROXY protocol v2 header; the process must expect it"},
    {"min-tls", 0, "VERSION", "refuse clients that offer no TLS version of at least this: 1.0 to 1.3"},
    {"ipv4", 0, NULL, "on the environment's IPv4 address: a name there too, --raw there only, on a port of your choice"},
    {"default", 0, NULL, "on that address, also for clients that name no host"},
    {"allow-non-tls", 0, NULL, "on that address, also for clients that speak no TLS"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option routes_update_options[] = {
    {"process", 0, "NAME", "process type behind it"},
    {"port", 'p', "PORT", "port of that process"},
    {"proxy", 0, "v2|off", "PROXY protocol towards the process, which must expect it"},
    {"max-connections", 0, "N", "connections at once; none takes the limit away"},
    {"idle-timeout", 0, "SECONDS", "close after this long without a byte, 60 to 86400; none takes it away"},
    {"balance", 0, "WAY", "round_robin or least_conn"},
    {"min-tls", 0, "VERSION", "lowest TLS version that clients must offer, 1.0 to 1.3; none takes it away"},
    {"ipv4", 0, "on|off", "serve the name on the environment's IPv4 address too, or no more"},
    {"default", 0, "on|off", "on that address, also for clients that name no host"},
    {"allow-non-tls", 0, "on|off", "on that address, also for clients that speak no TLS"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option ipv4_disable_options[] = {{"force", 0, NULL, "although routes need it; for operators"}, {NULL, 0, NULL, NULL}};
static const struct cli_option cascade_options[] = {{"cascade", 0, NULL, "with everything that hangs below it"}, {NULL, 0, NULL, NULL}};
static const struct cli_option process_options[] = {{"process", 0, "NAME", "only this process type; may be repeated"}, {NULL, 0, NULL, NULL}};
static const struct cli_option orgs_create_options[] = {{"billing-email", 0, "EMAIL", "address for bills"}, {NULL, 0, NULL, NULL}};
static const struct cli_option apps_update_options[] = {
    {"name", 0, "NAME", "a new name"},
    {"description", 0, "TEXT", "what it is; empty takes it away"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option envs_update_options[] = {
    {"name", 0, "NAME", "a new name"},
    {"protected", 0, "on|off", "refuse to delete it"},
    {"private-network", 0, "on|off", "let its instances reach each other on declared ports"},
    {"label-selector", 0, "LABEL=VALUE", "operators: only on nodes with all of these labels; may be repeated, empty: on any"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option manifest_options[] = {MANIFEST_OPTION, {NULL, 0, NULL, NULL}};
static const struct cli_option manifest_fmt_options[] = {
    MANIFEST_OPTION, {"check", 0, NULL, "write nothing; exit 1 when it is not in canonical form"}, {NULL, 0, NULL, NULL}};
static const struct cli_option manifest_schema_options[] = {{"markdown", 0, NULL, "all fields as a table for people"}, {NULL, 0, NULL, NULL}};

static const struct cli_option login_options[] = {
    {"no-browser", 0, NULL, "only print the address"},
    {"scopes", 0, "SCOPES", "ask for these only, with commas between (default: all that you have)"},
    {NULL, 0, NULL, NULL},
};
#define RESTRICT_OPTIONS \
    {"restrict-app", 0, "ID", "only this app; may be repeated"}, {"restrict-env", 0, "ID", "only this environment; may be repeated"}
static const struct cli_option token_options[] = {
    {"name", 0, "NAME", "what it is for"},
    {"scope", 0, "SCOPES", "what it may, with commas between"},
    {"expires", 0, "DAYS", "1d to 365d (default 90d)"},
    RESTRICT_OPTIONS,
    {NULL, 0, NULL, NULL},
};
static const struct cli_option projects_update_options[] = {{"name", 0, "NAME", "new name"}, {NULL, 0, NULL, NULL}};
static const struct cli_option role_options[] = {{"role", 0, "ROLE", "owner, admin, developer (default) or readonly"}, {NULL, 0, NULL, NULL}};
static const struct cli_option sps_options[] = {{"scope", 0, "SCOPES", "what it may, with commas between"}, RESTRICT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option sps_update_options[] = {
    {"name", 0, "NAME", "new name"},
    {"scope", 0, "SCOPES", "what it may from now on"},
    RESTRICT_OPTIONS,
    {"no-restrict", 0, NULL, "take the restriction away"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option rotate_options[] = {{"overlap", 0, "DURATION", "the old secret works on this long (default: it ends now)"}, {NULL, 0, NULL, NULL}};
static const struct cli_option user_options[] = {
    {"name", 0, "NAME", "name for people"}, {"operator", 0, NULL, "an operator of the platform"}, {NULL, 0, NULL, NULL}};
static const struct cli_option keys_generate_options[] = {{"retired", 0, NULL, "not the active one"}, {NULL, 0, NULL, NULL}};
static const struct cli_option keys_retire_options[] = {
    {"file", 0, "FILE", "the file of master keys on this machine: take the line out of it too"}, {"reason", 0, "TEXT", "why; kept in the audit log"}, {NULL, 0, NULL, NULL}};
static const struct cli_option edges_drain_options[] = {
    {"reason", 0, "TEXT", "why; kept in the log and in the audit log"},
    {"force", 0, NULL, "also when no other edge serves"},
    {"wait", 0, NULL, "until it holds no connection"},
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option import_options[] = {{"replace", 0, NULL, "what the file does not name goes away"}, WAIT_OPTIONS, {NULL, 0, NULL, NULL}};
static const struct cli_option render_options[] = {
    {"local", 0, "FILE", "print the canonical bytes of this file instead (- reads stdin)"},
    {"values", 0, NULL, "with the values, for owners where the operator allows that"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option forced_options[] = {
    {"reason", 0, "TEXT", "why; kept in the audit log"},
    {"force", 0, NULL, "do not wait for nodes that are not there yet: they have to join anew"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option reason_options[] = {{"reason", 0, "TEXT", "why; kept in the audit log"}, {NULL, 0, NULL, NULL}};
static const struct cli_option node_remove_options[] = {
    {"reason", 0, "TEXT", "why; kept in the audit log"},
    {"force", 0, NULL, "a lost machine goes with its volumes; what is backed up of them stays"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option drain_options[] = {
    {"reason", 0, "TEXT", "why; kept in the audit log"},
    {"stateful", 0, "stay|stop|migrate", "instances with volumes stay (default), stop until the node is back, or move with their volumes"},
    {"wait", 0, NULL, "wait until it is drained; exit 8 when only instances with volumes are left"},
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default --timeout, else 30m)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option rotate_keys_options[] = {
    {"all", 0, NULL, "of every node in the mesh, one after another"},
    {"reason", 0, "TEXT", "why; kept in the audit log"},
    {"lead", 0, "DURATION", "from the node's word to the moment at which all change, up to 1h (default 2m)"},
    {"emergency", 0, NULL, "change at once: whom the news reaches late cannot speak to the node until then"},
    {"wait", 0, NULL, "wait until it is done; exit 8 when one was taken back"},
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default --timeout, else 30m)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option log_drain_options[] = {
    {"syslog", 0, "HOST:PORT", "a receiver of RFC 5424 over TLS"},
    {"otlp", 0, "URL", "a receiver of OTLP/HTTP: https://HOST/v1/logs"},
    {"token-stdin", 0, NULL, "otlp: what the header says is on stdin, for example `Bearer TOKEN`"},
    {"header", 0, "NAME", "otlp: the header of the token (default Authorization)"},
    {"receiver-ca", 0, "FILE", "certificates in PEM that vouch for the receiver (default: those of the node's system)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option registry_options[] = {
    {"username", 0, "NAME", "who the organisation is there"},
    {"password-stdin", 0, NULL, "the password is on stdin (else it is asked for)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option image_block_options[] = {
    {"evict", 0, NULL, "drain what runs of it too"},
    {"reason", 0, "TEXT", "why; kept in the audit log"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option node_add_options[] = {
    {"name", 0, "NAME", "of the node (default: the machine's)"},
    {"roles", 0, "WORDS", "worker, edge, control, separated by commas (default worker)"},
    {"endpoint", 0, "ADDRESS:PORT", "where other nodes reach its WireGuard; may be repeated (default: where ssh reached it, port 51820)"},
    {"ssh-port", 0, "N", "of sshd there; the agent's firewall leaves it open"},
    {"identity", 'i', "FILE", "private key for ssh"},
    {"ssh-config", 0, "FILE", "configuration of ssh in place of the user's"},
    {"accept-host-key", 0, NULL, "take the key of a host that ssh does not know yet"},
    {"programs", 0, "DIR", "folder of moat-agent and the others (default: where moat is)"},
    {"bundle", 0, "DIR", "kernel bundle (default /var/lib/moat/boot/current)"},
    {"agent-config", 0, "FILE", "agent.toml for the machine, in place of a made one; replaces what is there"},
    {"node-data-dir", 0, "DIR", "where the agent keeps everything there (default: what --agent-config says, else /var/lib/moat)"},
    {"control", 0, "HOST:PORT", "where the machine reaches the control plane (default: its nodes_address)"},
    {"wait-timeout", 0, "DURATION", "stop waiting for the node to be ready after this long, exit 6 (default 3m)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option node_token_options[] = {
    {"roles", 0, "WORDS", "worker, edge, control, separated by commas (default worker)"},
    {"name", 0, "NAME", "only for a machine of this name"},
    {"source", 0, "CIDR", "only from these addresses"},
    {"minutes", 0, "N", "good for so long, 5 to 1440 (default 60)"},
    {"approve", 0, NULL, "the machine waits for `moat node activate`"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option wait_for_options[] = {
    {"for", 0, "STATUS", "wait for this status (default: deploy succeeded, instance ready, route active, volume available)"},
    {"wait-timeout", 0, "DURATION", "stop waiting after this long, exit 6 (default 15m)"},
    {NULL, 0, NULL, NULL},
};
static const struct cli_option version_options[] = {{"client", 0, NULL, "of this program only; asks no server"}, {NULL, 0, NULL, NULL}};

const struct cli_command cli_commands[] = {
    {CLI_PLATFORM, "up", "", "run a whole platform on this machine", up_options, cmd_up},
    {CLI_PLATFORM, "down", "", "stop what `moat up` runs", down_options, cmd_down},
    {CLI_PLATFORM, "doctor", "", "check this machine and the connection to the platform", doctor_options, cmd_doctor},
    {CLI_PLATFORM, "nodes", "", "machines of the platform", NULL, cmd_nodes_list},
    {CLI_PLATFORM, "nodes list", "", "the same as nodes", NULL, cmd_nodes_list},
    {CLI_PLATFORM, "node add", "HOST", "prepare a Debian machine over ssh (HOST or USER@HOST) and let it join", node_add_options, cmd_node_add},
    {CLI_PLATFORM, "node describe", "NODE", "one machine, by name or id", NULL, cmd_node_describe},
    {CLI_PLATFORM, "node show", "NODE", "the same as node describe", NULL, cmd_node_describe},
    {CLI_PLATFORM, "node activate", "NODE", "let a machine in that waits for approval, or place on it again", reason_options, cmd_node_activate},
    {CLI_PLATFORM, "node cordon", "NODE", "place nothing more on it", reason_options, cmd_node_cordon},
    {CLI_PLATFORM, "node drain", "NODE", "replace what runs on it elsewhere, then stop it there", drain_options, cmd_node_drain},
    {CLI_PLATFORM, "node confirm-offline", "NODE", "it really is gone: replace what ran there although most nodes are silent", reason_options, cmd_node_confirm_offline},
    {CLI_PLATFORM, "node mark-lost", "NODE", "the machine is powered off for good: what it held is free again", reason_options, cmd_node_mark_lost},
    {CLI_PLATFORM, "node disable", "NODE", "trust it no more, at once and for good", reason_options, cmd_node_disable},
    {CLI_PLATFORM, "node remove", "NODE", "forget a disabled machine", node_remove_options, cmd_node_remove},
    {CLI_PLATFORM, "node label", "NODE LABEL=VALUE|LABEL-...", "labels that --label-selector of environments asks for", NULL, cmd_node_label},
    {CLI_PLATFORM, "node config set", "NODE KEY=VALUE...", "settings of one machine: what is kept for itself, how far it is promised, limits", reason_options, cmd_node_config_set},
    {CLI_PLATFORM, "node token create", "", "a token by which one machine joins", node_token_options, cmd_node_token_create},
    {CLI_PLATFORM, "node token list", "", "tokens and what became of them", NULL, cmd_node_token_list},
    {CLI_PLATFORM, "node token revoke", "ID", "end a token that was not used", NULL, cmd_node_token_revoke},
    {CLI_PLATFORM, "capacity", "", "what the nodes still take, and whether it is enough when the worst of them is lost", NULL, cmd_capacity},
    {CLI_PLATFORM, "simulate node-loss", "NODE", "what would restart where when a machine is lost, what would not fit, which data; changes nothing", NULL, cmd_simulate_loss},
    {CLI_PLATFORM, "simulate drain", "NODE", "the same for a drain of it", NULL, cmd_simulate_drain},
    {CLI_PLATFORM, "net status", "", "the mesh between the nodes, as they report it", NULL, cmd_net_status},
    {CLI_PLATFORM, "net verify", "", "every pair of nodes: what is broken, and the likely cause; exit 1 when anything is", NULL, cmd_net_verify},
    {CLI_PLATFORM, "net rotate-keys", "[NODE]...", "another WireGuard key for nodes, one at a time, under running connections", rotate_keys_options, cmd_net_rotate_keys},
    {CLI_PLATFORM, "net allow-removal", "", "nodes may lose more than half of their peers by the plan they refuse now", reason_options, cmd_net_allow_removal},
    {CLI_APPS, "run", "IMAGE", "deploy an image without a file: makes and shows the manifest", run_options, cmd_run},
    {CLI_APPS, "init", "", "write a minimal moat.toml", init_options, cmd_init},
    {CLI_APPS, "launch", "", "init, and make the app and its environment", init_options, cmd_launch},
    {CLI_APPS, "deploy", "", "make a release of moat.toml and roll it out", deploy_options, cmd_deploy},
    {CLI_APPS, "plan", "", "what a deploy would change, without changing it", plan_options, cmd_plan},
    {CLI_APPS, "rollback", "", "go back to an earlier release", rollback_options, cmd_rollback},
    {CLI_APPS, "scale", "[PROCESS=N]...", "set or show the number of replicas", wait_options, cmd_scale},
    {CLI_APPS, "scale show", "", "the same as scale without anything", NULL, cmd_scale},
    {CLI_APPS, "scale reset", "PROCESS...", "back to the number in the manifest", wait_options, cmd_scale_reset},
    {CLI_APPS, "restart", "", "rolling restart", process_wait_options, cmd_restart},
    {CLI_APPS, "apps list", "", "apps of the organisation", NULL, cmd_apps_list},
    {CLI_APPS, "apps create", "NAME", "make an app", NULL, cmd_apps_create},
    {CLI_APPS, "apps get", "APP", "one app", NULL, cmd_apps_get},
    {CLI_APPS, "apps update", "APP", "rename or describe an app", apps_update_options, cmd_apps_update},
    {CLI_APPS, "apps delete", "APP", "remove an app", cascade_options, cmd_apps_delete},
    {CLI_APPS, "envs list", "", "environments of the app", NULL, cmd_envs_list},
    {CLI_APPS, "envs create", "NAME", "make an environment", NULL, cmd_envs_create},
    {CLI_APPS, "envs get", "ENV", "one environment", NULL, cmd_envs_get},
    {CLI_APPS, "envs update", "ENV", "rename or protect an environment", envs_update_options, cmd_envs_update},
    {CLI_APPS, "envs delete", "ENV", "remove an environment; what runs in it is drained", cascade_options, cmd_envs_delete},
    {CLI_APPS, "envs rebalance", "", "place every instance anew, replacements first", process_options, cmd_envs_rebalance},
    {CLI_APPS, "env ipv4 enable", "", "give the environment an IPv4 address of its own", NULL, cmd_ipv4_enable},
    {CLI_APPS, "env ipv4 disable", "", "give the IPv4 address back", ipv4_disable_options, cmd_ipv4_disable},
    {CLI_APPS, "env ipv4 show", "", "the IPv4 address, whether it works, and its ports", NULL, cmd_ipv4_show},
    {CLI_APPS, "secrets list", "", "names of the environment's secrets; values never come back", NULL, cmd_secrets_list},
    {CLI_APPS, "secrets set", "KEY[=-|=@FILE]...", "set secrets from stdin, files or a prompt; every process is rolled", wait_options, cmd_secrets_set},
    {CLI_APPS, "secrets unset", "KEY...", "take secrets away", wait_options, cmd_secrets_unset},
    {CLI_APPS, "secrets import", "FILE", "set what a secrets file or a .env holds (- reads stdin)", import_options, cmd_secrets_import},
    {CLI_APPS, "secrets history", "", "versions of the secrets", NULL, cmd_secrets_history},
    {CLI_APPS, "secrets rollback", "[VERSION]", "make an older version the current one", wait_options, cmd_secrets_rollback},
    {CLI_APPS, "secrets render", "", "the file that instances get, with values masked", render_options, cmd_secrets_render},
    {CLI_APPS, "secrets confirm-none", "", "say that the environment needs no secrets", NULL, cmd_secrets_confirm_none},
    {CLI_APPS, "secrets confirm", "", "the same as secrets confirm-none, with --none", confirm_options, cmd_secrets_confirm},
    {CLI_APPS, "secrets versions", "", "the same as secrets history", NULL, cmd_secrets_history},
    {CLI_APPS, "secrets activate", "VERSION", "the same as secrets rollback VERSION", wait_options, cmd_secrets_rollback},
    {CLI_APPS, "secrets replace", "FILE", "the same as secrets import --replace", wait_options, cmd_secrets_import},
    {CLI_APPS, "secrets status", "", "how many instances run with the current version", NULL, cmd_secrets_status},
    {CLI_APPS, "manifest validate", "", "check a manifest, offline", manifest_options, cmd_manifest_validate},
    {CLI_APPS, "manifest show", "", "the manifest in canonical form, offline", manifest_options, cmd_manifest_show},
    {CLI_APPS, "manifest fmt", "", "write it in canonical TOML, comments kept, offline", manifest_fmt_options, cmd_manifest_fmt},
    {CLI_APPS, "manifest schema", "", "JSON Schema of the manifest, for editors", manifest_schema_options, cmd_manifest_schema},
    {CLI_LOOK, "status", "", "desired and observed state, and why they differ", status_options, cmd_status},
    {CLI_LOOK, "diff", "", "what changed between two moments, in plain words", diff_options, cmd_diff},
    {CLI_LOOK, "ps", "", "instances of the environment", instances_options, cmd_instances_list},
    {CLI_LOOK, "describe", "KIND ID", "everything about one object, with its last events", NULL, cmd_describe},
    {CLI_LOOK, "wait", "KIND ID", "wait until an object is as wanted", wait_for_options, cmd_wait},
    {CLI_LOOK, "exec", "[INSTANCE] [-- COMMAND...]", "run a command in an instance", exec_options, cmd_exec},
    {CLI_LOOK, "logs", "", "log lines of the environment", logs_options, cmd_logs},
    {CLI_LOOK, "logs tail", "", "the same as logs -f", logs_options, cmd_logs},
    {CLI_LOOK, "events", "", "what happened", events_options, cmd_events},
    {CLI_LOOK, "events tail", "", "the same as events -f", events_options, cmd_events},
    {CLI_LOOK, "audit", "", "who did what, and who was refused", audit_options, cmd_audit},
    {CLI_LOOK, "audit verify", "", "check that nobody altered the audit log", NULL, cmd_audit_verify},
    {CLI_LOOK, "audit export", "FILE", "the audit log as lines of JSON, with its hashes", audit_export_options, cmd_audit_export},
    {CLI_LOOK, "instances list", "", "the same as ps", instances_options, cmd_instances_list},
    {CLI_LOOK, "why", "INSTANCE", "the chain of causes of an instance, event by event", NULL, cmd_why},
    {CLI_LOOK, "instances get", "ID", "one instance", NULL, cmd_instances_get},
    {CLI_LOOK, "instances describe", "ID", "everything about one instance: its events, and how its last attempts failed", NULL, cmd_instances_describe},
    {CLI_LOOK, "instances restart", "ID", "replace one instance, its replacement first", NULL, cmd_instances_restart},
    {CLI_LOOK, "releases create", "", "make a release of moat.toml and deploy nothing", releases_create_options, cmd_releases_create},
    {CLI_LOOK, "releases list", "", "releases of the app", NULL, cmd_releases_list},
    {CLI_LOOK, "releases get", "RELEASE", "one release, by v3 or its id", NULL, cmd_releases_get},
    {CLI_LOOK, "releases autopsy", "[RELEASE]", "how instances of a release failed: reason, memory, health, last lines", NULL, cmd_releases_autopsy},
    {CLI_LOOK, "releases diff", "[FROM] TO", "what a release changes, against the one before or FROM", NULL, cmd_releases_diff},
    {CLI_LOOK, "deploys list", "", "deploys of the environment", NULL, cmd_deploys_list},
    {CLI_LOOK, "deploys get", "ID", "one deploy, with what went wrong", NULL, cmd_deploys_get},
    {CLI_LOOK, "deploys wait", "ID", "wait until a deploy has ended", wait_options, cmd_deploys_wait},
    {CLI_ROUTES, "routes list", "", "routes of the environment", routes_list_options, cmd_routes_list},
    {CLI_ROUTES, "routes create", "[HOSTNAME]", "make a port of a process reachable", routes_create_options, cmd_routes_create},
    {CLI_ROUTES, "routes get", "ROUTE", "one route, by host name or id", NULL, cmd_routes_get},
    {CLI_ROUTES, "routes records", "[ROUTE]", "what has to be in the DNS for a route, or for all of the environment", NULL, cmd_routes_records},
    {CLI_ROUTES, "routes update", "ROUTE", "change a route", routes_update_options, cmd_routes_update},
    {CLI_ROUTES, "routes delete", "ROUTE", "remove a route, by host name or id", NULL, cmd_routes_delete},
    {CLI_MORE, "admin volumes list", "", "volumes of all organisations, for the operator", admin_volumes_options, cmd_admin_volumes_list},
    {CLI_MORE, "admin volumes fsck", "VOLUME", "look at the filesystem of a volume (its id) that nothing has mounted", admin_volumes_check_options, cmd_admin_volumes_fsck},
    {CLI_MORE, "admin volumes repair", "VOLUME", "mend it: e2fsck -fy on its node; one in state error is available again", admin_volumes_check_options, cmd_admin_volumes_repair},
    {CLI_APPS, "volumes list", "", "volumes of the environment", volumes_list_options, cmd_volumes_list},
    {CLI_APPS, "volumes create", "NAME", "a new volume, on the node with most room", volumes_create_options, cmd_volumes_create},
    {CLI_APPS, "volumes get", "VOLUME", "one volume, by name or id", NULL, cmd_volumes_get},
    {CLI_APPS, "volumes update", "VOLUME", "rename a volume, or turn its backups on or off", volumes_update_options, cmd_volumes_update},
    {CLI_APPS, "volumes resize", "VOLUME", "grow a volume before the next start of its process", volumes_resize_options, cmd_volumes_resize},
    {CLI_APPS, "volumes attach", "VOLUME", "give a volume to a process, beside what its release mounts", volumes_attach_options, cmd_volumes_attach},
    {CLI_APPS, "volumes detach", "VOLUME", "take a volume from its process, which is scaled to 0", volumes_replace_options, cmd_volumes_detach},
    {CLI_APPS, "volumes delete", "VOLUME", "delete a volume and its data, by name or id", volumes_delete_options, cmd_volumes_delete},
    {CLI_APPS, "volumes replace", "VOLUME NEW", "give name and process of a volume to another one", volumes_replace_options, cmd_volumes_replace},
    {CLI_APPS, "volumes snapshot", "VOLUME", "the same as snapshots create", snapshots_create_options, cmd_snapshots_create},
    {CLI_APPS, "volumes snapshots", "[VOLUME]", "the same as snapshots list", NULL, cmd_snapshots_list},
    {CLI_APPS, "volumes restore", "[VOLUME]", "make a new volume out of a backup; nothing is overwritten", volumes_restore_options, cmd_volumes_restore},
    {CLI_APPS, "volumes verify", "VOLUME", "restore a backup into a volume that is thrown away, and check it there", volumes_verify_options, cmd_volumes_verify},
    {CLI_APPS, "volumes recover", "VOLUME", "its node is lost: the last backup takes its place on another one", volumes_recover_options, cmd_volumes_recover},
    {CLI_APPS, "volumes migrate", "VOLUME", "move a volume, and all of its process, to another node; for operators", volumes_migrate_options, cmd_volumes_migrate},
    {CLI_APPS, "migrations list", "", "volumes on their way to another node", NULL, cmd_migrations_list},
    {CLI_APPS, "migrations get", "ID", "one migration, by id", NULL, cmd_migrations_get},
    {CLI_APPS, "migrations cancel", "ID", "take a migration back before its volumes have changed hands; for operators", NULL, cmd_migrations_cancel},
    {CLI_APPS, "restores list", "", "restores of the organisation", NULL, cmd_restores_list},
    {CLI_APPS, "restores get", "ID", "one restore, by id", NULL, cmd_restores_get},
    {CLI_APPS, "snapshots list", "[VOLUME]", "snapshots of the environment or of one volume", NULL, cmd_snapshots_list},
    {CLI_APPS, "snapshots create", "VOLUME", "back up a volume now", snapshots_create_options, cmd_snapshots_create},
    {CLI_APPS, "snapshots get", "SNAPSHOT", "one snapshot, by id", NULL, cmd_snapshots_get},
    {CLI_APPS, "snapshots delete", "SNAPSHOT", "delete a snapshot, or cancel one that has not ended", NULL, cmd_snapshots_delete},
    {CLI_APPS, "backups status", "", "how old the last backup of each volume is, and when one was last restored", backups_status_options, cmd_backups_status},
    {CLI_ROUTES, "edge explain", "[HOST]", "where the edge of this machine would send a client, and why", edge_explain_options, cmd_edge_explain},
    {CLI_MORE, "usage", "", "what was taken, by environment: each hour, or a month", usage_options, cmd_usage},
    {CLI_MORE, "admin status", "", "the platform in one look: what is fine and what needs one", NULL, cmd_admin_status},
    {CLI_MORE, "admin doctor", "", "what is wrong with the cluster, and the command that mends it", NULL, cmd_admin_doctor},
    {CLI_MORE, "admin upgrade", "", "the same as admin upgrade check", upgrade_options, cmd_admin_upgrade},
    {CLI_MORE, "admin upgrade check", "", "what stands against an upgrade now, and the command that mends it", NULL, cmd_admin_upgrade},
    {CLI_MORE, "admin quotas set", "DIMENSION LIMIT", "set a limit of the organisation, or default", reason_options, cmd_admin_quotas_set},
    {CLI_MORE, "admin orgs suspend", "", "stop what an organisation runs and refuse its changes", reason_options, cmd_admin_orgs_suspend},
    {CLI_MORE, "admin orgs resume", "", "end the suspension of an organisation", reason_options, cmd_admin_orgs_resume},
    {CLI_MORE, "admin maintenance", "", "is the platform in maintenance", NULL, cmd_admin_maintenance},
    {CLI_MORE, "admin maintenance on", "", "refuse all changes; what runs goes on", reason_options, cmd_admin_maintenance_on},
    {CLI_MORE, "admin maintenance off", "", "allow changes again", reason_options, cmd_admin_maintenance_off},
    {CLI_MORE, "admin keys generate", "", "make a master key: one line for the file of master keys", keys_generate_options, cmd_admin_keys_generate},
    {CLI_MORE, "admin keys status", "", "master keys and how many wrapped keys each holds", NULL, cmd_admin_keys_status},
    {CLI_MORE, "admin keys rewrap", "", "wrap everything under the active master key", NULL, cmd_admin_keys_rewrap},
    {CLI_MORE, "admin keys verify", "", "open every wrapped key and a sample of contents", NULL, cmd_admin_keys_verify},
    {CLI_MORE, "admin keys retire", "ID", "have a key that holds nothing no more; with --file take it out of the file too", keys_retire_options, cmd_admin_keys_retire},
    {CLI_MORE, "admin node-ca show", "", "the authority that signs nodes' certificates, and how far its rotation is", NULL, cmd_admin_node_ca_show},
    {CLI_MORE, "admin node-ca prepare", "", "make another authority, which nodes learn to trust", reason_options, cmd_admin_node_ca_prepare},
    {CLI_MORE, "admin node-ca switch", "", "it signs from now on; the one before is trusted on, its key is gone", forced_options, cmd_admin_node_ca_switch},
    {CLI_MORE, "admin node-ca retire", "", "trust the one before no more", forced_options, cmd_admin_node_ca_retire},
    {CLI_MORE, "admin node-ca abort", "", "give up an authority that is prepared and does not sign", reason_options, cmd_admin_node_ca_abort},
    {CLI_MORE, "admin backup", "FILE", "back up the control plane itself: database, node authority, keys of data_dir", control_backup_options, cmd_admin_backup},
    {CLI_MORE, "admin backup check", "FILE", "read all of such a backup and say what is in it", control_backup_options, cmd_admin_backup_check},
    {CLI_MORE, "admin backup send", "FILE", "put such a backup into the object store, and read it back", stored_backup_options, cmd_admin_backup_send},
    {CLI_MORE, "admin backup stored", "", "backups of the control plane in the object store", stored_backup_options, cmd_admin_backup_stored},
    {CLI_MORE, "admin backup fetch", "NAME FILE", "get one of them back", stored_backup_options, cmd_admin_backup_fetch},
    {CLI_MORE, "admin backups list", "", "volumes of all organisations that are backed up, for the operator", admin_backups_options, cmd_admin_backups_list},
    {CLI_MORE, "admin backups verify", "VOLUME", "restore its newest backup (of the volume's id) into a volume that is thrown away, and check it there", admin_backups_verify_options, cmd_admin_backups_verify},
    {CLI_MORE, "admin backups scan", "", "look through the store for backups of volumes that the database does not know (any more)", backups_scan_options, cmd_admin_backups_scan},
    {CLI_MORE, "admin backups rekey", "VOLUME", "another key for the backups of a volume (its id) from now on", backups_rekey_options, cmd_admin_backups_rekey},
    {CLI_MORE, "admin restore", "FILE", "make an empty database and data_dir of such a backup", control_backup_options, cmd_admin_restore},
    {CLI_MORE, "admin recovery plan", "", "what runs, and what the restored database knows of it", NULL, cmd_admin_recovery_plan},
    {CLI_MORE, "admin recovery apply", "", "let the restored log rule again; nothing is stopped for being unknown to it", reason_options, cmd_admin_recovery_apply},
    {CLI_MORE, "admin recovery finish", "", "end the recovery: what the log does not know is stopped", reason_options, cmd_admin_recovery_finish},
    {CLI_MORE, "admin audit", "", "the audit log of the platform", admin_audit_options, cmd_admin_audit},
    {CLI_MORE, "admin audit verify", "", "check every chain of the audit log", NULL, cmd_admin_audit_verify},
    {CLI_MORE, "admin audit export", "FILE", "every chain of the audit log as lines of JSON, with its hashes", audit_export_options, cmd_admin_audit_export},
    {CLI_MORE, "admin audit checkpoint", "FILE", "where every chain of the audit log ends, signed, for a place outside the database", audit_checkpoint_options, cmd_admin_audit_checkpoint},
    {CLI_MORE, "admin audit check", "FILE", "does the audit log still have all that such a file says", audit_check_options, cmd_admin_audit_check},
    {CLI_MORE, "admin db check", "", "read all of the database: log, views, audit chains, secrets", control_backup_options, cmd_admin_db_check},
    {CLI_ROUTES, "endpoints", "", "the same as routes list", routes_list_options, cmd_routes_list},
    {CLI_ROUTES, "expose", "[HOSTNAME]", "the same as routes create", routes_create_options, cmd_routes_create},
    {CLI_APPS, "ipv4 enable", "", "the same as env ipv4 enable", NULL, cmd_ipv4_enable},
    {CLI_APPS, "ipv4 disable", "", "the same as env ipv4 disable", ipv4_disable_options, cmd_ipv4_disable},
    {CLI_APPS, "ipv4 show", "", "the same as env ipv4 show", NULL, cmd_ipv4_show},
    {CLI_MORE, "context show", "", "the saved target", NULL, cmd_context_show},
    {CLI_MORE, "context set", "", "save --org, --project, --app, --env, --api, --ca-file, --pin; an empty value removes", NULL, cmd_context_set},
    {CLI_MORE, "context use", "ORG[/PROJECT]/APP@ENV", "save a whole target", NULL, cmd_context_use},
    {CLI_MORE, "context clear", "", "forget the saved target", NULL, cmd_context_clear},
    {CLI_MORE, "orgs list", "", "organisations you belong to", NULL, cmd_orgs_list},
    {CLI_MORE, "orgs create", "NAME", "make an organisation", orgs_create_options, cmd_orgs_create},
    {CLI_MORE, "orgs get", "ORG", "one organisation", NULL, cmd_orgs_get},
    {CLI_MORE, "orgs rename", "ORG NAME", "rename an organisation", NULL, cmd_orgs_rename},
    {CLI_MORE, "orgs delete", "ORG", "remove an organisation without apps", NULL, cmd_orgs_delete},
    {CLI_MORE, "orgs quotas", "", "limits of the organisation and what is used", NULL, cmd_orgs_quotas},
    {CLI_MORE, "projects list", "", "projects of the organisation", NULL, cmd_projects_list},
    {CLI_MORE, "projects create", "NAME", "make a project", NULL, cmd_projects_create},
    {CLI_MORE, "projects get", "PROJECT", "one project", NULL, cmd_projects_get},
    {CLI_MORE, "projects rename", "PROJECT NAME", "rename a project", NULL, cmd_projects_rename},
    {CLI_MORE, "projects update", "PROJECT", "the same as projects rename PROJECT NAME, with --name", projects_update_options, cmd_projects_update},
    {CLI_MORE, "projects delete", "PROJECT", "remove a project without apps", NULL, cmd_projects_delete},
    {CLI_MORE, "orgs members list", "", "members of the organisation", NULL, cmd_members_list},
    {CLI_MORE, "orgs members add", "EMAIL", "invite somebody; active from their next sign-in on", role_options, cmd_members_add},
    {CLI_MORE, "orgs members set-role", "EMAIL", "change what a member may do", role_options, cmd_members_set_role},
    {CLI_MORE, "orgs members remove", "EMAIL", "take somebody out", NULL, cmd_members_remove},
    {CLI_MORE, "auth login", "", "sign in: shows an address and a code for a browser", login_options, cmd_auth_login},
    {CLI_MORE, "auth logout", "", "end the login of this machine", NULL, cmd_auth_logout},
    {CLI_MORE, "auth status", "", "where the credential comes from and what it is good for", NULL, cmd_auth_status},
    {CLI_MORE, "auth whoami", "", "the same as whoami", NULL, cmd_whoami},
    {CLI_MORE, "auth tokens list", "", "your personal tokens", NULL, cmd_tokens_list},
    {CLI_MORE, "auth tokens create", "", "make a personal token; it is shown once", token_options, cmd_tokens_create},
    {CLI_MORE, "auth tokens revoke", "ID", "end a personal token", NULL, cmd_tokens_revoke},
    {CLI_MORE, "sps list", "", "service principals of the organisation", NULL, cmd_sps_list},
    {CLI_MORE, "sps create", "NAME", "make one; its secret is shown once", sps_options, cmd_sps_create},
    {CLI_MORE, "sps update", "NAME", "change name, scopes or restriction", sps_update_options, cmd_sps_update},
    {CLI_MORE, "sps rotate", "NAME", "a new secret; it is shown once", rotate_options, cmd_sps_rotate},
    {CLI_MORE, "sps delete", "NAME", "remove one with its secret and tokens", NULL, cmd_sps_delete},
    {CLI_MORE, "drains list", "", "where log lines of the organisation go besides", NULL, cmd_drains_list},
    {CLI_MORE, "drains set", "NAME", "send the organisation's log lines to a receiver: syslog over TLS or OTLP/HTTP", log_drain_options, cmd_drains_set},
    {CLI_MORE, "drains delete", "NAME", "stop sending log lines there", NULL, cmd_drains_delete},
    {CLI_MORE, "registries list", "", "registries that the organisation has a credential for", NULL, cmd_registries_list},
    {CLI_MORE, "registries set", "HOST", "set the credential for a registry; the password comes from stdin or a prompt", registry_options, cmd_registries_set},
    {CLI_MORE, "registries delete", "HOST", "remove the credential for a registry", NULL, cmd_registries_delete},
    {CLI_MORE, "admin images list", "", "images that may not run", NULL, cmd_images_list},
    {CLI_MORE, "admin images block", "DIGEST", "place an image nowhere any more; --evict stops what runs of it", image_block_options, cmd_images_block},
    {CLI_MORE, "admin images unblock", "DIGEST", "let an image run again", reason_options, cmd_images_unblock},
    {CLI_MORE, "admin edges list", "", "edges: what each has applied, is it drained, how many connections it holds", NULL, cmd_edges_list},
    {CLI_MORE, "admin edges drain", "NODE", "send nobody to the edge of a node any more; what is connected goes on", edges_drain_options, cmd_edges_drain},
    {CLI_MORE, "admin edges undrain", "NODE", "the opposite", reason_options, cmd_edges_undrain},
    {CLI_MORE, "admin mesh status", "", "the same as net status", NULL, cmd_net_status},
    {CLI_MORE, "admin mesh rotate-keys", "[NODE]...", "the same as net rotate-keys", rotate_keys_options, cmd_net_rotate_keys},
    {CLI_MORE, "admin ipam status", "", "how full the pools of node numbers, IPv4 addresses and shared ports are", NULL, cmd_ipam_status},
    {CLI_MORE, "admin ipam leaks", "", "addresses that nobody has owned for a day, and what reclaims each", NULL, cmd_ipam_leaks},
    {CLI_MORE, "admin ipv4-pool list", "", "IPv4 addresses that environments may have, and which do", NULL, cmd_ipv4_pool_list},
    {CLI_MORE, "admin ipv4-pool add", "ADDRESS", "put an IPv4 address into the pool; it must be routed to the edges", NULL, cmd_ipv4_pool_add},
    {CLI_MORE, "admin ipv4-pool remove", "ADDRESS", "take one out that no environment has", NULL, cmd_ipv4_pool_remove},
    {CLI_MORE, "admin quarantine list", "", "what may send nothing of its own accord", NULL, cmd_quarantine_list},
    {CLI_MORE, "admin quarantine add", "KIND ID", "let an instance, an env or an org send nothing of its own accord; what it serves goes on", reason_options, cmd_quarantine_add},
    {CLI_MORE, "admin quarantine remove", "ID", "the opposite", reason_options, cmd_quarantine_remove},
    {CLI_MORE, "admin routes disable", "ROUTE", "let the edge answer as if a route were not there, by its id", reason_options, cmd_admin_routes_disable},
    {CLI_MORE, "admin routes enable", "ROUTE", "the opposite", reason_options, cmd_admin_routes_enable},
    {CLI_MORE, "admin scheduler status", "", "who leads, is it paused, what waits and why", NULL, cmd_scheduler_status},
    {CLI_MORE, "admin scheduler pause", "", "place and drain nothing; what runs goes on", reason_options, cmd_scheduler_pause},
    {CLI_MORE, "admin scheduler resume", "", "the opposite", reason_options, cmd_scheduler_resume},
    {CLI_MORE, "admin groups hold", "ENV PROCESS", "give a process of an environment no more instances until its next deploy", reason_options, cmd_groups_hold},
    {CLI_MORE, "admin groups resume", "ENV PROCESS", "end a hold, also one after failed attempts", reason_options, cmd_groups_resume},
    {CLI_MORE, "admin explain", "KIND ID", "why an env or an instance is as it is, with each node's answer to it", NULL, cmd_admin_explain},
    {CLI_MORE, "admin events", "", "the whole event log, all organisations and the platform", admin_events_options, cmd_events},
    {CLI_MORE, "admin events tail", "", "the same as admin events -f", admin_events_options, cmd_events},
    {CLI_MORE, "admin projections list", "", "views, how far they are, rebuilds that were asked for", NULL, cmd_projections_list},
    {CLI_MORE, "admin projections rebuild", "VIEW", "make a view (or all) again from the log, beside the one in use", NULL, cmd_projections_rebuild},
    {CLI_MORE, "admin users list", "", "users of the platform", NULL, cmd_users_list},
    {CLI_MORE, "admin users create", "EMAIL", "make a user; prints the one-time setup link", user_options, cmd_users_create},
    {CLI_MORE, "admin users disable", "EMAIL", "no token and no sign-in works any more", NULL, cmd_users_disable},
    {CLI_MORE, "admin users enable", "EMAIL", "the opposite", NULL, cmd_users_enable},
    {CLI_MORE, "admin users setup-link", "EMAIL", "a new one-time link, for a forgotten password", NULL, cmd_users_setup_link},
    {CLI_MORE, "admin tokens revoke", "ID", "end a token of anybody, with the login it came from; ids are in the audit log", reason_options, cmd_admin_tokens_revoke},
    {CLI_MORE, "admin break-glass", "ORG", "a token for an organisation that is not yours", reason_options, cmd_break_glass},
    {CLI_MORE, "whoami", "", "who the token belongs to", NULL, cmd_whoami},
    {CLI_MORE, "support-bundle", "DIR", "a folder with state, events and versions, secrets left out", NULL, cmd_support_bundle},
    {CLI_MORE, "completion", "SHELL", "completion script for bash, zsh or fish", NULL, cmd_completion},
    {CLI_MORE, "version", "", "versions of this program and of the server", version_options, cmd_version},
    {CLI_MORE, "help", "[COMMAND]...", "help for a command", NULL, cmd_help},
    {CLI_GROUP_MAX, NULL, NULL, NULL, NULL, NULL},
};
