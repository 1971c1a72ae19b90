/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the event log: pages by cursor with filters, and waiting for the head to move (control-plane.md §6.4). A visible
 * event is flushed: nothing read here can be taken back by a crash. Wake-ups are hints; the head is polled each second. */
#pragma once

#include "control/log/types.h"
#include "pg/pg.h"

/** One event as stored. Pointers live as long as the page. NULL where the column is NULL. */
struct mt_log_event {
    int64_t event_id;
    int64_t occurred_us;
    const char *org_id, *app_id, *env_id;
    const char *aggregate_type, *aggregate_id;
    int32_t aggregate_seq;
    const char *event_type;
    int32_t event_version;
    const char *actor_type, *actor_id;
    const char *request_id, *idempotency_key, *correlation_id;
    int64_t causation_id;    /* 0 = none */
    const char *payload;     /* JSON text as PostgreSQL prints jsonb */
    const uint8_t *chain_hash; /* 32 bytes */
};

/** Condition on event_id for occurred_at in [@since, @until), SQL of type timestamptz, NULL: no end there. It is a bound: times follow the ids,
 * but for what the clocks of two servers may be apart; the times themselves are to be asked for too. */
#define MT_SQL_BETWEEN_TIMES(since, until) "event_id >= " MT_SQL_SINCE_ID(since) " AND event_id <= " MT_SQL_UNTIL_ID(until)
#define MT_SQL_SINCE_ID(since) "(COALESCE(moat.event_at(" since " - interval '1 minute'), 0) + 1)"
#define MT_SQL_UNTIL_ID(until) "COALESCE(moat.event_at(" until " + interval '1 minute'), " MT_SQL_LAST_ID ")"
#define MT_SQL_LAST_ID "9223372036854775806"

/**
 * FROM: events of one organisation or environment, as e, in the order of their ids. @of: "org" or "env"; @id, @from, @to: SQL; events @from..@to
 * are wanted, none of them NULL, what is to be computed only once as `(SELECT ...)`. @dir: "" or "DESC". The indexes hold runs (runs.c): the first
 * event of each, which says where the last one lies; the run that @from lies in begins before it.
 * There is no ORDER BY to add: the planner would sort all there is before the first row. Runs come in order, those of one id do not overlap, and
 * a lateral query is asked for one after the other. Who pages by it looks whether that holds (mt_log_in_order).
 */
#define MT_SQL_EVENTS_OF(of, id, from, to, dir) \
    "(SELECT h.event_id AS run_at, h.event_id + COALESCE(h." of "_run, 0) AS run_end FROM moat.events h WHERE h." of "_id = " id \
    "  AND (h." of "_run < 0) IS NOT TRUE AND h.event_id <= " to " AND h.event_id >= (SELECT COALESCE((SELECT b.event_id FROM moat.events b" \
    "   WHERE b." of "_id = " id " AND (b." of "_run < 0) IS NOT TRUE AND b.event_id <= " from " ORDER BY b.event_id DESC LIMIT 1), " from "))" \
    "  ORDER BY h.event_id " dir " OFFSET 0) r CROSS JOIN LATERAL (SELECT * FROM moat.events m WHERE m.event_id BETWEEN r.run_at AND r.run_end" \
    "  AND m.event_id BETWEEN " from " AND " to " AND m." of "_id = " id " ORDER BY m.event_id " dir " OFFSET 0) e"
/** Do the ids in column 0 rise (fall)? Else -MT_E_CORRUPT. */
int mt_log_in_order(const struct mt_pg_res *res, bool desc, struct mt_err *err);

/** NULL, 0 and empty members do not filter. */
struct mt_log_filter {
    const char *org_id, *app_id, *env_id;
    const char *aggregate_type, *aggregate_id;
    const char *event_type;         /* exact, or a prefix with a trailing ".*" */
    const char *const *event_types; /* any of these; the same form */
    int n_event_types;
    const char *correlation_id;
    const char *actor_id;
    int64_t since_us, until_us;     /* occurred_at in [since, until) */
    bool tenant_only;               /* leave out types that only operators may read */
    bool desc;                      /* newest first: events with id < @after (0 = from the head) */
};

struct mt_log_page {
    struct mt_pg_res *res;
    int n;
};

/**
 * Up to @limit (1..1000) events with id > @after in id order.
 * @ret_cursor  where to go on: the id of the last event, or, when fewer than @limit matched, the head that was looked at,
 *              so that a filtered reader does not scan the same range again. With desc: the lowest id given, 0 at the end.
 * @ret_head    the head that was looked at; may be NULL.
 */
int mt_log_read(struct mt_pg *pg, const struct mt_log_filter *f, int64_t after, int limit, struct mt_log_page *ret_page,
                int64_t *ret_cursor, int64_t *ret_head, struct mt_err *err);
/** Event @i of a page. */
void mt_log_page_get(const struct mt_log_page *page, int i, struct mt_log_event *ret);
void mt_log_page_done(struct mt_log_page *page);

/** One event by id; -MT_E_NOT_FOUND. */
int mt_log_get(struct mt_pg *pg, int64_t event_id, struct mt_log_page *ret_page, struct mt_err *err);
/** Head (last event id) and epoch from the database. */
int mt_log_position(struct mt_pg *pg, int64_t *ret_head, int64_t *ret_epoch, struct mt_err *err);

/**
 * Append the API form of an event to @b (control-plane.md §11.1 "Item"): optional ids left out when NULL, actor as an object,
 * RFC 3339 time, payload as an object, @summary left out when NULL.
 */
void mt_log_event_json(const struct mt_log_event *e, const char *summary, struct mt_buf *b);

/* The head, shared by all threads of a process. Moved by the appender after COMMIT and by a listener thread for commits of
 * other processes. */
struct mt_log_head;
/** @listen may be NULL: then only mt_log_head_publish moves it. Starts a thread that LISTENs and polls each second. */
int mt_log_head_new(const struct mt_pg_conf *listen, struct mt_log_head **ret, struct mt_err *err);
void mt_log_head_free(struct mt_log_head *h);
/** Highest id known to be committed; 0 until the first look. */
int64_t mt_log_head_get(const struct mt_log_head *h);
/** Raise the head (never lowers it) and wake all waiters. */
void mt_log_head_publish(struct mt_log_head *h, int64_t head);
/** Set the head, also to less, and wake all waiters: the database was restored to an older point (history.h). */
void mt_log_head_reset(struct mt_log_head *h, int64_t head);
/** Wait until the head is > @after: returns it, or @after on timeout (@timeout_ms) or when the head is being closed. */
int64_t mt_log_head_wait(struct mt_log_head *h, int64_t after, int timeout_ms);
/** Subscribe an event descriptor (eventfd, non-blocking, owned by the caller): 1 is written on each move. At most 256. */
int mt_log_head_subscribe(struct mt_log_head *h, int event_fd, struct mt_err *err);
void mt_log_head_unsubscribe(struct mt_log_head *h, int event_fd);
