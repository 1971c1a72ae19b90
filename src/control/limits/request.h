/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits of API requests, as headers and refusals (control-plane.md §14). */
#pragma once

#include "control/api/call.h"
#include "control/limits/limits.h"

/**
 * The platform's own operator on its own machine: a request over a Unix socket by root or by the server's own user. It is not
 * limited, so that a flood by tenants never locks out the one who has to stop it. One that names its client (client_ip_header) comes
 * from a proxy and is nobody's own.
 */
bool mt_limits_local(const struct mt_api_call *c);

/**
 * Spend from the buckets of the call's token and organisation, reads and changes apart, and say in RateLimit-* where the fuller of
 * them stands. Returns 0 or -1: 429 rate_limited with Retry-After. Call once, after the caller and the organisation are known.
 */
int mt_limits_request(struct mt_api_call *c);

/** One bucket, for what has a class of its own: device start, minting, history. The local operator is not limited. 0 or -1: 429
 * rate_limited. */
int mt_limits_subject(struct mt_api_call *c, enum mt_limit which, const char *subject);
/** The same without spending: ask before a sign-in, spend when it failed (or worked, for minting). */
int mt_limits_room(struct mt_api_call *c, enum mt_limit which, const char *subject);

/** A place for a stream of this call: 5 for each token, max_log_streams for the organisation. 0 or -1: 429 too_many_streams. */
int mt_limits_stream(struct mt_api_call *c, struct mt_stream_place *ret);
