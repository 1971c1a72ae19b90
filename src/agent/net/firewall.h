/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nftables table `inet moat`: text of the whole table, and set elements of single VMs.
 *
 * Rules go to the kernel as text through `nft -f -`, one atomic transaction each (ruling R20); elements of single
 * VMs, edges, nodes by netlink (nfset.h). Loading changes as little as it can: a table that is there keeps its sets,
 * so what is counted for each VM goes on. Thread safe; calls block for some milliseconds while nft runs, so they
 * belong on a worker. Keeps the list of admitted VMs itself, so that a reload brings every element back. Other tables
 * are never touched.
 * Source: networking.md §5; ruling R28 for the mode that filters own taps only.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <sys/types.h>

#define MT_FW_STAMP_MAX 32
#define MT_FW_BLOCKED_MAX 64
#define MT_FW_SCRAPERS_MAX 16

/** Ports from one to another: that VMs may not reach outside, or that stay open here. */
struct mt_fw_ports {
    uint16_t from, to;
    bool tcp, udp;
};
/** "25" (TCP and UDP), "135-139", "11211/udp". -MT_E_INVALID. */
int mt_fw_ports_parse(const char *text, struct mt_fw_ports *ret, struct mt_err *err);

enum mt_fw_mode {
    MT_FW_TAPS = 0, /* somebody's machine: only what goes to and from mt* is looked at */
    MT_FW_FULL,     /* dedicated node: the host's input policy is ours too */
    MT_FW_MODE_MAX
};

/** What the table is made from besides the VMs. Texts are addresses or prefixes, already validated. */
struct mt_fw_conf {
    enum mt_fw_mode mode;
    char cluster_prefix[52]; /* P; "" before the first plan: the table drops all guest traffic */
    char own_prefix[50];     /* of this node's instances, "" = not known */
    char resolver[46];       /* address guests may ask for names, "" = none */
    char egress_mode[8];     /* "none", "routed", "nat66" */
    char nat64_prefix[52];   /* of 96 bits, besides 64:ff9b::/96; "" = none */
    const char *const *edges; /* overlay addresses, borrowed, NULL ended; may be NULL */
    const char *const *gateways;
    const char *const *underlay; /* IPv6 addresses of the nodes outside the mesh: not for VMs but for public ports */
    const char *const *quarantine; /* addresses of VMs here that may start no flow; what they serve goes on */
    const char *const *private6; /* "SOURCE . TARGET . PORT": VMs of one environment that may reach each other, one of them here */
    const char *const *own4;     /* dedicated IPv4 addresses of this host: in full mode nothing but `public4` is open there */
    const char *const *public4;  /* "203.0.113.9 . 443": where its edge listens */
    const char *const *edge_ports; /* full mode: TCP ports at which its edge listens for the world, over IPv6 */
    uint16_t mesh_port;          /* UDP port of WireGuard, 0: in no mesh */
    struct mt_fw_ports open[32]; /* full mode: TCP ports of this host that stay open to the world */
    size_t open_count;
    char scrapers[MT_FW_SCRAPERS_MAX][46]; /* full mode: overlay addresses that may read metrics, at these ports */
    size_t scrapers_count;
    uint16_t metrics_ports[4];
    size_t metrics_ports_count;
    uint32_t flows, new_flows, new_flows_burst; /* that one VM may have open, open in a second, and at once; 0: no limit */
    struct mt_fw_ports blocked_ports[MT_FW_BLOCKED_MAX];
    size_t blocked_ports_count;
    char blocked6[MT_FW_BLOCKED_MAX][52]; /* prefixes that VMs may not reach, besides those that nobody may */
    size_t blocked6_count;
    uid_t uids[2]; /* agent, edge: may open connections to VMs from this host */
    size_t uid_count;
};

/** One VM as the firewall sees it. */
struct mt_fw_vm {
    char tap[16];
    char address[46];
    uint16_t ports[32];
    size_t port_count;
};

/** Text of the whole table with the elements of @vms; a pure function. Check @out afterwards. */
void mt_fw_text(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, struct mt_buf *out);
/** Text that replaces the rules of a table that is there and leaves its sets alone; pure. */
void mt_fw_rules_text(const struct mt_fw_conf *c, struct mt_buf *out);
/** Elements of one VM into @ret (room for 33); 0 when its address is none. */
struct mt_nfset_elem;
size_t mt_fw_vm_elems(const struct mt_fw_vm *vm, bool add, struct mt_nfset_elem *ret);

struct mt_fw;

/** What a check found; everything found is repaired by it. */
struct mt_fw_found {
    bool loaded; /* false: there is no configuration yet, nothing was looked at */
    bool table_missing, rules_changed;
    size_t elements; /* added or taken away in sets that held something else */
};

/** How much was written since the start. */
struct mt_fw_stats {
    uint64_t tables, rules, elements;
};

/** @nft_path absolute path of nft. Nothing is loaded yet. NULL when out of memory. */
struct mt_fw *mt_fw_new(const char *nft_path);
void mt_fw_free(struct mt_fw *f);

/** Take a new configuration (copied) and make the kernel's table that one, with every admitted VM. No process when nothing but elements differs. */
int mt_fw_load(struct mt_fw *f, const struct mt_fw_conf *c, struct mt_err *err);
/** Compare the kernel's table with what was loaded and mend what differs. No process when nothing does. */
int mt_fw_check(struct mt_fw *f, struct mt_fw_found *ret, struct mt_err *err);
struct mt_fw_stats mt_fw_stats(struct mt_fw *f);
struct mt_fw_tally;
/** What was counted until now into @ret, which is empty; release with mt_fw_tally_done. Some tens of microseconds, more with VMs that are refused much. -MT_E_NOT_FOUND without a table. */
int mt_fw_tally(struct mt_fw *f, struct mt_fw_tally *ret, struct mt_err *err);
/** Remember @vm without touching the kernel: at start, before the first load. */
int mt_fw_remember(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err);
/** Admit a VM: before its tap goes up. Repeating is harmless. Loads the table when it is missing. */
int mt_fw_admit(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err);
/** Forget the VM behind @tap: after the tap is gone. 0 also when unknown. */
int mt_fw_remove(struct mt_fw *f, const char *tap, struct mt_err *err);
/** Remove the whole table (planned end of the platform). */
int mt_fw_unload(struct mt_fw *f, struct mt_err *err);
