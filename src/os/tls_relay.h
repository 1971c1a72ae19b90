/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS on one side, plain bytes on the other: the handshake and then the bytes of one connection, on a loop. Who gets the plain end (one end
 * of a socket pair) needs to know nothing of TLS: the HTTP server's library, an upgraded WebSocket, a client's session.
 *
 * An idle relay holds no buffer. A side that does not read stops the other from being read; at most 16 KiB wait in each direction beside
 * what the kernel holds. When the plain end is closed, what it wrote still goes out, then close_notify, and for a second what the peer still
 * sends is read and dropped, so that a reset does not take the last bytes from it.
 */
#pragma once

#include "os/tls.h"

struct mt_loop;
struct mt_tls_relay;

struct mt_tls_relay_ops {
    /** The handshake is done: @plain_fd (non-blocking, CLOEXEC) is the callee's. @peer is NULL when no certificate was shown. 0, or -code:
     *  then the callee has closed @plain_fd. */
    int (*ready)(struct mt_tls_relay *r, int plain_fd, const struct mt_tls_peer *peer, void *arg);
    /** It is over, for @err when the handshake failed (else NULL); the relay is gone after this call. Called once, never from within
     *  mt_tls_relay_new or mt_tls_relay_free. */
    void (*closed)(struct mt_tls_relay *r, const struct mt_err *err, void *arg);
};

/** Begin the handshake over @net_fd (a connected stream socket, non-blocking), which the relay owns from here on, also when this fails.
 *  @handshake_ms: not done by then, it fails with -MT_E_TIMEOUT. */
int mt_tls_relay_new(struct mt_loop *l, struct mt_tls_ctx *ctx, int net_fd, int64_t handshake_ms, const struct mt_tls_relay_ops *ops, void *arg,
                     struct mt_tls_relay **ret, struct mt_err *err);
/** End it at once, without the callback. NULL is fine. */
void mt_tls_relay_free(struct mt_tls_relay *r);

/**
 * For a client without a loop: @t (handshake done) and @net_fd go to a thread of their own, which moves bytes until one side ends.
 * @ret_fd: the plain end, non-blocking, the caller's. Both are owned by the call, also when it fails.
 */
int mt_tls_relay_thread(struct mt_tls *t, int net_fd, int *ret_fd, struct mt_err *err);
