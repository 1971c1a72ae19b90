/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of the append path against its plain alternatives on one cluster: bench DIR CONNINFO... see run. Prints one line per
 * measurement: "MODE CLIENTS COMMANDS_PER_S EVENTS_PER_S P50_US P99_US LOCKS_PER_BATCH COMMANDS_PER_BATCH SERVER_CPU_US
 * OWN_CPU_US", the last two per command. Of "storm" EVENTS_PER_S is the storm's and the P99 is a P95. */
#include "control/audit/record.h"
#include "control/log/append.h"
#include "control/log/read.h"
#include "control/log/schema.h"
#include "control/log/verify.h"
#include "control/views/rebuild.h"
#include "history.h"
#include "pg/cluster.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

#include <dirent.h>
#include <pthread.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLIENTS_MAX 64
#define SAMPLES_MAX 400000
#define STORM_COMMANDS 50
#define STORM_EVENTS 200 /* in each, as many as the scheduler puts into one (pass_apply.c) */

enum mode { MODE_BARE = 0, MODE_COMBINED, MODE_LOCKED };

struct client {
    pthread_t thread;
    int n;
    enum mode mode;
    int events; /* per command */
    bool unaudited;
    struct mt_appender *ap;
    struct mt_pg *pg;
    const char *control;
    uint64_t commands;
    uint32_t *us;
    char org[64];
    bool failed;
};

static _Atomic bool go, over;
static char run_id[24];

static const char *cluster; /* folder of the cluster, as given */

/* Processor time of process @pid so far, nanoseconds; 0 when it is gone. */
static int64_t process_cpu_ns(long pid)
{
    char path[64];
    long long ns = 0;
    (void)snprintf(path, sizeof path, "/proc/%ld/schedstat", pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%lld", &ns) != 1)
        ns = 0;
    if (f)
        (void)fclose(f);
    return ns;
}

/* Processor time of the server's processes that live now, nanoseconds. Backends of a measurement live through all of it. */
static int64_t server_cpu_ns(void)
{
    char path[512], text[1024];
    long postmaster = 0;
    int64_t ns = 0;
    (void)snprintf(path, sizeof path, "%s/data/postmaster.pid", cluster);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%ld", &postmaster) != 1)
        postmaster = 0;
    if (f)
        (void)fclose(f);
    DIR *proc = opendir("/proc");
    for (struct dirent *d; proc && (d = readdir(proc)) != NULL;) {
        long pid = strtol(d->d_name, NULL, 10), parent = 0;
        if (pid <= 0)
            continue;
        (void)snprintf(path, sizeof path, "/proc/%ld/stat", pid);
        f = fopen(path, "re");
        const char *at = f && fgets(text, sizeof text, f) ? strrchr(text, ')') : NULL;
        if (at && sscanf(at, ") %*c %ld", &parent) == 1 && parent == postmaster)
            ns += process_cpu_ns(pid);
        if (f)
            (void)fclose(f);
    }
    if (proc)
        (void)closedir(proc);
    return ns;
}

static int64_t own_cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * MT_NS_PER_S + t.tv_nsec;
}

