/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/s3.h"

#include "backup/listing.h"
#include "backup/sigv4.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <curl/curl.h>
#include <strings.h>

#define CONNECT_MS 5000L
#define RETRY_MAX_MS 30000
#define SKEW_MAX_S 86400
#define MUTE_SKEW_S 240
#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct mt_s3 {
    const struct mt_bk_request *q;
    CURLM *multi;
    CURL *idle[16];
    size_t idle_count, active;
    struct mt_s3_op *queue, **tail; /* in order; those not due yet are passed over */
    size_t pending;
    int64_t deadline_ns;
    int64_t skew_s;       /* store's clock - ours, once it has complained */
    int64_t store_unix_s; /* its last Date, 0: none */
    int64_t tokens, filled_ns; /* upload limit: bytes that may go now */
    struct mt_s3_stats stats;
};

struct mt_s3 *mt_s3_new(const struct mt_bk_request *q, int64_t deadline_ns, struct mt_bk_fault *f)
{
    struct mt_s3 *s = calloc(1, sizeof *s);
    if (!s || curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(s->multi = curl_multi_init())) {
        free(s);
        (void)mt_bk_fail(f, MT_BK_INTERNAL, "internal", "the HTTP library does not start");
        return NULL;
    }
    s->q = q;
    s->deadline_ns = deadline_ns;
    s->tail = &s->queue;
    s->filled_ns = mt_clock_mono();
    (void)curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS, (long)q->store.parallel);
    return s;
}

void mt_s3_free(struct mt_s3 *s)
{
    if (!s)
        return;
    while (s->idle_count)
        curl_easy_cleanup(s->idle[--s->idle_count]);
    (void)curl_multi_cleanup(s->multi); /* handles still active are leaked to the end of the process, which is near */
    free(s);
}

size_t mt_s3_pending(const struct mt_s3 *s)
{
    return s->pending;
}

const struct mt_s3_stats *mt_s3_stats_of(const struct mt_s3 *s)
{
    return &s->stats;
}

int64_t mt_s3_now_us(const struct mt_s3 *s)
{
    int64_t ours = mt_clock_wall_us(), theirs = s->store_unix_s * 1000000;
    return theirs && theirs < ours ? theirs : ours;
}

void mt_s3_wake(struct mt_s3 *s)
{
    (void)curl_multi_wakeup(s->multi);
}

static void enqueue(struct mt_s3 *s, struct mt_s3_op *op)
{
    op->next = NULL;
    *s->tail = op;
    s->tail = &op->next;
}

void mt_s3_submit(struct mt_s3 *s, struct mt_s3_op *op)
{
    op->end = MT_S3_DONE;
    op->fault = (struct mt_bk_fault){0};
    op->tries = 0;
    op->not_before = 0;
    op->skewed = false;
    s->pending++;
    enqueue(s, op);
}

static size_t on_body(char *p, size_t one, size_t n, void *arg)
{
    struct mt_s3_op *op = arg;
    long status = 0;
    (void)one;
    (void)curl_easy_getinfo(op->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        size_t room = sizeof op->error - op->error_len, k = n < room ? n : room;
        memcpy(op->error + op->error_len, p, k);
        op->error_len += k;
        return op->error_len == sizeof op->error && k < n ? 0 : n; /* no more of an error is wanted */
    }
    if (n > op->cap - op->len) {
        op->overflow = true;
        return 0;
    }
    if (op->hash)
        mt_sha256_update(op->hash, p, n);
    else
        memcpy(op->into + op->len, p, n);
    op->len += n;
    return n;
}

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    struct mt_s3_op *op = arg;
    char date[64];
    (void)one;
    op->head_whole = n <= 2; /* the empty line behind the headers */
    if (n > 6 && n < sizeof date && strncasecmp(line, "Date:", 5) == 0) {
        memcpy(date, line + 5, n - 5);
        date[n - 5] = 0;
        time_t t = curl_getdate(date, NULL);
        if (t > 0)
            op->owner->store_unix_s = (int64_t)t;
    }
    return n;
}

