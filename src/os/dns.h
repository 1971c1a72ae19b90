/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions to the DNS: addresses and texts of a name. The asking is glibc's stub resolver (random ids and ports, an answer counts from whom
 * it was asked and for what was asked); the time is bounded, over UDP only, and what comes back is hostile: read with bounds, and only what
 * belongs to the name or to what it is an alias of. Blocks; any thread.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_DNS_SERVERS 3
#define MT_DNS_ADDRS 16 /* of one name; more are not looked at */
#define MT_DNS_TEXTS 16
#define MT_DNS_TEXT 256 /* one that is longer is none of ours */

enum mt_dns_type { MT_DNS_A = 0, MT_DNS_AAAA, MT_DNS_TXT, MT_DNS_TYPE_MAX };

/* Whom to ask; n = 0: those of /etc/resolv.conf. */
struct mt_dns_servers {
    size_t n;
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } v[MT_DNS_SERVERS];
};

struct mt_dns_answer {
    size_t n_addrs, n_texts;
    struct in6_addr addrs[MT_DNS_ADDRS]; /* IPv4 as ::ffff:a.b.c.d */
    char texts[MT_DNS_TEXTS][MT_DNS_TEXT];
    bool more; /* not all was taken */
};

/** "192.0.2.1", "192.0.2.1:53", "2001:db8::1" or "[2001:db8::1]:53" as one more server. -MT_E_INVALID, -MT_E_LIMIT. */
int mt_dns_server_add(struct mt_dns_servers *s, const char *text, struct mt_err *err);

/**
 * Ask. What a name has not is an empty answer (no such name too). -MT_E_TIMEOUT: nobody answered, some 5 s at most for each server;
 * -MT_E_UNAVAILABLE: the server could not say; -MT_E_CORRUPT: what it said cannot be read; -MT_E_INVALID: @name is no host name.
 */
int mt_dns_ask(const struct mt_dns_servers *s, const char *name, enum mt_dns_type type, struct mt_dns_answer *ret, struct mt_err *err);

/** The same of a reply as it came. Pure; for tests and the fuzzer. */
int mt_dns_read(const uint8_t *reply, size_t len, const char *name, enum mt_dns_type type, struct mt_dns_answer *ret, struct mt_err *err);
