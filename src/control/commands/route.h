/* SPDX-License-Identifier: Apache-2.0 */
/* A route as somebody asks for it, by API or manifest: its rules and its event payload (control-plane.md §13,
 * networking.md §8.1). Pure. */
#pragma once

#include "base/err.h"
#include "control/commands/port_policy.h"
#include "model/names.h"

#include <jansson.h>
#include <stdint.h>

struct mt_route_spec {
    char hostname[MT_HOSTNAME_SIZE]; /* "" = none */
    int64_t listen_port;
    const char *protocol;      /* tls_passthrough, tcp_raw */
    const char *address_scope; /* set by mt_route_check */
    const char *backend_process_type;
    int64_t backend_port;
    const char *proxy_protocol; /* off, v2 */
    bool backend_expects_proxy_protocol, proxy_tlv, ipv4_required;
    bool has_ipv4; /* the environment has an IPv4 address: told to mt_route_check */
    bool port_settled; /* a route that is there: the policy may have changed since */
    int64_t max_connections, idle_timeout_seconds; /* 0: default, none */
    const char *balance;                           /* round_robin, least_conn */
    const char *min_tls_version;                   /* 1.0 to 1.3; NULL or "": any */
    bool default_for_listener, allow_non_tls;      /* on the environment's IPv4 address only */
};

/**
 * Apply the rules that need no database; sets address_scope.
 * On refusal returns -MT_E_INVALID and the API's error code in @ret_code (static text).
 */
int mt_route_check(struct mt_route_spec *s, const struct mt_port_policy *ports, const char **ret_code, struct mt_err *err);

/**
 * The name that an environment has by itself below the platform's domain (networking.md §10): <app>-<env>.<base>. -MT_E_INVALID when the two are too
 * long for one label.
 */
int mt_route_platform_name(const char *app, const char *env, const char *base, char ret[MT_HOSTNAME_SIZE], struct mt_err *err);
/** Is @host below @base, or @base itself? */
bool mt_route_below(const char *host, const char *base);

/** Payload of route.created; @managed_by is "api" or "manifest". NULL when memory is out. */
json_t *mt_route_payload(const struct mt_route_spec *s, const char *managed_by);
