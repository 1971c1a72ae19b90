/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-control: start, serve, stop. The listeners open at once, also while the database is away: then everything but the
 * liveness pages answers 503 database_unavailable, and the process waits and tries again (control-plane.md §16).
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/dispatch.h"
#include "control/api_tls.h"
#include "control/audit/seal.h"
#include "control/audit/verify.h"
#include "control/bootstrap.h"
#include "control/controller.h"
#include "control/exec/gateway.h"
#include "control/keeper.h"
#include "control/offline.h"
#include "control/limits/limits.h"
#include "control/log/history.h"
#include "control/log/schema.h"
#include "control/names/names.h"
#include "control/names/publish.h"
#include "control/names/proxy_watch.h"
#include "model/names.h"
#include "control/plans/address.h"
#include "control/plans/edge_acks.h"
#include "control/plans/news.h"
#include "control/plans/sent.h"
#include "control/recovery/recovery.h"
#include "control/secrets/keys.h"
#include "control/streams/agent.h"
#include "control/streams/feed.h"
#include "control/streams/logs.h"
#include "control/views/rebuild.h"
#include "control/volumes/collector.h"
#include "model/names.h"
#include "os/lockmem.h"
#include "control/nodes/ca.h"
#include "control/nodes/tls.h"
#include "os/notify.h"
#include "os/sock.h"
#include "os/tls.h"

#include <getopt.h>
#include <grp.h>
#include <jansson.h>
#include <malloc.h>
#include <poll.h>
#include <pwd.h>
#include <sys/signalfd.h>

#define MAX_BODY (1024u * 1024u)
#define DRAIN_MS 20000
#define RETRY_MAX_MS 2000
#define NODE_CONNS_PER_SOURCE 256

static struct mt_controller *controller;

bool mt_control_database_up(struct mt_control *ctl)
{
    return mt_clock_mono() - atomic_load(&ctl->db_seen_ns) < 3 * MT_NS_PER_S;
}

void mt_control_poke(struct mt_control *ctl)
{
    (void)ctl;
    mt_controller_poke(controller);
}

/* ---------------------------------------------------------------- threads */

/* Parked requests wait for the head; this thread tells them. */
static void *waker_main(void *arg)
{
    struct mt_control *ctl = arg;
    int64_t seen = mt_log_head_get(ctl->head);
    while (!atomic_load(&ctl->stopping)) {
        int64_t head = mt_log_head_wait(ctl->head, seen, 500), now = mt_log_head_get(ctl->head);
        head = now < seen ? now : head; /* restored to an older point: what is new counts from there */
        if (head != seen) {
            seen = head;
            mt_http_server_wake(ctl->http, MT_TOPIC_HEAD);
        }
    }
    return NULL;
}

static void roles_changed(void *arg)
{
    struct mt_control *ctl = arg;
    mt_controller_poke(controller);
    mt_keeper_poke(ctl->keeper);
}

/* ---------------------------------------------------------------- start */

static int user_id(const char *name, uid_t *ret, struct mt_err *err)
{
    char buf[4096];
    struct passwd pw, *found = NULL;
    if (getpwnam_r(name, &pw, buf, sizeof buf, &found) != 0 || !found)
        return MT_FAIL(err, MT_E_NOT_FOUND, "there is no user '%s'", name);
    *ret = pw.pw_uid;
    return 0;
}

static int group_id(const char *name, gid_t *ret, struct mt_err *err)
{
    char buf[4096];
    struct group gr, *found = NULL;
    *ret = (gid_t)-1;
    if (!name)
        return 0;
    if (getgrnam_r(name, &gr, buf, sizeof buf, &found) != 0 || !found)
        return MT_FAIL(err, MT_E_NOT_FOUND, "there is no group '%s'", name);
    *ret = gr.gr_gid;
    return 0;
}

/* The node listener: its certificate is one of our own authority, and who shows one of that authority is told apart by its URI for each
 * request (nodes/node.c). A machine that enrols has none yet. */
