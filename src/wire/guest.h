/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest channel: the words that moat-init (in the VM) and moat-agent (on the node) say to each other.
 *
 * Two streams over vsock. Control (port 5161): NDJSON, one object per line. Log (port 5163): binary
 * records. This room holds the message structs and their codec, for both ends. It does no I/O, never
 * allocates, links with musl and knows nothing of sockets, VMs or processes.
 * Source: runtime.md 9 (control), 10 (log); docs/formats/guest-channel.md.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_err;

#define MT_GUEST_PORT_CONTROL 5161U
#define MT_GUEST_PORT_EXEC 5162U
#define MT_GUEST_PORT_LOG 5163U
#define MT_GUEST_CID 3U

/** Protocol spoken by this build; both ends of the range. */
#define MT_GUEST_PROTO_MIN 1
#define MT_GUEST_PROTO_MAX 1

/** Longest line, without its '\n'. */
#define MT_GUEST_LINE_TO_GUEST_MAX ((size_t)1024 * 1024)
#define MT_GUEST_LINE_TO_HOST_MAX ((size_t)16 * 1024)

/** Decode memory that is enough for any accepted line of that direction, bytes. */
#define MT_GUEST_MEM_TO_GUEST ((size_t)2 * 1024 * 1024)
#define MT_GUEST_MEM_TO_HOST ((size_t)64 * 1024)

/** Longest `reason` and `detail` either end sends, bytes; longer ones are cut at a UTF-8 boundary. */
#define MT_GUEST_TEXT_MAX 1024

#define MT_GUEST_ARGV_MAX 256
#define MT_GUEST_ARG_BYTES_MAX ((size_t)64 * 1024)
#define MT_GUEST_ARGV_BYTES_MAX ((size_t)128 * 1024)
#define MT_GUEST_ENV_MAX 512
#define MT_GUEST_ENV_BYTES_MAX ((size_t)128 * 1024)
#define MT_GUEST_PRESTART_MAX 8
#define MT_GUEST_MOUNTS_MAX 8
#define MT_GUEST_DNS_MAX 3
#define MT_GUEST_SEARCH_MAX 6
#define MT_GUEST_HOSTS_MAX 64
#define MT_GUEST_FEATURES_MAX 16

/** Who wrote a line: decides the cap and which types are allowed. */
enum mt_guest_from {
    MT_GUEST_FROM_HOST = 0,
    MT_GUEST_FROM_GUEST,
};

enum mt_guest_type {
    MT_GUEST_UNKNOWN = 0, /**< well-formed envelope, `type` not of this build: ignore and count */
    MT_GUEST_HELLO,       /**< guest to host */
    MT_GUEST_CONFIG,      /**< host to guest */
    MT_GUEST_ACK,         /**< guest to host */
    MT_GUEST_STATUS,      /**< guest to host */
    MT_GUEST_BYE,         /**< host to guest, acknowledges a terminal status; no fields */
    MT_GUEST_RESUME,      /**< host to guest, answer to a hello of phase running; no fields */
    MT_GUEST_REJECT,      /**< host to guest */
    MT_GUEST_PING,        /**< host to guest */
    MT_GUEST_PONG,        /**< guest to host */
    MT_GUEST_SHUTDOWN,    /**< host to guest */
    MT_GUEST_SECRETS,     /**< host to guest, after the ack of a config that announces them; either end wipes it */
    MT_GUEST_FREEZE,      /**< host to guest: hold a volume still for a moment */
    MT_GUEST_THAW,        /**< host to guest */
    MT_GUEST_QUIESCED,    /**< guest to host: how it stands with that */
    MT_GUEST_FETCH_LOG,   /**< host to guest: a part of what init said of itself */
    MT_GUEST_LOG_CHUNK,   /**< guest to host: that part; one for each fetch_log */
    MT_GUEST_TYPE_MAX,
};

/** How it stands with a volume that was to be held still. */
enum mt_guest_quiesce {
    MT_GUEST_QUIESCE_FROZEN = 0, /**< nothing is written to it until thaw, or 5 s */
    MT_GUEST_QUIESCE_THAWED,     /**< by a thaw: it was held all the time between */
    MT_GUEST_QUIESCE_EXPIRED,    /**< by itself, because no thaw came */
    MT_GUEST_QUIESCE_FAILED,     /**< it was not held, or not to the end */
    MT_GUEST_QUIESCE_MAX,
};

enum mt_guest_phase {
    MT_GUEST_PHASE_BOOT = 0, /**< wants a config */
    MT_GUEST_PHASE_RUNNING,  /**< reconnected; wants resume */
    MT_GUEST_PHASE_MAX,
};

