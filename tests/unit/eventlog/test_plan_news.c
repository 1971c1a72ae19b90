/* SPDX-License-Identifier: Apache-2.0 */
/* Which parked polls of a plan an event is news for. What it leaves out must be left out for a reason: a node that is not told is not told for up to a
 * poll's length. */
#include "control/plans/news.h"
#include "lab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct lab lab;
static struct mt_plan_news *news;
static int64_t head;

static void append(enum mt_ev ev, const char *id, const char *env, json_t *payload)
{
    struct mt_cmd *c = lab_cmd();
    bool bare = ev == MT_EV_NODE_ENROLLED || ev == MT_EV_ORG_CREATED;
    lab_event(c, ev, id, bare ? NULL : "org_1", bare ? NULL : "app_1", env, payload);
    head = lab_done(&lab, c);
}

static void node(const char *id)
{
    append(MT_EV_NODE_ENROLLED, id, NULL,
           json_pack("{s:s,s:[s],s:s,s:s,s:s,s:s,s:s,s:{s:s},s:{s:i},s:s}", "name", id, "roles", "worker", "arch", "amd64", "wireguard_public_key", id,
                     "cert_fingerprint", "f", "overlay_ipv6", id, "instance_prefix", id, "labels", "zone", "a", "capacity", "memory_bytes", 1024,
                     "enrollment_token_id", "enr_1"));
}

static void instance(const char *id, const char *env, const char *on)
{
    append(MT_EV_INSTANCE_ALLOCATED, id, env,
           json_pack("{s:s,s:s,s:s,s:s,s:{s:i,s:i,s:i},s:s,s:s,s:s,s:i}", "process_type", "web", "node_id", on, "release_id", "rel_1", "overlay_ipv6", id,
                     "resources", "cpu_millis", 500, "memory_bytes", 268435456, "disk_bytes", 1073741824, "arch", "amd64", "image_digest", "sha256:0011",
                     "spec_hash", "0123456789abcdef", "generation", 1));
}

static bool told(const char *who, int64_t made_at)
{
    struct mt_err err = {0};
    int rc = mt_plan_news_for(news, lab.pg, who, made_at, head, &err);
    if (rc < 0)
        fail_msg("%s", err.msg);
    return rc > 0;
}

static int up(void **state)
{
    (void)state;
    struct mt_err err = {0};
    if (lab_up(&lab, &err) < 0) {
        print_error("%s\n", err.msg);
        return -1;
    }
    append(MT_EV_ORG_CREATED, "org_1", NULL, json_pack("{s:s}", "name", "acme"));
    append(MT_EV_APP_CREATED, "app_1", NULL, json_pack("{s:s,s:s}", "name", "shop", "description", ""));
    append(MT_EV_ENV_CREATED, "env_1", "env_1", json_pack("{s:s}", "name", "prod"));
    append(MT_EV_ENV_CREATED, "env_2", "env_2", json_pack("{s:s}", "name", "staging"));
    append(MT_EV_ENV_UPDATED, "env_2", "env_2", json_pack("{s:b}", "private_network", 1));
    node("node_a");
    node("node_b");
    news = mt_plan_news_new();
    return news ? 0 : -1;
}

static int down(void **state)
{
    (void)state;
    mt_plan_news_free(news);
    lab_down(&lab);
    return 0;
}

static void what_was_made_before_the_first_look_is_asked_for_anew(void **state)
{
    (void)state;
    assert_true(told("node_a", head - 1));
    assert_false(told("node_a", head));
}

static void an_instance_concerns_its_node_alone(void **state)
{
    (void)state;
    int64_t at = head;
    instance("inst_1", "env_1", "node_a");
    assert_true(told("node_a", at));
    assert_false(told("node_b", at));
    assert_false(told("node_a", head)); /* its plan was made with it */
    at = head;
    append(MT_EV_INSTANCE_DESIRED_STATE_CHANGED, "inst_1", "env_1", json_pack("{s:s,s:i,s:s}", "desired_state", "draining", "grace_seconds", 10, "reason", "replaced"));
    assert_true(told("node_a", at));
    assert_false(told("node_b", at));
}

static void with_a_private_network_it_concerns_its_neighbours(void **state)
{
    (void)state;
    assert_string_equal(lab_text(&lab, "SELECT private_network::text FROM moat_views.envs_view WHERE env_id = 'env_2'"), "true");
    int64_t at = head;
    instance("inst_2", "env_2", "node_a");
    assert_true(told("node_a", at));
    assert_true(told("node_b", at));
}

static void what_no_plan_is_made_of_concerns_nobody(void **state)
{
    (void)state;
    int64_t at = head;
    append(MT_EV_INSTANCE_STATUS_CHANGED, "inst_1", "env_1",
           json_pack("{s:s,s:s,s:i,s:s}", "node_id", "node_a", "status", "starting", "restart_count", 0, "reported_at", "2026-01-01T00:00:00Z"));
    assert_false(told("node_a", at));
    assert_false(told("node_b", at));
}