static int nodes_listener(struct mt_control *ctl, struct mt_http_listener *ret, struct mt_err *err)
{
    struct mt_tls_ctx *tls = NULL;
    int rc = mt_node_ca_open(ctl->conf.data_dir, &ctl->node_ca, err);
    if (rc < 0)
        return rc;
    if ((rc = mt_nodes_tls_listener(ctl, &tls, err)) < 0)
        return rc;
    *ret = (struct mt_http_listener){.fd = -1, .tag = MT_LISTEN_NODES, .tls = tls, .max_per_source = NODE_CONNS_PER_SOURCE};
    if ((rc = mt_sock_tcp_listen(ctl->conf.listen_nodes, &ret->fd, err)) < 0)
        mt_tls_ctx_unref(tls);
    else
        mt_log(MT_INFO, "control.nodes_listener", KV("address", ctl->conf.listen_nodes), KV("ca_pin", mt_node_ca_pin(ctl->node_ca)));
    return rc;
}

static int serve(struct mt_control *ctl, struct mt_err *err)
{
    const struct mt_control_conf *conf = &ctl->conf;
    const char *path[MT_LISTEN_MAX] = {conf->listen_api, conf->listen_internal, conf->listen_admin};
    const char *group[MT_LISTEN_MAX] = {conf->api_group, conf->internal_group, conf->api_group};
    struct mt_http_listener l[MT_LISTEN_MAX + 4] = {{0}}; /* and listen_http, listen_metrics, listen_nodes, listen_https */
    struct mt_tls_ctx *tls = NULL, *nodes_tls = NULL;
    size_t n = 0;
    for (int i = 0; i < MT_LISTEN_MAX; i++) {
        gid_t gid;
        if (!path[i])
            continue;
        int rc = group_id(group[i], &gid, err);
        /* The internal socket is open to its group; the API asks for a token from everybody. */
        mode_t mode = i == MT_LISTEN_INTERNAL ? 0660 : 0666;
        if (rc < 0 || (rc = mt_sock_unix_listen(path[i], mode, (uid_t)-1, gid, &l[n].fd, err)) < 0) {
            while (n)
                close(l[--n].fd);
            return rc;
        }
        l[n++].tag = i;
    }
    if (conf->listen_http) {
        int rc = mt_sock_loopback_listen(conf->listen_http, &l[n].fd, err);
        if (rc < 0) {
            while (n)
                close(l[--n].fd);
            return rc;
        }
        l[n++].tag = MT_LISTEN_API;
    }
    if (conf->listen_metrics) {
        int rc = mt_sock_private_listen(conf->listen_metrics, &l[n].fd, err);
        if (rc < 0) {
            while (n)
                close(l[--n].fd);
            return mt_err_wrap(err, "listen_metrics");
        }
        l[n++].tag = MT_LISTEN_ADMIN;
    }
    int bad = conf->listen_nodes ? nodes_listener(ctl, &l[n], err) : 0;
    if (bad == 0 && conf->listen_nodes)
        nodes_tls = l[n++].tls;
    if (bad == 0)
        bad = mt_agents_new(conf->agent_socket, ctl->node_ca, &ctl->agents, err);
    if (bad == 0)
        bad = mt_api_tls_load(conf, &tls, err);
    if (bad == 0 && tls)
        bad = mt_sock_tcp_listen(conf->listen_https, &l[n].fd, err);
    if (bad < 0) {
        mt_tls_ctx_unref(tls);
        mt_tls_ctx_unref(nodes_tls);
        while (n)
            close(l[--n].fd);
        return bad;
    }
    if (tls)
        l[n] = (struct mt_http_listener){.fd = l[n].fd, .tag = MT_LISTEN_API, .tls = tls, .max_per_source = (unsigned)conf->connections_per_source}, n++;
    struct mt_http_conf hc = {.listeners = l,
                              .listeners_n = n,
                              .workers = (unsigned)conf->workers,
                              .background = 1u << MT_LISTEN_INTERNAL | 1u << MT_LISTEN_NODES,
                              .max_conns = (unsigned)conf->max_connections,
                              .max_queue = (unsigned)conf->max_connections,
                              .max_body = MAX_BODY,
                              .idle_seconds = 120,
                              .worker_start = mt_api_worker_start,
                              .worker_stop = mt_api_worker_stop,
                              .handle = mt_api_handle,
                              .own_answer = mt_api_own_answer,
                              .arg = ctl};
    int rc = mt_http_server_start(&hc, &ctl->http, err);
    mt_tls_ctx_unref(nodes_tls); /* the server has references of its own */
    mt_tls_ctx_unref(tls);
    if (rc == 0)
        mt_api_tls_reload(ctl); /* says in the log whose certificate it is and when it ends */
    return rc;
}

