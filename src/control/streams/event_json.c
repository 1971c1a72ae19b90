/* SPDX-License-Identifier: Apache-2.0 */
/* Events as JSON objects. */
#include "control/streams/event_json.h"

#include "base/clock.h"
#include "base/str.h"

#include <stdlib.h>

static void put(struct mt_buf *b, const char *key, const char *v)
{
    if (!v)
        return;
    mt_buf_printf(b, ",\"%s\":", key);
    mt_buf_put_json_str(b, v, strlen(v));
}

enum mt_see mt_event_see(const struct mt_event_eyes *eyes, const char *actor)
{
    return eyes->see == MT_SEE_TENANT && eyes->self && actor && MT_STREQ(eyes->self, actor) ? MT_SEE_AUDIT : eyes->see;
}

/* Most types hide nothing, and their text is passed on as it is. */
void mt_event_payload(struct mt_buf *b, const char *type, const char *payload, enum mt_see see)
{
    enum mt_ev ev = mt_ev_by_name(type);
    if (ev == MT_EV_MAX || see >= MT_SEE_OPERATOR || !mt_ev_hides(ev)) {
        mt_buf_puts(b, payload);
        return;
    }
    json_error_t je;
    json_t *o = json_loads(payload, 0, &je);
    for (const struct mt_pf *f = mt_ev_fields(ev); f->name; f++)
        if (f->see > see)
            (void)json_object_del(o, f->name);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    mt_buf_puts(b, text ? text : "{}"); /* out of memory: less, never more */
    free(text);
    json_decref(o);
}

int64_t mt_event_json(const struct mt_pg_res *r, int i, enum mt_see see, struct mt_buf *b)
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
    put(b, "display", mt_pg_text_or_null(r, i, 16));
    mt_buf_putc(b, '}');
    put(b, "request_id", mt_pg_text(r, i, 12));
    put(b, "correlation_id", mt_pg_text_or_null(r, i, 13));
    if (cause)
        mt_buf_printf(b, ",\"causation_id\":%lld", (long long)cause);
    mt_event_summary(type, agg, payload, sentence, sizeof sentence);
    put(b, "summary", sentence);
    mt_buf_puts(b, ",\"payload\":");
    mt_event_payload(b, type, payload, see);
    mt_buf_putc(b, '}');
    return id;
}
