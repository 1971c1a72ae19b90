/* SPDX-License-Identifier: Apache-2.0 */
/* WebSocket frames of either side: the first byte says whose, the rest is a stream. What is read lies within what was given. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "wire/exec.h"
#include "wire/websocket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    bool client = data[0] & 1;
    size_t left = size - 1;
    uint8_t *exact = malloc(left ? left : 1); /* reads past the end become visible */
    MT_ASSERT(exact);
    memcpy(exact, data + 1, left);
    for (size_t at = 0;;) {
        struct mt_ws_frame f;
        struct mt_err err = {0};
        size_t used;
        int rc = mt_ws_decode(exact + at, left - at, client, 1 + MT_EXEC_PAYLOAD_MAX, &f, &used, &err);
        if (rc != 0) {
            MT_ASSERT(rc == 1 || err.msg[0]);
            break;
        }
        MT_ASSERT(used >= 2 + f.len && used <= left - at && f.payload + f.len == exact + at + used);
        uint8_t head[MT_WS_HEAD_MAX];
        size_t n = mt_ws_head(head, f.op, f.len, client ? exact + at + used - f.len - 4 : NULL);
        MT_ASSERT(n + f.len == used && memcmp(head, exact + at, n) == 0); /* one form for each frame */
        if (f.op == MT_WS_BINARY && f.len)
            (void)mt_exec_allowed(client ? MT_EXEC_FROM_CLIENT : MT_EXEC_FROM_GUEST, f.payload[0], f.len - 1);
        at += used;
    }
    free(exact);
    return 0;
}
