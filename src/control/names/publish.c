/* SPDX-License-Identifier: Apache-2.0 */
#include "control/names/publish.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/ipv4/ipv4.h"
#include "control/log/history.h"
#include "control/nodes/node.h"
#include "os/digest.h"
#include "os/spawn.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TICK_MS 1000
#define RETRY_S 30
#define AGAIN_S 3600
#define PROGRAM_MS 30000
#define INPUT_MAX (16U << 20)
#define TTL_EDGES "60" /* edges come and go */
#define TTL_IPV4 "300"

struct mt_publisher {
    struct mt_control *ctl;
    struct mt_roles *roles;
    pthread_t thread;
    atomic_bool stop;
    int wake_fd;
    struct mt_pg *pg;
    char done[65]; /* digest of what the program took last, "": nothing */
    int64_t due_ns, again_ns;
    char last[240]; /* a complaint, said once while it repeats */
};

/*
 * Names of the domain $1 that a route of the shared addresses has, to the edges that are well; when none seems to be, to all that there are: that is
 * more often this server's own network than the end of every edge. And the IPv4 address of their environment where it is served ($2: the present epoch).
 */
#define EDGES(well)                                                                                                                            \
    "(SELECT jsonb_agg(DISTINCT n.public_ipv6) FROM nodes_view n WHERE NOT n.deleted AND 'edge' = ANY (n.roles) AND n.public_ipv6 IS NOT NULL" \
    " AND n.admin_state IN ('active', 'cordoned'" well
#define NAMES "SELECT DISTINCT hostname AS name, env_id FROM routes_view WHERE NOT deleted AND NOT disabled AND right(hostname, length($1::text) + 1) = '.' || $1::text"
static const struct mt_pg_stmt wanted = {
    "names_wanted",
    "SELECT coalesce(jsonb_agg(jsonb_build_object('name', w.name, 'type', w.type, 'ttl', w.ttl, 'values', w.v) ORDER BY w.name, w.type), '[]')::text, count(*) FROM"
    " (SELECT r.name, 'AAAA' AS type, " TTL_EDGES " AS ttl, e.v FROM (" NAMES " AND protocol = 'tls_passthrough') r"
    "  CROSS JOIN (SELECT coalesce(" EDGES(") AND n.health IN ('ready', 'degraded') AND NOT " MT_SQL_EDGE_DRAINS("n") ")") ", " EDGES(", 'draining'))") ") AS v) e WHERE e.v IS NOT NULL"
    "  UNION ALL SELECT r.name, 'A', " TTL_IPV4 ", jsonb_build_array(a.ipv4_address) FROM (" NAMES " AND ipv4_required) r"
    "  JOIN ipv4_allocations_view a ON a.env_id = r.env_id AND a.ended_at IS NULL WHERE " MT_IPV4_SERVED("a", "$2") ") w"};

static int connect_pg(struct mt_publisher *p, struct mt_err *err)
{
    return p->pg && mt_pg_idle_check(p->pg) ? 0 : mt_pg_open(&p->ctl->pg_conf, &p->pg, err);
}

/* What is to be in the zone, and its digest, which does not count the event. */
static int document(struct mt_publisher *p, char **ret, char ret_digest[65], int64_t *ret_n, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params q;
    int64_t head, epoch;
    int rc = mt_log_position(p->pg, &head, &epoch, err);
    if (rc < 0)
        return rc;
    mt_pg_p_init(&q);
    mt_pg_p_text(&q, p->ctl->conf.base_domain);
    mt_pg_p_i64(&q, mt_history_epoch(p->ctl->history));
    if ((rc = mt_pg_query_one(p->pg, &wanted, &q, &r, err)) < 0)
        return rc;
    const char *records = mt_pg_text(r, 0, 0);
    *ret_n = mt_pg_i64(r, 0, 1);
    mt_sha256_hex(records, strlen(records), ret_digest);
    *ret = mt_asprintf("{\"base_domain\":\"%s\",\"event_id\":%lld,\"records\":%s}\n", p->ctl->conf.base_domain, (long long)head, records);
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory");
}

