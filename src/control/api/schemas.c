/* SPDX-License-Identifier: Apache-2.0 */
/* The registered payload schemas of the event log, published: the same tables that append checks against. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/call.h"
#include "control/log/types.h"

static json_t *words(const char *list)
{
    json_t *a = json_array();
    while (*list) {
        size_t n = strcspn(list, "|");
        json_array_append_new(a, json_stringn(list, n));
        list += n + (list[n] == '|');
    }
    return a;
}

/* A field as JSON Schema. */
static json_t *field_schema(const struct mt_pf *f)
{
    switch (f->kind) {
    case MT_PF_TEXT:
        return json_pack("{s:s,s:i}", "type", "string", "maxLength", 4096);
    case MT_PF_INT:
        return json_pack("{s:s}", "type", "integer");
    case MT_PF_BOOL:
        return json_pack("{s:s}", "type", "boolean");
    case MT_PF_OBJECT:
        return json_pack("{s:s}", "type", "object");
    case MT_PF_TEXTS:
        return json_pack("{s:s,s:b,s:{s:s}}", "type", "array", "uniqueItems", true, "items", "type", "string");
    case MT_PF_OBJECTS:
        return json_pack("{s:s,s:{s:s}}", "type", "array", "items", "type", "object");
    case MT_PF_ENUM:
        return json_pack("{s:s,s:o}", "type", "string", "enum", words(f->values));
    case MT_PF_ANY:
        break;
    }
    return json_object();
}

static json_t *payload_schema(enum mt_ev ev)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct mt_pf *f = mt_ev_fields(ev); f->name; f++) {
        json_object_set_new(properties, f->name, field_schema(f));
        if (f->required)
            json_array_append_new(required, json_string(f->name));
    }
    return json_pack("{s:s,s:o,s:o,s:b}", "type", "object", "properties", properties, "required", required,
                     "additionalProperties", false);
}

int mt_api_event_schemas(struct mt_api_call *c)
{
    if (mt_api_query_done(c) < 0)
        return -1;
    json_t *items = json_array();
    for (unsigned i = 0; i < MT_EV_MAX; i++) {
        const struct mt_ev_info *info = mt_ev_info((enum mt_ev)i);
        json_array_append_new(items, json_pack("{s:s,s:i,s:s,s:s,s:o}", "event_type", info->type, "event_version", info->version,
                                               "aggregate_type", info->aggregate_type, "audience", info->tenant ? "tenant" : "operator",
                                               "payload", payload_schema((enum mt_ev)i)));
    }
    return mt_api_send(c, 200, json_pack("{s:o}", "items", items));
}