static void what_is_not_known_concerns_all(void **state)
{
    (void)state;
    int64_t at = head;
    node("node_c");
    assert_true(told("node_a", at));
    assert_true(told("node_b", at));
    assert_true(told("node_nobody_heard_of", at));
    assert_false(told("node_a", head));
}

static bool edges_told(int64_t made_at)
{
    struct mt_err err = {0};
    int rc = mt_plan_news_for_edges(news, lab.pg, made_at, head, &err);
    if (rc < 0)
        fail_msg("%s", err.msg);
    return rc > 0;
}

static void status(const char *id, const char *word)
{
    append(MT_EV_INSTANCE_STATUS_CHANGED, id, "env_1",
           json_pack("{s:s,s:s,s:i,s:s}", "node_id", "node_a", "status", word, "restart_count", 0, "reported_at", "2026-01-01T00:00:00Z"));
}

static void edges_are_told_of_backends_and_routes_and_of_nothing_else(void **state)
{
    (void)state;
    int64_t at = head;
    instance("inst_e", "env_1", "node_a");
    status("inst_e", "starting");
    status("inst_e", "failed"); /* was never ready, so it is nobody's backend */
    append(MT_EV_ENV_SCHEDULING_CHANGED, "env_1", "env_1", json_pack("{s:s,s:s}", "process_type", "web", "condition", "ok"));
    append(MT_EV_APP_UPDATED, "app_1", NULL, json_pack("{s:s}", "description", "a shop"));
    assert_false(edges_told(at));
    status("inst_e", "ready");
    assert_true(edges_told(at));
    assert_false(edges_told(head));
    at = head;
    status("inst_e", "starting"); /* a report between got lost: it was ready */
    assert_true(edges_told(at));
    at = head;
    append(MT_EV_INSTANCE_DESIRED_STATE_CHANGED, "inst_e", "env_1", json_pack("{s:s,s:i,s:s}", "desired_state", "draining", "grace_seconds", 10, "reason", "replaced"));
    assert_true(edges_told(at));
    at = head;
    node("node_d");
    assert_true(edges_told(at));
    at = head;
    append(MT_EV_ORG_SUSPENDED, "org_1", NULL, json_pack("{s:s}", "reason", "unpaid"));
    append(MT_EV_ORG_RESUMED, "org_1", NULL, json_pack("{s:s}", "reason", "paid"));
    assert_true(edges_told(at));
}

static void another_history_begins_anew(void **state)
{
    (void)state;
    int64_t at = head;
    mt_plan_news_clear(news);
    assert_true(told("node_a", at - 1));
    assert_false(told("node_a", at));
    head = at - 2; /* restored to an older point */
    assert_true(told("node_a", head - 1));
    assert_false(told("node_a", head));
    head = at + 100; /* said to be longer than it is: in doubt yes */
    assert_true(told("node_a", at));
    head = at;
}

static void hundreds_of_events_are_read_at_once(void **state)
{
    (void)state;
    struct mt_cmd *c = NULL;
    int64_t at = head;
    assert_false(told("node_b", at));
    for (int k = 0; k < 20; k++) {
        c = lab_cmd();
        for (int i = 0; i < 250; i++) {
            char id[32];
            (void)snprintf(id, sizeof id, "inst_m%d", k * 250 + i);
            lab_event(c, MT_EV_INSTANCE_ALLOCATED, id, "org_1", "app_1", "env_1",
                      json_pack("{s:s,s:s,s:s,s:s,s:{s:i,s:i,s:i},s:s,s:s,s:s,s:i}", "process_type", "web", "node_id", k == 19 && i == 249 ? "node_b" : "node_a",
                                "release_id", "rel_1", "overlay_ipv6", id, "resources", "cpu_millis", 500, "memory_bytes", 268435456, "disk_bytes",
                                1073741824, "arch", "amd64", "image_digest", "sha256:0011", "spec_hash", "0123456789abcdef", "generation", 1));
        }
        head = lab_done(&lab, c);
    }
    assert_true(told("node_b", at)); /* the last of 5,000: more than one read */
    assert_false(told("node_b", head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_made_before_the_first_look_is_asked_for_anew),
        cmocka_unit_test(an_instance_concerns_its_node_alone),
        cmocka_unit_test(with_a_private_network_it_concerns_its_neighbours),
        cmocka_unit_test(what_no_plan_is_made_of_concerns_nobody),
        cmocka_unit_test(what_is_not_known_concerns_all),
        cmocka_unit_test(edges_are_told_of_backends_and_routes_and_of_nothing_else),
        cmocka_unit_test(another_history_begins_anew),
        cmocka_unit_test(hundreds_of_events_are_read_at_once),
    };
    return cmocka_run_group_tests(tests, up, down);
}
