/* SPDX-License-Identifier: Apache-2.0 */
/* Backups of the control plane in the object store: sent, listed, fetched. moat-backup (src/backup/files.c) speaks to the store; a file is as sealed there as here. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/backup_call.h"
#include "wire/backup_conf.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define STORE_FILE "/etc/moat/control-backup.toml"
#define REQUEST_MAX ((size_t)64 << 10)
#define NOBODY 65534U
#define LIMIT_S (4 * 3600)

struct wanted {
    const char *verb, *name; /* NULL: no file is meant */
    int fd;                  /* -1: none */
    json_t *items;           /* lines that are no result go here; NULL: nowhere */
};

static void keep(void *arg, const json_t *line)
{
    const struct wanted *w = arg;
    json_t *file = json_object_get(line, "file");
    if (file)
        (void)json_array_append(w->items, file);
}

static int program_path(char *ret, size_t size, struct mt_err *err)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read /proc/self/exe");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    return mt_fmt(ret, size, err, "%s/moat-backup", self);
}

/* Load the store's file and have moat-backup do one verb; an exit code. */
static int store_call(struct cli *c, struct wanted *w, json_t **ret)
{
    char program[4200];
    struct mt_err err = {0};
    struct mt_backup_conf store = {0};
    const char *path = cli_opt(c, "store");
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REQUEST_MAX);
    int rc = program_path(program, sizeof program, &err);
    if (rc == 0 && (rc = mt_backup_conf_load(path ? path : STORE_FILE, &store, &err)) == -MT_E_NOT_FOUND)
        return cli_error(c, CLI_NOT_FOUND, err.msg, "the store is told in a file like a node's backup.toml: docs/recovery.md, \"Backup\"");
    if (rc < 0)
        return cli_fail(c, &err, NULL);
    (void)mt_buf_reserve(&b, REQUEST_MAX); /* it holds credentials and must not move */
    mt_buf_puts(&b, "{\"store\":");
    mt_backup_conf_put(&store, &b);
    mt_backup_conf_done(&store);
    mt_buf_printf(&b, ",\"uid\":%u,\"gid\":%u,\"total_timeout_s\":%d", geteuid() ? (unsigned)geteuid() : NOBODY, geteuid() ? (unsigned)getegid() : NOBODY, LIMIT_S);
    if (w->name) {
        mt_buf_puts(&b, ",\"name\":");
        mt_buf_put_json_str(&b, w->name, strlen(w->name));
        mt_buf_printf(&b, ",\"file_fd\":%d", w->fd);
    }
    mt_buf_putc(&b, '}');
    struct mt_backup_call call = {.program = program, .verb = w->verb, .fds = &w->fd, .fd_n = w->fd >= 0, .item = w->items ? keep : NULL, .arg = w};
    rc = mt_backup_call(&call, &b, ret, &err);
    if (rc == 0)
        return CLI_OK;
    return MT_STREQ(call.failed_reason, "backup_object_missing") ? cli_error(c, CLI_NOT_FOUND, err.msg, "moat admin backup stored") : cli_fail(c, &err, NULL);
}

/* A name that is no name of ours is refused by moat-backup, which says so only as an invalid argument: say it better here. */
static int check_name(struct cli *c, const char *name)
{
    static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (*name && *name != '.' && strlen(name) <= 128 && strspn(name, all) == strlen(name))
        return CLI_OK;
    return cli_usage(c, "a stored backup is named by 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-', without a dot at its begin");
}

int cmd_admin_backup_send(struct cli *c)
{
    mt_auto_json json_t *j = NULL;
    struct mt_err err = {0};
    const char *file = c->argv[0], *slash = strrchr(file, '/');
    struct wanted w = {.verb = "put-file", .name = slash ? slash + 1 : file};
    int code = check_name(c, w.name);
    if (code != CLI_OK)
        return code;
    mt_auto_fd int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        code = errno == ENOENT ? CLI_NOT_FOUND : CLI_FAILURE;
        (void)MT_FAIL_ERRNO(&err, MT_E_IO, "read '%s'", file);
        return cli_error(c, code, err.msg, NULL);
    }
    w.fd = fd;
    if ((code = store_call(c, &w, &j)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "StoredBackup", j);
    cli_say(c, "%s %s: %lld bytes, read back from the store and found the same", json_is_true(json_object_get(j, "already_done")) ? "was there:" : "sent", cli_str(j, "name"),
            (long long)cli_int(j, "bytes"));
    return CLI_OK;
}

int cmd_admin_backup_stored(struct cli *c)
{
    static const struct cli_column cols[] = {{"NAME", "name"}, {"BYTES", "bytes"}, {"STORED AT", "stored_at"}};
    mt_auto_json json_t *j = NULL, *items = json_array();
    struct wanted w = {.verb = "list-files", .fd = -1, .items = items};
    if (!items)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    int code = store_call(c, &w, &j);
    if (code != CLI_OK)
        return code;
    cli_tame(items);
    return c->json ? cli_print_list(c, items) : cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "backups in the store");
}

int cmd_admin_backup_fetch(struct cli *c)
{
    struct mt_err err = {0};
    mt_auto_json json_t *j = NULL;
    mt_auto_fd int fd = -1;
    const char *file = c->argv[1];
    int code = check_name(c, c->argv[0]);
    if (code != CLI_OK)
        return code;
    if (mt_file_part_open(file, &fd, &err) < 0)
        return cli_fail(c, &err, NULL);
    struct wanted w = {.verb = "get-file", .name = c->argv[0], .fd = fd};
    code = store_call(c, &w, &j);
    if (mt_file_part_end(file, code == CLI_OK, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "StoredBackup", j);
    cli_say(c, "fetched %s to %s: %lld bytes", cli_str(j, "name"), file, (long long)cli_int(j, "bytes"));
    cli_say(c, "next: moat admin backup check %s", file);
    return CLI_OK;
}
