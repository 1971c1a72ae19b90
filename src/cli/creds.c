/* SPDX-License-Identifier: Apache-2.0 */
/* The credentials file: folder 0700, file 0600, written whole and renamed; changes under a lock beside it, because a refresh
 * token is good for one use and two commands at once must not spend it twice. Where the desktop has a keyring that takes it, the login
 * itself is there, and the file says only so: who has none is not asked for one. */
#include "cli/creds.h"

#include "cli/keyring.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

enum { FILE_MAX = 256 * 1024, BODY_MAX = 64 * 1024, EARLY_S = 30 };

char *cli_creds_path(void)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    return xdg && *xdg == '/' ? mt_asprintf("%s/moat/credentials", xdg) : mt_asprintf("%s/.local/state/moat/credentials", home ? home : "");
}

/* The folder, made when it is missing; refused when others may write or read there. */
static int folder(struct cli *c, const char *path, bool make)
{
    struct stat st;
    struct mt_err err;
    mt_auto_free char *dir = strdup(path);
    if (!dir)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    *strrchr(dir, '/') = '\0';
    if (make && mt_file_mkdirs(dir, 0700, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (stat(dir, &st) == 0 && (st.st_mode & 077)) {
        mt_auto_free char *what = mt_asprintf("folder '%s' can be opened by others", dir);
        return cli_error(c, CLI_AUTH, what ? what : "out of memory", "chmod 700 the folder");
    }
    return CLI_OK;
}

/* All entries; an empty object when there is no file. */
static int load(struct cli *c, const char *path, json_t **ret)
{
    struct stat st;
    struct mt_err err;
    mt_auto_free char *text = NULL;
    size_t n;
    *ret = NULL;
    int code = folder(c, path, false);
    if (code != CLI_OK)
        return code;
    if (lstat(path, &st) < 0) {
        *ret = json_object();
        return CLI_OK;
    }
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) || st.st_uid != geteuid()) {
        mt_auto_free char *what = mt_asprintf("'%s' can be read by others, or is not yours", path);
        return cli_error(c, CLI_AUTH, what ? what : "out of memory", "chmod 600 the file; whoever read it can act as you: moat auth logout, then login");
    }
    if (mt_file_read_plain(path, geteuid(), FILE_MAX, &text, &n, &err) < 0)
        return cli_fail(c, &err, NULL);
    int bad = mt_json_parse(text, n, FILE_MAX, 8, ret, &err);
    explicit_bzero(text, n);
    if (bad < 0 || !json_is_object(*ret)) {
        json_decref(*ret);
        *ret = NULL;
        return cli_error(c, CLI_AUTH, "the credentials file is not readable as JSON", "remove it and run `moat auth login`");
    }
    return CLI_OK;
}

static int store(struct cli *c, const char *path, const json_t *all)
{
    struct mt_err err;
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FILE_MAX);
    if (mt_json_dump(all, &text, &err) < 0 || mt_file_write(path, text.p, text.len, 0600, &err) < 0)
        return cli_fail(c, &err, NULL);
    explicit_bzero(text.p, text.len);
    return CLI_OK;
}

/* Waits for its turn: a holder ends within its request's deadline. */
static int lock(struct cli *c, const char *path, int *ret_fd)
{
    mt_auto_free char *name = mt_asprintf("%s.lock", path);
    int code = folder(c, path, true);
    if (code != CLI_OK)
        return code;
    mt_auto_fd int fd = name ? open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return cli_error(c, CLI_FAILURE, "the lock of the credentials file cannot be taken", NULL);
    *ret_fd = MT_TAKE_FD(fd);
    return CLI_OK;
}

