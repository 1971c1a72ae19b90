/* SPDX-License-Identifier: Apache-2.0 */
#include "model/plan.h"

#include "wire/json.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ULID "01aryz6s4104hmasw9nf6yy09"
#define HEX "7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"

#define WORKLOAD                                                                                                               \
    "{'spec_version':'v1','org_id':'org_" ULID "0','app_id':'app_" ULID "0','env_id':'env_" ULID "0','process_type':'web',"     \
    "'instance_id':'inst_" ULID "1','generation':1,'release_id':'rel_" ULID "0','manifest_hash':'sha256:" HEX "',"              \
    "'spec_hash':'" HEX "','image':{'repository':'r.example.net/a/b','resolved_digest':'sha256:" HEX "','os':'linux',"          \
    "'arch':'amd64'},'command':['/x'],'env_vars':{'B':'2','A':'1'},'prestart':[{'argv':['/p']}],"                               \
    "'resources':{'cpu_millis':500,'memory_bytes':67108864},'network':{'overlay_ipv6':'fd00::5','ports':[{'name':'tls',"        \
    "'port':443,'protocol':'tcp'}]},'health':{'type':'http','port':443,'path':'/'},'mounts':[],'lifecycle':{},'later':[1]}"

#define PLAN(instances)                                                                                                       \
    "{'spec_version':'v1','cluster_id':'c1','node_id':'node_" ULID "0','epoch':1,'cursor_event_id':42,'plan_id':'" ULID "0',"   \
    "'network':{'mtu':1420,'cluster_prefix':'fd00:1:2::/48','overlay_ipv6':'fd00:1:2::1','instance_prefix':'fd00:1:2:1:1::/80'," \
    "'dns':['fd00:1:2:2::53'],'edges':['fd00:1:2::1'],'quarantine':['fd00:1:2:1:1::9'],'ipv4':[{'address':'203.0.113.9','ports':[443,5432],'until_unix_ms':5,'moved':true}],'private':[{'env_id':'env_01aryz6s4104hmasw9nf6yy093','address':'fd00:1:2:1:1::7','ports':[8080]}],'egress_mode':'none','edge_ports':[443,10000],'peers':[]},'instances':[" instances "]}"

#define ASSIGNMENT                                                                                                            \
    "{'assignment_id':'a1','instance_id':'inst_" ULID "1','generation':1,'desired_state':'running','workload':" WORKLOAD "}"

/* JSON with single quotes, for readable tables. */
static char *quoted(const char *s)
{
    char *t = mt_strndup(s, strlen(s));

    assert_non_null(t);
    for (char *p = t; *p; p++)
        if (*p == '\'')
            *p = '"';
    return t;
}

static json_t *json_of(const char *s)
{
    char *t = quoted(s);
    json_error_t je;
    json_t *j = json_loads(t, 0, &je);

    if (!j)
        print_error("%s\n%s\n", je.text, t);
    assert_non_null(j);
    free(t);
    return j;
}

/* Copy of @text with the first @from replaced. */
static char *edited(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out;

    if (!at)
        print_error("no '%s' to edit\n", from);
    assert_non_null(at);
    out = mt_asprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_non_null(out);
    return out;
}

