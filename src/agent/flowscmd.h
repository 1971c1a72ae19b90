/* SPDX-License-Identifier: Apache-2.0 */
/* `moat-agent flows`: who sent what from this node, out of the ring of flow records (agent/net/flowring.h). For root; the agent that runs records each reading. */
#pragma once

/** @argv from behind "flows": --since, --until (RFC 3339), --address, --port. Lines of JSON on stdout; the exit code. */
int mt_flows_command(const char *config, int argc, char **argv);
