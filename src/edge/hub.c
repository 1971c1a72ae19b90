/* SPDX-License-Identifier: Apache-2.0 */
/* Swap of tables, start and end of workers. */
#include "edge/hub.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "os/file.h"

#include <sys/resource.h>

#define SHRINK_FROM 20U

static unsigned core_count(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 256 ? 256 : (unsigned)n;
}

/* Two descriptors for a connection; one in forty of the limit, raised as far as allowed, is left for pipes and listeners. A
 * pipe that cannot be had is no fault: the bytes are copied then. */
static uint64_t fit_descriptors(uint64_t max_conns)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == -1)
        return max_conns;
    rl.rlim_cur = rl.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &rl) == -1 && getrlimit(RLIMIT_NOFILE, &rl) == -1)
        return max_conns;
    uint64_t fits = (rl.rlim_cur - rl.rlim_cur / 40) / 2;
    if (max_conns <= fits)
        return max_conns;
    mt_log(MT_INFO, "edge.descriptor_limit", KV("max_conns", max_conns), KV("fits", fits),
           KV("mend", "none needed; for more connections raise the descriptor limit (LimitNOFILE)"));
    return fits;
}

int mt_edge_hub_init(struct mt_edge_hub *h, const struct mt_edge_options *opt, struct mt_err *err)
{
    memset(h, 0, sizeof *h);
    h->opt = opt;
    mt_random(h->run_id, sizeof h->run_id);
    (void)pthread_mutex_init(&h->lock, NULL);
    h->max_conns = fit_descriptors(opt->max_conns);
    const struct mt_edge_limit_conf lc = {.conns = (uint32_t)opt->source_conns,
                                          .new_per_s = (uint32_t)opt->source_new_per_s,
                                          .burst = (uint32_t)opt->source_burst,
                                          .preroute = (uint32_t)opt->source_preroute,
                                          .loopback = opt->limit_loopback};
    h->limits = mt_edge_limits_new(&lc);
    unsigned n = opt->workers ? (unsigned)opt->workers : core_count();
    h->workers = calloc(n, sizeof *h->workers);
    if (!h->limits || !h->workers)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %u workers", n);
    h->n_workers = n;
    for (unsigned i = 0; i < n; i++)
        if (mt_edge_worker_start(&h->workers[i], h, i, err) < 0)
            return -(int)err->code; /* start-up: the caller exits */
    return 0;
}

/* --- swap --- */

/* Wait until no worker holds a table from before generation @g. Workers' turns are bounded, so this is short. */
static void wait_for_workers(struct mt_edge_hub *h, uint64_t g)
{
    for (unsigned i = 0; i < h->n_workers; i++) {
        for (unsigned tries = 0;; tries++) {
            uint64_t seen = atomic_load(&h->workers[i].seen);
            if (seen == MT_EDGE_OFFLINE || seen >= g)
                break;
            const struct timespec nap = {.tv_nsec = tries < 100 ? 50000 : 2000000};
            (void)nanosleep(&nap, NULL);
        }
    }
}

static int check_order(const struct mt_edge_table *t, const struct mt_edge_table *old, struct mt_err *err)
{
    if (!old)
        return 0;
    if (strcmp(t->cluster_id, old->cluster_id) != 0)
        return MT_FAIL(err, MT_E_CONFLICT, "snapshot of cluster '%s', this edge serves '%s'", t->cluster_id, old->cluster_id);
    if (t->epoch < old->epoch || (t->epoch == old->epoch && t->revision <= old->revision))
        return MT_FAIL(err, MT_E_CONFLICT, "snapshot %llu/%llu is not newer than the running %llu/%llu",
                       (unsigned long long)t->epoch, (unsigned long long)t->revision, (unsigned long long)old->epoch,
                       (unsigned long long)old->revision);
    if (!t->allow_shrink && old->n_routes >= SHRINK_FROM && t->n_routes * 2 < old->n_routes)
        return MT_FAIL(err, MT_E_INVALID, "routes fall from %u to %u without allow_shrink", old->n_routes, t->n_routes);
    return 0;
}

int mt_edge_hub_apply(struct mt_edge_hub *h, struct mt_edge_table *t, bool force, struct mt_err *err)
{
    (void)pthread_mutex_lock(&h->lock);
    struct mt_edge_table *old = atomic_load(&h->table);
    int r = force ? 0 : check_order(t, old, err);
    if (r < 0) {
        (void)pthread_mutex_unlock(&h->lock);
        mt_edge_table_free(t);
        return r;
    }
    int64_t now = mt_clock_mono();
    mt_edge_table_adopt(t, old);
    mt_edge_listen_open(h, t);
    atomic_store(&h->table, t);
    uint64_t g = atomic_fetch_add(&h->generation, 1) + 1;
    mt_edge_listen_start(h); /* a worker takes the table at the start of a turn, sockets at its end */
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_wake(&h->workers[i]);
    wait_for_workers(h, g);
    mt_edge_table_adopt(t, old); /* again, for routes that became live in the old one meanwhile */
    mt_edge_table_mark_gone(t, old, now);
    atomic_store(&h->purge_until, now + MT_EDGE_ROUTE_GRACE_NS + 5 * MT_NS_PER_S);
    mt_edge_listen_close(h, t);
    h->applied_wall_us = mt_clock_wall_us();
    (void)pthread_mutex_unlock(&h->lock);
    mt_edge_table_free(old);
    return 0;
}

void mt_edge_hub_version(struct mt_edge_hub *h, uint64_t *ret_epoch, uint64_t *ret_revision, char *ret_cluster)
{
    (void)pthread_mutex_lock(&h->lock);
    const struct mt_edge_table *t = atomic_load(&h->table);
    *ret_epoch = t ? t->epoch : 0;
    *ret_revision = t ? t->revision : 0;
    if (ret_cluster)
        (void)snprintf(ret_cluster, MT_EDGE_ID_MAX + 1, "%s", t ? t->cluster_id : "");
    (void)pthread_mutex_unlock(&h->lock);
}

void mt_edge_hub_drain(struct mt_edge_hub *h)
{
    atomic_store(&h->drain, true);
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_wake(&h->workers[i]);
}

bool mt_edge_hub_drained(struct mt_edge_hub *h)
{
    for (unsigned i = 0; i < h->n_workers; i++)
        if (!atomic_load(&h->workers[i].drained))
            return false;
    return atomic_load(&h->totals.open) == 0;
}

void mt_edge_hub_done(struct mt_edge_hub *h)
{
    atomic_store(&h->stop, true);
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_wake(&h->workers[i]);
    for (unsigned i = 0; i < h->n_workers; i++) {
        (void)pthread_join(h->workers[i].thread, NULL);
        mt_edge_worker_done(&h->workers[i]);
    }
    free(h->workers);
    mt_edge_table_free(atomic_load(&h->table));
    mt_edge_limits_free(h->limits);
    mt_edge_listen_done(h);
    (void)pthread_mutex_destroy(&h->lock);
}
