/* SPDX-License-Identifier: Apache-2.0 */
/* One supervised program: started, adopted if it runs already, restarted with backoff when it dies, ended in order.
 * A program is recognised by its exact command line, so that no record can be lost: who runs with our configuration file is ours. */
#pragma once

#include "os/loop.h"
#include "os/pool.h"

#include <sys/types.h>

enum service_state { SERVICE_DOWN = 0, SERVICE_STARTING, SERVICE_READY, SERVICE_BACKOFF, SERVICE_ENDED, SERVICE_STATE_MAX };

struct service {
    const char *name;
    const char *argv[16];  /* argv[0] is the absolute program path; strings are borrowed for ever */
    uid_t uid;
    gid_t gid;
    bool set_ids;
    uint64_t ambient_caps;
    const char *log_path;  /* stdout and stderr are appended here */
    const char *notify_path; /* datagram socket of the supervisor, NULL: ready is asked by `probe` */
    bool (*probe)(struct service *s); /* true when it answers; asked every 20 ms while starting; NULL: ready by notify or at once */
    int stop_signal;       /* SIGTERM, or SIGINT for PostgreSQL's fast shutdown */
    int64_t stop_ms;       /* after this, SIGKILL */
    int64_t start_ms;      /* not ready after this: killed and started again; 0: wait for ever */
    void *arg;             /* for probe */
    /* For a program that is brought up by a blocking call (PostgreSQL): runs on a worker thread, returns with the process ready. */
    int (*bring_up)(struct service *s, pid_t *ret_pid, int *ret_pidfd, bool *ret_adopted, struct mt_err *err);
    struct mt_pool *pool;  /* for bring_up */

    /* state; changed by service.c only */
    enum service_state state;
    bool adopted;
    bool stopping;
    pid_t pid;
    int pidfd;
    int64_t started_ns;
    unsigned failures;     /* in a row; reset after 30 s of life */
    struct { pid_t pid; int pidfd; bool adopted; int rc; struct mt_err err; } brought; /* result of bring_up */
    struct mt_loop *loop;
    struct mt_source *child, *timer;
    void (*changed)(struct service *s, enum service_state from); /* called after each change of state */
};

/** Attach to the loop; s->changed etc. must be set. */
int service_init(struct service *s, struct mt_loop *loop, struct mt_err *err);
void service_done(struct service *s);
/** Adopt a running one, else start it. */
int service_start(struct service *s, struct mt_err *err);
/** The notify socket said READY=1 for @pid. */
void service_ready(struct service *s);
/** End it; s->changed reports SERVICE_ENDED. Harmless when it does not run. */
void service_stop(struct service *s);
/** Pid of the process with exactly this command line (and uid, if set), 0 when there is none. */
pid_t service_find(const struct service *s);
/** Keep a log below @limit bytes: a larger one is copied to PATH.1 and cut. */
void service_trim_log(const char *path, off_t limit);
