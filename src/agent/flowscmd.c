/* SPDX-License-Identifier: Apache-2.0 */
/* See flowscmd.h. */
#include "agent/flowscmd.h"

#include "agent/config.h"
#include "agent/net/flowring.h"
#include "agent/net/tally.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/sock.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

#define ASK_MS 10000

/* The agent writes down who reads, before anything is read. */
static int tell_agent(const char *socket, const struct mt_flow_filter *f, struct mt_err *err)
{
    char line[160], reply[512];
    mt_auto_fd int fd = -1;
    int rc = mt_sock_unix_connect(socket, &fd, err);
    if (rc == 0)
        rc = mt_sock_timeout(fd, ASK_MS, err);
    if (rc < 0)
        return mt_err_wrap(err, "the agent has to run: it records who reads");
    int n = snprintf(line, sizeof line, "{\"op\":\"flows-read\",\"since_us\":%lld,\"until_us\":%lld}\n", (long long)f->since_us, (long long)f->until_us);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "tell the agent of the reading");
    ssize_t got = recv(fd, reply, sizeof reply - 1, 0);
    reply[got > 0 ? got : 0] = '\0';
    return strstr(reply, "\"recorded\"") ? 0 : MT_FAIL(err, MT_E_DENIED, "the agent did not record the reading: %.200s", got > 0 ? reply : "no answer");
}

static const char *text6(const struct in6_addr *a, char ret[INET6_ADDRSTRLEN])
{
    return inet_ntop(AF_INET6, a, ret, INET6_ADDRSTRLEN);
}

static const char *proto_name(unsigned p, char ret[8])
{
    if (p == IPPROTO_TCP || p == IPPROTO_UDP || p == IPPROTO_ICMPV6)
        return p == IPPROTO_TCP ? "tcp" : p == IPPROTO_UDP ? "udp" : "icmp6";
    (void)snprintf(ret, 8, "%u", p & 0xffU);
    return ret;
}

static bool print(void *arg, const struct mt_flow_rec *r)
{
    char ts[MT_RFC3339_LEN], a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN], c[INET6_ADDRSTRLEN], proto[8];
    FILE *o = arg;
    (void)fprintf(o, "{\"ts\":\"%s\",", mt_rfc3339(r->ts_us, ts));
    switch ((enum mt_flow_kind)r->kind) {
    case MT_FLOW_NEW:
    case MT_FLOW_END:
        (void)fprintf(o, "\"kind\":\"%s\",\"proto\":\"%s\",\"vm\":\"%s\",\"vm_port\":%u,\"target\":\"%s\",\"target_port\":%u,\"seen_as\":\"%s\",\"seen_port\":%u}\n",
                      r->kind == MT_FLOW_NEW ? "new" : "end", proto_name(r->proto, proto), text6(&r->src, a), r->sport, text6(&r->dst, b), r->dport, text6(&r->nat, c),
                      r->nat_port);
        break;
    case MT_FLOW_COUNTS:
        (void)fprintf(o, "\"kind\":\"counts\",\"vm\":\"%s\",\"sent_bytes\":%llu,\"sent_packets\":%llu,\"received_bytes\":%llu,\"received_packets\":%llu,\"new_flows\":%u}\n",
                      text6(&r->src, a), (unsigned long long)r->v[0], (unsigned long long)r->v[1], (unsigned long long)r->v[2], (unsigned long long)r->v[3],
                      (unsigned)r->dport << 16 | r->sport);
        break;
    case MT_FLOW_DROPS:
        (void)fprintf(o, "\"kind\":\"drops\",\"vm\":\"%s\",\"rule\":\"%s\",\"packets\":%llu", text6(&r->src, a), mt_fw_rule_name((enum mt_fw_rule)r->proto),
                      (unsigned long long)r->v[0]);
        if (r->v[1])
            (void)fprintf(o, ",\"top_rejected_port\":\"%u/%s\"", r->nat_port, proto_name((unsigned)r->v[2], proto));
        (void)fputs("}\n", o);
        break;
    case MT_FLOW_READ:
        (void)fprintf(o, "\"kind\":\"read\",\"uid\":%llu,\"since\":\"%s\"}\n", (unsigned long long)r->v[0], mt_rfc3339((int64_t)r->v[1], ts));
        break;
    case MT_FLOW_LOST:
    case MT_FLOW_KIND_MAX:
    default:
        (void)fprintf(o, "\"kind\":\"lost\",\"times\":%llu}\n", (unsigned long long)r->v[0]);
    }
    return !ferror(o);
}

static int option(struct mt_flow_filter *f, const char *name, const char *value, struct mt_err *err)
{
    uint64_t port;
    int rc = -MT_E_INVALID;
    if (MT_STREQ(name, "--since"))
        rc = mt_rfc3339_parse(value, &f->since_us, err);
    else if (MT_STREQ(name, "--until"))
        rc = mt_rfc3339_parse(value, &f->until_us, err);
    else if (MT_STREQ(name, "--address"))
        rc = (f->has_address = inet_pton(AF_INET6, value, &f->address) == 1) ? 0 : MT_FAIL(err, MT_E_INVALID, "'%s' is not an IPv6 address", value);
    else if (MT_STREQ(name, "--port"))
        rc = mt_parse_u64(value, 1, 65535, &port, err) < 0 ? -MT_E_INVALID : (f->port = (uint16_t)port, 0);
    else
        (void)MT_FAIL(err, MT_E_INVALID, "flows knows --since, --until (2026-01-31T12:00:00Z), --address and --port, not '%s'", name);
    return rc;
}

int mt_flows_command(const char *config, int argc, char **argv)
{
    struct mt_agent_conf conf;
    struct mt_flow_filter f = {0};
    struct mt_err err = {0};
    int rc = mt_agent_conf_load(config, &conf, &err);
    if (rc < 0) {
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
        return 2;
    }
    for (int i = 0; rc == 0 && i < argc; i += 2)
        rc = i + 1 < argc ? option(&f, argv[i], argv[i + 1], &err) : MT_FAIL(&err, MT_E_INVALID, "'%s' needs a value", argv[i]);
    if (rc == 0 && !conf.flow_bytes)
        rc = MT_FAIL(&err, MT_E_NOT_FOUND, "no flows are recorded here: logs.flow_bytes is 0");
    if (rc == 0)
        rc = tell_agent(conf.admin_socket, &f, &err);
    if (rc == 0)
        rc = mt_flowring_read(conf.flows_dir, &f, print, stdout, &err);
    if (rc == 0 && fflush(stdout) != 0)
        rc = MT_FAIL_ERRNO(&err, MT_E_IO, "write");
    mt_agent_conf_done(&conf);
    if (rc < 0)
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
    return rc == 0 ? 0 : err.code == MT_E_INVALID ? 2 : 1;
}
