/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of requests under any bytes, and what becomes of them in the log. What is read as JSON is written and read back as the same value; its
 * canonical form is a fixed point, is the same from the tree as from text as PostgreSQL prints it, and holds the value. */
#include "control/log/canon.h"
#include "wire/json.h"

#include <stdlib.h>
#include <string.h>

#define BODY_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static bool same(const struct mt_buf *a, const struct mt_buf *b)
{
    return a->len == b->len && memcmp(a->p, b->p, a->len) == 0;
}

/* The log's writer and PostgreSQL spell the same control characters differently from jansson. */
static bool has_escape_u(const char *text)
{
    return strstr(text, "\\u") != NULL;
}

static void check(json_t *v)
{
    mt_auto_buf struct mt_buf plain = MT_BUF_INIT(8u * BODY_MAX), canon = MT_BUF_INIT(8u * BODY_MAX), again = MT_BUF_INIT(8u * BODY_MAX);
    struct mt_err err = {0};
    json_t *back = NULL;
    must(mt_json_dump(v, &plain, &err) == 0);
    must(mt_json_parse(mt_buf_cstr(&plain), plain.len, 8u * BODY_MAX, MT_CANON_DEPTH, &back, &err) == 0 && json_equal(v, back));
    json_decref(back);
    if (mt_canon_json(v, &canon, &err) < 0)
        return; /* not for the log: a number that is no integer of the API, a key with control characters */
    must(mt_json_parse(mt_buf_cstr(&canon), canon.len, 8u * BODY_MAX, MT_CANON_DEPTH, &back, &err) == 0 && json_equal(v, back));
    must(mt_canon_json(back, &again, &err) == 0 && same(&canon, &again));
    json_decref(back);
    char *text = json_dumps(v, JSON_ENCODE_ANY); /* {"a": 1, "b": [2, 3]} as a jsonb is printed */
    if (text && !has_escape_u(text)) {
        mt_buf_reset(&again);
        must(mt_canon_text(text, strlen(text), &again, &err) == 0 && same(&canon, &again));
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_err err = {0};
    json_t *v = NULL;
    mt_auto_buf struct mt_buf from_text = MT_BUF_INIT(8u * BODY_MAX), from_tree = MT_BUF_INIT(8u * BODY_MAX);
    bool read = mt_json_parse((const char *)data, size, BODY_MAX, MT_CANON_DEPTH, &v, &err) == 0;
    must(read == (v != NULL));
    if (read)
        check(v);
    if (mt_canon_text((const char *)data, size, &from_text, &err) == 0 && read && mt_canon_json(v, &from_tree, &err) == 0)
        must(same(&from_text, &from_tree));
    json_decref(v);
    return 0;
}