/* The entry of c->api as it is to be used; one that says "keyring" holds no token. */
static int entry_of(struct cli *c, const json_t *all, json_t **ret)
{
    json_t *entry = json_object_get(all, c->api);
    struct mt_err err;
    *ret = NULL;
    c->in_keyring = entry && json_is_true(json_object_get(entry, "keyring"));
    if (!c->in_keyring) {
        *ret = json_incref(entry);
        return CLI_OK;
    }
    if (cli_keyring_get(c->api, ret, &err) < 0)
        return cli_error(c, CLI_AUTH, err.msg, "unlock the keyring, or sign in again: moat auth login (MOAT_KEYRING=off keeps logins in a file)");
    return CLI_OK;
}

/* What goes into the file for @entry: the entry, or the word that it is in the keyring. Owned by the caller; NULL: out of memory. */
static json_t *file_entry(struct cli *c, const json_t *entry)
{
    struct mt_err err;
    if (cli_keyring_there() && cli_keyring_put(c->api, entry, &err) == 0)
        return json_pack("{s:b,s:s}", "keyring", 1, "email", cli_str(entry, "email"));
    return json_deep_copy(entry);
}

int cli_creds_get(struct cli *c, json_t **ret)
{
    mt_auto_free char *path = cli_creds_path();
    mt_auto_json json_t *all = NULL;
    *ret = NULL;
    int code = path ? load(c, path, &all) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return code == CLI_OK ? entry_of(c, all, ret) : code;
}

static int put_locked(struct cli *c, const char *path, const json_t *entry)
{
    mt_auto_json json_t *all = NULL;
    int code = load(c, path, &all);
    if (code != CLI_OK)
        return code;
    struct mt_err err;
    bool was = json_is_true(json_object_get(json_object_get(all, c->api), "keyring"));
    json_t *kept = entry ? file_entry(c, entry) : NULL;
    if (entry && json_object_set_new(all, c->api, kept) < 0)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (!entry)
        (void)json_object_del(all, c->api);
    code = store(c, path, all);
    if (code == CLI_OK && was && !json_is_true(json_object_get(json_object_get(all, c->api), "keyring")) && cli_keyring_forget(c->api, &err) < 0)
        return cli_error(c, CLI_FAILURE, err.msg, "the login is ended; the keyring may still show it");
    return code;
}

int cli_creds_put(struct cli *c, const json_t *entry)
{
    mt_auto_free char *path = cli_creds_path();
    mt_auto_fd int fd = -1;
    int code = path ? lock(c, path, &fd) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return code == CLI_OK ? put_locked(c, path, entry) : code;
}

json_t *cli_creds_entry(const json_t *tokens, const char *email)
{
    const char *access = cli_str(tokens, "access_token"), *refresh = cli_str(tokens, "refresh_token");
    if (!*access || !*refresh)
        return NULL;
    return json_pack("{s:s,s:s,s:I,s:O*,s:s*}", "access_token", access, "refresh_token", refresh, "expires_at",
                     (json_int_t)(mt_clock_wall_us() / 1000000 + cli_int(tokens, "expires_in_seconds")), "scopes", json_object_get(tokens, "scopes"),
                     "email", email && *email ? email : NULL);
}

int cli_exchange(struct cli *c, const char *path, const json_t *body, int *ret_status, json_t **ret)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(BODY_MAX);
    mt_auto_http_reply struct mt_http_reply r = {0};
    struct mt_err err;
    *ret = NULL;
    if (mt_json_dump(body, &text, &err) < 0)
        return cli_fail(c, &err, NULL);
    struct mt_http_request req = {.method = "POST", .target = path, .body = mt_buf_cstr(&text), .body_len = text.len, .timeout_ms = c->timeout_ms};
    int e = mt_http_do(c->http, &req, BODY_MAX, &r, &err);
    explicit_bzero(text.p, text.len);
    if (c->debug)
        (void)fprintf(stderr, "POST %s -> %s%d (bodies hidden)\n", path, e < 0 ? "error " : "", e < 0 ? -e : r.status);
    if (e < 0)
        return cli_error(c, CLI_TRANSIENT, err.msg, "is the platform running?");
    *ret_status = r.status;
    if (r.body.len)
        (void)mt_json_parse((const char *)r.body.p, r.body.len, BODY_MAX, 16, ret, NULL);
    return CLI_OK;
}

