/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a migration: a table of what follows what, and random histories of jobs that end well or badly, nodes that go and come, processes
 * that do not start, time that passes and a driver that is killed between any two steps. */
#include "control/volumes/migration.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define SEEDS 20000

static struct mt_migration_facts facts(enum mt_migration_phase phase, const struct mt_migration_volume *v)
{
    return (struct mt_migration_facts){.status = phase ? MT_JOB_RUNNING : MT_JOB_QUEUED, .phase = phase, .now_ms = 1000, .phase_at_ms = 0, .attached = true, .wanted = true,
                                       .target_fits = true, .volumes = v, .n_volumes = 1};
}

static void expect(const struct mt_migration_facts *f, enum mt_migration_step step, const char *reason)
{
    const char *why;
    assert_int_equal(mt_migration_next(f, &why), step);
    if (reason)
        assert_string_equal(why, reason);
    else
        assert_null(why);
}

static void words_go_there_and_back(void **state)
{
    (void)state;
    enum mt_migration_phase p;
    for (unsigned i = 1; i < MT_MIGRATION_PHASE_MAX; i++) {
        assert_true(mt_migration_phase_parse(mt_migration_phase_name((enum mt_migration_phase)i), &p));
        assert_int_equal(p, i);
        assert_int_equal(mt_migration_cancellable(p), i < MT_MIGRATION_STARTING);
    }
    assert_false(mt_migration_phase_parse("", &p));
    assert_false(mt_migration_phase_parse(NULL, &p));
    assert_false(mt_migration_phase_parse("stopped", &p));
}

static void nobody_is_stopped_before_all_is_copied_and_the_target_takes_him(void **state)
{
    (void)state;
    struct mt_migration_volume v[2] = {{.kept = true, .made = true, .first_restore = MT_JOB_SUCCEEDED}, {.kept = true, .made = true, .first_restore = MT_JOB_RUNNING}};
    struct mt_migration_facts f = facts(MT_MIGRATION_NO_PHASE, v);
    f.n_volumes = 2;
    f.held = true;
    expect(&f, MT_MIGRATION_RUN, NULL);
    f = facts(MT_MIGRATION_PRECOPY, v);
    f.n_volumes = 2;
    f.held = true;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.now_ms = INT64_C(30) * 86400 * 1000; /* it may take its time while the process runs */
    expect(&f, MT_MIGRATION_WAIT, NULL);
    v[1].first_restore = MT_JOB_SUCCEEDED;
    expect(&f, MT_MIGRATION_STOP, NULL);
    f.target_fits = false;
    expect(&f, MT_MIGRATION_FAIL, "target_node_full");
    f.wanted = false; /* scaled to 0: no place is needed */
    expect(&f, MT_MIGRATION_STOP, NULL);
}

static void one_that_replaces_copies_nothing_and_goes_back_nowhere(void **state)
{
    (void)state;
    struct mt_migration_volume v = {.kept = true, .made = true, .first_snapshot = MT_JOB_FAILED, .first_restore = MT_JOB_FAILED, .final_snapshot = MT_JOB_FAILED, .final_restore = MT_JOB_FAILED};
    struct mt_migration_facts f = facts(MT_MIGRATION_NO_PHASE, &v);
    f.replaces = f.held = true;
    expect(&f, MT_MIGRATION_STOP, NULL);
    v.made = false; /* deleted, or given to another process */
    expect(&f, MT_MIGRATION_FAIL, "volume_changed");
    v.coming = true; /* a restore fills it, for hours maybe: nobody is stopped before, and whoever falls silent meanwhile is waited for */
    f.source_gone = f.target_gone = true;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    v.kept = false;
    expect(&f, MT_MIGRATION_FAIL, "source_node_gone");
    f.source_gone = f.target_gone = false;
    expect(&f, MT_MIGRATION_FAIL, "volume_changed");
    v.kept = true;
    v.coming = false;
    v.lost = true;
    expect(&f, MT_MIGRATION_FAIL, "restore_failed");
    v.lost = false;
    v.made = true;
    f = facts(MT_MIGRATION_STOPPING, &v);
    f.replaces = f.held = true;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.now_ms = MT_MIGRATION_STOP_MS + 1;
    expect(&f, MT_MIGRATION_FAIL, "stop_timeout");
    f.held = false;
    expect(&f, MT_MIGRATION_SWAP, NULL);
    v.kept = false;
    expect(&f, MT_MIGRATION_FAIL, "volume_changed");
    f = facts(MT_MIGRATION_STARTING, &v);
    f.replaces = f.gave_up = true;
    expect(&f, MT_MIGRATION_SUCCEED, NULL);
}

