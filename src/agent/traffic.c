/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of VMs' traffic. See traffic.h. */
#include "agent/traffic.h"

#include "agent/instance/inst.h"
#include "agent/net/flows.h"
#include "agent/net/tap.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "wire/json.h"

#include <arpa/inet.h>

#define EVERY_MS 10000
#define RECORD_EVERY 6 /* readings */

struct mt_traffic {
    struct mt_agent *a;
    struct mt_source *timer;
    struct mt_fw_tally tally;
    bool busy, failed;
    unsigned turn;
    struct mt_flowring *ring; /* NULL: nothing is recorded */
    struct mt_flows *flows;
    bool begun;
    uint64_t *recorded; /* by slot: sum of what was recorded last; only who was counted since then is recorded again. Of the job that runs */
};

struct vm {
    uint32_t slot;
    struct in6_addr address;
};

struct job {
    struct mt_traffic *t;
    struct mt_fw_tally tally;
    struct vm *vms; /* to record; NULL: not in this turn */
    size_t n;
    int rc;
    struct mt_err err;
};

static void record(struct mt_traffic *t, const struct vm *vm, const struct mt_fw_tally *tally)
{
    static const struct mt_fw_vm_tally none;
    const struct mt_fw_vm_tally *v = mt_fw_tally_of(tally, &vm->address);
    struct mt_tap_counts c;
    v = v ? v : &none;
    if (vm->slot > MT_VMM_SLOT_MAX || mt_tap_counts(vm->slot, &c, NULL) < 0)
        return;
    uint64_t sum = c.from_guest.packets + c.to_guest.packets + v->opened.packets;
    for (size_t i = 0; i < MT_FW_OF_VMS; i++)
        sum += v->drops[i].packets;
    if (sum == t->recorded[vm->slot])
        return;
    t->recorded[vm->slot] = sum;
    struct mt_flow_rec r = {.ts_us = mt_clock_wall_us(), .kind = MT_FLOW_COUNTS, .src = vm->address, .sport = (uint16_t)v->opened.packets,
                            .dport = (uint16_t)(v->opened.packets >> 16), .v = {c.from_guest.bytes, c.from_guest.packets, c.to_guest.bytes, c.to_guest.packets}};
    mt_flowring_add(t->ring, &r);
    for (size_t i = 0; i < MT_FW_OF_VMS; i++) {
        bool port = i == MT_FW_BLOCKED_PORT && v->top_packets;
        struct mt_flow_rec d = {.ts_us = r.ts_us, .kind = MT_FLOW_DROPS, .proto = (uint8_t)i, .src = vm->address, .nat_port = port ? v->top_port : 0,
                                .v = {v->drops[i].packets, port ? v->top_packets : 0, port ? v->top_proto : 0}};
        if (v->drops[i].packets)
            mt_flowring_add(t->ring, &d);
    }
}

static void read_work(void *arg)
{
    struct job *j = arg;
    j->rc = mt_fw_tally(j->t->a->fw, &j->tally, &j->err);
    for (size_t i = 0; j->rc == 0 && i < j->n; i++)
        record(j->t, &j->vms[i], &j->tally);
    if (j->n)
        (void)mt_flowring_flush(j->t->ring, NULL); /* the thread of the flows tells of it */
}

/* Those with a tap, for the record of this minute. */
static void list_vms(struct job *j)
{
    struct mt_agent *a = j->t->a;
    size_t pos = 0;
    void *value;
    j->vms = calloc(a->insts.count + 1, sizeof *j->vms);
    while (j->vms && mt_map_next(&a->insts, &pos, NULL, &value)) {
        const struct mt_inst *in = value;
        struct vm *vm = &j->vms[j->n];
        vm->slot = in->st.slot;
        j->n += (in->st.undo & MT_STEP_BIT(MT_STEP_TAP)) && inet_pton(AF_INET6, in->st.address, &vm->address) == 1;
    }
}

static void read_done(void *arg)
{
    struct job *j = arg;
    struct mt_traffic *t = j->t;
    t->busy = false;
    if (j->rc == 0) {
        mt_fw_tally_done(&t->tally);
        t->tally = j->tally;
    } else if (j->rc != -MT_E_NOT_FOUND && !t->failed) { /* no table: the watch of it says so, and mends */
        mt_log(MT_WARN, "firewall.not_counted", KV_ERR(&j->err));
    }
    t->failed = j->rc < 0;
    free(j->vms);
    free(j);
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_traffic *t = arg;
    mt_loop_timer_after(s, EVERY_MS);
    if (t->busy || !t->a->fw_loaded || t->a->quitting)
        return;
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return;
    j->t = t;
    if (t->ring && t->turn++ % RECORD_EVERY == 0)
        list_vms(j);
    t->busy = mt_pool_submit(t->a->steps, read_work, read_done, j, NULL) == 0;
    if (!t->busy) {
        free(j->vms);
        free(j);
    }
}

