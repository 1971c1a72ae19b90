/* SPDX-License-Identifier: Apache-2.0 */
/* The one error idiom: functions return 0 or -code and fill a caller-owned struct mt_err, passed last. No allocation, so
 * it works when memory is out. Messages: lower case, no full stop, untrusted text in quotes; secrets never. */
#pragma once

#include "base/banned.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Closed list; mt_code_* give name, HTTP status, CLI exit status and whether a retry can help. */
enum mt_code {
    MT_OK = 0,
    MT_E_INVALID,     /* input is wrong; the same input will always be wrong */
    MT_E_NOT_FOUND,   /* the named thing is not there */
    MT_E_CONFLICT,    /* state does not allow it now: exists, in use, other version */
    MT_E_LIMIT,       /* a bound or quota was hit */
    MT_E_TIMEOUT,     /* a deadline passed */
    MT_E_UNAVAILABLE, /* a peer or service is not there at the moment */
    MT_E_IO,          /* the operating system refused or failed */
    MT_E_NOMEM,       /* memory */
    MT_E_CORRUPT,     /* stored or received bytes fail their check */
    MT_E_DENIED,      /* caller may not */
    MT_E_CANCELLED,   /* asked to stop */
    MT_E_MAX
};

struct mt_err {
    enum mt_code code;
    int sys_errno;    /* errno when the cause was a system call, else 0 */
    const char *file; /* where it was first raised */
    int line;
    char msg[240];    /* NUL terminated, cut if longer; printable, whatever the arguments held (mt_make_printable) */
};

/**
 * Fill @err (may be NULL) and return -@code. Use through MT_FAIL / MT_FAIL_ERRNO.
 * @sys_errno errno to keep, its text is appended as ": No such file..." when not 0.
 */
int mt_err_set(struct mt_err *err, enum mt_code code, int sys_errno, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

/** Put "context: " before the message of @err; returns -err->code (or -MT_E_IO if err is NULL). */
int mt_err_wrap(struct mt_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__ /* it sees one file at a time, and not that these are below 0 */
static inline int mt_err_below_0(int r)
{
    if (r >= 0)
        __builtin_unreachable();
    return r;
}
#define mt_err_set(...) mt_err_below_0((mt_err_set)(__VA_ARGS__))
#define mt_err_wrap(...) mt_err_below_0((mt_err_wrap)(__VA_ARGS__))
#endif
#define MT_FAIL(err, code, ...) mt_err_set((err), (code), 0, __FILE__, __LINE__, __VA_ARGS__)
#define MT_FAIL_ERRNO(err, code, ...) mt_err_set((err), (code), errno, __FILE__, __LINE__, __VA_ARGS__)

/** snake_case name of a code, "ok" for 0; never NULL. */
const char *mt_code_name(enum mt_code code);
/** HTTP status of a code (control-plane.md §9.2). */
int mt_code_http(enum mt_code code);
/** CLI exit status of a code (control-plane.md §15.4). */
int mt_code_exit(enum mt_code code);
/** True when the same call may succeed later without a change by the caller. */
bool mt_code_retryable(enum mt_code code);
