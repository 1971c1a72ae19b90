/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/api: a live route as the API shows it. */
#pragma once

#include "control/api/call.h"
#include "model/names.h"
#include "control/log/append.h"

/** (object text, resource_version) of the route @id of @env_id (NULL: of any environment); 404 when there is none. 0 or -1. */
int mt_api_route_load(struct mt_api_call *c, const char *env_id, const char *id, struct mt_pg_res **ret);

struct mt_route_spec;

/** What the world's DNS and the edges say of a route: dns_ok, dns_checked_at, dns_records, hints. (mt_api_show_fn) */
void mt_api_route_show(struct mt_api_call *c, json_t *route);
/** A route that names no host gets the name of its environment below dns.base_domain, where there is one. 0 or -1. */
int mt_api_route_name(struct mt_api_call *c, char hostname[MT_HOSTNAME_SIZE]);
/** Refuses a host name below dns.base_domain that is not the environment's (400 hostname_invalid), and with require_domain_proof one elsewhere that is
 *  not shown to be the organisation's of the call (409 domain_not_proven). 0 or -1. */
int mt_api_route_proven(struct mt_api_call *c, const char *host);

/** Does the environment of the call have an IPv4 address? Sets @s->has_ipv4 and @ret_version, the allocation's (0: none). 0 or -1. */
int mt_api_route_ipv4(struct mt_api_call *c, struct mt_route_spec *s, int64_t *ret_version);
/**
 * A route that passed mt_route_check and needs that address: refuses a port that a route of the other protocol has there, and lets the
 * command rely on the address and on the environment's routes. @own: id of the route itself when it is there already, or NULL. Of a
 * route that does not need it, nothing. 0 or -1.
 */
int mt_api_route_ipv4_rely(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_route_spec *s, const char *own);
