/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Redirects are followed by hand: every hop passes the address rule anew and credentials stay with the registry's own host.
 */
#include "fetch/http.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/addr.h"
#include "fetch/challenge.h"
#include "os/file.h"
#include "wire/json.h"

#include <curl/curl.h>
#include <poll.h>
#include <pthread.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define REDIRECTS_MAX 5
#define TRIES 5
#define CONNECT_MS 10000L
#define IDLE_S 30L
#define TOKEN_MAX ((size_t)64 << 10)
#define URL_MAX ((size_t)8 << 10)

struct mt_fetch_session {
    const struct mt_fetch_options *options;
    const struct mt_imageref *ref;
    char host[280];  /* as in the reference; docker.io's API lives elsewhere */
    char base[300];  /* "https://host:port" */
    bool insecure;   /* plain HTTP is wanted */
    bool exempt;     /* its address need not be public */
    int64_t deadline_ns;
    pthread_mutex_t lock; /* guards the token */
    char *authorization;  /* whole header line; NULL when none is known */
    int64_t token_until_ns;
    unsigned token_serial; /* grows with each new one: two threads refused at once ask only once */
};

struct mt_fetch_session *mt_fetch_session_new(const struct mt_fetch_options *options, const struct mt_imageref *ref,
                                              struct mt_fetch_fault *f)
{
    struct mt_fetch_session *s = calloc(1, sizeof *s);
    if (!s || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        free(s);
        (void)mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "the HTTP library does not start");
        return NULL;
    }
    s->options = options;
    s->ref = ref;
    s->insecure = mt_fetch_listed(options->insecure_registries, ref->host);
    s->exempt = mt_fetch_listed(options->local_registries, ref->host);
    (void)snprintf(s->host, sizeof s->host, "%s", strcmp(ref->host, "docker.io") == 0 ? "registry-1.docker.io" : ref->host);
    (void)snprintf(s->base, sizeof s->base, "%s://%s", s->insecure ? "http" : "https", s->host);
    s->deadline_ns = mt_clock_mono() + (int64_t)options->total_timeout_s * MT_NS_PER_S;
    (void)pthread_mutex_init(&s->lock, NULL);
    return s;
}

void mt_fetch_session_free(struct mt_fetch_session *s)
{
    if (!s)
        return;
    if (s->authorization)
        explicit_bzero(s->authorization, strlen(s->authorization));
    free(s->authorization);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
    curl_global_cleanup();
}

/* --- one request ------------------------------------------------------------------------------------------------ */

/* State of one hop. */
struct hop {
    struct mt_fetch_get *get;
    struct mt_fetch_fault *f;
    CURL *curl;
    bool exempt;
    bool refused;          /* the address rule said no */
    bool body_started;
    struct mt_buf *capture; /* token answers go here instead of get->body */
    char challenge[2048];
    char content_range[128];
    uint32_t retry_after_s;
};

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
    struct hop *h = arg;
    if (purpose != CURLSOCKTYPE_IPCXN || (!h->exempt && !mt_addr_public(&addr->addr, addr->addrlen))) {
        h->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
}

static bool header_is(const char *line, size_t n, const char *name, const char **ret, size_t *ret_n)
{
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) != 0 || line[k] != ':')
        return false;
    const char *p = line + k + 1, *end = line + n;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
        end--;
    *ret = p;
    *ret_n = (size_t)(end - p);
    return true;
}

