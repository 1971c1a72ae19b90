/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control channel lines, both directions: the first byte says who speaks, the rest is a byte stream that is cut
 * into lines. What decodes must encode, and that must decode to the same bytes again.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/err.h"
#include "wire/guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t mem_bytes[MT_GUEST_MEM_TO_GUEST], mem_bytes2[MT_GUEST_MEM_TO_GUEST];
static char first[MT_GUEST_LINE_TO_GUEST_MAX + 1], second[MT_GUEST_LINE_TO_GUEST_MAX + 1];

static void one_line(enum mt_guest_from from, const char *line, size_t len)
{
    size_t cap = from == MT_GUEST_FROM_GUEST ? MT_GUEST_MEM_TO_HOST : MT_GUEST_MEM_TO_GUEST;
    struct mt_guest_mem mem = {.base = mem_bytes, .cap = cap}, mem2 = {.base = mem_bytes2, .cap = cap};
    struct mt_guest_msg msg, again;
    struct mt_err err = {0};
    size_t n, n2;
    if (mt_guest_decode(from, line, len, &mem, &msg, &err) < 0) {
        MT_ASSERT(err.msg[0] != '\0');
        return;
    }
    if (msg.type == MT_GUEST_UNKNOWN)
        return;
    /* text over 1 KiB is cut and escapes may grow: too long or too large a line may be refused, nothing else */
    int res = mt_guest_encode(&msg, first, sizeof first, &n, &err);
    if (res == -MT_E_LIMIT)
        return;
    MT_ASSERT(res == 0);
    MT_ASSERT(mt_guest_decode(from, first, n - 1, &mem2, &again, &err) == 0);
    MT_ASSERT(mt_guest_encode(&again, second, sizeof second, &n2, &err) == 0);
    MT_ASSERT(n == n2 && memcmp(first, second, n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char buf[4096];
    struct mt_guest_lines lines = {.buf = buf, .cap = sizeof buf};
    if (size == 0)
        return 0;
    enum mt_guest_from from = data[0] & 1 ? MT_GUEST_FROM_GUEST : MT_GUEST_FROM_HOST;
    data++;
    size--;
    for (;;) {
        const char *line;
        size_t len;
        int res;
        while ((res = mt_guest_lines_next(&lines, &line, &len)) == 1) {
            char *exact = malloc(len ? len : 1); /* reads past the end become visible */
            MT_ASSERT(exact != NULL);
            memcpy(exact, line, len);
            one_line(from, exact, len);
            free(exact);
        }
        if (res < 0 || size == 0)
            return 0;
        char *at;
        size_t room = mt_guest_lines_room(&lines, &at);
        size_t take = size < room ? size : room;
        memcpy(at, data, take);
        mt_guest_lines_fed(&lines, take);
        data += take;
        size -= take;
    }
}
