/* SPDX-License-Identifier: Apache-2.0 */
/* See volumes.h. */
#include "agent/volumes.h"

#include "agent/agent.h"
#include "agent/backups.h"
#include "agent/instance/state.h"
#include "agent/report.h"
#include "agent/restores.h"
#include "agent/volume/steps.h"
#include "agent/volume/want.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "model/names.h"
#include "os/file.h"
#include "wire/json.h"

#include <stdlib.h>
#include <sys/stat.h>

#define LOOK_MS 30000
#define SEQ_RESERVE 1000
#define META_FULL 80 /* storage-and-secrets.md 3.4: acted upon like data at 90 % */
#define POOL_FULL 90

/* What is told of a volume: of its state, and beside it of its growth. */
struct item {
    bool any, due;
    uint64_t seq;
    enum mt_volume_event event;
    bool failed;
    enum mt_volume_fault fault;
    uint64_t bytes;
    char fs_uuid[MT_VOLUME_UUID_SIZE]; /* "" not told */
};

struct volume {
    char id[MT_ID_SIZE];
    bool in_plan, looked;
    unsigned failures;
    uint64_t bytes;
    struct mt_volume_seen seen;
    struct item state, growth, check;
    uint32_t check_number; /* of what is told of a check */
    enum mt_volume_verdict verdict;
    char check_detail[MT_CHECK_DETAIL_MAX + 1];
};

struct found {
    char id[MT_ID_SIZE];
    uint64_t bytes;
};

struct mt_volumes {
    struct mt_agent *a;
    bool open, wanted; /* wanted: the configuration asks for storage by name */
    char why[256];     /* not open, or the last look at the folder failed; "" well */
    struct mt_backend backend;
    struct mt_fstool tools;
    struct mt_pool_stat pool;
    struct mt_map all; /* id -> struct volume */
    struct mt_source *timer;
    bool looking, again;
    unsigned changes; /* steps that ended: a look that began before one of them is not believed */
    struct found *there;
    size_t there_n;
    uint64_t seq, seq_reserved;
};

/* ---- numbers ----------------------------------------------------------------------------- */

static int seq_path(const struct mt_volumes *v, char ret[PATH_MAX])
{
    return mt_fmt(ret, PATH_MAX, NULL, "%s/volumes.json", v->a->conf.agent_dir);
}

static void load_seq(struct mt_volumes *v)
{
    char path[PATH_MAX];
    mt_auto_json json_t *doc = NULL;
    struct mt_err err = {0};
    uint64_t kept = 0;
    if (seq_path(v, path) == 0 && mt_sealed_load(path, 65536, &doc, &err) == 0 && json_is_integer(json_object_get(doc, "seq_reserved")))
        kept = (uint64_t)json_integer_value(json_object_get(doc, "seq_reserved"));
    v->seq = v->seq_reserved = mt_max_u64(kept, (uint64_t)mt_clock_wall_us() / 1000); /* above those of a file that is lost */
}

uint64_t mt_volumes_seq(struct mt_volumes *v)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    if (++v->seq >= v->seq_reserved) {
        v->seq_reserved = v->seq + SEQ_RESERVE;
        mt_auto_json json_t *doc = json_pack("{s:I}", "seq_reserved", (json_int_t)v->seq_reserved);
        if (!doc || seq_path(v, path) < 0 || mt_sealed_save(path, doc, &err) < 0)
            mt_log(MT_ERROR, "volumes.seq_not_saved", KV_ERR(&err));
    }
    return v->seq;
}

/* ---- opening ----------------------------------------------------------------------------- */

