/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who sent what from this node, for whoever has to answer for an address of it later: a ring of records in files of one folder.
 *
 * Flows that VMs open to the outside, with the port that the node gave them, and each VM's counters once a minute. Bounded in bytes and days; the
 * oldest file goes first. Records are of one size and written whole; a tail that a power cut left is not read. Format: docs/formats/flow-log.md.
 * One writer process; its calls may come from any thread. Readers need no lock. Source: networking.md §6 "attribution".
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>

enum mt_flow_kind {
    MT_FLOW_NEW = 1, /* a VM opened a flow */
    MT_FLOW_END,     /* the kernel has forgotten it */
    MT_FLOW_LOST,    /* v[0]: times that the kernel had more to tell than was taken; some flows of that moment are missing */
    MT_FLOW_COUNTS,  /* v: bytes and packets sent, bytes and packets received, since the tap was made; sport, dport: low and high half of new flows */
    MT_FLOW_DROPS,   /* proto: a rule (enum mt_fw_rule); v[0]: packets; of blocked ports v[1]: packets to the one tried most, which is nat_port, v[2]: its protocol */
    MT_FLOW_READ,    /* somebody has read; v[0]: uid, v[1], v[2]: from when to when, microseconds */
    MT_FLOW_KIND_MAX
};

struct mt_flow_rec {
    int64_t ts_us; /* since 1970 */
    uint8_t kind, proto;
    uint16_t sport, dport, nat_port; /* of the VM, of the target, that the world saw; host order */
    struct in6_addr src;             /* of the VM */
    union {
        struct {
            struct in6_addr dst, nat; /* target; the source that the world saw */
        };
        uint64_t v[4];
    };
};
_Static_assert(sizeof(struct mt_flow_rec) == 64, "the format of the files");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format of the files");

struct mt_flowring;

/** @max_bytes of all files together, at least 1 MiB; @days at least 1. The folder is made, 0700. NULL and @err. */
struct mt_flowring *mt_flowring_open(const char *dir, uint64_t max_bytes, unsigned days, struct mt_err *err);
/** Write what waits. NULL is fine. */
void mt_flowring_close(struct mt_flowring *r);
/** Keep @rec; written with the next flush, or when some hundred wait. */
void mt_flowring_add(struct mt_flowring *r, const struct mt_flow_rec *rec);
/** Write what waits and take away what is too old. -MT_E_IO: what waited is lost, the next try makes a new file. */
int mt_flowring_flush(struct mt_flowring *r, struct mt_err *err);

/** Which records; zero fields are any. */
struct mt_flow_filter {
    int64_t since_us, until_us; /* until 0: now */
    bool has_address;
    struct in6_addr address; /* VM, target or what the world saw */
    uint16_t port;           /* any of the three */
};
/** Called for each; false to stop. */
typedef bool mt_flow_fn(void *arg, const struct mt_flow_rec *rec);
/** Oldest first. 0 also when there is no such folder; -MT_E_IO. */
int mt_flowring_read(const char *dir, const struct mt_flow_filter *filter, mt_flow_fn *fn, void *arg, struct mt_err *err);