static void keep(char *dst, size_t size, const char *p, size_t n)
{
    if (n >= size)
        n = 0; /* an overlong value is as good as none */
    memcpy(dst, p, n);
    dst[n] = 0;
}

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    struct hop *h = arg;
    const char *v;
    size_t vn;
    (void)one;
    if (n > 5 && strncasecmp(line, "HTTP/", 5) == 0) {
        h->challenge[0] = h->content_range[0] = 0;
        h->retry_after_s = 0;
    } else if (header_is(line, n, "WWW-Authenticate", &v, &vn)) {
        struct mt_challenge c;
        mt_challenge_parse(v, vn < sizeof h->challenge ? vn : 0, &c);
        if (!h->challenge[0] || c.scheme == MT_CHALLENGE_BEARER) /* of several schemes the token one is wanted */
            keep(h->challenge, sizeof h->challenge, v, vn);
    } else if (header_is(line, n, "Content-Range", &v, &vn)) {
        keep(h->content_range, sizeof h->content_range, v, vn);
    } else if (header_is(line, n, "Content-Type", &v, &vn) && h->get) {
        keep(h->get->content_type, sizeof h->get->content_type, v, vn);
    } else if (header_is(line, n, "Docker-Content-Digest", &v, &vn) && h->get) {
        keep(h->get->content_digest, sizeof h->get->content_digest, v, vn);
        if (!mt_digest_valid(h->get->content_digest))
            h->get->content_digest[0] = 0;
    } else if (header_is(line, n, "Retry-After", &v, &vn) && vn < 5) {
        char text[8];
        uint64_t s = 0;
        keep(text, sizeof text, v, vn);
        h->retry_after_s = mt_parse_u64(text, 0, 9999, &s, NULL) == 0 ? (uint32_t)s : 0;
    }
    return n;
}

/* The first body bytes of a 200 or 206 decide where they belong. */
static int place_body(struct hop *h, long status)
{
    struct mt_fetch_get *g = h->get;
    h->body_started = true;
    if (!g->offset || *g->offset == 0)
        return status == 200 ? g->restart(g->arg, h->f)
                             : mt_fetch_fail(h->f, MT_FETCH_REFUSED, "network", "the registry answered with a range nobody asked for");
    char want[40];
    int n = snprintf(want, sizeof want, "bytes %ju-", (uintmax_t)*g->offset);
    if (status == 206 && strncasecmp(h->content_range, want, (size_t)n) == 0)
        return 0;
    if (status == 206)
        return mt_fetch_fail(h->f, MT_FETCH_REFUSED, "network", "the registry answered with another range than was asked for");
    *g->offset = 0;
    return g->restart(g->arg, h->f);
}

static size_t on_body(char *p, size_t one, size_t n, void *arg)
{
    struct hop *h = arg;
    long status = 0;
    (void)one;
    (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206)
        return n; /* the text of an error is not for us; its amount is bounded by the deadline */
    if (h->capture) {
        if (h->capture->len + n > TOKEN_MAX)
            return 0;
        mt_buf_put(h->capture, p, n);
        return n;
    }
    if (!h->body_started && place_body(h, status) < 0)
        return 0;
    return h->get->body(h->get->arg, p, n, h->f) < 0 ? 0 : n;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct hop *h = arg;
    (void)a, (void)b, (void)c, (void)d;
    return h->get && h->get->stop && atomic_load(h->get->stop) ? 1 : 0;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return b && b < a ? b : a;
}

/* How a hop ended without an HTTP status. */
static int curl_fault(const struct mt_fetch_session *s, const struct hop *h, CURLcode code, int64_t deadline_ns,
                      struct mt_fetch_fault *f)
{
    if (f->kind != MT_FETCH_OK)
        return -1; /* a callback knew better */
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return mt_fetch_fail(f, MT_FETCH_STOPPED, "stopped", "stopped");
    if (h->refused)
        return mt_fetch_fail(f, MT_FETCH_REFUSED, "address_refused",
                             "'%s' does not lead to a public address; name its registry in image.local_registries if it may be used",
                             s->host);
    if (code == CURLE_OPERATION_TIMEDOUT && mt_clock_mono() >= deadline_ns - 5 * MT_NS_PER_MS)
        return mt_fetch_fail(f, MT_FETCH_TIMEOUT,
                             deadline_ns == s->deadline_ns || !h->get ? "total_deadline" : h->get->deadline_name,
                             "the deadline of the pull from '%s' passed", s->host);
    const char *detail = "network";
    enum mt_fetch_kind kind = MT_FETCH_UNAVAILABLE;
    if (code == CURLE_COULDNT_RESOLVE_HOST) {
        detail = "dns";
    } else if (code == CURLE_COULDNT_CONNECT) {
        detail = "connect";
    } else if (code == CURLE_SSL_CONNECT_ERROR || code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
        detail = "tls";
        kind = MT_FETCH_REFUSED;
    }
    return mt_fetch_fail(f, kind, detail, "cannot talk to registry '%s': %s", s->host, curl_easy_strerror(code));
}

