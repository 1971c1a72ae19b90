/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of IPv4 addresses that environments may have (networking.md §3.2, §7): operators put addresses in and take them out. What
 * an address does follows from the allocations: free, allocated, in its cooldown, or withdrawn. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"

#include <arpa/inet.h>

/* The last allocation of it; $1 seconds of cooldown. */
#define LAST                                                                                                          \
    "ipv4_pool_view p LEFT JOIN LATERAL (SELECT a.* FROM ipv4_allocations_view a WHERE a.ipv4_address = p.address"      \
    " ORDER BY a.ended_at DESC NULLS FIRST LIMIT 1) a ON true"
#define COOL "a.ended_at + make_interval(secs => $1::bigint)"
#define POOL_OBJECT                                                                                                   \
    "json_strip_nulls(json_build_object('address',p.address,'state',CASE WHEN a.allocation_id IS NOT NULL AND a.ended_at IS NULL THEN 'allocated'" \
    " WHEN p.deleted THEN 'withdrawn' WHEN " COOL " > now() THEN 'cooldown' ELSE 'free' END,"                                              \
    "'allocation_id',CASE WHEN a.ended_at IS NULL THEN a.allocation_id END,'org_id',CASE WHEN a.ended_at IS NULL THEN a.org_id END,"      \
    "'env_id',CASE WHEN a.ended_at IS NULL THEN a.env_id END,'edge_node_id',CASE WHEN a.ended_at IS NULL THEN a.edge_node_id END,"        \
    "'cooldown_until',CASE WHEN NOT p.deleted AND " COOL " > now() THEN " MT_SQL_TS("(" COOL ")") " END,'resource_version',p.resource_version,"     \
    "'created_at'," MT_SQL_TS("p.created_at") ",'updated_at'," MT_SQL_TS("p.updated_at") "))::text"

MT_SQL_LIST(ipv4_pool, POOL_OBJECT, LAST, "p.address COLLATE \"C\"", "(NOT p.deleted OR (a.allocation_id IS NOT NULL AND a.ended_at IS NULL))", "2", "3");
static const struct mt_pg_stmt pool_row = {"ipv4_pool_row", "SELECT p.resource_version, p.deleted, " POOL_OBJECT ", a.allocation_id IS NOT NULL AND a.ended_at IS NULL, a.env_id"
                                                            " FROM " LAST " WHERE p.address = $2"};

int mt_api_ipv4_pool_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &ipv4_pool_asc, .desc = &ipv4_pool_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_i64(&l.params, (int64_t)c->ctl->conf.ipv4_cooldown_seconds);
    return mt_api_send_list(c, &l);
}

/* The one spelling of a unicast address that hosts can have; @ret has room for INET_ADDRSTRLEN. */
static int read_address(struct mt_api_call *c, const char *text, char ret[INET_ADDRSTRLEN])
{
    struct in_addr a;
    if (inet_pton(AF_INET, text, &a) != 1)
        return mt_api_fail(c, 400, "invalid_argument", "'address': is no IPv4 address");
    uint32_t h = ntohl(a.s_addr);
    if (h >> 24 == 0 || h >> 24 == 127 || h >> 28 >= 0xe || h >> 16 == 0xa9fe)
        return mt_api_fail(c, 400, "invalid_argument", "'address': this network, loopback, link-local, multicast and reserved addresses are nobody's");
    (void)inet_ntop(AF_INET, &a, ret, INET_ADDRSTRLEN);
    return 0;
}

static int load(struct mt_api_call *c, const char *address, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, (int64_t)c->ctl->conf.ipv4_cooldown_seconds);
    mt_pg_p_text(&p, address);
    return mt_pg_query(c->pg, &pool_row, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int prepare_add(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"address", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *text;
    char address[INET_ADDRSTRLEN];
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "address", true, 15, &text) < 0 ||
        read_address(c, text, address) < 0 || load(c, address, &r) < 0)
        return -1;
    bool row = mt_pg_rows(r) > 0, there = row && !mt_pg_bool(r, 0, 1);
    made->operation = "ipv4_pool.add";
    made->ids = json_pack("{s:s}", "address", address);
    if (there) {
        json_error_t je;
        made->object = json_loads(mt_pg_text(r, 0, 2), 0, &je);
        made->nothing = true;
        return 0;
    }
    made->status = 201;
    int64_t version = row ? mt_pg_i64(r, 0, 0) : 0;
    made->object = json_pack("{s:s,s:s,s:I,s:n,s:n}", "address", address, "state", "free", "resource_version", (json_int_t)version + 1, "created_at",
                             "updated_at");
    if (mt_cmd_rely(cmd, MT_RELY_IPV4_POOL, address, NULL, 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_IPV4_POOL_ADDED, address, json_pack("{s:s}", "address", address));
}

int mt_api_ipv4_pool_add(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_add);
}

static int prepare_remove(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *reason, *address = mt_api_param(c, "address");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", false, 500, &reason) < 0 || load(c, address, &r) < 0)
        return -1;
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "address");
    bool gone = mt_pg_bool(r, 0, 1);
    mt_api_deleted(made, "ipv4_pool.remove", "address", address, gone);
    if (gone)
        return 0;
    if (mt_pg_bool(r, 0, 3))
        return mt_api_fail(c, 409, "ipv4_in_use", "environment %s has the address; disable its IPv4 first", mt_pg_text(r, 0, 4));
    if (mt_cmd_rely(cmd, MT_RELY_IPV4_POOL, address, NULL, mt_pg_i64(r, 0, 0), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_IPV4_TAKEN, address, NULL, 0, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *payload = json_pack("{s:s,s:s*}", "address", address, "reason", reason);
    return mt_api_event(c, cmd, MT_EV_IPV4_POOL_REMOVED, address, payload);
}

int mt_api_ipv4_pool_remove(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_remove);
}