/* Slower limits than one chunk in the usual time make the time longer. */
static long timeout_ms(const struct mt_s3 *s, const struct mt_s3_op *op)
{
    const struct mt_bk_store *t = &s->q->store;
    uint64_t limit = op->method == MT_S3_PUT ? t->upload_limit : t->download_limit, ms = (uint64_t)t->timeout_s * 1000;
    uint64_t bytes = op->method == MT_S3_PUT ? op->body_len : op->cap;
    if (limit)
        ms = mt_max_u64(ms, bytes * 4000 * t->parallel / limit);
    int64_t left = (s->deadline_ns - mt_clock_mono()) / MT_NS_PER_MS;
    return (long)mt_min_u64(ms, left > 1 ? (uint64_t)left : 1);
}

static struct curl_slist *header(struct curl_slist *list, const char *name, const char *value)
{
    mt_auto_free char *line = mt_asprintf("%s: %s", name, value);
    struct curl_slist *more = line ? curl_slist_append(list, line) : NULL;
    if (line)
        explicit_bzero(line, strlen(line));
    return more ? more : list; /* a request that lacks a header is refused by the store and fails in its own way */
}

static int start(struct mt_s3 *s, struct mt_s3_op *op)
{
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE"};
    const struct mt_bk_request *q = s->q;
    char path[600], url[4200], date[MT_BK_AMZ_DATE];
    struct mt_err err = {0};
    mt_auto_buf struct mt_buf sign = MT_BUF_INIT(4096);
    if (mt_fmt(path, sizeof path, &err, "%s%s%s%s", q->store.virtual_style ? "" : "/", q->store.virtual_style ? "" : q->store.bucket,
               op->key[0] || q->store.virtual_style ? "/" : "", op->key) < 0 ||
        mt_fmt(url, sizeof url, &err, "%s://%s%s%s%s", q->store.tls ? "https" : "http", q->store.host, path, op->query ? "?" : "",
               op->query ? op->query : "") < 0)
        return mt_bk_fail(&op->fault, MT_BK_INTERNAL, "internal", "%s", err.msg);
    const struct mt_bk_sign what = {
        .access_key = q->secret->access_key, .secret_key = q->secret->secret_key,
        .session_token = q->secret->session_token[0] ? q->secret->session_token : NULL, .region = q->store.region, .method = methods[op->method],
        .host = q->store.host, .path = path, .query = op->query ? op->query : "",
        .payload_sha256 = op->method == MT_S3_PUT ? op->body_sha256 : EMPTY_SHA256,
        .unix_s = mt_clock_wall_us() / 1000000 + s->skew_s};
    if (mt_bk_sign(&what, &sign, date, &err) < 0)
        return mt_bk_fail(&op->fault, MT_BK_INTERNAL, "internal", "%s", err.msg);
    CURL *c = s->idle_count ? s->idle[--s->idle_count] : curl_easy_init();
    if (!c)
        return mt_bk_fail(&op->fault, MT_BK_INTERNAL, "memory", "no memory for a request");
    curl_easy_reset(c);
    struct curl_slist *h = header(NULL, "Authorization", mt_buf_cstr(&sign));
    h = header(h, "x-amz-date", date);
    h = header(h, "x-amz-content-sha256", what.payload_sha256);
    if (what.session_token)
        h = header(h, "x-amz-security-token", what.session_token);
    h = curl_slist_append(h, "Expect:");
    h = curl_slist_append(h, "Content-Type: application/octet-stream");
    op->curl = c;
    op->headers = h;
    op->len = op->error_len = 0;
    op->overflow = op->head_whole = false;
    op->owner = s;
    if (op->tries++)
        s->stats.retries++;
    s->stats.requests++;
    (void)curl_easy_setopt(c, CURLOPT_URL, url);
    (void)curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    (void)curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, q->store.tls ? "https" : "http");
    (void)curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c, CURLOPT_USERAGENT, "moat-backup/" MOAT_VERSION);
    (void)curl_easy_setopt(c, CURLOPT_HTTPHEADER, h);
    (void)curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    (void)curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, timeout_ms(s, op));
    (void)curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 256L << 10);
    (void)curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 256L << 10);
    (void)curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(c, CURLOPT_HEADERDATA, op);
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(c, CURLOPT_WRITEDATA, op);
    (void)curl_easy_setopt(c, CURLOPT_PRIVATE, op);
    if (op->method == MT_S3_HEAD)
        (void)curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    if (op->method == MT_S3_PUT) {
        (void)curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)op->body_len);
        (void)curl_easy_setopt(c, CURLOPT_POSTFIELDS, op->body);
    }
    if (op->method == MT_S3_PUT || op->method == MT_S3_DELETE)
        (void)curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, methods[op->method]);
    /* What goes in half a second goes at once, as the bucket says when: sent in many small pieces it would wake up this host's processors, which its VMs pay for. */
    if (q->store.upload_limit && op->body_len > q->store.upload_limit / 2)
        (void)curl_easy_setopt(c, CURLOPT_MAX_SEND_SPEED_LARGE, (curl_off_t)q->store.upload_limit);
    if (q->store.download_limit)
        (void)curl_easy_setopt(c, CURLOPT_MAX_RECV_SPEED_LARGE, (curl_off_t)mt_max_u64(q->store.download_limit / q->store.parallel, 1));
    if (q->store.ca_file[0])
        (void)curl_easy_setopt(c, CURLOPT_CAINFO, q->store.ca_file);
    if (curl_multi_add_handle(s->multi, c) != CURLM_OK)
        return mt_bk_fail(&op->fault, MT_BK_INTERNAL, "internal", "the HTTP library takes no request");
    s->active++;
    return 0;
}

