/* SPDX-License-Identifier: Apache-2.0 */
/* From a request to its handler: request id, route, credential, scope, ownership chain, body (control-plane.md §9, §10). */
#pragma once

#include "control/api/call.h"

/** The route table; the last entry has no method (api/table.c). */
extern const struct mt_api_route mt_api_routes[];

/** A worker thread's belongings. */
struct mt_api_worker {
    struct mt_control *ctl;
    struct mt_pg *pg; /* NULL until the first connection succeeds */
    char fence[MT_API_VALUE]; /* the organisation whose rows its session sees; MT_LOG_ALL: all; "": none, or not known */
};

/* Hooks of struct mt_http_conf; arg is the struct mt_control. */
void *mt_api_worker_start(void *arg, unsigned index);
void mt_api_worker_stop(void *arg, void *worker);
void mt_api_handle(struct mt_http_req *req, void *worker, void *arg);
char *mt_api_own_answer(struct mt_http_req *req, unsigned status, const char **ret_type, size_t *ret_len, void *arg);

/**
 * Match a path against a template; fills params. Pure.
 * Returns true on a match. Segments in braces take 1..MT_ID_SIZE*2-1 bytes of [A-Za-z0-9_.-].
 */
bool mt_api_match(const char *tmpl, const char *path, struct mt_api_call *c);
