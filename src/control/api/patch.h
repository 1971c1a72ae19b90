/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PATCH as JSON merge patch on documented fields (control-plane.md §9.1): an absent member stays, null clears where that is
 * allowed, what is the same already changes nothing. Handlers begin, name each mutable field once, and end.
 */
#pragma once

#include "control/api/mutate.h"

struct mt_api_patch {
    json_t *object;  /* the resource as it will be; owned */
    json_t *payload; /* fields of the event: what changed, null for cleared; owned */
    int64_t version; /* before the change */
    bool asked;      /* the body names a mutable field */
};

/** Load the object by a statement that gives (object text, resource_version), check expected_version (required). 0 or -1. */
int mt_api_patch_begin(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *params,
                       const char *what, struct mt_api_patch *ret);

/* One field each. @clearable: null takes it away, else null is refused. */
int mt_api_patch_text(struct mt_api_call *c, struct mt_api_patch *p, const char *name, size_t max, bool clearable);
int mt_api_patch_bool(struct mt_api_call *c, struct mt_api_patch *p, const char *name);
int mt_api_patch_int(struct mt_api_call *c, struct mt_api_patch *p, const char *name, int64_t min, int64_t max, bool clearable);
/** A value that the caller has checked; @value is borrowed, NULL or JSON null clears. */
int mt_api_patch_set(struct mt_api_call *c, struct mt_api_patch *p, const char *name, json_t *value);

/**
 * 400 no_changes when nothing changed; else fill @made (object, status 200, @operation, @id_name: @id). The event's payload is
 * p->payload, for mt_api_event (give it json_incref'ed). Call mt_api_patch_done in every case.
 */
int mt_api_patch_end(struct mt_api_call *c, struct mt_api_patch *p, struct mt_api_made *made, const char *operation,
                     const char *id_name, const char *id);
void mt_api_patch_done(struct mt_api_patch *p);