/* A volume enters the jail of a VM as a hard link. */
static int one_filesystem(const struct mt_agent_conf *c, struct mt_err *err)
{
    struct stat jail, here;
    if (stat(c->jail_dir, &jail) < 0 || stat(c->storage_dir, &here) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look at '%s'", c->storage_dir);
    if (jail.st_dev != here.st_dev)
        return MT_FAIL(err, MT_E_INVALID, "storage.dir '%s' and jail_dir '%s' are on different filesystems", c->storage_dir, c->jail_dir);
    return 0;
}

static int open_storage(struct mt_volumes *v, struct mt_err *err)
{
    const struct mt_agent_conf *c = &v->a->conf;
    v->tools = (struct mt_fstool){.mkfs = c->mkfs_path, .e2fsck = c->e2fsck_path, .resize2fs = c->resize2fs_path};
    int rc = mt_agent_uid(c->fsck_user, &v->tools.uid, &v->tools.gid, err);
    bool lvm = MT_STREQ(c->storage_backend, "lvm-thin");
    struct mt_lvm pool = {0};
    if (rc == 0 && lvm && (rc = mt_fmt(pool.vg, sizeof pool.vg, err, "%s", c->volume_group)) == 0)
        rc = mt_fmt(pool.pool, sizeof pool.pool, err, "%s", c->thin_pool);
    if (rc == 0)
        rc = lvm ? mt_backend_open_lvm(c->storage_dir, &pool, &v->backend, err)
                 : mt_backend_open(c->storage_dir, c->storage_backend, c->allow_copy_snapshots, &v->backend, err);
    if (rc < 0)
        return rc;
    if ((!lvm && (rc = one_filesystem(c, err)) < 0) || (rc = mt_backend_stat(&v->backend, &v->pool, err)) < 0 || (rc = mt_fstool_init(&v->tools, err)) < 0)
        mt_backend_done(&v->backend);
    else
        mt_volume_sweep_locks(&v->backend);
    return rc;
}

static void on_timer(struct mt_source *s, void *arg);

struct mt_volumes *mt_volumes_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_err why = {0};
    uint64_t seed;
    struct mt_volumes *v = calloc(1, sizeof *v);
    if (!v) {
        (void)MT_FAIL(err, MT_E_NOMEM, "volumes: out of memory");
        return NULL;
    }
    v->a = a;
    v->backend.dir_fd = -1;
    mt_random(&seed, sizeof seed);
    mt_map_init(&v->all, seed);
    load_seq(v);
    v->timer = mt_loop_timer(a->loop, "volumes", on_timer, v, err);
    if (!v->timer) {
        free(v);
        return NULL;
    }
    if (MT_STREQ(a->conf.storage_backend, "none"))
        return v;
    v->wanted = !MT_STREQ(a->conf.storage_backend, "auto");
    if (open_storage(v, &why) == 0) {
        v->open = true;
        mt_log(MT_INFO, "storage.opened", KV("backend", mt_backend_name(v->backend.kind)), KV("dir", v->backend.dir));
        mt_loop_timer_after(v->timer, 0);
    } else {
        (void)snprintf(v->why, sizeof v->why, "%s", why.msg);
        mt_log(MT_WARN, "storage.not_opened", KV_ERR(&why));
    }
    return v;
}

void mt_volumes_free(struct mt_volumes *v)
{
    size_t pos = 0;
    void *value;
    if (!v)
        return;
    mt_loop_del(v->timer);
    while (mt_map_next(&v->all, &pos, NULL, &value))
        free(value);
    mt_map_done(&v->all);
    free(v->there);
    mt_fstool_done(&v->tools);
    mt_backend_done(&v->backend);
    free(v);
}

/* ---- telling ----------------------------------------------------------------------------- */

static void tell(struct mt_volumes *v, struct volume *o, struct item *item, struct item what)
{
    *item = what;
    item->any = item->due = true;
    item->seq = mt_volumes_seq(v);
    if (item == &o->state) {
        o->seen.told = true;
        o->seen.last = what.event;
        o->seen.failed = what.failed || what.event == MT_VOLUME_FAULT;
    }
    mt_report_volumes(v->a->report);
}

static void tell_state(struct mt_volumes *v, struct volume *o, enum mt_volume_event event, enum mt_volume_fault fault, uint64_t bytes, const char *fs_uuid)
{
    bool failed = event == MT_VOLUME_PROVISIONED && fault != MT_VOLUME_FAULT_NONE;
    if (fault != MT_VOLUME_FAULT_NONE && o->state.any && o->state.event == event && o->state.fault == fault)
        return; /* said already; what changes is told */
    struct item what = {.event = event, .failed = failed, .fault = fault, .bytes = bytes};
    (void)snprintf(what.fs_uuid, sizeof what.fs_uuid, "%s", fs_uuid ? fs_uuid : "");
    tell(v, o, &o->state, what);
}

