/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/redirect.h"

#include "edge/pack.h"
#include "wire/clienthello.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

struct part {
    const char *p;
    size_t n;
};

/* Up to @c, which is passed over; false when it is not there. */
static bool cut(struct part *from, char c, struct part *ret)
{
    const char *at = memchr(from->p, c, from->n);
    if (!at)
        return false;
    *ret = (struct part){from->p, (size_t)(at - from->p)};
    from->n -= ret->n + 1;
    from->p = at + 1;
    return true;
}

static bool next_line(struct part *from, struct part *ret)
{
    if (!cut(from, '\n', ret))
        return false;
    if (ret->n && ret->p[ret->n - 1] == '\r')
        ret->n--;
    return true;
}

static bool plain(struct part s, uint8_t least)
{
    for (size_t i = 0; i < s.n; i++)
        if ((uint8_t)s.p[i] < least || (uint8_t)s.p[i] > 0x7e)
            return false;
    return true;
}

/* METHOD target HTTP/1.x; the target in its absolute form names the host itself. */
static bool read_start(struct part line, struct part *ret_path, struct part *ret_host)
{
    struct part method, target;
    if (!cut(&line, ' ', &method) || method.n == 0 || !cut(&line, ' ', &target) || target.n == 0 || !plain(target, 0x21) ||
        line.n != 8 || memcmp(line.p, "HTTP/1.", 7) != 0 || (line.p[7] != '0' && line.p[7] != '1'))
        return false;
    for (size_t i = 0; i < method.n; i++)
        if (method.p[i] < 'A' || method.p[i] > 'Z')
            return false;
    *ret_host = (struct part){0};
    if (target.n > 7 && strncasecmp(target.p, "http://", 7) == 0) {
        target.p += 7;
        target.n -= 7;
        const char *slash = memchr(target.p, '/', target.n);
        ret_host->p = target.p;
        ret_host->n = slash ? (size_t)(slash - target.p) : target.n;
        target.p += ret_host->n;
        target.n -= ret_host->n;
    }
    *ret_path = target.n && target.p[0] == '/' ? target : (struct part){"/", 1};
    return true;
}

/* "Host:" of the head; false when it is there twice, or a line is none. */
static bool read_host(struct part head, struct part *ret)
{
    struct part line, name;
    while (next_line(&head, &line) && line.n) {
        if (!cut(&line, ':', &name) || name.n == 0 || !plain(name, 0x21))
            return false;
        if (name.n != 4 || strncasecmp(name.p, "host", 4) != 0)
            continue;
        if (ret->p)
            return false;
        while (line.n && (*line.p == ' ' || *line.p == '\t')) {
            line.p++;
            line.n--;
        }
        while (line.n && (line.p[line.n - 1] == ' ' || line.p[line.n - 1] == '\t'))
            line.n--;
        *ret = line;
    }
    return true;
}

enum mt_redirect mt_edge_redirect(const struct mt_edge_table *t, const uint8_t *data, size_t len, char ret[MT_REDIRECT_ANSWER], size_t *ret_len)
{
    struct part head = {(const char *)data, len < MT_REDIRECT_REQUEST ? len : MT_REDIRECT_REQUEST}, all = head, line, path, host, named = {0};
    if (!memmem(data, head.n, "\r\n\r\n", 4) && !memmem(data, head.n, "\n\n", 2))
        return len < MT_REDIRECT_REQUEST ? MT_REDIRECT_MORE : MT_REDIRECT_TOO_BIG;
    if (!next_line(&all, &line) || !read_start(line, &path, &host) || !read_host(all, &named))
        return MT_REDIRECT_MALFORMED;
    if (!host.p)
        host = named;
    const char *colon = host.p ? memchr(host.p, ':', host.n) : NULL;
    if (colon)
        host.n = (size_t)(colon - host.p);
    char name[256];
    size_t n = host.n ? mt_hello_normal_name(host.p, host.n, name) : 0;
    if (n == 0)
        return MT_REDIRECT_MALFORMED;
    const struct mt_edge_rec *r = t ? mt_edge_table_rec(t, mt_edge_key_of(MT_EDGE_TLS, MT_EDGE_SHARED6, (struct in_addr){0}, 443), name, n) : NULL;
    if (!r || t->opts[r->opts].disabled)
        return MT_REDIRECT_UNKNOWN;
    int w = snprintf(ret, MT_REDIRECT_ANSWER, "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://%.*s%.*s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                     (int)n, name, (int)path.n, path.p);
    if (w < 0 || (unsigned)w >= MT_REDIRECT_ANSWER)
        return MT_REDIRECT_TOO_BIG;
    *ret_len = (size_t)w;
    return MT_REDIRECT_ANSWERED;
}