static int event10(struct mt_cmd *c, const char *org, const char *tag, struct mt_err *err)
{
    char app[96], env[96], rel[96], dep[96], inst[96], addr[128];
    (void)snprintf(app, sizeof app, "app_%s", tag);
    (void)snprintf(env, sizeof env, "env_%s", tag);
    (void)snprintf(rel, sizeof rel, "rel_%s", tag);
    (void)snprintf(dep, sizeof dep, "dep_%s", tag);
    const struct mt_cmd_ids a = {.org_id = org, .app_id = app}, e = {.org_id = org, .app_id = app, .env_id = env};
    static const char *const types[] = {"web", "worker"};
    int r = mt_cmd_event(c, MT_EV_APP_CREATED, app, &a, json_pack("{s:s}", "name", tag), err);
    if (r == 0)
        r = mt_cmd_event(c, MT_EV_ENV_CREATED, env, &e, json_pack("{s:s}", "name", "prod"), err);
    if (r == 0)
        r = mt_cmd_event(c, MT_EV_RELEASE_CREATED, rel, &a,
                         json_pack("{s:i,s:s,s:s,s:s,s:[{s:s,s:s,s:s}],s:b,s:s,s:{s:{s:{s:i},s:{s:i}}}}", "number", 1, "image_ref", "registry/app:1",
                                   "image_digest", "sha256:0011223344556677889900112233445566778899001122334455667788990011", "image_kind", "manifest",
                                   "platforms", "os", "linux", "arch", "amd64", "digest", "sha256:0011", "image_verified", 1, "manifest_hash",
                                   "sha256:aa11223344556677889900112233445566778899001122334455667788990011", "manifest", "processes", "web", "cpu_millis", 500,
                                   "worker", "cpu_millis", 250), err);
    if (r == 0)
        r = mt_cmd_event(c, MT_EV_DEPLOY_CREATED, dep, &e,
                         json_pack("{s:s,s:s,s:{s:s,s:s},s:[s,s],s:s,s:s,s:i,s:{}}", "kind", "deploy", "release_id", rel, "release_ids", "web", rel, "worker", rel,
                                   "process_types", "web", "worker", "strategy", "rolling", "on_failure", "hold", "timeout_seconds", 900,
                                   "previous_release_ids"), err);
    for (int i = 0; i < 2 && r == 0; i++)
        r = mt_cmd_event(c, MT_EV_ENV_DESIRED_RELEASE_SET, env, &e,
                         json_pack("{s:s,s:s,s:s}", "process_type", types[i], "release_id", rel, "deploy_id", dep), err);
    if (r == 0)
        r = mt_cmd_event(c, MT_EV_ENV_SCALE_SET, env, &e, json_pack("{s:[{s:s,s:i}]}", "scales", "process_type", "web", "desired", 2), err);
    for (int i = 0; i < 2 && r == 0; i++) {
        (void)snprintf(inst, sizeof inst, "inst_%s_%d", tag, i);
        (void)snprintf(addr, sizeof addr, "fd00::%s:%d", tag, i); /* unique text is what counts here */
        r = mt_cmd_event(c, MT_EV_INSTANCE_ALLOCATED, inst, &e,
                         json_pack("{s:s,s:s,s:s,s:s,s:s,s:{s:i,s:i,s:i},s:s,s:s,s:s,s:i}", "process_type", types[i], "node_id", "node_1", "release_id", rel,
                                   "deploy_id", dep, "overlay_ipv6", addr, "resources", "cpu_millis", 500, "memory_bytes", 268435456, "disk_bytes", 1073741824,
                                   "arch", "amd64", "image_digest", "sha256:0011", "spec_hash", "0123456789abcdef", "generation", 1), err);
    }
    if (r == 0)
        r = mt_cmd_event(c, MT_EV_DEPLOY_STATUS_CHANGED, dep, &e, json_pack("{s:s}", "status", "rolling"), err);
    return r;
}

/* The record that the API attaches to such a command. */
static int audit_record(struct mt_cmd *cmd, const struct client *c, const char *tag, struct mt_err *err)
{
    char id[64];
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(8192);
    struct mt_audit_rec rec = {0};
    (void)snprintf(id, sizeof id, "aud_%s", tag);
    const char **t = rec.text;
    t[MT_AUDIT_T_action] = "app.create";
    t[MT_AUDIT_T_audit_id] = t[MT_AUDIT_T_resource_id] = id;
    t[MT_AUDIT_T_actor_id] = "usr_01hzbench00000000000000000";
    t[MT_AUDIT_T_actor_type] = "user";
    t[MT_AUDIT_T_decision] = "allow";
    t[MT_AUDIT_T_result] = "ok";
    t[MT_AUDIT_T_org_id] = c->org;
    t[MT_AUDIT_T_request_id] = "req_01hzbench00000000000000000";
    t[MT_AUDIT_T_resource_type] = "app";
    t[MT_AUDIT_T_scopes] = "*";
    t[MT_AUDIT_T_source_ip] = "unix:uid=1000";
    t[MT_AUDIT_T_token_id] = "tok_01hzbench00000000000000000";
    t[MT_AUDIT_T_user_agent] = "moat/0.1.0";
    t[MT_AUDIT_T_idempotency_key_hash] = "00112233445566778899aabbccddeeff";
    int r = mt_audit_put(&rec, &json, err);
    return r < 0 ? r : mt_cmd_audit(cmd, (const char *)json.p, json.len, err);
}