/* One request without any following. 0 with *ret_status, -1 with the fault. */
static int perform(struct mt_fetch_session *s, struct hop *h, const char *url, const char *authorization, int64_t deadline_ns,
                   long *ret_status, struct mt_fetch_fault *f)
{
    struct curl_slist *headers = NULL;
    char line[300], range[40];
    int64_t left_ms = (deadline_ns - mt_clock_mono()) / MT_NS_PER_MS;
    h->f = f;
    h->body_started = h->refused = false;
    if (left_ms <= 0)
        return curl_fault(s, h, CURLE_OPERATION_TIMEDOUT, deadline_ns, f);
    curl_easy_reset(h->curl);
    if (h->get && h->get->accept) {
        (void)snprintf(line, sizeof line, "Accept: %s", h->get->accept);
        headers = curl_slist_append(headers, line);
    }
    if (authorization)
        headers = curl_slist_append(headers, authorization);
    if (h->get && h->get->offset && *h->get->offset > 0 && !h->capture) {
        (void)snprintf(range, sizeof range, "%ju-", (uintmax_t)*h->get->offset);
        (void)curl_easy_setopt(h->curl, CURLOPT_RANGE, range);
    }
    (void)curl_easy_setopt(h->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, s->insecure ? "http,https" : "https");
    (void)curl_easy_setopt(h->curl, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(h->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(h->curl, CURLOPT_NOPROXY, "*"); /* the address rule judges the far end, not a proxy */
    (void)curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(h->curl, CURLOPT_USERAGENT, "moat-fetch/" MOAT_VERSION);
    (void)curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, headers);
    (void)curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    (void)curl_easy_setopt(h->curl, CURLOPT_TIMEOUT_MS, (long)left_ms);
    (void)curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_TIME, IDLE_S);
    (void)curl_easy_setopt(h->curl, CURLOPT_BUFFERSIZE, 256L << 10);
    (void)curl_easy_setopt(h->curl, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    (void)curl_easy_setopt(h->curl, CURLOPT_OPENSOCKETDATA, h);
    (void)curl_easy_setopt(h->curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(h->curl, CURLOPT_HEADERDATA, h);
    (void)curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, h);
    (void)curl_easy_setopt(h->curl, CURLOPT_NOPROGRESS, 0L);
    (void)curl_easy_setopt(h->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    (void)curl_easy_setopt(h->curl, CURLOPT_XFERINFODATA, h);
    if (s->exempt && !h->exempt) /* a connection kept from the exempt request never passed the address rule */
        (void)curl_easy_setopt(h->curl, CURLOPT_FRESH_CONNECT, 1L);
    if (s->options->ca_file)
        (void)curl_easy_setopt(h->curl, CURLOPT_CAINFO, s->options->ca_file);
    CURLcode code = curl_easy_perform(h->curl);
    curl_slist_free_all(headers);
    (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, ret_status);
    if (code != CURLE_OK)
        return curl_fault(s, h, code, deadline_ns, f);
    if (f->kind == MT_FETCH_OK && (*ret_status == 200 || *ret_status == 206) && !h->capture && !h->body_started)
        return place_body(h, *ret_status); /* an empty body still says where it begins */
    return f->kind == MT_FETCH_OK ? 0 : -1;
}

/* --- tokens ------------------------------------------------------------------------------------------------------ */

/* "scheme://host[:port]" of a URL with default ports left out, lower case; false when it is not http(s). */
static bool origin_of(const char *url, char *ret, size_t size)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL, *user = NULL;
    bool ok = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_USER, &user, 0) != CURLUE_OK && /* no credentials inside URLs */
              (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0);
    if (ok) {
        int n = snprintf(ret, size, "%s://%s:%s", scheme, host, port);
        ok = n > 0 && (size_t)n < size;
        for (char *p = ret; ok && *p; p++)
            if (*p >= 'A' && *p <= 'Z')
                *p = (char)(*p + 32);
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(user);
    curl_url_cleanup(u);
    return ok;
}

/* A place the registry names itself (token realm, redirect) must be https, unless the registry may speak http and it is the same. */
static int check_place(struct mt_fetch_session *s, const char *url, bool *ret_same, struct mt_fetch_fault *f)
{
    char there[400], here[400];
    if (!origin_of(url, there, sizeof there) || !origin_of(s->base, here, sizeof here))
        return mt_fetch_fail(f, MT_FETCH_REFUSED, "redirect", "registry '%s' points to a URL that is not http or https", s->host);
    *ret_same = strcmp(there, here) == 0;
    if (!mt_starts_with(there, "https://") && !*ret_same)
        return mt_fetch_fail(f, MT_FETCH_REFUSED, "redirect", "registry '%s' points to plain HTTP at another host", s->host);
    return 0;
}

static int set_authorization(struct mt_fetch_session *s, char *line, int64_t until_ns)
{
    if (!line)
        return -1;
    free(s->authorization);
    s->authorization = line;
    s->token_until_ns = until_ns;
    s->token_serial++;
    return 0;
}

static char *basic_line(const struct mt_fetch_options *o)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *pair = mt_asprintf("%s:%s", o->username, o->password ? o->password : "");
    if (!pair)
        return NULL;
    size_t n = strlen(pair);
    char *line = malloc(sizeof "Authorization: Basic " + (n + 2) / 3 * 4);
    if (line) {
        char *p = line + snprintf(line, 32, "Authorization: Basic ");
        for (size_t i = 0; i < n; i += 3) {
            uint32_t v = (uint32_t)(uint8_t)pair[i] << 16 | (i + 1 < n ? (uint32_t)(uint8_t)pair[i + 1] << 8 : 0) |
                         (i + 2 < n ? (uint32_t)(uint8_t)pair[i + 2] : 0);
            *p++ = digits[v >> 18];
            *p++ = digits[v >> 12 & 63];
            *p++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
            *p++ = i + 2 < n ? digits[v & 63] : '=';
        }
        *p = 0;
    }
    explicit_bzero(pair, n);
    free(pair);
    return line;
}

