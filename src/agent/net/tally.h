/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the firewall counts: packets dropped by each rule, of the node and of each VM, and flows that a VM has opened.
 *
 * The kernel counts: a named counter for each rule, and a set for each rule with an element for each VM that it hit. They outlive
 * the agent and every change of rules; when the whole table is made anew its text starts with what was read last, so that figures only grow
 * while the host runs. A VM is known by its address, which is never given to another one, or by its tap where the address may be a lie. Rules
 * are a fixed list, so that they may be a label of a metric; VMs never are.
 * Source: networking.md §5, §6 "attribution"; runtime.md §21.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <netinet/in.h>

enum mt_fw_rule {
    MT_FW_GUEST_NON_IPV6 = 0,
    MT_FW_GUEST_SPOOF,
    MT_FW_GUEST_TO_HOST,
    MT_FW_GUEST_LATERAL,   /* to another VM or anything of the cluster */
    MT_FW_BLOCKED_ADDRESS, /* private ranges, other nodes */
    MT_FW_BLOCKED_PORT,
    MT_FW_NO_EGRESS,
    MT_FW_NEW_FLOWS, /* faster than the limit */
    MT_FW_FLOWS,     /* more than the limit */
    MT_FW_QUARANTINE,
    MT_FW_TO_GUEST,      /* from elsewhere, not granted */
    MT_FW_HOST_TO_GUEST, /* from a user of this host */
    MT_FW_OF_VMS,        /* above: counted for each VM too */
    MT_FW_MESH_SPOOF = MT_FW_OF_VMS,
    MT_FW_UNDERLAY_SPOOF,
    MT_FW_OWN_IPV4,
    MT_FW_RULE_MAX
};

/** "guest_spoof": label of the metric, key of an answer, name of counter and chain; the set is "n_guest_spoof". */
const char *mt_fw_rule_name(enum mt_fw_rule r);

struct mt_fw_count {
    uint64_t packets, bytes;
};

/** Of one VM. */
struct mt_fw_vm_tally {
    struct in6_addr address;
    struct mt_fw_count opened; /* first packets of flows to the outside that were let through; one that is repeated counts again */
    struct mt_fw_count drops[MT_FW_OF_VMS];
    uint8_t top_proto; /* of the refused port that was tried most lately, 0: none */
    uint16_t top_port;
    uint64_t top_packets;
};

struct mt_fw_tally {
    struct mt_fw_count rules[MT_FW_RULE_MAX];
    struct mt_fw_vm_tally *vms; /* owned; by address; only those of whom something was counted */
    size_t n;
};

void mt_fw_tally_done(struct mt_fw_tally *t);
/** The VM's, NULL when nothing was counted. */
const struct mt_fw_vm_tally *mt_fw_tally_of(const struct mt_fw_tally *t, const struct in6_addr *address);

/* ---- for the firewall itself ---- */

/** Counters and sets into the text of a table, beginning with what @t says (NULL: with nothing). @tap_of gives the tap of an address, NULL when none. */
void mt_fw_tally_text(const struct mt_fw_tally *t, const char *(*tap_of)(const void *arg, const struct in6_addr *address), const void *arg, struct mt_buf *o);
/** The chains that count and end what came there: "drop_NAME" for each rule. */
void mt_fw_tally_chains(struct mt_buf *o);

struct mt_nfset;
struct mt_nfset_elem;
/** By whom a set's key is told: the VM's address of a tap. False: no VM of ours. */
typedef bool mt_fw_tap_fn(const void *arg, const char *tap, struct in6_addr *ret);
typedef bool mt_fw_known_fn(const void *arg, const struct in6_addr *address);
/** Read everything into @ret, which is empty, and take elements of VMs that are gone out of the sets. -MT_E_NOT_FOUND when there is no table. */
int mt_fw_tally_read(struct mt_nfset *nl, const char *table, mt_fw_tap_fn *tap, mt_fw_known_fn *known, const void *arg, struct mt_fw_tally *ret, struct mt_err *err);
/** Elements that another VM has left under a tap's name and no reading took away yet: their deletion into @ret (room for MT_FW_TALLY_CLEAR). */
enum { MT_FW_TALLY_CLEAR = 2 };
size_t mt_fw_tally_clear(struct mt_nfset *nl, const char *table, const char *tap, struct mt_nfset_elem *ret);