static void a_plan_survives_a_round_trip(void **state)
{
    (void)state;
    char *text = quoted(PLAN(ASSIGNMENT ",{'assignment_id':'a2','instance_id':'inst_" ULID "2','generation':3,"
                                        "'desired_state':'stopped','drain_delay_seconds':0,'trace_id':'7b1ff012345678901234567890123456'}"));
    struct mt_plan *p = NULL, *q = NULL;
    json_t *first = NULL, *second = NULL;
    struct mt_err err;
    assert_int_equal(mt_plan_parse(text, strlen(text), &p, &err), 0);
    assert_int_equal(p->cursor_event_id, 42);
    assert_int_equal(p->n_instances, 2);
    const struct mt_workload *w = p->instances[0].workload;
    assert_non_null(w);
    assert_string_equal(w->env_vars[0].key, "A"); /* sorted */
    assert_int_equal(w->resources.disk_bytes, INT64_C(4) << 30);
    assert_int_equal(w->resources.vcpu_count, 1);
    assert_int_equal(w->resources.cpu_weight, 50);
    assert_int_equal(w->prestart[0].timeout_seconds, 30);
    assert_int_equal(w->lifecycle.stop_grace_seconds, 10);
    assert_int_equal(w->lifecycle.restart_policy, MT_RESTART_ALWAYS);
    assert_int_equal(p->instances[0].drain_delay_seconds, 5);
    assert_null(p->instances[1].workload);
    assert_int_equal(p->instances[1].drain_delay_seconds, 0);
    assert_null(p->instances[0].trace_id);
    assert_string_equal(p->instances[1].trace_id, "7b1ff012345678901234567890123456");
    assert_int_equal(mt_plan_encode(p, &first, &err), 0);
    assert_int_equal(mt_plan_decode(first, &q, &err), 0);
    assert_int_equal(mt_plan_encode(q, &second, &err), 0);
    assert_true(json_equal(first, second));
    mt_plan_free(p);
    mt_plan_free(q);
    json_decref(first);
    json_decref(second);
    free(text);
}

static void a_bad_workload_does_not_stop_the_others(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *field;
    } rows[] = {
        {"'cpu_millis':500", "'cpu_millis':49", "resources.cpu_millis"},
        {"'cpu_millis':500", "'cpu_millis':32001", "resources.cpu_millis"},
        {"'cpu_millis':500", "'cpu_millis':0.5", "resources.cpu_millis"},
        {"'memory_bytes':67108864", "'memory_bytes':67108865", "resources.memory_bytes"},
        {"'memory_bytes':67108864", "'memory_bytes':1048576", "resources.memory_bytes"},
        {"'lifecycle':{}", "'lifecycle':{'restart_policy':'maybe'}", "lifecycle.restart_policy"},
        {"'lifecycle':{}", "'lifecycle':{'stop_signal':'KILL'}", "lifecycle.stop_signal"},
        {"'lifecycle':{}", "'lifecycle':{'stop_grace_seconds':0}", "lifecycle.stop_grace_seconds"},
        {"'overlay_ipv6':'fd00::5'", "'overlay_ipv6':'fd00::5/64'", "network.overlay_ipv6"},
        {"'port':443,'protocol':'tcp'", "'port':443,'protocol':'udp'", "network.ports.protocol"},
        {"'port':443,'protocol'", "'port':0,'protocol'", "network.ports.port"},
        {"'path':'/'", "'path':'/a b'", "health.path"},
        {"'path':'/'", "'path':'/a\\r\\nHost: x'", "health.path"},
        {"'type':'http'", "'type':'exec'", "health.type"},
        {"'mounts':[]", "'mounts':[{'volume_id':'vol_" ULID "0','name':'d','path':'/etc'}]", "mounts.path"},
        {"'mounts':[]", "'mounts':[{'volume_id':'../x','name':'d','path':'/d'}]", "mounts.volume_id"},
        {"'command':['/x']", "'command':[1]", "command"},
        {"'command':['/x']", "'command':['/x'],'workdir':'rel'", "workdir"},
        {"'env_vars':{'B':'2'", "'env_vars':{'B=C':'2'", "env_vars"},
        {"'spec_hash':'7", "'spec_hash':'X", "spec_hash"},
        {"'repository':'r.example.net/a/b'", "'repository':'../../etc'", "image.repository"},
        {"'resolved_digest':'sha256:7", "'resolved_digest':'md5:7", "image.resolved_digest"},
        {"'later':[1]", "'required_features':['gpu']", "required_features"},
        {"'mounts':[]", "'secrets':{'mode':'0644'}", "secrets.mode"},
        {"'prestart':[{'argv':['/p']}]", "'prestart':[{'argv':[]}]", "prestart.argv"},
        {"{'spec_version':'v1','org_id'", "{'spec_version':'v2','org_id'", "spec_version"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        char *text = edited(PLAN(ASSIGNMENT ",{'assignment_id':'a2','instance_id':'inst_" ULID "2','generation':3,"
                                            "'desired_state':'stopped'}"), rows[i].from, rows[i].to);
        json_t *j = json_of(text);
        struct mt_plan *p = NULL;
        struct mt_err err = {0};
        int rc = mt_plan_decode(j, &p, &err);
        if (rc < 0 || !MT_STREQ(p->instances[0].fault.field, rows[i].field))
            print_error("row %zu wants %s: rc %d %s, fault '%s' %s\n", i, rows[i].field, rc, err.msg,
                        p ? p->instances[0].fault.field : "", p ? p->instances[0].fault.message : "");
        assert_int_equal(rc, 0);
        assert_null(p->instances[0].workload);
        assert_string_equal(p->instances[0].fault.field, rows[i].field);
        assert_true(p->instances[0].fault.message[0]);
        assert_int_equal(p->n_instances, 2);
        mt_plan_free(p);
        json_decref(j);
        free(text);
    }
}

