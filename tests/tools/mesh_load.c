/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's firewall and mesh rooms, called as the agent calls them, for bench/mesh.
 * Works in the network namespace that it is started in.
 *
 *   mesh_load table CONF        load the table of CONF (JSON: mode, cluster_prefix, egress_mode, edges, gateways, underlay, quarantine, vms) and leave it
 *   mesh_load vms N ROUNDS      a table with N VMs; admit and remove one more ROUNDS times; one line of JSON
 *   mesh_load plan FILE ID KEYS VMS ROUNDS
 *                               decode, check and apply the plan of node ID in FILE (keys in folder KEYS) with VMS VMs, then the same again
 *                               ROUNDS times; one line of JSON
 * CPU times are of this process and its children, microseconds.
 */
#include "agent/mesh/pass.h"
#include "agent/net/firewall.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { LIST_MAX = 256, VMS_MAX = 4096 };

static int die(const struct mt_err *err)
{
    (void)fprintf(stderr, "mesh_load: %s\n", err->msg);
    return 1;
}

static int64_t cpu_us(void)
{
    int64_t sum = 0;
    const int who[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (size_t i = 0; i < 2; i++) {
        struct rusage u;
        (void)getrusage(who[i], &u);
        sum += (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
    }
    return sum;
}

static void vm_of(unsigned i, struct mt_fw_vm *ret)
{
    *ret = (struct mt_fw_vm){.ports = {8080}, .port_count = 1};
    (void)snprintf(ret->tap, sizeof ret->tap, "mt%05x", i);
    (void)snprintf(ret->address, sizeof ret->address, "fd00:1:2:1:1::%x", i + 1);
}

static const char **texts(json_t *doc, const char *key)
{
    static const char *all[8][LIST_MAX + 1];
    static unsigned used;
    const char **ret = all[used++ % 8];
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(doc, key), i, v) {
        if (i < LIST_MAX)
            ret[i] = json_string_value(v);
    }
    return ret;
}

static int table(const char *path)
{
    struct mt_err err = {0};
    char *text;
    size_t len, i;
    json_t *doc, *v;
    struct mt_fw *f = mt_fw_new("/usr/sbin/nft");
    if (!f || mt_file_read(path, 1 << 20, &text, &len, &err) < 0 || mt_json_parse(text, len, 1 << 20, 8, &doc, &err) < 0)
        return die(&err);
    struct mt_fw_conf c = {.mode = strcmp(json_string_value(json_object_get(doc, "mode")), "taps") == 0 ? MT_FW_TAPS : MT_FW_FULL,
                           .edges = texts(doc, "edges"),
                           .gateways = texts(doc, "gateways"),
                           .underlay = texts(doc, "underlay"),
                           .quarantine = texts(doc, "quarantine"),
                           .private6 = texts(doc, "private"),
                           .mesh_port = 51820,
                           .flows = 4096,
                           .new_flows = 200,
                           .new_flows_burst = 1000,
                           .uids = {0},
                           .uid_count = 1};
    (void)snprintf(c.cluster_prefix, sizeof c.cluster_prefix, "%s", json_string_value(json_object_get(doc, "cluster_prefix")));
    (void)snprintf(c.egress_mode, sizeof c.egress_mode, "%s", json_string_value(json_object_get(doc, "egress_mode")));
    if (mt_fw_load(f, &c, &err) < 0)
        return die(&err);
    json_array_foreach(json_object_get(doc, "vms"), i, v) {
        struct mt_fw_vm vm = {.port_count = 1};
        (void)snprintf(vm.tap, sizeof vm.tap, "%s", json_string_value(json_object_get(v, "tap")));
        (void)snprintf(vm.address, sizeof vm.address, "%s", json_string_value(json_object_get(v, "address")));
        vm.ports[0] = (uint16_t)json_integer_value(json_object_get(v, "port"));
        if (mt_fw_admit(f, &vm, &err) < 0)
            return die(&err);
    }
    struct mt_fw_stats s = mt_fw_stats(f);
    (void)printf("{\"tables\":%llu,\"rules\":%llu,\"elements\":%llu}\n", (unsigned long long)s.tables, (unsigned long long)s.rules,
           (unsigned long long)s.elements);
    return 0;
}

static int vms(unsigned n, unsigned rounds)
{
    struct mt_err err = {0};
    struct mt_fw *f = mt_fw_new("/usr/sbin/nft");
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48", .egress_mode = "nat66", .flows = 4096, .new_flows = 200, .new_flows_burst = 1000, .blocked_ports = {{25, 25, true, true}}, .blocked_ports_count = 1, .uid_count = 1};
    struct mt_fw_vm vm;
    if (!f)
        return 1;
    for (unsigned i = 0; i < n; i++) {
        vm_of(i, &vm);
        if (mt_fw_remember(f, &vm, &err) < 0)
            return die(&err);
    }
    int64_t t = cpu_us(), w = mt_clock_mono();
    if (mt_fw_load(f, &c, &err) < 0)
        return die(&err);
    int64_t load = cpu_us() - t, load_wall = (mt_clock_mono() - w) / 1000;
    t = cpu_us();
    if (mt_fw_load(f, &c, &err) < 0)
        return die(&err);
    int64_t again = cpu_us() - t;
    struct mt_fw_stats before = mt_fw_stats(f);
    t = cpu_us();
    w = mt_clock_mono();
    vm_of(n, &vm);
    for (unsigned i = 0; i < rounds; i++) {
        if (mt_fw_admit(f, &vm, &err) < 0 || mt_fw_remove(f, vm.tap, &err) < 0)
            return die(&err);
    }
    int64_t one = cpu_us() - t, one_wall = (mt_clock_mono() - w) / 1000;
    struct mt_fw_stats after = mt_fw_stats(f);
    (void)printf("{\"vms\":%u,\"load_cpu_us\":%lld,\"load_wall_us\":%lld,\"load_again_cpu_us\":%lld,\"change_cpu_us\":%.1f,\"change_wall_us\":%.1f,"
           "\"elements_per_change\":%.2f,\"tables\":%llu,\"rules\":%llu}\n",
           n, (long long)load, (long long)load_wall, (long long)again, (double)one / (2.0 * rounds), (double)one_wall / (2.0 * rounds),
           (double)(after.elements - before.elements) / (2.0 * rounds), (unsigned long long)(after.tables - before.tables),
           (unsigned long long)(after.rules - before.rules));
    return 0;
}

static int plan(const char *path, const char *id, const char *keys, unsigned n, unsigned rounds)
{
    struct mt_err err = {0};
    char *text;
    size_t len;
    struct mt_fw *f = mt_fw_new("/usr/sbin/nft");
    struct mt_mesh_host host = {.wg_path = "/usr/bin/wg", .wireguard_go_path = "/usr/bin/wireguard-go", .keys_dir = keys};
    if (!f || mt_file_read(path, MT_PLAN_BYTES_MAX, &text, &len, &err) < 0)
        return die(&err);
    for (unsigned i = 0; i < n; i++) {
        struct mt_fw_vm vm;
        vm_of(i, &vm);
        if (mt_fw_remember(f, &vm, &err) < 0)
            return die(&err);
    }
    int64_t first = 0, rest = 0, same = 0;
    json_t *last = NULL;
    for (unsigned r = 0; r <= rounds; r++) {
        struct mt_plan *p = NULL;
        struct mt_mesh_want *w = NULL;
        struct mt_mesh_done done = {0};
        int64_t t = cpu_us();
        if (mt_plan_parse(text, len, &p, &err) < 0)
            return die(&err);
        json_t *section = json_object_get(p->doc, "network");
        same += last && json_equal(last, section);
        int64_t decoded = cpu_us() - t;
        struct mt_fw_conf c = {.mode = MT_FW_FULL, .flows = 4096, .new_flows = 200, .new_flows_burst = 1000, .blocked_ports = {{25, 25, true, true}}, .blocked_ports_count = 1, .uid_count = 1};
        (void)snprintf(c.cluster_prefix, sizeof c.cluster_prefix, "%s", p->network.cluster_prefix);
        (void)snprintf(c.egress_mode, sizeof c.egress_mode, "%s", p->network.egress_mode);
        if (mt_mesh_check(&p->network, id, &err) < 0 || mt_mesh_want_new(&p->network, &w, &err) < 0 || mt_fw_load(f, &c, &err) < 0)
            return die(&err);
        struct mt_mesh_todo todo = {.want = w, .now_ms = mt_clock_wall_us() / 1000};
        if (mt_mesh_pass(&host, &todo, &done, &err) < 0)
            return die(&err);
        if (r == 0)
            first = cpu_us() - t;
        else
            rest += decoded;
        mt_wg_device_done(&done.seen);
        mt_mesh_want_unref(w);
        json_decref(last);
        last = json_incref(section);
        mt_plan_free(p);
    }
    (void)printf("{\"plan_bytes\":%zu,\"apply_cpu_us\":%lld,\"unchanged_decode_compare_cpu_us\":%.1f,\"same\":%lld}\n", len, (long long)first,
           rounds ? (double)rest / rounds : 0.0, (long long)same);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t a = 0, b = 0;
    if (argc == 3 && MT_STREQ(argv[1], "table"))
        return table(argv[2]);
    if (argc == 4 && MT_STREQ(argv[1], "vms") && mt_parse_u64(argv[2], 0, VMS_MAX, &a, NULL) == 0 && mt_parse_u64(argv[3], 1, 10000, &b, NULL) == 0)
        return vms((unsigned)a, (unsigned)b);
    if (argc == 7 && MT_STREQ(argv[1], "plan") && mt_parse_u64(argv[5], 0, VMS_MAX, &a, NULL) == 0 && mt_parse_u64(argv[6], 0, 10000, &b, NULL) == 0)
        return plan(argv[2], argv[3], argv[4], (unsigned)a, (unsigned)b);
    (void)fputs("usage: mesh_load table CONF | vms N ROUNDS | plan FILE ID KEYS VMS ROUNDS\n", stderr);
    return 2;
}
