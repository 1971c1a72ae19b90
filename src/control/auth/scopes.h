/* SPDX-License-Identifier: Apache-2.0 */
/* Scopes and roles as data (control-plane.md §10.4). Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/** Bits of the columns of the table: who may hold a scope in an organisation. */
enum mt_role { MT_ROLE_NONE = 0, MT_ROLE_READONLY, MT_ROLE_DEVELOPER, MT_ROLE_ADMIN, MT_ROLE_OWNER, MT_ROLE_MAX };

/* X(scope, lowest role that carries it). OPERATOR: never by a role, only to operators. EXEC: admin, and developer where the
 * organisation says so. EXPORT: owner, and only where the server allows export of secrets. The order is that of bits in
 * memory; stored are names. */
#define MT_SCOPES(X)                    \
    X("orgs:read", READONLY)            \
    X("apps:read", READONLY)            \
    X("envs:read", READONLY)            \
    X("releases:read", READONLY)        \
    X("deploys:read", READONLY)         \
    X("instances:read", READONLY)       \
    X("routes:read", READONLY)          \
    X("volumes:read", READONLY)         \
    X("secrets:read-metadata", READONLY) \
    X("events:read", READONLY)          \
    X("logs:read", READONLY)            \
    X("registries:read", DEVELOPER)     \
    X("sps:read", DEVELOPER)            \
    X("drains:read", DEVELOPER)         \
    X("apps:write", DEVELOPER)          \
    X("envs:write", DEVELOPER)          \
    X("releases:write", DEVELOPER)      \
    X("deploys:write", DEVELOPER)       \
    X("rollbacks:write", DEVELOPER)     \
    X("scale:write", DEVELOPER)         \
    X("instances:write", DEVELOPER)     \
    X("routes:write", DEVELOPER)        \
    X("volumes:write", DEVELOPER)       \
    X("secrets:write", DEVELOPER)       \
    X("exec:write", EXEC)               \
    X("apps:admin", ADMIN)              \
    X("envs:admin", ADMIN)              \
    X("ipv4:write", ADMIN)              \
    X("registries:write", ADMIN)        \
    X("drains:write", ADMIN)            \
    X("members:write", ADMIN)           \
    X("sps:write", ADMIN)               \
    X("audit:read", ADMIN)              \
    X("orgs:admin", OWNER)              \
    X("billing:read", OWNER)            \
    X("billing:write", OWNER)           \
    X("secrets:read-material", EXPORT)  \
    X("nodes:read", OPERATOR)           \
    X("nodes:admin", OPERATOR)          \
    X("users:admin", OPERATOR)          \
    X("quotas:admin", OPERATOR)         \
    X("events:admin", OPERATOR)         \
    X("admin", OPERATOR)

/** Every scope there is in this version, NULL-terminated; bit i stands for entry i. */
extern const char *const mt_scopes_all[];

/** Bit of a scope name, 0 when unknown. */
uint64_t mt_scope_bit(const char *scope);
/** Bits of "a|b": names of which any one suffices. A name that is unknown has none. */
uint64_t mt_scope_any(const char *scopes);
/** All scopes, those that only operators hold, and those that tenants can hold. */
uint64_t mt_scopes_every(void);
uint64_t mt_scopes_operator(void);
uint64_t mt_scopes_tenant(void);

/** "owner" to MT_ROLE_OWNER; MT_ROLE_NONE when it is no role. */
enum mt_role mt_role_parse(const char *name);
const char *mt_role_name(enum mt_role role);
/** Scopes that a role carries in an organisation. @developer_exec is its setting, @export the server's. */
uint64_t mt_role_scopes(enum mt_role role, bool developer_exec, bool secret_export);
