/* SPDX-License-Identifier: Apache-2.0 */
#include "forward/render.h"

#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>

#define SD_ID "moat@32473" /* RFC 5612: a private enterprise number for whoever has none */
#define STREAMS 4
#define TRUNCATED 0x01 /* MT_LOG_TRUNCATED */
#define REPLACEMENT "\xef\xbf\xbd"

static const char *const streams[STREAMS] = {"system", "stdout", "stderr", "system"};
static const unsigned severities[STREAMS] = {5, 6, 3, 5};

static unsigned known(uint8_t stream)
{
    return stream < STREAMS ? stream : 0;
}

/* ---- syslog ------------------------------------------------------------------------------ */

/* PRINTUSASCII of at most @max bytes, "-" for nothing. */
static void put_word(struct mt_buf *b, const struct mt_logfwd_text *t, size_t max)
{
    size_t n = t->n < max ? t->n : max;
    if (n == 0)
        mt_buf_putc(b, '-');
    for (size_t i = 0; i < n; i++)
        mt_buf_putc(b, t->p[i] > ' ' && t->p[i] < 0x7f ? t->p[i] : '_');
}

static void put_param(struct mt_buf *b, const char *name, const struct mt_logfwd_text *t)
{
    mt_buf_printf(b, " %s=\"", name);
    for (size_t i = 0; i < t->n; i++) {
        char c = t->p[i];
        if (c == '"' || c == '\\' || c == ']')
            mt_buf_putc(b, '\\');
        mt_buf_putc(b, c >= ' ' && c < 0x7f ? c : '_');
    }
    mt_buf_putc(b, '"');
}

/* Text that may stand in a message: valid UTF-8 without NUL, which receivers cut at. */
static void put_text(struct mt_buf *b, const char *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        size_t run = mt_plain_run(p + at, n - at);
        mt_buf_put(b, p + at, run);
        at += run;
        if (at >= n)
            break;
        size_t k = p[at] ? mt_utf8_len(p + at, n - at) : 0;
        if (k)
            mt_buf_put(b, p + at, k);
        else
            mt_buf_puts(b, REPLACEMENT);
        at += k ? k : 1;
    }
}

static void put_head(struct mt_buf *b, const struct mt_logfwd_record *r, const char *node, size_t part, size_t parts)
{
    char ts[MT_RFC3339_LEN];
    unsigned s = known(r->stream);
    mt_buf_printf(b, "<%u>1 %s ", 8 + severities[s], mt_rfc3339(r->ts_us, ts));
    put_word(b, &(const struct mt_logfwd_text){node, strlen(node)}, 255);
    mt_buf_putc(b, ' ');
    put_word(b, &r->ids[MT_LOGFWD_PROCESS], 48);
    mt_buf_putc(b, ' ');
    put_word(b, &r->ids[MT_LOGFWD_INSTANCE], 128);
    mt_buf_printf(b, " %s [" SD_ID, streams[s]);
    put_param(b, "org", &r->ids[MT_LOGFWD_ORG]);
    put_param(b, "app", &r->ids[MT_LOGFWD_APP]);
    put_param(b, "env", &r->ids[MT_LOGFWD_ENV]);
    put_param(b, "process", &r->ids[MT_LOGFWD_PROCESS]);
    put_param(b, "instance", &r->ids[MT_LOGFWD_INSTANCE]);
    put_param(b, "node", &(const struct mt_logfwd_text){node, strlen(node)});
    mt_buf_printf(b, " stream=\"%s\" boot=\"%" PRIu32 "\" seq=\"%" PRIu64 "\"", streams[s], r->boot, r->seq);
    if (r->flags & TRUNCATED)
        mt_buf_puts(b, " truncated=\"1\"");
    if (parts > 1)
        mt_buf_printf(b, " part=\"%zu/%zu\"", part, parts);
    mt_buf_puts(b, "] \xef\xbb\xbf");
}

/* How many of the @n bytes fit into @max without parting a character. */
static size_t cut(const char *p, size_t n, size_t max)
{
    if (n <= max)
        return n;
    size_t k = max;
    while (k > max - 4 && k > 0 && ((uint8_t)p[k] & 0xc0) == 0x80)
        k--;
    return k > 0 ? k : max;
}

