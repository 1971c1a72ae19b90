/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nftables table `inet moat`: text of the whole table, and set elements of single VMs.
 *
 * Rules go to the kernel as text through `nft -f -`, one atomic transaction each (ruling R20). Thread
 * safe; calls block for some milliseconds while nft runs, so they belong on a worker. Keeps the list
 * of admitted VMs itself, so that a reload brings every element back. Other tables are never touched.
 * Source: networking.md §5; ruling R28 for the mode that filters own taps only.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <sys/types.h>

enum mt_fw_mode {
    MT_FW_TAPS = 0, /* somebody's machine: only what goes to and from mt* is looked at */
    MT_FW_FULL,     /* dedicated node: the host's input policy is ours too */
    MT_FW_MODE_MAX
};

/** What the table is made from besides the VMs. Texts are addresses or prefixes, already validated. */
struct mt_fw_conf {
    enum mt_fw_mode mode;
    char cluster_prefix[52]; /* P; "" before the first plan: the table drops all guest traffic */
    char resolver[46];       /* address guests may ask for names, "" = none */
    char egress_mode[8];     /* "none", "routed", "nat66" */
    const char *const *edges; /* overlay addresses, borrowed, NULL ended; may be NULL */
    const char *const *gateways;
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
/** Text that adds or deletes the elements of one VM. */
void mt_fw_vm_text(const struct mt_fw_vm *vm, bool add, struct mt_buf *out);

struct mt_fw;

/** @nft_path absolute path of nft. Nothing is loaded yet. NULL when out of memory. */
struct mt_fw *mt_fw_new(const char *nft_path);
void mt_fw_free(struct mt_fw *f);

/** Take a new configuration (copied) and load the table with every admitted VM. */
int mt_fw_load(struct mt_fw *f, const struct mt_fw_conf *c, struct mt_err *err);
/** Load again with the present configuration; -MT_E_CONFLICT when none was ever given. */
int mt_fw_reload(struct mt_fw *f, struct mt_err *err);
/** Is the table in the kernel? False when it must be reloaded. */
bool mt_fw_present(struct mt_fw *f);
/** Remember @vm without touching the kernel: at start, before the first load. */
int mt_fw_remember(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err);
/** Admit a VM: before its tap goes up. Repeating is harmless. Loads the table when it is missing. */
int mt_fw_admit(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err);
/** Forget the VM behind @tap: after the tap is gone. 0 also when unknown. */
int mt_fw_remove(struct mt_fw *f, const char *tap, struct mt_err *err);
/** Remove the whole table (planned end of the platform). */
int mt_fw_unload(struct mt_fw *f, struct mt_err *err);
