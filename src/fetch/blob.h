/* SPDX-License-Identifier: Apache-2.0 */
/* The blob store as moat-fetch sees it: current folder = images_dir, blobs/sha256/<hex> complete, tmp/fetch/<hex>.part not. */
#pragma once

#include "base/buf.h"
#include "fetch/http.h"

#define MT_BLOB_DIR "blobs/sha256"
#define MT_BLOB_PART_DIR "tmp/fetch"

/** True when the blob is there with @size bytes (0: any size). Touches its time, which the garbage collector looks at. */
bool mt_blob_present(const char *digest, uint64_t size);

/**
 * Download one blob of known digest and size: hashed while written, resumed where a killed predecessor stopped (what it left is
 * hashed again), flushed, renamed. Another process that downloads the same blob is waited for.
 * *ret_downloaded grows by the bytes that came over the network. 0, or -1 with @f set.
 */
int mt_blob_download(struct mt_fetch_session *s, const char *digest, uint64_t size, int64_t deadline_ns, atomic_bool *stop,
                     atomic_uint_fast64_t *ret_downloaded, struct mt_fetch_fault *f);

/** Put a small verified document into the store under its digest. */
int mt_blob_put(const char *digest, const void *data, size_t len, struct mt_fetch_fault *f);

/**
 * Fetch a small document into memory: @kind "manifests" or "blobs", @name tag or digest, at most @max bytes. With a digest as
 * name the bytes are checked against it; else against the registry's Docker-Content-Digest when it sends one. Digest of the
 * bytes into @ret_digest. @ret_type (128 bytes) may be NULL.
 */
int mt_blob_document(struct mt_fetch_session *s, const char *kind, const char *name, const char *accept, size_t max, int tries,
                     struct mt_buf *ret, char ret_digest[MT_DIGEST_LEN + 1], char *ret_type, struct mt_fetch_fault *f);
