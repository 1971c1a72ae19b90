/* SPDX-License-Identifier: Apache-2.0 */
/* A command line that is put together word by word. Internal to this folder. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { MT_ARGV_WORDS = 96, MT_ARGV_TEXT = 8192 };

struct mt_argv {
    char *argv[MT_ARGV_WORDS + 1]; /* NULL terminated, into text */
    size_t count;
    char text[MT_ARGV_TEXT];
    size_t used;
    bool failed; /* a word did not fit; the rest is left out */
};

/** Append one word. What does not fit sets @a->failed, to be looked at once at the end. */
__attribute__((format(printf, 2, 3))) void mt_argv_add(struct mt_argv *a, const char *fmt, ...);
