/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/decide.h"

enum { ALERT_DECODE_ERROR = 50, ALERT_PROTOCOL_VERSION = 70, ALERT_UNRECOGNIZED_NAME = 112 };

static struct mt_edge_verdict refused(enum mt_edge_result why, uint8_t alert)
{
    return (struct mt_edge_verdict){.why = why, .alert = alert};
}

/* @version 0: it speaks no TLS at all. */
static struct mt_edge_verdict routed(struct mt_edge_route *r, enum mt_edge_result otherwise, uint16_t version)
{
    if (!r)
        return refused(otherwise, ALERT_UNRECOGNIZED_NAME);
    if (r->disabled)
        return refused(MT_EDGE_R_SUSPENDED, ALERT_UNRECOGNIZED_NAME);
    if (version < r->min_tls)
        return refused(MT_EDGE_R_TLS_VERSION, version == 0 ? 0 : ALERT_PROTOCOL_VERSION);
    return (struct mt_edge_verdict){.route = r};
}

struct mt_edge_verdict mt_edge_decide(const struct mt_edge_table *t, mt_edge_key key, const struct mt_hello *h, enum mt_hello_result r)
{
    const struct mt_edge_listener_spec *l = t ? mt_edge_table_listener(t, key) : NULL;
    struct mt_edge_route *fallback;
    switch (r) {
    case MT_HELLO_NAME:
        return routed(t ? mt_edge_table_find(t, key, h->name, h->name_len) : NULL, MT_EDGE_R_NO_ROUTE, h->best_version);
    case MT_HELLO_NO_NAME:
    case MT_HELLO_BAD_NAME: /* only dedicated listeners have a route for it */
        return routed(l ? mt_edge_table_only(t, l) : NULL, MT_EDGE_R_NO_SNI, h->best_version);
    case MT_HELLO_NOT_TLS:
        fallback = l ? mt_edge_table_only(t, l) : NULL;
        return fallback && fallback->allow_non_tls ? routed(fallback, MT_EDGE_R_NOT_TLS, 0) : refused(MT_EDGE_R_NOT_TLS, 0);
    case MT_HELLO_TOO_BIG:
        return refused(MT_EDGE_R_TOO_BIG, ALERT_DECODE_ERROR);
    case MT_HELLO_MALFORMED:
    case MT_HELLO_MORE:
    case MT_HELLO_RESULT_MAX:
        break;
    }
    return refused(MT_EDGE_R_MALFORMED, ALERT_DECODE_ERROR);
}
