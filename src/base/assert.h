/* SPDX-License-Identifier: Apache-2.0 */
/* Broken invariants end the process, in release too; the supervisor restarts it. Outside input never reaches these. */
#pragma once

#include <stdint.h>

__attribute__((noreturn)) void mt_panic(const char *file, int line, const char *what);

#define MT_ASSERT(cond) ((cond) ? (void)0 : mt_panic(__FILE__, __LINE__, #cond))
/** Objects handed around as void * carry a magic number as member `magic`. */
#define MT_CHECK(obj, number) MT_ASSERT((obj) != NULL && (obj)->magic == (number))
#define MT_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
