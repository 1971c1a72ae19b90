/* SPDX-License-Identifier: Apache-2.0 */
/* Invitations become memberships when their person signs in (control-plane.md §10.2). */
#pragma once

#include "control/log/append.h"

/** Activate every invitation of @user_id's address. Returns 0 or -code; signing in does not depend on it. */
int mt_members_activate(struct mt_pg *pg, struct mt_appender *ap, const char *user_id, const char *request_id, struct mt_err *err);
