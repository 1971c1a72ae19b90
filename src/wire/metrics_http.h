/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /metrics, /livez, /readyz of a program that runs on one loop, over plain HTTP/1.1 at an inner address; one request a
 * connection. Nobody who connects can hold the loop up: a connection gets 2 KiB of request, 10 s, and there are 16 of them.
 */
#pragma once

#include "base/buf.h"
#include "os/loop.h"

struct mt_metrics_http;

struct mt_metrics_http_conf {
    const char *address; /* "[fd00::1]:9464"; mt_sock_private_listen */
    /** Write the page. -code: the answer is 500. */
    int (*page)(void *arg, struct mt_buf *b, struct mt_err *err);
    /** Ready? When not, a word why in @ret_why (static). NULL: there is no /readyz. */
    bool (*ready)(void *arg, const char **ret_why);
    void *arg;
};

/** Listen. NULL and @err on failure. @conf is copied, but for the address, which is not kept. */
struct mt_metrics_http *mt_metrics_http_new(struct mt_loop *loop, const struct mt_metrics_http_conf *conf, struct mt_err *err);
/** Close all. NULL is fine. */
void mt_metrics_http_free(struct mt_metrics_http *m);