static void put_back(struct mt_s3 *s, struct mt_s3_op *op)
{
    for (struct curl_slist *h = op->headers; h; h = h->next)
        explicit_bzero(h->data, strlen(h->data));
    curl_slist_free_all(op->headers);
    op->headers = NULL;
    if (op->curl && s->idle_count < sizeof s->idle / sizeof s->idle[0])
        s->idle[s->idle_count++] = op->curl;
    else if (op->curl)
        curl_easy_cleanup(op->curl);
    op->curl = NULL;
}

/* The transfer has no status of its own to judge by. True: again. */
static bool judge_transfer(const struct mt_s3 *s, struct mt_s3_op *op, CURLcode code)
{
    const char *detail = "network";
    bool again = true;
    if (code == CURLE_COULDNT_RESOLVE_HOST) {
        detail = "dns";
    } else if (code == CURLE_COULDNT_CONNECT) {
        detail = "connect";
    } else if (code == CURLE_OPERATION_TIMEDOUT) {
        detail = "timeout";
    } else if (code == CURLE_SSL_CONNECT_ERROR || code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
        detail = "tls";
        again = false;
    }
    (void)mt_bk_fail(&op->fault, again ? MT_BK_UNREACHABLE : MT_BK_REFUSED, detail, "cannot talk to the store at '%s': %s", s->q->store.host,
                     curl_easy_strerror(code));
    return again;
}

