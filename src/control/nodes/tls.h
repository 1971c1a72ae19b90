/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of the node listener and of calls to agents: contexts made of the authority's files (nodes/ca.h), made anew when those change. */
#pragma once

#include "control/control.h"

struct mt_tls_ctx;

/** The listener's context. */
int mt_nodes_tls_listener(const struct mt_control *ctl, struct mt_tls_ctx **ret, struct mt_err *err);
/**
 * When the files have changed, by a step of a rotation here or on another server that shares the folder: new connections use what they say.
 * Called every second by the keeper and after each step. What fails is said once and tried again with the next call.
 */
void mt_nodes_tls_follow(struct mt_control *ctl);
