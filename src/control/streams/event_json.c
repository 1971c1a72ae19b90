/* SPDX-License-Identifier: Apache-2.0 */
/* Events as JSON objects and as sentences. A type without a sentence of its own gets "<aggregate> <id>: <verb>". */
#include "control/streams/event_json.h"

#include "base/clock.h"
#include "base/str.h"

#include <jansson.h>

static const char *text(const json_t *o, const char *k)
{
    const char *s = json_string_value(json_object_get(o, k));
    return s ? s : "";
}

static long long num(const json_t *o, const char *k)
{
    return (long long)json_integer_value(json_object_get(o, k));
}

void mt_event_summary(const char *type, const char *id, const char *payload, char *ret, size_t size)
{
    json_error_t je;
    json_t *p = json_loads(payload, 0, &je);
    const char *dot = strchr(type, '.');
    int noun = dot ? (int)(dot - type) : (int)strlen(type);
    if (MT_STREQ(type, "instance.status_changed")) {
        const char *code = text(p, "reason_code"), *detail = text(p, "status_detail"), *why = text(p, "reason_detail");
        snprintf(ret, size, "instance %s is %s%s%s%s%s%s%s", id, text(p, "status"), detail[0] ? ", " : "", detail,
                 code[0] ? ": " : "", code, why[0] ? "/" : "", why);
    } else if (MT_STREQ(type, "instance.allocated")) {
        snprintf(ret, size, "instance %s of %s is placed on %s", id, text(p, "process_type"), text(p, "node_id"));
    } else if (MT_STREQ(type, "instance.desired_state_changed")) {
        snprintf(ret, size, "instance %s shall be %s (%s)", id, text(p, "desired_state"), text(p, "reason"));
    } else if (MT_STREQ(type, "instance.released")) {
        snprintf(ret, size, "instance %s is gone", id);
    } else if (MT_STREQ(type, "deploy.created")) {
        snprintf(ret, size, "%s %s is accepted", text(p, "kind"), id);
    } else if (MT_STREQ(type, "deploy.status_changed")) {
        const char *why = text(p, "failed_reason"), *msg = text(p, "message");
        snprintf(ret, size, "deploy %s is %s%s%s%s%s", id, text(p, "status"), why[0] ? ": " : "", why, msg[0] ? " - " : "",
                 msg);
    } else if (MT_STREQ(type, "env.scheduling_changed")) {
        const char *why = text(p, "reason"), *detail = text(p, "detail");
        snprintf(ret, size, "%s is %s%s%s%s%s", text(p, "process_type"), text(p, "condition"), why[0] ? ": " : "", why,
                 detail[0] ? ", " : "", detail);
    } else if (MT_STREQ(type, "env.desired_release_set")) {
        snprintf(ret, size, "%s shall run %s", text(p, "process_type"), text(p, "release_id"));
    } else if (MT_STREQ(type, "env.scale_set")) {
        snprintf(ret, size, "scale of %s changed", id);
    } else if (MT_STREQ(type, "release.created")) {
        snprintf(ret, size, "release v%lld of %s is made", num(p, "number"), text(p, "image_ref"));
    } else if (MT_STREQ(type, "route.created")) {
        snprintf(ret, size, "route %s:%lld goes to %s port %lld", text(p, "hostname"), num(p, "listen_port"),
                 text(p, "backend_process_type"), num(p, "backend_port"));
    } else if (MT_STREQ(type, "node.health_changed")) {
        snprintf(ret, size, "node %s is %s, was %s", id, text(p, "new"), text(p, "old"));
    } else if (MT_STREQ(type, "node.admin_state_changed")) {
        snprintf(ret, size, "node %s is set to %s", id, text(p, "new"));
    } else if (json_is_string(json_object_get(p, "name")) && dot && MT_STREQ(dot, ".created")) {
        snprintf(ret, size, "%.*s '%s' is made", noun, type, text(p, "name"));
    } else {
        char verb[64];
        snprintf(verb, sizeof verb, "%s", dot ? dot + 1 : "");
        for (char *q = verb; *q; q++)
            if (*q == '_')
                *q = ' ';
        snprintf(ret, size, "%.*s %s: %s", noun, type, id, verb);
    }
    json_decref(p);
}

static void put(struct mt_buf *b, const char *key, const char *v)
{
    if (!v)
        return;
    mt_buf_printf(b, ",\"%s\":", key);
    mt_buf_put_json_str(b, v, strlen(v));
}

int64_t mt_event_json(const struct mt_pg_res *r, int i, struct mt_buf *b)
{
    char ts[MT_RFC3339_LEN], sentence[512];
    int64_t id = mt_pg_i64(r, i, 0), cause = mt_pg_i64_or(r, i, 14, 0);
    const char *type = mt_pg_text(r, i, 8), *agg = mt_pg_text(r, i, 6), *payload = mt_pg_text(r, i, 15);
    mt_buf_printf(b, "{\"event_id\":%lld,\"occurred_at\":\"%s\"", (long long)id, mt_rfc3339(mt_pg_time(r, i, 1), ts));
    put(b, "event_type", type);
    mt_buf_printf(b, ",\"event_version\":%lld", (long long)mt_pg_i64(r, i, 9));
    put(b, "org_id", mt_pg_text_or_null(r, i, 2));
    put(b, "app_id", mt_pg_text_or_null(r, i, 3));
    put(b, "env_id", mt_pg_text_or_null(r, i, 4));
    put(b, "aggregate_type", mt_pg_text(r, i, 5));
    put(b, "aggregate_id", agg);
    mt_buf_printf(b, ",\"aggregate_seq\":%lld,\"actor\":{\"type\":\"%s\",\"id\":", (long long)mt_pg_i64(r, i, 7),
                  mt_pg_text(r, i, 10));
    const char *actor = mt_pg_text(r, i, 11);
    mt_buf_put_json_str(b, actor, strlen(actor));
    mt_buf_putc(b, '}');
    put(b, "request_id", mt_pg_text(r, i, 12));
    put(b, "correlation_id", mt_pg_text_or_null(r, i, 13));
    if (cause)
        mt_buf_printf(b, ",\"causation_id\":%lld", (long long)cause);
    mt_event_summary(type, agg, payload, sentence, sizeof sentence);
    put(b, "summary", sentence);
    mt_buf_puts(b, ",\"payload\":");
    mt_buf_puts(b, payload);
    mt_buf_putc(b, '}');
    return id;
}
