/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.toml: the table that drives its parser, `moat-agent --config-help` and the documentation.
 *
 * Every path the agent uses comes from here: folders default to names below data_dir, nothing else is
 * compiled in. Source: runtime.md §4 (keys), COMMON folders.
 */
#pragma once

#include "base/err.h"
#include "wire/conf.h"

#include <sys/types.h>

struct mt_agent_conf {
    /* identity */
    char *node_id;    /* NULL in the file: of the identity that join made, filled in by main.c */
    char *cluster_id; /* NULL: the first accepted plan's, kept in node.json */
    /* folders and sockets */
    char *data_dir, *run_dir, *boot_dir, *agent_dir, *images_dir, *scratch_dir, *jail_dir, *logs_dir, *flows_dir;
    char *control_socket, *admin_socket, *listen_metrics;
    bool beside_control; /* control_socket stands in the file: the control plane is on this machine */
    char *control_address; /* host:port of a node that has joined; NULL: the one it joined by */
    struct mt_conf_list mesh_endpoints; /* address:port of this machine's WireGuard */
    char *bin_dir; /* moat-unpack, moat-fetch, moat-vsock; NULL: beside this program */
    char *overlay_ipv6; /* before the first plan says so; NULL: none */
    /* choices */
    struct mt_conf_list bundle_keys; /* whose kernel bundles are taken (agent/bundle.h) */
    char *vmm;           /* auto, firecracker, qemu */
    struct mt_conf_list vmm_sha256; /* of the programs that may run VMs; none: whatever root has installed */
    char *cpu_template; /* for Firecracker; NULL: none */
    char *host_firewall; /* taps, full */
    struct mt_conf_list host_accepted; /* requirements of the host that the operator does without: mt_hostcheck_may_accept */
    struct mt_conf_list firewall_open; /* full: TCP ports that stay open to the world */
    char *public_ipv6, *public_ipv4; /* of this host's edge, NULL: not said */
    struct mt_conf_list metrics_scrapers; /* full: overlay addresses that may read metrics over the mesh */
    char *ipv4_interface, *hook_dir; /* where dedicated IPv4 addresses go ("" = the uplink); folder of the operator's hooks */
    uint64_t drift_seconds;
    char *egress_mode;   /* "" = as the plan says; none, routed, nat66 */
    char *nat64_prefix;  /* IPv6 prefix of 96 bits, "" = none but the well-known one */
    char *resolver;      /* "" = as the plan says */
    uint64_t flows_per_vm, new_flows_per_vm, new_flows_burst; /* 0: no limit */
    struct mt_conf_list blocked_ports, blocked_prefixes; /* that VMs may not reach outside */
    bool serial;
    char *edge_user, *control_user, *worker_user, *fsck_user;
    char *log_level;
    char *cgroup_parent; /* below each controller's root */
    /* programs */
    char *qemu_path, *firecracker_path, *jailer_path, *nft_path, *mkfs_path, *e2fsck_path, *resize2fs_path, *wg_path, *wireguard_go_path;
    /* sizes */
    uint64_t reserve_memory_bytes; /* 0: the formula of scheduling-and-operations.md §1.1 */
    uint64_t patience;             /* factor on the time limits of VMM and guest */
    uint64_t overhead_mib;         /* 0: the driver's own figure */
    uint64_t cpu_overcommit_percent, cpu_ceiling_percent;
    uint64_t launches_per_second;
    uint64_t instances;
    uint64_t parallel_boots;
    struct mt_conf_list local_registries, insecure_registries;
    char *image_ca_file;
    uint64_t image_cache_bytes;
    uint64_t log_retention_days, log_max_bytes, log_message_max, flow_bytes, flow_days; /* flow_bytes 0: none are recorded */
    char *log_sink, *log_sink_target, *log_sink_ca_file, *log_sink_cert_file, *log_sink_key_file, *log_sink_headers_file;
    bool log_sink_tls, log_drains;
    struct mt_conf_list log_local_targets;
    uint64_t heartbeat_ms;
    /* volumes */
    char *storage_backend; /* auto, lvm-thin, reflink, copy, none */
    char *storage_dir;
    char *volume_group, *thin_pool; /* of lvm-thin */
    bool allow_copy_snapshots;
    char *backup_file; /* backup.toml */
};

/** The table and its length, for --config-help. */
const struct mt_conf_key *mt_agent_conf_keys(size_t *ret_n);

/**
 * Read @path, fill the folders that were left out, and check what a table cannot: words, socket path
 * lengths, users. Problems go to stderr, one line each. @ret is zeroed on failure.
 */
int mt_agent_conf_load(const char *path, struct mt_agent_conf *ret, struct mt_err *err);
void mt_agent_conf_done(struct mt_agent_conf *c);

/** Id of a system user; *@ret stays when there is no such user and the result is -MT_E_NOT_FOUND. */
int mt_agent_uid(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct mt_err *err);
