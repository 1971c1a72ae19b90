/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest `moat.toml`: reading, checking, defaults, canonical JSON and its hash. CLI and control plane call the same
 * code, so both give the same hash or the same list of problems.
 *
 * Pure: text in, document out; no file, no network. Source: control-plane.md 4; docs/manifest.md for people.
 */
#pragma once

#include "base/cleanup.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/workload.h"

struct mt_buf;
struct mt_err;

#define MT_MANIFEST_BYTES_MAX (64U * 1024U)
#define MT_MANIFEST_PROBLEMS_MAX 100
#define MT_MANIFEST_HASH_SIZE 72 /* "sha256:" + 64 hex + NUL */

/* X(symbol): the codes of control-plane.md 4.3, written E_... and W_... on the wire. */
#define MT_MANIFEST_CODES(X)                                                                                              \
    X(E_TOML_SYNTAX) X(E_TOO_LARGE) X(E_SCHEMA_VERSION) X(E_UNKNOWN_FIELD) X(E_TYPE) X(E_REQUIRED) X(E_RANGE)             \
    X(E_PATTERN) X(E_ENUM) X(E_DUPLICATE) X(E_DIGEST) X(E_NO_PROCESSES) X(E_RESERVED_VAR) X(E_HOST_ACCESS)                \
    X(E_PORT_UNRESOLVED) X(E_HEALTH_PATH) X(E_MOUNT_PATH) X(E_MOUNT_VOLUME) X(E_VOLUME_SHARED) X(E_VOLUME_REPLICA_LIMIT)  \
    X(E_SCALE_RANGE) X(E_AUTOSCALE_UNSUPPORTED) X(E_PROTOCOL_UNSUPPORTED) X(E_FILESYSTEM_UNSUPPORTED)                     \
    X(E_RESTART_FIELDS) X(E_PROXY_ACK) X(E_SECRETS_PATH) X(E_BUILD_UNSUPPORTED) X(W_UNUSED_VOLUME) X(W_SECRET_LIKE_VAR)

enum mt_manifest_code {
#define MT_MANIFEST_ENUM(symbol) MT_##symbol,
    MT_MANIFEST_CODES(MT_MANIFEST_ENUM)
#undef MT_MANIFEST_ENUM
    MT_MANIFEST_CODE_MAX
};

/** "E_TOML_SYNTAX" and so on. */
const char *mt_manifest_code_name(enum mt_manifest_code code);
/** True for the W_ codes, which refuse nothing. */
bool mt_manifest_code_is_warning(enum mt_manifest_code code);

struct mt_manifest_problem {
    enum mt_manifest_code code;
    uint32_t line, column; /* from 1 */
    char path[192];        /* "processes.web.ports[0].internal"; "" for the whole file */
    char message[240];     /* lower case, no full stop */
    char hint[200];        /* what to write instead; "" when there is nothing to say */
};

struct mt_manifest_options {
    bool json;                 /* the text is JSON with the same names */
    bool image_given;          /* --image was passed: image.ref may be absent */
    uint64_t max_memory_bytes; /* operator's maximum per process; 0 = 64 GiB */
};

struct mt_manifest {
    struct mt_manifest_problem *problems; /* errors and warnings, ordered by line and column; at most 100 */
    size_t n_problems;
    size_t n_errors; /* 0: the fields below are set */

    json_t *canonical;                /* owned; app and image are not in it */
    char *canonical_text;             /* owned; the exact bytes that were hashed */
    size_t canonical_len;
    char hash[MT_MANIFEST_HASH_SIZE]; /* "sha256:..." */
    char *app_name;                   /* owned, NULL when absent; so for the next two */
    char *app_description;
    char *image_ref;
};

/**
 * Read and check a manifest. Problems of the manifest are not an error of this call: look at ret->n_errors.
 *
 * @text, @len   TOML, or JSON when the options say so, any bytes; more than MT_MANIFEST_BYTES_MAX is the problem E_TOO_LARGE
 * @options      NULL for the defaults
 * @ret          freed by mt_manifest_free
 * Returns 0; -MT_E_NOMEM.
 */
int mt_manifest_parse(const char *text, size_t len, const struct mt_manifest_options *options, struct mt_manifest **ret,
                      struct mt_err *err);

void mt_manifest_free(struct mt_manifest *manifest);
static inline void mt_manifest_freep(struct mt_manifest **manifest)
{
    mt_manifest_free(*manifest);
    *manifest = NULL;
}
#define mt_auto_manifest mt_cleanup(mt_manifest_freep)

/** Problems as a JSON array of {code, path, line, column, message, hint}; errors only when @warnings is false. NULL: no memory. */
json_t *mt_manifest_problems_json(const struct mt_manifest *manifest, bool warnings);

/** The JSON Schema (draft 2020-12) of a manifest as TOML readers see it; owned by the caller. NULL: no memory. What a schema cannot
 * say (references between fields, bytes of texts, names of the image) only mt_manifest_parse knows. */
json_t *mt_manifest_schema(void);

