/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sealed file: bytes in frames of AES-256-GCM under a key of its own, which is wrapped by a master key of this platform. Frames are bound to
 * the file, their place and whether they are the last one: what was cut, changed, swapped or glued is noticed. Format: docs/formats/control-backup.md.
 * One thread at a time.
 */
#pragma once

#include "control/secrets/keys.h"
#include "os/lockmem.h"

#include <stdio.h>

#define MT_SEALED_FRAME ((size_t)64 << 10)

struct mt_sealed {
    int fd;                 /* borrowed */
    struct mt_lockmem key;
    uint8_t file[32];       /* digest of the header */
    uint64_t index;         /* of the next frame */
    bool last;              /* it was read or written */
    uint8_t *plain, *frame; /* MT_SEALED_FRAME, and with length and tag */
    size_t fill, at;        /* content of plain, and how much of it was given out */
    uint64_t bytes;         /* of the file so far */
};

/** Begin a file at @fd. -MT_E_UNAVAILABLE without an active master key. */
int mt_sealed_create(struct mt_sealed *s, int fd, struct mt_keys *keys, struct mt_err *err);
int mt_sealed_write(struct mt_sealed *s, const void *data, size_t n, struct mt_err *err);
/** The last frame, and all of it on the disk. */
int mt_sealed_finish(struct mt_sealed *s, struct mt_err *err);
/** Read one from @fd's place. -MT_E_CORRUPT: it is none, or changed; -MT_E_UNAVAILABLE: its master key is not loaded. */
int mt_sealed_open(struct mt_sealed *s, int fd, struct mt_keys *keys, struct mt_err *err);
/** Exactly @n bytes. -MT_E_CORRUPT: changed, cut, or it ends before. */
int mt_sealed_read(struct mt_sealed *s, void *ret, size_t n, struct mt_err *err);
/** After the last byte: nothing follows. -MT_E_CORRUPT. */
int mt_sealed_at_end(struct mt_sealed *s, struct mt_err *err);
/** Wipe and free. */
void mt_sealed_done(struct mt_sealed *s);
