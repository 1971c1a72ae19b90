/* SPDX-License-Identifier: Apache-2.0 */
/* Looks at what the control plane keeps, on its own machine: moat-control does it (src/control/offline_checks.c). */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"

#include <errno.h>
#include <fcntl.h>

#define PRIVATE_KEY "/etc/moat/audit-key.pem"
#define PUBLIC_KEY "/etc/moat/audit-key.pub.pem"

int cmd_admin_db_check(struct cli *c)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_control(c, "check-database", NULL, -1, -1, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "DatabaseCheck", j);
    cli_say(c, "whole: schema %lld, %lld events without a gap, %lld rows of views as the log says, %lld audit chains, %lld keys and %lld contents of secrets open",
            (long long)cli_int(j, "schema"), (long long)cli_int(j, "events"), (long long)cli_int(j, "view_rows"), (long long)cli_int(j, "audit_chains"),
            (long long)cli_int(j, "keys_opened"), (long long)cli_int(j, "secrets_opened"));
    return CLI_OK;
}

static int told(struct cli *c, const char *what, json_t *j)
{
    if (c->json)
        return cli_print_object(c, "AuditCheckpoint", j);
    cli_say(c, "%s: %lld chains of cluster %s, %lld records, as of %s", what, (long long)cli_int(j, "chains"), cli_str(j, "cluster_id"), (long long)cli_int(j, "records"),
            cli_str(j, "made_at"));
    if (cli_int(j, "pruned"))
        cli_say(c, "%lld of them are shorter by retention, and are not compared", (long long)cli_int(j, "pruned"));
    return CLI_OK;
}

int cmd_admin_audit_checkpoint(struct cli *c)
{
    struct mt_err err = {0};
    mt_auto_json json_t *j = NULL;
    mt_auto_fd int fd = -1;
    const char *file = c->argv[0], *key = cli_opt(c, "key");
    const char *const more[] = {"--key", key ? key : PRIVATE_KEY, NULL};
    if (mt_file_part_open(file, &fd, &err) < 0)
        return cli_fail(c, &err, NULL);
    int code = cli_control(c, "audit-checkpoint", more, -1, fd, &j);
    if (mt_file_part_end(file, code == CLI_OK, &err) < 0)
        return cli_fail(c, &err, NULL);
    return code == CLI_OK ? told(c, "signed", j) : code;
}

int cmd_admin_audit_check(struct cli *c)
{
    struct mt_err err = {0};
    mt_auto_json json_t *j = NULL;
    const char *key = cli_opt(c, "key");
    const char *const more[] = {"--key", key ? key : PUBLIC_KEY, NULL};
    mt_auto_fd int fd = open(c->argv[0], O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int code = errno == ENOENT ? CLI_NOT_FOUND : CLI_FAILURE;
        (void)MT_FAIL_ERRNO(&err, MT_E_IO, "read '%s'", c->argv[0]);
        return cli_error(c, code, err.msg, NULL);
    }
    int code = cli_control(c, "check-audit-checkpoint", more, fd, -1, &j);
    return code == CLI_OK ? told(c, "the log has all of it", j) : code;
}
