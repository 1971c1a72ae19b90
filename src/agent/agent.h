/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon as one object: what the rooms of the agent share, owned by the loop thread.
 *
 * Workers see only: conf (read-only after start), images, fw and the drivers, which are thread-safe
 * themselves. Everything else belongs to the loop.
 */
#pragma once

#include "agent/config.h"
#include "agent/host.h"
#include "agent/image/image.h"
#include "agent/measure.h"
#include "agent/net/firewall.h"
#include "agent/pace.h"
#include "agent/pressure.h"
#include "agent/reconcile.h"
#include "agent/slots.h"
#include "agent/vmm/probe.h"
#include "base/map.h"
#include "model/plan.h"
#include "os/loop.h"
#include "os/pool.h"

#include <limits.h>
#include <pthread.h>
#include <netinet/in.h>

struct mt_inst;
struct mt_report;
struct mt_control;
struct mt_identity;
struct mt_upkeep;
struct mt_admin;
struct mt_exec_relays;
struct mt_mesh;
struct mt_netdrift;
struct mt_traffic;
struct mt_ipv4s;
struct mt_strays;
struct mt_volumes;
struct mt_metrics_http;
struct mt_backups;
struct mt_restores;
struct mt_forward;

/** The kernel and init that new boots use. */
struct mt_bundle {
    char version[64]; /* "" when there is none */
    char kernel_path[PATH_MAX];
    char initramfs_path[PATH_MAX];
    bool builtin; /* everything is in the kernel: `nomodule` */
    char origin[48]; /* "built here", "signed by m3s9..."; "" root's word alone */
    uint32_t min_memory_mib; /* a guest with less does not boot; 0: not said */
};

enum { MT_BOOTS_LOOKED_AT = 20 };

/** How the last boots with one bundle went, as far as hello. */
struct mt_boot_count {
    char version[64];
    uint32_t failed; /* a bit for each, the last one lowest */
    unsigned n;      /* counted, at most MT_BOOTS_LOOKED_AT */
};

/** Network facts of the plan in parsed form. */
struct mt_node_net {
    bool has_node, has_prefix, has_cluster, has_resolver;
    struct in6_addr resolver; /* of P:2::/64, on lo: this machine answers its VMs' questions for names */
    struct in6_addr node;   /* overlay address, on lo */
    struct in6_addr prefix; /* instance prefix of this node */
    uint8_t prefix_len;
    struct in6_addr cluster; /* prefix of all nodes and instances */
    uint8_t cluster_len;
    uint32_t mtu;
};

struct mt_agent {
    struct mt_agent_conf conf;
    struct mt_loop *loop;
    struct mt_pool *steps; /* prepare, teardown, adoption, state files */
    struct mt_pool *pulls; /* image pulls that wait for a registry */
    struct mt_image_store *images;
    struct mt_fw *fw;
    pthread_mutex_t vmm_lock;
    struct mt_vmm *vmm[MT_VMM_KIND_MAX][MT_VMM_ACCEL_MAX]; /* opened when first needed, kept; under vmm_lock */
    struct mt_vmm_choice choice;
    bool probing; /* nothing is prepared while it holds */
    struct mt_bundle bundle;
    char bundle_bad[64]; /* version that did not boot here: `bundle` is the one before it; "" none */
    struct mt_boot_count boot_count;
    struct mt_slots slots;
    struct mt_map insts; /* instance id -> struct mt_inst */
    char host_boot[37];  /* the kernel's boot id */
    char cluster_id[65]; /* "" until the first plan or the configuration says */
    unsigned cores;
    uint64_t physical_bytes;

    struct mt_plan *plan; /* last accepted, NULL before */
    struct mt_plan_pos pos;
    uint64_t recovery_epoch; /* in which the control plane is in recovery, as its last answer to a heartbeat said; 0: it is not */
    int64_t skew_ms; /* this machine's clock ahead of the control plane's, at least (agent/skew.h); 0 before the first answer */
    bool plan_unsaved; /* the file holds one that says the same, of an earlier point of the log */
    int64_t plan_saved_ns;
    bool plan_fresh; /* accepted by this process, not only read from disk */
    uint64_t plans_stale, plans_rejected;
    char plan_rejected[240]; /* last reason, "" when the last plan was fine */
    struct mt_node_net net;
    uint32_t mesh_mtu; /* what the mesh runs with, bytes; 0: not known */
    size_t room_vms; /* that the kernel's table of flows has room for, rounded up */
    json_t *net_section; /* `network` of the plan that `net` is of */
    bool fw_loading, fw_again, fw_loaded;
    bool disowned; /* the newest heartbeat was answered with 403: this node was disabled, or is none any more */
    int64_t tampered_ns; /* when somebody else changed the firewall last, 0: never */

