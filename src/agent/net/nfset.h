/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elements of nftables sets by netlink: what changes with every VM, and what a check of the table asks.
 *
 * Rules are text and go through nft(8) (ruling R20); an element is some forty bytes, and a process for it costs more than
 * everything else of a VM's network together. libmnl only, no GPL library. Blocking, some tens of
 * microseconds a call; a handle is not shared between threads. Knows no table of ours by name, no VMs.
 * Source: linux/netfilter/nf_tables.h; the kernel's net/netfilter/nf_tables_api.c.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_NFSET_KEY_MAX 64

struct mt_nfset;

/** One element of a set of table `inet @table`; the key in the kernel's layout: fields one after the other, each filled to 4 bytes. */
struct mt_nfset_elem {
    const char *set;
    bool add; /* else delete; deleting what is absent fails the transaction */
    uint8_t len;
    uint8_t key[MT_NFSET_KEY_MAX];
};

/** Open a NETLINK_NETFILTER socket. -MT_E_IO, -MT_E_NOMEM. */
int mt_nfset_open(struct mt_nfset **ret, struct mt_err *err);
/** Close; NULL is fine. */
void mt_nfset_close(struct mt_nfset *n);

/** Is there such a set? -MT_E_IO only when the kernel cannot say. */
int mt_nfset_exists(struct mt_nfset *n, const char *table, const char *set, bool *ret, struct mt_err *err);

/** Is there a table `netdev @table`? No, where the kernel knows no such tables. -MT_E_IO only when it cannot say. */
int mt_nfset_link_table(struct mt_nfset *n, const char *table, bool *ret, struct mt_err *err);
/** Take it away with all that is in it; 0 also when it is not there. */
int mt_nfset_drop_link_table(struct mt_nfset *n, const char *table, struct mt_err *err);

/** Is that element in the set? False also when the kernel does not say. */
bool mt_nfset_has(struct mt_nfset *n, const char *table, const struct mt_nfset_elem *e);

/**
 * Add and delete elements in the order given, all or nothing. Adding what is there is fine.
 * @count at most 4096. Returns 0; -MT_E_NOT_FOUND when table, set or a deleted element is not there; -MT_E_IO.
 */
int mt_nfset_change(struct mt_nfset *n, const char *table, const struct mt_nfset_elem *e, size_t count, struct mt_err *err);

/**
 * Make a set hold exactly @keys (@count of @len bytes, any order): read what it holds, change only the difference.
 * @ret_changed (may be NULL) is how many elements were added or deleted. -MT_E_NOT_FOUND when the set is not there.
 */
int mt_nfset_sync(struct mt_nfset *n, const char *table, const char *set, const uint8_t *keys, size_t len, size_t count,
                  size_t *ret_changed, struct mt_err *err);

/** One element that has a counter. Called between requests: ask nothing of the same handle in it. */
typedef void mt_nfset_count_fn(void *arg, const uint8_t *key, size_t len, uint64_t packets, uint64_t bytes);
/**
 * Every element of a set whose key has @len bytes, with its counter (0 without one). -MT_E_CONFLICT when it changed while it was read: some
 * were told, begin again. -MT_E_NOT_FOUND when the set is not there; -MT_E_IO.
 */
int mt_nfset_counts(struct mt_nfset *n, const char *table, const char *set, size_t len, mt_nfset_count_fn *fn, void *arg, struct mt_err *err);
typedef void mt_nfset_counter_fn(void *arg, const char *name, uint64_t packets, uint64_t bytes);
/** Every named counter of a table; none when it is not there. */
int mt_nfset_counters(struct mt_nfset *n, const char *table, mt_nfset_counter_fn *fn, void *arg, struct mt_err *err);

/** A number that changes whenever a rule of the table is added, replaced or deleted: over the handles of all rules. 0: no rules. */
int mt_nfset_rules(struct mt_nfset *n, const char *table, uint64_t *ret, struct mt_err *err);

/** Number of the ruleset: every transaction of anybody in this network namespace adds one. */
int mt_nfset_generation(struct mt_nfset *n, uint32_t *ret, struct mt_err *err);

/** A socket that becomes readable when anybody changes anything in nftables; the caller closes it. */
int mt_nfset_watch(int *ret_fd, struct mt_err *err);
/** Read what waits in it. True when something of @table was taken away, other than elements of sets whose names begin with @but. */
bool mt_nfset_watch_read(int fd, const char *table, const char *but);