static void fill(const struct volume *o, const struct item *i, struct mt_volume_report *r)
{
    *r = (struct mt_volume_report){.volume_id = o->id, .seq = i->seq, .event = i->event, .failed = i->failed, .fault = i->fault,
                                   .size_bytes = i->bytes, .fs_uuid = i->fs_uuid[0] ? i->fs_uuid : NULL};
    if (i->event == MT_VOLUME_CHECKED) {
        r->check = o->check_number;
        r->verdict = o->verdict;
        r->check_detail = o->check_detail[0] ? o->check_detail : NULL;
    }
}

size_t mt_volumes_reports(struct mt_volumes *v, struct mt_volume_report *ret, size_t max)
{
    size_t pos = 0, n = 0;
    void *value;
    while (n < max && mt_map_next(&v->all, &pos, NULL, &value)) {
        const struct volume *o = value;
        if (o->state.due)
            fill(o, &o->state, &ret[n++]);
        else if (o->growth.due)
            fill(o, &o->growth, &ret[n++]);
        else if (o->check.due)
            fill(o, &o->check, &ret[n++]);
    }
    return n;
}

bool mt_volumes_due(const struct mt_volumes *v)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&v->all, &pos, NULL, &value)) {
        const struct volume *o = value;
        if (o->state.due || o->growth.due || o->check.due)
            return true;
    }
    return false;
}

void mt_volumes_told(struct mt_volumes *v, const char *volume_id, uint64_t seq)
{
    struct volume *o = mt_map_get(&v->all, volume_id);
    if (o && o->state.seq == seq)
        o->state.due = false;
    if (o && o->growth.seq == seq)
        o->growth.due = false;
    if (o && o->check.seq == seq)
        o->check.due = false;
}

void mt_volumes_resync(struct mt_volumes *v)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&v->all, &pos, NULL, &value)) {
        struct volume *o = value;
        o->state.due = o->state.any;
        o->growth.due = o->growth.any;
        o->check.due = o->check.any;
    }
}

void mt_volumes_grown(struct mt_volumes *v, const struct mt_attachment *at)
{
    struct volume *o = mt_map_get(&v->all, at->volume_id);
    if (!o || (!at->grown_to && !at->grow_failed))
        return;
    tell(v, o, &o->growth, (struct item){.event = MT_VOLUME_RESIZED, .failed = at->grow_failed, .bytes = at->grown_to,
                                         .fault = at->grow_failed ? MT_VOLUME_FAULT_RESIZE_FAILED : MT_VOLUME_FAULT_NONE});
}

/* ---- steps ------------------------------------------------------------------------------- */

struct step {
    struct mt_volumes *v;
    enum mt_volume_act act;
    char id[MT_ID_SIZE], name[MT_NAME_SIZE], uuid[MT_VOLUME_UUID_SIZE];
    struct mt_plan_volume plan; /* strings point into this */
    bool found;
    uint64_t bytes;
    int rc;
    enum mt_volume_fault fault;
    enum mt_volume_verdict verdict;
    char detail[MT_CHECK_DETAIL_MAX + 1];
    struct mt_err err;
};

static void step_work(void *arg)
{
    struct step *s = arg;
    const struct mt_volumes *v = s->v;
    if (s->act == MT_VOLUME_ACT_REMOVE && (s->rc = mt_backups_forget(v->a->backups, s->id, &s->err)) < 0)
        s->fault = MT_VOLUME_FAULT_REMOVE_FAILED;
    else if (s->act == MT_VOLUME_ACT_CHECK)
        s->rc = mt_volume_check(&v->backend, &v->tools, s->id, s->plan.fs_uuid, s->plan.check_repair, &s->verdict, s->detail, &s->err);
    else if (s->act == MT_VOLUME_ACT_REMOVE)
        s->rc = mt_volume_remove(&v->backend, s->id, &s->fault, &s->err);
    else
        s->rc = mt_volume_provision(&v->backend, &v->tools, &s->plan, &s->bytes, &s->fault, &s->err);
}

