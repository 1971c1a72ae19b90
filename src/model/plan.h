/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What control plane and agent say to each other: NodePlan and Assignment downwards, heartbeat and status batch upwards.
 *
 * Encoding and strict decoding only; which plan wins, or what a report changes, is decided elsewhere. Strings of decoded
 * values are borrowed from the document they keep. Source: runtime.md 2.1, 2.3; control-plane.md 9.6; networking.md 2.2.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/ids.h"
#include "model/volume.h"
#include "model/workload.h"

struct mt_err;

#define MT_PLAN_BYTES_MAX (32U * 1024U * 1024U) /* larger bodies are refused before parsing */
#define MT_PLAN_INSTANCES_MAX 4096
#define MT_STATUS_BATCH_MAX 200

enum mt_desired_state {
    MT_DESIRED_RUNNING = 0,
    MT_DESIRED_DRAINING,
    MT_DESIRED_STOPPED,
    MT_DESIRED_STATE_MAX
};

enum mt_instance_status {
    MT_STATUS_BOOTING = 0,
    MT_STATUS_STARTING,
    MT_STATUS_READY,
    MT_STATUS_UNREADY,
    MT_STATUS_DRAINING,
    MT_STATUS_STOPPED,
    MT_STATUS_FAILED,
    MT_STATUS_MAX
};

/** Wire word of a state; asserts on values outside the enum. */
const char *mt_desired_state_name(enum mt_desired_state state);
const char *mt_instance_status_name(enum mt_instance_status status);
/** Word to state. Return false when the word is unknown (NULL included). */
bool mt_desired_state_parse(const char *word, enum mt_desired_state *ret);
bool mt_instance_status_parse(const char *word, enum mt_instance_status *ret);

struct mt_assignment {
    const char *assignment_id; /* 1..64 of [a-z0-9_-]; the control plane's word, opaque */
    const char *instance_id;
    uint64_t generation;
    enum mt_desired_state desired_state;
    uint32_t drain_delay_seconds; /* 0..60 */
    struct mt_workload *workload; /* owned; NULL when stopped, or when it could not be honoured (fault.field set) */
    struct mt_workload_fault fault; /* field[0] != 0: report spec_unsupported with this detail */
    json_t *unread; /* the workload that has the fault, borrowed from the plan's document; encoded again as it came */
    const char *secret_ref;       /* sv_... or NULL */
    const char *trace_id;         /* of the request that wants it so, 32 lower-case hex digits, for lines of the log; or NULL */
};

/* A key that takes over from the present one at the same moment on all nodes (networking.md 2.4). */
struct mt_plan_rotation {
    const char *next_public_key; /* NULL: no rotation runs */
    uint64_t cutover_unix_ms;
};

/* A peer of the mesh. What must hold of all peers together is asked by mt_mesh_check (mesh.h). */
struct mt_plan_peer {
    const char *node_id;
    const char *public_key;       /* base64 of 32 bytes */
    struct mt_strings endpoints;  /* "192.0.2.1:51820", "[2001:db8::1]:51820", in the order to try; may be empty: the peer calls */
    struct mt_strings allowed_ips;
    struct mt_strings roles;      /* worker, edge, control */
    uint32_t keepalive;           /* s, 0: none */
    uint64_t key_generation;
    struct mt_plan_rotation rotation;
};

#define MT_PLAN_IPV4_MAX 256
#define MT_PLAN_IPV4_PORTS 256
#define MT_IPV4_POOL_ASKED 1024 /* addresses of the pool in the answer to a heartbeat that asks for them */
#define MT_IPV4_STRAYS_MAX 64   /* of them where they should not be, told by a heartbeat */
#define MT_IPV4_STRAY_HERE "here" /* on a link of the node itself, else the hardware address of who has it */

/* A dedicated IPv4 address that the edge of this node carries. */
struct mt_plan_ipv4 {
    const char *address;
    uint64_t until_unix_ms; /* 0: as long as it is named; else connections may go on until then, and it is given back */
    bool moved;             /* from an edge that is not heard: taken although that one may still answer for it */
    size_t n_ports;
    uint16_t ports[MT_PLAN_IPV4_PORTS]; /* on which routes listen */
};

#define MT_PLAN_PRIVATE_MAX 4096
#define MT_PLAN_EDGE_PORTS 4096

