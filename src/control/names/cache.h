/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the DNS said of host names, for those that somebody looked at lately: bounded, each asked for at most once in five minutes, later after
 * failures. Pure: time comes in, no lock, no asking.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_NAMES_HOST 256
#define MT_NAMES_ADDRS 16
#define MT_NAMES_EVERY_S 300 /* networking.md §10 */
#define MT_NAMES_SLOWEST_S 3600

struct mt_names_seen {
    bool known;     /* there was an answer */
    bool more;      /* not all addresses are here */
    int64_t at_us;  /* of the answer, wall clock */
    size_t n;
    struct in6_addr addrs[MT_NAMES_ADDRS]; /* IPv4 as ::ffff:a.b.c.d */
};

struct mt_names_cache;

struct mt_names_cache *mt_names_cache_new(void);
void mt_names_cache_free(struct mt_names_cache *c);
/** What is known of @host; *ret is zeroed when nothing is. True when it was put into the queue of what is to be asked. */
bool mt_names_cache_look(struct mt_names_cache *c, const char *host, int64_t now_ns, struct mt_names_seen *ret);
/** The next name to ask for, false when there is none. */
bool mt_names_cache_next(struct mt_names_cache *c, char ret_host[MT_NAMES_HOST]);
/** What came of it; @seen NULL: nothing, the name is asked for again later each time, what was known stays. */
void mt_names_cache_put(struct mt_names_cache *c, const char *host, const struct mt_names_seen *seen, int64_t now_ns);
