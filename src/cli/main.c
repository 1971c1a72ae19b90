/* SPDX-License-Identifier: Apache-2.0 */
/* Parse, run, exit with the code of control-plane.md §15.4. */
#include "cli/cli.h"

#include "base/log.h"

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