static int start_log(struct mt_control *ctl, struct mt_err *err)
{
    struct mt_appender_conf ac = {.pg = ctl->pg_conf};
    int rc = mt_log_head_new(&ctl->pg_conf, &ctl->head, err);
    if (rc < 0)
        return rc;
    ac.pg.role = ctl->conf.appender_role;
    ac.pg.application_name = "moat-control appender";
    ac.head = ctl->head;
    mt_history_follow(ctl->history, ctl->head);
    ac.history = ctl->history;
    ac.measure = &ctl->append_measure;
    struct mt_audit_conf uc = {.pg = ac.pg, .retention_days = (int)ctl->conf.audit_retention_days};
    if ((rc = mt_limits_new(&ctl->pg_conf, (unsigned)ctl->conf.rate_limit_percent, &ctl->limits, err)) == 0)
        rc = mt_audit_new(&uc, &ctl->audit, err);
    if (rc < 0 || (rc = mt_appender_new(&ac, &ctl->appender, err)) < 0)
        return rc;
    return mt_feed_new(&ctl->pg_conf, ctl->head, &ctl->feed, err);
}

/* Waits for a signal, @timeout_ms at most (-1: for ever). True when it is one to end by; SIGHUP reads the master keys and the certificate
 * again. */
static bool told_to_stop(struct mt_control *ctl, int sig_fd, int timeout_ms)
{
    struct pollfd p = {.fd = sig_fd, .events = POLLIN};
    struct signalfd_siginfo si;
    struct mt_err err;
    do {
        int n = poll(&p, 1, timeout_ms);
        if (n == 0)
            return false;
        if (n < 0 || read(sig_fd, &si, sizeof si) != sizeof si)
            continue;
        if (si.ssi_signo != SIGHUP)
            return true;
        (void)mt_keys_reload(ctl->keys, &err); /* says how it went */
        mt_api_tls_reload(ctl);
    } while (timeout_ms < 0);
    return false;
}

/* Is it the database that this server has left? Before anything else is asked of it. */
static int recognise(struct mt_control *ctl, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    int rc = mt_pg_connect(&ctl->pg_conf, &pg, err);
    return rc < 0 ? rc : mt_recovery_look(ctl, pg, NULL, err);
}

/* The views of a database of another version are made anew before anything is read of them: requests meanwhile are told so. */
static bool views_are_made(void *arg, int64_t done, int64_t head)
{
    struct mt_control *ctl = arg;
    atomic_store(&ctl->views_at, done);
    atomic_store(&ctl->views_of, head);
    atomic_store(&ctl->making_views, true);
    return true;
}

/* Schema and bootstrap, tried until they succeed or a signal comes. 1: stopped by a signal. No session is opened before the
 * schema is there: sessions take their search path when they begin. */
static int wait_for_database(struct mt_control *ctl, int sig_fd, struct mt_err *err)
{
    int delay = 50;
    char last[240] = "";
    const struct mt_rebuild_conf watch = {.progress = views_are_made, .arg = ctl};
    for (;;) {
        struct mt_err why = {0};
        const struct mt_pg_conf session = {.conninfo = ctl->conf.database_url, .connect_timeout_ms = 5000, .call_timeout_ms = 10000};
        int rc = mt_pg_own_sessions(&session, &why);
        if (rc == 0)
            rc = mt_bootstrap_migrate(&ctl->conf, &watch, &why);
        atomic_store(&ctl->making_views, false);
        if (rc == 0 && !ctl->appender && (rc = start_log(ctl, err)) < 0)
            return rc;
        if (rc == 0 && (rc = recognise(ctl, &why)) == 0 && (rc = mt_bootstrap(ctl, &why)) == 0 &&
            (rc = mt_bootstrap_pool(ctl, &why)) == 0)
            return 0;
        if (why.code != MT_E_UNAVAILABLE && why.code != MT_E_TIMEOUT && why.code != MT_E_CANCELLED) {
            *err = why;
            return rc;
        }
        if (!MT_STREQ(last, why.msg))
            mt_log(MT_WARN, "control.waiting_for_database", KV_ERR(&why));
        snprintf(last, sizeof last, "%s", why.msg);
        if (told_to_stop(ctl, sig_fd, delay))
            return 1;
        delay = delay * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : delay * 2;
    }
}

