/* SPDX-License-Identifier: Apache-2.0 */
/* What firewall.c and the text of its table share. */
#pragma once

#include "agent/net/firewall.h"

struct mt_fw_tally;

/** An empty set whose name tells which fixed sets the table was made with: asked by a later process, kept by the kernel. */
void mt_fw_stamp(const struct mt_fw_conf *c, char ret[MT_FW_STAMP_MAX]);
/** The whole table; its counters begin with @t (NULL: with nothing). */
void mt_fw_text_with(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, const struct mt_fw_tally *t, struct mt_buf *o);
