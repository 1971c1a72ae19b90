/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The platform's own names in the DNS (networking.md §10): with `dns.base_domain` each environment has the name <app>-<env> below it, and with
 * `dns.publish_program` the records of those that have a route are given to that program, which puts them into the operator's zone, whoever
 * serves that. It gets the whole set each time it differs, once an hour, and when a server takes over the role gc, so it may forget nothing and be told twice:
 *
 *   {"base_domain":"apps.example.net","event_id":812,"records":[{"name":"shop-prod.apps.example.net","type":"AAAA","ttl":60,"values":["2001:db8::1"]}]}
 *
 * on its stdin; exit 0 says that the zone is so.
 */
#pragma once

#include "control/roles.h"

struct mt_publisher;

/** Nothing is started without dns.base_domain and dns.publish_program: *@ret stays NULL. */
int mt_publisher_start(struct mt_control *ctl, struct mt_roles *roles, struct mt_publisher **ret, struct mt_err *err);
/** Ends the program if it runs: TERM, a second later KILL. The next server tells all again. NULL is fine. */
void mt_publisher_free(struct mt_publisher *p);
