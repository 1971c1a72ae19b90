/* SPDX-License-Identifier: Apache-2.0 */
/* /etc/resolv.conf, /etc/hosts and /etc/hostname of the workload (runtime.md 18). */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

/**
 * Write the three files beneath the folder @etc_fd. Each is made beside and renamed over the old one, so
 * a symlink is replaced, never followed. Without dns entries resolv.conf is left as the image has it.
 * A hosts file that is more than the usual localhost lines keeps its text and gets only missing lines.
 *
 * Returns 0 or -MT_E_IO; files written before the failure stay.
 */
int mt_etc_write(int etc_fd, const char *hostname, const struct mt_guest_network *network, struct mt_err *err);
