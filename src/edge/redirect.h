/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain HTTP on the shared port 80 (networking.md §8.2, http_redirect): one answer, a redirect to https, for host names that have a route on
 * port 443 there. Nothing of the request goes anywhere but into that answer. Pure.
 */
#pragma once

#include "edge/table.h"

#define MT_REDIRECT_REQUEST 4096U /* head of a request */
#define MT_REDIRECT_ANSWER 4608U

enum mt_redirect { MT_REDIRECT_MORE = 0, MT_REDIRECT_ANSWERED, MT_REDIRECT_UNKNOWN, MT_REDIRECT_MALFORMED, MT_REDIRECT_TOO_BIG };

/** What the bytes that came so far come to; ANSWERED: *ret_len bytes at @ret are to be sent. */
enum mt_redirect mt_edge_redirect(const struct mt_edge_table *t, const uint8_t *data, size_t len, char ret[MT_REDIRECT_ANSWER], size_t *ret_len);
