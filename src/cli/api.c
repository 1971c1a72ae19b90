/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to the control plane: retries, streams, pages, problems to exit codes (control-plane.md §15.2, §15.4). */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <inttypes.h>

enum { MAX_BODY = 8 * 1024 * 1024, TRIES = 5, RETRY_BUDGET_MS = 30000 };

int cli_exit_of_status(int status)
{
    switch (status) {
    case 400: case 405: case 413: case 415: case 422:
        return CLI_USAGE;
    case 401: case 403:
        return CLI_AUTH;
    case 404: case 410:
        return CLI_NOT_FOUND;
    case 409: case 412:
        return CLI_CONFLICT;
    case 429: case 502: case 503: case 504:
        return CLI_TRANSIENT;
    default:
        return status >= 500 ? CLI_INTERNAL : CLI_FAILURE;
    }
}

static const char *hint_of(const char *code)
{
    static const struct { const char *code, *hint; } hints[] = {
        {"database_unavailable", "PostgreSQL is away; running apps go on. `moat doctor` says more"},
        {"unauthorized", "the token is not valid here: check MOAT_TOKEN or the configuration"},
        {"no_rollback_target", "`moat releases` lists what exists"},
        {"version_conflict", "somebody else changed it meanwhile: look again, then repeat"},
        {"idempotency_key_reuse", "use a new --idempotency-key for a different request"},
        {"image_not_found", "check the reference; `skopeo inspect docker://REF` asks the same registry"},
        {"registry_unavailable", "the registry does not answer; try again"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(hints); i++)
        if (MT_STREQ(code, hints[i].code))
            return hints[i].hint;
    return NULL;
}

/* Print a problem+json answer (control-plane.md §9.2) as the mode wants it. */
static int problem(struct cli *c, const struct mt_http_reply *r)
{
    int code = cli_exit_of_status(r->status);
    mt_auto_json json_t *p = NULL;
    if (c->hush)
        return code;
    if (mt_json_parse((const char *)r->body.p, r->body.len, MAX_BODY, 32, &p, NULL) < 0 || !json_is_object(p)) {
        char what[100];
        (void)snprintf(what, sizeof what, "the server answered with status %d and no explanation", r->status);
        return cli_error(c, code, what, NULL);
    }
    if (!c->json)
        cli_tame(p);
    const char *name = cli_str(p, "code"), *detail = *cli_str(p, "detail") ? cli_str(p, "detail") : cli_str(p, "title");
    const char *hint = *cli_str(p, "hint") ? cli_str(p, "hint") : hint_of(name);
    json_t *errors = json_object_get(p, "errors");
    if (c->json) {
        mt_auto_json json_t *e = json_pack("{s:{s:s,s:s,s:s,s:s?,s:b,s:i,s:s,s:O?,s:O?}}", "error", "category", cli_category(code), "code", name, "message",
                                           detail, "hint", hint, "retryable", json_is_true(json_object_get(p, "retryable")),
                                           "retry_after_seconds", (int)r->retry_after_s, "request_id", r->request_id, "errors", errors, "details",
                                           json_object_get(p, "details"));
        (void)cli_print_line(c, e);
        return code;
    }
    (void)fflush(stdout);
    char safe[400];
    (void)fprintf(stderr, "%serror:%s %s: %s\n", cli_color(c, "red"), cli_color(c, "reset"), name, mt_printable(detail, strlen(detail), safe, sizeof safe));
    size_t i;
    json_t *item;
    json_array_foreach(errors, i, item)
    {
        if (i == 20) {
            (void)fprintf(stderr, "  ... and %zu more\n", json_array_size(errors) - i);
            break;
        }
        const char *m = cli_str(item, "message"), *field = *cli_str(item, "field") ? cli_str(item, "field") : cli_str(item, "path");
        (void)fprintf(stderr, "  ");
        if (cli_int(item, "line"))
            (void)fprintf(stderr, "%" PRId64 ":%" PRId64 ": ", cli_int(item, "line"), cli_int(item, "column"));
        (void)fprintf(stderr, "%s%s%s", field, *field ? ": " : "", mt_printable(m, strlen(m), safe, sizeof safe));
        if (*cli_str(item, "hint"))
            (void)fprintf(stderr, " (%s)", cli_str(item, "hint"));
        (void)putc('\n', stderr);
    }
    if (hint)
        (void)fprintf(stderr, "hint: %s\n", hint);
    if (*r->request_id)
        (void)fprintf(stderr, "request: %s\n", r->request_id);
    return code;
}

static int unreachable(struct cli *c, const struct mt_err *err)
{
    int code = mt_code_exit(err->code);
    if (err->sys_errno == EACCES)
        return cli_error(c, CLI_AUTH, err->msg, "the local platform's socket is for root and its group");
    return cli_error(c, code == CLI_OK ? CLI_FAILURE : code, err->msg, err->code == MT_E_UNAVAILABLE ? "is the platform running? `moat up` starts it" : NULL);
}

static void new_key(char ret[65])
{
    uint8_t bytes[16];
    mt_random(bytes, sizeof bytes);
    mt_hex_encode(bytes, sizeof bytes, ret);
}

/* Said once: what is read is the log as it was restored. */
static void warn_of_recovery(struct cli *c, const char *state)
{
    if (!*state || c->recovery_told || c->quiet)
        return;
    c->recovery_told = true;
    (void)fprintf(stderr, "! the platform is in recovery (%s): its database was restored to an older point; moat admin recovery plan\n", state);
}

/* How long to wait before the next try: half the step for sure, the other half by chance, so that many clients do not come back at
 * once; never sooner than the server asked for. */
static int64_t pause_ms(int attempt, unsigned retry_after_s)
{
    uint32_t chance;
    int64_t step = INT64_C(200) << (attempt - 1);
    mt_random(&chance, sizeof chance);
    int64_t ms = step / 2 + (int64_t)(chance % (uint32_t)(step / 2 + 1));
    return retry_after_s * INT64_C(1000) > ms ? retry_after_s * INT64_C(1000) + chance % 100 : ms;
}

int cli_call_allow(struct cli *c, const char *method, const char *target, const json_t *body, int allow, json_t **ret)
{
    int code = target ? cli_connect(c) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(MAX_BODY);
    mt_auto_buf struct mt_buf auth = MT_BUF_INIT(512);
    mt_buf_printf(&auth, "Bearer %s", c->token);
    bool mutation = strcmp(method, "GET") != 0;
    char key[129] = "";
    if (mutation && *c->idempotency_key)
        (void)snprintf(key, sizeof key, "%s", c->idempotency_key);
    else if (mutation)
        new_key(key);
    struct mt_err err;
    if (body && mt_json_dump(body, &text, &err) < 0)
        return cli_fail(c, &err, NULL);
    struct mt_http_header headers[3] = {{"Authorization", mt_buf_cstr(&auth)}, {"Prefer", "return=receipt"}, {"Idempotency-Key", key}};
    struct mt_http_request req = {.method = method, .target = target, .headers = headers, .header_count = mutation ? 3 : 2,
                                  .body = body ? mt_buf_cstr(&text) : NULL, .body_len = text.len, .timeout_ms = c->timeout_ms};
    if (mutation)
        cli_say_target(c, "target");
    int64_t started = mt_clock_mono();
    for (int attempt = 1;; attempt++) {
        mt_auto_http_reply struct mt_http_reply r = {0};
        int64_t began = mt_clock_mono();
        int e = mt_http_do(c->http, &req, MAX_BODY, &r, &err);
        if (c->debug)
            (void)fprintf(stderr, "%s %s -> %s%d in %" PRId64 " ms %s\n", method, target, e < 0 ? "error " : "", e < 0 ? -e : r.status,
                          (mt_clock_mono() - began) / MT_NS_PER_MS, r.request_id);
        bool again = e < 0 ? e == -MT_E_UNAVAILABLE : r.status == 429 || (r.status >= 502 && r.status <= 504);
        if (again && attempt < TRIES && !c->once) {
            int64_t ms = pause_ms(attempt, e == 0 ? r.retry_after_s : 0);
            if ((mt_clock_mono() - started) / MT_NS_PER_MS + ms <= RETRY_BUDGET_MS) {
                if (c->debug)
                    (void)fprintf(stderr, "again in %" PRId64 " ms (try %d of %d)\n", ms, attempt + 1, TRIES);
                (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * MT_NS_PER_MS}, NULL);
                continue;
            }
        }
        if (e < 0)
            return unreachable(c, &err);
        c->replayed = r.idempotent_replay;
        warn_of_recovery(c, r.recovery);
        if (r.status == allow) {
            *ret = NULL;
            return CLI_OK;
        }
        if (r.status / 100 != 2)
            return problem(c, &r);
        json_t *j = NULL;
        if (r.body.len && mt_json_parse((const char *)r.body.p, r.body.len, MAX_BODY, 64, &j, &err) < 0)
            return cli_error(c, CLI_INTERNAL, "the server's answer is not JSON", err.msg);
        if (j && !c->json && !c->raw)
            cli_tame(j);
        if (ret)
            *ret = j;
        else
            json_decref(j);
        return CLI_OK;
    }
}