/** Every field as a table in Markdown: key, type, default, rule. Returns 0 or -MT_E_LIMIT when @out is too small. */
int mt_manifest_fields_markdown(struct mt_buf *out, struct mt_err *err);

/**
 * Write a good manifest in canonical TOML: tables in the order of the table of fields, processes by name, keys in a fixed order,
 * one spelling of every value. Comments travel with what they stand before, behind or directly below; order within vars and
 * lists stays. The result has the same hash, and formatting it again changes nothing.
 * Returns 0; -MT_E_INVALID when the manifest has problems (ask mt_manifest_parse which; a missing image is none);
 * -MT_E_LIMIT when @out is too small; -MT_E_NOMEM; -MT_E_CORRUPT would be a fault of the writer: the text is not to be used.
 */
int mt_manifest_format(const char *text, size_t len, struct mt_buf *out, struct mt_err *err);

/* ---- what others read out of a canonical manifest (as stored with a release) ---- */

struct mt_manifest_port {
    const char *name;
    uint16_t internal;
};

struct mt_manifest_mount {
    const char *volume;
    const char *path;
    bool read_only;
};

/** One process type; texts are borrowed from the canonical JSON, arrays are owned. */
struct mt_manifest_process {
    json_t *slice; /* borrowed: the process's object */
    uint32_t cpu_millis;
    uint64_t memory_bytes, disk_bytes;
    uint32_t scaling_min, scaling_max;
    struct mt_manifest_port *ports; /* ascending number */
    size_t n_ports;
    struct mt_manifest_mount *mounts; /* ascending path */
    size_t n_mounts;
    struct mt_health health; /* type NONE: no check declared */
    enum mt_restart_policy restart_policy;
    uint32_t stop_grace_seconds;
    uint32_t prestart_seconds; /* sum of the timeouts of the prestart commands that run, 0 when none */
    bool secrets_required;
};

struct mt_manifest_route {
    const char *env, *process;
    uint16_t port;          /* of the process */
    const char *hostname;   /* NULL: raw without a name */
    uint16_t listen_port;
    const char *protocol;   /* "tls_passthrough", "tcp_raw" */
    const char *proxy_protocol; /* "off", "v2" */
    bool backend_expects_proxy_protocol, ipv4;
};

struct mt_manifest_volume {
    const char *name;
    uint64_t size_bytes;
    bool backup_enabled;
};

/**
 * Read one process type. Returns 0; -MT_E_NOT_FOUND when the manifest has no such process; -MT_E_CORRUPT when the JSON is
 * not a canonical manifest; -MT_E_NOMEM. Free with mt_manifest_process_done.
 */
int mt_manifest_process_read(const json_t *canonical, const char *process_type, struct mt_manifest_process *ret,
                             struct mt_err *err);
void mt_manifest_process_done(struct mt_manifest_process *process);

/**
 * The manifest with more mounts of one process type laid over it, as if it named them: @more is [{volume, path, read_only}], canonical items. One whose
 * path or volume the process has already is left out. A new reference: @canonical itself when nothing is added. Returns 0, -MT_E_CORRUPT, -MT_E_NOMEM.
 */
int mt_manifest_with_mounts(const json_t *canonical, const char *process_type, const json_t *more, json_t **ret, struct mt_err *err);

/** Names of the process types in ascending order. The array is owned by the caller (mt_strings_done of model/jsonout.h or
 * free(ret->v)), the texts by @canonical. Returns 0, -MT_E_CORRUPT, -MT_E_NOMEM. */
int mt_manifest_process_types(const json_t *canonical, struct mt_strings *ret, struct mt_err *err);

/** Number of routes, and the i-th. Reading returns 0 or -MT_E_CORRUPT. */
size_t mt_manifest_n_routes(const json_t *canonical);
int mt_manifest_route_read(const json_t *canonical, size_t i, struct mt_manifest_route *ret, struct mt_err *err);

/** Number of volumes, and the i-th. Reading returns 0 or -MT_E_CORRUPT. */
size_t mt_manifest_n_volumes(const json_t *canonical);
int mt_manifest_volume_read(const json_t *canonical, size_t i, struct mt_manifest_volume *ret, struct mt_err *err);

/* ---- writing one ---- */

struct mt_manifest_minimal {
    const char *app;      /* app name, or NULL */
    const char *image;    /* reference */
    const char *process;  /* NULL: "web" */
    uint16_t port;        /* 0: no port, no route */
    const char *env;      /* of the route; NULL: "production" */
    const char *hostname; /* NULL: no route */
    const char *memory;   /* "256Mi"; NULL: that */
};

/**
 * Write the smallest manifest that runs an image, for `moat init` and `moat run`. Every text is checked first by the same
 * rules the reader has, so what comes out always passes mt_manifest_parse.
 * Returns 0; -MT_E_INVALID naming the bad argument; -MT_E_LIMIT when @out is too small or memory is out.
 */
int mt_manifest_minimal(const struct mt_manifest_minimal *what, struct mt_buf *out, struct mt_err *err);
