/* SPDX-License-Identifier: Apache-2.0 */
/* The table of scopes, asked in several ways. */
#include "control/auth/scopes.h"

#include "base/str.h"

enum lowest { LOW_READONLY = 0, LOW_DEVELOPER, LOW_ADMIN, LOW_OWNER, LOW_EXEC, LOW_EXPORT, LOW_OPERATOR };

const char *const mt_scopes_all[] = {
#define X(name, low) name,
    MT_SCOPES(X)
#undef X
    NULL,
};

static const unsigned char lowest[] = {
#define X(name, low) LOW_##low,
    MT_SCOPES(X)
#undef X
};
_Static_assert(sizeof lowest <= 64, "scopes are bits of one word");

uint64_t mt_scope_bit(const char *scope)
{
    for (unsigned i = 0; mt_scopes_all[i]; i++)
        if (MT_STREQ(mt_scopes_all[i], scope))
            return UINT64_C(1) << i;
    return 0;
}

uint64_t mt_scope_any(const char *scopes)
{
    uint64_t set = 0;
    for (size_t n; *scopes; scopes += n + (scopes[n] == '|')) {
        n = strcspn(scopes, "|");
        for (unsigned i = 0; mt_scopes_all[i]; i++)
            if (strlen(mt_scopes_all[i]) == n && memcmp(mt_scopes_all[i], scopes, n) == 0)
                set |= UINT64_C(1) << i;
    }
    return set;
}

static uint64_t where(bool operators)
{
    uint64_t set = 0;
    for (unsigned i = 0; i < sizeof lowest; i++)
        if ((lowest[i] == LOW_OPERATOR) == operators)
            set |= UINT64_C(1) << i;
    return set;
}

uint64_t mt_scopes_operator(void)
{
    return where(true);
}

uint64_t mt_scopes_tenant(void)
{
    return where(false);
}

uint64_t mt_scopes_every(void)
{
    return where(true) | where(false);
}

static const char *const role_names[MT_ROLE_MAX] = {"", "readonly", "developer", "admin", "owner"};

enum mt_role mt_role_parse(const char *name)
{
    for (int i = MT_ROLE_READONLY; i < MT_ROLE_MAX; i++)
        if (MT_STREQ(role_names[i], name))
            return (enum mt_role)i;
    return MT_ROLE_NONE;
}

const char *mt_role_name(enum mt_role role)
{
    return role < MT_ROLE_MAX ? role_names[role] : "";
}

uint64_t mt_role_scopes(enum mt_role role, bool developer_exec, bool secret_export)
{
    uint64_t set = 0;
    for (unsigned i = 0; i < sizeof lowest; i++) {
        bool has = false;
        switch ((enum lowest)lowest[i]) {
        case LOW_READONLY:
            has = role >= MT_ROLE_READONLY;
            break;
        case LOW_DEVELOPER:
            has = role >= MT_ROLE_DEVELOPER;
            break;
        case LOW_ADMIN:
            has = role >= MT_ROLE_ADMIN;
            break;
        case LOW_OWNER:
            has = role >= MT_ROLE_OWNER;
            break;
        case LOW_EXEC:
            has = role >= MT_ROLE_ADMIN || (role == MT_ROLE_DEVELOPER && developer_exec);
            break;
        case LOW_EXPORT:
            has = role >= MT_ROLE_OWNER && secret_export;
            break;
        case LOW_OPERATOR:
            break;
        }
        if (has)
            set |= UINT64_C(1) << i;
    }
    return set;
}
