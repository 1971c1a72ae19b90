/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's WireGuard keys on disk: `<dir>/wg.key`, and `<dir>/wg.key.next` while a rotation runs.
 *
 * Which of the two is to be used follows from the plan and the clock alone, so that a process that was killed anywhere in a
 * rotation goes on at the right place. Private keys never leave this file and wg(8), which is given a path. Blocking.
 * Source: networking.md §1.2, §2.1, §2.4; docs/formats/mesh-plan.md.
 */
#pragma once

#include "agent/mesh/want.h"

#include <limits.h>

struct mt_wg_keys {
    bool has_now, has_next;
    uint8_t now[MT_WG_KEY_LEN], next[MT_WG_KEY_LEN]; /* public halves */
};

/** Public half of a private key (X25519). -MT_E_INVALID. */
int mt_wg_public(const uint8_t private_key[MT_WG_KEY_LEN], uint8_t ret[MT_WG_KEY_LEN], struct mt_err *err);
/** What is there; an absent file is no error, a broken one is. */
int mt_wg_keys_load(const char *dir, struct mt_wg_keys *ret, struct mt_err *err);
/** Make a new private key in `<dir>/@name` (0600, whole or not at all) over what was there; its public half into @ret. */
int mt_wg_key_make(const char *dir, const char *name, uint8_t ret[MT_WG_KEY_LEN], struct mt_err *err);
/** The next key becomes the present one. Harmless when there is none. */
int mt_wg_keys_promote(const char *dir, struct mt_err *err);

/**
 * Which file gives the key that the plan wants at @now_ms.
 * @ret_name "wg.key" or "wg.key.next"; @ret_promote when the plan calls the next key the present one, so the rotation is over.
 * Returns 0; -MT_E_CONFLICT when neither file is the plan's key: nothing may be applied, and it is reported.
 */
int mt_wg_keys_choose(const struct mt_wg_keys *k, const struct mt_mesh_key *plan, int64_t now_ms, const char **ret_name, bool *ret_promote,
                      struct mt_err *err);