/* What an API call does: an app of an organisation whose row it read, under an idempotency key, with a reply. */
static int full_command(struct client *c, struct mt_err *err)
{
    char tag[48], key[64];
    uint8_t mac[32] = {1};
    struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = "usr_01hzbench00000000000000000", .request_id = "req_01hzbench00000000000000000",
                                       .idempotency_key = key};
    (void)snprintf(tag, sizeof tag, "%s-%d-%llu", run_id, c->n, (unsigned long long)c->commands);
    (void)snprintf(key, sizeof key, "k-%s", tag);
    int r = mt_cmd_new(&actor, &cmd, err);
    if (r == 0 && c->events == 10)
        r = event10(cmd, c->org, tag, err);
    else if (r == 0) {
        char app[64];
        (void)snprintf(app, sizeof app, "app_%s", tag);
        r = mt_cmd_event(cmd, MT_EV_APP_CREATED, app, &(struct mt_cmd_ids){.org_id = c->org, .app_id = app},
                         json_pack("{s:s,s:s}", "name", tag, "description", "an application of the bench"), err);
    }
    if (r == 0)
        r = mt_cmd_rely(cmd, MT_RELY_ORG, c->org, NULL, 1, err);
    if (r == 0)
        r = mt_cmd_idempotency(cmd, c->org, actor.actor_id, "POST /v1/orgs/{org}/apps", key, mac, err);
    if (r == 0 && !c->unaudited)
        r = audit_record(cmd, c, tag, err);
    if (r < 0) {
        mt_cmd_free(cmd);
        return r;
    }
    r = mt_append(c->ap, cmd, 20000, &done, err);
    mt_cmd_done_free(&done);
    return r;
}

static const struct mt_pg_stmt st_bare = {"bench_bare", "INSERT INTO bench_bare (kind, payload) VALUES ($1, $2)"};

static int bare_insert(struct client *c, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, "app.created");
    mt_pg_p_json(&p, "{\"name\":\"bench\",\"description\":\"an application of the bench\"}");
    return mt_pg_query(c->pg, &st_bare, &p, NULL, err);
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct mt_err err = {0};
    while (!go)
        (void)sched_yield();
    while (!over && !c->failed) {
        int64_t from = mt_clock_mono();
        int r = c->mode == MODE_BARE ? bare_insert(c, &err) : full_command(c, &err);
        if (r < 0) {
            (void)fprintf(stderr, "client %d: %s\n", c->n, err.msg);
            c->failed = true;
        } else if (c->commands < SAMPLES_MAX) {
            c->us[c->commands++] = (uint32_t)((mt_clock_mono() - from) / 1000);
        }
    }
    return NULL;
}

/* What a deploy of 10,000 replicas does to everybody else: the scheduler's commands, one after the other, as fast as they are taken. */
static int storm_command(struct mt_appender *ap, const char *org, int n, struct mt_err *err)
{
    struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "scheduler", .request_id = "scheduler"};
    int r = mt_cmd_new(&actor, &cmd, err);
    for (int i = 0; i < STORM_EVENTS && r == 0; i++) {
        char id[64], address[64];
        (void)snprintf(id, sizeof id, "inst_%s_%d_%d", run_id, n, i);
        (void)snprintf(address, sizeof address, "fd00:1:2:1:%x:%x:%x:%x", (unsigned)(mt_clock_wall_us() >> 20) & 0xffff, (unsigned)n, (unsigned)i, (unsigned)mt_clock_mono() & 0xffff);
        r = mt_cmd_event(cmd, MT_EV_INSTANCE_ALLOCATED, id, &(struct mt_cmd_ids){.org_id = org, .app_id = "app_storm", .env_id = "env_storm"},
                         json_pack("{s:s,s:s,s:s,s:s,s:{s:i,s:i,s:i},s:s,s:s,s:s,s:i}", "process_type", "web", "node_id", "node_storm", "release_id",
                                   "rel_storm", "overlay_ipv6", address, "resources", "cpu_millis", 100, "memory_bytes", 134217728, "disk_bytes",
                                   1073741824, "arch", "amd64", "image_digest",
                                   "sha256:0000000000000000000000000000000000000000000000000000000000000000", "spec_hash",
                                   "0000000000000000000000000000000000000000000000000000000000000000", "generation", 1),
                         err);
    }
    if (r < 0) {
        mt_cmd_free(cmd);
        return r;
    }
    r = mt_append(ap, cmd, 20000, &done, err);
    mt_cmd_done_free(&done);
    return r;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int prepare(struct client *cs, int n, enum mode mode, int events, const char *control, struct mt_appender **shared, struct mt_err *err)
{
    const struct mt_appender_conf conf = {.pg = {.conninfo = control, .role = "moat_projector"}, .batch_max = mode == MODE_LOCKED ? 1 : 0};
    int r = 0;
    if (mode == MODE_COMBINED && (r = mt_appender_new(&conf, shared, err)) < 0)
        return r;
    for (int i = 0; i < n && r == 0; i++) {
        cs[i] = (struct client){.n = i, .mode = mode, .events = events, .ap = *shared, .us = calloc(SAMPLES_MAX, sizeof(uint32_t))};
        if (mode == MODE_BARE)
            r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = control, .role = "moat_projector"}, &cs[i].pg, err);
        if (mode == MODE_LOCKED)
            r = mt_appender_new(&conf, &cs[i].ap, err);
        if (r < 0 || mode == MODE_BARE)
            continue;
        struct mt_cmd *cmd = NULL; /* each client's organisation; also warms the connection */
        struct mt_cmd_done done = {0};
        (void)snprintf(cs[i].org, sizeof cs[i].org, "org_%s_%d", run_id, i);
        r = mt_cmd_new(&(struct mt_cmd_actor){.actor_type = "system", .actor_id = "bench", .request_id = "req_bench"}, &cmd, err);
        if (r == 0)
            r = mt_cmd_event(cmd, MT_EV_ORG_CREATED, cs[i].org, &(struct mt_cmd_ids){.org_id = cs[i].org}, json_pack("{s:s}", "name", cs[i].org), err);
        if (r == 0)
            r = mt_append(cs[i].ap, cmd, 10000, &done, err);
        mt_cmd_done_free(&done);
    }
    return r;
}

