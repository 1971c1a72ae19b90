/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of VMs' traffic. See traffic.h. */
#include "agent/traffic.h"

#include "agent/net/tap.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "wire/json.h"

#include <arpa/inet.h>

#define EVERY_MS 10000

struct mt_traffic {
    struct mt_agent *a;
    struct mt_source *timer;
    struct mt_fw_tally tally;
    bool busy, failed;
};

struct job {
    struct mt_traffic *t;
    struct mt_fw_tally tally;
    int rc;
    struct mt_err err;
};

static void read_work(void *arg)
{
    struct job *j = arg;
    j->rc = mt_fw_tally(j->t->a->fw, &j->tally, &j->err);
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
    t->busy = mt_pool_submit(t->a->steps, read_work, read_done, j, NULL) == 0;
    if (!t->busy)
        free(j);
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

void mt_traffic_free(struct mt_traffic *t)
{
    if (!t)
        return;
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
