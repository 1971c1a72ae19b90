/* SPDX-License-Identifier: Apache-2.0 */
/* A migrated scratch cluster with an appender, and short ways to make commands. */
#pragma once

#include "control/log/append.h"
#include "control/log/read.h"
#include "control/log/schema.h"
#include "control/log/verify.h"
#include "scratch.h"

struct lab {
    struct scratch sc;
    struct mt_log_head *head;
    struct mt_appender *ap;
    struct mt_pg *pg; /* superuser */
};

int lab_up(struct lab *l, struct mt_err *err);
void lab_down(struct lab *l);
/** A new command of operator usr_1, request req_1. */
struct mt_cmd *lab_cmd(void);
/** Add an event; the test fails when it is refused. @payload as for json_pack, "" for none. */
void lab_event(struct mt_cmd *c, enum mt_ev ev, const char *id, const char *org, const char *app, const char *env, json_t *payload);
/** Append and expect DONE; returns the last event id. */
int64_t lab_done(struct lab *l, struct mt_cmd *c);
/** One text out of the database, "" when there is none; static storage. */
const char *lab_text(struct lab *l, const char *sql);
