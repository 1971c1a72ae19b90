/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that this code base does not use, each for a reason; included by every base header user through err.h. */
#pragma once

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* unbounded or truncating copies: use mt_buf, memcpy with a checked length, or snprintf */
#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf gets strtok
/* no error report, a shell, hidden global state: use mt_parse_*, mt_spawn, gmtime_r. (rand and system are words that library
 * headers use as parameter names; `make lint` looks for those.) */
#pragma GCC poison atoi atol atoll popen localtime
