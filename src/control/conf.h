/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of moat-control: one struct, one table (control-plane.md §17). */
#pragma once

#include "wire/conf.h"

struct mt_control_conf {
    char *listen_api;          /* Unix socket path */
    char *listen_internal;     /* Unix socket path */
    char *listen_admin;        /* Unix socket path, NULL: none */
    char *listen_metrics;      /* address:port for the pages of listen_admin, NULL: none */
    char *database_url;        /* libpq connection string */
    char *database_disk;       /* NULL: PostgreSQL is on another machine */
    char *database_pool_url;   /* the workers' own, a pooler in transaction mode; NULL: database_url */
    char *database_role;       /* SET ROLE of workers, NULL: none */
    char *appender_role;       /* SET ROLE of the appender, NULL: none */
    char *owner_role;          /* who owns the schema and runs migrations */
    char *data_dir;            /* the server's MAC key */
    char *operator_token_file; /* made on the first start, 0600 */
    char *master_keys_file;    /* NULL: secrets cannot be used */
    char *backup_gc_file;      /* store of backups with the credentials that may delete; NULL: nothing is taken out of it */
    char *backup_program;      /* absolute path of moat-backup; NULL: as above */
    char *public_url;
    char *agent_socket;        /* Unix socket of the local agent for logs */
    char *agent_user;          /* the agent's user on this machine */
    char *edge_user;           /* the edge's user on this machine */
    char *api_group;           /* group of the API socket, NULL: own */
    char *internal_group;      /* group of the internal socket, NULL: own */
    char *fetch_program;       /* absolute path of moat-fetch */
    char *registry_ca_file;
    char *cluster_ipv6_prefix; /* NULL: a random ULA is made once */
    bool ipam_sweep;           /* take back what has no owner (nodes/ipam.h) */
    bool allow_secret_export;  /* owners may hold secrets:read-material */
    char *listen_http;         /* loopback address:port for pages and API in plain HTTP, NULL: none */
    char *listen_nodes;        /* address:port of the node listener (mTLS), NULL: none */
    char *nodes_address;       /* host:port under which nodes reach it, NULL: not said */
    bool require_node_approval;
    char *listen_https;        /* address:port for pages and API with TLS, NULL: none */
    char *tls_cert, *tls_key;  /* PEM files of listen_https */
    char *tls_min_version;     /* 1.2, 1.3 */
    char *client_ip_header;    /* NULL: none */
    bool require_operator_totp;
    char *org_creation;        /* any, operator */
    char *bootstrap_org;
    char *egress_mode;         /* none, routed, nat66 */
    char *log_level;
    char *quota_tier;          /* free, paid, unlimited */
    struct mt_conf_map quotas; /* dimension to limit, in place of the tier's */
    struct mt_conf_list vm_dns; /* name servers for VMs whose node says none, checked by mt_addr_dns_check */
    struct mt_conf_list insecure_registries, local_registries, vmm_allowed, node_roles;
    struct mt_conf_list roles; /* singleton roles this process may hold */
    uint64_t idempotency_retention_days;
    uint64_t workers, max_connections, connections_per_source;
    uint64_t cpu_overcommit_percent, cpu_ceiling_percent;
    uint64_t heartbeat_seconds, suspect_seconds, offline_seconds, drain_delay_seconds, min_ready_seconds;
    uint64_t startup_grace_seconds, wireguard_key_days;
    uint64_t registry_timeout_seconds, max_image_bytes, mtu, ipv4_cooldown_seconds;
    uint64_t audit_retention_days, rate_limit_percent;
    uint64_t backup_keep_last, backup_deleted_grace_days;
    char *publish_program;     /* absolute path; gives their records to whoever serves the zone. NULL: nobody does */
    char *base_domain; /* of names that environments have by themselves, normalised; NULL: none */
    bool require_domain_proof, dns_check, http_redirect;
    struct mt_conf_list dns_servers, raw_ranges, tls_ranges, denied_ports;
    uint64_t log_window_s, vmm_overhead_bytes, retired_grace_s;
};

extern const struct mt_conf_key mt_control_keys[];
extern const size_t mt_control_keys_n;
