/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a guest's boot log. See initlog.h. */
#include "agent/instance/initlog.h"

#include "agent/instance/inst.h"
#include "base/b64.h"
#include "base/buf.h"

#define BYTES_MAX (2U << 20) /* init keeps 1 MiB */
#define PACE_MS 70           /* a part each: 14 messages a second of the 20 that a guest may send */
#define ANSWER_MS 10000

struct mt_initlog {
    struct mt_inst *in;
    mt_initlog_done_fn *done;
    void *arg;
    struct mt_source *timer; /* the next question, or the end of patience */
    bool asked;
    struct mt_buf text;
};

static void drop(struct mt_initlog *l)
{
    l->in->initlog = NULL;
    mt_loop_del(l->timer);
    mt_buf_done(&l->text);
    free(l);
}

static void end(struct mt_initlog *l, const struct mt_err *err)
{
    struct mt_buf text = l->text;
    mt_initlog_done_fn *done = l->done;
    void *arg = l->arg;
    l->text = (struct mt_buf)MT_BUF_INIT(0);
    drop(l);
    done(arg, err ? "" : mt_buf_cstr(&text), err ? 0 : text.len, err);
    mt_buf_done(&text);
}

static void fail(struct mt_initlog *l, enum mt_code code, const char *why)
{
    struct mt_err err = {0};
    (void)MT_FAIL(&err, code, "boot log of '%s': %s", l->in->st.instance_id, why);
    end(l, &err);
}

static void ask(struct mt_initlog *l)
{
    struct mt_err err = {0};
    struct mt_guest_msg msg = {.type = MT_GUEST_FETCH_LOG, .u.fetch_log = {.offset = l->text.len}};
    struct mt_inst *in = l->in;
    l->asked = true;
    mt_loop_timer_after(l->timer, ANSWER_MS * (int64_t)in->a->conf.patience);
    bool sent = in->chan && mt_channel_send(in->chan, &msg, NULL, &err) == 0;
    if (!sent && in->initlog == l) /* a connection that broke by it has told the reader already */
        fail(l, MT_E_UNAVAILABLE, in->chan ? err.msg : "the VM ends");
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_initlog *l = arg;
    (void)s;
    if (l->asked)
        fail(l, MT_E_TIMEOUT, "the guest does not answer; an init from before this message does not know it");
    else
        ask(l);
}

int mt_initlog_begin(struct mt_inst *in, mt_initlog_done_fn *done, void *arg, struct mt_err *err)
{
    if (in->initlog)
        return MT_FAIL(err, MT_E_CONFLICT, "the boot log of '%s' is being read by somebody else; try again in a moment", in->st.instance_id);
    if (!in->chan || !in->guest_known || !mt_channel_connected(in->chan))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "no guest of '%s' is connected; `moat-agent ctl console %s` has what its kernel and init said last", in->st.instance_id, in->st.instance_id);
    struct mt_initlog *l = calloc(1, sizeof *l);
    if (l)
        l->timer = mt_loop_timer(in->a->loop, "initlog", on_timer, l, err);
    if (!l || !l->timer) {
        free(l);
        return MT_FAIL(err, MT_E_NOMEM, "boot log: out of memory");
    }
    l->in = in;
    l->done = done;
    l->arg = arg;
    mt_buf_init(&l->text, BYTES_MAX + MT_GUEST_LOG_CHUNK_BYTES);
    in->initlog = l;
    mt_loop_timer_after(l->timer, 0);
    return 0;
}

void mt_initlog_cancel(struct mt_inst *in, const void *arg)
{
    if (in->initlog && in->initlog->arg == arg)
        drop(in->initlog);
}

void mt_initlog_chunk(struct mt_inst *in, const struct mt_guest_log_chunk *chunk)
{
    struct mt_initlog *l = in->initlog;
    char part[MT_GUEST_LOG_CHUNK_BYTES + 2];
    if (!l || !l->asked || chunk->offset != l->text.len)
        return; /* of a reader that has gone, or nobody asked */
    size_t n = strlen(chunk->data);
    ssize_t got = n < MT_B64_SIZE(MT_GUEST_LOG_CHUNK_BYTES) ? mt_b64_decode(chunk->data, n, part, sizeof part) : -1;
    if (got < 0 || got > (ssize_t)MT_GUEST_LOG_CHUNK_BYTES || (got == 0 && !chunk->last)) {
        fail(l, MT_E_CORRUPT, "the guest sends something else");
        return;
    }
    mt_buf_put(&l->text, part, (size_t)got);
    if (chunk->last || l->text.len >= BYTES_MAX) {
        end(l, NULL);
        return;
    }
    l->asked = false;
    mt_loop_timer_after(l->timer, PACE_MS);
}

void mt_initlog_over(struct mt_inst *in, const char *why)
{
    if (in->initlog)
        fail(in->initlog, MT_E_UNAVAILABLE, why);
}
