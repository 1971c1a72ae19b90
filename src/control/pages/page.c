/* SPDX-License-Identifier: Apache-2.0 */
/* The frame of pages. */
#include "control/pages/page.h"

#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#define PAGE_MAX 65536

static const char style[] =
    ":root{color-scheme:light dark;--bg:#f4f5f7;--card:#fff;--ink:#1a1d21;--dim:#5a626c;--line:#d9dde2;--act:#14532d;--actink:#fff;"
    "--bad:#9b1c1c;--badbg:#fdecec}"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1e2226;--ink:#e8eaed;--dim:#a3abb5;--line:#363c43;--act:#86efac;"
    "--actink:#0b2916;--bad:#fca5a5;--badbg:#3a1a1c}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:27rem;margin:8vh auto;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:10px}"
    "@media(max-width:30rem){main{margin:0;min-height:100vh;border:0;border-radius:0}}"
    ".mark{font-weight:700;letter-spacing:.02em;color:var(--dim);margin:0 0 1rem}h1{font-size:1.35rem;line-height:1.3;margin:0 0 .75rem}"
    "p{margin:.5rem 0}.dim{color:var(--dim);font-size:.925rem}label{display:block;font-weight:600;margin:1rem 0 .25rem}"
    "input{width:100%;font:inherit;color:inherit;background:var(--bg);padding:.6rem .7rem;border:1px solid var(--line);border-radius:6px}"
    "input:focus-visible,button:focus-visible,a:focus-visible{outline:3px solid #2563eb;outline-offset:2px}"
    "input.code{font:1.4rem/1.3 ui-monospace,monospace;letter-spacing:.15em;text-transform:uppercase;text-align:center}"
    "button{font:inherit;font-weight:600;margin-top:1.25rem;padding:.65rem 1.2rem;border-radius:6px;border:1px solid var(--act);cursor:pointer;"
    "background:var(--act);color:var(--actink);width:100%}"
    "button.quiet{background:transparent;color:var(--ink);border-color:var(--line)}.row{display:flex;gap:.75rem}"
    ".notice{margin:0 0 1rem;padding:.6rem .8rem;border-left:4px solid var(--bad);background:var(--badbg);color:var(--bad);border-radius:4px}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1rem;margin:1rem 0;padding:.9rem 1rem;border:1px solid var(--line);"
    "border-radius:6px}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}code{font-family:ui-monospace,monospace;overflow-wrap:anywhere}"
    "code.code{font-size:1.4rem;letter-spacing:.15em}ul{margin:.25rem 0;padding-left:1.1rem}form.foot{margin-top:1.5rem;border-top:1px solid var(--line);padding-top:.25rem}"
    "form.foot button{width:auto;padding:.3rem .7rem;font-weight:400;margin-top:.75rem}";

/* The browser's cookie names its session and, hashed with a word, the CSRF token of its forms: only pages of ours can know it. */
static void set_csrf(struct mt_page *p)
{
    char text[MT_TOKEN_SIZE + 16], hex[MT_SHA256_HEX];
    int n = snprintf(text, sizeof text, "csrf|%s", p->cookie);
    mt_sha256_hex(text, (size_t)n, hex);
    memcpy(p->csrf, hex, MT_CSRF_SIZE - 1);
    p->csrf[MT_CSRF_SIZE - 1] = 0;
    explicit_bzero(text, sizeof text);
}

void mt_page_begin(struct mt_page *p, struct mt_api_call *c)
{
    const char *h = mt_http_req_header(c->http, "Cookie");
    *p = (struct mt_page){.c = c, .body = MT_BUF_INIT(PAGE_MAX)};
    if (!h || mt_http_req_header_repeated(c->http, "Cookie") || !mt_cookie_get(h, MT_PAGE_COOKIE, p->cookie, sizeof p->cookie) ||
        mt_token_kind_of(p->cookie) != MT_TOKEN_BROWSER) {
        uint8_t hash[32];
        mt_token_new(MT_TOKEN_BROWSER, p->cookie, hash);
        p->set_cookie = true;
    }
    set_csrf(p);
}

void mt_page_cookie(struct mt_page *p, const char *cookie)
{
    snprintf(p->cookie, sizeof p->cookie, "%s", cookie);
    p->set_cookie = true;
    set_csrf(p);
}

int mt_page_form(struct mt_page *p, struct mt_form *ret)
{
    size_t len;
    struct mt_err err;
    const char *body = mt_http_req_body(p->c->http, &len), *ct = mt_http_req_header(p->c->http, "Content-Type");
    const char *site = mt_http_req_header(p->c->http, "Sec-Fetch-Site");
    ret->n = 0;
    if (!ct || strncasecmp(ct, "application/x-www-form-urlencoded", 33) != 0) {
        (void)mt_page_say(p, 415, "This form cannot be read", "Send it from the page itself.");
        return -1;
    }
    if (mt_form_parse(body, len, ret, &err) < 0) {
        (void)mt_page_say(p, 400, "This form cannot be read", err.msg);
        return -1;
    }
    const char *csrf = mt_form_get(ret, "csrf");
    bool same = strlen(csrf) == MT_CSRF_SIZE - 1 && mt_digest_equal(csrf, p->csrf, MT_CSRF_SIZE - 1);
    if (!same || (site && !MT_STREQ(site, "same-origin") && !MT_STREQ(site, "none"))) {
        (void)mt_page_say(p, 403, "This form is out of date", "Go back, load the page again, and send it once more. Cookies must be allowed.");
        return -1;
    }
    return 0;
}

