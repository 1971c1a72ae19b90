/* SPDX-License-Identifier: Apache-2.0 */
/* Making the views again from the log (control-plane.md §8.1): into a schema beside the live one, swapped in one short
 * transaction under the log's lock. Readers see the old tables until then. Killed at any instruction, it leaves the live
 * views as they were; the next run begins anew. All calls need a connection of the schema's owner. */
#pragma once

#include "control/log/upcast.h"
#include "pg/pg.h"

struct mt_rebuild_conf {
    bool (*progress)(void *arg, int64_t done, int64_t head); /* after each batch; false stops (-MT_E_CANCELLED); or NULL */
    void *arg;
    const struct mt_upcaster *ups; /* NULL: those of the catalogue */
};

struct mt_rebuild_report {
    int64_t events;
    int64_t took_us;
    int64_t stall_us; /* how long appending waited */
};

/**
 * Rebuild view @name, or all of them (@name NULL), from event 1 to the head. @conf may be NULL.
 * -MT_E_NOT_FOUND no such view; -MT_E_CONFLICT another rebuild runs; -MT_E_CORRUPT the log holds what this program cannot
 * apply: the checkpoint says `failed`, the live views stay. @pg's session settings are changed: use it for nothing else.
 */
int mt_views_rebuild(struct mt_pg *pg, const char *name, const struct mt_rebuild_conf *conf, struct mt_rebuild_report *ret,
                     struct mt_err *err);

struct mt_views_verdict {
    int64_t events;
    int64_t rows;         /* compared, in all views */
    int64_t differences;  /* rows that differ, in all views */
    char view[64];        /* first view with a difference, "" when all are equal */
    char live[600];       /* the first differing row as JSON, live and rebuilt; "" where there is none */
    char rebuilt[600];
    char column[64];      /* first column that differs, "" when the row is missing on one side */
};

/** Rebuild into a scratch schema and compare row for row, at one point of the log, without holding up anybody. 0 whether
 * equal or not: @ret tells. */
int mt_views_verify(struct mt_pg *pg, const struct mt_rebuild_conf *conf, struct mt_views_verdict *ret, struct mt_err *err);

/** Lower-case hex SHA-256 over the text of views/schema.sql and of every statement. */
void mt_views_fingerprint(char ret[65]);

/**
 * After a migration: rebuild all views when this program defines them otherwise than the database has them. A definition
 * that the database has had before is that of an older program: then the newer tables stay, if they have every column that
 * the older one knows.
 * @watch        told of it, first before it waits for another rebuild to end, at event 0 of 0; or NULL
 * @ret_rebuilt  whether a rebuild ran; may be NULL.
 */
int mt_views_settle(struct mt_pg *pg, const struct mt_rebuild_conf *watch, bool *ret_rebuilt, struct mt_err *err);
/** Record that the views were just made as this program defines them; inside the migration of an empty database. */
int mt_views_made(struct mt_pg *pg, struct mt_err *err);