static void check_done(void *arg)
{
    struct step *s = arg;
    struct mt_volumes *v = s->v;
    struct volume *o = mt_map_get(&v->all, s->id);
    MT_ASSERT(o);
    o->seen.busy = false;
    o->seen.checked = o->check_number = s->plan.check;
    v->changes++;
    if (s->rc < 0) {
        s->verdict = s->rc == -MT_E_CONFLICT ? MT_VOLUME_CHECK_IN_USE : MT_VOLUME_CHECK_FAILED;
        /* in the words of who asked: no paths of this host */
        (void)snprintf(s->detail, sizeof s->detail, "%s", s->rc == -MT_E_CONFLICT ? "a VM or another step has it" : s->rc == -MT_E_NOT_FOUND ? "it is not on its node" : s->rc == -MT_E_TIMEOUT ? "it took too long" : "e2fsck did not come to its end");
    }
    o->verdict = s->verdict;
    memcpy(o->check_detail, s->detail, sizeof o->check_detail);
    mt_log(s->rc < 0 ? MT_WARN : MT_INFO, "volume.checked", KV("volume_id", s->id), KV("repair", s->plan.check_repair), KV("result", mt_volume_verdict_name(s->verdict)),
           KV("detail", (const char *)s->detail), KV_ERR(&s->err));
    tell(v, o, &o->check, (struct item){.event = MT_VOLUME_CHECKED});
    free(s);
    mt_volumes_look_soon(v);
    mt_agent_look_soon(v->a);
}

static void step_done(void *arg)
{
    struct step *s = arg;
    struct mt_volumes *v = s->v;
    struct volume *o = mt_map_get(&v->all, s->id);
    bool remove = s->act == MT_VOLUME_ACT_REMOVE;

    MT_ASSERT(o); /* one that is busy is kept */
    o->seen.busy = false;
    v->changes++;
    /* A VM of ours has it, so an attach has looked at it. */
    if (!remove && s->rc == -MT_E_CONFLICT && s->fault == MT_VOLUME_FAULT_INTERNAL && s->found) {
        s->rc = 0;
        s->bytes = o->bytes;
    }
    if (s->rc == 0) {
        o->failures = 0;
        o->seen.retry_at_ns = 0;
        o->seen.found = !remove;
        o->bytes = remove ? 0 : s->bytes;
        mt_log(MT_INFO, remove ? "volume.removed" : "volume.provisioned", KV("volume_id", s->id), KV("bytes", s->bytes));
        tell_state(v, o, remove ? MT_VOLUME_REMOVED : MT_VOLUME_PROVISIONED, MT_VOLUME_FAULT_NONE, o->bytes, remove ? NULL : s->uuid);
    } else {
        o->failures++;
        o->seen.retry_at_ns = mt_loop_now(v->a->loop) + mt_volume_retry_ms(o->failures) * MT_NS_PER_MS;
        if (s->rc == -MT_E_CONFLICT) { /* a VM has it that is on its way out: nothing to tell */
            mt_log(MT_DEBUG, "volume.busy", KV("volume_id", s->id), KV_ERR(&s->err));
        } else {
            mt_log(MT_WARN, "volume.step_failed", KV("volume_id", s->id), KV("step", remove ? "remove" : "provision"),
                   KV("reason", mt_volume_fault_name(s->fault)), KV_ERR(&s->err));
            tell_state(v, o, remove ? MT_VOLUME_FAULT : MT_VOLUME_PROVISIONED, s->fault, 0, NULL);
        }
    }
    free(s);
    mt_volumes_look_soon(v);
    mt_agent_look_soon(v->a);
}

static void begin(struct mt_volumes *v, struct volume *o, const struct mt_plan_volume *p, enum mt_volume_act act)
{
    struct mt_err err = {0};
    struct step *s = calloc(1, sizeof *s);
    if (s) {
        *s = (struct step){.v = v, .act = act, .plan = *p, .found = o->seen.found};
        memcpy(s->id, o->id, sizeof s->id);
        (void)snprintf(s->name, sizeof s->name, "%s", p->name);
        (void)snprintf(s->uuid, sizeof s->uuid, "%s", p->fs_uuid ? p->fs_uuid : "");
        s->plan = (struct mt_plan_volume){.volume_id = s->id, .name = s->name, .size_bytes = p->size_bytes, .fs_uuid = p->fs_uuid ? s->uuid : NULL,
                                          .was_available = p->was_available, .from_restore = p->from_restore ? "" : NULL, .check = p->check, .check_repair = p->check_repair};
    }
    if (!s || mt_pool_submit(v->a->steps, step_work, act == MT_VOLUME_ACT_CHECK ? check_done : step_done, s, &err) < 0) {
        mt_log(MT_WARN, "volume.step_not_begun", KV("volume_id", o->id), KV_ERR(&err)); /* the next look does */
        free(s);
        return;
    }
    o->seen.busy = true;
}

/* ---- looking ----------------------------------------------------------------------------- */

