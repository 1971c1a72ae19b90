/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

int64_t mt_clock_mono(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * MT_NS_PER_S + t.tv_nsec;
}

int64_t mt_clock_wall_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

const char *mt_rfc3339(int64_t wall_us, char *ret)
{
    int64_t s = wall_us / 1000000, us = wall_us % 1000000;
    if (us < 0) {
        us += 1000000;
        s--;
    }
    time_t t = (time_t)s;
    struct tm tm;
    if (!gmtime_r(&t, &tm))
        memset(&tm, 0, sizeof tm);
    unsigned year = (unsigned)(tm.tm_year + 1900) % 10000;
    (void)snprintf(ret, MT_RFC3339_LEN, "%04u-%02u-%02uT%02u:%02u:%02u.%06uZ", year, (unsigned)(tm.tm_mon + 1) % 100,
                   (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100,
                   (unsigned)tm.tm_sec % 100, (unsigned)(us % 1000000));
    return ret;
}

static bool digits(const char **p, size_t n, int *ret)
{
    int v = 0;
    for (size_t i = 0; i < n; i++) {
        char c = (*p)[i];
        if (c < '0' || c > '9')
            return false;
        v = v * 10 + (c - '0');
    }
    *p += n;
    *ret = v;
    return true;
}

int mt_rfc3339_parse(const char *s, int64_t *ret_wall_us, struct mt_err *err)
{
    const char *p = s;
    struct tm tm = {0};
    int year, mon, oh = 0, om = 0, sign = 0;
    int64_t us = 0;
    if (!digits(&p, 4, &year) || *p++ != '-' || !digits(&p, 2, &mon) || *p++ != '-' || !digits(&p, 2, &tm.tm_mday) ||
        (*p != 'T' && *p != 't' && *p != ' '))
        goto bad;
    p++;
    if (!digits(&p, 2, &tm.tm_hour) || *p++ != ':' || !digits(&p, 2, &tm.tm_min) || *p++ != ':' || !digits(&p, 2, &tm.tm_sec))
        goto bad;
    if (mon < 1 || mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
        goto bad;
    if (*p == '.') {
        int64_t unit = 100000;
        const char *first = ++p;
        for (; *p >= '0' && *p <= '9' && p - first < 9; p++, unit /= 10)
            us += (*p - '0') * unit;
        if (p == first)
            goto bad;
    }
    if (*p == 'Z' || *p == 'z') {
        p++;
    } else if (*p == '+' || *p == '-') {
        sign = *p++ == '-' ? -1 : 1;
        if (!digits(&p, 2, &oh) || *p++ != ':' || !digits(&p, 2, &om))
            goto bad;
    } else {
        goto bad;
    }
    if (*p)
        goto bad;
    tm.tm_year = year - 1900;
    tm.tm_mon = mon - 1;
    if (oh > 23 || om > 59)
        goto bad;
    struct tm day = {.tm_year = tm.tm_year, .tm_mon = tm.tm_mon, .tm_mday = tm.tm_mday};
    (void)timegm(&day);
    if (day.tm_mday != tm.tm_mday) /* 31 November would quietly be 1 December */
        goto bad;
    *ret_wall_us = ((int64_t)timegm(&tm) - sign * (oh * 3600 + om * 60)) * 1000000 + us;
    return 0;
bad:
    return MT_FAIL(err, MT_E_INVALID, "'%.40s' is not an RFC 3339 time", s);
}
