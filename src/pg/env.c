/* SPDX-License-Identifier: Apache-2.0 */
/* A connection string as the environment that PostgreSQL's own programs read: on a command line every user of the machine sees a password. */
#include "pg/env.h"

#include "base/buf.h"
#include "base/str.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>

#define ENV_MAX 48

void mt_pg_env_free(char **env)
{
    for (size_t i = 0; env && env[i]; i++) {
        explicit_bzero(env[i], strlen(env[i]));
        free(env[i]);
    }
    free(env);
}

static int add(char **env, size_t *n, const char *name, const char *value, struct mt_err *err)
{
    if (*n >= ENV_MAX)
        return MT_FAIL(err, MT_E_INVALID, "the connection string has more than %d settings", ENV_MAX);
    env[*n] = mt_asprintf("%s=%s", name, value);
    return env[(*n)++] ? 0 : MT_FAIL(err, MT_E_NOMEM, "environment");
}

int mt_pg_env(const char *conninfo, char ***ret, struct mt_err *err)
{
    char *why = NULL;
    size_t n = 0;
    PQconninfoOption *opts = PQconninfoParse(conninfo, &why);
    if (!opts) {
        int rc = MT_FAIL(err, MT_E_INVALID, "database_url: %s", why ? why : "no memory");
        PQfreemem(why);
        return rc;
    }
    char **env = calloc(ENV_MAX + 1, sizeof *env);
    int rc = env ? add(env, &n, "PATH", "/usr/sbin:/usr/bin:/sbin:/bin", err) : MT_FAIL(err, MT_E_NOMEM, "environment");
    if (rc == 0)
        rc = add(env, &n, "LC_ALL", "C", err);
    for (PQconninfoOption *o = opts; rc == 0 && o->keyword; o++)
        if (o->val && o->envvar)
            rc = add(env, &n, o->envvar, o->val, err);
    PQconninfoFree(opts);
    if (rc < 0) {
        mt_pg_env_free(env);
        return rc;
    }
    *ret = env;
    return 0;
}

const char *mt_pg_env_get(char *const *env, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; env[i]; i++)
        if (strncmp(env[i], name, n) == 0 && env[i][n] == '=')
            return env[i] + n + 1;
    return NULL;
}