int cli_exchange_failed(struct cli *c, int status, const json_t *problem)
{
    char text[400];
    const char *code = cli_str(problem, "code"), *detail = cli_str(problem, "detail");
    (void)snprintf(text, sizeof text, "%s: %s", *code ? code : "error", *detail ? detail : "the server gave no explanation");
    return cli_error_reason(c, cli_exit_of_status(status), *code ? code : NULL, text, NULL);
}

static int take(struct cli *c, const char *token)
{
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    c->token = strdup(token);
    return c->token ? CLI_OK : cli_error(c, CLI_FAILURE, "out of memory", NULL);
}

static int client_credentials(struct cli *c, const char *id, const char *secret)
{
    mt_auto_json json_t *body = json_pack("{s:s,s:s,s:s}", "grant_type", "client_credentials", "client_id", id, "client_secret", secret);
    mt_auto_json json_t *r = NULL;
    int status = 0;
    if (!body)
        return cli_usage(c, "MOAT_CLIENT_ID or MOAT_CLIENT_SECRET is not UTF-8");
    int code = cli_exchange(c, "/v1/auth/token", body, &status, &r);
    if (code != CLI_OK)
        return code;
    return status == 200 ? take(c, cli_str(r, "access_token")) : cli_exchange_failed(c, status, r);
}

static bool fresh(const json_t *entry)
{
    return cli_int(entry, "expires_at") > mt_clock_wall_us() / 1000000 + EARLY_S;
}

/* Under the lock: another command may have refreshed while we waited for it. */
static int refresh(struct cli *c)
{
    mt_auto_free char *path = cli_creds_path();
    mt_auto_fd int fd = -1;
    mt_auto_json json_t *all = NULL, *entry = NULL;
    int status = 0, code = path ? lock(c, path, &fd) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK || (code = load(c, path, &all)) != CLI_OK || (code = entry_of(c, all, &entry)) != CLI_OK)
        return code;
    if (!entry)
        return cli_error(c, CLI_AUTH, "the login has ended", "moat auth login");
    if (fresh(entry))
        return take(c, cli_str(entry, "access_token"));
    mt_auto_json json_t *body = json_pack("{s:s}", "refresh_token", cli_str(entry, "refresh_token"));
    mt_auto_json json_t *r = NULL;
    if ((code = cli_exchange(c, "/v1/auth/token/refresh", body, &status, &r)) != CLI_OK)
        return code;
    if (status == 401) {
        (void)put_locked(c, path, NULL);
        return cli_error_reason(c, CLI_AUTH, "invalid_grant", "the login has ended", "moat auth login");
    }
    if (status != 200)
        return cli_exchange_failed(c, status, r);
    mt_auto_json json_t *next = cli_creds_entry(r, cli_str(entry, "email"));
    code = next ? put_locked(c, path, next) : cli_error(c, CLI_INTERNAL, "the server's answer holds no tokens", NULL);
    return code == CLI_OK ? take(c, cli_str(next, "access_token")) : code;
}

int cli_credential(struct cli *c, bool *ret_found)
{
    const char *id = getenv("MOAT_CLIENT_ID"), *secret = getenv("MOAT_CLIENT_SECRET");
    mt_auto_json json_t *entry = NULL;
    *ret_found = true;
    c->token_from = 2;
    if (id && *id && secret && *secret)
        return client_credentials(c, id, secret);
    if ((id && *id) || (secret && *secret))
        return cli_usage(c, "MOAT_CLIENT_ID and MOAT_CLIENT_SECRET go together");
    int code = cli_creds_get(c, &entry);
    if (code != CLI_OK)
        return code;
    *ret_found = entry != NULL;
    c->token_from = entry ? 3 : 0;
    if (!entry)
        return CLI_OK;
    return fresh(entry) ? take(c, cli_str(entry, "access_token")) : refresh(c);
}