static void the_last_round_begins_when_nothing_runs(void **state)
{
    (void)state;
    struct mt_migration_volume v = {.kept = true, .made = true, .first_snapshot = MT_JOB_SUCCEEDED, .first_restore = MT_JOB_SUCCEEDED};
    struct mt_migration_facts f = facts(MT_MIGRATION_STOPPING, &v);
    f.held = true;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.now_ms = MT_MIGRATION_STOP_MS + 1;
    expect(&f, MT_MIGRATION_FAIL, "stop_timeout");
    f.held = false;
    expect(&f, MT_MIGRATION_FINAL, NULL);
}

static void hands_change_when_the_last_round_is_whole(void **state)
{
    (void)state;
    struct mt_migration_volume v = {.kept = true, .made = true, .first_snapshot = MT_JOB_SUCCEEDED, .first_restore = MT_JOB_SUCCEEDED, .has_final = true, .final_snapshot = MT_JOB_RUNNING};
    struct mt_migration_facts f = facts(MT_MIGRATION_FINAL_COPY, &v);
    expect(&f, MT_MIGRATION_WAIT, NULL);
    v.checking = true;
    expect(&f, MT_MIGRATION_CHECK, NULL);
    f.phase = MT_MIGRATION_CHECKING;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    v.available = true; /* without the end of its job: not by this */
    expect(&f, MT_MIGRATION_WAIT, NULL);
    v.final_restore = MT_JOB_SUCCEEDED;
    expect(&f, MT_MIGRATION_SWAP, NULL);
    f.held = true; /* somebody mounts it against all rules */
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.now_ms = MT_MIGRATION_FINAL_MS + 1;
    expect(&f, MT_MIGRATION_FAIL, "final_copy_timeout");
}

static void what_is_in_the_way_before_that_ends_it(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        int value;
        const char *why;
    } ways[] = {{offsetof(struct mt_migration_volume, kept), false, "volume_changed"}, {offsetof(struct mt_migration_volume, made), false, "restore_failed"}};
    for (unsigned phase = MT_MIGRATION_NO_PHASE; phase < MT_MIGRATION_STARTING; phase++) {
        const struct mt_migration_volume good = {.kept = true, .made = true};
        struct mt_migration_volume v = good;
        struct mt_migration_facts f = facts((enum mt_migration_phase)phase, &v);
        f.held = true;
        for (size_t i = 0; i < MT_ARRAY_LEN(ways); i++) {
            v = good;
            ((bool *)&v)[ways[i].at] = ways[i].value;
            expect(&f, MT_MIGRATION_FAIL, ways[i].why);
        }
        v = good;
        v.first_snapshot = MT_JOB_FAILED;
        expect(&f, MT_MIGRATION_FAIL, "snapshot_failed");
        v = good;
        v.first_restore = MT_JOB_FAILED;
        expect(&f, MT_MIGRATION_FAIL, "restore_failed");
        v = good;
        f.target_gone = true;
        expect(&f, MT_MIGRATION_FAIL, "target_node_gone");
        f.source_gone = true;
        expect(&f, MT_MIGRATION_FAIL, "source_node_gone");
    }
}

static void what_is_stored_needs_no_source(void **state)
{
    (void)state;
    struct mt_migration_volume v = {.kept = true, .made = true, .first_snapshot = MT_JOB_SUCCEEDED, .first_restore = MT_JOB_SUCCEEDED, .has_final = true, .final_snapshot = MT_JOB_RUNNING};
    struct mt_migration_facts f = facts(MT_MIGRATION_FINAL_COPY, &v);
    f.source_gone = true;
    expect(&f, MT_MIGRATION_FAIL, "source_node_gone");
    v.final_snapshot = MT_JOB_SUCCEEDED;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    v.available = true;
    v.final_restore = MT_JOB_SUCCEEDED;
    expect(&f, MT_MIGRATION_SWAP, NULL);
}

static void it_goes_back_when_it_does_not_serve_and_is_known_to_be_stopped(void **state)
{
    (void)state;
    struct mt_migration_volume v = {.kept = false, .made = true}; /* hands have changed */
    struct mt_migration_facts f = facts(MT_MIGRATION_STARTING, &v);
    f.held = true;
    f.source_gone = true; /* no longer anybody's business */
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.now_ms = MT_MIGRATION_START_MS + 1;
    expect(&f, MT_MIGRATION_RETURN, NULL);
    f.start_limit_ms = 2 * MT_MIGRATION_START_MS;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.gave_up = true;
    expect(&f, MT_MIGRATION_RETURN, NULL);
    f.target_gone = true; /* it may run there */
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.ready = true;
    expect(&f, MT_MIGRATION_SUCCEED, NULL);
    f = facts(MT_MIGRATION_RETURNING, &v);
    f.held = true;
    f.now_ms = INT64_MAX / 2;
    expect(&f, MT_MIGRATION_WAIT, NULL);
    f.held = false;
    expect(&f, MT_MIGRATION_SWAP_BACK, "not_ready_on_target");
}

