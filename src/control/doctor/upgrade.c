/* SPDX-License-Identifier: Apache-2.0 */
/* What stands against an upgrade now. A failure is what would turn a small trouble of it into a loss: no way back to the data, nodes that nobody hears,
 * programs too far apart. A warning is what makes it slower or harder to judge. */
#include "control/doctor/checks.h"

#include "control/doctor/findings.h"

#include <inttypes.h>
#include <stdlib.h>

#define BACKUP_FAIL_S (24 * 3600) /* §11.1: base daily */
#define ARCHIVE_FAIL_S 3600
#define LAG_WARN_MS 10000
#define LAG_FAIL_MS 60000

bool mt_versions_far(const char *a, const char *b)
{
    char *pa, *pb;
    unsigned long major_a = strtoul(a, &pa, 10), major_b = strtoul(b, &pb, 10);
    if (pa == a || pb == b || *pa != '.' || *pb != '.')
        return false; /* no versions as ours are: a build by hand */
    unsigned long minor_a = strtoul(pa + 1, NULL, 10), minor_b = strtoul(pb + 1, NULL, 10);
    unsigned long major = major_a > major_b ? major_a - major_b : major_b - major_a, minor = minor_a > minor_b ? minor_a - minor_b : minor_b - minor_a;
    return major > 1 || (major == 0 && minor > 1);
}

static void data(struct mt_findings *o, const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u)
{
    static const char make[] = "moat admin backup /var/backups/moat/$(date +%F-%H%M).backup, on the machine of moat-control";
    bool dump = u->backup_age_s >= 0 && u->backup_age_s <= BACKUP_FAIL_S, wal = u->archived_age_s >= 0 && u->archived_age_s <= ARCHIVE_FAIL_S;
    if (dump)
        mt_found(o, "upgrade.backup", OK, NULL, "the control plane was backed up %" PRId64 " min ago", u->backup_age_s / 60);
    else if (wal)
        mt_found(o, "upgrade.backup", OK, NULL, "PostgreSQL archived its log %" PRId64 " s ago", u->archived_age_s);
    else if (u->backup_age_s >= 0)
        mt_found(o, "upgrade.backup", FAIL, make, "the control plane was last backed up %" PRId64 " h ago", u->backup_age_s / 3600);
    else
        mt_found(o, "upgrade.backup", FAIL, make, "no backup of the control plane is known, and PostgreSQL archives no log");
    mt_found(o, "upgrade.volumes", f->stale ? WARN : OK, "moat backups status --all --stale", "%" PRId64 " of %" PRId64 " volumes have no backup of the last two intervals", f->stale,
             f->volumes_kept);
    mt_found(o, "upgrade.history", f->history_split ? FAIL : OK, "moat admin recovery plan: end the recovery first", f->history_split ? "recovery mode: the log was restored to an earlier point"
                                                                                                                                     : "one history");
    if (f->keys_configured)
        mt_found(o, "upgrade.keys", *f->keys_problem ? FAIL : OK, "mend the file, then systemctl reload moat-control: a server that starts anew needs it", "%s",
                 *f->keys_problem ? f->keys_problem : "the file of master keys is good");
    if (f->disk_used_percent >= 0)
        mt_found(o, "upgrade.disk", f->disk_used_percent >= 95 ? FAIL : f->disk_used_percent >= 85 ? WARN : OK, "make room on the filesystem of data_dir",
                 "%" PRId64 " %% of the filesystem of data_dir is used", f->disk_used_percent);
}

static void lag(struct mt_findings *o, const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u)
{
    mt_found_names(o, "upgrade.views", f->views_bad, FAIL, "not live", "every view is live", "moat admin projections list; wait, or moat admin projections rebuild NAME");
    mt_found(o, "upgrade.audit", f->audit_waits_s > 300 ? FAIL : f->audit_waits_s > 60 ? WARN : OK, "journalctl -u moat-control: why does the sealer stand?",
             f->audit_waits_s > 0 ? "a record waits for its chain for %" PRId64 " s" : "every record is in its chain (%" PRId64 " s)", f->audit_waits_s);
    if (u->standbys == 0)
        mt_found(o, "upgrade.standby", OK, NULL, "no PostgreSQL streams from this one");
    else if (u->standby_lag_ms < 0)
        mt_found(o, "upgrade.standby", WARN, "as the owner of PostgreSQL: GRANT pg_read_all_stats TO moat_control, as setup-database does", "%" PRId64 " standby, how far behind this role may not see", u->standbys);
    else
        mt_found(o, "upgrade.standby", u->standby_lag_ms > LAG_FAIL_MS ? FAIL : u->standby_lag_ms > LAG_WARN_MS ? WARN : OK, "on the standby: journalctl -u postgresql; wait until it has caught up",
                 "%" PRId64 " standby, %" PRId64 " ms behind", u->standbys, u->standby_lag_ms);
    if (f->lease_age_s < 0 || f->lease_age_s > 15)
        mt_found(o, "upgrade.leader", FAIL, "journalctl -u moat-control on every server: which of them can reach the database?", "no scheduler leads");
    else
        mt_found(o, "upgrade.leader", OK, NULL, "renewed %" PRId64 " s ago", f->lease_age_s);
}

