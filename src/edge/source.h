/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the configuration comes from: the disk at start, then the control plane by long poll; and the way back, the
 * acknowledgement after every change and every 10 s. Two threads, both blocking; the workers never wait for either.
 * Source: networking.md 8.7.
 */
#pragma once

#include "edge/hub.h"

struct mt_edge_source_poll;

/**
 * Start the threads.
 * NULL and @err only when threads or memory are refused.
 */
struct mt_edge_source_poll *mt_edge_source_start(struct mt_edge_hub *h, struct mt_err *err);
/** Apply the last known good configuration of the data folder, if there is one; false when there is none. */
bool mt_edge_source_load(struct mt_edge_hub *h);
/** Stop both threads and free. NULL is fine. */
void mt_edge_source_stop(struct mt_edge_source_poll *s);
