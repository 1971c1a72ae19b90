/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control connection: queue out, lines in. Knows messages and one descriptor, not what they mean for
 * the guest. Never blocks.
 */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

struct mt_channel {
    int fd;          /**< -1 closed; owned */
    bool connecting; /**< the attempt has not ended yet */
    uint32_t tx_seq, rx_seq;
    struct mt_guest_lines in;
    size_t out_len, out_sent;
    char out[4 * (MT_GUEST_LINE_TO_HOST_MAX + 1)];
};

/** @in_buf borrowed, for lines of up to @in_cap - 1 bytes. */
void mt_channel_init(struct mt_channel *c, char *in_buf, size_t in_cap);
/** Start over on @fd, which is taken; sequence numbers begin again. */
void mt_channel_open(struct mt_channel *c, int fd, bool connecting);
void mt_channel_close(struct mt_channel *c);

static inline bool mt_channel_up(const struct mt_channel *c)
{
    return c->fd >= 0 && !c->connecting;
}
static inline bool mt_channel_wants_write(const struct mt_channel *c)
{
    return c->fd >= 0 && (c->connecting || c->out_sent < c->out_len);
}

/**
 * Queue @msg (its seq is set here) and try to send.
 * Returns 0; -MT_E_UNAVAILABLE not connected; -MT_E_LIMIT the host does not read and the queue is full;
 *         -MT_E_IO connection broken; -MT_E_INVALID as mt_guest_encode().
 */
int mt_channel_send(struct mt_channel *c, struct mt_guest_msg *msg, struct mt_err *err);
/** Send what is queued as far as the socket takes it. 0 or -MT_E_IO. */
int mt_channel_flush(struct mt_channel *c, struct mt_err *err);
/** Read once. 0; -MT_E_IO end or error; -MT_E_LIMIT line over the cap. */
int mt_channel_fill(struct mt_channel *c, struct mt_err *err);
/** The next whole line: 1, 0 none yet, -MT_E_LIMIT. Valid until the next call on @c. */
int mt_channel_next(struct mt_channel *c, const char **ret_line, size_t *ret_len);
/** Forget the bytes of lines that were taken, whatever they held; the line taken last is no longer valid. */
void mt_channel_wipe(struct mt_channel *c);
