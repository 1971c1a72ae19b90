/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One unpack: the request as it comes from the agent, the documents it rests on, the worker's verdict.
 *
 * Request, one JSON object on stdin:
 *   images_dir  absolute folder of the image store; blobs/sha256/ lies in it
 *   work_dir    name of a folder in images_dir/tmp that the user may write to; disk.ext4 is made there
 *   digest      "sha256:..." of an image manifest whose blobs are all present
 *   arch        "amd64" or "arm64"
 *   format_version, e2fsck, uid, gid, max_unpacked_bytes, max_entries, cpu_seconds: optional
 * Answer, one JSON object on stdout:
 *   {"ok":true,"key","digest","format","bytes","used_bytes","uuid","sha256","config":{...},"entries","devices_skipped",
 *    "unpacked_bytes","tool_version"}
 *   {"ok":false,"error":{"reason_code","detail","message"}} with exit status 1
 */
#pragma once

#include "unpack/apply.h"
#include "wire/oci.h"

#include <sys/types.h>

struct mt_unpack_request {
    char *images_dir, *work_dir, *digest, *arch, *format_version, *e2fsck;
    uid_t uid;
    gid_t gid;
    struct mt_apply_limits limits;
    uint64_t cpu_seconds;
};

/** Parse and check a request. Free with mt_unpack_request_done. -MT_E_INVALID names the member. */
int mt_unpack_request_parse(const char *text, size_t len, struct mt_unpack_request *ret, struct mt_err *err);
void mt_unpack_request_done(struct mt_unpack_request *r);

/** The image's documents, checked against the digest and one another, and its open layer blobs. */
struct mt_unpack_image {
    struct mt_oci_manifest manifest;
    struct mt_oci_config config;
    int layer_fd[MT_OCI_LAYERS_MAX];
};

/** Load from blobs/sha256 below the current folder. -1 with @f set; free with mt_unpack_image_done in any case. */
int mt_unpack_image_load(const struct mt_unpack_request *r, struct mt_unpack_image *image, struct mt_fault *f);
void mt_unpack_image_done(struct mt_unpack_image *image);

/** What the worker did. */
struct mt_unpack_result {
    uint64_t bytes, used_bytes, entries, devices_skipped, unpacked;
};

/**
 * In a forked child without rights: apply all layers, check every diff_id, write the ext4 to @image_fd. Waits for it.
 * The child's answer is data from a hostile place and is checked as such.
 */
int mt_unpack_work(const struct mt_unpack_request *r, const struct mt_unpack_image *image, int image_fd, int spool_fd,
                   const uint8_t uuid[16], struct mt_unpack_result *ret, struct mt_fault *f);