static const struct mt_plan_volume *planned(const struct mt_volumes *v, const char *id)
{
    const struct mt_plan *p = v->a->plan;
    size_t lo = 0, hi = p ? p->storage.n_volumes : 0;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(p->storage.volumes[mid].volume_id, id);
        if (c == 0)
            return &p->storage.volumes[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct found *)a)->id, ((const struct found *)b)->id);
}

static const struct found *find(const struct mt_volumes *v, const char *id)
{
    struct found key = {0};
    (void)snprintf(key.id, sizeof key.id, "%s", id);
    return v->there_n ? bsearch(&key, v->there, v->there_n, sizeof key, by_id) : NULL;
}

static struct volume *entry(struct mt_volumes *v, const char *id)
{
    struct volume *o = mt_map_get(&v->all, id);
    if (o || !(o = calloc(1, sizeof *o)))
        return o;
    (void)snprintf(o->id, sizeof o->id, "%s", id);
    if (mt_map_put(&v->all, id, o) < 0) {
        free(o);
        return NULL;
    }
    return o;
}

static void decide(struct mt_volumes *v, struct volume *o, const struct mt_plan_volume *p)
{
    enum mt_volume_act act = mt_volume_act(p, &o->seen, mt_loop_now(v->a->loop));
    switch (act) {
    case MT_VOLUME_ACT_REMOVE:
        if (mt_backups_in_the_way(v->a->backups, o->id) || mt_restores_in_the_way(v->a->restores, o->id)) {
            o->seen.retry_at_ns = mt_loop_now(v->a->loop) + MT_NS_PER_S;
            break;
        }
        begin(v, o, p, act);
        break;
    case MT_VOLUME_ACT_PROVISION:
    case MT_VOLUME_ACT_CHECK:
        begin(v, o, p, act);
        break;
    case MT_VOLUME_ACT_PRESENT:
        if (p->fs_uuid)
            tell_state(v, o, MT_VOLUME_PROVISIONED, MT_VOLUME_FAULT_NONE, o->bytes, p->fs_uuid);
        break;
    case MT_VOLUME_ACT_MISSING:
        mt_log(MT_ERROR, "volume.missing", KV("volume_id", o->id), KV("dir", v->backend.dir));
        tell_state(v, o, MT_VOLUME_MISSING, MT_VOLUME_FAULT_NONE, 0, NULL);
        break;
    case MT_VOLUME_ACT_NONE:
    case MT_VOLUME_ACT_MAX:
        break;
    }
}

/* Those of the plan are entries, others are forgotten when nothing runs for them. */
static void take_plan(struct mt_volumes *v)
{
    size_t pos = 0;
    void *value;
    const struct mt_plan *p = v->a->plan;
    while (mt_map_next(&v->all, &pos, NULL, &value))
        ((struct volume *)value)->in_plan = false;
    for (size_t i = 0; p && i < p->storage.n_volumes; i++) {
        struct volume *o = entry(v, p->storage.volumes[i].volume_id);
        if (o)
            o->in_plan = true;
    }
    pos = 0;
    while (mt_map_next(&v->all, &pos, NULL, &value)) {
        struct volume *o = value;
        if (o->in_plan || o->seen.busy)
            continue;
        (void)mt_map_remove(&v->all, o->id);
        free(o);
    }
}

struct look {
    struct mt_volumes *v;
    unsigned changes;
    struct found *there;
    size_t n, room;
    struct mt_pool_stat pool;
    bool lost; /* no memory */
    int rc;
    struct mt_err err;
};

static void on_found(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    struct look *l = arg;
    (void)made_ms;
    if (snapshot || l->lost)
        return;
    if (l->n == l->room) {
        size_t room = l->room ? l->room * 2 : 64;
        struct found *more = reallocarray(l->there, room, sizeof *more);
        if (!more) {
            l->lost = true;
            return;
        }
        l->there = more;
        l->room = room;
    }
    (void)snprintf(l->there[l->n].id, sizeof l->there[l->n].id, "%s", id);
    l->there[l->n++].bytes = bytes;
}

static void look_work(void *arg)
{
    struct look *l = arg;
    l->rc = mt_backend_enumerate(&l->v->backend, on_found, l, &l->err);
    if (l->rc == 0 && l->lost)
        l->rc = MT_FAIL(&l->err, MT_E_NOMEM, "volumes: out of memory");
    if (l->rc == 0)
        l->rc = mt_backend_stat(&l->v->backend, &l->pool, &l->err);
    if (l->n)
        qsort(l->there, l->n, sizeof *l->there, by_id);
}

