/* SPDX-License-Identifier: Apache-2.0 */
/* What the operator set: etc/edge.toml by one table that also is the documentation, or the command line of static mode. */
#pragma once

#include "edge/table.h"
#include "wire/conf.h"

#include <stdio.h>

struct mt_edge_options {
    /* as configured */
    char *data_dir, *control_socket, *control_address, *keys_dir, *admin_socket, *listen_metrics, *handover_socket, *source_address, *access_log, *log_level;
    struct mt_conf_list public_addresses;
    struct mt_conf_map port_map;
    uint64_t workers, max_conns, hello_timeout_ms, hello_max_bytes, preroute_max, stop_grace_ms, handover_grace_ms, access_log_per_s;
    uint64_t source_conns, source_new_per_s, source_burst, source_preroute, route_new_per_s, route_burst;
    uint64_t connect_timeout_ms, connect_total_ms, half_close_ms;
    bool tls_alerts, limit_loopback, io_uring;

    /* derived by mt_edge_options_check */
    union mt_edge_addr source; /* sa_family 0: none */
    union mt_edge_addr *publics;
    size_t n_publics;
};

/** Read and check a file; problems go to @problems. */
int mt_edge_options_load(const char *path, struct mt_edge_options *o, FILE *problems, struct mt_err *err);
/** The defaults, without a file (static mode). */
int mt_edge_options_default(struct mt_edge_options *o, struct mt_err *err);
/** Check values against each other and fill the derived part. */
int mt_edge_options_check(struct mt_edge_options *o, struct mt_err *err);
void mt_edge_options_done(struct mt_edge_options *o);
/** Print every key with unit, range, default and help. */
void mt_edge_options_help(FILE *out);
/** Local port of a logical listen port. */
uint16_t mt_edge_options_port(const struct mt_edge_options *o, uint16_t logical);
/** IP text and port to an address; -MT_E_INVALID. Brackets around IPv6 are allowed. */
int mt_edge_parse_addr(const char *ip, uint16_t port, union mt_edge_addr *ret, struct mt_err *err);
/** "[2001:db8::1]:443" or "192.0.2.1:443" into @ret of @size bytes; returns @ret. */
const char *mt_edge_addr_text(const union mt_edge_addr *a, char *ret, size_t size);
/** Bytes of the address structure. */
socklen_t mt_edge_addr_len(const union mt_edge_addr *a);