static void nodes(struct mt_findings *o, const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u)
{
    mt_found_names(o, "upgrade.nodes", f->offline, FAIL, "silent, and cannot be seen to be well afterwards", "every node is heard", "look at the machine; when it is off for good: moat node mark-lost NODE --reason R");
    mt_found_names(o, "upgrade.degraded", f->degraded, WARN, "takes no new work", "no node is degraded", "moat node describe NODE");
    mt_found_names(o, "upgrade.draining", u->draining, WARN, "is being drained", "no node is being drained", "wait: moat node drain NODE --wait --reason R");
    mt_found_names(o, "upgrade.edges", u->edges_silent, FAIL, "silent", u->edges ? "every edge is heard" : "there is no edge", "on the node: systemctl status moat-edge");
    /* moat's own programs move no VM; a kernel, a VMM, a guest kernel do. */
    if (f->nodes > 1)
        mt_found(o, "upgrade.headroom", f->headroom_bytes < 0 ? FAIL : OK, "moat capacity: a machine more, or less on them; moat's own packages move no VM, a reboot does",
                 f->headroom_bytes < 0 ? "%.1f GiB of memory are missing when one node is away" : "%.1f GiB of memory are left when one node is away",
                 (double)(f->headroom_bytes < 0 ? -f->headroom_bytes : f->headroom_bytes) / (1024.0 * 1024 * 1024));
    else
        mt_found(o, "upgrade.headroom", WARN, "moat's own packages move no VM; for a kernel or a VMM: moat node add root@HOST first", "one node: what needs its reboot stops what it runs");
}

static void skew(struct mt_findings *o, const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u)
{
    mt_found(o, "upgrade.versions", u->far || u->versions > 2 ? FAIL : u->versions > 1 ? WARN : OK, "upgrade what is behind first: only a version and the next one speak to each other (docs/packages.md)",
             u->versions > 1 ? "different: %s" : "%s", u->version_list);
    if (f->schema_have == f->schema_known)
        mt_found(o, "upgrade.schema", OK, NULL, "version %d", f->schema_have);
    else
        mt_found(o, "upgrade.schema", f->schema_have > f->schema_known && f->schema_least <= f->schema_known ? WARN : FAIL, "finish the upgrade that is under way: every moat-control of one version",
                 "the database has version %d, this server knows %d", f->schema_have, f->schema_known);
    double off = f->clock_off_s < 0 ? -f->clock_off_s : f->clock_off_s;
    mt_found(o, "upgrade.clock", off > 5 ? FAIL : off > 1 ? WARN : OK, "timedatectl set-ntp true, here and on the machine of the database", "%.2f s apart from the database's", off);
}

static void work(struct mt_findings *o, const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u)
{
    mt_found(o, "upgrade.rollouts", u->rollouts ? WARN : OK, "wait until they have ended: moat status", "%" PRId64 " deploys have not ended", u->rollouts);
    mt_found(o, "upgrade.jobs", u->moving ? WARN : OK, "they go on after a restart; to judge the upgrade by itself, wait: moat backups status --all", "%" PRId64 " snapshots and restores are under way",
             u->moving);
    mt_found(o, "upgrade.groups", f->blocked_groups || f->held_groups ? WARN : OK, "moat admin scheduler status, then moat admin explain env ENV", "%" PRId64 " cannot be placed, %" PRId64 " held",
             f->blocked_groups, f->held_groups);
    if (f->paused)
        mt_found(o, "upgrade.paused", WARN, "moat admin scheduler resume --reason R", "the scheduler is paused: what fails is not replaced");
    if (f->maintenance)
        mt_found(o, "upgrade.maintenance", WARN, "moat admin maintenance off --reason R", "maintenance: every change is refused");
}

json_t *mt_upgrade_check(const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u)
{
    struct mt_findings o = {.list = json_array()};
    if (!o.list)
        return NULL;
    data(&o, f, u);
    lag(&o, f, u);
    nodes(&o, f, u);
    skew(&o, f, u);
    work(&o, f, u);
    return json_pack("{s:b,s:o}", "ok", !o.fail, "checks", o.list);
}
