/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does a backend choke on the PROXY header that it is sent? An edge says of each route how many connections it had and how many of these the
 * backend ended within a second and without a byte; more than half of those of a minute make the route suspect (networking.md §9). In memory of
 * the server that the edges report to. Thread-safe.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define MT_PROXY_WINDOW_S 60

struct mt_proxy_watch;

struct mt_proxy_watch *mt_proxy_watch_new(void);
void mt_proxy_watch_free(struct mt_proxy_watch *w);
/** Counters of a route with the header on, as @edge has them at @now_ns (monotonic). They begin at 0 again with an edge that starts. */
void mt_proxy_watch_note(struct mt_proxy_watch *w, const char *edge, const char *route_id, uint64_t connections, uint64_t early, int64_t now_ns);
/** Was the last minute with connections one of those? At any edge. */
bool mt_proxy_watch_suspect(struct mt_proxy_watch *w, const char *route_id);