static void apply(struct mt_volumes *v)
{
    const struct mt_plan *p = v->a->plan;
    int64_t next = INT64_MAX;
    for (size_t i = 0; p && i < p->storage.n_volumes; i++) {
        struct volume *o = mt_map_get(&v->all, p->storage.volumes[i].volume_id);
        if (!o)
            continue;
        if (!o->seen.busy) {
            const struct found *f = find(v, o->id);
            o->seen.found = f != NULL;
            o->bytes = f ? f->bytes : 0;
        }
        o->looked = true;
        if (!v->a->stop_all)
            decide(v, o, &p->storage.volumes[i]);
        if (!o->seen.busy && o->seen.retry_at_ns > mt_loop_now(v->a->loop) && o->seen.retry_at_ns < next)
            next = o->seen.retry_at_ns;
    }
    if (next != INT64_MAX && next < mt_loop_now(v->a->loop) + LOOK_MS * MT_NS_PER_MS)
        mt_loop_timer_set(v->timer, next);
}

/* How full the pool is, in percent. Metadata that is nearly full is as bad as data that is. */
static unsigned pressure(const struct mt_pool_stat *p)
{
    unsigned data = p->total_bytes ? (unsigned)(p->used_bytes * 100 / p->total_bytes) : 0;
    unsigned meta = p->meta_bytes ? (unsigned)(p->meta_used_bytes * 100 / p->meta_bytes) : 0;
    return meta >= META_FULL && data < POOL_FULL ? POOL_FULL : data;
}

static void look_done(void *arg)
{
    struct look *l = arg;
    struct mt_volumes *v = l->v;
    v->looking = false;
    mt_loop_timer_after(v->timer, LOOK_MS);
    if (l->rc < 0) {
        (void)snprintf(v->why, sizeof v->why, "%s", l->err.msg);
        mt_log(MT_ERROR, "storage.look_failed", KV_ERR(&l->err));
        free(l->there);
    } else {
        if (l->pool.why[0] && !MT_STREQ(v->why, l->pool.why))
            mt_log(MT_ERROR, "storage.pool_full", KV("reason", (const char *)l->pool.why));
        (void)snprintf(v->why, sizeof v->why, "%s", l->pool.why);
        v->pool = l->pool;
        mt_backups_pressure(v->a->backups, pressure(&l->pool));
        free(v->there);
        v->there = l->there;
        v->there_n = l->n;
        if (l->changes == v->changes) {
            take_plan(v);
            apply(v);
        } else {
            v->again = true;
        }
    }
    free(l);
    if (v->again)
        mt_loop_timer_after(v->timer, 0);
    mt_agent_look_soon(v->a);
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_volumes *v = arg;
    struct mt_err err = {0};
    struct look *l;
    (void)s;
    if (!v->open || v->looking)
        return;
    v->again = false;
    if ((l = calloc(1, sizeof *l))) {
        l->v = v;
        l->changes = v->changes;
        if (mt_pool_submit(v->a->steps, look_work, look_done, l, &err) == 0) {
            v->looking = true;
            return;
        }
        free(l);
    }
    mt_loop_timer_after(v->timer, 1000);
}

void mt_volumes_look_soon(struct mt_volumes *v)
{
    if (!v || !v->open)
        return;
    if (v->looking)
        v->again = true;
    else
        mt_loop_timer_after(v->timer, 0);
}

/* ---- for instances ----------------------------------------------------------------------- */

void mt_volumes_released(struct mt_volumes *v, const char *volume_id)
{
    struct volume *o = mt_map_get(&v->all, volume_id);
    if (o)
        o->seen.retry_at_ns = 0; /* a removal may have waited for it */
    mt_volumes_look_soon(v);
}

bool mt_volumes_settled(const struct mt_volumes *v, const struct mt_workload *w)
{
    if (!v->open)
        return true;
    for (size_t i = 0; i < w->n_mounts; i++) {
        const struct volume *o = mt_map_get(&v->all, w->mounts[i].volume_id);
        if (planned(v, w->mounts[i].volume_id) && (!o || !o->looked || o->seen.busy))
            return false;
    }
    return true;
}

