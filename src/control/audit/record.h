/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One audit record: its fields, its line on the way to the chain, its bytes in the chain's hash (docs/formats/audit-log.md;
 * scheduling-and-operations.md §10.4, ruling R16). Never holds bodies, tokens, secrets or log lines: whoever fills one in
 * names things and gives codes. Pure.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>

#define MT_AUDIT_PLATFORM "platform" /* the chain of records without an organisation */
#define MT_AUDIT_TEXT_MAX 500        /* bytes of any text field; longer ones are cut */

/* X(member): the text fields, in the order of their names; NULL where there is nothing to say. */
#define MT_AUDIT_TEXTS(X)                                                                                          \
    X(action) X(actor_id) X(actor_type) X(app_id) X(audit_id) X(decision) X(env_id) X(error_code)                   \
    X(idempotency_key_hash) X(org_id) X(reason) X(request_id) X(resource_id) X(resource_type) X(result) X(scopes)   \
    X(source_ip) X(token_id) X(user_agent)

enum mt_audit_text {
#define X(member) MT_AUDIT_T_##member,
    MT_AUDIT_TEXTS(X)
#undef X
    MT_AUDIT_T_MAX
};

struct mt_audit_rec {
    const char *text[MT_AUDIT_T_MAX]; /* by MT_AUDIT_T_*; action, audit_id, decision, result are always there */
    int64_t ts_us;                    /* wall clock */
    int64_t event_id;                 /* first event of the change, 0: none */
};

/** Name of a text field ("actor_id"). */
const char *mt_audit_text_name(enum mt_audit_text t);
/** Chain of a record: its organisation or `platform`. */
const char *mt_audit_chain(const struct mt_audit_rec *r);
/** First hash of a chain: SHA-256("moat-audit-v1\0" || chain). */
int mt_audit_genesis(const char *chain, uint8_t ret[32], struct mt_err *err);

/**
 * The record as a JSON object of the fields that are there (without time and event id), for a line. Text is cut at
 * MT_AUDIT_TEXT_MAX bytes and made printable where it is not UTF-8 or holds control bytes.
 */
int mt_audit_put(const struct mt_audit_rec *r, struct mt_buf *b, struct mt_err *err);
/** A whole line `[event_id,events,ts_us,{...}]\n` around the object at @json. */
void mt_audit_put_line(struct mt_buf *b, int64_t event_id, int n_events, int64_t ts_us, const char *json, size_t len);
/**
 * Read a line without its \n. @ret_tree owns what the record points to; release it with json_decref.
 * -MT_E_CORRUPT when it is not such a line: a field that is not known, missing or too long, a number out of range.
 */
int mt_audit_parse_line(const char *line, size_t len, struct mt_audit_rec *ret, json_t **ret_tree, struct mt_err *err);

/** hash = SHA-256(prev || canonical JSON of chain, seq and every field). @scratch is reset. */
int mt_audit_hash(const uint8_t prev[32], const char *chain, int64_t seq, const struct mt_audit_rec *r, struct mt_buf *scratch,
                  uint8_t ret[32], struct mt_err *err);