void mt_page_html(struct mt_page *p, const char *html)
{
    mt_buf_puts(&p->body, html);
}

static void escaped(struct mt_buf *b, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            mt_buf_puts(b, "&amp;");
            break;
        case '<':
            mt_buf_puts(b, "&lt;");
            break;
        case '>':
            mt_buf_puts(b, "&gt;");
            break;
        case '"':
            mt_buf_puts(b, "&quot;");
            break;
        case '\'':
            mt_buf_puts(b, "&#39;");
            break;
        default:
            mt_buf_putc(b, *text);
        }
    }
}

void mt_page_text(struct mt_page *p, const char *text)
{
    escaped(&p->body, text);
}

void mt_page_notice(struct mt_page *p, const char *text)
{
    mt_page_html(p, "<p class=notice role=alert>");
    mt_page_text(p, text);
    mt_page_html(p, "</p>");
}

void mt_page_form_open(struct mt_page *p, const char *action)
{
    mt_buf_printf(&p->body, "<form method=post action=\"%s\">", action);
    mt_page_hidden(p, "csrf", p->csrf);
}

void mt_page_hidden(struct mt_page *p, const char *name, const char *value)
{
    mt_buf_printf(&p->body, "<input type=hidden name=%s value=\"", name);
    mt_page_text(p, value);
    mt_page_html(p, "\">");
}

void mt_page_field(struct mt_page *p, const char *label, const char *name, const char *type, const char *value, const char *more)
{
    mt_buf_printf(&p->body, "<label for=%s>", name);
    mt_page_text(p, label);
    mt_buf_printf(&p->body, "</label><input id=%s name=%s type=%s value=\"", name, name, type);
    mt_page_text(p, value);
    mt_buf_printf(&p->body, "\"%s>", more);
}

static void headers(struct mt_page *p, const char *nonce)
{
    struct mt_http_req *h = p->c->http;
    char t[300];
    snprintf(t, sizeof t, "default-src 'none'; style-src 'nonce-%s'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'", nonce);
    mt_http_add_header(h, "Content-Security-Policy", t);
    mt_http_add_header(h, "X-Frame-Options", "DENY");
    mt_http_add_header(h, "X-Content-Type-Options", "nosniff");
    mt_http_add_header(h, "Referrer-Policy", "same-origin");
    mt_http_add_header(h, "Cache-Control", "no-store");
    if (p->set_cookie) {
        snprintf(t, sizeof t, MT_PAGE_COOKIE "=%s; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Lax", p->cookie);
        mt_http_add_header(h, "Set-Cookie", t);
    }
    explicit_bzero(t, sizeof t);
}

static void nonce_new(char ret[33])
{
    uint8_t raw[16];
    mt_random(raw, sizeof raw);
    mt_hex_encode(raw, sizeof raw, ret);
}

int mt_page_send(struct mt_page *p, unsigned status, const char *title)
{
    char nonce[33];
    struct mt_buf b = MT_BUF_INIT(PAGE_MAX + sizeof style + 2048);
    nonce_new(nonce);
    headers(p, nonce);
    mt_buf_puts(&b, "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">"
                    "<meta name=robots content=noindex><title>");
    escaped(&b, title);
    mt_buf_printf(&b, " &middot; moat</title><style nonce=%s>%s</style></head><body><main><p class=mark>moat</p><h1>", nonce, style);
    escaped(&b, title);
    mt_buf_puts(&b, "</h1>");
    mt_buf_put(&b, p->body.p ? (const char *)p->body.p : "", p->body.len);
    mt_buf_puts(&b, "</main></body></html>\n");
    bool failed = b.failed || p->body.failed;
    mt_buf_done(&p->body);
    size_t len = b.len;
    char *text = failed ? NULL : mt_buf_take(&b);
    if (failed)
        mt_buf_done(&b);
    mt_http_reply(p->c->http, text ? status : 500, "text/html; charset=utf-8", text, text ? len : 0);
    return 0;
}

int mt_page_redirect(struct mt_page *p, const char *path)
{
    char nonce[33];
    nonce_new(nonce);
    headers(p, nonce);
    mt_buf_done(&p->body);
    mt_http_add_header(p->c->http, "Location", path);
    mt_http_reply(p->c->http, 303, NULL, NULL, 0);
    return 0;
}

int mt_page_say(struct mt_page *p, unsigned status, const char *title, const char *text)
{
    mt_buf_reset(&p->body);
    mt_page_html(p, "<p>");
    mt_page_text(p, text);
    mt_page_html(p, "</p>");
    return mt_page_send(p, status, title);
}
