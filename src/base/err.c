/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include "base/str.h"

#include <stdarg.h>

static const struct {
    const char *name;
    int http;
    int exit_status;
    bool retryable;
} codes[MT_E_MAX] = {
    [MT_OK] = {"ok", 200, 0, false},
    [MT_E_INVALID] = {"invalid", 400, 2, false},
    [MT_E_NOT_FOUND] = {"not_found", 404, 4, false},
    [MT_E_CONFLICT] = {"conflict", 409, 5, false},
    [MT_E_LIMIT] = {"limit", 429, 5, true},
    [MT_E_TIMEOUT] = {"timeout", 504, 6, true},
    [MT_E_UNAVAILABLE] = {"unavailable", 503, 6, true},
    [MT_E_IO] = {"io", 500, 1, true},
    [MT_E_NOMEM] = {"out_of_memory", 503, 1, true},
    [MT_E_CORRUPT] = {"corrupt", 500, 7, false},
    [MT_E_DENIED] = {"denied", 403, 3, false},
    [MT_E_CANCELLED] = {"cancelled", 503, 130, true},
};

int (mt_err_set)(struct mt_err *err, enum mt_code code, int sys_errno, const char *file, int line, const char *fmt, ...)
{
    if (!err)
        return -(int)code;
    char text[sizeof err->msg], why[96] = ""; /* not straight into msg: an argument may point there */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        text[0] = '\0';
    if (sys_errno) {
        /* both strerror_r forms are handled by %m, which needs errno */
        errno = sys_errno;
        (void)snprintf(why, sizeof why, ": %m");
    }
    size_t room = sizeof text - 1 - strlen(why);
    if (strlen(text) > room) /* the reason is worth more than the end of a long name */
        memcpy(text + room - 3, "...", 4);
    memcpy(err->msg, text, strlen(text) + 1);
    memcpy(err->msg + strlen(text), why, strlen(why) + 1);
    mt_make_printable(err->msg);
    err->code = code;
    err->sys_errno = sys_errno;
    err->file = file;
    err->line = line;
    return -(int)code;
}

int (mt_err_wrap)(struct mt_err *err, const char *fmt, ...)
{
    if (!err)
        return -MT_E_IO;
    char head[240];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    mt_make_printable(head);
    char tail[sizeof err->msg];
    memcpy(tail, err->msg, sizeof tail);
    size_t h = strnlen(head, sizeof err->msg - 3);
    memcpy(err->msg, head, h);
    memcpy(err->msg + h, ": ", 2);
    size_t t = strnlen(tail, sizeof err->msg - 1 - h - 2);
    memcpy(err->msg + h + 2, tail, t);
    err->msg[h + 2 + t] = '\0';
    return -(int)(err->code ? err->code : MT_E_IO);
}

const char *mt_code_name(enum mt_code code)
{
    return (unsigned)code < MT_E_MAX ? codes[code].name : "unknown";
}

int mt_code_http(enum mt_code code)
{
    return (unsigned)code < MT_E_MAX ? codes[code].http : 500;
}

int mt_code_exit(enum mt_code code)
{
    return (unsigned)code < MT_E_MAX ? codes[code].exit_status : 7;
}

bool mt_code_retryable(enum mt_code code)
{
    return (unsigned)code < MT_E_MAX && codes[code].retryable;
}