enum mt_guest_state {
    MT_GUEST_STATE_CONFIGURED = 0, /**< mounts and network are done */
    MT_GUEST_STATE_STARTED,        /**< workload runs, `pid` is set */
    MT_GUEST_STATE_EXITED,         /**< terminal: workload ended; exit_code or signal is set */
    MT_GUEST_STATE_FAILED,         /**< terminal: never started; `reason` is set */
    MT_GUEST_STATE_MAX,
};

/* All strings below are NUL-terminated UTF-8; decoded ones live in the decode
 * memory and die with it, given ones are borrowed. A NULL string is an absent field. Lists that are
 * decoded carry one NULL (or zeroed) entry after the last. */

struct mt_guest_hello {
    uint32_t proto_min, proto_max;
    const char *init_version; /**< version of moat-init */
    const char *arch;         /**< "amd64" or "arm64" */
    const char *kernel;       /**< uname release */
    const char *instance_id, *boot_id;
    enum mt_guest_phase phase;
    uint64_t uptime_ms; /**< since the kernel began, 0: not said */
};

struct mt_guest_ack {
    uint64_t generation;
    const char *config_sha256; /**< 64 lower-case hex digits: SHA-256 of the raw line without '\n' */
};

struct mt_guest_status {
    enum mt_guest_state state;
    const char *reason;  /**< a reason code of runtime.md 6, or NULL */
    const char *detail;  /**< its reason_detail, or NULL */
    int64_t pid;         /**< of the workload inside the guest; 0 absent */
    int32_t exit_code;   /**< 0..255; -1 absent (killed by a signal, or not ended) */
    const char *signal;  /**< name without SIG ("SEGV"), or NULL */
    bool core;           /**< always false today */
    uint64_t oom_kills;  /**< OOM kills inside the guest since it booted */
    bool clean_umount;   /**< terminal states: filesystems were synced and unmounted or made read-only */
    uint64_t uptime_ms;  /**< guest uptime when the state was reached */
    int64_t ts_ns;       /**< guest wall clock, ns since 1970 */
};

struct mt_guest_reject {
    const char *reason;
};

struct mt_guest_ping {
    int64_t ts_ns;
};

/** Wire: {"name":..,"used":..,"size":..}. How full the filesystem of one volume is. */
struct mt_guest_volume_use {
    char name[64]; /**< of the mount; longer ones are refused */
    uint64_t used_bytes, size_bytes;
};

struct mt_guest_pong {
    int64_t ts_ns;                           /**< copied from the ping */
    uint64_t mem_total_bytes, mem_available_bytes;
    uint64_t oom_kills;
    uint64_t procs;             /**< tasks, as sysinfo(2) counts them (threads too) */
    uint64_t load1_milli;       /**< 1-minute load average times 1000 (wire field `load1`) */
    uint64_t rootfs_used_bytes; /**< used bytes of the scratch disk (wire field `rootfs_used`) */
    uint64_t fs_errors;         /**< that the filesystems of the volumes count, until they are checked */
    struct mt_guest_volume_use volumes[MT_GUEST_MOUNTS_MAX];
    size_t volumes_count;
};

struct mt_guest_shutdown {
    uint64_t grace_ms;
    const char *reason; /**< planned-stop reason code, or NULL */
};

struct mt_guest_env {
    const char *key, *value;
};

struct mt_guest_prestart {
    const char **argv;
    size_t argc;
    uint64_t timeout_ms; /**< 1000..600000 */
};

struct mt_guest_process {
    const char **argv; /**< 1..MT_GUEST_ARGV_MAX; decoded: argv[argc] == NULL */
    size_t argc;
    const char *cwd; /**< absolute */
    struct mt_guest_env *env;
    size_t env_count;
    const char *user;        /**< "uid[:gid]" or "name[:group]", resolved in the guest; "" or NULL: 0:0 */
    const char *stop_signal; /**< TERM, INT, QUIT, HUP, USR1 or USR2 */
    struct mt_guest_prestart *prestart;
    size_t prestart_count;
    uint64_t nofile; /**< soft RLIMIT_NOFILE; 0 means the default 65536 */
};

struct mt_guest_root {
    const char *lower, *lower_uuid; /**< "/dev/vda" and the ext4 UUID, 36 characters lower case */
    const char *upper, *upper_uuid;
};

/** Of freeze and thaw. */
struct mt_guest_freeze {
    const char *volume_id;
};

struct mt_guest_quiesced {
    const char *volume_id;
    enum mt_guest_quiesce state;
    const char *detail; /**< why it failed; NULL none */
};

#define MT_GUEST_LOG_CHUNK_BYTES 8192U /**< most bytes of a log_chunk, before base64 */

struct mt_guest_fetch_log {
    uint64_t offset;
};

