/* SPDX-License-Identifier: Apache-2.0 */
#include "control/commands/port_policy.h"

#include "base/assert.h"
#include "base/num.h"
#include "base/str.h"
#include "wire/conf.h"

#include <stdio.h>
#include <string.h>

/* Ports of the platform itself, and those whose abuse endangers the address (networking.md §7). */
static const uint16_t never[] = {22, 23, 25, 135, 136, 137, 138, 139, 445, 465, 587, 2375, 5161, 5163, 5180, 10250, 51820};

static int read_ranges(const char *key, const struct mt_conf_list *list, struct mt_port_ranges *ret, struct mt_err *err)
{
    *ret = (struct mt_port_ranges){0};
    if (list->n > MT_PORT_RANGES)
        return MT_FAIL(err, MT_E_INVALID, "%s: at most %d ranges", key, MT_PORT_RANGES);
    for (size_t i = 0; i < list->n; i++) {
        char from[8] = "";
        uint64_t a = 0, b = 0;
        const char *text = list->v[i], *dash = strchr(text, '-');
        struct mt_err why;
        size_t len = dash ? (size_t)(dash - text) : strlen(text);
        if (len < sizeof from)
            memcpy(from, text, len);
        if (!from[0] || mt_parse_u64(from, 1, 65535, &a, &why) < 0 || mt_parse_u64(dash ? dash + 1 : from, a, 65535, &b, &why) < 0)
            return MT_FAIL(err, MT_E_INVALID, "%s: '%.40s' is no port and no range of ports like 10000-29999", key, text);
        ret->v[ret->n].from = (uint16_t)a;
        ret->v[ret->n++].to = (uint16_t)b;
    }
    return 0;
}

static void make_pool(struct mt_port_policy *p)
{
    size_t n = 0;
    p->shared_pool_n = 0;
    n += (size_t)snprintf(p->shared_pool, sizeof p->shared_pool, "{");
    for (int32_t port = 1, from = 0; port <= 65536; port++) {
        bool in = port < 65536 && mt_port_in(&p->shared_raw, port) && !mt_port_denied(p, port);
        p->shared_pool_n += in;
        if (in && !from)
            from = port;
        if (in || !from)
            continue;
        n += (size_t)snprintf(p->shared_pool + n, sizeof p->shared_pool - n, "%s[%d,%d]", n > 1 ? "," : "", from, port - 1);
        from = 0;
        MT_ASSERT(n + 2 < sizeof p->shared_pool); /* 32 + 32 + 17 ranges leave 82 pieces of 14 bytes at most */
    }
    (void)snprintf(p->shared_pool + n, sizeof p->shared_pool - n, "}");
}

int mt_port_policy_read(const struct mt_conf_list *shared_raw, const struct mt_conf_list *tls, const struct mt_conf_list *denied,
                        struct mt_port_policy *ret, struct mt_err *err)
{
    if (read_ranges("port_policy.shared_raw_ranges", shared_raw, &ret->shared_raw, err) < 0 ||
        read_ranges("port_policy.tls_ranges", tls, &ret->tls, err) < 0 || read_ranges("port_policy.denied", denied, &ret->denied, err) < 0)
        return -(int)err->code;
    /* One listener speaks one protocol: an edge refuses a snapshot with both on one port. */
    for (size_t i = 0; i < ret->shared_raw.n; i++)
        for (size_t k = 0; k < ret->tls.n; k++)
            if (ret->shared_raw.v[i].from <= ret->tls.v[k].to && ret->tls.v[k].from <= ret->shared_raw.v[i].to)
                return MT_FAIL(err, MT_E_INVALID, "port_policy.shared_raw_ranges: %u-%u meets %u-%u of port_policy.tls_ranges; a port is of one kind",
                               ret->shared_raw.v[i].from, ret->shared_raw.v[i].to, ret->tls.v[k].from, ret->tls.v[k].to);
    if (mt_port_in(&ret->shared_raw, 443) || mt_port_in(&ret->shared_raw, 80))
        return MT_FAIL(err, MT_E_INVALID, "port_policy.shared_raw_ranges: 443 is for host names, 80 for http_redirect");
    if (mt_port_in(&ret->tls, 80))
        return MT_FAIL(err, MT_E_INVALID, "port_policy.tls_ranges: plain HTTP on port 80 carries no name to route by");
    if (mt_port_in(&ret->denied, 443))
        return MT_FAIL(err, MT_E_INVALID, "port_policy.denied: 443 is always offered");
    make_pool(ret);
    return 0;
}

bool mt_port_in(const struct mt_port_ranges *r, int64_t port)
{
    for (size_t i = 0; i < r->n; i++)
        if (port >= r->v[i].from && port <= r->v[i].to)
            return true;
    return false;
}

bool mt_port_denied(const struct mt_port_policy *p, int64_t port)
{
    for (size_t i = 0; i < MT_ARRAY_LEN(never); i++)
        if (never[i] == port)
            return true;
    return mt_port_in(&p->denied, port);
}

const char *mt_port_ranges_text(const struct mt_port_ranges *r, char *ret, size_t size)
{
    int n = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < r->n && (size_t)n < size; i++)
        n += r->v[i].from == r->v[i].to ? snprintf(ret + n, size - (size_t)n, "%s%u", i ? ", " : "", r->v[i].from)
                                        : snprintf(ret + n, size - (size_t)n, "%s%u-%u", i ? ", " : "", r->v[i].from, r->v[i].to);
    return ret;
}
