/* SPDX-License-Identifier: Apache-2.0 */
/* Backup and restore of the control plane, on its own machine: moat-control does it (src/control/save), this gives the file its name when it is
 * whole. Killed at any place, FILE is what it was before or a whole backup. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define TOLD_MAX ((size_t)256 << 10)
#define LIMIT_MS (4 * 3600 * 1000)

static int paths(struct cli *c, char *program, char *config, size_t size, struct mt_err *err)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read /proc/self/exe");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    int rc = mt_fmt(program, size, err, "%s/moat-control", self);
    if (rc == 0 && access(program, X_OK) < 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "'%s' is not here: this command runs on a machine of the control plane", program);
    const char *given = cli_opt(c, "config");
    if (rc < 0 || given)
        return rc < 0 ? rc : mt_fmt(config, size, err, "%s", given);
    if (c->config_data_dir && mt_fmt(config, size, err, "%s/etc/control.toml", c->config_data_dir) == 0 && access(config, R_OK) == 0)
        return 0; /* of `moat up` */
    return mt_fmt(config, size, err, "/etc/moat/control.toml");
}

static char *content(int fd)
{
    char *text = calloc(1, TOLD_MAX + 1);
    if (text && pread(fd, text, TOLD_MAX, 0) < 0)
        text[0] = '\0';
    return text;
}

/* What it said last. */
static const char *last_line(char *text)
{
    size_t n = strlen(text);
    while (n && text[n - 1] == '\n')
        text[--n] = '\0';
    char *nl = strrchr(text, '\n');
    return nl ? nl + 1 : text;
}

#define MORE_MAX 6

/* The verb with @more arguments (NULL: none), @in and @out, -1: none; what it has to tell comes on the stream that is free. */
int cli_control(struct cli *c, const char *verb, const char *const *more, int in, int out, json_t **ret)
{
    char program[4200], config[4200];
    struct mt_err err = {0};
    struct mt_run_result r = {0};
    pid_t pid;
    mt_auto_fd int said = memfd_create("stdout", MFD_CLOEXEC), why = memfd_create("stderr", MFD_CLOEXEC), pidfd = -1;
    if (said < 0 || why < 0)
        return cli_error(c, CLI_FAILURE, "memfd_create failed", NULL);
    if (paths(c, program, config, sizeof program, &err) < 0)
        return cli_fail(c, &err, NULL);
    const char *argv[5 + MORE_MAX] = {"moat-control", "--config", config, verb};
    for (size_t i = 0; more && more[i] && i < MORE_MAX; i++)
        argv[4 + i] = more[i];
    const struct mt_spawn s = {.path = program, .argv = argv, .stdin_fd = in, .stdout_fd = out < 0 ? said : out, .stderr_fd = why, .parent_death_signal = SIGKILL};
    if (mt_spawn(&s, &pid, &pidfd, &err) < 0 || mt_pidfd_wait(pidfd, LIMIT_MS, &r, &err) < 0)
        return cli_fail(c, &err, NULL);
    mt_auto_free char *errors = content(why), *words = out < 0 ? content(said) : NULL;
    if (!errors || (out < 0 && !words))
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (!r.exited || r.status != 0) {
        const char *line = last_line(errors);
        return cli_error(c, r.exited && r.status == 2 ? CLI_USAGE : CLI_FAILURE, *line ? line : "moat-control was killed", NULL);
    }
    const char *line = last_line(words ? words : errors);
    return mt_json_parse(line, strlen(line), TOLD_MAX, 8, ret, &err) < 0 ? cli_fail(c, &err, NULL) : CLI_OK;
}

static int told(struct cli *c, const char *what, const char *file, json_t *j)
{
    if (c->json)
        return cli_print_object(c, "ControlBackup", j);
    cli_say(c, "%s %s: cluster %s up to event %lld of %s, %lld bytes; opened by a master key with one of the ids in it", what, file, cli_str(j, "cluster_id"),
            (long long)cli_int(j, "last_event_id"), cli_str(j, "made_at"), (long long)cli_int(j, "bytes"));
    return CLI_OK;
}

int cmd_admin_backup(struct cli *c)
{
    struct mt_err err = {0};
    mt_auto_json json_t *j = NULL;
    mt_auto_fd int fd = -1;
    const char *file = c->argv[0];
    if (mt_file_part_open(file, &fd, &err) < 0)
        return cli_fail(c, &err, NULL);
    int code = cli_control(c, "backup", NULL, -1, fd, &j);
    if (mt_file_part_end(file, code == CLI_OK, &err) < 0)
        return cli_fail(c, &err, NULL);
    return code == CLI_OK ? told(c, "made", file, j) : code;
}

static int from(struct cli *c, const char *verb, const char *what)
{
    struct mt_err err = {0};
    mt_auto_json json_t *j = NULL;
    mt_auto_fd int fd = open(c->argv[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int code = errno == ENOENT ? CLI_NOT_FOUND : CLI_FAILURE;
        (void)MT_FAIL_ERRNO(&err, MT_E_IO, "read '%s'", c->argv[0]);
        return cli_error(c, code, err.msg, NULL);
    }
    int code = cli_control(c, verb, NULL, fd, -1, &j);
    return code != CLI_OK ? code : told(c, what, c->argv[0], j);
}

int cmd_admin_backup_check(struct cli *c)
{
    return from(c, "check-backup", "whole:");
}

int cmd_admin_restore(struct cli *c)
{
    int code = cli_confirm_text(c, "this fills data_dir and the empty database from the backup", "restore");
    if (code != CLI_OK || (code = from(c, "restore", "restored")) != CLI_OK)
        return code;
    cli_say(c, "next: systemctl start moat-control, then moat admin recovery plan");
    return CLI_OK;
}

/* ---- backups of volumes: their index made again from the store ---- */

int cmd_admin_backups_scan(struct cli *c)
{
    mt_auto_json json_t *j = NULL;
    size_t i, n = 0;
    json_t *v;
    const char *more[MORE_MAX + 1] = {0};
    if (cli_has(c, "apply"))
        more[n++] = "--apply";
    for (const char *const *o = (const char *const[]){"reason", "node", NULL}; *o; o++)
        if (cli_opt(c, *o)) {
            more[n++] = MT_STREQ(*o, "node") ? "--node" : "--reason";
            more[n++] = cli_opt(c, *o);
        }
    int code = cli_control(c, "scan-backups", more, -1, -1, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "BackupsScan", j);
    json_array_foreach(json_object_get(j, "items"), i, v)
        cli_say(c, "%s of volume %s, organisation %s", cli_str(v, "snapshot_id"), cli_str(v, "volume_id"), cli_str(v, "org_id"));
    json_array_foreach(json_object_get(j, "unreadable"), i, v)
        cli_say(c, "unreadable: %s: %s", json_object_get(v, "object") ? cli_str(v, "object") : cli_str(v, "volume_id"), cli_str(v, "why"));
    cli_say(c, "the store has backups of %lld volumes of cluster %s: %lld are known, %lld were not, %lld are entered", (long long)cli_int(j, "volumes"), cli_str(j, "cluster_id"),
            (long long)cli_int(j, "known"), (long long)cli_int(j, "missing"), (long long)cli_int(j, "added"));
    if (cli_int(j, "missing") > cli_int(j, "added"))
        cli_say(c, "next: moat admin backups scan --apply --reason TEXT [--node NODE]");
    return CLI_OK;
}
