/* SPDX-License-Identifier: Apache-2.0 */
/* wg(8): reading, comparing, setting. See device.h. */
#include "agent/mesh/device.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/spawn.h"

#include <arpa/inet.h>
#include <stdlib.h>

#define SHOW_MAX (1U << 20)
#define WG_TIMEOUT_MS 10000
#define ARGS_MAX 4096
#define PEERS_MAX 4096

/* ---- reading ----------------------------------------------------------------------------- */

static bool read_key(const char *text, uint8_t ret[MT_WG_KEY_LEN])
{
    uint8_t key[MT_WG_KEY_LEN + 3];
    if (strlen(text) != 44 || mt_b64_decode(text, 44, key, sizeof key) != MT_WG_KEY_LEN)
        return false;
    memcpy(ret, key, MT_WG_KEY_LEN);
    return true;
}

/* Cut @line at tabs; returns how many fields there are. */
static size_t fields(char *line, char **ret, size_t max)
{
    size_t n = 0;
    for (char *at = line; n < max;) {
        ret[n++] = at;
        at = strchr(at, '\t');
        if (!at)
            break;
        *at++ = '\0';
    }
    return n;
}

static void read_allowed(char *text, struct mt_wg_peer *p)
{
    if (MT_STREQ(text, "(none)"))
        return;
    for (char *at = text; at;) {
        char *comma = strchr(at, ',');
        if (comma)
            *comma++ = '\0';
        char *slash = strchr(at, '/');
        uint64_t plen;
        if (slash)
            *slash++ = '\0';
        struct in6_addr addr;
        if (p->n_allowed >= MT_WG_ALLOWED_MAX || !slash || inet_pton(AF_INET6, at, &addr) != 1 || mt_parse_u64(slash, 0, 128, &plen, NULL) < 0)
            p->odd = true;
        else
            p->allowed[p->n_allowed++] = (struct mt_wg_allowed){.addr = addr, .plen = (uint8_t)plen};
        at = comma;
    }
}

static int read_peer(char *line, struct mt_wg_peer *p, struct mt_err *err)
{
    char *f[8];
    uint64_t handshake, keepalive = 0;
    if (fields(line, f, 8) != 8 || !read_key(f[0], p->key) || mt_parse_u64(f[4], 0, INT64_MAX, &handshake, NULL) < 0 ||
        mt_parse_u64(f[5], 0, UINT64_MAX, &p->rx_bytes, NULL) < 0 || mt_parse_u64(f[6], 0, UINT64_MAX, &p->tx_bytes, NULL) < 0 ||
        (!MT_STREQ(f[7], "off") && mt_parse_u64(f[7], 0, 65535, &keepalive, NULL) < 0))
        return MT_FAIL(err, MT_E_INVALID, "wg show: a peer's line is not understood");
    p->has_psk = !MT_STREQ(f[1], "(none)");
    if (!MT_STREQ(f[2], "(none)"))
        (void)snprintf(p->endpoint, sizeof p->endpoint, "%s", f[2]);
    read_allowed(f[3], p);
    p->handshake_s = (int64_t)handshake;
    p->keepalive = (uint16_t)keepalive;
    return 0;
}

static int read_device(char *line, struct mt_wg_device *d, struct mt_err *err)
{
    char *f[4];
    uint64_t port;
    if (fields(line, f, 4) != 4 || mt_parse_u64(f[2], 0, 65535, &port, NULL) < 0)
        return MT_FAIL(err, MT_E_INVALID, "wg show: the device's line is not understood");
    explicit_bzero(f[0], strlen(f[0]));
    d->has_key = read_key(f[1], d->public_key);
    d->port = (uint16_t)port;
    d->fwmark = !MT_STREQ(f[3], "off");
    return 0;
}

int mt_wg_parse(char *text, size_t len, struct mt_wg_device *ret, struct mt_err *err)
{
    struct mt_wg_device d = {0};
    size_t lines = 0;
    int rc = 0;

    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';
    if (lines == 0 || lines > PEERS_MAX || memchr(text, '\0', len))
        rc = MT_FAIL(err, MT_E_INVALID, "wg show: %zu lines", lines);
    if (rc == 0 && !(d.peers = calloc(lines, sizeof *d.peers)))
        rc = MT_FAIL(err, MT_E_NOMEM, "wg show: out of memory");
    bool first = true;
    for (char *at = text; rc == 0 && at < text + len;) {
        char *end = memchr(at, '\n', len - (size_t)(at - text));
        if (!end)
            break; /* half a line: not there */
        *end = '\0';
        rc = first ? read_device(at, &d, err) : read_peer(at, &d.peers[d.n++], err);
        first = false;
        at = end + 1;
    }
    if (rc < 0) {
        mt_wg_device_done(&d);
        return rc;
    }
    *ret = d;
    return 0;
}

void mt_wg_device_done(struct mt_wg_device *d)
{
    free(d->peers);
    *d = (struct mt_wg_device){0};
}

const struct mt_wg_peer *mt_wg_find(const struct mt_wg_device *d, const uint8_t key[MT_WG_KEY_LEN])
{
    for (size_t i = 0; i < d->n; i++) {
        if (memcmp(d->peers[i].key, key, MT_WG_KEY_LEN) == 0)
            return &d->peers[i];
    }
    return NULL;
}

/* ---- comparing --------------------------------------------------------------------------- */

static bool has_net(const struct mt_wg_peer *p, const struct in6_addr *addr, uint8_t plen)
{
    for (size_t i = 0; i < p->n_allowed; i++) {
        if (p->allowed[i].plen == plen && memcmp(&p->allowed[i].addr, addr, sizeof *addr) == 0)
            return true;
    }
    return false;
}

