/* SPDX-License-Identifier: Apache-2.0 */
/* What the program says on stdout: progress lines, items, and for tests its steps. One thread. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/** Where lines of steps wait for their byte; -1: steps are not told. */
void mt_bk_out_steps(int fd);
/** Tell a step and wait until the test lets us go on. */
void mt_bk_step(const char *name);
/** A progress line when the phase changed or a second has passed. */
void mt_bk_progress(const char *phase, uint64_t done, uint64_t total, uint64_t uploaded);
/** One line; takes the reference. False when stdout is gone or memory is out. */
bool mt_bk_line(json_t *line);