static void a_bad_plan_is_refused_whole(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
    } rows[] = {
        {"{'spec_version':'v1','cluster_id'", "{'spec_version':'v2','cluster_id'"},
        {"'cluster_id':'c1'", "'cluster_id':''"},
        {"'node_id':'node_", "'node_id':'inst_"},
        {"'epoch':1", "'epoch':-1"},
        {"'epoch':1", "'epoch':1.0"},
        {"'cursor_event_id':42", "'cursor_event_id':'42'"},
        {"'plan_id':'01a", "'plan_id':'91a"},
        {"'mtu':1420", "'mtu':1279"},
        {"'instance_prefix':'fd00:1:2:1:1::/80'", "'instance_prefix':'fd00:1:2:1:1::/64'"},
        {"'overlay_ipv6':'fd00:1:2::1'", "'overlay_ipv6':'fd00:1:2::1/128'"},
        {"'cluster_prefix':'fd00:1:2::/48'", "'cluster_prefix':'fd00:1:2::'"},
        {"'edges':['fd00:1:2::1']", "'edges':['edge.example.net']"},
        {"'fd00:1:2:1:1::7'", "'fd00:1:2:1:1::/80'"},
        {"[8080]", "[0]"},
        {"'env_01aryz6s4104hmasw9nf6yy093'", "'org_01aryz6s4104hmasw9nf6yy093'"},
        {"'private':[{", "'private':[{'env_id':'env_01bryz6s4104hmasw9nf6yy093','address':'fd00:1:2:1:1::7','ports':[]},{"},
        {"'203.0.113.9'", "'fd00::1'"},
        {"'203.0.113.9'", "'203.0.113.999'"},
        {"[443,5432]", "[443,0]"},
        {"[443,5432]", "[65536]"},
        {"[443,5432]", "['443']"},
        {"[443,5432]", "443"},
        {"'until_unix_ms':5", "'until_unix_ms':0"},
        {"'moved':true}", "'moved':true},{'address':'203.0.113.9','ports':[]}"},
        {"'moved':true", "'moved':1"},
        {"'quarantine':['fd00:1:2:1:1::9']", "'quarantine':['fd00:1:2:1:1::/80']"},
        {"'quarantine':['fd00:1:2:1:1::9']", "'quarantine':'fd00:1:2:1:1::9'"},
        {"'egress_mode':'none'", "'egress_mode':'open'"},
        {"'edge_ports':[443,10000]", "'edge_ports':[443,65536]"},
        {"'edge_ports':[443,10000]", "'edge_ports':[0]"},
        {"'edge_ports':[443,10000]", "'edge_ports':['443']"},
        {"'edge_ports':[443,10000]", "'edge_ports':443"},
        {"'desired_state':'running'", "'desired_state':'paused'"},
        {"'assignment_id':'a1'", "'assignment_id':'../a'"},
        {"'assignment_id':'a1'", "'assignment_id':'a1','trace_id':'7B1FF012345678901234567890123456'"},
        {"'assignment_id':'a1'", "'assignment_id':'a1','trace_id':'7b1ff0123456789012345678901234567'"},
        {"'assignment_id':'a1'", "'assignment_id':'a1','trace_id':''"},
        {"'generation':1,'desired_state'", "'generation':2,'desired_state'"},
        {"'instance_id':'inst_" ULID "1','generation':1,'desired_state'", "'instance_id':'inst_" ULID "2','generation':1,'desired_state'"},
        {",'workload':{", ",'no_workload':{"},
        {"'instances':[", "'instances':[5,"},
        {"'instances':[", "'instances':[{'assignment_id':'a2','instance_id':'inst_" ULID "1','generation':3,'desired_state':'stopped'},"},
        {"'peers':[]", "'peers':[{'node_id':'node_" ULID "1','public_key':'x','allowed_ips':['::/x']}]"},
        {"'peers':[]", "'peers':[{'node_id':'node_" ULID "1','public_key':'x','rotation':{'next_public_key':'y'}}]"},
        {"'peers':[]", "'peers':[],'mesh':[]"},
        {"'peers':[]", "'peers':[],'mesh':{'revision':0,'listen_port':51820,'public_key':'x'}"},
        {"'peers':[]", "'peers':[],'mesh':{'revision':1,'listen_port':65536,'public_key':'x'}"},
        {"'peers':[]", "'peers':[],'mesh':{'revision':1,'listen_port':51820}"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        char *text = edited(PLAN(ASSIGNMENT), rows[i].from, rows[i].to);
        json_t *j = json_of(text);
        struct mt_plan *p = NULL;
        struct mt_err err = {0};
        if (mt_plan_decode(j, &p, &err) != -MT_E_INVALID)
            print_error("row %zu was accepted\n", i);
        assert_null(p);
        assert_int_equal(err.code, MT_E_INVALID);
        assert_true(err.msg[0]);
        json_decref(j);
        free(text);
    }
    struct mt_plan *p = NULL;
    struct mt_err err;
    assert_int_equal(mt_plan_parse("[]", 2, &p, &err), -MT_E_INVALID);
    assert_int_equal(mt_plan_parse("{\"epoch\":1,\"epoch\":2}", 21, &p, &err), -MT_E_INVALID);
}

