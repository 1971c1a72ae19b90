/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over the host: device, keys, peers, address, MTU and routes become what the mesh wants.
 *
 * Blocking (some milliseconds, a second when wireguard-go has to be started), for a worker; every pass may be repeated and
 * touches only what differs. Only the link wg-moat and routes over it are ever changed. Source: networking.md §2.1, §2.3.
 */
#pragma once

#include "agent/mesh/device.h"

#define MT_MESH_LINK "wg-moat"
#define MT_MESH_METRIC 50
#define MT_MESH_MTU_MIN 1280

enum mt_mesh_backend { MT_MESH_NONE = 0, MT_MESH_KERNEL, MT_MESH_USERSPACE, MT_MESH_BACKEND_MAX };
/** "none", "kernel", "wireguard-go". */
const char *mt_mesh_backend_name(enum mt_mesh_backend b);

struct mt_mesh_host {
    const char *wg_path, *wireguard_go_path, *keys_dir; /* borrowed, absolute */
};

/** What a pass is to do. @endpoint and @force as for mt_wg_compare, may be NULL. */
struct mt_mesh_todo {
    const struct mt_mesh_want *want;
    int64_t now_ms; /* wall clock */
    const uint8_t *endpoint;
    const bool *force;
};

struct mt_mesh_done {
    enum mt_mesh_backend backend;
    bool made;              /* the device was not there */
    pid_t go_pid;           /* a wireguard-go that this pass started: the caller waits for its end and closes go_pidfd; -1: none */
    int go_pidfd;
    unsigned ifindex;
    uint32_t mtu;           /* in force, bytes */
    uint32_t underlay_mtu;  /* smallest towards a peer, bytes; 0: none known */
    struct mt_wg_diff diff; /* of keys and peers */
    unsigned addresses, routes, mtus, links; /* other things mended */
    struct mt_wg_device seen; /* as the device was before; owned */
    uint8_t public_key[MT_WG_KEY_LEN]; /* in force */
};

/** Is a kernel device possible here, else wireguard-go? Leaves nothing behind. For doctor and the first pass. */
int mt_mesh_probe(const struct mt_mesh_host *h, enum mt_mesh_backend *ret, struct mt_err *err);
/** Do it. @ret is released with mt_wg_device_done(&ret->seen), also after a failure. */
int mt_mesh_pass(const struct mt_mesh_host *h, const struct mt_mesh_todo *t, struct mt_mesh_done *ret, struct mt_err *err);
/** Take the device away, with its routes and address; wireguard-go ends with it. 0 also when there is none. */
int mt_mesh_down(struct mt_err *err);
/** MTU of the mesh over an underlay path of @path_mtu bytes to an endpoint of @family: WireGuard's header, UDP and IP come off; never below 1280. */
uint32_t mt_mesh_mtu_over(uint32_t path_mtu, int family);
