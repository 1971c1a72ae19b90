/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the guest channel codec, shared by guest.c and guest_config.c only: typed access to the
 * members of a parsed object. Sticky: after the first miss every getter gives nothing.
 */
#pragma once

#include "base/err.h"
#include "wire/guest.h"
#include "wire/guest_json.h"

struct mt_guest_fields {
    const struct mt_guest_json_node *object; /**< NULL: every optional field is absent */
    const char *where;                       /**< for messages: "config.process" */
    struct mt_guest_mem *mem;
    struct mt_err *err;
    int res; /**< 0, or the first error */
};

enum mt_guest_need { MT_GUEST_OPTIONAL = 0, MT_GUEST_REQUIRED };

/* Getters: JSON null counts as absent. An absent optional field gives NULL, false or @fallback. */
const char *mt_guest_get_str(struct mt_guest_fields *f, const char *key, enum mt_guest_need need);
uint64_t mt_guest_get_uint(struct mt_guest_fields *f, const char *key, enum mt_guest_need need,
                           uint64_t fallback, uint64_t max);
int64_t mt_guest_get_int(struct mt_guest_fields *f, const char *key, enum mt_guest_need need);
bool mt_guest_get_bool(struct mt_guest_fields *f, const char *key, enum mt_guest_need need);
/** The node itself when it has @kind, else NULL. */
const struct mt_guest_json_node *mt_guest_get_node(struct mt_guest_fields *f, const char *key,
                                                   enum mt_guest_json_kind kind, enum mt_guest_need need);
/** A list of strings with a NULL after the last; at most @max items. */
const char **mt_guest_get_list(struct mt_guest_fields *f, const char *key, enum mt_guest_need need,
                               size_t max, size_t *ret_count);
/** Memory for @count items and a zeroed one after them; NULL fills the error. */
void *mt_guest_get_room(struct mt_guest_fields *f, size_t count, size_t size);

/** Decode a config object; the caller has read the envelope. */
int mt_guest_config_decode(const struct mt_guest_json_node *root, struct mt_guest_mem *mem,
                           struct mt_guest_config *ret, struct mt_err *err);
/** Write the members of a config into an open object. */
void mt_guest_config_encode(const struct mt_guest_config *config, struct mt_guest_json_out *out);
