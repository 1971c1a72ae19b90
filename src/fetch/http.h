/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET from one registry, by libcurl: tokens, redirects, address rule, deadlines, retries. One session serves several threads.
 *
 * Knows URLs and headers, not what the bodies mean.
 */
#pragma once

#include "fetch/fault.h"
#include "fetch/options.h"
#include "wire/imageref.h"

#include <stdatomic.h>

struct mt_fetch_session;

/** @options and @ref are borrowed for the session's life. NULL with @f set. Once per process, before threads. */
struct mt_fetch_session *mt_fetch_session_new(const struct mt_fetch_options *options, const struct mt_imageref *ref,
                                              struct mt_fetch_fault *f);
void mt_fetch_session_free(struct mt_fetch_session *s);

struct mt_fetch_get {
    const char *kind;       /* "manifests" or "blobs" */
    const char *name;       /* tag or digest */
    const char *accept;     /* header value or NULL */
    int64_t deadline_ns;    /* monotonic; the session's total deadline counts as well */
    const char *deadline_name; /* detail when it passes, e.g. "layer_deadline" */
    uint64_t *offset;       /* bytes already there; asked for with Range when > 0 (NULL: always from the start) */
    int tries;              /* 0: 5 */
    atomic_bool *stop;      /* may be NULL: checked often, ends the transfer as MT_FETCH_STOPPED */
    void *arg;
    /* Bytes of the body, in order, from *offset on. @restart comes before the first byte whenever the body begins at 0:
     * forget everything. Both return -1 with the fault set to end the transfer for good. */
    int (*body)(void *arg, const void *p, size_t n, struct mt_fetch_fault *f);
    int (*restart)(void *arg, struct mt_fetch_fault *f);
    /* Filled in. */
    char content_type[128];
    char content_digest[MT_DIGEST_LEN + 1]; /* Docker-Content-Digest when well-formed, else "" */
};

/**
 * Perform it, with up to 5 tries (1 to 30 s apart, Retry-After up to 60 s) for 5xx, 429, time-outs and broken connections;
 * a try goes on at *offset. 0, or -1 with @f set.
 */
int mt_fetch_get(struct mt_fetch_session *s, struct mt_fetch_get *get, struct mt_fetch_fault *f);