int cli_call(struct cli *c, const char *method, const char *target, const json_t *body, json_t **ret)
{
    return cli_call_allow(c, method, target, body, 0, ret);
}

int cli_call_once(struct cli *c, const char *target, json_t **ret)
{
    bool before = c->once;
    c->once = true;
    int code = cli_call(c, "GET", target, NULL, ret);
    c->once = before;
    return code;
}

struct follow {
    struct cli *c;
    struct mt_buf partial;
    int (*line)(struct cli *c, json_t *obj, void *arg);
    void *arg;
    int ended;
};

enum { FOLLOW_END = 1000 };

static int follow_part(const char *data, size_t len, void *arg)
{
    struct follow *f = arg;
    mt_buf_put(&f->partial, data, len);
    if (f->partial.failed)
        return FOLLOW_END;
    for (;;) {
        const char *text = mt_buf_cstr(&f->partial);
        const char *eol = memchr(text, '\n', f->partial.len);
        if (!eol)
            return 0;
        size_t n = (size_t)(eol - text);
        mt_auto_json json_t *j = NULL;
        if (n > 0 && mt_json_parse(text, n, MAX_BODY, 32, &j, NULL) == 0) {
            if (!f->c->json)
                cli_tame(j);
            f->ended = f->line(f->c, j, f->arg);
            if (f->ended)
                return FOLLOW_END;
        }
        mt_buf_consume(&f->partial, n + 1);
    }
}