static int init(struct mt_control *ctl, struct mt_err *err)
{
    int rc;
    ctl->started_us = mt_clock_wall_us();
    mt_measure_init(&ctl->measure);
    ctl->pg_conf = (struct mt_pg_conf){.conninfo = ctl->conf.database_url,
                                       .application_name = "moat-control",
                                       .role = ctl->conf.database_role,
                                       .options = MT_LOG_SEES_ALL,
                                       .connect_timeout_ms = 2000,
                                       .call_timeout_ms = 10000};
    if ((rc = user_id(ctl->conf.agent_user, &ctl->agent_uid, err)) < 0 ||
        (rc = user_id(ctl->conf.edge_user, &ctl->edge_uid, err)) < 0 || (rc = mt_bootstrap_mac_key(ctl, err)) < 0)
        return rc;
    if ((rc = mt_keys_new(ctl->conf.master_keys_file, &ctl->keys, err)) < 0)
        return rc;
    /* every answer asks it, also one that is given before the database was reached */
    if ((rc = mt_history_new(ctl->conf.data_dir, &ctl->history, err)) < 0)
        return rc;
    ctl->edges = mt_edges_new();
    ctl->plans = mt_plans_new();
    ctl->plan_news = mt_plan_news_new();
    ctl->proxies = mt_proxy_watch_new();
    if (!ctl->proxies || !ctl->edges || !ctl->plans || !ctl->plan_news)
        return MT_FAIL(err, MT_E_NOMEM, "start");
    if ((rc = mt_names_new(ctl->conf.dns_servers.v, ctl->conf.dns_servers.n, ctl->conf.dns_check, &ctl->names, err)) < 0)
        return rc;
    /* before the gateway, whose thread asks who has which role */
    if ((rc = mt_roles_new(ctl, roles_changed, ctl, &ctl->roles, err)) < 0 || (rc = mt_gateway_new(ctl, &ctl->gateway, err)) < 0)
        return rc;
    return mt_fanout_new(&ctl->fanout, err);
}

/* Serve until a signal. */
static int operate(struct mt_control *ctl, int sig_fd, struct mt_err *err)
{
    pthread_t waker;
    int rc = mt_controller_start(ctl, &controller, err);
    if (rc < 0 || (rc = mt_keeper_start(ctl, ctl->roles, &ctl->keeper, err)) < 0 ||
        (rc = mt_collector_start(ctl, &ctl->collector, err)) < 0 || (rc = mt_publisher_start(ctl, ctl->roles, &ctl->publisher, err)) < 0 ||
        (rc = mt_roles_start(ctl->roles, err)) < 0)
        return rc;
    if (pthread_create(&waker, NULL, waker_main, ctl) != 0)
        return MT_FAIL(err, MT_E_NOMEM, "waker thread");
    atomic_store(&ctl->db_seen_ns, mt_clock_mono());
    atomic_store(&ctl->ready, true);
    mt_log(MT_INFO, "control.ready", KV("cluster_id", (const char *)ctl->cluster_id), KV("prefix", (const char *)ctl->prefix),
           KV("took_ms", (mt_clock_wall_us() - ctl->started_us) / 1000));
    (void)told_to_stop(ctl, sig_fd, -1);
    mt_notify("STOPPING=1");
    mt_log(MT_INFO, "control.stopping");
    mt_http_server_drain(ctl->http, DRAIN_MS);
    atomic_store(&ctl->stopping, true);
    pthread_join(waker, NULL);
    return 0;
}

static int run(struct mt_control *ctl, int sig_fd, struct mt_err *err)
{
    int rc;
    if ((rc = init(ctl, err)) < 0 || (rc = serve(ctl, err)) < 0)
        return rc;
    mt_notify("READY=1"); /* it answers; readyz says whether the database does */
    rc = wait_for_database(ctl, sig_fd, err);
    if (rc == 0)
        return operate(ctl, sig_fd, err);
    mt_http_server_drain(ctl->http, 1000);
    return rc > 0 ? 0 : rc;
}