struct mt_traffic *mt_traffic_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_traffic *t = calloc(1, sizeof *t);
    if (!t || !(t->timer = mt_loop_timer(a->loop, "traffic", on_timer, t, err))) {
        (void)MT_FAIL(err, MT_E_NOMEM, "counters of traffic: out of memory");
        free(t);
        return NULL;
    }
    t->a = a;
    mt_loop_timer_after(t->timer, EVERY_MS / 10);
    return t;
}

void mt_traffic_begin(struct mt_traffic *t)
{
    const struct mt_agent *a = t->a;
    struct mt_err err = {0};
    if (t->begun || !a->conf.flow_bytes || !a->net.has_prefix || a->net.prefix_len != 80)
        return;
    t->begun = true;
    t->recorded = calloc(MT_VMM_SLOT_MAX + 1, sizeof *t->recorded);
    t->ring = t->recorded ? mt_flowring_open(a->conf.flows_dir, a->conf.flow_bytes, (unsigned)a->conf.flow_days, &err) : NULL;
    t->flows = t->ring ? mt_flows_start(t->ring, &a->net.prefix, &err) : NULL;
    if (!t->flows) /* counters are recorded all the same */
        mt_log(MT_ERROR, "flows.not_recorded", KV_ERR(&err));
}

int mt_traffic_read_by(struct mt_traffic *t, uid_t uid, int64_t since_us, int64_t until_us, struct mt_err *err)
{
    if (!t->ring)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no flows are recorded here: there was no VM since the agent began, or logs.flow_bytes is 0");
    mt_log(MT_WARN, "flows.read", KV("uid", (uint64_t)uid), KV("since_us", (uint64_t)since_us), KV("until_us", (uint64_t)until_us));
    const struct mt_flow_rec r = {.ts_us = mt_clock_wall_us(), .kind = MT_FLOW_READ, .v = {uid, (uint64_t)since_us, (uint64_t)until_us}};
    mt_flowring_add(t->ring, &r);
    return mt_flowring_flush(t->ring, err);
}

void mt_traffic_free(struct mt_traffic *t)
{
    if (!t)
        return;
    mt_flows_stop(t->flows);
    mt_flowring_close(t->ring);
    free(t->recorded);
    mt_loop_del(t->timer);
    mt_fw_tally_done(&t->tally);
    free(t);
}

const struct mt_fw_count *mt_traffic_rules(const struct mt_traffic *t)
{
    return t->tally.rules;
}

json_t *mt_traffic_of(const struct mt_traffic *t, uint32_t slot, const char *address)
{
    static const struct mt_fw_vm_tally none;
    struct mt_tap_counts c;
    struct in6_addr a;
    if (mt_tap_counts(slot, &c, NULL) < 0)
        return NULL;
    const struct mt_fw_vm_tally *v = inet_pton(AF_INET6, address, &a) == 1 ? mt_fw_tally_of(&t->tally, &a) : NULL;
    v = v ? v : &none;
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "sent_bytes", (json_int_t)c.from_guest.bytes, "sent_packets", (json_int_t)c.from_guest.packets,
                          "received_bytes", (json_int_t)c.to_guest.bytes, "received_packets", (json_int_t)c.to_guest.packets, "queue_drops",
                          (json_int_t)c.dropped, "new_flows", (json_int_t)v->opened.packets);
    json_t *drops = json_object();
    for (size_t r = 0; drops && r < MT_FW_OF_VMS; r++)
        if (v->drops[r].packets)
            (void)mt_json_set_u64(drops, mt_fw_rule_name((enum mt_fw_rule)r), v->drops[r].packets);
    if (o)
        (void)json_object_set_new(o, "firewall_drops", drops);
    else
        json_decref(drops);
    if (o && v->top_packets) {
        char text[32];
        (void)snprintf(text, sizeof text, "%u/%s", v->top_port, v->top_proto == IPPROTO_UDP ? "udp" : "tcp");
        (void)mt_json_set_str(o, "top_rejected_port", text);
    }
    return o;
}