int cli_follow(struct cli *c, const char *target, int (*line)(struct cli *c, json_t *obj, void *arg), void *arg, int64_t silence_ms)
{
    int code = target ? cli_connect(c) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf auth = MT_BUF_INIT(512);
    mt_buf_printf(&auth, "Bearer %s", c->token);
    struct mt_http_header headers[2] = {{"Authorization", mt_buf_cstr(&auth)}, {"Accept", "application/x-ndjson"}};
    struct mt_http_request req = {.method = "GET", .target = target, .headers = headers, .header_count = 2, .timeout_ms = silence_ms};
    struct follow f = {.c = c, .partial = MT_BUF_INIT(MAX_BODY), .line = line, .arg = arg};
    mt_auto_http_reply struct mt_http_reply r = {0};
    struct mt_err err;
    int e = mt_http_stream(c->http, &req, MAX_BODY, follow_part, &f, &r, &err);
    mt_buf_done(&f.partial);
    if (e == FOLLOW_END)
        return f.ended > 0 ? f.ended - 1 : CLI_OK; /* a callback ends with its exit code plus one */
    if (e < 0)
        return unreachable(c, &err);
    return r.status / 100 == 2 ? CLI_OK : problem(c, &r);
}

int cli_list(struct cli *c, const char *target, json_t **ret_items)
{
    if (!target)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    mt_auto_json json_t *all = json_array();
    mt_auto_free char *cursor = NULL;
    for (int page = 0; page < 1000; page++) {
        mt_auto_buf struct mt_buf t = MT_BUF_INIT(4096);
        mt_auto_json json_t *j = NULL;
        mt_buf_printf(&t, "%s%climit=200", target, strchr(target, '?') ? '&' : '?');
        if (cursor) {
            mt_buf_puts(&t, "&cursor=");
            mt_http_put_query(&t, cursor);
        }
        int code = cli_call(c, "GET", mt_buf_cstr(&t), NULL, &j);
        if (code != CLI_OK)
            return code;
        (void)json_array_extend(all, json_object_get(j, "items"));
        free(cursor);
        const char *next = cli_str(j, "next_cursor");
        cursor = *next ? strdup(next) : NULL;
        if (!cursor)
            break;
    }
    *ret_items = MT_TAKE(all);
    return CLI_OK;
}

void cli_put_filter(const struct cli *c, struct mt_buf *q, const char *option, const char *param)
{
    if (!cli_has(c, option))
        return;
    mt_buf_printf(q, "&%s=", param);
    mt_http_put_query(q, cli_opt(c, option));
}