static int measure(enum mode mode, const char *name, int n, int events, int ms, const char *control, struct mt_err *err)
{
    static struct client cs[CLIENTS_MAX];
    bool unaudited = MT_STREQ(name, "unaudited"), storm = MT_STREQ(name, "storm");
    struct mt_appender *shared = NULL;
    struct mt_appender_stats before = {0}, after = {0};
    (void)snprintf(run_id, sizeof run_id, "%llx", (unsigned long long)mt_clock_wall_us());
    int r = prepare(cs, n, mode, events, control, &shared, err);
    if (r < 0)
        return r;
    for (int i = 0; i < n; i++)
        cs[i].unaudited = unaudited;
    go = over = false;
    for (int i = 0; i < n; i++)
        if (pthread_create(&cs[i].thread, NULL, client_main, &cs[i]) != 0)
            return MT_FAIL(err, MT_E_NOMEM, "no thread");
    if (shared)
        mt_appender_stats(shared, &before);
    int64_t server = server_cpu_ns(), own = own_cpu_ns();
    int64_t from = mt_clock_mono();
    go = true;
    const struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    int storm_rc = 0;
    for (int i = 0; storm && i < STORM_COMMANDS && storm_rc == 0; i++)
        storm_rc = storm_command(shared, cs[0].org, i, err);
    if (!storm)
        (void)nanosleep(&nap, NULL);
    over = true;
    int64_t took = mt_clock_mono() - from;
    server = server_cpu_ns() - server;
    own = own_cpu_ns() - own;
    uint64_t commands = 0;
    static uint32_t all[CLIENTS_MAX * 40000];
    size_t n_all = 0;
    for (int i = 0; i < n; i++) {
        (void)pthread_join(cs[i].thread, NULL);
        commands += cs[i].commands;
        for (uint64_t k = 0; k < cs[i].commands && n_all < sizeof all / sizeof *all; k++)
            all[n_all++] = cs[i].us[k];
        if (cs[i].failed)
            r = MT_FAIL(err, MT_E_IO, "a client of '%s' failed", name);
    }
    if (shared)
        mt_appender_stats(shared, &after);
    uint64_t batches = after.batches - before.batches, locks = after.lock_takes - before.lock_takes;
    for (int i = 0; i < n; i++) {
        free(cs[i].us);
        mt_pg_free(cs[i].pg);
        if (mode == MODE_LOCKED)
            mt_appender_free(cs[i].ap);
    }
    mt_appender_free(shared);
    qsort(all, n_all, sizeof *all, by_value);
    double per_s = (double)commands * 1e9 / (double)took;
    if (storm_rc < 0)
        r = storm_rc;
    printf("%s %d %.0f %.0f %u %u %.2f %.1f %.1f %.1f\n", name, n, per_s, storm ? STORM_COMMANDS * STORM_EVENTS * 1e9 / (double)took : per_s * events,
           n_all ? all[n_all / 2] : 0, n_all ? all[n_all * (storm ? 95 : 99) / 100] : 0,
           batches ? (double)locks / (double)batches : 0, batches ? (double)commands / (double)batches : 0,
           commands ? (double)server / 1e3 / (double)commands : 0, commands ? (double)own / 1e3 / (double)commands : 0);
    (void)fflush(stdout);
    return r;
}