static void what_nobody_runs_has_moved_with_its_volumes(void **state)
{
    (void)state;
    struct mt_migration_volume v = {.made = true};
    struct mt_migration_facts f = facts(MT_MIGRATION_STARTING, &v);
    f.wanted = false;
    expect(&f, MT_MIGRATION_SUCCEED, NULL);
    f.wanted = true;
    f.attached = false;
    expect(&f, MT_MIGRATION_SUCCEED, NULL);
    f.status = MT_JOB_SUCCEEDED;
    expect(&f, MT_MIGRATION_WAIT, NULL);
}

/* ---- histories ---- */

struct world {
    unsigned seed;
    struct mt_migration_volume v;
    struct mt_migration_facts f;
    int named;          /* which volume has name and process: 0 the old one, 1 the new one */
    int runs;           /* the instance: -1 none, else on which volume */
    bool ready;
    uint64_t data[2];   /* the newest write on each */
    uint64_t acked;     /* the newest write that anybody was told of by an instance that was ready */
    uint64_t copy[2];   /* what pre-copy and last round hold */
    bool old_exists, new_exists, final_made;
    bool starts;        /* an instance on the target comes up */
};

static unsigned rnd(struct world *w, unsigned n)
{
    w->seed = w->seed * 1103515245U + 12345U;
    return (w->seed >> 16) % n;
}

static bool hold(const struct world *w)
{
    return w->f.status == MT_JOB_RUNNING && (w->f.phase == MT_MIGRATION_STOPPING || w->f.phase == MT_MIGRATION_FINAL_COPY || w->f.phase == MT_MIGRATION_CHECKING ||
                                             w->f.phase == MT_MIGRATION_RETURNING);
}

static void progress(struct world *w, enum mt_job_status *s)
{
    if (*s == MT_JOB_QUEUED)
        *s = MT_JOB_RUNNING;
    else if (*s == MT_JOB_RUNNING)
        *s = rnd(w, 40) ? MT_JOB_SUCCEEDED : MT_JOB_FAILED;
}

/* What the others do meanwhile: scheduler, agents, process, time. */
static void others(struct world *w)
{
    switch (rnd(w, 8)) {
    case 0: /* the scheduler */
        if (hold(w))
            w->runs = rnd(w, 3) ? w->runs : -1;
        else if (w->runs < 0 && w->f.wanted) {
            w->runs = w->named;
            w->ready = false;
        }
        break;
    case 1:
        if (w->runs == 0 || (w->runs == 1 && w->starts))
            w->ready = true;
        break;
    case 2:
    case 3:
        if (w->runs >= 0) {
            w->data[w->runs] = w->data[w->runs] + 1;
            if (w->ready)
                w->acked = w->data[w->runs];
        }
        break;
    case 4:
        if (w->v.first_snapshot != MT_JOB_SUCCEEDED) {
            progress(w, &w->v.first_snapshot);
            w->copy[0] = w->data[0];
        } else {
            progress(w, &w->v.first_restore);
        }
        break;
    case 5:
        if (!w->v.has_final)
            break;
        if (w->v.final_snapshot != MT_JOB_SUCCEEDED) {
            progress(w, &w->v.final_snapshot);
            w->copy[1] = w->data[0];
        } else {
            progress(w, &w->v.final_restore);
            if (w->v.final_restore == MT_JOB_SUCCEEDED && !w->v.available) {
                w->v.available = true;
                w->data[1] = w->copy[1];
            }
            w->v.made = w->v.final_restore != MT_JOB_FAILED;
        }
        break;
    case 6:
        w->f.now_ms += 1000 * (int64_t)(1 + rnd(w, 300));
        break;
    default:
        w->f.target_gone = rnd(w, 60) == 0;
        w->f.source_gone = rnd(w, 60) == 0 && w->f.phase != MT_MIGRATION_STARTING;
        w->f.gave_up = w->runs == 1 && !w->starts && rnd(w, 10) == 0;
        break;
    }
    if (w->runs < 0)
        w->ready = false;
    w->f.held = w->runs >= 0;
    w->f.ready = w->runs == 1 && w->ready;
    w->f.target_fits = rnd(w, 50) != 0;
}

