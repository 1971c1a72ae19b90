/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OCI and Docker image documents: manifest, index, config. Parsing with every limit of runtime.md 13; no I/O.
 *
 * The bytes come from a registry and are hostile. Parsed structs own their strings and hold only checked values: digests are
 * well-formed, sizes are within limits, counts are bounded.
 */
#pragma once

#include "base/err.h"
#include "wire/imageref.h"

#define MT_OCI_MANIFEST_MAX ((size_t)4 << 20) /* bytes of a manifest or index */
#define MT_OCI_CONFIG_MAX ((size_t)8 << 20)   /* bytes of a config blob */
#define MT_OCI_LAYERS_MAX 128
#define MT_OCI_PLATFORMS_MAX 256              /* entries of an index */

#define MT_OCI_TYPE_INDEX "application/vnd.oci.image.index.v1+json"
#define MT_OCI_TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define MT_OCI_TYPE_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define MT_OCI_TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"

enum mt_oci_kind { MT_OCI_MANIFEST = 0, MT_OCI_INDEX, MT_OCI_KIND_MAX };
enum mt_oci_compression { MT_OCI_PLAIN = 0, MT_OCI_GZIP, MT_OCI_ZSTD, MT_OCI_COMPRESSION_MAX };

/** What was wrong with a document, for reason codes; names are stable. */
enum mt_oci_fault {
    MT_OCI_OK = 0,
    MT_OCI_BAD_DOCUMENT,   /* not JSON, missing or wrong members */
    MT_OCI_BAD_MEDIA_TYPE, /* a layer or document type that is not run here (foreign, encrypted, schema 1) */
    MT_OCI_TOO_LARGE,      /* sizes or counts above a limit */
    MT_OCI_BAD_PLATFORM,   /* the config is for another os or architecture */
    MT_OCI_FAULT_MAX
};

struct mt_oci_blob {
    char digest[MT_DIGEST_LEN + 1];
    uint64_t size;
    enum mt_oci_compression compression; /* layers only */
};

struct mt_oci_manifest {
    struct mt_oci_blob config;
    struct mt_oci_blob layers[MT_OCI_LAYERS_MAX];
    size_t layer_count;        /* 1..128 */
    uint64_t compressed_bytes; /* sum of the layer sizes */
};

struct mt_oci_platform {
    char os[32], arch[32], variant[32]; /* variant may be "" */
    char digest[MT_DIGEST_LEN + 1];
    uint64_t size;
};

struct mt_oci_index {
    struct mt_oci_platform *entries; /* those with a usable platform; attestations ("unknown") are left out */
    size_t count;
};

struct mt_oci_config {
    char os[32], arch[32], variant[32];
    char diff_ids[MT_OCI_LAYERS_MAX][MT_DIGEST_LEN + 1];
    size_t diff_id_count;
    char **entrypoint, **cmd, **env, **exposed_ports; /* NULL ended, never NULL; exposed_ports in byte order */
    char *working_dir, *user, *stop_signal;           /* never NULL, may be "" */
};

/**
 * Which document @data is, by its mediaType member and, without one, its shape. @content_type is the registry's header, used
 * only when the document does not say (may be NULL).
 * -MT_E_INVALID with *ret_fault set.
 */
int mt_oci_sniff(const void *data, size_t len, const char *content_type, enum mt_oci_kind *ret_kind,
                 enum mt_oci_fault *ret_fault, struct mt_err *err);

/**
 * Parse an image manifest (OCI v1 or Docker schema 2). @max_compressed bounds the sum of layer sizes.
 * -MT_E_INVALID or -MT_E_LIMIT with *ret_fault set. *ret is written only on success; nothing to free.
 */
int mt_oci_manifest_parse(const void *data, size_t len, uint64_t max_compressed, struct mt_oci_manifest *ret,
                          enum mt_oci_fault *ret_fault, struct mt_err *err);

/** Parse an index or Docker manifest list. Free with mt_oci_index_done. Errors as above. */
int mt_oci_index_parse(const void *data, size_t len, struct mt_oci_index *ret, enum mt_oci_fault *ret_fault, struct mt_err *err);
void mt_oci_index_done(struct mt_oci_index *index);

/**
 * The entry for linux and @arch ("amd64", "arm64"); for arm64 a variant of "" or "v8" is taken, the first one that fits wins.
 * NULL when there is none.
 */
const struct mt_oci_platform *mt_oci_index_pick(const struct mt_oci_index *index, const char *arch);

/**
 * Parse an image config. @layer_count must equal the number of diff_ids. Environment: at most 512 entries and 128 KiB; lists
 * at most 1024 strings of 32 KiB. Free with mt_oci_config_done. Errors as above.
 */
int mt_oci_config_parse(const void *data, size_t len, size_t layer_count, struct mt_oci_config *ret,
                        enum mt_oci_fault *ret_fault, struct mt_err *err);
void mt_oci_config_done(struct mt_oci_config *config);

/** Check os = linux and architecture = @arch (arm64: variant "" or "v8"). -MT_E_INVALID, *ret_fault = BAD_PLATFORM. */
int mt_oci_config_match(const struct mt_oci_config *config, const char *arch, enum mt_oci_fault *ret_fault, struct mt_err *err);

struct json_t;
/**
 * The part a workload inherits as a new JSON object: Entrypoint, Cmd, Env, ExposedPorts (arrays), WorkingDir, User, StopSignal
 * (strings). NULL when memory is out. The caller owns the reference.
 */
struct json_t *mt_oci_config_subset(const struct mt_oci_config *config);
