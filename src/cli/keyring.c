/* SPDX-License-Identifier: Apache-2.0 */
/* See keyring.h. A secret goes through a pipe, never into the arguments of a program. */
#include "cli/keyring.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/spawn.h"

#include <string.h>
#include <sys/stat.h>

#define ENTRY_MAX (64u * 1024u)
#define WAIT_MS (60 * INT64_C(1000)) /* somebody may have to unlock it first */

static bool session_bus(void)
{
    const char *bus = getenv("DBUS_SESSION_BUS_ADDRESS"), *dir = getenv("XDG_RUNTIME_DIR");
    struct stat st;
    char path[4200];
    if (bus && *bus)
        return true;
    return dir && *dir == '/' && mt_fmt(path, sizeof path, NULL, "%s/bus", dir) == 0 && stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

bool cli_keyring_there(void)
{
    const char *off = getenv("MOAT_KEYRING");
    char program[256];
    struct mt_err ignored;
    return !(off && MT_STREQ(off, "off")) && session_bus() && mt_find_program("secret-tool", NULL, program, sizeof program, &ignored) == 0;
}

/* secret-tool @verb [@label] service moat server @server. Its exit status is 1 also for "nothing found". */
static int ask(const char *verb, const char *label, const char *server, const char *in, size_t in_len, struct mt_buf *out, struct mt_err *err)
{
    static const char *const passed[] = {"DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "HOME"};
    char *env[MT_ARRAY_LEN(passed)] = {0};
    const char *envp[MT_ARRAY_LEN(passed) + 2] = {"PATH=/usr/bin:/bin"};
    const char *argv[9] = {"secret-tool", verb};
    char program[256];
    size_t n = 2, e = 1;
    if (label)
        argv[n++] = label;
    const char *const attributes[] = {"service", "moat", "server", server};
    for (size_t i = 0; i < MT_ARRAY_LEN(attributes); i++)
        argv[n++] = attributes[i];
    int r = mt_find_program("secret-tool", "libsecret-tools", program, sizeof program, err);
    for (size_t i = 0; i < MT_ARRAY_LEN(passed) && r == 0; i++) {
        const char *v = getenv(passed[i]);
        if (v && (env[i] = mt_asprintf("%s=%s", passed[i], v)) != NULL)
            envp[e++] = env[i];
    }
    if (r == 0)
        r = mt_run_ok(&(struct mt_spawn){.path = program, .argv = argv, .envp = envp}, in, in_len, out, WAIT_MS, err);
    for (size_t i = 0; i < MT_ARRAY_LEN(passed); i++)
        free(env[i]);
    return r;
}

int cli_keyring_put(const char *server, const json_t *entry, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(ENTRY_MAX);
    mt_auto_free char *label = mt_asprintf("--label=moat: login to %s", server);
    if (!label)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    int r = mt_json_dump(entry, &text, err);
    if (r == 0)
        r = ask("store", label, server, mt_buf_cstr(&text), text.len, NULL, err);
    explicit_bzero(text.p, text.len);
    return r;
}

int cli_keyring_get(const char *server, json_t **ret, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(ENTRY_MAX);
    *ret = NULL;
    int r = ask("lookup", NULL, server, NULL, 0, &text, err);
    if (r == -MT_E_IO || (r == 0 && text.len == 0))
        return MT_FAIL(err, MT_E_NOT_FOUND, "the desktop's keyring gives no login for %s", server);
    if (r == 0 && (mt_json_parse(mt_buf_cstr(&text), text.len, ENTRY_MAX, 8, ret, err) < 0 || !json_is_object(*ret))) {
        json_decref(*ret);
        *ret = NULL;
        r = MT_FAIL(err, MT_E_CORRUPT, "what the desktop's keyring holds for %s is no login", server);
    }
    explicit_bzero(text.p, text.len);
    return r;
}

int cli_keyring_forget(const char *server, struct mt_err *err)
{
    int r = ask("clear", NULL, server, NULL, 0, NULL, err);
    return r == -MT_E_IO ? 0 : r; /* there was nothing, or it is locked: the login is ended at the server */
}
