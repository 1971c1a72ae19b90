/* SPDX-License-Identifier: Apache-2.0 */
#include "os/dns.h"

#include "base/num.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <resolv.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ANSWER_MAX 4096 /* a reply that is longer comes cut, and then says nothing */
#define RECORDS_MAX 128 /* of an answer that are looked at */
#define RETRANS_S 2

static const int types[] = {[MT_DNS_A] = ns_t_a, [MT_DNS_AAAA] = ns_t_aaaa, [MT_DNS_TXT] = ns_t_txt};

int mt_dns_server_add(struct mt_dns_servers *s, const char *text, struct mt_err *err)
{
    char host[INET6_ADDRSTRLEN + 2];
    uint64_t port = 53;
    const char *end = text, *colon = strchr(text, ':');
    if (s->n == MT_DNS_SERVERS)
        return MT_FAIL(err, MT_E_LIMIT, "at most %d name servers are asked", MT_DNS_SERVERS);
    bool bracket = text[0] == '[';
    size_t len;
    if (bracket) {
        end = strchr(text, ']');
        len = end ? (size_t)(end - text) - 1 : sizeof host;
        text++;
        end = end ? end + 1 : "";
    } else {
        len = colon && !strchr(colon + 1, ':') ? (size_t)(colon - text) : strlen(text);
        end = text + len;
    }
    if (len >= sizeof host || (*end && (*end != ':' || mt_parse_u64(end + 1, 1, 65535, &port, err) < 0)))
        return MT_FAIL(err, MT_E_INVALID, "a name server is an address, or address:port with an IPv6 one in brackets");
    memcpy(host, text, len);
    host[len] = '\0';
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (!bracket && inet_pton(AF_INET, host, &in4.sin_addr) == 1)
        s->v[s->n++].in4 = in4;
    else if (inet_pton(AF_INET6, host, &in6.sin6_addr) == 1)
        s->v[s->n++].in6 = in6;
    else
        return MT_FAIL(err, MT_E_INVALID, "a name server is an address, or address:port with an IPv6 one in brackets");
    return 0;
}

/* ---------------------------------------------------------------- reading */

static void take_text(const ns_rr *rr, struct mt_dns_answer *a)
{
    const uint8_t *p = ns_rr_rdata(*rr), *end = p + ns_rr_rdlen(*rr);
    size_t n = 0;
    char *to = a->texts[a->n_texts];
    while (p < end) {
        size_t part = *p++;
        if (part > (size_t)(end - p) || n + part >= MT_DNS_TEXT || memchr(p, '\0', part)) {
            a->more = true;
            return;
        }
        memcpy(to + n, p, part);
        n += part;
        p += part;
    }
    to[n] = '\0';
    a->n_texts++;
}

static void take(const ns_rr *rr, enum mt_dns_type type, struct mt_dns_answer *a)
{
    const uint8_t *data = ns_rr_rdata(*rr);
    size_t len = ns_rr_rdlen(*rr), want = type == MT_DNS_A ? 4 : 16;
    if (type == MT_DNS_TXT) {
        if (a->n_texts < MT_DNS_TEXTS)
            take_text(rr, a);
        else
            a->more = true;
        return;
    }
    if (len != want || a->n_addrs == MT_DNS_ADDRS) {
        a->more = true;
        return;
    }
    struct in6_addr *to = &a->addrs[a->n_addrs++];
    *to = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
    memcpy(to->s6_addr + 16 - len, data, len);
}

static int bad(struct mt_err *err)
{
    return MT_FAIL(err, MT_E_CORRUPT, "the name server's answer cannot be read");
}