static void done(struct mt_control *ctl)
{
    mt_gateway_stop(ctl->gateway);
    mt_controller_free(controller);
    mt_publisher_free(ctl->publisher);
    mt_collector_free(ctl->collector);
    mt_keeper_free(ctl->keeper);
    mt_roles_free(ctl->roles);
    mt_fanout_free(ctl->fanout);
    mt_http_server_free(ctl->http);
    mt_gateway_free(ctl->gateway);
    mt_feed_free(ctl->feed); /* after the streams that it feeds */
    mt_appender_free(ctl->appender);
    mt_history_free(ctl->history); /* after whoever appends: it saves where the log ends */
    mt_limits_free(ctl->limits);
    mt_audit_free(ctl->audit); /* after whoever writes records: the last ones are sealed */
    mt_log_head_free(ctl->head);
    mt_agents_free(ctl->agents);
    mt_edges_free(ctl->edges);
    mt_names_free(ctl->names);
    mt_proxy_watch_free(ctl->proxies);
    mt_plans_free(ctl->plans);
    mt_plan_news_free(ctl->plan_news);
    mt_keys_free(ctl->keys);
    mt_node_ca_free(ctl->node_ca);
    mt_measure_done(&ctl->measure);
    mt_conf_done(mt_control_keys, mt_control_keys_n, &ctl->conf);
}

static int print_routes(void)
{
    for (const struct mt_api_route *r = mt_api_routes; r->method; r++)
        printf("%-7s %-70s %-16s %s\n", r->method, r->path, r->scope ? r->scope : "-", r->summary);
    return 0;
}

/* ---------------------------------------------------------------- verify-audit */

static void print_verdict(void *arg, const struct mt_audit_verdict *v)
{
    bool *bad = arg;
    *bad |= v->bad_seq != 0;
    if (v->bad_seq)
        printf("%s: record %lld%s%s: %s\n", v->chain, (long long)v->bad_seq, v->bad_audit_id[0] ? " " : "", v->bad_audit_id, v->what);
    else
        printf("%s: %lld records, %lld..%lld, head %s\n", v->chain, (long long)v->records, (long long)v->anchor_seq + 1,
               (long long)v->head_seq, v->head_hash);
}

/* Every chain of the audit log, straight from the database: exit status 1 when one does not hold. */
static int verify_audit(const struct mt_control_conf *conf, struct mt_err *err)
{
    const struct mt_pg_conf pc = {.conninfo = conf->database_url, .role = conf->database_role, .options = MT_LOG_SEES_ALL, .call_timeout_ms = 120000};
    mt_auto_pg struct mt_pg *pg = NULL;
    int64_t pending = 0;
    bool bad = false;
    int rc = mt_pg_connect(&pc, &pg, err);
    if (rc < 0 || (rc = mt_audit_verify(pg, NULL, print_verdict, &bad, &pending, err)) < 0)
        return rc;
    if (pending)
        printf("%lld records are written and not yet in a chain\n", (long long)pending);
    return bad ? 1 : 0;
}

static int print_quotas(void)
{
    printf("%-28s %20s %20s  %s\n", "dimension", "free", "paid", "counts");
    for (unsigned q = 0; q < MT_QUOTA_MAX; q++)
        printf("%-28s %20lld %20lld  %s\n", mt_quota_name((enum mt_quota)q), (long long)mt_quota_default((enum mt_quota)q, MT_TIER_FREE),
               (long long)mt_quota_default((enum mt_quota)q, MT_TIER_PAID), mt_quota_counts((enum mt_quota)q));
    return 0;
}

static int usage(FILE *to)
{
    fprintf(to, "usage: moat-control --config FILE [--check-config | --migrate | --verify-audit]\n"
                "       moat-control --config FILE init [--force] [--id CLUSTER]   (prints the link that makes the first operator)\n"
                "       moat-control --config FILE migrate | check-config | verify-log | verify-views\n"
                "       moat-control --config FILE rebuild [--view NAME|all]\n"
                "       moat-control --config FILE backup > FILE | check-backup < FILE | restore < FILE   (moat admin backup, moat admin restore)\n"
                "       moat-control --config FILE append --type TYPE --id AGGREGATE [--org ID] [--app ID] [--env ID]\n"
                "                    [--payload JSON|@FILE] --reason TEXT\n"
                "       moat-control --config FILE scan-backups [--apply --reason TEXT [--node ID]]\n"
                "       moat-control --config FILE rekey-backups --id VOLUME --reason TEXT\n"
                "       moat-control --config FILE check-database   (moat admin db check)\n"
                "       moat-control --config FILE audit-checkpoint --key FILE > FILE | check-audit-checkpoint --key FILE < FILE\n"
                "       moat-control --help-config | --routes | --errors | --metrics | --quotas | --version\n");
    return to == stderr ? 2 : 0;
}

/* Bodies of requests may hold secrets; whatever of JSON is given back is wiped. */
static void wipe_free(void *p)
{
    if (p)
        explicit_bzero(p, malloc_usable_size(p));
    free(p);
}

