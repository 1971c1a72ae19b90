/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which instances have lines in this node's store, and how far each has come: what the loop thread tells, what the threads of sinks ask.
 * Thread-safe. While there is a receiver, an instance that ended stays as long as its folder of lines does (`about` in the folder says whose
 * they are): some 500 bytes of memory for each, days of them. Without one only those that run are here.
 */
#pragma once

#include "agent/logstore.h"
#include "base/map.h"
#include "model/ids.h"
#include "wire/logfwd.h"

#include <pthread.h>
#include <stdatomic.h>

#define MT_SOURCE_NAME 64

struct mt_log_source {
    char ids[MT_LOGFWD_IDS][MT_SOURCE_NAME]; /* fixed once made */
    _Atomic uint64_t last;                   /* number of the newest line stored */
    bool held;                               /* by a running instance */
};

struct mt_log_sources {
    pthread_mutex_t lock; /* guards the map and what is below; entries live until the sweep finds them without folder and not held */
    bool keep;            /* those that ended stay */
    struct mt_map map; /* instance id -> struct mt_log_source */
    const char *dir;   /* of the store; fixed */
};

int mt_log_sources_init(struct mt_log_sources *s, const char *logs_dir);
void mt_log_sources_done(struct mt_log_sources *s);
/** A receiver is about to begin (before it asks: with all that is stored), or there is none any more. Blocking file I/O. */
void mt_log_sources_keep(struct mt_log_sources *s, bool keep);
/** A running instance writes here; NULL when memory is out. Kept until mt_log_source_release, after which it may be gone. Writes `about`. */
struct mt_log_source *mt_log_source_hold(struct mt_log_sources *s, const char *const ids[MT_LOGFWD_IDS], uint64_t last);
void mt_log_source_release(struct mt_log_sources *s, struct mt_log_source *src);
/** Look at the folders: those of ended instances come in, entries without folder go. Nothing to do without a receiver. Blocking file I/O. */
void mt_log_sources_sweep(struct mt_log_sources *s);
