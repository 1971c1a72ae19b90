/* SPDX-License-Identifier: Apache-2.0 */
/* A seeded history of one organisation: every call gives the next command that fits what the commands before it have made.
 * For load, rebuilds and crashes; the same seed gives the same history. A command counts as done: who cannot tell repeats it
 * under its key until it knows. */
#pragma once

#include "control/log/append.h"

#define HISTORY_APPS 24
#define HISTORY_INSTANCES 160

struct history_app {
    char id[64], env[64], name[32];
    char rel[64], dep[64];
    int releases;
    bool live, env_live, deployed;
    int envs; /* made so far */
};

struct history_inst {
    char id[64];
    int app, step, restarts;
};

struct history_route {
    char id[64], host[64], env[64];
    int app;
    bool live;
};

struct history {
    uint64_t seed;
    char tag[32]; /* in every id */
    char org[64], node[64];
    int n;        /* commands given */
    int made;     /* counter behind ids */
    int64_t events;
    struct history_app apps[HISTORY_APPS];
    struct history_inst inst[HISTORY_INSTANCES];
    struct history_route routes[HISTORY_APPS];
};

void history_init(struct history *h, const char *tag, uint64_t seed);
/** The next command, under the idempotency key "TAG-N". */
int history_next(struct history *h, struct mt_cmd **ret, struct mt_err *err);