    bool stop_all; /* `op: stop-all`: everything ends, then the process */
    int64_t stop_deadline_ns;
    bool quitting;
    int exit_value;

    struct mt_pace launches;
    struct mt_source *pace_timer; /* when one more may begin */
    struct mt_source *look_timer, *drift_timer, *quit_timer, *save_timer;
    struct mt_report *report;
    struct mt_control *control;
    struct mt_identity *identity; /* of a machine that has joined; NULL: the control plane is here, behind its socket */
    struct mt_upkeep *upkeep;
    struct mt_admin *admin;
    struct mt_remote *remote; /* NULL without identity */
    struct mt_exec_relays *exec;
    struct mt_secret_store *secrets; /* own lock */
    struct mt_forward *forward;
    struct mt_volumes *volumes;
    struct mt_backups *backups; /* NULL without storage */
    struct mt_restores *restores; /* likewise */
    struct mt_mesh *mesh;
    struct mt_netdrift *netdrift;
    struct mt_traffic *traffic;
    struct mt_strays *strays; /* addresses of the IPv4 pool that are elsewhere */
    struct mt_ipv4s *ipv4;
    struct mt_agent_measure measure;
    atomic_bool logs_stopped; /* less than 3 % of the disk is free: lines of workloads are counted and not kept */
    struct mt_host host; /* what this machine lacks */
    struct mt_pressure pressure; /* whether its memory is short */
    struct mt_metrics_http *metrics; /* NULL: not configured */
    uid_t control_uid, edge_uid;
    gid_t control_gid;
    uid_t worker_uid;
    gid_t worker_gid;
};

/** Look at every instance again in this turn of the loop (coalesced). */
void mt_agent_look_soon(struct mt_agent *a);
/** Take a plan in (ownership passes); @from_disk: it is the one of plan.json. */
void mt_agent_plan(struct mt_agent *a, struct mt_plan *plan, bool from_disk);
/** The control plane is in recovery in @epoch, 0: no longer. A plan of an epoch before stops nothing for not naming it. */
void mt_agent_recovery(struct mt_agent *a, uint64_t epoch);
/** The control plane answered that nothing changed: one more acceptance of the plan (ruling R10). */
void mt_agent_plan_unchanged(struct mt_agent *a);

/** The clock of this machine is wrong by more than MT_SKEW_DEGRADED_MS: condition clock_skew. */
bool mt_agent_clock_is_off(const struct mt_agent *a);

/** What the drivers are opened with. @vsock_path is borrowed by @ret. */
void mt_agent_vmm_conf(const struct mt_agent *a, const char *vsock_path, struct mt_vmm_conf *ret);
/** A plan names another bundle: find and check it in the background. */
void mt_agent_find_bundle(struct mt_agent *a);
/** Records were appended for this instance: wake its followers. */
void mt_agent_logs_grew(struct mt_agent *a, const char *instance_id);

/** May one more VM boot now? (probe done, firewall loaded, parallel boots, admission of memory) */
bool mt_agent_may_boot(struct mt_agent *a);
/** Admission of runtime.md §3. Returns 0 or -MT_E_LIMIT; the reason code in *@ret_reason. */
int mt_agent_admit(struct mt_agent *a, const struct mt_inst *in, uint64_t memory_bytes, enum mt_reason *ret_reason,
                   struct mt_err *err);
/** MiB added to a VM's memory on this node. */
uint32_t mt_agent_overhead_mib(const struct mt_agent *a);
/** How far the cores are promised, and the most. Main thread. */
uint64_t mt_agent_cpu_overcommit_percent(const struct mt_agent *a);
uint64_t mt_agent_cpu_ceiling_percent(const struct mt_agent *a);
/** Memory that VMs may use: physical minus reserve, bytes. */
uint64_t mt_agent_alloc_memory(const struct mt_agent *a);
/** Open (once) and give the driver of these names; any thread. The driver stays open until the agent ends. */
int mt_agent_vmm_named(struct mt_agent *a, const char *driver, const char *accel, struct mt_vmm **ret, struct mt_err *err);
/** The driver chosen by the probe; NULL while there is none. */
struct mt_vmm *mt_agent_vmm(struct mt_agent *a);

/** Open and run until told to end; returns the exit status of the process. */
int mt_agent_run(struct mt_agent_conf *conf, struct mt_identity *identity, struct mt_err *err);

/** Begin the planned end: every instance is stopped, then the host is left as found (ruling R27). */
void mt_agent_stop_all(struct mt_agent *a, int64_t deadline_ms);