/* verify-log over all that the rows before have written: the chain of every event, and the numbers of every aggregate. */
static int measure_verify(const char *control, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    struct mt_log_verdict v;
    int r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = control, .options = MT_LOG_SEES_ALL, .call_timeout_ms = 120000}, &pg, err);
    int64_t from = mt_clock_mono();
    if (r < 0 || (r = mt_log_verify(pg, NULL, NULL, &v, err)) < 0)
        return r;
    if (v.bad_event_id)
        return MT_FAIL(err, MT_E_CORRUPT, "event %lld: %s", (long long)v.bad_event_id, v.what);
    int64_t took = mt_clock_mono() - from;
    printf("verify 1 0 %.0f %lld 0 0 0\n", (double)v.events * 1e9 / (double)took, (long long)(took / 1000));
    return 0;
}

/* Files of the write-ahead log as a server has them that has been at work: one that was made a moment ago writes 16 MiB of zeros, and
 * flushes them, whenever a file is full, and does so under everybody's commit; later it takes the files again that it needs no more. */
static int warm(const char *super, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    int r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = super, .call_timeout_ms = 120000}, &pg, err);
    if (r == 0)
        r = mt_pg_exec(pg, "SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 65536))) FROM generate_series(1, 12000)", err);
    return r < 0 ? r : mt_pg_exec(pg, "CHECKPOINT", err);
}

/* ---- rebuild of the views ---- */

static struct mt_appender *fill_appender;
static _Atomic int64_t filled;
static int64_t fill_to;

static void *fill_main(void *arg)
{
    struct history *h = arg;
    struct mt_err err = {0};
    while (filled < fill_to) {
        struct mt_cmd *c = NULL;
        struct mt_cmd_done done;
        int64_t before = h->events;
        if (history_next(h, &c, &err) < 0 || mt_append(fill_appender, c, 30000, &done, &err) < 0) {
            (void)fprintf(stderr, "fill: %s\n", err.msg);
            return h;
        }
        mt_cmd_done_free(&done);
        filled += h->events - before;
    }
    return NULL;
}

/* Histories of CLIENTS_MAX organisations, side by side, until the log holds @events. */
static int fill(const char *control, int64_t events, struct mt_err *err)
{
    static struct history h[CLIENTS_MAX];
    pthread_t t[CLIENTS_MAX];
    int64_t head = 0, from = mt_clock_mono();
    mt_auto_pg struct mt_pg *pg = NULL;
    const struct mt_appender_conf conf = {.pg = {.conninfo = control, .role = "moat_projector"}};
    int r = mt_pg_connect(&conf.pg, &pg, err);
    if (r < 0 || (r = mt_log_position(pg, &head, NULL, err)) < 0 || (r = mt_appender_new(&conf, &fill_appender, err)) < 0)
        return r;
    filled = head;
    fill_to = events;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        char tag[32];
        (void)snprintf(tag, sizeof tag, "%llx%02d", (unsigned long long)mt_clock_wall_us() & 0xffffffff, i);
        history_init(&h[i], tag, (uint64_t)i + 1);
        if (pthread_create(&t[i], NULL, fill_main, &h[i]) != 0)
            return MT_FAIL(err, MT_E_NOMEM, "no thread");
    }
    for (int i = 0; i < CLIENTS_MAX; i++) {
        void *failed = NULL;
        (void)pthread_join(t[i], &failed);
        if (failed)
            r = MT_FAIL(err, MT_E_IO, "filling failed");
    }
    mt_appender_free(fill_appender);
    int64_t took = mt_clock_mono() - from;
    printf("fill %d 0 %.0f %lld 0 0 0\n", CLIENTS_MAX, (double)(filled - head) * 1e9 / (double)took, (long long)(took / 1000));
    return r;
}

