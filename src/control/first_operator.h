/* SPDX-License-Identifier: Apache-2.0 */
/* `moat-control init`: the one-time link with which the first operator sets up an account (control-plane.md §10.2). */
#pragma once

#include "control/conf.h"

struct mt_err;

/** Make the link and print it on stdout. @again: also when an operator can sign in already. The schema must be there. */
int mt_first_operator(const struct mt_control_conf *conf, const uint8_t mac_key[32], bool again, struct mt_err *err);
