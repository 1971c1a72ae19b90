/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include "base/log.h"


int cmd_version(struct cli *c)
{
    if (!c->json) {
        (void)printf("moat %s\n", MOAT_VERSION);
        return CLI_OK;
    }
    mt_auto_json json_t *v = json_pack("{s:s}", "client_version", MOAT_VERSION);
    return cli_print_object(c, "Version", v);
}

int cmd_help(struct cli *c)
{
    cli_help(stdout, c->argc ? c->argv[0] : NULL);
    return CLI_OK;
}

int main(int argc, char **argv)
{
    struct cli c = {0};
    (void)signal(SIGPIPE, SIG_IGN);
    mt_log_init("cli", MT_WARN, false);
    int code = cli_parse(&c, argc, argv);
    if (code == 0)
        code = c.command->run(&c);
    else if (code < 0)
        code = CLI_OK;
    cli_done(&c);
    return code;
}
