/* SPDX-License-Identifier: Apache-2.0 */
/* What `moat-agent` does besides being the agent: who this machine is, and asking the agent that runs here to end every VM. */
#pragma once

#include "base/err.h"

struct mt_agent_conf;
struct mt_identity;

/**
 * Who this machine is, into conf->node_id (owned by it): the identity that join made (@ret, NULL without one), else node_id of the
 * configuration, else, when that names the control plane's socket of this machine, the id in <agent_dir>/node-id, which is made at the
 * first call. -MT_E_INVALID: it is no node yet, or two of these differ.
 */
int mt_local_identity(struct mt_agent_conf *conf, struct mt_identity **ret, struct mt_err *err);

/** The same without making anything: 0 when mt_local_identity would find or make a node. */
int mt_local_is_node(const struct mt_agent_conf *conf, struct mt_err *err);
