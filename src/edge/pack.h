/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A route as the table keeps it: one packed record of about 60 bytes, since most routes of a large table are asked for
 * seldom. The first connection makes a struct mt_edge_route of it (route.c), which the record then points to.
 *
 * Layout, 8-aligned: struct mt_edge_rec, host name, then (unless it is the host name) route_id, then (with owners) one
 * length byte and text each for env_id and org_id, then backends: one byte (length of the instance id, top bit: IPv4),
 * port (network order), address of 4 or 16 bytes, instance id.
 */
#pragma once

#include "edge/table.h"

#define MT_EDGE_ID_IS_NAME 255U

/* What many routes have in common; kept once. */
struct mt_edge_opts {
    mt_edge_key key;
    uint32_t idle_timeout_s, max_conns;
    uint16_t min_tls;
    uint8_t balance;
    bool proxy_v2, proxy_tlv, disabled, is_default, allow_non_tls, owners;
};

struct mt_edge_rec {
    _Atomic(struct mt_edge_route *) live; /* one reference; NULL until it is asked for */
    uint32_t opts;                        /* index */
    uint16_t n_backends;
    uint8_t name_len, id_len;
    uint8_t rest[];
};

/** Bytes of the record of @s, a multiple of 8; -MT_E_INVALID for texts that break their bounds. */
int mt_edge_pack_size(const struct mt_edge_route_spec *s, size_t *ret, struct mt_err *err);
/** Write it at @at, which has that many zeroed bytes. */
void mt_edge_pack(void *at, const struct mt_edge_route_spec *s, uint32_t opts);
/** Host name of a record, name_len bytes. */
const char *mt_edge_rec_name(const struct mt_edge_rec *r);
/** Route id and its length. */
const char *mt_edge_rec_id(const struct mt_edge_rec *r, size_t *ret_len);
/** A whole route with one reference and counters of its own; NULL when memory is out. */
struct mt_edge_route *mt_edge_unpack(const struct mt_edge_rec *r, const struct mt_edge_opts *o);
/** Bytes it takes, as mt_edge_pack_size said. */
size_t mt_edge_rec_size(const struct mt_edge_rec *r, const struct mt_edge_opts *o);
/** The record at byte @at of the table's records. */
static inline struct mt_edge_rec *mt_edge_table_at(const struct mt_edge_table *t, size_t at)
{
    return (struct mt_edge_rec *)(void *)(t->mem + at);
}
/** Record of a name on a listener; of a raw listener its only one, whatever the name. NULL when there is none. */
struct mt_edge_rec *mt_edge_table_rec(const struct mt_edge_table *t, mt_edge_key key, const char *name, size_t len);
