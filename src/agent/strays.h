/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IPv4 addresses of the platform's pool that are where they should not be (networking.md §7, leak check): on a link of this host though no
 * environment's address is carried here, or answered for by another machine of the link. Looked for at the start and once a day, ten minutes after something was found,
 * on nodes with an edge; which addresses that are comes with the answer to a heartbeat that asks for them. What was found goes with each heartbeat.
 */
#pragma once

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>

struct mt_agent;
struct mt_strays;

struct mt_strays *mt_strays_new(struct mt_agent *a, struct mt_err *err);
void mt_strays_free(struct mt_strays *s);
/** Does the next heartbeat ask for the pool? */
bool mt_strays_due(const struct mt_strays *s);
/** The pool, as the answer has it; nothing is kept of @pool. */
void mt_strays_look(struct mt_strays *s, const json_t *pool);
/** [{address, at}], new; NULL: nothing was found. */
json_t *mt_strays_report(const struct mt_strays *s);