static int token_of(const struct mt_buf *body, const char **ret, uint64_t *ret_seconds, json_t **ret_root)
{
    struct mt_err err;
    json_t *root = NULL;
    if (mt_json_parse((const char *)body->p, body->len, TOKEN_MAX, 16, &root, &err) < 0)
        return -1;
    *ret_root = root;
    if (mt_json_opt_str(root, "token", TOKEN_MAX, NULL, ret, &err) < 0 ||
        (!*ret && mt_json_opt_str(root, "access_token", TOKEN_MAX, NULL, ret, &err) < 0) || !*ret ||
        mt_json_opt_u64(root, "expires_in", 1, 86400, 60, ret_seconds, &err) < 0)
        return -1;
    for (const char *p = *ret; *p; p++) /* it goes into a header */
        if (*p <= ' ' || *p >= 0x7f)
            return -1;
    return 0;
}

/* Ask the realm for a token. Called with the lock held: others wait for the same token. */
static int get_token(struct mt_fetch_session *s, const struct mt_challenge *c, int64_t deadline_ns, struct mt_fetch_fault *f)
{
    bool same;
    if (check_place(s, c->realm, &same, f) < 0)
        return -1;
    mt_auto_buf struct mt_buf url = MT_BUF_INIT(URL_MAX), body = MT_BUF_INIT(TOKEN_MAX);
    struct hop h = {.curl = curl_easy_init(), .exempt = s->exempt && same, .capture = &body};
    if (!h.curl)
        return mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for a request");
    char scope[300];
    (void)snprintf(scope, sizeof scope, "repository:%s:pull", s->ref->path);
    char *q_service = curl_easy_escape(h.curl, c->service, 0), *q_scope = curl_easy_escape(h.curl, c->scope[0] ? c->scope : scope, 0);
    mt_buf_printf(&url, "%s%cservice=%s&scope=%s", c->realm, strchr(c->realm, '?') ? '&' : '?', q_service ? q_service : "",
                  q_scope ? q_scope : "");
    curl_free(q_service);
    curl_free(q_scope);
    char *basic = s->options->username ? basic_line(s->options) : NULL;
    long status = 0;
    int r = perform(s, &h, mt_buf_cstr(&url), basic, deadline_ns, &status, f);
    curl_easy_cleanup(h.curl);
    if (basic)
        explicit_bzero(basic, strlen(basic));
    free(basic);
    if (r < 0)
        return -1;
    if (status != 200) {
        bool later = status >= 500 || status == 429;
        return mt_fetch_fail(f, later ? MT_FETCH_UNAVAILABLE : MT_FETCH_UNAUTHORIZED, "auth",
                             "registry '%s' gives no token for '%s' (HTTP %ld)", s->host, s->ref->path, status);
    }
    const char *token = NULL;
    uint64_t seconds = 60;
    mt_auto_json json_t *root = NULL;
    if (token_of(&body, &token, &seconds, &root) < 0 ||
        set_authorization(s, mt_asprintf("Authorization: Bearer %s", token), mt_clock_mono() + (int64_t)seconds * MT_NS_PER_S) < 0)
        return mt_fetch_fail(f, MT_FETCH_UNAUTHORIZED, "auth", "registry '%s' answered with a malformed token", s->host);
    explicit_bzero(body.p, body.len);
    return 0;
}