int mt_dns_read(const uint8_t *reply, size_t len, const char *name, enum mt_dns_type type, struct mt_dns_answer *ret, struct mt_err *err)
{
    char want[NS_MAXDNAME], alias[NS_MAXDNAME];
    ns_msg m;
    ns_rr rr;
    *ret = (struct mt_dns_answer){0};
    if (len > ANSWER_MAX || ns_initparse(reply, (int)len, &m) < 0)
        return bad(err);
    if (!ns_msg_getflag(m, ns_f_qr) || ns_msg_getflag(m, ns_f_opcode) != ns_o_query)
        return bad(err);
    int rcode = ns_msg_getflag(m, ns_f_rcode);
    if (rcode == ns_r_nxdomain)
        return 0;
    if (rcode != ns_r_noerror)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "the name server could not say what '%.200s' has (code %d)", name, rcode);
    if (ns_msg_getflag(m, ns_f_tc))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "'%.200s' has more than an answer holds", name);
    if (mt_fmt(want, sizeof want, err, "%s", name) < 0)
        return -(int)err->code;
    int n = ns_msg_count(m, ns_s_an);
    ret->more = n > RECORDS_MAX;
    /* In order: an alias comes before what it stands for. */
    for (int i = 0; i < n && i < RECORDS_MAX; i++) {
        if (ns_parserr(&m, ns_s_an, i, &rr) < 0)
            return bad(err);
        if (ns_rr_class(rr) != ns_c_in || strcasecmp(ns_rr_name(rr), want) != 0)
            continue;
        if ((int)ns_rr_type(rr) == types[type]) {
            take(&rr, type, ret);
        } else if (ns_rr_type(rr) == ns_t_cname) {
            if (dn_expand(ns_msg_base(m), ns_msg_end(m), ns_rr_rdata(rr), alias, sizeof alias) < 0)
                return bad(err);
            memcpy(want, alias, sizeof want);
        }
    }
    return 0;
}

/* ---------------------------------------------------------------- asking */

/* In place of those of /etc/resolv.conf. An IPv6 one is marked by the family 0 of its IPv4 place, and owned by the state. */
static int set_servers(res_state st, const struct mt_dns_servers *s, struct mt_err *err)
{
    for (size_t i = 0; i < MAXNS; i++) {
        free(st->_u._ext.nsaddrs[i]);
        st->_u._ext.nsaddrs[i] = NULL;
    }
    for (size_t i = 0; i < s->n; i++) {
        if (s->v[i].sa.sa_family == AF_INET) {
            st->nsaddr_list[i] = s->v[i].in4;
            continue;
        }
        st->nsaddr_list[i].sin_family = 0;
        struct sockaddr_in6 *in6 = malloc(sizeof *in6);
        if (!in6)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a name server");
        *in6 = s->v[i].in6;
        st->_u._ext.nsaddrs[i] = in6;
    }
    st->nscount = (int)s->n;
    return 0;
}

int mt_dns_ask(const struct mt_dns_servers *s, const char *name, enum mt_dns_type type, struct mt_dns_answer *ret, struct mt_err *err)
{
    struct __res_state st;
    uint8_t reply[ANSWER_MAX];
    memset(&st, 0, sizeof st);
    if (res_ninit(&st) < 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "the system's resolver does not start");
    int rc = s->n ? set_servers(&st, s, err) : 0;
    st.retrans = RETRANS_S;
    st.retry = 2;
    /* TCP has no deadline here; what is asked for fits into a datagram with EDNS. */
    st.options = (st.options & ~(unsigned long)(RES_USEVC | RES_ROTATE)) | RES_IGNTC | RES_USE_EDNS0 | RES_NOALIASES;
    int n = rc == 0 ? res_nquery(&st, name, ns_c_in, types[type], reply, sizeof reply) : 0;
    int why = st.res_h_errno, sys = errno;
    res_nclose(&st);
    if (rc < 0)
        return rc;
    if (n >= 0)
        return mt_dns_read(reply, (size_t)n, name, type, ret, err);
    *ret = (struct mt_dns_answer){0};
    if (why == HOST_NOT_FOUND || why == NO_DATA)
        return 0;
    if (why == NO_RECOVERY && sys == EMSGSIZE)
        return MT_FAIL(err, MT_E_INVALID, "'%.200s' is no host name", name);
    return MT_FAIL(err, sys == ETIMEDOUT || why == TRY_AGAIN ? MT_E_TIMEOUT : MT_E_UNAVAILABLE, "no name server said what '%.200s' has", name);
}
