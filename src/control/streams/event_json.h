/* SPDX-License-Identifier: Apache-2.0 */
/* An event in the form of the API, with one sentence for people (control-plane.md §11.1). Pure rendering. */
#pragma once

#include "base/buf.h"
#include "control/log/types.h"
#include "pg/pg.h"

/* The columns mt_event_json reads, in its order. */
#define MT_EVENT_COLUMNS                                                                                            \
    "event_id, occurred_at, org_id, app_id, env_id, aggregate_type, aggregate_id, aggregate_seq, event_type,"       \
    " event_version, actor_type, actor_id, request_id, correlation_id, causation_id, payload, " MT_EVENT_DISPLAY
/* Who a tenant's own people and programs are, for people; of operators and nodes only the id is told. */
#define MT_EVENT_DISPLAY                                                                                            \
    "CASE actor_type WHEN 'user' THEN (SELECT coalesce(au.display_name, au.email) FROM users_view au WHERE au.user_id = actor_id)" \
    " WHEN 'service_principal' THEN (SELECT ap.name FROM service_principals_view ap WHERE ap.sp_id = actor_id) END"

/** Whose eyes an event is rendered for: fields of its payload that are not for them are left out (control-plane.md §11.1). */
struct mt_event_eyes {
    enum mt_see see;
    const char *self; /* subject id: sees MT_SEE_AUDIT fields of its own events; NULL: nobody in particular */
};

/** What @eyes see of events of @actor. */
enum mt_see mt_event_see(const struct mt_event_eyes *eyes, const char *actor);

/** Append the payload without the fields that are not for @see; "{}" when it cannot be read. */
void mt_event_payload(struct mt_buf *b, const char *type, const char *payload, enum mt_see see);

/** Append row @row as a JSON object as it is seen by who sees fields up to @see; returns its event id. */
int64_t mt_event_json(const struct mt_pg_res *r, int row, enum mt_see see, struct mt_buf *b);

/** The sentence: "instance inst_x is ready" from type, aggregate and payload text. At most @size bytes. */
void mt_event_summary(const char *type, const char *aggregate_id, const char *payload, char *ret, size_t size);
