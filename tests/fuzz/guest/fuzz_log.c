/* SPDX-License-Identifier: Apache-2.0 */
/* Log records: a stream of them; what decodes must encode to the very same bytes. */
#include <stdint.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/err.h"
#include "wire/guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t out[MT_GUEST_LOG_HEAD + MT_GUEST_LOG_PAYLOAD_MAX];
    while (size > 0) {
        struct mt_guest_log_record r;
        struct mt_err err;
        size_t used, n;
        int res = mt_guest_log_decode(data, size, &r, &used, &err);
        if (res != 0) {
            MT_ASSERT(res == 1 || res == -MT_E_INVALID || res == -MT_E_LIMIT);
            return 0;
        }
        MT_ASSERT(used <= size && r.payload_len <= MT_GUEST_LOG_PAYLOAD_MAX);
        MT_ASSERT(mt_guest_log_encode(&r, out, sizeof out, &n, &err) == 0);
        MT_ASSERT(n == used && memcmp(out, data, n) == 0);
        (void)mt_guest_log_gap_bytes(&r);
        data += used;
        size -= used;
    }
    return 0;
}
