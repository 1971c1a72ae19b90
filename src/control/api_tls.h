/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of the API's own listener (`listen_https`): its certificate, read at the start and again on SIGHUP. */
#pragma once

#include "control/control.h"

/** The context of the configured certificate; *ret NULL when there is no `listen_https`. -MT_E_INVALID, -MT_E_NOT_FOUND, -MT_E_IO: the
 *  message names key and file. Also what --check-config asks. */
int mt_api_tls_load(const struct mt_control_conf *conf, struct mt_tls_ctx **ret, struct mt_err *err);
/** Read the files again; new connections use what they say. On failure the old certificate stays. Says in the log how it went. */
void mt_api_tls_reload(struct mt_control *ctl);
