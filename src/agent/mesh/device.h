/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One WireGuard device as wg(8) shows it, and the one `wg set` that makes it what is wanted.
 *
 * wg(8) speaks to the kernel and to wireguard-go alike, so there is one way for both. Comparing is pure and sends only what
 * differs: sessions of peers that stay as they are go on undisturbed. Source: wg(8); networking.md §2.2, §2.3.
 */
#pragma once

#include "agent/mesh/want.h"
#include "base/buf.h"

#define MT_WG_ALLOWED_MAX 4
#define MT_WG_FRESH_S 180 /* a session older than this is none: WireGuard's REJECT_AFTER_TIME */

struct mt_wg_allowed {
    struct in6_addr addr;
    uint8_t plen;
};

struct mt_wg_peer {
    uint8_t key[MT_WG_KEY_LEN];
    bool has_psk;
    char endpoint[MT_MESH_ENDPOINT_LEN]; /* "" = none */
    size_t n_allowed;                    /* more than MT_WG_ALLOWED_MAX, or one that is not IPv6: odd */
    bool odd;
    struct mt_wg_allowed allowed[MT_WG_ALLOWED_MAX];
    int64_t handshake_s; /* Unix, 0: never */
    uint64_t rx_bytes, tx_bytes;
    uint16_t keepalive;
};

struct mt_wg_device {
    bool has_key, fwmark;
    uint8_t public_key[MT_WG_KEY_LEN];
    uint16_t port;
    size_t n;
    struct mt_wg_peer *peers; /* owned */
};

/** Read the output of `wg show DEVICE dump`; @text is wiped where it holds the private key. -MT_E_INVALID, -MT_E_NOMEM. */
int mt_wg_parse(char *text, size_t len, struct mt_wg_device *ret, struct mt_err *err);
void mt_wg_device_done(struct mt_wg_device *d);
/** The peer with this key, or NULL. */
const struct mt_wg_peer *mt_wg_find(const struct mt_wg_device *d, const uint8_t key[MT_WG_KEY_LEN]);

/** What a comparison found, by kind. */
struct mt_wg_diff {
    unsigned key, port, missing, foreign, allowed, keepalive, endpoint, psk;
};

/**
 * Arguments of `wg set` after the device's name, one per line of @ret, that make @have what @want is at @now_ms.
 *
 * @key_path   file of the private key in force, whose public half is @key
 * @endpoint   per peer of @want the index of the endpoint in use; @force says to set it whatever the device thinks (may be NULL)
 * An endpoint that WireGuard learned by itself is left alone while the session is fresh.
 * Nothing is written when nothing differs. Check @ret afterwards.
 */
void mt_wg_compare(const struct mt_mesh_want *want, const struct mt_wg_device *have, int64_t now_ms, const char *key_path,
                   const uint8_t key[MT_WG_KEY_LEN], const uint8_t *endpoint, const bool *force, struct mt_buf *ret, struct mt_wg_diff *ret_diff);

/** `wg show`; -MT_E_NOT_FOUND when there is no such device. Blocks for some milliseconds. */
int mt_wg_show(const char *wg, const char *device, struct mt_wg_device *ret, struct mt_err *err);
/** `wg set` with the lines of @args as arguments. */
int mt_wg_set(const char *wg, const char *device, struct mt_buf *args, struct mt_err *err);