static void reports_survive_a_round_trip_and_bad_ones_do_not(void **state)
{
    (void)state;
    static const char good[] = "{'agent_version':'0.1.0','resync':true,'instances':[{'instance_id':'inst_" ULID "1','boot_id':'boot_" ULID
                               "1','generation':1,'status':'failed','reason_code':'workload_exited','reason_detail':'x','exit_code':3,"
                               "'restart_count':2,'next_retry_at':'2026-11-23T03:00:00.000000Z','seq':9}]}";
    static const struct {
        const char *from, *to;
    } rows[] = {
        {"'status':'failed'", "'status':'dead'"},
        {"'reason_code':'workload_exited',", ""},
        {"'seq':9", "'seq':0"},
        {"'exit_code':3", "'exit_code':256"},
        {"'boot_id':'boot_", "'boot_id':'inst_"},
        {"'next_retry_at':'2026-11-23T", "'next_retry_at':'soon "},
        {"'instances':[", "'instances':[[],"},
    };
    struct mt_status_batch *b = NULL, *c = NULL;
    struct mt_err err;
    json_t *j = json_of(good), *back = NULL;
    assert_int_equal(mt_status_batch_decode(j, &b, &err), 0);
    assert_true(b->resync);
    assert_int_equal(b->reports[0].exit_code, 3);
    assert_true(b->reports[0].has_exit_code);
    assert_int_equal(mt_status_batch_encode(b, &back, &err), 0);
    assert_true(json_equal(j, back));
    json_decref(j);
    json_decref(back);
    mt_status_batch_free(b);
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        char *text = edited(good, rows[i].from, rows[i].to);
        j = json_of(text);
        assert_int_equal(mt_status_batch_decode(j, &c, &err), -MT_E_INVALID);
        json_decref(j);
        free(text);
    }
}

