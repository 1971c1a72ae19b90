/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by exec.c (the command) and exec_session.c (the WebSocket, the terminal). */
#pragma once

#include "cli/cli.h"

/** How a session ended. */
struct cli_exec_end {
    int exit_code; /* -1: none */
    char signal[16], reason[24], detail[300];
};

/**
 * Connect to @url with the one-time @token and carry the session between this process's stdin, stdout, stderr and the command, to its end. The
 * terminal is raw meanwhile when @tty, and as it was afterwards. SIGINT and SIGQUIT go to the command; SIGTERM and SIGHUP end the session and
 * this process. Returns CLI_OK and @ret, also when the connection broke; else an exit code with the error printed.
 */
int cli_exec_run(struct cli *c, const char *url, const char *token, bool tty, bool with_stdin, struct cli_exec_end *ret);
