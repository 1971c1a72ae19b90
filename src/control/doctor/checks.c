/* SPDX-License-Identifier: Apache-2.0 */
#include "control/doctor/checks.h"

#include "control/doctor/findings.h"

#include <inttypes.h>
#include <math.h>

static void database(struct mt_findings *o, const struct mt_doctor_facts *f)
{
    if (f->schema_have == f->schema_known)
        mt_found(o, "database.schema", OK, NULL, "version %d", f->schema_have);
    else if (f->schema_have > f->schema_known && f->schema_least <= f->schema_known)
        mt_found(o, "database.schema", WARN, "an upgrade is under way, or was taken back: run the newer moat-control on this machine too", "the database has version %d, this server knows %d and may use it",
              f->schema_have, f->schema_known);
    else
        mt_found(o, "database.schema", FAIL, f->schema_have > f->schema_known ? "run the newer moat-control on this machine too" : "moat-control --config FILE migrate",
              "the database has version %d, this server knows %d", f->schema_have, f->schema_known);
    bool full = f->connections_max > 0 && f->connections * 100 >= f->connections_max * 80;
    mt_found(o, "database.connections", full ? WARN : OK, "raise max_connections of PostgreSQL, or put PgBouncer in between", "%" PRId64 " of %" PRId64, f->connections,
          f->connections_max);
    double off = fabs(f->clock_off_s);
    mt_found(o, "database.clock", off > 5 ? FAIL : off > 1 ? WARN : OK, "timedatectl set-ntp true, here and on the machine of the database", "%.2f s apart from this server's", off);
    if (f->disk_used_percent >= 0)
        mt_found(o, "control.disk", f->disk_used_percent >= 95 ? FAIL : f->disk_used_percent >= 85 ? WARN : OK, "make room on the filesystem of data_dir",
              "%" PRId64 " %% of the filesystem of data_dir is used", f->disk_used_percent);
    mt_found_names(o, "log.views", f->views_bad, FAIL, "not live", "every view is live", "moat admin projections list, then moat admin projections rebuild NAME");
    mt_found(o, "log.audit", f->audit_waits_s > 300 ? FAIL : f->audit_waits_s > 60 ? WARN : OK, "the server's log names why the sealer stands: journalctl -u moat-control",
          f->audit_waits_s > 0 ? "a record waits for its place in the chain for %" PRId64 " s" : "every record is in its chain (%" PRId64 " s)", f->audit_waits_s);
    mt_found(o, "log.history", f->history_split ? FAIL : OK, "moat admin recovery plan", f->history_split ? "recovery mode: the log was restored to an earlier point"
                                                                                                     : "one history");
}

static void scheduler(struct mt_findings *o, const struct mt_doctor_facts *f)
{
    if (f->lease_age_s < 0)
        mt_found(o, "scheduler.leader", FAIL, "roles of control.toml: one server has to have 'scheduler'", "nobody has led yet");
    else
        mt_found(o, "scheduler.leader", f->lease_age_s > 60 ? FAIL : f->lease_age_s > 15 ? WARN : OK, "journalctl -u moat-control on every server: which of them can reach the database?",
              "renewed %" PRId64 " s ago", f->lease_age_s);
    mt_found_names(o, "scheduler.roles", f->roles_lost, WARN, "nobody holds", "every role is held", "roles of control.toml, on at least one server");
    if (f->paused)
        mt_found(o, "scheduler.paused", WARN, "moat admin scheduler resume --reason R", "the scheduler is paused: nothing is placed or drained");
    if (f->maintenance)
        mt_found(o, "platform.maintenance", WARN, "moat admin maintenance off --reason R", "maintenance: every change is refused");
    mt_found(o, "scheduler.groups", f->blocked_groups || f->held_groups ? WARN : OK, "moat admin scheduler status, then moat admin explain env ENV",
          "%" PRId64 " cannot be placed, %" PRId64 " held", f->blocked_groups, f->held_groups);
}

