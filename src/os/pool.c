/* SPDX-License-Identifier: Apache-2.0 */
#include "os/pool.h"

#include <pthread.h>

struct job {
    struct job *next;
    mt_task_fn work, done;
    void *arg;
};

struct mt_pool {
    struct mt_loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct job *first, **last;
    unsigned waiting, running, queue_max, threads;
    bool stop;
    pthread_t tid[64];
};

static void *worker(void *arg)
{
    struct mt_pool *p = arg;
    (void)pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->first && !p->stop)
            (void)pthread_cond_wait(&p->more, &p->lock);
        if (p->stop)
            break;
        struct job *j = p->first;
        p->first = j->next;
        if (!p->first)
            p->last = &p->first;
        p->waiting--;
        p->running++;
        (void)pthread_mutex_unlock(&p->lock);
        j->work(j->arg);
        if (j->done)
            while (mt_loop_post(p->loop, j->done, j->arg) == -MT_E_NOMEM) /* a lost result would stall its owner for ever */
                (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        free(j);
        (void)pthread_mutex_lock(&p->lock);
        p->running--;
    }
    (void)pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct mt_pool *mt_pool_new(struct mt_loop *loop, unsigned threads, unsigned queue_max, size_t stack_bytes, struct mt_err *err)
{
    struct mt_pool *p = calloc(1, sizeof *p);
    if (!p || threads < 1 || threads > 64) {
        free(p);
        (void)MT_FAIL(err, p ? MT_E_INVALID : MT_E_NOMEM, "worker pool of %u threads", threads);
        return NULL;
    }
    p->loop = loop;
    p->last = &p->first;
    p->queue_max = queue_max;
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->more, NULL);
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, stack_bytes ? stack_bytes : 256 * 1024);
    /* workers take no signals: those belong to the loop */
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = 0;
    for (; p->threads < threads && r == 0; p->threads += r == 0)
        r = pthread_create(&p->tid[p->threads], &attr, worker, p);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
    if (r != 0) {
        errno = r;
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "start worker thread");
        mt_pool_free(p);
        return NULL;
    }
    return p;
}

void mt_pool_free(struct mt_pool *p)
{
    if (!p)
        return;
    (void)pthread_mutex_lock(&p->lock);
    p->stop = true;
    (void)pthread_cond_broadcast(&p->more);
    (void)pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->threads; i++)
        (void)pthread_join(p->tid[i], NULL);
    for (struct job *j = p->first, *next; j; j = next) {
        next = j->next;
        free(j);
    }
    (void)pthread_mutex_destroy(&p->lock);
    (void)pthread_cond_destroy(&p->more);
    free(p);
}

int mt_pool_submit(struct mt_pool *p, mt_task_fn work, mt_task_fn done, void *arg, struct mt_err *err)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a job");
    *j = (struct job){.work = work, .done = done, .arg = arg};
    (void)pthread_mutex_lock(&p->lock);
    bool full = p->waiting >= p->queue_max;
    if (!full) {
        *p->last = j;
        p->last = &j->next;
        j = NULL;
        p->waiting++;
        (void)pthread_cond_signal(&p->more);
    }
    (void)pthread_mutex_unlock(&p->lock);
    if (j) {
        free(j);
        return MT_FAIL(err, MT_E_LIMIT, "%u jobs are waiting already", p->queue_max);
    }
    return 0;
}

unsigned mt_pool_busy(struct mt_pool *p)
{
    (void)pthread_mutex_lock(&p->lock);
    unsigned n = p->waiting + p->running;
    (void)pthread_mutex_unlock(&p->lock);
    return n;
}
