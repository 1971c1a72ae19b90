/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, for each verb. */
#include "backup/request.h"
#include "base/assert.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    for (unsigned v = 0; v < MT_BK_VERB_MAX; v++) {
        struct mt_bk_request q;
        if (mt_bk_request_parse((const char *)data, len, (enum mt_bk_verb)v, &q, NULL) == 0) {
            MT_ASSERT(q.store.host[0] && q.store.bucket[0] && q.store.parallel >= 1 && q.store.parallel <= 16 && !strstr(q.store.prefix, ".."));
            MT_ASSERT(v != MT_BK_BACKUP || (q.image_fd >= 3 && q.size_bytes % MT_BK_CHUNK == 0 && q.size_bytes > 0));
        }
        mt_bk_request_done(&q);
    }
    return 0;
}
