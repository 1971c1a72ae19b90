/* SPDX-License-Identifier: Apache-2.0 */
/* The firewall looked after. See netdrift.h. */
#include "agent/netdrift.h"

#include "agent/net/nfset.h"
#include "agent/netstate.h"
#include "base/cleanup.h"
#include "base/log.h"

#define LATER_MS 1000
#define SETTLE_MS 100 /* a change is several messages, and our own ones are told too */

struct mt_netdrift {
    struct mt_agent *a;
    struct mt_source *timer, *soon, *watch;
    int fd;
    bool busy, again;
};

struct job {
    struct mt_netdrift *d;
    struct mt_fw_found found;
    int rc;
    struct mt_err err;
};

static void look(struct mt_netdrift *d);

static void check_work(void *arg)
{
    struct job *j = arg;
    j->rc = mt_fw_check(j->d->a->fw, &j->found, &j->err);
}

static void check_done(void *arg)
{
    struct job *j = arg;
    struct mt_netdrift *d = j->d;
    struct mt_agent *a = d->a;

    d->busy = false;
    if (j->rc < 0) {
        mt_log(MT_ERROR, "firewall.not_mended", KV_ERR(&j->err));
        a->fw_loaded = false; /* VM starts are blocked until it is */
        mt_netstate_load(a);
    } else if (j->found.table_missing || j->found.rules_changed || j->found.elements) {
        mt_log(MT_WARN, "firewall.tampered", KV("table_missing", j->found.table_missing), KV("rules_changed", j->found.rules_changed),
               KV("elements", (uint64_t)j->found.elements));
        a->tampered_ns = mt_loop_now(a->loop);
        a->measure.firewall_mended++;
    }
    free(j);
    if (d->again) {
        d->again = false;
        look(d);
    }
}

static void look(struct mt_netdrift *d)
{
    struct mt_agent *a = d->a;
    if (a->stop_all || a->quitting)
        return;
    if (!a->fw_loaded || a->fw_loading) {
        if (a->plan)
            mt_loop_timer_after(d->soon, LATER_MS); /* the change may have come after what is being loaded */
        return;
    }
    if (d->busy) {
        d->again = true;
        return;
    }
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return;
    j->d = d;
    d->busy = true;
    if (mt_pool_submit(a->steps, check_work, check_done, j, NULL) < 0) {
        d->busy = false;
        free(j);
    }
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_netdrift *d = arg;
    mt_loop_timer_after(s, (int64_t)d->a->conf.drift_seconds * 1000);
    look(d);
}

static void on_soon(struct mt_source *s, void *arg)
{
    (void)s;
    look(arg);
}

static void on_watch(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_netdrift *d = arg;
    (void)s;
    (void)revents;
    if (mt_nfset_watch_read(fd, "moat", "n_") && !mt_loop_timer_armed(d->soon))
        mt_loop_timer_after(d->soon, SETTLE_MS);
}

struct mt_netdrift *mt_netdrift_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_netdrift *d = calloc(1, sizeof *d);
    struct mt_err why = {0};
    if (!d) {
        (void)MT_FAIL(err, MT_E_NOMEM, "firewall watch: out of memory");
        return NULL;
    }
    d->a = a;
    d->fd = -1;
    d->timer = mt_loop_timer(a->loop, "netdrift", on_timer, d, err);
    d->soon = mt_loop_timer(a->loop, "netdrift.soon", on_soon, d, err);
    if (!d->timer || !d->soon) {
        mt_netdrift_free(d);
        return NULL;
    }
    if (mt_nfset_watch(&d->fd, &why) < 0 || !(d->watch = mt_loop_fd(a->loop, "netdrift.watch", d->fd, EPOLLIN, on_watch, d, &why)))
        mt_log(MT_WARN, "firewall.not_watched", KV_ERR(&why));
    mt_loop_timer_after(d->timer, (int64_t)a->conf.drift_seconds * 1000);
    return d;
}

void mt_netdrift_free(struct mt_netdrift *d)
{
    if (!d)
        return;
    mt_loop_del(d->timer);
    mt_loop_del(d->soon);
    mt_loop_del(d->watch);
    mt_closep(&d->fd);
    free(d);
}
