/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ClientHello reader behind a pipe, for the comparison with the reference of test_edge_hello.py. Input: u32 length (little-endian)
 * and so many bytes, again and again. Output, a line each: the answer for the whole, and "cut" when another way of cutting the stream
 * gives another answer: in two at some twenty places (with the argument `all`: at every byte), and byte by byte.
 */
#include "wire/clienthello.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum mt_hello_result read_cut(struct mt_hello *h, const uint8_t *data, size_t len, size_t at)
{
    mt_hello_init(h, MT_HELLO_MAX);
    (void)mt_hello_feed(h, data, at);
    return mt_hello_feed(h, data + at, len - at);
}

static bool same(const struct mt_hello *a, const struct mt_hello *b)
{
    return a->result == b->result && strcmp(a->name, b->name) == 0 && a->best_version == b->best_version &&
           a->saw_ech == b->saw_ech;
}

int main(int argc, char **argv)
{
    bool all = argc > 1 && strcmp(argv[1], "all") == 0;
    uint8_t head[4];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        size_t len = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16;
        uint8_t *data = malloc(len + 1);
        if (!data || fread(data, 1, len, stdin) != len)
            return 1;
        struct mt_hello whole, other;
        bool cut = false;
        enum mt_hello_result r = read_cut(&whole, data, len, 0);
        for (size_t at = 1; at < len; at += all ? 1 : 1 + len / 20) {
            (void)read_cut(&other, data, len, at);
            cut |= !same(&whole, &other);
        }
        mt_hello_init(&other, MT_HELLO_MAX);
        for (size_t i = 0; i < len; i++)
            (void)mt_hello_feed(&other, data + i, 1);
        cut |= len > 0 && !same(&whole, &other);
        (void)printf("%s %s %x%s\n", mt_hello_result_name(r), r == MT_HELLO_NAME ? whole.name : "-",
                     r == MT_HELLO_NAME || r == MT_HELLO_NO_NAME || r == MT_HELLO_BAD_NAME ? whole.best_version : 0U, cut ? " cut" : "");
        free(data);
    }
    return 0;
}
