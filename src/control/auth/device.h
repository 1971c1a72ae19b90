/* SPDX-License-Identifier: Apache-2.0 */
/* Device logins (RFC 8628, control-plane.md §10.3): a client without a browser holds a device code, a person in front of a
 * browser types the user code and decides. States: pending, then approved and consumed, or denied, or past its time. */
#pragma once

#include "control/auth/grant.h"

#define MT_DEVICE_SECONDS 600
#define MT_DEVICE_INTERVAL 5
#define MT_DEVICE_CLIENT_MAX 128
#define MT_CLIENT_IP_SIZE 64

struct mt_device_started {
    char device_code[MT_TOKEN_SIZE];
    char user_code[MT_USER_CODE_SIZE];
};
/** -MT_E_LIMIT when this address has too many logins pending. */
int mt_device_start(struct mt_pg *pg, const char *client_name, const char *client_ip, uint64_t scopes, struct mt_device_started *ret,
                    struct mt_err *err);

enum mt_device_end { MT_DEVICE_OK = 0, MT_DEVICE_PENDING, MT_DEVICE_SLOW_DOWN, MT_DEVICE_EXPIRED, MT_DEVICE_DENIED, MT_DEVICE_UNKNOWN };
/** One poll of the client; asking sooner than the interval allows adds 5 s to it. Tokens are given once. */
int mt_device_poll(struct mt_pg *pg, const char *device_code, struct mt_granted *ret, int *ret_interval, enum mt_device_end *ret_end,
                   struct mt_err *err);

struct mt_device_shown {
    char client_name[MT_DEVICE_CLIENT_MAX + 1];
    char client_ip[MT_CLIENT_IP_SIZE];
    uint64_t scopes;
};
/** What a pending user code stands for. -MT_E_NOT_FOUND. */
int mt_device_show(struct mt_pg *pg, const char *user_code, struct mt_device_shown *ret, struct mt_err *err);
/** A person's decision. @scopes: what was shown and is given. -MT_E_NOT_FOUND when the code is pending no more. */
int mt_device_decide(struct mt_pg *pg, const char *user_code, const char *user_id, bool approve, uint64_t scopes, struct mt_err *err);