static bool judge_status(struct mt_s3 *s, struct mt_s3_op *op, long status)
{
    char code[64], detail[32];
    mt_bk_error_code(op->error, op->error_len, code, sizeof code);
    (void)snprintf(detail, sizeof detail, "http_%ld", status);
    bool mute = status == 403 && op->method == MT_S3_HEAD; /* such an answer has no body that could say why */
    int64_t skew = s->store_unix_s ? s->store_unix_s - mt_clock_wall_us() / 1000000 : 0;
    if (status == 404 && !MT_STREQ(code, "NoSuchBucket")) {
        op->end = MT_S3_NOT_FOUND;
        return false;
    }
    if (status == 404) {
        (void)mt_bk_fail(&op->fault, MT_BK_REFUSED, "bucket_not_found", "the store has no bucket '%s'", s->q->store.bucket);
    } else if (status == 408 || status == 429 || status >= 500) {
        (void)mt_bk_fail(&op->fault, MT_BK_UNREACHABLE, detail, "the store answers %ld '%s'", status, code);
        return true;
    } else if (MT_STREQ(code, "RequestTimeTooSkewed") || MT_STREQ(code, "RequestExpired") || (mute && (skew > MUTE_SKEW_S || skew < -MUTE_SKEW_S))) {
        if (!op->skewed && s->store_unix_s && skew < SKEW_MAX_S && skew > -SKEW_MAX_S) {
            op->skewed = true; /* once: by its own Date */
            s->skew_s = skew;
            return true;
        }
        (void)mt_bk_fail(&op->fault, MT_BK_CREDENTIALS, "clock_skew", "the store's clock and this host's differ by more than it allows");
    } else if (status == 401 || status == 403) {
        bool sign = MT_STREQ(code, "SignatureDoesNotMatch") || MT_STREQ(code, "InvalidAccessKeyId");
        (void)mt_bk_fail(&op->fault, MT_BK_CREDENTIALS, sign ? "signature" : "access_denied", "the store refuses the credentials: '%s'", code);
    } else if (status >= 300 && status < 400) {
        (void)mt_bk_fail(&op->fault, MT_BK_REFUSED, "redirect", "the store sends us elsewhere (%ld '%s'); check endpoint and region", status, code);
    } else if (status == 400 && (MT_STREQ(code, "XAmzContentSHA256Mismatch") || MT_STREQ(code, "BadDigest") || MT_STREQ(code, "IncompleteBody") ||
                                 MT_STREQ(code, "RequestTimeout"))) {
        (void)mt_bk_fail(&op->fault, MT_BK_UNREACHABLE, detail, "the body did not reach the store whole ('%s')", code);
        return true;
    } else {
        (void)mt_bk_fail(&op->fault, op->method == MT_S3_GET || op->method == MT_S3_HEAD ? MT_BK_DOWNLOAD : MT_BK_UPLOAD, detail,
                         "the store answers %ld '%s'", status, code);
    }
    return false;
}

static int64_t jitter_ms(const struct mt_s3 *s, unsigned tries)
{
    uint64_t most = (uint64_t)s->q->store.retry_base_ms << (tries < 16 ? tries - 1 : 15), r;
    mt_random(&r, sizeof r);
    return (int64_t)(r % (mt_min_u64(most, RETRY_MAX_MS) + 1));
}

