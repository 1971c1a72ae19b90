/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OTLP/HTTP with JSON (opentelemetry.io/docs/specs/otlp): a request for at most 1 MiB, and what its answer means. 200 with a partial
 * success and 400 are final; 413 halves the request; everything else (429 and 5xx above all, but also 401 or 404, which a person mends) is
 * tried again.
 */
#include "forward/forward.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "wire/json.h"

#include <curl/curl.h>
#include <strings.h>

#define REQUEST_MAX ((size_t)1 << 20)
#define RECORD_ROOM ((size_t)192 << 10) /* a line of 20 KiB, each byte as \u00XX, and its resource */

struct mt_otlp_client {
    const struct mt_forward_conf *c;
    CURL *curl;
    struct curl_slist *headers;
    struct mt_buf reply;
    bool refused, flood;
    unsigned after_s;
    unsigned records_max; /* in a request, after a 413; 0: no such bound */
};

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct mt_otlp_client *o = arg;
    if (purpose != CURLSOCKTYPE_IPCXN || !mt_forward_may(o->c, &a->addr, a->addrlen)) {
        o->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static size_t on_body(char *p, size_t one, size_t n, void *arg)
{
    struct mt_otlp_client *o = arg;
    (void)one;
    mt_buf_put(&o->reply, p, n);
    o->flood |= o->reply.failed;
    return o->flood ? 0 : n;
}

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    static const char name[] = "Retry-After:";
    struct mt_otlp_client *o = arg;
    char text[8];
    uint64_t s;
    (void)one;
    if (n > sizeof name && n < sizeof name + 8 && strncasecmp(line, name, sizeof name - 1) == 0) {
        const char *v = line + sizeof name - 1;
        size_t k = n - (sizeof name - 1);
        for (; k && *v == ' '; k--)
            v++;
        while (k && (v[k - 1] == '\r' || v[k - 1] == '\n' || v[k - 1] == ' '))
            k--;
        if (k && k < sizeof text) {
            memcpy(text, v, k);
            text[k] = '\0';
            o->after_s = mt_parse_u64(text, 0, 300, &s, NULL) == 0 ? (unsigned)s : 0; /* a date, or longer: our own pace */
        }
    }
    return n;
}

static void options(struct mt_otlp_client *o)
{
    CURL *h = o->curl;
    (void)curl_easy_setopt(h, CURLOPT_URL, o->c->url);
    (void)curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, o->c->any_address ? "http,https" : "https");
    (void)curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(h, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(h, CURLOPT_HTTPHEADER, o->headers);
    (void)curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)MT_FORWARD_CONNECT_MS);
    (void)curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)MT_FORWARD_STALL_MS);
    (void)curl_easy_setopt(h, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    (void)curl_easy_setopt(h, CURLOPT_OPENSOCKETDATA, o);
    (void)curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(h, CURLOPT_WRITEDATA, o);
    (void)curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(h, CURLOPT_HEADERDATA, o);
    (void)curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 1L);
    (void)curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 2L);
    if (o->c->ca_file)
        (void)curl_easy_setopt(h, CURLOPT_CAINFO, o->c->ca_file);
    if (o->c->cert_file) {
        (void)curl_easy_setopt(h, CURLOPT_SSLCERT, o->c->cert_file);
        (void)curl_easy_setopt(h, CURLOPT_SSLKEY, o->c->key_file);
    }
}

struct mt_otlp_client *mt_otlp_new(const struct mt_forward_conf *c, struct mt_err *err)
{
    struct mt_otlp_client *o = calloc(1, sizeof *o);
    if (!o || curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(o->curl = curl_easy_init())) {
        free(o);
        (void)MT_FAIL(err, MT_E_NOMEM, "the HTTP library does not start");
        return NULL;
    }
    o->c = c;
    mt_buf_init(&o->reply, MT_FORWARD_REPLY_MAX);
    o->headers = curl_slist_append(NULL, "Content-Type: application/json");
    o->headers = curl_slist_append(o->headers, "Expect:"); /* a second for a word nobody says */
    o->headers = curl_slist_append(o->headers, "User-Agent: moat/" MOAT_VERSION);
    for (const char *p = c->headers ? c->headers : ""; *p;) {
        size_t n = strcspn(p, "\n");
        mt_auto_free char *line = mt_strndup(p, n);
        if (line && n)
            o->headers = curl_slist_append(o->headers, line);
        p += n + (p[n] ? 1 : 0);
    }
    options(o);
    return o;
}

