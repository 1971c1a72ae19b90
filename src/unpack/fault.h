/* SPDX-License-Identifier: Apache-2.0 */
/* Why an unpack failed, in the words of runtime.md 6: a reason code, its detail (rule id and entry path) and a sentence. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct mt_fault {
    const char *reason; /* static text; NULL while all is well */
    char detail[160];   /* "U1 ../etc/passwd (layer 2 of 3)", "unpacked_bytes 53687091200", "mke2fs", "images" */
    char message[400];
};

/** A layer breaks rule @rule ("U1".."U13", "media_type", "diff_id") at @path (@len bytes, untrusted). Returns -1. */
int mt_fault_rule(struct mt_fault *f, const char *rule, const char *path, size_t len, const char *why);
/** Name the layer a fault was found in, counted from 1: " (layer 2 of 3)" behind the detail of a broken rule, and in the message. */
void mt_fault_in_layer(struct mt_fault *f, size_t layer, size_t layers);
/** A limit was hit: image_too_large. Returns -1. */
int mt_fault_limit(struct mt_fault *f, const char *limit, uint64_t value);
/** The operating system failed: disk_full for ENOSPC and EDQUOT, else rootfs_build_failed with @detail. Returns -1. */
int mt_fault_sys(struct mt_fault *f, const char *detail, int sys_errno, const char *what);
#ifdef __clang_analyzer__
#define mt_fault_rule(...) mt_err_below_0((mt_fault_rule)(__VA_ARGS__))
#define mt_fault_limit(...) mt_err_below_0((mt_fault_limit)(__VA_ARGS__))
#define mt_fault_sys(...) mt_err_below_0((mt_fault_sys)(__VA_ARGS__))
#endif