/* The server refused what we sent (@serial of it): get something better, or give up. */
static int authorize(struct mt_fetch_session *s, const char *header, unsigned serial, int64_t deadline_ns, struct mt_fetch_fault *f)
{
    struct mt_challenge c;
    mt_challenge_parse(header, strlen(header), &c);
    (void)pthread_mutex_lock(&s->lock);
    int r = 0;
    if (serial == s->token_serial) { /* else another thread was here before us */
        if (c.scheme == MT_CHALLENGE_BEARER && c.realm[0])
            r = get_token(s, &c, deadline_ns, f);
        else if (c.scheme == MT_CHALLENGE_BASIC && s->options->username && serial == 0)
            r = set_authorization(s, basic_line(s->options), INT64_MAX);
        else
            r = mt_fetch_fail(f, MT_FETCH_UNAUTHORIZED, "auth", "registry '%s' asks for a credential to read '%s'%s", s->host,
                              s->ref->path, s->options->username ? ", and does not accept the one given" : "");
        if (r < 0 && f->kind == MT_FETCH_OK)
            r = mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for a credential");
    }
    (void)pthread_mutex_unlock(&s->lock);
    return r;
}

static char *current_authorization(struct mt_fetch_session *s, unsigned *ret_serial)
{
    (void)pthread_mutex_lock(&s->lock);
    bool fresh = s->authorization && mt_clock_mono() < s->token_until_ns;
    char *line = fresh ? mt_strndup(s->authorization, strlen(s->authorization)) : NULL;
    *ret_serial = s->token_serial;
    (void)pthread_mutex_unlock(&s->lock);
    return line;
}

/* --- a whole GET -------------------------------------------------------------------------------------------------- */

static int status_fault(const struct mt_fetch_session *s, const struct mt_fetch_get *g, long status, struct mt_fetch_fault *f)
{
    char detail[32];
    (void)snprintf(detail, sizeof detail, "http_%ld", status);
    if (status == 404)
        return mt_fetch_fail(f, MT_FETCH_NOT_FOUND, "not_found", "registry '%s' has no %s '%s%s%s'", s->host,
                             strcmp(g->kind, "blobs") == 0 ? "blob" : "manifest", s->ref->path,
                             strchr(g->name, ':') ? "@" : ":", g->name);
    if (status == 401 || status == 403)
        return mt_fetch_fail(f, MT_FETCH_UNAUTHORIZED, "auth", "registry '%s' does not let us read '%s' (HTTP %ld)", s->host,
                             s->ref->path, status);
    bool later = status == 429 || status >= 500 || status == 408;
    return mt_fetch_fail(f, later ? MT_FETCH_UNAVAILABLE : MT_FETCH_REFUSED, detail, "registry '%s' answered HTTP %ld", s->host,
                         status);
}

