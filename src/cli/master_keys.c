/* SPDX-License-Identifier: Apache-2.0 */
/* Master keys, for operators: made and retired in the file on this machine, counted and used by the server. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/masterkey.h"
#include "os/file.h"
#include "os/lockmem.h"

#include <sys/stat.h>
#include <unistd.h>

int cmd_admin_keys_generate(struct cli *c)
{
    struct mt_masterkey k = {.active = !cli_has(c, "retired")};
    char line[MT_MASTERKEY_LINE];
    mt_process_hide();
    mt_random(k.key, sizeof k.key);
    mt_masterkey_id(k.key, k.id);
    mt_masterkey_line(&k, line);
    bool ok = write(STDOUT_FILENO, line, strlen(line)) == (ssize_t)strlen(line);
    explicit_bzero(&k, sizeof k);
    explicit_bzero(line, sizeof line);
    return ok ? CLI_OK : cli_error(c, CLI_FAILURE, "stdout cannot be written", NULL);
}

int cmd_admin_keys_status(struct cli *c)
{
    static const struct cli_column cols[] = {{"ID", "id"}, {"STATE", "state"}, {"HOLDS", "rows"}};
    mt_auto_json json_t *r = NULL;
    int code = cli_call(c, "GET", "/v1/admin/keys", NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "MasterKeys", r);
    if (*cli_str(r, "problem"))
        cli_say(c, "the key file: %s", cli_str(r, "problem"));
    return cli_print_table(c, json_object_get(r, "keys"), cols, MT_ARRAY_LEN(cols), "master keys");
}

int cmd_admin_keys_rewrap(struct cli *c)
{
    int64_t total = 0;
    for (;;) {
        mt_auto_json json_t *r = NULL, *body = json_object();
        int code = cli_call(c, "POST", "/v1/admin/keys/rewrap", body, &r);
        if (code != CLI_OK)
            return code;
        total += cli_int(r, "rewrapped");
        bool over = cli_int(r, "remaining") == 0 || cli_int(r, "rewrapped") == 0;
        if (!over) {
            cli_say(c, "%lld rewrapped, %lld to go", (long long)total, (long long)cli_int(r, "remaining"));
            continue;
        }
        (void)json_object_set_new(r, "rewrapped", json_integer((json_int_t)total));
        if (c->json)
            code = cli_print_object(c, "Rewrap", r);
        else
            cli_say(c, "%lld rewrapped, %lld remain", (long long)total, (long long)cli_int(r, "remaining"));
        if (code == CLI_OK && cli_int(r, "remaining") > 0 && c->json)
            return CLI_FAILURE; /* the document says it */
        return code != CLI_OK || cli_int(r, "remaining") == 0 ? code
               : cli_error(c, CLI_FAILURE, "some keys do not open; the server's log names them", "moat admin keys verify");
    }
}

int cmd_admin_keys_verify(struct cli *c)
{
    mt_auto_json json_t *r = NULL, *body = json_object();
    int code = cli_call(c, "POST", "/v1/admin/keys/verify", body, &r);
    if (code != CLI_OK)
        return code;
    bool good = cli_int(r, "wrapped_keys") == cli_int(r, "opened") && cli_int(r, "envelopes") == cli_int(r, "envelopes_opened");
    code = c->json ? cli_print_object(c, "KeyVerification", r) : cli_print_fields(c, r);
    if (code == CLI_OK && !good && c->json)
        return CLI_FAILURE; /* the document says it */
    return code != CLI_OK || good ? code : cli_error(c, CLI_FAILURE, "not everything opens; the server's log names what does not", NULL);
}

/* The file without the line of @id: owner and mode stay, the old content is gone with the name. */
static int drop_line(struct cli *c, const char *path, const char *id)
{
    mt_auto_lockmem struct mt_lockmem out = {0}, keys = {0};
    struct mt_err err;
    struct stat st;
    size_t n = 0, count = 0;
    char *text = NULL;
    if (stat(path, &st) < 0) {
        (void)MT_FAIL_ERRNO(&err, MT_E_IO, "look at '%s'", path);
        return cli_fail(c, &err, NULL);
    }
    int rc = mt_file_read(path, MT_MASTERKEYS_FILE, &text, &n, &err);
    if (rc == 0 && (rc = mt_lockmem_new(&out, n + 1, &err)) == 0)
        rc = mt_lockmem_new(&keys, MT_MASTERKEYS_MAX * sizeof(struct mt_masterkey), &err);
    bool found = false, active = false;
    struct mt_masterkey *list = (void *)keys.p;
    if (rc == 0)
        rc = mt_masterkeys_read(text, n, list, &count, &err);
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (MT_STREQ(list[i].id, id)) {
            found = true;
            active = list[i].active;
        }
    for (char *at = text; rc == 0 && found && at < text + n;) {
        char *nl = memchr(at, '\n', (size_t)(text + n - at)), *end = nl ? nl + 1 : text + n;
        if (!mt_starts_with(at, id)) {
            memcpy(out.p + out.len, at, (size_t)(end - at));
            out.len += (size_t)(end - at);
        }
        at = end;
    }
    if (text)
        explicit_bzero(text, n);
    free(text);
    if (rc < 0)
        return cli_fail(c, &err, NULL);
    if (!found || active)
        return cli_error(c, found ? CLI_CONFLICT : CLI_NOT_FOUND, found ? "the key is active: make another one active first" : "the file has no such key",
                         "moat admin keys status");
    rc = mt_file_write(path, out.p, out.len, 0400, &err);
    if (rc == 0 && chown(path, st.st_uid, st.st_gid) < 0)
        rc = MT_FAIL_ERRNO(&err, MT_E_IO, "give '%s' back to its owner", path);
    if (rc < 0)
        return cli_fail(c, &err, NULL);
    if (!c->json)
        cli_say(c, "key %s is out of %s; send SIGHUP to every moat-control, and keep an offline copy as long as backups need it", id, path);
    return CLI_OK;
}

int cmd_admin_keys_retire(struct cli *c)
{
    const char *id = c->argv[0], *file = cli_opt(c, "file"), *reason = cli_opt(c, "reason");
    mt_auto_json json_t *r = NULL, *done = NULL;
    char path[80];
    size_t i;
    json_t *k;
    bool there = false;
    if (strlen(id) != 16 || strspn(id, "0123456789abcdef") != 16)
        return cli_usage(c, "a key id has 16 hex digits (moat admin keys status)");
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the audit log");
    mt_process_hide();
    int code = cli_call(c, "GET", "/v1/admin/keys", NULL, &r);
    if (code != CLI_OK)
        return code;
    json_array_foreach(json_object_get(r, "keys"), i, k) there = there || MT_STREQ(cli_str(k, "id"), id);
    if (there || !file) { /* a server that has forgotten it already needs not be asked again */
        mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason);
        (void)snprintf(path, sizeof path, "/v1/admin/keys/%s/retire", id);
        code = body ? cli_call(c, "POST", path, body, &done) : cli_usage(c, "--reason is not UTF-8");
        if (code != CLI_OK)
            return code;
    }
    if (file && (code = drop_line(c, file, id)) != CLI_OK)
        return code;
    if (!file && !c->json)
        cli_say(c, "this server has key %s no more; next: moat admin keys retire %s --file FILE on every machine of the control plane, then SIGHUP moat-control", id, id);
    if (!c->json)
        return CLI_OK;
    mt_auto_json json_t *told = json_pack("{s:s,s:b}", "id", id, "out_of_file", file != NULL);
    return told ? cli_print_object(c, "MasterKeyRetired", told) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
}
