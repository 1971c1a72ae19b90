/* SPDX-License-Identifier: Apache-2.0 */
/* Events as JSON objects. */
#include "control/streams/event_json.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"

#include <jansson.h>
#include <stdlib.h>

static void put(struct mt_buf *b, const char *key, const char *v)
{
    if (!v)
        return;
    mt_buf_printf(b, ",\"%s\":", key);
    mt_buf_put_json_str(b, v, strlen(v));
}

/* What a backup is authenticated by is for the platform alone (control-plane.md §7.1). */
static void put_snapshot_status(struct mt_buf *b, const char *payload)
{
    static const char *const hidden[] = {"key_epoch", "image_root", "manifest_sha256"};
    json_error_t je;
    json_t *p = json_loads(payload, 0, &je);
    for (size_t i = 0; i < MT_ARRAY_LEN(hidden); i++)
        (void)json_object_del(p, hidden[i]);
    char *t = p ? json_dumps(p, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    mt_buf_puts(b, t ? t : "{}");
    free(t);
    json_decref(p);
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
    if (MT_STREQ(type, "snapshot.status_changed"))
        put_snapshot_status(b, payload);
    else
        mt_buf_puts(b, payload);
    mt_buf_putc(b, '}');
    return id;
}