int main(int argc, char **argv)
{
    static const struct option opts[] = {{"config", 1, NULL, 'c'},       {"check-config", 0, NULL, 'k'},
                                         {"migrate", 0, NULL, 'm'},      {"force", 0, NULL, 'f'},
                                         {"verify-audit", 0, NULL, 'A'}, {"help-config", 0, NULL, 'H'},
                                         {"routes", 0, NULL, 'r'},       {"errors", 0, NULL, 'E'}, {"metrics", 0, NULL, 'M'},
                                               {"quotas", 0, NULL, 'q'},       {"version", 0, NULL, 'v'},
                                         {"help", 0, NULL, 'h'},         {"view", 1, NULL, 'w'},
                                         {"type", 1, NULL, 't'},         {"id", 1, NULL, 'i'},
                                         {"org", 1, NULL, 'o'},          {"app", 1, NULL, 'a'},
                                         {"env", 1, NULL, 'e'},          {"payload", 1, NULL, 'p'},
                                         {"reason", 1, NULL, 'R'},       {"apply", 0, NULL, 'y'},
                                         {"node", 1, NULL, 'n'},         {"key", 1, NULL, 'K'},
                                         {NULL, 0, NULL, 0}};
    static struct mt_control ctl;
    const char *config = NULL;
    bool check = false, migrate = false, audit = false;
    struct mt_err err = {0};
    struct mt_offline_args off = {0};
    for (int o; (o = getopt_long(argc, argv, "c:h", opts, NULL)) != -1;) {
        const char **to = o == 'w' ? &off.view : o == 't' ? &off.type : o == 'i' ? &off.id : o == 'o' ? &off.org
                        : o == 'a' ? &off.app : o == 'e' ? &off.env : o == 'p' ? &off.payload : o == 'R' ? &off.reason
                        : o == 'n' ? &off.node : o == 'K' ? &off.key : NULL;
        if (to) {
            *to = optarg;
            continue;
        }
        if (o == 'c')
            config = optarg;
        else if (o == 'k')
            check = true;
        else if (o == 'm')
            migrate = true;
        else if (o == 'A')
            audit = true;
        else if (o == 'f')
            off.force = true;
        else if (o == 'y')
            off.apply = true;
        else if (o == 'H')
            return mt_conf_help(mt_control_keys, mt_control_keys_n, stdout), 0;
        else if (o == 'r')
            return print_routes();
        else if (o == 'E')
            return mt_api_codes_print(stdout), 0;
        else if (o == 'M')
            return mt_metrics_print_list(stdout), 0;
        else if (o == 'q')
            return print_quotas();
        else if (o == 'v')
            return printf("moat-control %s\n", MOAT_VERSION) < 0;
        else
            return usage(o == 'h' ? stdout : stderr);
    }
    off.verb = optind + 1 == argc ? argv[optind] : NULL;
    if (!config || (optind != argc && (!off.verb || !mt_offline_verb(off.verb))))
        return usage(stderr);
    mt_log_init("control", MT_INFO, true);
    if (mt_conf_load(config, mt_control_keys, mt_control_keys_n, &ctl.conf, stderr, &err) < 0) {
        fprintf(stderr, "moat-control: %s\n", err.msg);
        return 2;
    }
    enum mt_level level;
    if (mt_level_parse(ctl.conf.log_level, &level, &err) < 0) {
        fprintf(stderr, "moat-control: log_level: %s\n", err.msg);
        return 2;
    }
    mt_log_level(level);
    enum mt_quota_tier tier;
    if (!mt_quota_tier_parse(ctl.conf.quota_tier, &tier)) {
        fprintf(stderr, "moat-control: quota_tier: '%s' is not free, paid or unlimited\n", ctl.conf.quota_tier);
        return 2;
    }
    for (size_t i = 0; i < ctl.conf.quotas.n; i++) {
        enum mt_quota q = mt_quota_by_name(ctl.conf.quotas.v[i].key);
        if (q == MT_QUOTA_MAX || ctl.conf.quotas.v[i].number > (uint64_t)MT_QUOTA_LIMIT_MAX) {
            fprintf(stderr, q == MT_QUOTA_MAX ? "moat-control: quotas: '%s' is no dimension (moat-control --quotas lists them)\n"
                                              : "moat-control: quotas: '%s' is more than can be counted\n", ctl.conf.quotas.v[i].key);
            return 2;
        }
        mt_quota_configure(q, (int64_t)ctl.conf.quotas.v[i].number);
    }
    if (mt_port_policy_read(&ctl.conf.raw_ranges, &ctl.conf.tls_ranges, &ctl.conf.denied_ports, &ctl.ports, &err) < 0 ||
        mt_names_new(ctl.conf.dns_servers.v, ctl.conf.dns_servers.n, false, &ctl.names, &err) < 0) {
        fprintf(stderr, "moat-control: %s\n", err.msg);
        return 2;
    }
    if (ctl.conf.base_domain) {
        char name[MT_HOSTNAME_SIZE];
        if (mt_hostname_normalise(ctl.conf.base_domain, strlen(ctl.conf.base_domain), name, &err) < 0) {
            fprintf(stderr, "moat-control: dns.base_domain: %s\n", err.msg);
            return 2;
        }
        memcpy(ctl.conf.base_domain, name, strlen(name) + 1); /* never longer */
    }
    mt_names_free(ctl.names); /* that was the look at the addresses; it has a thread when it serves */
    ctl.names = NULL;
    if (ctl.conf.publish_program && (!ctl.conf.base_domain || ctl.conf.publish_program[0] != '/' || access(ctl.conf.publish_program, X_OK) < 0)) {
        fprintf(stderr, "moat-control: dns.publish_program: '%s' %s\n", ctl.conf.publish_program,
                !ctl.conf.base_domain ? "has nothing to publish without dns.base_domain" : "is no absolute path of a program");
        return 2;
    }
    if (!MT_STREQ(ctl.conf.egress_mode, "none") && !MT_STREQ(ctl.conf.egress_mode, "routed") && !MT_STREQ(ctl.conf.egress_mode, "nat66")) {
        fprintf(stderr, "moat-control: egress_mode: '%s' is not none, routed or nat66\n", ctl.conf.egress_mode);
        return 2;
    }
    for (size_t i = 0; i < ctl.conf.vm_dns.n; i++) {
        if (mt_addr_dns_check(ctl.conf.vm_dns.v[i], NULL, &err) < 0) {
            fprintf(stderr, "moat-control: %s\n", err.msg);
            return 2;
        }
    }
    struct mt_tls_ctx *tls = NULL;
    if ((check || (off.verb && MT_STREQ(off.verb, "check-config"))) && mt_api_tls_load(&ctl.conf, &tls, &err) < 0) {
        fprintf(stderr, "moat-control: %s\n", err.msg);
        return 2;
    }
    mt_tls_ctx_unref(tls);
    if (check) {
        mt_conf_done(mt_control_keys, mt_control_keys_n, &ctl.conf);
        return 0;
    }
    if (migrate || audit) {
        int rc = migrate ? mt_bootstrap_migrate(&ctl.conf, NULL, &err) : verify_audit(&ctl.conf, &err);
        if (rc < 0)
            fprintf(stderr, "moat-control: %s\n", err.msg);
        mt_conf_done(mt_control_keys, mt_control_keys_n, &ctl.conf);
        return rc != 0;
    }
    if (off.verb) {
        int status = mt_offline_run(&ctl, &off);
        mt_conf_done(mt_control_keys, mt_control_keys_n, &ctl.conf);
        return status;
    }
    sigset_t set;
    sigemptyset(&set);
    mt_process_hide();
    json_set_alloc_funcs(malloc, wipe_free);
    /* What an answer of many rows took goes back to the system. As they are, both limits rise with the largest block that was ever freed, and each of the
     * workers' arenas keeps as much: three quarters of the heap after half an hour. */
    (void)mallopt(M_ARENA_MAX, 2); /* as a page of 500 events passes through each, so much stays: eight workers must not have an arena each */
    (void)mallopt(M_TRIM_THRESHOLD, 256 << 10);
    (void)mallopt(M_MMAP_THRESHOLD, 256 << 10);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread exists */
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL);
    mt_auto_fd int sig_fd = signalfd(-1, &set, SFD_CLOEXEC);
    int rc = sig_fd < 0 ? MT_FAIL_ERRNO(&err, MT_E_IO, "signalfd") : run(&ctl, sig_fd, &err);
    if (rc < 0)
        mt_log(MT_ERROR, "control.failed", KV_ERR(&err));
    done(&ctl);
    return rc < 0;
}
