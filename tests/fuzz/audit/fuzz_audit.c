/* SPDX-License-Identifier: Apache-2.0 */
/* Lines on their way to the audit chain: any bytes are refused or read; what was read goes out and comes back the same, and its
 * hash tells it from the same line with one byte of text changed. And any bytes as text of a record make a line that is read. */
#include "base/assert.h"
#include "control/audit/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const struct mt_audit_rec *r)
{
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(64u << 10), line = MT_BUF_INIT(64u << 10), scratch = MT_BUF_INIT(64u << 10);
    struct mt_err err = {0};
    struct mt_audit_rec back;
    json_t *tree = NULL;
    uint8_t prev[32] = {7}, a[32], b[32];
    MT_ASSERT(mt_audit_put(r, &json, &err) == 0);
    mt_audit_put_line(&line, r->event_id, 1, r->ts_us, (const char *)json.p, json.len);
    MT_ASSERT(line.len > 0 && memchr(line.p, '\n', line.len) == line.p + line.len - 1); /* one line, whatever was in it */
    MT_ASSERT(mt_audit_parse_line((const char *)line.p, line.len - 1, &back, &tree, &err) == 0);
    MT_ASSERT(back.event_id == r->event_id && back.ts_us == r->ts_us);
    MT_ASSERT(mt_audit_hash(prev, "platform", 1, &back, &scratch, a, &err) == 0);
    char changed[MT_AUDIT_TEXT_MAX + 2];
    (void)snprintf(changed, sizeof changed, "%s.", back.text[MT_AUDIT_T_action]);
    back.text[MT_AUDIT_T_action] = changed;
    MT_ASSERT(mt_audit_hash(prev, "platform", 1, &back, &scratch, b, &err) == 0);
    MT_ASSERT(memcmp(a, b, 32) != 0);
    json_decref(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_audit_rec r;
    struct mt_err err = {0};
    json_t *tree = NULL;
    if (mt_audit_parse_line((const char *)data, size, &r, &tree, &err) == 0) {
        round_trip(&r);
        json_decref(tree);
    }
    char *text = calloc(1, size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    r = (struct mt_audit_rec){.ts_us = 1};
    for (int i = 0; i < MT_AUDIT_T_MAX; i++)
        r.text[i] = i == MT_AUDIT_T_audit_id ? "aud_1" : text;
    round_trip(&r);
    free(text);
    return 0;
}