/* An instance of an environment whose instances may reach each other. */
struct mt_plan_private {
    const char *env_id;
    const char *address;
    size_t n_ports;
    uint16_t ports[MT_WORKLOAD_PORTS_MAX]; /* declared, less those where a peer could forge who the client is */
};

/* The node's own side of the mesh (docs/formats/mesh-plan.md). */
struct mt_plan_mesh {
    bool present; /* false: this node is in no mesh (one machine alone); there are no peers then */
    uint64_t revision;
    uint32_t listen_port;
    const char *public_key; /* the key that the peers know as this node's */
    uint64_t key_generation;
    struct mt_plan_rotation rotation; /* of this node's own key */
    bool rotate;                      /* an operator wants another key, and it is this node's turn: it makes one and tells its public half */
    bool allow_mass_removal;          /* an operator wants more than half of the peers gone */
};

struct mt_plan_network {
    uint32_t mtu;                 /* 1280..9000 */
    const char *cluster_prefix;   /* P, "fd00:1:2::/48" */
    const char *overlay_ipv6;     /* this node's own address in P:0::/64 */
    const char *instance_prefix;  /* this node's /80 in P:1::/64 */
    struct mt_strings dns;        /* <= 3 IPv6 addresses given to guests */
    struct mt_strings edges;      /* overlay addresses of active edge nodes */
    struct mt_strings gateways;   /* overlay addresses of control nodes */
    struct mt_strings quarantine; /* addresses of this node's VMs that may start no flow; at most MT_PLAN_INSTANCES_MAX */
    struct mt_plan_ipv4 *ipv4;
    size_t n_ipv4;
    struct mt_plan_private *private; /* of every environment of which this node has an instance, those of other nodes too; sorted by env_id */
    size_t n_private;
    const char *egress_mode;      /* "none", "routed" or "nat66" */
    uint16_t *edge_ports;         /* where the edge of this node listens on its shared addresses: TCP over IPv6 */
    size_t n_edge_ports;
    struct mt_plan_mesh mesh;
    struct mt_plan_peer *peers; /* sorted by node_id */
    size_t n_peers;
};

struct mt_plan_node_config {
    const char *kernel_version;     /* bundle for new boots; NULL: the agent's newest */
    uint64_t reserved_memory_bytes; /* 0: the agent's own figure */
    uint64_t image_cache_bytes;     /* 0: the agent's own figure */
    uint64_t memory_overhead_bytes; /* what a VM costs beyond its memory; 0: the agent's own figure */
    uint64_t cpu_overcommit_percent, cpu_ceiling_percent; /* of the cores: promised, and the most; 0: the agent's own figures */
    struct mt_limits limits;
};

struct mt_plan {
    json_t *doc; /* owned */
    const char *cluster_id;
    const char *node_id;
    uint64_t epoch;
    uint64_t cursor_event_id;
    const char *plan_id; /* bare ULID */
    bool allow_empty;
    bool recovery; /* the control plane is in recovery: nothing is drained for being absent */
    struct mt_assignment *instances;
    size_t n_instances;
    struct mt_plan_network network;
    struct mt_plan_node_config node_config;
    struct mt_plan_storage storage; /* volumes of this node, and the jobs on them (volume.h) */
};

/**
 * Decode a NodePlan. A broken plan is refused as a whole; a broken workload inside it is not: that assignment carries its
 * fault, so one bad spec cannot stop the other instances of the node. Duplicate instance ids refuse the plan.
 *
 * @json   borrowed; the plan keeps a reference
 * @ret    freed by mt_plan_free
 * Returns 0; -MT_E_INVALID (field and reason in the message: report plan_rejected); -MT_E_NOMEM.
 */
int mt_plan_decode(json_t *json, struct mt_plan **ret, struct mt_err *err);

/** Decode the `network` object alone, as an agent keeps it. Borrows from @network; release with mt_plan_network_done. */
int mt_plan_network_decode(json_t *network, struct mt_plan_network *ret, struct mt_err *err);
void mt_plan_network_done(struct mt_plan_network *n);

/** Parse text (bounded, duplicate keys refused) and decode it. */
int mt_plan_parse(const char *text, size_t len, struct mt_plan **ret, struct mt_err *err);

/** Encode a plan built by hand or decoded. New reference in @ret. Returns 0 or -MT_E_NOMEM. */
int mt_plan_encode(const struct mt_plan *plan, json_t **ret, struct mt_err *err);