/* "rebuild 1 0 EVENTS_PER_S WALL_US EVENTS_PER_CPU_S STALL_US EVENTS" */
static int measure_rebuild(const char *owner, struct mt_err *err)
{
    static const struct mt_pg_stmt st_backend = {"bench_backend", "SELECT pg_backend_pid()"};
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_rebuild_report rep;
    int r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = owner}, &pg, err);
    if (r < 0 || (r = mt_pg_query_one(pg, &st_backend, NULL, &res, err)) < 0)
        return r;
    long backend = (long)mt_pg_i64(res, 0, 0);
    int64_t before = own_cpu_ns() + process_cpu_ns(backend);
    if ((r = mt_views_rebuild(pg, NULL, NULL, &rep, err)) < 0)
        return r;
    int64_t cpu_us = (own_cpu_ns() + process_cpu_ns(backend) - before) / 1000;
    printf("rebuild 1 0 %.0f %lld %.0f %lld %lld\n", (double)rep.events * 1e6 / (double)rep.took_us, (long long)rep.took_us,
           (double)rep.events * 1e6 / (double)cpu_us, (long long)rep.stall_us, (long long)rep.events);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        enum mode mode;
        int clients, events;
    } rows[] = {
        {"bare", MODE_BARE, 32, 1},          {"combined", MODE_COMBINED, 32, 1},    {"locked", MODE_LOCKED, 32, 1},
        {"combined10", MODE_COMBINED, 32, 10}, {"combined8", MODE_COMBINED, 8, 1}, {"bare8", MODE_BARE, 8, 1},
        {"combined1", MODE_COMBINED, 1, 1},     {"bare1", MODE_BARE, 1, 1},
        {"unaudited", MODE_COMBINED, 32, 1},   {"combined16", MODE_COMBINED, 16, 1}, {"combined64", MODE_COMBINED, 64, 1},
        {"storm", MODE_COMBINED, 8, 1},
    };
    struct mt_err err = {0};
    if (argc < 3) {
        (void)fprintf(stderr, "usage: eventlog-bench DIR MILLISECONDS [ROW...]   (a cluster made by `eventlog-load up DIR`)\n");
        return 2;
    }
    mt_log_init("eventlog-bench", MT_ERROR, false);
    cluster = argv[1];
    char control[256], owner[256], super[256];
    (void)snprintf(super, sizeof super, "host=%s/sock dbname=moat user=moat_super", argv[1]);
    (void)snprintf(control, sizeof control, "host=%s/sock dbname=moat user=moat_control", argv[1]);
    (void)snprintf(owner, sizeof owner, "host=%s/sock dbname=moat user=moat_owner", argv[1]);
    struct mt_pg *pg = NULL;
    /* The plainest durable log: an identity column, a kind, a payload; no order, no views. */
    if (mt_pg_connect(&(struct mt_pg_conf){.conninfo = owner}, &pg, &err) < 0 ||
        mt_pg_exec(pg, "CREATE TABLE IF NOT EXISTS moat.bench_bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),"
                       " kind text NOT NULL, payload jsonb NOT NULL); GRANT INSERT ON moat.bench_bare TO moat_projector", &err) < 0) {
        (void)fprintf(stderr, "error: %s\n", err.msg);
        return 1;
    }
    mt_pg_free(pg);
    if (argc == 5 && MT_STREQ(argv[3], "fill") && fill(control, strtoll(argv[4], NULL, 10), &err) == 0)
        return 0;
    if (argc == 4 && MT_STREQ(argv[3], "rebuild") && measure_rebuild(owner, &err) == 0)
        return 0;
    if (argc == 4 && MT_STREQ(argv[3], "warm") && warm(super, &err) == 0)
        return 0;
    if (err.code) {
        (void)fprintf(stderr, "error: %s\n", err.msg);
        return 1;
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool want = argc == 3;
        for (int k = 3; k < argc && !want; k++)
            want = MT_STREQ(argv[k], rows[i].name);
        if (want && measure(rows[i].mode, rows[i].name, rows[i].clients, rows[i].events, (int)strtol(argv[2], NULL, 10), control, &err) < 0) {
            (void)fprintf(stderr, "error: %s\n", err.msg);
            return 1;
        }
    }
    bool want = argc == 3;
    for (int k = 3; k < argc && !want; k++)
        want = MT_STREQ(argv[k], "verify");
    if (want && measure_verify(control, &err) < 0) {
        (void)fprintf(stderr, "error: %s\n", err.msg);
        return 1;
    }
    return 0;
}
