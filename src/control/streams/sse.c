/* SPDX-License-Identifier: Apache-2.0 */
/* See sse.h. */
#include "control/streams/sse.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <string.h>
#include <strings.h>
#include <sys/uio.h>

#define SSE "text/event-stream"
#define NDJSON "application/x-ndjson"
#define END_MAX 1024 /* of the last object with its id */

/* Thousandths of the weight in ";q=0.5"; 1000 without one or with one that is malformed. */
static int weight(const char *p, const char *end)
{
    for (; p < end; p++) {
        if (*p != ';')
            continue;
        for (p++; p < end && (*p == ' ' || *p == '\t'); p++)
            ;
        if (end - p < 3 || (*p != 'q' && *p != 'Q') || p[1] != '=' || (p[2] != '0' && p[2] != '1'))
            continue;
        if (p[2] == '1')
            return 1000;
        int q = 0, digits = 0;
        for (const char *d = p + 4; p + 3 < end && p[3] == '.' && d < end && *d >= '0' && *d <= '9' && digits < 3; d++, digits++)
            q = q * 10 + (*d - '0');
        for (; digits < 3; digits++)
            q *= 10;
        return q;
    }
    return 1000;
}

bool mt_sse_accepted(const char *accept)
{
    int sse = 0, lines = 0;
    bool first = false; /* SSE stands before NDJSON */
    for (const char *p = accept ? accept : ""; *p;) {
        p += strspn(p, ", \t");
        const char *end = p + strcspn(p, ",");
        size_t n = strcspn(p, ",; \t");
        if (n == strlen(SSE) && strncasecmp(p, SSE, n) == 0) {
            sse = weight(p + n, end);
            first = lines == 0;
        } else if (n == strlen(NDJSON) && strncasecmp(p, NDJSON, n) == 0) {
            lines = weight(p + n, end);
        }
        p = end;
    }
    return sse > lines || (sse && sse == lines && first);
}

bool mt_sse_wanted(const struct mt_http_req *req)
{
    return mt_sse_accepted(mt_http_req_header(req, "Accept"));
}

const char *mt_sse_last_id(const struct mt_http_req *req)
{
    const char *id = mt_sse_wanted(req) ? mt_http_req_header(req, "Last-Event-ID") : NULL;
    return id && *id ? id : NULL;
}

void mt_sse_start(struct mt_http_req *req, bool sse, size_t max_buffer)
{
    static const char again[] = "retry: 1000\n\n"; /* ms until a client comes back */
    mt_http_stream_start(req, sse ? SSE : NDJSON, max_buffer);
    if (sse)
        (void)mt_http_stream_write(req, again, sizeof again - 1);
}

#define TEXT(s) ((struct iovec){.iov_base = (void *)(uintptr_t)(s), .iov_len = strlen(s)})

int mt_sse_put(struct mt_http_req *req, bool sse, const char *id, const char *line, size_t len)
{
    struct iovec v[6];
    int n = 0;
    if (!sse)
        return mt_http_stream_write(req, line, len);
    if (id) {
        v[n++] = TEXT("id: ");
        v[n++] = TEXT(id);
        v[n++] = TEXT("\n");
    }
    v[n++] = TEXT("data: ");
    v[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)line, .iov_len = len};
    v[n++] = TEXT("\n");
    return mt_http_stream_writev(req, v, n);
}

int mt_sse_beat(struct mt_http_req *req, bool sse, const char *id, const char *line, size_t len)
{
    if (!sse)
        return mt_http_stream_write(req, line, len);
    const struct iovec v[] = {TEXT(": heartbeat\n"), TEXT(id ? "id: " : ""), TEXT(id ? id : ""), TEXT(id ? "\n\n" : "\n")};
    return mt_http_stream_writev(req, v, (int)(sizeof v / sizeof v[0]));
}

void mt_sse_end(struct mt_http_req *req, bool sse, const char *id, const char *line, size_t len)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(len + END_MAX);
    if (!sse) {
        mt_http_stream_finish(req, line, len);
        return;
    }
    if (id && strlen(id) < END_MAX - 64)
        mt_buf_printf(&b, "id: %s\n", id);
    mt_buf_puts(&b, "event: end\ndata: ");
    mt_buf_put(&b, line, len);
    mt_buf_putc(&b, '\n');
    mt_http_stream_finish(req, b.p, b.len);
}