/** Free a decoded plan, its assignments and their workloads; NULL is fine. */
void mt_plan_free(struct mt_plan *plan);

/** One transition of one instance; also the element of the 60 s resync. */
struct mt_status_report {
    const char *instance_id;
    const char *boot_id; /* NULL before the first attempt */
    uint64_t generation;
    enum mt_instance_status status;
    const char *status_detail; /* NULL: none */
    const char *reason_code;   /* required when failed; unknown codes are kept as given */
    const char *reason_detail; /* NULL: none; at most 512 bytes */
    bool has_exit_code;
    int32_t exit_code;  /* 0..255 */
    const char *signal; /* "SIGKILL" or NULL */
    uint32_t restart_count;
    const char *next_retry_at; /* RFC 3339 or NULL */
    const char *reported_at;   /* RFC 3339 by the agent's clock */
    uint64_t seq;              /* per-instance counter kept on disk; lower ones are dropped */
    const json_t *autopsy;     /* object of docs/formats/autopsy.md: the newest attempt that failed and is not told yet; or NULL */
};

struct mt_status_batch {
    json_t *doc;
    const char *agent_version;
    bool resync; /* the full list: what is not in it is not on the node */
    struct mt_status_report *reports;
    size_t n_reports;
    struct mt_storage_reports storage; /* of volumes and jobs on them; with the reports at most MT_STATUS_BATCH_MAX */
};

int mt_status_batch_decode(json_t *json, struct mt_status_batch **ret, struct mt_err *err);
int mt_status_batch_encode(const struct mt_status_batch *batch, json_t **ret, struct mt_err *err);
void mt_status_batch_free(struct mt_status_batch *batch);

#define MT_HEARTBEAT_HOST_MAX 32

/** Body of the heartbeat, every 5 s. Byte and cpu figures are what the agent computed by scheduling 1.1. */
struct mt_heartbeat {
    json_t *doc;
    const char *node_id;
    const char *agent_version;
    const char *kernel_version; /* newest bundle, NULL when none */
    const char *init_version;   /* NULL when none */
    const char *vmm_version;    /* NULL when none */
    const char *vmm_driver;     /* "firecracker", "qemu", "fake", "probing" */
    const char *vmm_accel;      /* "kvm", "tcg", "none" */
    const char *vmm_reason;     /* why this driver */
    const char *arch;           /* "amd64" or "arm64" */
    struct mt_strings conditions;
    struct mt_strings protocols;
    uint64_t epoch, cursor_event_id; /* applied plan; 0 when none */
    const char *plan_id;             /* NULL when none */
    struct {
        uint64_t cpu_millis, memory_bytes, disk_bytes;
    } allocatable, used;
    uint64_t ceiling_cpu_millis;
    uint64_t memory_overhead_bytes; /* per instance: 64 MiB, QEMU 96 MiB */
    uint64_t image_cache_bytes;
    uint32_t counts[MT_STATUS_MAX]; /* instances by status */
    bool disk_pressure, memory_pressure;
    int64_t clock_unix_ms; /* the agent's wall clock; the receiver computes the offset */
    const char *ca_trust;  /* SHA-256 of the authorities that the node trusts, hex (docs/api/internal.md); NULL: it needs none */
    json_t *mesh;          /* object of docs/formats/mesh-plan.md, borrowed; NULL: in no mesh */
    json_t *host;         /* array of {item, finding, mend}: requirements of the host that are not met, borrowed; NULL: all are */
    json_t *ipv4;         /* array of what the node says of its dedicated IPv4 addresses, borrowed; NULL: it has none */
    json_t *ipv4_strays;  /* array of {address, at}: addresses of the pool that are elsewhere, borrowed; NULL: none was found */
    bool asks_ipv4_pool;  /* the answer is to have the pool */
    const char *public_ipv6, *public_ipv4; /* where the world reaches this host's edge, as inet_ntop writes it; NULL: not said */
    struct mt_storage_figures storage; /* not present: no volumes can live here */
};

int mt_heartbeat_decode(json_t *json, struct mt_heartbeat **ret, struct mt_err *err);
int mt_heartbeat_encode(const struct mt_heartbeat *heartbeat, json_t **ret, struct mt_err *err);
void mt_heartbeat_free(struct mt_heartbeat *heartbeat);