static void a_heartbeat_survives_a_round_trip(void **state)
{
    (void)state;
    static const char good[] = "{'node_id':'node_" ULID "1','agent_version':'0.1.0','vmm':{'driver':'qemu','accel':'tcg','reason':'no kvm'},"
                               "'arch':'amd64','conditions':['disk_pressure'],'protocols':['v1'],'epoch':1,'cursor_event_id':5,'plan_id':'"
                               ULID "0','allocatable':{'cpu_millis':8000,'memory_bytes':1,'disk_bytes':2},'used':{'cpu_millis':0,"
                               "'memory_bytes':0,'disk_bytes':0},'instance_counts':{'ready':2},'clock_unix_ms':1700000000000,"
                               "'host':[{'item':'swap','finding':'on','mend':'swapoff -a'}],'asks_ipv4_pool':true,"
                               "'ipv4_strays':[{'address':'203.0.113.9','at':'52:54:00:12:34:56'},{'address':'203.0.113.10','at':'here'}]}";
    struct mt_heartbeat *h = NULL, *again = NULL;
    struct mt_err err;
    json_t *j = json_of(good), *back = NULL, *twice = NULL;
    assert_int_equal(mt_heartbeat_decode(j, &h, &err), 0);
    assert_int_equal(h->counts[MT_STATUS_READY], 2);
    assert_string_equal(h->vmm_reason, "no kvm");
    assert_int_equal(h->ceiling_cpu_millis, 16000);
    assert_int_equal(mt_heartbeat_encode(h, &back, &err), 0);
    assert_int_equal(mt_heartbeat_decode(back, &again, &err), 0);
    assert_int_equal(mt_heartbeat_encode(again, &twice, &err), 0);
    assert_true(json_equal(back, twice));
    assert_true(json_equal(json_object_get(twice, "host"), json_object_get(j, "host")) && json_array_size(h->host) == 1);
    assert_true(json_equal(json_object_get(twice, "ipv4_strays"), json_object_get(j, "ipv4_strays")) && json_array_size(h->ipv4_strays) == 2 && h->asks_ipv4_pool);
    mt_heartbeat_free(h);
    mt_heartbeat_free(again);
    json_decref(j);
    json_decref(back);
    json_decref(twice);
    static const struct {
        const char *from, *to;
    } rows[] = {{"'arch':'amd64'", "'arch':'mips'"}, {"'host':[{", "'host':[1,{"}, {"'item':'swap',", ""}, {"'finding':'on'", "'finding':7"},
                {"'203.0.113.9'", "'203.0.113.999'"}, {"'here'", "'there'"}, {"52:54:00:12:34:56", "52:54:00:12:34:5g"}, {"'ipv4_strays':[", "'ipv4_strays':[7,"}, {"'at':'here'", "'at':1"},
                {"'item':'swap'", "'item':'a name of more than two and thirty bytes'"}};
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        char *text = edited(good, rows[i].from, rows[i].to);
        j = json_of(text);
        assert_int_equal(mt_heartbeat_decode(j, &h, &err), -MT_E_INVALID);
        json_decref(j);
        free(text);
    }
}

static void cpu_figures_follow_the_vectors(void **state)
{
    (void)state;
    static const struct {
        uint32_t millis, weight, vcpus;
    } rows[] = {{50, 5, 1}, {250, 25, 1}, {500, 50, 1}, {1000, 100, 1}, {1001, 100, 2}, {1500, 150, 2}, {2000, 200, 2}, {4000, 400, 4},
                {32000, 3200, 32}};
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        assert_int_equal(mt_cpu_weight(rows[i].millis), rows[i].weight);
        assert_int_equal(mt_vcpu_count(rows[i].millis), rows[i].vcpus);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_survives_a_round_trip),
        cmocka_unit_test(a_bad_workload_does_not_stop_the_others),
        cmocka_unit_test(a_bad_plan_is_refused_whole),
        cmocka_unit_test(reports_survive_a_round_trip_and_bad_ones_do_not),
        cmocka_unit_test(a_heartbeat_survives_a_round_trip),
        cmocka_unit_test(cpu_figures_follow_the_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
