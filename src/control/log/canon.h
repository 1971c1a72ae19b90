/* SPDX-License-Identifier: Apache-2.0 */
/* Canonical JSON (control-plane.md §4.5, §6.2): object keys sorted bytewise, no white space, integers only, minimal escapes
 * (\" \\ \b \f \n \r \t, other bytes below 0x20 as \u00xx with lower-case digits). Keys hold no byte below 0x20, no quote
 * and no backslash, so that sorting before and after escaping is the same. And the chain hash over it. Pure. */
#pragma once

#include "base/buf.h"

#include <jansson.h>

#define MT_CANON_DEPTH 32
#define MT_CANON_INT_MAX INT64_C(9007199254740991)

/** Append the canonical form of @v. -MT_E_INVALID with the path of what cannot be written; -MT_E_LIMIT past @b's bound. */
int mt_canon_json(const json_t *v, struct mt_buf *b, struct mt_err *err);
/** The same from JSON text, without a tree; for text that PostgreSQL prints for a jsonb. -MT_E_CORRUPT when it is not that. */
int mt_canon_text(const char *text, size_t len, struct mt_buf *b, struct mt_err *err);
/** Append a string literal; @s is valid UTF-8 without NUL. */
void mt_canon_str(struct mt_buf *b, const char *s, size_t n);

/** All columns of an event but chain_hash; NULL where the column is. */
struct mt_chain_event {
    int64_t event_id, occurred_us;
    const char *org_id, *app_id, *env_id;
    const char *aggregate_type, *aggregate_id;
    int32_t aggregate_seq;
    const char *event_type;
    int32_t event_version;
    const char *actor_type, *actor_id;
    const char *request_id, *idempotency_key, *correlation_id;
    int64_t causation_id; /* 0 = NULL */
    const char *payload;  /* canonical */
    size_t payload_len;
};

/**
 * chain_hash = SHA-256(@prev || canonical JSON object of all other columns, NULL as null).
 * @scratch is reset and used for the object. -MT_E_LIMIT when it does not fit. Format: docs/formats/event-log.md.
 */
int mt_chain_hash(const uint8_t prev[32], const struct mt_chain_event *e, struct mt_buf *scratch, uint8_t ret[32],
                  struct mt_err *err);
