/* SPDX-License-Identifier: Apache-2.0 */
/* Text helpers: UTF-8 checks, hex, printing of untrusted text, nearest-name hints. */
#pragma once

#include "base/err.h"

#define MT_STREQ(a, b) (strcmp((a), (b)) == 0)

static inline bool mt_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

/** Length 1..4 of the valid UTF-8 character at @s (@n bytes left), 0 if it is not one (overlong, surrogate, > U+10FFFF). */
size_t mt_utf8_len(const char *s, size_t n);
/** How many of the first bytes are printable ASCII other than '"' and '\\', which no kind of text or JSON has to look at singly. */
size_t mt_plain_run(const char *s, size_t n);
/** True when all @n bytes are valid UTF-8 without NUL. */
bool mt_utf8_valid(const char *s, size_t n);
/** Lower-case hex of @n bytes into @ret, which holds 2n+1 bytes. */
void mt_hex_encode(const void *data, size_t n, char *ret);
/** Decode exactly 2n lower- or upper-case hex digits into @ret; -MT_E_INVALID otherwise. */
int mt_hex_decode(const char *hex, size_t n, void *ret);
/** Printable copy of untrusted text for messages: control characters (C0 and C1), characters that turn the direction of text or break
 * lines, and invalid UTF-8 become '?', a tab a blank; cut to fit @size with "...". Returns @ret. */
const char *mt_printable(const char *s, size_t n, char *ret, size_t size);
/** The same in place, without cutting; never longer than it was. */
void mt_make_printable(char *s);
/** malloc'ed copy of @n bytes plus NUL; NULL when memory is out. */
char *mt_strndup(const char *s, size_t n);
/** malloc'ed formatted string; NULL when memory is out. */
char *mt_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/** Format into @ret of @size bytes; -MT_E_LIMIT when it does not fit (a cut path is never used). */
int mt_fmt(char *ret, size_t size, struct mt_err *err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/** The entry of @names (NULL terminated) nearest to @word by edit distance, or NULL when none is near (> 1/3 of its length + 1). */
const char *mt_nearest(const char *word, const char *const *names);