struct mt_guest_log_chunk {
    uint64_t offset;  /**< of its first byte */
    const char *data; /**< base64 with padding of at most MT_GUEST_LOG_CHUNK_BYTES */
    bool last;        /**< nothing follows it by now */
};

struct mt_guest_mount {
    const char *name, *volume_id, *device, *fs_uuid, *path;
    bool ro;
};

/** Wire: {"name":..,"address":..}. One line of /etc/hosts. */
struct mt_guest_host {
    const char *name, *address;
};

struct mt_guest_network {
    const char *ifname;      /**< "eth0" */
    const char *mac;         /**< own, aa:bb:cc:dd:ee:ff; checked against the link when given */
    const char *address;     /**< IPv6 text */
    uint32_t prefix_len;     /**< 128 */
    const char *gateway;     /**< IPv6 text, link-local */
    const char *gateway_mac; /**< permanent neighbour entry; NULL: none is made */
    uint32_t mtu;            /**< 1280..9000 */
    const char **dns;
    size_t dns_count;
    const char **search;
    size_t search_count;
    struct mt_guest_host *hosts;
    size_t hosts_count;
};

struct mt_guest_secrets {
    bool present, required;
    const char *version_id, *path, *sha256;
    uint32_t mode, uid, gid; /**< ids: UINT32_MAX (as absent on the wire): those of the workload */
    uint64_t bytes;
};

/** The content that the config announced; a message of its own, so that a config can be kept and logged. */
struct mt_guest_secrets_data {
    const char *version_id;
    const char *data;   /**< base64 with padding of at most 262144 bytes */
    const char *sha256; /**< of the bytes, 64 lower-case hex digits */
};

struct mt_guest_exec {
    bool enabled;
    uint32_t port, max_sessions;
};

struct mt_guest_logs {
    uint32_t port;       /**< 0: no log channel */
    uint32_t line_max;   /**< 256..16384; 0 means 16384 */
    uint32_t ring_bytes; /**< 65536..8388608; 0 means 1048576 */
};

/** Sizes in bytes; 0 means the default of runtime.md 8 step 8. */
struct mt_guest_tmpfs {
    uint64_t run_bytes, tmp_bytes, shm_bytes;
};

struct mt_guest_config {
    const char *instance_id, *boot_id;
    uint64_t generation; /**< >= 1 */
    const char **required_features;
    size_t required_features_count;
    const char *hostname;
    struct mt_guest_process process;
    struct mt_guest_root root;
    struct mt_guest_mount *mounts;
    size_t mounts_count;
    struct mt_guest_network network;
    struct mt_guest_secrets secrets; /**< all zero: none */
    struct mt_guest_exec exec;       /**< all zero: off */
    struct mt_guest_logs logs;
    struct mt_guest_tmpfs tmpfs;
    int64_t time_ns; /**< host wall clock when sent; 0: do not set the guest's clock */
};

struct mt_guest_msg {
    enum mt_guest_type type;
    uint32_t seq; /**< grows by sender and connection; checked with mt_guest_seq_ok() */
    union {
        struct mt_guest_hello hello;
        struct mt_guest_config config;
        struct mt_guest_ack ack;
        struct mt_guest_status status;
        struct mt_guest_reject reject;
        struct mt_guest_ping ping;
        struct mt_guest_pong pong;
        struct mt_guest_shutdown shutdown;
        struct mt_guest_secrets_data secrets;
        struct mt_guest_freeze freeze; /**< and thaw */
        struct mt_guest_quiesced quiesced;
        struct mt_guest_fetch_log fetch_log;
        struct mt_guest_log_chunk log_chunk;
    } u;
};

/** A block the decoder carves nodes, strings and lists from; the caller owns the bytes. */
struct mt_guest_mem {
    uint8_t *base;
    size_t cap, used;
};

/** Wire name of a type, phase or state; "unknown" for a value outside the enum. Static text. */
const char *mt_guest_type_name(enum mt_guest_type type);
const char *mt_guest_phase_name(enum mt_guest_phase phase);
const char *mt_guest_state_name(enum mt_guest_state state);
const char *mt_guest_quiesce_name(enum mt_guest_quiesce state);

/** True for exited and failed: the host must answer `bye`. */
static inline bool mt_guest_state_terminal(enum mt_guest_state state)
{
    return state == MT_GUEST_STATE_EXITED || state == MT_GUEST_STATE_FAILED;
}

/**
 * Write one message as a line.
 *
 * @msg      type, seq and the union member of that type; strings must be UTF-8 without NUL inside
 * @out,@cap receives the line with its '\n', no NUL. MT_GUEST_LINE_TO_HOST_MAX + 1 is enough for every
 *           guest message, MT_GUEST_LINE_TO_GUEST_MAX + 1 for every host message
 * @ret_len  bytes written, '\n' included
 * Returns 0; -MT_E_INVALID a required field is missing or text is not UTF-8, or a config breaks
 *         mt_guest_config_check(); -MT_E_LIMIT line longer than @cap or than the cap of its direction.
 */
