/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/upkeep.h"

#include "agent/agent.h"
#include "agent/control.h"
#include "agent/identity/files.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "os/file.h"

#include <pthread.h>

#define HOUR_S 3600
#define RETRY_S 5
#define RETRY_MAX_S 600
#define WARN_S (14 * 24 * 3600)

struct mt_upkeep {
    struct mt_agent *a;
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t wake;
    bool quit, again; /* under mu; again: look without waiting */
    bool announced; /* the thread's: the mesh key of a machine without identity is known to the control plane */
};

/* The machine of the control plane has no token to join by: its own socket says who it is. */
static int announce(struct mt_upkeep *u, struct mt_err *err)
{
    struct mt_agent *a = u->a;
    mt_auto_free char *dir = mt_id_path(a->conf.data_dir, "");
    mt_auto_free char *path = mt_id_path(a->conf.data_dir, "wg.key");
    char public[48];
    unsigned generation;
    if (!dir || !path)
        return MT_FAIL(err, MT_E_NOMEM, "mesh key");
    int rc = mt_file_mkdirs(dir, 0700, err);
    if (rc < 0 || (rc = mt_id_wg_key(path, public, err)) < 0)
        return rc;
    struct mt_http_client *c = mt_agent_client(a, &generation);
    if (!c)
        return MT_FAIL(err, MT_E_NOMEM, "mesh key");
    json_t *endpoints = json_array();
    for (size_t i = 0; i < a->conf.mesh_endpoints.n; i++)
        (void)json_array_append_new(endpoints, json_string(a->conf.mesh_endpoints.v[i]));
    rc = mt_id_post(c, "/internal/v1/nodes/self/wg-key", json_pack("{s:s,s:o}", "public_key", public, "endpoints", endpoints), NULL, err);
    mt_http_client_free(c);
    return rc;
}

static int look_after(struct mt_upkeep *u, struct mt_err *err)
{
    struct mt_identity *id = u->a->identity;
    if (id) {
        int rc = mt_identity_renew(id, u->a->conf.edge_user, err);
        int64_t left = mt_identity_not_after(id) - mt_clock_wall_us() / 1000000;
        if (rc < 0 && left < WARN_S)
            mt_log(MT_ERROR, "identity.ends_soon", KV("seconds", left), KV("mend", "the control plane must be reachable; after the end the node renews for 14 days more, then it has to join anew"));
        return rc < 0 ? rc : 0;
    }
    if (u->announced)
        return 0;
    int rc = announce(u, err);
    u->announced = rc == 0;
    if (rc == 0)
        mt_log(MT_INFO, "mesh.announced", KV("endpoints", u->a->conf.mesh_endpoints.n));
    return rc;
}

static void *upkeep_main(void *arg)
{
    struct mt_upkeep *u = arg;
    int64_t pause_s = RETRY_S;
    for (;;) {
        struct mt_err err = {0};
        struct timespec until;
        int rc = look_after(u, &err);
        if (rc < 0)
            mt_log(MT_WARN, "identity.not_renewed", KV_ERR(&err));
        int64_t wait_s = rc == 0 ? HOUR_S : pause_s;
        pause_s = rc == 0 ? RETRY_S : pause_s * 2 > RETRY_MAX_S ? RETRY_MAX_S : pause_s * 2;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += wait_s;
        (void)pthread_mutex_lock(&u->mu);
        while (!u->quit && !u->again && pthread_cond_timedwait(&u->wake, &u->mu, &until) == 0)
            continue;
        bool quit = u->quit;
        u->again = false;
        (void)pthread_mutex_unlock(&u->mu);
        if (quit)
            return NULL;
    }
}

struct mt_upkeep *mt_upkeep_new(struct mt_agent *a, bool *ret_any, struct mt_err *err)
{
    pthread_condattr_t attr;
    pthread_attr_t small;
    *ret_any = a->identity || a->conf.mesh_endpoints.n > 0;
    if (!*ret_any)
        return NULL;
    struct mt_upkeep *u = calloc(1, sizeof *u);
    if (!u) {
        (void)MT_FAIL(err, MT_E_NOMEM, "upkeep");
        return NULL;
    }
    u->a = a;
    (void)pthread_mutex_init(&u->mu, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&u->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_attr_init(&small);
    (void)pthread_attr_setstacksize(&small, 512U << 10);
    int rc = pthread_create(&u->thread, &small, upkeep_main, u);
    (void)pthread_attr_destroy(&small);
    if (rc == 0)
        return u;
    (void)MT_FAIL(err, MT_E_IO, "upkeep: no thread");
    free(u);
    return NULL;
}

void mt_upkeep_wake(struct mt_upkeep *u)
{
    if (!u)
        return;
    (void)pthread_mutex_lock(&u->mu);
    u->again = true;
    (void)pthread_cond_broadcast(&u->wake);
    (void)pthread_mutex_unlock(&u->mu);
}

void mt_upkeep_stop(struct mt_upkeep *u)
{
    if (!u)
        return;
    (void)pthread_mutex_lock(&u->mu);
    u->quit = true;
    (void)pthread_cond_broadcast(&u->wake);
    (void)pthread_mutex_unlock(&u->mu);
    (void)pthread_detach(u->thread);
}
