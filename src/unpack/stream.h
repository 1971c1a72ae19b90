/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The uncompressed bytes of one layer: reads a blob descriptor, inflates, hashes, counts against the ratio limit.
 *
 * With a thread beside it the inflating runs ahead of the reader by a few buffers. Knows nothing of tar.
 */
#pragma once

#include "unpack/fault.h"
#include "wire/oci.h"

struct mt_stream;

/** One stream, used for layer after layer; starts its thread (before any syscall filter). NULL when memory or threads are out. */
struct mt_stream *mt_stream_new(void);
void mt_stream_free(struct mt_stream *s);

/** Begin a layer: @fd is read from its start to @size bytes, borrowed until mt_stream_end. */
void mt_stream_begin(struct mt_stream *s, int fd, uint64_t size, enum mt_oci_compression compression);

/**
 * The next bytes, valid until the next call. Returns 1 with *ret_p and *ret_n > 0; 0 at the end; -1 with @f set: corrupt
 * compressed data (U11), ratio above 1000:1 after the first 64 MiB (U12), read errors.
 */
int mt_stream_read(struct mt_stream *s, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f);

/** After the end: hex sha256 of all bytes read so far in this layer. Stops the layer if it was not read to its end. */
void mt_stream_end(struct mt_stream *s, char ret_hex[65]);
