/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In the place of wireguard-go for a mesh of many nodes: the configuration path alone. A real link and the real configuration socket
 * (https://www.wireguard.com/xplatform/), so that agent, wg(8), routes and firewall do all that they do, but no packet leaves: an echo to an
 * address that belongs to a peer is answered here, and each peer with an endpoint is said to have shaken hands just now. Nothing that is
 * shown with it says that nodes reach each other; what it shows is who was told what, and when.
 *
 *   wg_record -f LINK           ends with its link, as wireguard-go does
 *
 * /run/wireguard/LINK.record has one line of JSON for each set: at_ms (since 1970), added, removed, changed (peers), key (was the own one set), peers (so many now).
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { PEERS = 256, NETS = 4, HEX = 64, TEXT = 128, LIMIT_MS = 5000 };

struct net {
    uint8_t addr[16];
    unsigned plen; /* IPv6 only: what moat's mesh is made of */
};

struct peer {
    char key[HEX + 1], endpoint[TEXT];
    unsigned keepalive, nets;
    struct net net[NETS];
};

static struct peer peers[PEERS];
static unsigned n_peers;
static char own_key[HEX + 1];
static unsigned port, fwmark;
static FILE *record;

struct change {
    unsigned added, removed, changed;
    bool key;
};

static bool within(const struct net *n, const uint8_t addr[16])
{
    for (unsigned bit = 0; bit < n->plen; bit += 8) {
        unsigned left = n->plen - bit;
        unsigned mask = left >= 8 ? 0xffU : (0xff00U >> left) & 0xffU;
        if (((unsigned)n->addr[bit / 8] ^ (unsigned)addr[bit / 8]) & mask)
            return false;
    }
    return true;
}

/* ---- the configuration socket ------------------------------------------------------------ */

static struct peer *find(const char *key)
{
    for (unsigned i = 0; i < n_peers; i++) {
        if (strcmp(peers[i].key, key) == 0)
            return &peers[i];
    }
    return NULL;
}

static void forget(struct peer *p)
{
    *p = peers[--n_peers];
}

/* An address belongs to one peer: the last that was given it. */
static bool allow(struct peer *p, const char *text)
{
    struct net n = {.plen = 128};
    char addr[TEXT];
    const char *slash = strchr(text, '/');
    (void)snprintf(addr, sizeof addr, "%.*s", slash ? (int)(slash - text) : (int)strlen(text), text);
    if (slash)
        n.plen = (unsigned)strtoul(slash + 1, NULL, 10);
    if (inet_pton(AF_INET6, addr, n.addr) != 1 || n.plen > 128 || p->nets == NETS)
        return false;
    for (unsigned i = 0; i < n_peers; i++) {
        for (unsigned k = peers[i].nets; k-- > 0;) {
            if (memcmp(&peers[i].net[k], &n, sizeof n) == 0)
                peers[i].net[k] = peers[i].net[--peers[i].nets];
        }
    }
    p->net[p->nets++] = n;
    return true;
}

static bool set_peer(struct peer **at, const char *value, struct change *c)
{
    *at = find(value);
    c->changed += *at != NULL;
    if (!*at && n_peers < PEERS && strlen(value) == HEX) {
        *at = &peers[n_peers++];
        **at = (struct peer){.keepalive = 0};
        memcpy((*at)->key, value, HEX + 1);
        c->added++;
    }
    return *at != NULL;
}

static bool set_line(const char *name, const char *value, struct peer **at, struct change *c)
{
    if (strcmp(name, "public_key") == 0)
        return set_peer(at, value, c);
    if (!*at) {
        if (strcmp(name, "private_key") == 0) {
            c->key = true;
            return snprintf(own_key, sizeof own_key, "%s", value) == HEX;
        }
        if (strcmp(name, "listen_port") == 0)
            port = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(name, "fwmark") == 0)
            fwmark = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(name, "replace_peers") == 0)
            n_peers = 0;
        else
            return false;
        return true;
    }
    if (strcmp(name, "remove") == 0) {
        struct peer *gone = *at;
        c->changed--;
        c->removed++;
        forget(gone);
        *at = NULL;
    } else if (strcmp(name, "endpoint") == 0) {
        return snprintf((*at)->endpoint, sizeof (*at)->endpoint, "%s", value) < TEXT;
    } else if (strcmp(name, "persistent_keepalive_interval") == 0) {
        (*at)->keepalive = (unsigned)strtoul(value, NULL, 10);
    } else if (strcmp(name, "replace_allowed_ips") == 0) {
        (*at)->nets = 0;
    } else if (strcmp(name, "allowed_ip") == 0) {
        return allow(*at, value);
    } else {
        return strcmp(name, "preshared_key") == 0 || strcmp(name, "update_only") == 0 || strcmp(name, "protocol_version") == 0;
    }
    return true;
}

