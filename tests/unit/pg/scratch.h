/* SPDX-License-Identifier: Apache-2.0 */
/* A throw-away cluster for tests: initdb in memory (or /tmp) as an unprivileged user, Unix socket only, fsync on. */
#pragma once

#include "pg/cluster.h"
#include "pg/pg.h"

struct scratch {
    char dir[64], data[96], sock[96], log[96];
    struct mt_pg_cluster_conf conf;
    struct mt_pg_cluster cluster;
    char super[256], owner[256], control[256]; /* conninfo by role */
};

/** NULL reason and 0 when up; else the reason why this machine cannot (tests then skip). */
int scratch_up(struct scratch *s, struct mt_err *err);
/** Stop and remove everything. */
void scratch_down(struct scratch *s);
