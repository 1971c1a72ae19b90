/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent and moat-forward say to each other over a socket pair (docs/formats/log-forward.md): frames of a length, a type and a body.
 *
 * The agent gives a configuration once and then batches of records; the program answers each batch when the receiver has it, or says
 * why it has not. Integers are big-endian. Both sides are ours, the lines inside are a tenant's.
 */
#pragma once

#include "base/buf.h"
#include "base/rd.h"

#define MT_LOGFWD_FRAME_MAX (1U << 20)  /* body of a frame */
#define MT_LOGFWD_WINDOW 8              /* batches that are not answered yet */
#define MT_LOGFWD_TEXT_MAX 200          /* bytes of a reason */

enum mt_logfwd_type { MT_LOGFWD_CONF = 'C', MT_LOGFWD_BATCH = 'B', MT_LOGFWD_DONE = 'D', MT_LOGFWD_STATE = 'S' };

/* Whose lines follow. Texts of at most 255 bytes; when read, they lie in the frame and have no NUL. */
struct mt_logfwd_text {
    const char *p;
    size_t n;
};
enum { MT_LOGFWD_ORG = 0, MT_LOGFWD_APP, MT_LOGFWD_ENV, MT_LOGFWD_PROCESS, MT_LOGFWD_INSTANCE, MT_LOGFWD_IDS };

struct mt_logfwd_record {
    struct mt_logfwd_text ids[MT_LOGFWD_IDS];
    uint64_t seq;
    int64_t ts_us;
    uint32_t boot;
    uint8_t stream, flags; /* as in the store of logs */
    const uint8_t *line;
    size_t len;
};

/** Begin a frame of @type in @b; returns where it begins, for mt_logfwd_end, which fills in its length. */
size_t mt_logfwd_begin(struct mt_buf *b, enum mt_logfwd_type type);
void mt_logfwd_end(struct mt_buf *b, size_t at);
/** In a batch, after its number (be64): the records that follow are of this instance. Longer texts are cut. */
void mt_logfwd_put_ids(struct mt_buf *b, const char *const ids[MT_LOGFWD_IDS]);
/** @r->ids is not looked at. */
void mt_logfwd_put_record(struct mt_buf *b, const struct mt_logfwd_record *r);
/** The next record of a batch's body. 1 and *@ret; 0 the end; -MT_E_CORRUPT. @ret->ids keeps those of the record before: zero it first. */
int mt_logfwd_next(struct mt_rd *rd, struct mt_logfwd_record *ret, struct mt_err *err);
/** A frame at the beginning of @p: bytes of it, its type and body; 0: more is needed; -MT_E_CORRUPT. */
int64_t mt_logfwd_frame(const uint8_t *p, size_t n, uint8_t *ret_type, struct mt_rd *ret_body, struct mt_err *err);
/** Answers: batch @id is dealt with, @rejected of its records were refused for good. */
void mt_logfwd_put_done(struct mt_buf *b, uint64_t id, uint32_t rejected, const char *why);
/** Where the program stands with the receiver. */
void mt_logfwd_put_state(struct mt_buf *b, bool up, const char *why);
/** Rest of an answer's body as text, printable. */
void mt_logfwd_why(struct mt_rd *body, char ret[MT_LOGFWD_TEXT_MAX + 1]);