static void nodes(struct mt_findings *o, const struct mt_doctor_facts *f)
{
    static const struct {
        const char *check, *bad, *good, *mend;
        enum mt_finding_level level;
    } conditions[MT_DOCTOR_NODE_MAX] = {
        [MT_DOCTOR_VMM] = {"nodes.vmm", "no driver that runs VMs, or none that vmm_allowed lists", "every node runs VMs", "moat doctor on the node; vmm_allowed of control.toml", FAIL},
        [MT_DOCTOR_BUNDLE] = {"nodes.bundle", "no kernel bundle", "every node has its kernel bundle", "on the node: systemctl restart moat-bundle", FAIL},
        [MT_DOCTOR_DISK] = {"nodes.disk", "disk almost full", "disks have room", "on the node: make room, or moat node drain NODE --reason R", WARN},
        [MT_DOCTOR_POOL] = {"nodes.pool", "storage of volumes almost full", "storage has room", "grow it, or moat node drain NODE --reason R", WARN},
        [MT_DOCTOR_CLOCK] = {"nodes.clock", "clock off by more than 5 s", "clocks agree", "on the node: timedatectl set-ntp true", WARN},
        [MT_DOCTOR_NET] = {"nodes.network", "firewall or mesh is not as the plan says", "firewall and mesh are as planned", "moat net verify", FAIL},
        [MT_DOCTOR_OTHER] = {"nodes.conditions", "says something is wrong", "nothing else is said", "moat node describe NODE", WARN},
    };
    if (f->nodes == 0)
        mt_found(o, "nodes.count", WARN, "moat node add root@HOST, or a token: moat node token create", "there is no node");
    else
        mt_found(o, "nodes.count", f->nodes_ready == 0 ? FAIL : OK, "moat nodes, then moat node describe NODE", "%" PRId64 " of %" PRId64 " ready", f->nodes_ready, f->nodes);
    mt_found_names(o, "nodes.offline", f->offline, FAIL, "silent", "every node is heard", "look at the machine; when it is off for good: moat node mark-lost NODE --reason R");
    mt_found_names(o, "nodes.degraded", f->degraded, WARN, "takes no new work", "no node is degraded", "moat node describe NODE");
    mt_found_names(o, "nodes.waiting", f->waiting, WARN, "waits for approval", "no node waits", "moat node activate NODE --reason R");
    mt_found_names(o, "nodes.lost", f->lost, WARN, "lost for good", "no node is lost", "moat node disable NODE --reason R, then moat node remove NODE --reason R");
    if (f->guard)
        mt_found(o, "nodes.guard", FAIL, "look at this server's own network; when the nodes are really gone: moat node confirm-offline NODE --reason R",
              "more than half of the nodes fell silent at once: none is taken for offline");
    for (int i = 0; i < MT_DOCTOR_NODE_MAX; i++)
        mt_found_names(o, conditions[i].check, f->condition[i], conditions[i].level, conditions[i].bad, conditions[i].good, conditions[i].mend);
    mt_found(o, "nodes.versions", f->versions > 2 ? FAIL : f->versions > 1 ? WARN : OK, "upgrade what is behind: docs/packages.md", f->versions > 1 ? "different: %s" : "%s", f->version_list);
    if (f->nodes > 1)
        mt_found(o, "capacity.headroom", f->headroom_bytes < 0 ? WARN : OK, "moat capacity: a machine more, or less on them",
              f->headroom_bytes < 0 ? "%.1f GiB of memory are missing when the worst node is lost" : "%.1f GiB of memory are left when the worst node is lost",
              fabs((double)f->headroom_bytes) / (1024.0 * 1024 * 1024));
}

static void backups(struct mt_findings *o, const struct mt_doctor_facts *f)
{
    mt_found_names(o, "volumes.retired", f->retired, WARN, "replaced and not used any more", "none that was replaced is left over", "moat volumes delete VOLUME, where nobody wants it back");
    mt_found_names(o, "volumes.orphans", f->orphans, WARN, "on a node's disk and in no plan", "what nodes have on their disks is in their plans",
                   "nothing removes them by itself: docs/nodes.md, volumes and backups");
    if (f->volumes_kept == 0) {
        mt_found(o, "backups.stale", OK, NULL, "no volume is backed up");
        return;
    }
    mt_found(o, "backups.stale", f->stale ? FAIL : OK, "moat backups status --all --stale", "%" PRId64 " of %" PRId64 " volumes have no backup of the last two intervals", f->stale,
          f->volumes_kept);
    mt_found(o, "backups.unproven", f->unproven ? WARN : OK, "moat backups status --all; moat volumes restore VOLUME tries one", "%" PRId64 " of %" PRId64
          " volumes have no backup that was restored lately", f->unproven, f->volumes_kept);
    if (f->proven_age_s >= 0)
        mt_found(o, "backups.proof", f->proven_age_s > 7 * 86400 ? WARN : OK, "moat backups status --all", "a backup was last restored whole %" PRId64 " h ago", f->proven_age_s / 3600);
}

static void certificate(struct mt_findings *o, const char *check, int64_t left_s, int64_t warn_s, int64_t fail_s, const char *mend)
{
    if (left_s == INT64_MAX)
        return;
    if (left_s <= 0)
        mt_found(o, check, FAIL, mend, "has ended");
    else
        mt_found(o, check, left_s < fail_s ? FAIL : left_s < warn_s ? WARN : OK, mend, "good for %" PRId64 " days", left_s / 86400);
}

static void secrets(struct mt_findings *o, const struct mt_doctor_facts *f)
{
    certificate(o, "certificates.api", f->api_left_s, 14 * 86400, 3 * 86400, "put a new one at tls_cert and tls_key, then systemctl reload moat-control");
    certificate(o, "certificates.authority", f->ca_left_s, 365 * 86400, 30 * 86400, "enrol the nodes anew before it ends (docs/nodes.md)");
    mt_found_names(o, "certificates.nodes", f->certs_ending, WARN, "ends within 14 days", "none ends within 14 days", "journalctl -u moat-agent on the node: it renews by itself when it can");
    if (!f->keys_configured)
        mt_found(o, "keys.file", WARN, "moat admin keys generate > FILE, master_keys_file of control.toml", "no master keys: there are no secrets");
    else if (*f->keys_problem || f->keys_active == 0)
        mt_found(o, "keys.file", FAIL, "mend the file, then systemctl reload moat-control", "%s", *f->keys_problem ? f->keys_problem : "no key of it is active");
    else
        mt_found(o, "keys.file", OK, NULL, "one active key");
    if (f->rows_missing)
        mt_found(o, "keys.missing", FAIL, "put the key back into the file: without it these secrets are lost", "%" PRId64 " wrapped keys are under a master key that the file has not",
              f->rows_missing);
    if (f->keys_configured)
        mt_found(o, "keys.retired", f->rows_retired ? WARN : OK, "moat admin keys rewrap", "%" PRId64 " wrapped keys are under a retired master key", f->rows_retired);
}

json_t *mt_doctor(const struct mt_doctor_facts *f)
{
    struct mt_findings o = {.list = json_array()};
    if (!o.list)
        return NULL;
    database(&o, f);
    scheduler(&o, f);
    nodes(&o, f);
    backups(&o, f);
    secrets(&o, f);
    return json_pack("{s:b,s:o}", "ok", !o.fail, "checks", o.list);
}
