/* SPDX-License-Identifier: Apache-2.0 */
/* See moment.h. */
#include "control/api/moment.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"

#include <string.h>

#define US_PER_S INT64_C(1000000)
#define AGO_MAX_S (INT64_C(200) * 366 * 86400)

/* The last event that is not younger than $1, of $2 events. Those of an organisation are found by the runs they came in (log/runs.c). */
static const struct mt_pg_stmt at_time = {"moment_at", "SELECT LEAST(moat.event_at($1), $2::int8)"};
static const struct mt_pg_stmt last_own = {
    "moment_own", "SELECT e.occurred_at FROM (SELECT event_id AS at, org_run AS more FROM moat.events WHERE org_id = $1 AND (org_run < 0) IS NOT TRUE AND event_id <= $2"
                  "  ORDER BY event_id DESC LIMIT 1) run CROSS JOIN LATERAL (SELECT occurred_at FROM moat.events m WHERE m.event_id BETWEEN run.at AND $2"
                  "  AND m.event_id <= run.at + COALESCE(run.more, 0) AND m.org_id = $1 ORDER BY m.event_id DESC LIMIT 1) e"};
static const struct mt_pg_stmt first_own = {
    "moment_first", "SELECT event_id, occurred_at FROM moat.events WHERE org_id = $1 AND (org_run < 0) IS NOT TRUE ORDER BY event_id LIMIT 1"};

int mt_moment_ago(const char *text, int64_t *ret_us, struct mt_err *err)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
    int64_t sum = 0;
    const char *t = text;
    while (*t) {
        size_t digits = strspn(t, "0123456789"), u = 0;
        char number[8];
        uint64_t n;
        if (digits == 0 || digits >= sizeof number)
            break;
        memcpy(number, t, digits);
        number[digits] = 0;
        while (u < MT_ARRAY_LEN(units) && units[u].unit != t[digits])
            u++;
        if (u == MT_ARRAY_LEN(units) || mt_parse_u64(number, 0, 9999999, &n, err) < 0)
            break;
        sum += (int64_t)n * units[u].seconds;
        if (sum > AGO_MAX_S)
            return MT_FAIL(err, MT_E_INVALID, "it is more than 200 years ago");
        t += digits + 1;
    }
    if (*t || t == text)
        return MT_FAIL(err, MT_E_INVALID, "it is numbers with s, m, h, d or w, as in 2h or 1d12h");
    *ret_us = sum * US_PER_S;
    return 0;
}

static int refuse(struct mt_api_call *c, const char *name, const char *text, const char *what)
{
    char safe[120];
    return mt_api_fail(c, 400, "invalid_argument", "'%s' %s %s; a moment is a time as 2026-11-28T21:00:00Z, -2h, @EVENT_ID or now", name,
                       mt_printable(text, strlen(text), safe, sizeof safe), what);
}

static int of_time(struct mt_api_call *c, const char *name, const char *text, int64_t us, int64_t head, int64_t *ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    char when[MT_RFC3339_LEN];
    int64_t now = mt_clock_wall_us();
    if (us > now)
        return mt_api_fail(c, 400, "invalid_argument", "'%s' %s lies in the future: it is %s here; ask for now", name, text, mt_rfc3339(now, when));
    mt_pg_p_init(&p);
    mt_pg_p_time(&p, us);
    mt_pg_p_i64(&p, head);
    if (mt_pg_query_one(c->pg, &at_time, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    *ret = mt_pg_i64(r, 0, 0);
    return 0;
}

static int resolve(struct mt_api_call *c, const char *name, const char *text, int64_t head, int64_t *ret)
{
    struct mt_err err = {0};
    int64_t us;
    uint64_t id;
    if (MT_STREQ(text, "now")) {
        *ret = head;
        return 0;
    }
    if (*text == '@') {
        if (mt_parse_u64(text + 1, 1, INT64_MAX, &id, &err) < 0)
            return refuse(c, name, text, "names no event");
        if ((int64_t)id > head)
            return mt_api_fail(c, 400, "invalid_argument", "'%s' %s lies in the future: the log ends at event %lld; ask for @%lld or now", name, text,
                               (long long)head, (long long)head);
        *ret = (int64_t)id;
        return 0;
    }
    if (*text == '-') {
        if (mt_moment_ago(text + 1, &us, &err) < 0)
            return refuse(c, name, text, "is no span of time");
        return of_time(c, name, text, mt_clock_wall_us() - us, head, ret);
    }
    if (mt_rfc3339_parse(text, &us, &err) < 0)
        return refuse(c, name, text, "is no time");
    return of_time(c, name, text, us, head, ret);
}

int mt_api_moment(struct mt_api_call *c, const char *name, const char *text, struct mt_moment *ret)
{
    mt_auto_pg_res struct mt_pg_res *own = NULL, *first = NULL;
    struct mt_pg_params p;
    char when[MT_RFC3339_LEN];
    int64_t head;
    if (mt_log_position(c->pg, &head, NULL, &c->err) < 0)
        return mt_api_fail_err(c);
    if (resolve(c, name, text, head, &ret->event_id) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_i64(&p, ret->event_id);
    if (mt_pg_query(c->pg, &last_own, &p, &own, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(own)) {
        ret->own_us = mt_pg_time(own, 0, 0);
        return 0;
    }
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    if (mt_pg_query_one(c->pg, &first_own, &p, &first, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_fail(c, 400, "invalid_argument", "'%s' %s lies before the organisation's first event, @%lld of %s; ask for that or a later moment", name,
                       text, (long long)mt_pg_i64(first, 0, 0), mt_rfc3339(mt_pg_time(first, 0, 1), when));
}
