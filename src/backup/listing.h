/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of a page of ListObjectsV2 and of error documents. Pure; the text is hostile. Only the shape that S3 sends is understood: elements
 * without attributes that matter, the five predefined entities and numeric ones, no document type. */
#pragma once

#include "base/err.h"

#define MT_BK_LIST_KEY 1025   /* S3 keys: 1024 bytes */
#define MT_BK_LIST_TOKEN 2048

struct mt_bk_listed {
    char key[MT_BK_LIST_KEY]; /* "" in a common prefix's entry */
    char prefix[MT_BK_LIST_KEY]; /* of a common prefix, else "" */
    uint64_t size;
    int64_t modified_us;      /* wall time */
};

struct mt_bk_page {
    bool truncated;
    char token[MT_BK_LIST_TOKEN]; /* continuation, "" when the page is the last */
    size_t entries;
};

/** Each entry goes to @each (-1 from it stops with -MT_E_CANCELLED). -MT_E_CORRUPT: no list, cut off, or over a bound. */
int mt_bk_list_read(const char *text, size_t len, int (*each)(const struct mt_bk_listed *e, void *arg), void *arg, struct mt_bk_page *ret,
                    struct mt_err *err);
/** Content of the first <Code> of an error document; "" when there is none. */
void mt_bk_error_code(const char *text, size_t len, char *ret, size_t size);
