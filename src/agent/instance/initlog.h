/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What init says of itself, read out of a running guest (fetch_log, runtime.md §9.2): a part at a time and at our pace, so that the guest's answers
 * stay below its rate; bounded in bytes and time whatever the guest does. One reader of an instance at a time. Loop thread.
 */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

#include <stdbool.h>

struct mt_inst;
struct mt_initlog;

/** The end of a reading, once and never from within mt_initlog_begin: @err is NULL and @text all there is, or why not. @arg as given. */
typedef void mt_initlog_done_fn(void *arg, const char *text, size_t len, const struct mt_err *err);

/** Begin. -MT_E_UNAVAILABLE no guest is connected; -MT_E_CONFLICT somebody reads it already. */
int mt_initlog_begin(struct mt_inst *in, mt_initlog_done_fn *done, void *arg, struct mt_err *err);
/** Nobody wants it any more: no call follows. Of another reader, or none: nothing happens. */
void mt_initlog_cancel(struct mt_inst *in, const void *arg);
/** The guest's part came. */
void mt_initlog_chunk(struct mt_inst *in, const struct mt_guest_log_chunk *chunk);
/** The guest is gone: the reader is told. */
void mt_initlog_over(struct mt_inst *in, const char *why);
