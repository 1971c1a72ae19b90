/* SPDX-License-Identifier: Apache-2.0 */
/* Evolution of payloads (control-plane.md §6.4): a changed meaning or a new required field is a new version of the type, and
 * a function that brings the version before up to it stays here for ever. What reads events to act on them sees the latest
 * version only. Pure. */
#pragma once

#include "control/log/types.h"

/** Brings a payload of version `from` to version `from + 1`, in place. */
struct mt_upcaster {
    enum mt_ev ev;
    int from;
    int (*up)(json_t *payload, struct mt_err *err); /* NULL ends a table */
};

/** The upcasters of the catalogue. */
extern const struct mt_upcaster mt_upcasters[];

/**
 * Bring @payload from @version to the version of the catalogue, in place. @table NULL: mt_upcasters.
 * -MT_E_CORRUPT when the version is newer than this program knows, or a step is missing: the reader has to stop, never to
 * skip the event.
 */
int mt_ev_upcast(const struct mt_upcaster *table, enum mt_ev ev, int version, json_t *payload, struct mt_err *err);