static void finish(struct mt_s3 *s, struct mt_s3_op *op, CURLcode code)
{
    long status = 0;
    curl_off_t length = -1;
    bool again = false;
    (void)curl_easy_getinfo(op->curl, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(op->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    op->fault = (struct mt_bk_fault){0};
    op->end = MT_S3_DONE;
    if (code == CURLE_OK && !op->head_whole)
        code = CURLE_PARTIAL_FILE; /* a connection that ends within the headers: to libcurl that is an answer without body */
    if (op->overflow)
        op->end = MT_S3_OVERSIZE;
    else if (status >= 300 && op->head_whole && (code == CURLE_OK || code == CURLE_WRITE_ERROR))
        again = judge_status(s, op, status);
    else if (code != CURLE_OK)
        again = judge_transfer(s, op, code);
    if (op->fault.kind == MT_BK_OK && op->end == MT_S3_DONE) {
        if (op->method == MT_S3_HEAD)
            op->len = length >= 0 ? (size_t)length : SIZE_MAX;
        if (op->method == MT_S3_PUT)
            s->stats.sent += op->body_len;
        else if (op->method == MT_S3_GET)
            s->stats.received += op->len;
    }
    put_back(s, op);
    if (again && op->tries < s->q->store.tries && !(op->hash && op->len)) {
        op->not_before = mt_clock_mono() + jitter_ms(s, op->tries) * MT_NS_PER_MS;
        enqueue(s, op);
        return;
    }
    if (op->fault.kind != MT_BK_OK || again) {
        (void)mt_bk_fail(&op->fault, MT_BK_CREDENTIALS, "clock_skew", "the store's clock and this host's differ by more than it allows");
        op->end = MT_S3_FAILED;
    }
    s->pending--;
    op->done(op, op->arg);
}

/* May a PUT of that size go now? The bucket holds a quarter of a second and may go into debt by one body. */
static bool may_send(struct mt_s3 *s, const struct mt_s3_op *op, int64_t now, int64_t *ret_wait_ns)
{
    int64_t limit = (int64_t)s->q->store.upload_limit;
    if (!limit || op->method != MT_S3_PUT)
        return true;
    int64_t gained = (int64_t)((double)(now - s->filled_ns) * (double)limit / 1e9);
    s->tokens = (int64_t)mt_min_u64((uint64_t)(s->tokens + gained > 0 ? s->tokens + gained : 0), (uint64_t)limit / 4) + (s->tokens + gained < 0 ? s->tokens + gained : 0);
    s->filled_ns = now;
    if (s->tokens < 0) {
        *ret_wait_ns = (int64_t)((double)-s->tokens * 1e9 / (double)limit) + MT_NS_PER_MS;
        return false;
    }
    s->tokens -= (int64_t)op->body_len;
    return true;
}

/* Start what is due and fits; returns the nanoseconds until the next is due. */
static int64_t start_due(struct mt_s3 *s)
{
    int64_t now = mt_clock_mono(), next = INT64_MAX, wait;
    struct mt_s3_op **at = &s->queue;
    while (*at && s->active < s->q->store.parallel) {
        struct mt_s3_op *op = *at;
        wait = op->not_before - now;
        if (wait <= 0 && may_send(s, op, now, &wait)) {
            *at = op->next;
            if (!*at)
                s->tail = at;
            op->next = NULL;
            if (start(s, op) < 0) {
                put_back(s, op);
                op->end = MT_S3_FAILED;
                s->pending--;
                op->done(op, op->arg);
                at = &s->queue; /* the callback may have changed the queue */
            }
            continue;
        }
        if (wait < next)
            next = wait;
        at = &op->next;
    }
    return next;
}

int mt_s3_turn(struct mt_s3 *s, int wait_ms, struct mt_bk_fault *f)
{
    int running = 0, left = 0;
    int64_t due = start_due(s);
    CURLMsg *m;
    if (mt_clock_mono() >= s->deadline_ns)
        return mt_bk_fail(f, MT_BK_EXPIRED, "total_deadline", "the deadline of the run passed");
    if (curl_multi_perform(s->multi, &running) != CURLM_OK)
        return mt_bk_fail(f, MT_BK_INTERNAL, "internal", "the HTTP library failed");
    bool some = false;
    while ((m = curl_multi_info_read(s->multi, &left))) {
        if (m->msg != CURLMSG_DONE)
            continue;
        struct mt_s3_op *op = NULL;
        CURLcode code = m->data.result;
        CURL *c = m->easy_handle;
        (void)curl_easy_getinfo(c, CURLINFO_PRIVATE, &op);
        (void)curl_multi_remove_handle(s->multi, c);
        s->active--;
        finish(s, op, code);
        some = true;
    }
    if (!some && wait_ms > 0) {
        int64_t ms = due == INT64_MAX ? wait_ms : due / MT_NS_PER_MS + 1;
        (void)curl_multi_poll(s->multi, NULL, 0, ms < wait_ms ? (int)ms : wait_ms, NULL);
    }
    return 0;
}

static void run_done(struct mt_s3_op *op, void *arg)
{
    bool *ended = arg;
    (void)op;
    *ended = true;
}

int mt_s3_run(struct mt_s3 *s, struct mt_s3_op *op, struct mt_bk_fault *f)
{
    bool ended = false;
    op->done = run_done;
    // cppcheck-suppress autoVariables ; the operation ends before this returns
    op->arg = &ended;
    mt_s3_submit(s, op);
    while (!ended)
        if (mt_s3_turn(s, 1000, f) < 0)
            return -1;
    if (op->end == MT_S3_FAILED) {
        if (f->kind == MT_BK_OK)
            *f = op->fault;
        return -1;
    }
    return 0;
}