int mt_guest_encode(const struct mt_guest_msg *msg, char *out, size_t cap, size_t *ret_len,
                    struct mt_err *err);

/**
 * Read one line.
 *
 * @from  who wrote it; a known type of the other direction is an error
 * @line  without '\n', borrowed, hostile, need not be NUL-terminated
 * @mem   reset by this call; strings of @ret_msg live there. MT_GUEST_MEM_TO_GUEST or _TO_HOST bytes
 * Returns 0 (also for type MT_GUEST_UNKNOWN); -MT_E_INVALID not the strict JSON of docs/formats, wrong
 *         types, missing fields, broken config limits; -MT_E_LIMIT line, depth, node or memory cap.
 *         Never reads past @len, never allocates, never recurses deeper than 8.
 */
int mt_guest_decode(enum mt_guest_from from, const char *line, size_t len, struct mt_guest_mem *mem,
                    struct mt_guest_msg *ret_msg, struct mt_err *err);

/**
 * All limits of runtime.md 9.3 that need no knowledge of the machine. Called by encode and decode of a
 * config; the agent may call it early.
 * Returns 0 or -MT_E_INVALID naming the field.
 */
int mt_guest_config_check(const struct mt_guest_config *config, struct mt_err *err);

/** True when @seq may follow @last (0: none yet): the first is >= 1 and each is larger than the last. */
static inline bool mt_guest_seq_ok(uint32_t last, uint32_t seq)
{
    return seq > last;
}

/* --- lines out of a byte stream --- */

/** Collects bytes into lines; the caller owns @buf (cap = longest line + 1). Zero @len to start over. */
struct mt_guest_lines {
    char *buf;
    size_t cap, len, taken;
};

/**
 * Where to read() the next bytes to, after mt_guest_lines_next() said 0.
 * Returns the room in bytes (>= 1) and sets @ret_at.
 */
size_t mt_guest_lines_room(struct mt_guest_lines *lines, char **ret_at);

/** @n bytes were put at the place given by mt_guest_lines_room(). */
void mt_guest_lines_fed(struct mt_guest_lines *lines, size_t n);

/**
 * Take the next whole line; it stays valid until the next call of any mt_guest_lines function.
 * Returns 1 and sets @ret_line, @ret_len (without '\n'); 0 need more bytes; -MT_E_LIMIT longer than cap.
 */
int mt_guest_lines_next(struct mt_guest_lines *lines, const char **ret_line, size_t *ret_len);

/* --- log channel records --- */

enum mt_guest_stream {
    MT_GUEST_STREAM_STDOUT = 1,
    MT_GUEST_STREAM_STDERR = 2,
    MT_GUEST_STREAM_SYSTEM = 3,
};

#define MT_GUEST_LOG_CONTINUES 0x01 /**< the line goes on in the next record of the stream */
#define MT_GUEST_LOG_GAP 0x02       /**< payload is u64be: bytes lost before the next record */

#define MT_GUEST_LOG_HEAD 22U                           /**< bytes before the payload, length included */
#define MT_GUEST_LOG_REST_MAX ((size_t)20 * 1024)       /**< largest value of the length field */
#define MT_GUEST_LOG_PAYLOAD_MAX (MT_GUEST_LOG_REST_MAX - 18)

struct mt_guest_log_record {
    uint8_t stream; /**< enum mt_guest_stream */
    uint8_t flags;
    uint64_t seq;     /**< per boot, grows by one for each record */
    uint64_t unix_ns; /**< guest wall clock when the line was read */
    const uint8_t *payload;
    size_t payload_len; /**< a line without its '\n'; may be empty */
};

/**
 * Write a record.
 * @out, @cap  MT_GUEST_LOG_HEAD + payload_len bytes are needed
 * Returns 0 and @ret_len; -MT_E_LIMIT payload or @cap; -MT_E_INVALID stream, flags or gap payload.
 */
int mt_guest_log_encode(const struct mt_guest_log_record *record, uint8_t *out, size_t cap, size_t *ret_len,
                        struct mt_err *err);

/**
 * Read the first record of @data.
 * @ret_record  payload points into @data
 * @ret_used    bytes the record took
 * Returns 0; 1 need more bytes (nothing is set); -MT_E_INVALID or -MT_E_LIMIT: close the connection.
 */
int mt_guest_log_decode(const uint8_t *data, size_t len, struct mt_guest_log_record *ret_record,
                        size_t *ret_used, struct mt_err *err);

/** The count of a gap record; 0 for any other record. */
uint64_t mt_guest_log_gap_bytes(const struct mt_guest_log_record *record);
