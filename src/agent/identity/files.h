/* SPDX-License-Identifier: Apache-2.0 */
/* Inside agent/identity: the files of the keys folder, and one exchange with the control plane. */
#pragma once

#include "agent/identity/identity.h"
#include "os/tls.h"

#include <jansson.h>

#define ID_TEXT_MAX 65536

/** "<data_dir>/keys/<name>", malloc'ed. */
char *mt_id_path(const char *data_dir, const char *name);
/** A text file of ours; -MT_E_NOT_FOUND. */
int mt_id_read(const char *path, char **ret, struct mt_err *err);
/** Make or find a private key in @path (0600). @ret_pem malloc'ed, wiped by the caller. */
int mt_id_node_key(const char *path, char **ret_pem, struct mt_err *err);
/** Make or find the WireGuard key in @path; @ret_public: its public half as base64, 45 bytes. */
int mt_id_wg_key(const char *path, char ret_public[48], struct mt_err *err);
/** Certificate and key as one file, replaced at once. @gid (gid_t)-1: ours alone (0600), else 0640 for that group. */
int mt_id_write_pem(const char *path, const char *cert_pem, const char *key_pem, gid_t gid, struct mt_err *err);
/** POST a JSON object (taken) and get one: 0 with @ret (owned) for 2xx; else the problem's detail in @err: -MT_E_DENIED (401, 403),
 *  -MT_E_CONFLICT (409), -MT_E_INVALID (other 4xx), -MT_E_UNAVAILABLE. */
int mt_id_post(struct mt_http_client *c, const char *target, json_t *body, json_t **ret, struct mt_err *err);
