/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What VMs send, receive and are refused, as the kernel counts it: read every ten seconds for the metrics page (sums by rule) and for
 * `describe` (one VM's own), and once a minute for the flow log (net/flowring.h), with the flows that a thread hears of. Loop thread; the reading on a worker. Nothing
 * else is kept on disk: the kernel's counters outlive the agent.
 * Source: networking.md §6 "attribution"; runtime.md §21.
 */
#pragma once

#include "agent/agent.h"
#include "agent/net/tally.h"

#include <jansson.h>

struct mt_traffic;

/** NULL and @err when out of memory. */
struct mt_traffic *mt_traffic_new(struct mt_agent *a, struct mt_err *err);
/** After the pool of workers is gone. NULL is fine. */
void mt_traffic_free(struct mt_traffic *t);

/** There are VMs here, or will be: from now on their flows are recorded. May be repeated. */
void mt_traffic_begin(struct mt_traffic *t);
/** Write down that @uid reads what is recorded of that time. -MT_E_NOT_FOUND when nothing is recorded here. */
int mt_traffic_read_by(struct mt_traffic *t, uid_t uid, int64_t since_us, int64_t until_us, struct mt_err *err);

/** Packets that each rule has dropped. */
const struct mt_fw_count *mt_traffic_rules(const struct mt_traffic *t);
/** Of the VM behind the tap of @slot: bytes and packets are of now, drops of the last reading. NULL when there is no tap. */
json_t *mt_traffic_of(const struct mt_traffic *t, uint32_t slot, const char *address);