static int publish(struct mt_publisher *p, const char *text, struct mt_err *err)
{
    const char *const argv[] = {p->ctl->conf.publish_program, NULL};
    const struct mt_spawn s = {.path = p->ctl->conf.publish_program, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .no_new_privs = true,
                               .new_session = true, .parent_death_signal = SIGKILL, .cancel_fd = p->wake_fd};
    if (strlen(text) > INPUT_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "the records are more than %u bytes", INPUT_MAX);
    return mt_run_ok(&s, text, strlen(text), NULL, PROGRAM_MS, err);
}

/* One server does it, and none while the log may be an older one: names would be taken out of the DNS that the newer one has. */
static int turn(struct mt_publisher *p, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    char digest[65];
    int64_t n = 0, now = mt_clock_mono();
    if (!mt_roles_epoch(p->roles, MT_LEAD_GC)) {
        p->done[0] = '\0';
        return 0;
    }
    if (now < p->due_ns || mt_history_state(p->ctl->history) != MT_RECOVERY_NONE)
        return 0;
    int rc = connect_pg(p, err);
    if (rc < 0 || (rc = document(p, &text, digest, &n, err)) < 0)
        return rc;
    if (MT_STREQ(digest, p->done) && now < p->again_ns)
        return 0;
    if ((rc = publish(p, text, err)) < 0) {
        p->due_ns = mt_clock_mono() + RETRY_S * MT_NS_PER_S;
        return mt_err_wrap(err, "dns.publish_program");
    }
    mt_log(MT_STREQ(digest, p->done) ? MT_DEBUG : MT_INFO, "dns.published", KV("records", n), KV("base_domain", p->ctl->conf.base_domain));
    memcpy(p->done, digest, sizeof digest);
    p->again_ns = mt_clock_mono() + AGAIN_S * MT_NS_PER_S;
    return 0;
}

static void *publisher_main(void *arg)
{
    struct mt_publisher *p = arg;
    (void)pthread_setname_np(pthread_self(), "publisher");
    while (!atomic_load(&p->stop)) {
        struct mt_err err = {0};
        if (turn(p, &err) < 0) {
            if (!MT_STREQ(p->last, err.msg) && !atomic_load(&p->stop))
                mt_log(MT_WARN, "dns.not_published", KV_ERR(&err), KV("mend", "the zone stays as it is; tried again every half minute"));
            (void)snprintf(p->last, sizeof p->last, "%s", err.msg);
        } else if (p->done[0]) {
            p->last[0] = '\0';
        }
        struct pollfd f = {.fd = p->wake_fd, .events = POLLIN};
        (void)poll(&f, 1, TICK_MS);
    }
    return NULL;
}

int mt_publisher_start(struct mt_control *ctl, struct mt_roles *roles, struct mt_publisher **ret, struct mt_err *err)
{
    if (!ctl->conf.base_domain || !ctl->conf.publish_program)
        return 0;
    struct mt_publisher *p = calloc(1, sizeof *p);
    if (!p)
        return MT_FAIL(err, MT_E_NOMEM, "publisher");
    *p = (struct mt_publisher){.ctl = ctl, .roles = roles, .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    int rc = p->wake_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "eventfd") : 0;
    if (rc == 0 && pthread_create(&p->thread, NULL, publisher_main, p) != 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "publisher thread");
    if (rc < 0) {
        mt_closep(&p->wake_fd);
        free(p);
        return rc;
    }
    *ret = p;
    return 0;
}

void mt_publisher_free(struct mt_publisher *p)
{
    uint64_t one = 1;
    if (!p)
        return;
    atomic_store(&p->stop, true);
    (void)!write(p->wake_fd, &one, sizeof one);
    (void)pthread_join(p->thread, NULL);
    mt_closep(&p->wake_fd);
    mt_pg_free(p->pg);
    free(p);
}
