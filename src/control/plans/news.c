/* SPDX-License-Identifier: Apache-2.0 */
/* A map of nodes to the last event that can concern each, and one number for those that can concern all. */
#include "control/plans/news.h"

#include "base/cleanup.h"
#include "base/map.h"
#include "base/str.h"
#include "os/file.h"
#include "pg/pg.h"

#include <pthread.h>
#include <stdlib.h>

struct mt_plan_news {
    pthread_mutex_t mu; /* held over the query: who comes meanwhile wants its answer */
    int64_t from, seen; /* events after `from` up to `seen` were looked at; what was made before `from` is asked for anew */
    int64_t all;        /* the last one that can concern every node */
    int64_t edges;      /* the last one that can concern what edges serve */
    struct mt_map last; /* node id -> int64_t */
};

/* Left out: what no plan is made of (node_plan.c, the fingerprint). An instance concerns its node, and with a private network the nodes of its
 * neighbours. The empty name is the end of what was read; '+' are the edges (edge_config.c): an instance that was never ready is nobody's backend. */
static const struct mt_pg_stmt look = {
    "plan_news",
    "WITH f AS MATERIALIZED (SELECT event_id, event_type, aggregate_type, aggregate_id, env_id FROM moat.events WHERE event_id > $1"
    "  ORDER BY event_id LIMIT 4096)"
    " SELECT CASE WHEN f.aggregate_type = 'instance' AND NOT e.private_network THEN coalesce(i.node_id, '*') ELSE '*' END AS who, max(f.event_id)"
    " FROM f LEFT JOIN instances_view i ON f.aggregate_type = 'instance' AND i.instance_id = f.aggregate_id LEFT JOIN envs_view e ON e.env_id = f.env_id"
    " WHERE f.event_type NOT IN ('instance.status_changed', 'instance.restart_requested', 'env.scheduling_changed', 'env.desired_release_set',"
    "  'env.scale_set', 'deploy.created', 'deploy.status_changed', 'release.created', 'app.created', 'app.updated') GROUP BY 1"
    " UNION ALL SELECT '+', max(f.event_id) FROM f LEFT JOIN instances_view i ON f.aggregate_type = 'instance' AND i.instance_id = f.aggregate_id"
    " WHERE f.event_type NOT IN ('env.scheduling_changed', 'env.desired_release_set', 'env.desired_release_cleared', 'env.scale_set',"
    "  'env.restart_requested', 'env.rebalance_requested', 'app.created', 'app.updated', 'instance.allocated', 'instance.restart_requested')"
    " AND f.aggregate_type NOT IN ('org_member', 'service_principal', 'registry_credential', 'log_drain', 'project', 'release', 'deploy', 'secret_bundle', 'exec_session',"
    "  'volume', 'volume_attachment', 'snapshot', 'restore_job', 'volume_migration', 'usage', 'enrollment_token', 'image_block')"
    " AND NOT (f.event_type = 'instance.status_changed' AND coalesce(i.ready_at IS NULL, false)) HAVING count(*) > 0"
    " UNION ALL SELECT '', coalesce(max(event_id), $1) FROM f"};

struct mt_plan_news *mt_plan_news_new(void)
{
    struct mt_plan_news *n = calloc(1, sizeof *n);
    uint64_t seed;
    if (!n)
        return NULL;
    mt_random(&seed, sizeof seed);
    pthread_mutex_init(&n->mu, NULL);
    mt_map_init(&n->last, seed);
    return n;
}

static void forget(struct mt_plan_news *n)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(&n->last, &pos, NULL, &v))
        free(v);
    mt_map_done(&n->last);
}

void mt_plan_news_free(struct mt_plan_news *n)
{
    if (!n)
        return;
    forget(n);
    pthread_mutex_destroy(&n->mu);
    free(n);
}

static void begin_at(struct mt_plan_news *n, int64_t event_id)
{
    uint64_t seed = n->last.seed;
    forget(n);
    mt_map_init(&n->last, seed);
    n->from = n->seen = n->all = n->edges = event_id;
}

void mt_plan_news_clear(struct mt_plan_news *n)
{
    pthread_mutex_lock(&n->mu);
    begin_at(n, 0);
    pthread_mutex_unlock(&n->mu);
}

static void note(struct mt_plan_news *n, const char *who, int64_t event_id)
{
    int64_t *v = mt_map_get(&n->last, who);
    if (MT_STREQ(who, "+")) {
        n->edges = event_id > n->edges ? event_id : n->edges;
    } else if (MT_STREQ(who, "*")) {
        n->all = event_id > n->all ? event_id : n->all;
    } else if (v) {
        *v = event_id;
    } else if ((v = malloc(sizeof *v)) != NULL) {
        *v = event_id;
        if (mt_map_put(&n->last, who, v) < 0) {
            free(v);
            n->all = event_id; /* for all, then */
        }
    } else {
        n->all = event_id;
    }
}

/* Events up to @head. */
static int read_on(struct mt_plan_news *n, struct mt_pg *pg, int64_t head, struct mt_err *err)
{
    if (n->seen == 0 || head < n->seen)
        begin_at(n, head);
    while (n->seen < head) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_pg_p_init(&p);
        mt_pg_p_i64(&p, n->seen);
        int rc = mt_pg_query(pg, &look, &p, &r, err);
        if (rc < 0)
            return rc;
        int64_t before = n->seen;
        for (int i = 0; i < mt_pg_rows(r); i++) {
            if (*mt_pg_text(r, i, 0))
                note(n, mt_pg_text(r, i, 0), mt_pg_i64(r, i, 1));
            else
                n->seen = mt_pg_i64(r, i, 1);
        }
        if (n->seen == before) /* the end is not where it was said to be: the log lost it */
            return 0;
    }
    return 0;
}

int mt_plan_news_for(struct mt_plan_news *n, struct mt_pg *pg, const char *node_id, int64_t made_at, int64_t head, struct mt_err *err)
{
    pthread_mutex_lock(&n->mu);
    int rc = read_on(n, pg, head, err);
    if (rc == 0) {
        const int64_t *last = mt_map_get(&n->last, node_id);
        rc = made_at < n->from || n->seen < head || n->all > made_at || (last && *last > made_at);
    }
    pthread_mutex_unlock(&n->mu);
    return rc;
}

int mt_plan_news_for_edges(struct mt_plan_news *n, struct mt_pg *pg, int64_t made_at, int64_t head, struct mt_err *err)
{
    pthread_mutex_lock(&n->mu);
    int rc = read_on(n, pg, head, err);
    if (rc == 0)
        rc = made_at < n->from || n->seen < head || n->edges > made_at;
    pthread_mutex_unlock(&n->mu);
    return rc;
}
