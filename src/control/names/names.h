/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names and the DNS (networking.md §8.1, §10): whether a name leads to where its route is served, and whether an organisation has shown
 * that a domain is its own. In memory of each server: what nobody looks at is not asked for. Thread-safe.
 */
#pragma once

#include "base/err.h"
#include "control/names/cache.h"
#include "os/dns.h"

#define MT_PROOF_LABEL "_moat-challenge"
#define MT_PROOF_SIZE 44 /* "moat-proof=" and 32 digits */
#define MT_PROOF_LEVELS 10 /* the name and the domains above it that may be proven */

struct mt_names;

/** @servers: addresses of name servers, none: the system's; @check: names are asked for when somebody looks at them. -MT_E_INVALID, -MT_E_NOMEM. */
int mt_names_new(char *const *servers, size_t n, bool check, struct mt_names **ret, struct mt_err *err);
/** NULL is fine. Waits for the question under way, seconds at most. */
void mt_names_free(struct mt_names *n);

/** What the DNS said of @host at most five minutes ago, or before if it says nothing now; it is asked in the background when that is older. Never blocks. */
void mt_names_look(struct mt_names *n, const char *host, struct mt_names_seen *ret);

/** The text that a TXT record has to hold for domains of this organisation: the same for ever, of use to nobody else. */
void mt_names_proof(const char *cluster_id, const char *org_id, char ret[MT_PROOF_SIZE]);

/**
 * Is there a TXT record with @proof at "_moat-challenge." before @host or a domain above it? 1 yes, 0 no. Blocks for 10 s at most.
 * -MT_E_UNAVAILABLE: the DNS does not say, or as many as may wait for it do already.
 */
int mt_names_proven(struct mt_names *n, const char *host, const char *proof, struct mt_err *err);
