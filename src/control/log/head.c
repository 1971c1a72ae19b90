/* SPDX-License-Identifier: Apache-2.0 */
/* The head of the log inside one process: a number, those who wait for it to grow, and a thread that hears of other
 * processes' commits (LISTEN as a hint, a look each second as the truth). */
#include "control/log/read.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define HEAD_MAGIC 0x6864656du
#define SUBSCRIBERS_MAX 256
#define LOOK_MS 1000

struct mt_log_head {
    uint32_t magic;
    _Atomic int64_t head;
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    bool closing;
    int fds[SUBSCRIBERS_MAX];
    int n_fds;
    bool listening;
    int wake_fd;
    pthread_t thread;
    struct mt_pg_conf conf;
};

int64_t mt_log_head_get(const struct mt_log_head *h)
{
    return atomic_load(&h->head);
}

static void move(struct mt_log_head *h, int64_t head, bool down)
{
    MT_CHECK(h, HEAD_MAGIC);
    (void)pthread_mutex_lock(&h->mutex);
    if (head > atomic_load(&h->head) || down) {
        atomic_store(&h->head, head);
        (void)pthread_cond_broadcast(&h->moved);
        for (int i = 0; i < h->n_fds; i++) {
            const uint64_t one = 1;
            /* Full means that it is readable already. */
            if (write(h->fds[i], &one, sizeof one) < 0 && errno != EAGAIN)
                mt_log(MT_ERROR, "log.head_wake_failed", KV("errno", errno));
        }
    }
    (void)pthread_mutex_unlock(&h->mutex);
}

void mt_log_head_publish(struct mt_log_head *h, int64_t head)
{
    move(h, head, false);
}

void mt_log_head_reset(struct mt_log_head *h, int64_t head)
{
    move(h, head, true);
}

int64_t mt_log_head_wait(struct mt_log_head *h, int64_t after, int timeout_ms)
{
    MT_CHECK(h, HEAD_MAGIC);
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)timeout_ms * MT_NS_PER_MS;
    until.tv_sec += (time_t)(ns / MT_NS_PER_S);
    until.tv_nsec = (long)(ns % MT_NS_PER_S);
    (void)pthread_mutex_lock(&h->mutex);
    while (atomic_load(&h->head) <= after && !h->closing)
        if (pthread_cond_timedwait(&h->moved, &h->mutex, &until) == ETIMEDOUT)
            break;
    int64_t now = atomic_load(&h->head);
    (void)pthread_mutex_unlock(&h->mutex);
    return now > after ? now : after;
}

int mt_log_head_subscribe(struct mt_log_head *h, int event_fd, struct mt_err *err)
{
    int r = 0;
    (void)pthread_mutex_lock(&h->mutex);
    if (h->n_fds == SUBSCRIBERS_MAX)
        r = MT_FAIL(err, MT_E_LIMIT, "%d subscribers of the log's head already", SUBSCRIBERS_MAX);
    else
        h->fds[h->n_fds++] = event_fd;
    (void)pthread_mutex_unlock(&h->mutex);
    return r;
}

void mt_log_head_unsubscribe(struct mt_log_head *h, int event_fd)
{
    (void)pthread_mutex_lock(&h->mutex);
    for (int i = 0; i < h->n_fds; i++)
        if (h->fds[i] == event_fd)
            h->fds[i--] = h->fds[--h->n_fds];
    (void)pthread_mutex_unlock(&h->mutex);
}

static bool is_closing(struct mt_log_head *h)
{
    (void)pthread_mutex_lock(&h->mutex);
    bool c = h->closing;
    (void)pthread_mutex_unlock(&h->mutex);
    return c;
}

static void look(struct mt_log_head *h, struct mt_pg *pg)
{
    int64_t head = 0;
    struct mt_err err = {0};
    if (mt_log_position(pg, &head, NULL, &err) == 0)
        mt_log_head_publish(h, head);
}

static void *listen_main(void *arg)
{
    struct mt_log_head *h = arg;
    struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    (void)pthread_setname_np(pthread_self(), "log-head");
    while (!is_closing(h)) {
        bool up = pg && mt_pg_alive(pg);
        if (!up) {
            mt_pg_freep(&pg);
            /* Listen first, then look: a commit between the two wakes us. */
            if (mt_pg_connect(&h->conf, &pg, &err) == 0 && mt_pg_listen(pg, "moat_events", &err) == 0)
                up = true;
        }
        if (!up) {
            struct pollfd p = {.fd = h->wake_fd, .events = POLLIN};
            (void)poll(&p, 1, LOOK_MS / 2);
            continue;
        }
        look(h, pg);
        char payload[32];
        int got = mt_pg_alive(pg) ? mt_pg_notify_wait(pg, h->wake_fd, LOOK_MS, payload, sizeof payload, &err) : 0;
        int64_t head;
        /* A notification arrives after its commit, so its number is as good as a look. */
        while (got == 1) {
            if (mt_parse_i64(payload, 0, INT64_MAX, &head, NULL) == 0)
                mt_log_head_publish(h, head);
            got = mt_pg_notify_wait(pg, h->wake_fd, LOOK_MS, payload, sizeof payload, &err);
        }
    }
    mt_pg_free(pg);
    return NULL;
}

int mt_log_head_new(const struct mt_pg_conf *listen, struct mt_log_head **ret, struct mt_err *err)
{
    struct mt_log_head *h = calloc(1, sizeof *h);
    if (!h)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the log's head");
    h->magic = HEAD_MAGIC;
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_condattr_t mono;
    MT_ASSERT(pthread_mutex_init(&h->mutex, NULL) == 0 && pthread_condattr_init(&mono) == 0 &&
              pthread_condattr_setclock(&mono, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&h->moved, &mono) == 0);
    (void)pthread_condattr_destroy(&mono);
    int r = h->wake_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "eventfd") : 0;
    if (r == 0 && listen) {
        h->conf = *listen;
        h->conf.application_name = "moat log head";
        h->conf.conninfo = strdup(listen->conninfo);
        h->conf.role = listen->role ? strdup(listen->role) : NULL;
        h->listening = h->conf.conninfo && pthread_create(&h->thread, NULL, listen_main, h) == 0;
        if (!h->listening)
            r = MT_FAIL(err, MT_E_NOMEM, "cannot start the thread of the log's head");
    }
    if (r < 0) {
        mt_log_head_free(h);
        return r;
    }
    *ret = h;
    return 0;
}

void mt_log_head_free(struct mt_log_head *h)
{
    if (!h)
        return;
    MT_CHECK(h, HEAD_MAGIC);
    (void)pthread_mutex_lock(&h->mutex);
    h->closing = true;
    (void)pthread_cond_broadcast(&h->moved);
    (void)pthread_mutex_unlock(&h->mutex);
    if (h->listening) {
        const uint64_t one = 1;
        if (write(h->wake_fd, &one, sizeof one) < 0)
            mt_log(MT_ERROR, "log.head_wake_failed", KV("errno", errno));
        (void)pthread_join(h->thread, NULL);
    }
    char *conninfo, *role;
    memcpy(&conninfo, &h->conf.conninfo, sizeof conninfo);
    memcpy(&role, &h->conf.role, sizeof role);
    free(conninfo);
    free(role);
    if (h->wake_fd >= 0)
        (void)close(h->wake_fd);
    (void)pthread_cond_destroy(&h->moved);
    (void)pthread_mutex_destroy(&h->mutex);
    h->magic = 0;
    free(h);
}
