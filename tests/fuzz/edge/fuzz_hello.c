/* SPDX-License-Identifier: Apache-2.0 */
/* ClientHello reader under any bytes: no over-read, and the same answer whole, byte by byte and in uneven pieces. */
#include "wire/clienthello.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_hello whole, one, odd;
    mt_hello_init(&whole, MT_HELLO_MAX);
    mt_hello_init(&one, MT_HELLO_MAX);
    mt_hello_init(&odd, MT_HELLO_MAX);
    enum mt_hello_result r = mt_hello_feed(&whole, data, size);
    enum mt_hello_result r1 = MT_HELLO_MORE, r2 = MT_HELLO_MORE;
    for (size_t i = 0; i < size; i++)
        r1 = mt_hello_feed(&one, data + i, 1);
    for (size_t i = 0, step = 1; i < size; i += step) {
        step = 1 + (step * 7 + 3) % 29;
        if (step > size - i)
            step = size - i;
        r2 = mt_hello_feed(&odd, data + i, step);
    }
    if (r != r1 || r != r2)
        abort();
    if (r == MT_HELLO_NAME) {
        char again[256];
        if (strcmp(whole.name, one.name) != 0 || strcmp(whole.name, odd.name) != 0 || strlen(whole.name) != whole.name_len)
            abort();
        if (mt_hello_normal_name(whole.name, whole.name_len, again) != whole.name_len || strcmp(again, whole.name) != 0)
            abort(); /* normalising twice changes nothing */
    }
    return 0;
}
