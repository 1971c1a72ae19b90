/* SPDX-License-Identifier: Apache-2.0 */
/* The programs of one machine's platform, and how to end them; shared by `moat up` and `moat down`. */
#pragma once

#include "cli/up/layout.h"
#include "cli/up/service.h"

enum up_name { UP_POSTGRES = 0, UP_REGISTRY, UP_CONTROL, UP_EDGE, UP_AGENT, UP_MAX };

struct up {
    struct cli *cli;
    struct up_layout layout;
    struct service services[UP_MAX];
    char paths[24][UP_PATH]; /* strings of the command lines */
    size_t paths_used;
    char notify[UP_PATH];
    char pg_dir[UP_PATH], pg_socket_dir[UP_PATH], pg_log[UP_PATH];
    struct mt_loop *loop;
    struct mt_pool *pool; /* one thread, for what blocks */
};

/** Fill in the command lines; nothing is started. */
void up_services(struct up *u);
/** True when this platform's PostgreSQL runs. */
bool up_postgres_runs(const struct up *u);
/** Ask the agent to stop every instance and to give back the host as it was, within @deadline_ms (ruling R27). -MT_E_UNAVAILABLE when there is
 * no agent. */
int up_stop_instances(const struct up_layout *l, int64_t deadline_ms, struct mt_err *err);
/** End all programs in order: agent, edge, control, registry, PostgreSQL. Uses u->loop; returns when all have ended. */
int up_stop_all(struct up *u, struct mt_err *err);
/** Names of what is left on the host that belongs to this data folder or carries our names: a text, "" when nothing is. malloc'ed. */
char *up_leftovers(const struct up *u);