static void put_key(struct mt_buf *o, const uint8_t key[MT_WG_KEY_LEN])
{
    char text[MT_B64_SIZE(MT_WG_KEY_LEN)];
    (void)mt_b64_encode(key, MT_WG_KEY_LEN, text);
    mt_buf_printf(o, "peer\n%s\n", text);
}

static void put_allowed(struct mt_buf *o, const struct mt_mesh_peer *p)
{
    char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];
    (void)inet_ntop(AF_INET6, &p->addr, a, sizeof a);
    (void)inet_ntop(AF_INET6, &p->prefix, b, sizeof b);
    mt_buf_printf(o, "allowed-ips\n%s/128,%s/80\n", a, b);
}

static void compare_peer(const struct mt_mesh_peer *p, const uint8_t *key, const struct mt_wg_peer *h, int64_t now_ms, size_t endpoint, bool force,
                         struct mt_buf *o, struct mt_wg_diff *d)
{
    const char *to = p->n_endpoints ? p->endpoints[endpoint % p->n_endpoints] : "";
    bool fresh = h && h->handshake_s && now_ms / 1000 - h->handshake_s < MT_WG_FRESH_S;
    bool allowed = !h || h->odd || h->n_allowed != 2 || !has_net(h, &p->addr, 128) || !has_net(h, &p->prefix, 80);
    bool keepalive = h ? h->keepalive != p->keepalive : p->keepalive != 0;
    /* what WireGuard learned stands while it works; what nobody ever set does not */
    bool point = to[0] && (!h || !h->endpoint[0] || force || (!fresh && !MT_STREQ(h->endpoint, to)));

    if (!allowed && !keepalive && !point && !(h && h->has_psk))
        return;
    put_key(o, key);
    if (h && h->has_psk)
        mt_buf_puts(o, "preshared-key\n/dev/null\n");
    if (point)
        mt_buf_printf(o, "endpoint\n%s\n", to);
    if (keepalive)
        mt_buf_printf(o, "persistent-keepalive\n%u\n", (unsigned)p->keepalive);
    if (allowed)
        put_allowed(o, p);
    d->missing += !h;
    d->allowed += h && allowed;
    d->keepalive += h && keepalive;
    d->endpoint += h && point;
    d->psk += h && h->has_psk;
}

void mt_wg_compare(const struct mt_mesh_want *want, const struct mt_wg_device *have, int64_t now_ms, const char *key_path,
                   const uint8_t key[MT_WG_KEY_LEN], const uint8_t *endpoint, const bool *force, struct mt_buf *o, struct mt_wg_diff *ret_diff)
{
    struct mt_wg_diff d = {0};

    if (!have->has_key || memcmp(have->public_key, key, MT_WG_KEY_LEN) != 0) {
        mt_buf_printf(o, "private-key\n%s\n", key_path);
        d.key = 1;
    }
    if (have->port != want->port || have->fwmark) {
        mt_buf_printf(o, "listen-port\n%u\nfwmark\n0\n", (unsigned)want->port);
        d.port = 1;
    }
    /* a new peer takes its addresses from the old one, which goes last: there is no moment without either */
    for (size_t i = 0; i < want->n; i++) {
        const uint8_t *k = mt_mesh_key_at(&want->peers[i].key, now_ms);
        compare_peer(&want->peers[i], k, mt_wg_find(have, k), now_ms, endpoint ? endpoint[i] : 0, force && force[i], o, &d);
    }
    for (size_t i = 0; i < have->n; i++) {
        bool known = false;
        for (size_t k = 0; k < want->n && !known; k++)
            known = memcmp(mt_mesh_key_at(&want->peers[k].key, now_ms), have->peers[i].key, MT_WG_KEY_LEN) == 0;
        if (known)
            continue;
        put_key(o, have->peers[i].key);
        mt_buf_puts(o, "remove\n");
        d.foreign++;
    }
    *ret_diff = d;
}

/* ---- the program ------------------------------------------------------------------------- */

int mt_wg_show(const char *wg, const char *device, struct mt_wg_device *ret, struct mt_err *err)
{
    const char *const argv[] = {"wg", "show", device, "dump", NULL};
    struct mt_spawn s = {.path = wg, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(SHOW_MAX);
    int rc = mt_run_ok(&s, NULL, 0, &out, WG_TIMEOUT_MS, err);
    if (rc == 0 && out.len == 0)
        rc = MT_FAIL(err, MT_E_NOT_FOUND, "wg show '%s': no answer", device);
    if (rc == 0)
        rc = mt_wg_parse((char *)out.p, out.len, ret, err);
    return rc < 0 ? mt_err_wrap(err, "wg show") : 0;
}

int mt_wg_set(const char *wg, const char *device, struct mt_buf *args, struct mt_err *err)
{
    size_t n = 3;
    mt_auto_free const char **argv = calloc(ARGS_MAX + 4, sizeof *argv);
    if (!argv || mt_buf_check(args, err) < 0)
        return MT_FAIL(err, MT_E_NOMEM, "wg set: out of memory");
    argv[0] = "wg";
    argv[1] = "set";
    argv[2] = device;
    for (char *at = (char *)args->p, *end = at + args->len; at < end && n < ARGS_MAX + 3;) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop)
            break;
        *stop = '\0';
        argv[n++] = at;
        at = stop + 1;
    }
    if (n >= ARGS_MAX + 3)
        return MT_FAIL(err, MT_E_LIMIT, "wg set: more than %d arguments", ARGS_MAX);
    struct mt_spawn s = {.path = wg, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    int rc = mt_run_ok(&s, NULL, 0, NULL, WG_TIMEOUT_MS, err);
    return rc < 0 ? mt_err_wrap(err, "wg set") : 0;
}