/* One try: hops until a body, an error or the redirect limit. */
static int try_once(struct mt_fetch_session *s, struct hop *h, int64_t deadline_ns, struct mt_fetch_fault *f)
{
    struct mt_fetch_get *g = h->get;
    char url[URL_MAX];
    (void)snprintf(url, sizeof url, "%s/v2/%s/%s/%s", s->base, s->ref->path, g->kind, g->name);
    bool home = true;
    h->exempt = s->exempt;
    for (int redirects = 0, refusals = 0;;) {
        unsigned serial = 0;
        char *authorization = home ? current_authorization(s, &serial) : NULL;
        long status = 0;
        int r = perform(s, h, url, authorization, deadline_ns, &status, f);
        free(authorization);
        if (r < 0)
            return -1;
        if (status == 200 || status == 206)
            return 0;
        if (status == 401 && home && h->challenge[0] && refusals++ < 2) {
            if (authorize(s, h->challenge, serial, deadline_ns, f) < 0)
                return -1;
            continue;
        }
        if (status == 416 && g->offset && *g->offset > 0) { /* what we have is not what it has */
            *g->offset = 0;
            if (g->restart(g->arg, f) < 0)
                return -1;
            continue;
        }
        if (status != 301 && status != 302 && status != 303 && status != 307 && status != 308)
            return status_fault(s, g, status, f);
        const char *next = NULL;
        (void)curl_easy_getinfo(h->curl, CURLINFO_REDIRECT_URL, &next);
        if (!next || strlen(next) >= sizeof url || ++redirects > REDIRECTS_MAX)
            return mt_fetch_fail(f, MT_FETCH_REFUSED, "redirect", "registry '%s' redirects too often or to nowhere", s->host);
        if (check_place(s, next, &home, f) < 0)
            return -1;
        h->exempt = false; /* even back to itself: the exception is for the configured request, not for where it is sent */
        memcpy(url, next, strlen(next) + 1);
    }
}

static void wait_ms(int64_t ms, const atomic_bool *stop, int64_t deadline_ns)
{
    while (ms > 0 && !(stop && atomic_load(stop)) && mt_clock_mono() < deadline_ns) {
        int step = ms < 100 ? (int)ms : 100;
        (void)poll(NULL, 0, step);
        ms -= step;
    }
}

int mt_fetch_get(struct mt_fetch_session *s, struct mt_fetch_get *get, struct mt_fetch_fault *f)
{
    int64_t deadline_ns = earlier(s->deadline_ns, get->deadline_ns);
    struct hop h = {.get = get, .curl = curl_easy_init()};
    if (!h.curl)
        return mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for a request");
    int r = -1;
    for (int attempt = 1;; attempt++) {
        struct mt_fetch_fault now = {0};
        r = try_once(s, &h, deadline_ns, &now);
        if (r == 0)
            break;
        if (now.kind != MT_FETCH_UNAVAILABLE || attempt == (get->tries ? get->tries : TRIES) || mt_clock_mono() >= deadline_ns) {
            if (f->kind == MT_FETCH_OK)
                *f = now;
            break;
        }
        uint32_t jitter;
        mt_random(&jitter, sizeof jitter);
        int64_t ms = (int64_t)1000 << (attempt - 1);
        ms = ms / 2 + jitter % (uint32_t)ms; /* half to one and a half */
        ms = ms < 30000 ? ms : 30000;
        int64_t asked = (int64_t)(h.retry_after_s < 60 ? h.retry_after_s : 60) * 1000;
        ms = ms > asked ? ms : asked;
        if (mt_clock_mono() + ms * MT_NS_PER_MS >= deadline_ns) { /* the wait would eat the rest: say what is wrong now */
            if (f->kind == MT_FETCH_OK)
                *f = now;
            break;
        }
        wait_ms(ms, get->stop, deadline_ns);
    }
    curl_easy_cleanup(h.curl);
    return r;
}