void mt_volumes_attachment(const struct mt_volumes *v, const struct mt_workload *w, size_t i, struct mt_attachment *ret)
{
    const struct mt_workload_mount *m = &w->mounts[i];
    const struct mt_plan_volume *p = planned(v, m->volume_id);
    *ret = (struct mt_attachment){.lock = -1, .read_only = m->read_only, .resize_to_bytes = p && !p->absent ? p->resize_to_bytes : 0};
    (void)snprintf(ret->volume_id, sizeof ret->volume_id, "%s", m->volume_id);
    (void)snprintf(ret->fs_uuid, sizeof ret->fs_uuid, "%s", m->fs_uuid ? m->fs_uuid : "");
}

int mt_volumes_attach(const struct mt_volumes *v, struct mt_attachment *at, const char **ret_detail, struct mt_err *err)
{
    *ret_detail = "volume_not_present_on_node";
    if (!v->open)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "this node has no storage for volumes%s%s", v->why[0] ? ": " : "", v->why);
    int rc = mt_volume_attach(&v->backend, &v->tools, at->volume_id, at->fs_uuid[0] ? at->fs_uuid : NULL, at->resize_to_bytes, at->check, at->path,
                              &at->lock, ret_detail, err);
    at->grow_failed = rc < 0 && MT_STREQ(*ret_detail, "resize_failed");
    at->grown_to = rc == 0 ? at->resize_to_bytes : 0;
    return rc;
}

int mt_volumes_retake(const struct mt_volumes *v, const char *volume_id, int *ret_lock, struct mt_err *err)
{
    if (!v->open)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "storage for volumes is not open: %s", v->why);
    return mt_volume_lock(&v->backend, volume_id, ret_lock, err);
}

/* ---- figures ----------------------------------------------------------------------------- */

void mt_volumes_figures(struct mt_volumes *v, struct mt_storage_figures *ret)
{
    *ret = (struct mt_storage_figures){.present = v->open || v->wanted, .healthy = v->open && !v->why[0], .reason = v->why[0] ? v->why : NULL,
                                       .backend = v->open ? mt_backend_name(v->backend.kind) : v->a->conf.storage_backend,
                                       .backup_store = v->open && mt_backups_ready(v->a->backups), .restores = v->a->restores && mt_backups_ready(v->a->backups),
                                       .pool_bytes = v->pool.total_bytes, .pool_used_bytes = v->pool.used_bytes,
                                       .meta_bytes = v->pool.meta_bytes, .meta_used_bytes = v->pool.meta_used_bytes};
    for (size_t i = 0; v->a->plan_fresh && i < v->there_n && ret->n_orphans < MT_STORAGE_ORPHANS_MAX; i++)
        if (!planned(v, v->there[i].id) && !mt_map_get(&v->all, v->there[i].id))
            ret->orphans[ret->n_orphans++] = v->there[i].id;
}

bool mt_volumes_pool_full(const struct mt_volumes *v)
{
    return v->open && pressure(&v->pool) >= POOL_FULL;
}

const struct mt_backend *mt_volumes_backend(const struct mt_volumes *v)
{
    return v->open ? &v->backend : NULL;
}

const struct mt_fstool *mt_volumes_tools(const struct mt_volumes *v)
{
    return &v->tools;
}

void mt_volumes_appeared(struct mt_volumes *v)
{
    v->changes++;
    mt_volumes_look_soon(v);
}

int mt_volumes_doctor(const struct mt_volumes *v, const char **ret_text, const char **ret_mend)
{
    bool lvm = MT_STREQ(v->a->conf.storage_backend, "lvm-thin");
    *ret_mend = lvm ? "volumes need lvm2, thin-provisioning-tools, the pool of storage.volume_group and storage.thin_pool, e2fsprogs and the user of fsck_user"
                    : "volumes need XFS (reflink=1) or btrfs below storage.dir, e2fsprogs and the user of fsck_user";
    if (v->open && lvm && !v->why[0] && !v->backend.encrypted) {
        *ret_text = "lvm-thin, on a disk that is not encrypted";
        *ret_mend = "put the volume group on dm-crypt (LUKS2), where volumes of strangers are on it";
        return 1;
    }
    *ret_text = v->open ? v->why[0] ? v->why : mt_backend_name(v->backend.kind) : v->why[0] ? v->why : "none";
    return v->why[0] ? 1 : 0;
}