void mt_syslog_put(struct mt_buf *b, const struct mt_logfwd_record *r, const char *node, size_t max)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(r->len * 3 + 1), msg = MT_BUF_INIT(max + 1024);
    put_text(&text, (const char *)r->line, r->len);
    put_head(&msg, r, node, 99, 99);
    if (text.failed || msg.failed) {
        b->failed = true;
        return;
    }
    size_t room = max > msg.len + 64 ? max - msg.len : 64, parts = 0;
    const char *p = text.p ? (const char *)text.p : "";
    for (size_t at = 0; at < text.len; parts++)
        at += cut(p + at, text.len - at, room);
    if (parts == 0)
        parts = 1;
    for (size_t i = 0, at = 0; i < parts; i++) {
        size_t n = cut(p + at, text.len - at, room);
        mt_buf_reset(&msg);
        put_head(&msg, r, node, i + 1, parts);
        mt_buf_put(&msg, p + at, n);
        mt_buf_printf(b, "%zu ", msg.len);
        mt_buf_put(b, msg.p, msg.len);
        b->failed |= msg.failed;
        at += n;
    }
}

/* ---- OTLP -------------------------------------------------------------------------------- */

static void put_attribute(struct mt_buf *b, bool first, const char *key, const char *p, size_t n)
{
    mt_buf_printf(b, "%s{\"key\":\"%s\",\"value\":{\"stringValue\":", first ? "" : ",", key);
    mt_buf_put_json_str(b, p, n);
    mt_buf_puts(b, "}}");
}

void mt_otlp_begin(struct mt_otlp *o, struct mt_buf *b, const char *node)
{
    *o = (struct mt_otlp){.b = b, .node = node};
    mt_buf_puts(b, "{\"resourceLogs\":[");
}

static bool same(const struct mt_logfwd_text *a, const struct mt_logfwd_text *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

static void open_resource(struct mt_otlp *o, const struct mt_logfwd_record *r)
{
    static const char *const names[MT_LOGFWD_IDS] = {"moat.org", "moat.app", "moat.env", "moat.process", "moat.instance"};
    if (o->records)
        mt_buf_puts(o->b, "]}]},");
    mt_buf_puts(o->b, "{\"resource\":{\"attributes\":[");
    put_attribute(o->b, true, "service.name", r->ids[MT_LOGFWD_PROCESS].p, r->ids[MT_LOGFWD_PROCESS].n);
    put_attribute(o->b, false, "service.instance.id", r->ids[MT_LOGFWD_INSTANCE].p, r->ids[MT_LOGFWD_INSTANCE].n);
    for (int i = 0; i < MT_LOGFWD_IDS; i++)
        put_attribute(o->b, false, names[i], r->ids[i].p, r->ids[i].n);
    put_attribute(o->b, false, "moat.node", o->node, strlen(o->node));
    mt_buf_puts(o->b, "]},\"scopeLogs\":[{\"scope\":{\"name\":\"moat\",\"version\":\"" MOAT_VERSION "\"},\"logRecords\":[");
    o->instance = r->ids[MT_LOGFWD_INSTANCE];
    o->process = r->ids[MT_LOGFWD_PROCESS];
}

void mt_otlp_put(struct mt_otlp *o, const struct mt_logfwd_record *r)
{
    static const struct {
        const char *text;
        unsigned number;
    } severity[STREAMS] = {{"NOTICE", 10}, {"INFO", 9}, {"ERROR", 17}, {"NOTICE", 10}}; /* SeverityNumber: INFO2, INFO, ERROR */
    unsigned s = known(r->stream);
    if (o->records == 0 || !same(&o->instance, &r->ids[MT_LOGFWD_INSTANCE]) || !same(&o->process, &r->ids[MT_LOGFWD_PROCESS]))
        open_resource(o, r);
    else
        mt_buf_putc(o->b, ',');
    uint64_t ns = r->ts_us > 0 ? (uint64_t)r->ts_us * 1000 : 0;
    mt_buf_printf(o->b, "{\"timeUnixNano\":\"%" PRIu64 "\",\"observedTimeUnixNano\":\"%" PRIu64 "\",\"severityNumber\":%u,\"severityText\":\"%s\",\"body\":{\"stringValue\":",
                  ns, ns, severity[s].number, severity[s].text);
    mt_buf_put_json_str(o->b, (const char *)r->line, r->len);
    mt_buf_printf(o->b, "},\"attributes\":[{\"key\":\"log.iostream\",\"value\":{\"stringValue\":\"%s\"}},{\"key\":\"moat.boot\",\"value\":{\"intValue\":\"%" PRIu32
                        "\"}},{\"key\":\"moat.seq\",\"value\":{\"intValue\":\"%" PRIu64 "\"}}", streams[s], r->boot, r->seq);
    if (r->flags & TRUNCATED)
        mt_buf_puts(o->b, ",{\"key\":\"moat.truncated\",\"value\":{\"boolValue\":true}}");
    mt_buf_puts(o->b, "]}");
    o->records++;
}

void mt_otlp_end(struct mt_otlp *o)
{
    mt_buf_puts(o->b, o->records ? "]}]}]}" : "]}");
}