/* A request with the records of @b from @at on. Returns how many; *ret_at is behind the last. -MT_E_CORRUPT. */
static int make(const struct mt_otlp_client *o, const struct mt_batch *b, size_t at, struct mt_buf *out, size_t *ret_at, struct mt_err *err)
{
    struct mt_rd rd = mt_rd_of(b->body, b->len);
    struct mt_logfwd_record r = {0};
    struct mt_otlp req;
    int more = 1;
    *ret_at = at;
    mt_otlp_begin(&req, out, o->c->node);
    while (out->len < REQUEST_MAX - RECORD_ROOM && (o->records_max == 0 || req.records < o->records_max) && (more = mt_logfwd_next(&rd, &r, err)) == 1) {
        size_t here = b->len - rd.left;
        if (here <= at)
            continue; /* was taken before: read for the names of its instance */
        mt_otlp_put(&req, &r);
        *ret_at = here;
    }
    mt_otlp_end(&req);
    return more < 0 ? more : out->failed ? MT_FAIL(err, MT_E_NOMEM, "a request of logs: out of memory") : (int)req.records;
}

/* `rejectedLogRecords` is an int64, which JSON of protobuf writes as text; some write a number. */
static void partial(struct mt_otlp_client *o, struct mt_batch *b, unsigned records)
{
    mt_auto_json json_t *root = NULL;
    if (mt_json_parse((const char *)o->reply.p, o->reply.len, MT_FORWARD_REPLY_MAX, 8, &root, NULL) < 0)
        return; /* an answer in protobuf, or none: it was taken */
    const json_t *p = json_object_get(root, "partialSuccess"), *n = json_object_get(p, "rejectedLogRecords");
    const char *text = json_string_value(n), *why = json_string_value(json_object_get(p, "errorMessage"));
    uint64_t k = json_is_integer(n) && json_integer_value(n) > 0 ? (uint64_t)json_integer_value(n) : 0;
    if (text)
        (void)mt_parse_u64(text, 0, UINT32_MAX, &k, NULL);
    b->rejected += (uint32_t)(k < records ? k : records);
    if (k)
        (void)mt_printable(why ? why : "no reason given", strlen(why ? why : "no reason given"), b->why, sizeof b->why);
}

static int judge(struct mt_otlp_client *o, struct mt_batch *b, unsigned records, size_t end, struct mt_err *err)
{
    long status = 0;
    (void)curl_easy_getinfo(o->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 413 && records > 1) {
        o->records_max = records / 2;
        return 0;
    }
    if (status == 400 || status == 413) {
        b->rejected += records;
        (void)snprintf(b->why, sizeof b->why, "http %ld", status);
    } else if (status < 200 || status > 299) {
        return MT_FAIL(err, status == 401 || status == 403 ? MT_E_DENIED : MT_E_UNAVAILABLE, "the receiver answers http %ld", status);
    } else {
        partial(o, b, records);
    }
    b->done = end;
    return 0;
}

int mt_otlp_send(struct mt_otlp_client *o, struct mt_batch *b, unsigned *ret_after_s, struct mt_err *err)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(REQUEST_MAX);
    *ret_after_s = 0;
    o->records_max = 0;
    for (;;) {
        size_t end;
        mt_buf_reset(&out);
        int n = make(o, b, b->done, &out, &end, err);
        if (n <= 0)
            return n;
        mt_buf_reset(&o->reply);
        o->refused = o->flood = false;
        o->after_s = 0;
        (void)curl_easy_setopt(o->curl, CURLOPT_POSTFIELDS, out.p);
        (void)curl_easy_setopt(o->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)out.len);
        CURLcode code = curl_easy_perform(o->curl);
        if (o->refused)
            return MT_FAIL(err, MT_E_DENIED, "the target does not lead to a public address; the operator's logs.local_targets may name it");
        if (o->flood)
            return MT_FAIL(err, MT_E_INVALID, "the receiver's answer is longer than %u bytes", MT_FORWARD_REPLY_MAX);
        if (code != CURLE_OK)
            return MT_FAIL(err, code == CURLE_PEER_FAILED_VERIFICATION ? MT_E_DENIED : MT_E_UNAVAILABLE, "%s", curl_easy_strerror(code));
        int rc = judge(o, b, (unsigned)n, end, err);
        *ret_after_s = o->after_s;
        if (rc < 0)
            return rc;
    }
}
