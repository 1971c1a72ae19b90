/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded pool of worker threads for blocking work; results come back on a loop's thread. */
#pragma once

#include "os/loop.h"

struct mt_pool;

/** @threads 1..64 workers (64 KiB..: @stack_bytes each, 0 = 256 KiB), at most @queue_max waiting jobs. NULL and @err on failure. */
struct mt_pool *mt_pool_new(struct mt_loop *loop, unsigned threads, unsigned queue_max, size_t stack_bytes, struct mt_err *err);
/** Wait for running jobs, drop waiting ones (their @done is not called), free. */
void mt_pool_free(struct mt_pool *p);
/** Run @work(@arg) on a worker, then @done(@arg) on the loop's thread. -MT_E_LIMIT when the queue is full. */
int mt_pool_submit(struct mt_pool *p, mt_task_fn work, mt_task_fn done, void *arg, struct mt_err *err);
/** Jobs waiting and running. */
unsigned mt_pool_busy(struct mt_pool *p);
