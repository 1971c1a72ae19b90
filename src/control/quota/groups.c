/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas wanted, before and after a command. */
#include "control/quota/groups.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "pg/array.h"
#include "wire/json.h"

#define GROUPS_MAX 64

static const struct mt_pg_stmt wanted = {
    "quota_wanted", "SELECT process_type, release_id, desired_user FROM env_desired_view WHERE env_id = $1"};
static const struct mt_pg_stmt sizes = {
    "quota_sizes",
    "SELECT k.n, (p->'scaling'->>'min')::int8, (p->'scaling'->>'max')::int8, (p->'resources'->>'cpu_millis')::int8,"
    " (p->'resources'->>'memory_bytes')::int8 FROM unnest($1::text[], $2::text[], $3::int4[]) k(rel, type, n)"
    " JOIN releases_view r ON r.release_id = k.rel CROSS JOIN LATERAL (SELECT r.manifest->'processes'->k.type) m(p)"
    " WHERE p IS NOT NULL"};

/* One side of a group: a release, and the replicas that the user asked for. */
struct side {
    char release_id[MT_ID_SIZE]; /* "": none desired */
    int64_t user;                /* -1: the manifest's */
    int64_t replicas, cpu_millis, memory_bytes;
};

struct grp {
    char type[40];
    struct side before, after;
};

struct groups {
    struct grp g[GROUPS_MAX];
    int n;
};

static struct grp *group(struct groups *gs, const char *type)
{
    for (int i = 0; i < gs->n; i++)
        if (MT_STREQ(gs->g[i].type, type))
            return &gs->g[i];
    if (gs->n == GROUPS_MAX || strlen(type) >= sizeof gs->g[0].type)
        return NULL;
    struct grp *g = &gs->g[gs->n++];
    *g = (struct grp){.before = {.user = -1}, .after = {.user = -1}};
    snprintf(g->type, sizeof g->type, "%s", type);
    return g;
}

static int too_many(struct mt_api_call *c)
{
    return mt_api_fail(c, 400, "invalid_argument", "an environment has at most %d process types", GROUPS_MAX);
}

static int load(struct mt_api_call *c, struct groups *gs)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query(c->pg, &wanted, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct grp *g = group(gs, mt_pg_text(r, i, 0));
        const char *rel = mt_pg_text_or_null(r, i, 1);
        if (!g)
            return too_many(c);
        snprintf(g->before.release_id, sizeof g->before.release_id, "%s", rel ? rel : "");
        g->before.user = mt_pg_i64_or(r, i, 2, -1);
        g->after = g->before;
    }
    return 0;
}

static int apply(struct mt_api_call *c, struct groups *gs, const struct mt_cmd_event_view *e)
{
    json_error_t je;
    size_t i;
    json_t *s;
    if (e->ev != MT_EV_ENV_SCALE_SET && e->ev != MT_EV_ENV_DESIRED_RELEASE_SET && e->ev != MT_EV_ENV_DESIRED_RELEASE_CLEARED)
        return 0;
    mt_auto_json json_t *p = json_loads(e->payload, 0, &je);
    const char *type = json_string_value(json_object_get(p, "process_type")), *rel = json_string_value(json_object_get(p, "release_id"));
    if (e->ev != MT_EV_ENV_SCALE_SET) {
        struct grp *g = group(gs, type ? type : "");
        if (!g)
            return too_many(c);
        snprintf(g->after.release_id, sizeof g->after.release_id, "%s", rel ? rel : "");
        return 0;
    }
    json_array_foreach (json_object_get(p, "scales"), i, s) {
        const char *name = json_string_value(json_object_get(s, "process_type"));
        const json_t *d = json_object_get(s, "desired");
        struct grp *g = group(gs, name ? name : "");
        if (!g)
            return too_many(c);
        g->after.user = json_is_integer(d) ? json_integer_value(d) : -1;
    }
    return 0;
}

static void size_of(struct side *s, const struct mt_pg_res *r, int row)
{
    int64_t min = mt_pg_i64_or(r, row, 1, 1), max = mt_pg_i64_or(r, row, 2, 100);
    int64_t n = s->user < 0 ? min : s->user;
    s->replicas = n > max ? max : n;
    s->cpu_millis = mt_pg_i64_or(r, row, 3, 0);
    s->memory_bytes = mt_pg_i64_or(r, row, 4, 0);
}

static int load_sizes(struct mt_api_call *c, struct groups *gs)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_arr rel, type, at;
    struct mt_pg_params p;
    mt_pg_arr_init(&rel, MT_PG_ELEM_TEXT, 65536);
    mt_pg_arr_init(&type, MT_PG_ELEM_TEXT, 65536);
    mt_pg_arr_init(&at, MT_PG_ELEM_I32, 65536);
    for (int i = 0; i < 2 * gs->n; i++) {
        const struct side *s = i % 2 ? &gs->g[i / 2].after : &gs->g[i / 2].before;
        if (!s->release_id[0])
            continue;
        mt_pg_arr_text_add(&rel, s->release_id);
        mt_pg_arr_text_add(&type, gs->g[i / 2].type);
        mt_pg_arr_i32(&at, i);
    }
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, &rel);
    mt_pg_p_arr(&p, &type);
    mt_pg_p_arr(&p, &at);
    int rc = mt_pg_query(c->pg, &sizes, &p, &r, &c->err);
    for (int row = 0; rc == 0 && row < mt_pg_rows(r); row++) {
        int64_t i = mt_pg_i64(r, row, 0);
        size_of(i % 2 ? &gs->g[i / 2].after : &gs->g[i / 2].before, r, row);
    }
    mt_pg_arr_done(&rel);
    mt_pg_arr_done(&type);
    mt_pg_arr_done(&at);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

int mt_quota_groups(struct mt_api_call *c, struct mt_cmd *cmd, int64_t delta[MT_QUOTA_MAX])
{
    mt_auto_free struct groups *gs = calloc(1, sizeof *gs);
    struct mt_cmd_event_view e;
    if (!gs) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "quota of an environment");
        return mt_api_fail_err(c);
    }
    if (load(c, gs) < 0)
        return -1;
    for (int i = 0; mt_cmd_event_at(cmd, i, &e); i++)
        if (apply(c, gs, &e) < 0)
            return -1;
    if (load_sizes(c, gs) < 0)
        return -1;
    for (int i = 0; i < gs->n; i++) {
        const struct side *b = &gs->g[i].before, *a = &gs->g[i].after;
        delta[MT_QUOTA_INSTANCES] += a->replicas - b->replicas;
        delta[MT_QUOTA_TOTAL_CPU] += a->replicas * a->cpu_millis - b->replicas * b->cpu_millis;
        delta[MT_QUOTA_TOTAL_MEMORY] +=
            a->replicas * (a->memory_bytes + MT_QUOTA_OVERHEAD) - b->replicas * (b->memory_bytes + MT_QUOTA_OVERHEAD);
        if (!MT_STREQ(a->release_id, b->release_id) && a->memory_bytes > delta[MT_QUOTA_INSTANCE_MEMORY])
            delta[MT_QUOTA_INSTANCE_MEMORY] = a->memory_bytes;
    }
    return 0;
}