static void get(FILE *f)
{
    char addr[INET6_ADDRSTRLEN];
    if (own_key[0])
        (void)fprintf(f, "private_key=%s\n", own_key);
    (void)fprintf(f, "listen_port=%u\n", port);
    if (fwmark)
        (void)fprintf(f, "fwmark=%u\n", fwmark);
    for (unsigned i = 0; i < n_peers; i++) {
        const struct peer *p = &peers[i];
        (void)fprintf(f, "public_key=%s\nprotocol_version=1\n", p->key);
        if (p->endpoint[0])
            (void)fprintf(f, "endpoint=%s\nlast_handshake_time_sec=%lld\nlast_handshake_time_nsec=0\n", p->endpoint, (long long)time(NULL));
        (void)fprintf(f, "tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=%u\n", p->keepalive);
        for (unsigned k = 0; k < p->nets; k++)
            (void)fprintf(f, "allowed_ip=%s/%u\n", inet_ntop(AF_INET6, p->net[k].addr, addr, sizeof addr), p->net[k].plen);
    }
    (void)fprintf(f, "errno=0\n\n");
}

/* A connection may ask more than once; each question ends with an empty line. */
static void serve(int fd)
{
    char line[512];
    struct timeval limit = {.tv_sec = LIMIT_MS / 1000};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    FILE *f = fdopen(fd, "r+");
    bool setting = false, good = true;
    struct peer *at = NULL;
    struct change c = {0};
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, '=');
        if (value)
            *value++ = '\0';
        if (strcmp(line, "get") == 0 || strcmp(line, "set") == 0) {
            setting = line[0] == 's';
            good = true;
            at = NULL;
            c = (struct change){0};
        } else if (value) {
            good = setting && set_line(line, value, &at, &c) && good;
        } else if (line[0] == '\0' && setting) {
            struct timespec now;
            (void)clock_gettime(CLOCK_REALTIME, &now);
            (void)fprintf(record, "{\"at_ms\": %lld, \"added\": %u, \"removed\": %u, \"changed\": %u, \"key\": %s, \"peers\": %u, \"good\": %s}\n",
                          (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000, c.added, c.removed, c.changed, c.key ? "true" : "false", n_peers, good ? "true" : "false");
            (void)fprintf(f, "errno=%d\n\n", good ? 0 : 22);
        } else if (line[0] == '\0') {
            get(f);
        }
        if (!value)
            (void)fflush(f);
    }
    if (f)
        (void)fclose(f);
}

/* ---- the link ---------------------------------------------------------------------------- */

/* The answer to an echo request, in its place: addresses change sides, which leaves their sum; the type is one more. */
static void answer(int tun, uint8_t *p, ssize_t len)
{
    uint8_t addr[16];
    bool known = false;
    if (len < 48 || p[0] >> 4 != 6 || p[6] != IPPROTO_ICMPV6 || p[40] != 128)
        return;
    for (unsigned i = 0; i < n_peers && !known; i++) {
        for (unsigned k = 0; k < peers[i].nets && !known; k++)
            known = within(&peers[i].net[k], p + 24);
    }
    if (!known)
        return;
    memcpy(addr, p + 8, 16);
    memcpy(p + 8, p + 24, 16);
    memcpy(p + 24, addr, 16);
    p[40] = 129;
    uint32_t sum = (uint32_t)(p[42] << 8 | p[43]) + 0xfeffU; /* minus 0x0100, as one's complement has it, of the complement */
    sum = (sum & 0xffff) + (sum >> 16);
    p[42] = (uint8_t)(sum >> 8);
    p[43] = (uint8_t)sum;
    (void)!write(tun, p, (size_t)len);
}

int main(int argc, char **argv)
{
    static uint8_t packet[65536];
    struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char path[sizeof at.sun_path];

    if (argc != 3 || strcmp(argv[1], "-f") != 0 || strlen(argv[2]) >= sizeof r.ifr_name)
        return 2;
    (void)snprintf(r.ifr_name, sizeof r.ifr_name, "%s", argv[2]);
    (void)snprintf(path, sizeof path, "/run/wireguard/%s.record", argv[2]);
    (void)snprintf(at.sun_path, sizeof at.sun_path, "/run/wireguard/%s.sock", argv[2]);
    record = fopen(path, "ae");
    int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC), s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!record || tun == -1 || s == -1 || ioctl(tun, TUNSETIFF, &r) == -1) {
        perror("wg_record");
        return 1;
    }
    (void)setvbuf(record, NULL, _IOLBF, 0);
    (void)unlink(at.sun_path);
    if (bind(s, (struct sockaddr *)&at, sizeof at) == -1 || listen(s, 8) == -1) {
        perror("wg_record: socket");
        return 1;
    }
    for (;;) {
        struct pollfd p[] = {{.fd = tun, .events = POLLIN}, {.fd = s, .events = POLLIN}};
        if (poll(p, 2, -1) == -1)
            continue;
        if (p[0].revents) {
            ssize_t n = read(tun, packet, sizeof packet);
            if (n == -1)
                break; /* the link is gone */
            answer(tun, packet, n);
        }
        if (p[1].revents) {
            int c = accept4(s, NULL, NULL, SOCK_CLOEXEC);
            if (c != -1)
                serve(c);
        }
    }
    (void)unlink(at.sun_path);
    return 0;
}