static void take(struct world *w, enum mt_migration_step step)
{
    switch (step) {
    case MT_MIGRATION_RUN:
        w->f.status = MT_JOB_RUNNING;
        w->f.phase = MT_MIGRATION_PRECOPY;
        break;
    case MT_MIGRATION_STOP:
        w->f.phase = MT_MIGRATION_STOPPING;
        break;
    case MT_MIGRATION_FINAL:
        assert_int_equal(w->runs, -1);
        assert_int_equal(w->v.first_restore, MT_JOB_SUCCEEDED);
        assert_false(w->v.has_final);
        w->v.has_final = true;
        w->v.final_snapshot = w->v.final_restore = MT_JOB_QUEUED;
        w->f.phase = MT_MIGRATION_FINAL_COPY;
        break;
    case MT_MIGRATION_CHECK:
        w->f.phase = MT_MIGRATION_CHECKING;
        break;
    case MT_MIGRATION_SWAP:
        assert_int_equal(w->runs, -1);
        assert_int_equal(w->data[1], w->data[0]); /* not one write is missing */
        assert_true(w->data[1] >= w->acked);
        w->named = 1;
        w->f.phase = MT_MIGRATION_STARTING;
        break;
    case MT_MIGRATION_SUCCEED:
        assert_true(w->f.ready);
        w->old_exists = false;
        w->f.status = MT_JOB_SUCCEEDED;
        break;
    case MT_MIGRATION_FAIL:
        assert_int_equal(w->named, 0);
        w->new_exists = false;
        w->f.status = MT_JOB_FAILED;
        break;
    case MT_MIGRATION_RETURN:
        assert_false(w->f.target_gone);
        w->f.phase = MT_MIGRATION_RETURNING;
        break;
    case MT_MIGRATION_SWAP_BACK:
        assert_int_equal(w->runs, -1);
        w->named = 0;
        w->f.status = MT_JOB_FAILED;
        break;
    case MT_MIGRATION_WAIT:
    case MT_MIGRATION_STEP_MAX:
    default:
        return;
    }
    w->f.phase_at_ms = w->f.now_ms;
}

static enum mt_job_status one_history(unsigned seed)
{
    struct world w = {.seed = seed * 2654435761U + 1, .v = {.kept = true, .made = true}, .runs = 0, .ready = true, .old_exists = true, .new_exists = true};
    w.f = facts(MT_MIGRATION_NO_PHASE, &w.v);
    w.starts = rnd(&w, 4) != 0;
    for (unsigned n = 0; n < 200000; n++) {
        const char *why;
        others(&w);
        assert_false(w.runs >= 0 && w.runs != w.named); /* who runs runs on the volume that has the name */
        if (rnd(&w, 3) == 0) /* else the driver is dead, or stopped */
            take(&w, mt_migration_next(&w.f, &why));
        if (w.f.status == MT_JOB_SUCCEEDED || w.f.status == MT_JOB_FAILED)
            break;
    }
    assert_true(w.f.status == MT_JOB_SUCCEEDED || w.f.status == MT_JOB_FAILED);
    assert_true(w.named ? w.new_exists : w.old_exists);
    if (w.data[w.named] < w.acked) /* only what the new instance acknowledged before it was found not to serve, and that is kept beside */
        assert_true(w.named == 0 && w.new_exists && w.data[1] >= w.acked);
    return w.f.status;
}

static void whatever_happens_it_ends_with_one_writer_and_every_write(void **state)
{
    (void)state;
    unsigned well = 0, badly = 0;
    for (unsigned seed = 1; seed <= SEEDS; seed++)
        *(one_history(seed) == MT_JOB_SUCCEEDED ? &well : &badly) += 1;
    print_message("%u histories end with the move, %u without\n", well, badly);
    assert_true(well > SEEDS / 10 && badly > SEEDS / 10); /* both are looked at */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_go_there_and_back),
        cmocka_unit_test(nobody_is_stopped_before_all_is_copied_and_the_target_takes_him),
        cmocka_unit_test(one_that_replaces_copies_nothing_and_goes_back_nowhere),
        cmocka_unit_test(the_last_round_begins_when_nothing_runs),
        cmocka_unit_test(hands_change_when_the_last_round_is_whole),
        cmocka_unit_test(what_is_in_the_way_before_that_ends_it),
        cmocka_unit_test(what_is_stored_needs_no_source),
        cmocka_unit_test(it_goes_back_when_it_does_not_serve_and_is_known_to_be_stopped),
        cmocka_unit_test(what_nobody_runs_has_moved_with_its_volumes),
        cmocka_unit_test(whatever_happens_it_ends_with_one_writer_and_every_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
