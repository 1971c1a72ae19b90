/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last N bytes of a stream, in a file of fixed size: a VM's console survives its writer and its reader.
 * One writer; readers need no lock, a read beside a write may show a line twice or cut. Format: docs/formats/vsock.md.
 */
#pragma once

#include "base/err.h"

enum { MT_RINGFILE_SIZE = 64 * 1024 }; /* bytes of content kept */
enum { MT_RINGFILE_HEAD = 16 };        /* "MTRING1\n", then total bytes ever written, u64 little endian */

struct mt_ringfile {
    int fd;         /* borrowed */
    uint64_t total; /* bytes ever written */
};

/** Make (or empty) the file at @path, mode 0600. @ret_fd readable and writable, owned by the caller. */
int mt_ringfile_create(const char *path, int *ret_fd, struct mt_err *err);
/** Start to write behind what is there. -MT_E_CORRUPT when @fd is not such a file. */
int mt_ringfile_attach(struct mt_ringfile *ring, int fd, struct mt_err *err);
/** Add bytes; only the last MT_RINGFILE_SIZE are kept. */
int mt_ringfile_append(struct mt_ringfile *ring, const void *data, size_t len, struct mt_err *err);
/** The last bytes, oldest first, at most @size. -MT_E_NOT_FOUND no such file, -MT_E_CORRUPT. */
int mt_ringfile_read(const char *path, char *buf, size_t size, size_t *ret_len, struct mt_err *err);
