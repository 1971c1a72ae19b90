/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WebSocket frames (RFC 6455), for both ends: header out, frame in, the answer to a handshake's key. No I/O, no allocation. A message is one
 * frame: fragments are refused, extensions are never agreed to.
 */
#pragma once

#include "base/err.h"

#define MT_WS_HEAD_MAX 14U
#define MT_WS_ACCEPT_SIZE 29
#define MT_WS_CONTROL_MAX 125U

enum mt_ws_op { MT_WS_TEXT = 1, MT_WS_BINARY = 2, MT_WS_CLOSE = 8, MT_WS_PING = 9, MT_WS_PONG = 10 };

struct mt_ws_frame {
    enum mt_ws_op op;
    uint8_t *payload; /* unmasked, within the data given */
    size_t len;
};

/** Sec-WebSocket-Accept for a Sec-WebSocket-Key; false when @key is not the base64 of 16 bytes. */
bool mt_ws_accept(const char *key, char ret[MT_WS_ACCEPT_SIZE]);
/** A fresh Sec-WebSocket-Key, 24 characters and NUL. */
void mt_ws_key(char ret[25]);

/** Header of a whole message of @len bytes; @mask 4 bytes of a client, NULL of a server. Returns its size. */
size_t mt_ws_head(uint8_t out[MT_WS_HEAD_MAX], enum mt_ws_op op, size_t len, const uint8_t mask[4]);
/** Mask or unmask @len bytes in place. */
void mt_ws_mask(uint8_t *p, size_t len, const uint8_t mask[4]);

/**
 * Read the first frame of @data (changed in place: unmasked, when it is whole).
 * @from_client  frames must be masked; else must not be
 * @max          longest payload
 * Returns 0; 1 need more bytes; -MT_E_INVALID, -MT_E_LIMIT: close with 1002 or 1009. Never reads past @len.
 */
int mt_ws_decode(uint8_t *data, size_t len, bool from_client, size_t max, struct mt_ws_frame *ret, size_t *ret_used, struct mt_err *err);
