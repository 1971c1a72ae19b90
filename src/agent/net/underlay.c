/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/net/underlay.h"

#include "agent/mesh/pass.h"
#include "agent/net/tap.h"
#include "base/str.h"
#include "os/netlink.h"

#include <arpa/inet.h>
#include <net/if.h>

struct walk {
    struct mt_underlay_route *all; /* NULL: look for a clash */
    size_t max, n;
    const struct in6_addr *prefix;
    uint8_t plen;
    char *text;
};

/* A tap: "mt" and five hex digits. */
static bool is_ours(const char *link)
{
    return MT_STREQ(link, "lo") || MT_STREQ(link, MT_MESH_LINK) || (strlen(link) == 7 && strncmp(link, "mt", 2) == 0 && strspn(link + 2, "0123456789abcdef") == 5);
}

static bool on_route(void *arg, const struct mt_nl_route6 *r)
{
    struct walk *w = arg;
    char link[IF_NAMESIZE] = "?", addr[INET6_ADDRSTRLEN];
    bool nowhere = r->plen == 0 || !r->unicast || IN6_IS_ADDR_LINKLOCAL(&r->dst) || IN6_IS_ADDR_MULTICAST(&r->dst);
    /* the names of links are asked for what counts alone: a node of two thousand VMs has as many routes */
    if (nowhere || (!w->all && (r->plen < w->plen || !mt_net_inside6(&r->dst, w->prefix, w->plen))))
        return true;
    if (r->oif && if_indextoname(r->oif, link) && is_ours(link))
        return true;
    if (!w->all) {
        (void)snprintf(w->text, MT_UNDERLAY_TEXT, "%s/%u dev %s", inet_ntop(AF_INET6, &r->dst, addr, sizeof addr), r->plen, link);
        return false;
    }
    for (size_t i = 0; i < w->n; i++)
        if (w->all[i].plen == r->plen && memcmp(&w->all[i].dst, &r->dst, sizeof r->dst) == 0)
            return true;
    w->all[w->n++] = (struct mt_underlay_route){r->dst, r->plen};
    return w->n < w->max;
}

static int go(struct walk *w, struct mt_err *err)
{
    struct mt_nl *nl = NULL;
    int rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = mt_nl_routes6(nl, on_route, w, err);
    mt_nl_close(nl);
    return rc;
}

int mt_underlay_routes(struct mt_underlay_route *ret, size_t max, size_t *ret_n, struct mt_err *err)
{
    struct walk w = {.all = ret, .max = max};
    int rc = max ? go(&w, err) : 0;
    *ret_n = rc == 0 ? w.n : 0;
    return rc;
}

int mt_underlay_clash(const struct in6_addr *prefix, uint8_t plen, char ret_text[MT_UNDERLAY_TEXT], struct mt_err *err)
{
    struct walk w = {.prefix = prefix, .plen = plen, .text = ret_text};
    ret_text[0] = '\0';
    return go(&w, err);
}
