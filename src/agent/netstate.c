/* SPDX-License-Identifier: Apache-2.0 */
/* The node's own network state. See netstate.h; networking.md §4, §5, rulings R28, R29. */
#include "agent/netstate.h"

#include "agent/control.h"
#include "agent/instance/inst.h"
#include "agent/instance/state.h"
#include "agent/mesh/mesh.h"
#include "agent/net/tap.h"
#include "agent/remote.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "model/mesh.h"

#include <arpa/inet.h>
#include <fcntl.h>

#define MTU_DEFAULT 1420
#define HOST_JSON_MAX 65536
#define ADDRS_MAX 256
#define UNDERLAY_MAX 1024
#define PUBLIC4_MAX 4096
#define PRIVATE6_MAX 16384 /* pairs of VMs and port */
#define FORWARDING "/proc/sys/net/ipv6/conf/all/forwarding"
#define FORWARDING4 "/proc/sys/net/ipv4/ip_forward"
#define ROOM "/proc/sys/net/netfilter/nf_conntrack_max"
#define ROOM_BASE 262144U /* flows, and more for each VM: networking.md §4 */
#define ROOM_PER_VM 512U
#define ROOM_STEP 64 /* VMs; so the network is looked at anew for one in as many */

struct net_job {
    struct mt_agent *a;
    struct mt_fw_conf fw;
    const char *edges[ADDRS_MAX + 1], *gateways[ADDRS_MAX + 1], *underlay[UNDERLAY_MAX + 1], *quarantine[MT_PLAN_INSTANCES_MAX + 1], *own4[MT_PLAN_IPV4_MAX + 1], *public4[PUBLIC4_MAX + 1], *private6[PRIVATE6_MAX + 1], *edge_ports[MT_PLAN_EDGE_PORTS + 1];
    char *texts[2 * ADDRS_MAX + UNDERLAY_MAX + MT_PLAN_INSTANCES_MAX + MT_PLAN_IPV4_MAX + PUBLIC4_MAX + PRIVATE6_MAX + MT_PLAN_EDGE_PORTS];
    size_t texts_n;
    struct mt_node_net net;
    bool forward;
    size_t vms; /* that there is to be room for */
    bool in_mesh; /* the overlay address is on the mesh's device (ruling R29) */
    int rc;
    struct mt_err err;
};

/* ---- host.json: what was ours to change -------------------------------------------------- */

static int host_path(const struct mt_agent *a, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/host.json", a->conf.agent_dir);
}

static json_t *host_load(const struct mt_agent *a)
{
    char path[PATH_MAX];
    json_t *doc = NULL;
    struct mt_err err;
    if (host_path(a, path, &err) < 0 || mt_sealed_load(path, HOST_JSON_MAX, &doc, &err) < 0)
        doc = json_object();
    /* facts of another boot of the host are gone with it */
    const char *boot = json_string_value(json_object_get(doc, "host_boot"));
    if (doc && (!boot || strcmp(boot, a->host_boot) != 0)) {
        (void)json_object_clear(doc);
        (void)json_object_set_new(doc, "host_boot", json_string(a->host_boot));
    }
    return doc;
}

static int host_save(const struct mt_agent *a, const json_t *doc, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = host_path(a, path, err);
    return rc < 0 ? rc : mt_sealed_save(path, doc, err);
}

/* Remember @key = @value unless something is remembered already. Returns 1 when it is new. */
static int remember(const struct mt_agent *a, const char *key, const char *value, struct mt_err *err)
{
    json_t *doc = host_load(a);
    int rc = 0;
    if (!doc)
        return MT_FAIL(err, MT_E_NOMEM, "host.json: out of memory");
    if (!json_object_get(doc, key)) {
        rc = json_object_set_new(doc, key, json_string(value)) < 0 ? MT_FAIL(err, MT_E_NOMEM, "host.json: out of memory")
                                                                   : host_save(a, doc, err);
        rc = rc < 0 ? rc : 1;
    }
    json_decref(doc);
    return rc;
}

static bool remembered(const struct mt_agent *a, const char *key)
{
    json_t *doc = host_load(a);
    bool yes = json_object_get(doc, key) != NULL;
    json_decref(doc);
    return yes;
}

/* ---- applying ---------------------------------------------------------------------------- */

static int sysctl_read(const char *path, char ret[16])
{
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, 15);
    if (n <= 0)
        return -1;
    ret[n] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
    return 0;
}

static int sysctl_write(const char *path, const char *value, struct mt_err *err)
{
    mt_auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set '%s'", path);
    return 0;
}

/* Links that live on router advertisements must go on accepting them once the host forwards. */
static int keep_ra(const struct mt_agent *a, struct mt_err *err)
{
    mt_auto_dir DIR *d = opendir("/proc/sys/net/ipv6/conf");
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '/proc/sys/net/ipv6/conf'");
    for (struct dirent *e; (e = readdir(d));) {
        char path[PATH_MAX], value[16];
        if (e->d_name[0] == '.' || strcmp(e->d_name, "all") == 0 || strcmp(e->d_name, "default") == 0 ||
            strcmp(e->d_name, "lo") == 0 || strncmp(e->d_name, "mt", 2) == 0)
            continue;
        if (mt_fmt(path, sizeof path, NULL, "/proc/sys/net/ipv6/conf/%s/accept_ra", e->d_name) < 0 ||
            sysctl_read(path, value) < 0 || strcmp(value, "1") != 0)
            continue;
        int rc = remember(a, path, value, err);
        if (rc < 0 || (rc = sysctl_write(path, "2", err)) < 0)
            return rc;
    }
    return 0;
}

static int forward_on(const struct mt_agent *a, struct mt_err *err)
{
    char now[16];
    if (sysctl_read(FORWARDING, now) < 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "this host has no IPv6");
    if (strcmp(now, "1") == 0)
        return 0;
    int rc = keep_ra(a, err);
    if (rc == 0)
        rc = remember(a, FORWARDING, now, err);
    if (rc < 0)
        return rc;
    return sysctl_write(FORWARDING, "1", err);
}

/* No IPv4 passes through a node that is ours (networking.md §4): the table drops it, and this holds should the table ever be gone. */
static int forward4_off(const struct mt_agent *a, struct mt_err *err)
{
    char now[16];
    if (sysctl_read(FORWARDING4, now) < 0 || strcmp(now, "0") == 0)
        return 0;
    int rc = remember(a, FORWARDING4, now, err);
    if (rc < 0 || (rc = sysctl_write(FORWARDING4, "0", err)) < 0)
        return rc;
    mt_log(MT_WARN, "network.ipv4_forwarding_off", KV("means", "this host forwarded IPv4; a node with host_firewall = \"full\" does not"));
    return 0;
}

/* Room for the flows of all VMs beside the host's own, on a node that is ours: raised where it is less, never lowered before the end. After the
 * table was loaded, which brings the kernel's part of it. The number is the whole machine's: in another network namespace than the first it stays. */
static void room_for_flows(const struct mt_agent *a, size_t vms)
{
    char now[16], text[24];
    uint64_t have, wish = ROOM_BASE + (uint64_t)ROOM_PER_VM * vms;
    struct mt_err err = {0};
    if (access(ROOM, W_OK) < 0 || sysctl_read(ROOM, now) < 0 || mt_parse_u64(now, 0, UINT32_MAX, &have, NULL) < 0 || have == 0 || have >= wish)
        return;
    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)wish);
    if (remember(a, ROOM, now, &err) < 0 || sysctl_write(ROOM, text, &err) < 0)
        mt_log(MT_WARN, "network.room_not_made", KV("flows", wish), KV("have", have), KV_ERR(&err));
    else
        mt_log(MT_INFO, "network.room_made", KV("flows", wish), KV("had", have));
}

/* An address of this node on `lo`. One that somebody else put there is used, and left there at the end. */
static int on_lo(struct mt_agent *a, const struct in6_addr *address, const char *what, bool wanted, struct mt_err *err)
{
    char addr[INET6_ADDRSTRLEN], key[64];
    bool there = false;
    (void)snprintf(key, sizeof key, "lo %s", inet_ntop(AF_INET6, address, addr, sizeof addr));
    if (!wanted)
        return remembered(a, key) ? mt_node_addr_del(address, err) : 0;
    int rc = mt_node_addr_has(address, &there, err);
    if (rc == 0 && !there && (rc = remember(a, key, what, err)) >= 0)
        rc = mt_node_addr_add(address, err);
    return rc;
}

static int apply(struct net_job *j)
{
    struct mt_agent *a = j->a;
    char text[64];

    if (j->net.has_node && on_lo(a, &j->net.node, "address", !j->in_mesh, &j->err) < 0)
        return -1;
    if (j->net.has_resolver && on_lo(a, &j->net.resolver, "resolver", true, &j->err) < 0)
        return -1;
    if (j->net.has_prefix) {
        char addr[INET6_ADDRSTRLEN];
        (void)inet_ntop(AF_INET6, &j->net.prefix, addr, sizeof addr);
        (void)snprintf(text, sizeof text, "route %s/%u", addr, j->net.prefix_len);
        if (remember(a, text, "blackhole", &j->err) < 0 ||
            mt_node_prefix_set(&j->net.prefix, j->net.prefix_len, &j->err) < 0)
            return -1;
    }
    if (remember(a, "nft_table", "moat", &j->err) < 0 || mt_fw_load(a->fw, &j->fw, &j->err) < 0)
        return -1;
    if (j->fw.mode == MT_FW_FULL) {
        room_for_flows(a, j->vms);
        if (forward4_off(a, &j->err) < 0)
            return -1;
    }
    return j->forward ? forward_on(a, &j->err) : 0;
}

static void net_work(void *arg)
{
    struct net_job *j = arg;
    j->rc = apply(j);
}

static void job_free(struct net_job *j)
{
    for (size_t i = 0; i < j->texts_n; i++)
        free(j->texts[i]);
    free(j);
}

static void net_done(void *arg)
{
    struct net_job *j = arg;
    struct mt_agent *a = j->a;

    a->fw_loading = false;
    if (j->rc < 0) {
        mt_log(MT_ERROR, "network.not_loaded", KV_ERR(&j->err));
        a->fw_loaded = false; /* VM starts are blocked; the drift pass tries again */
    } else {
        if (!a->fw_loaded)
            mt_log(MT_INFO, "network.loaded", KV("mode", a->conf.host_firewall), KV("egress", j->fw.egress_mode));
        if (!a->fw_loaded)
            mt_control_beat_now(a->control);
        if (!a->fw_loaded && strcmp(a->conf.host_firewall, "full") == 0)
            mt_control_repoll(a->control);
        a->fw_loaded = true;
        mt_agent_look_soon(a);
    }
    job_free(j);
    if (a->fw_again) {
        a->fw_again = false;
        mt_netstate_load(a);
    }
}

static void copy_addrs(struct net_job *j, const struct mt_strings *from, size_t max, const char **to)
{
    struct in6_addr addr;
    size_t n = 0;
    for (size_t i = 0; i < from->n && n < max; i++) {
        /* what goes into the rule text is an address, nothing else */
        if (inet_pton(AF_INET6, from->v[i], &addr) != 1)
            continue;
        char *copy = mt_strndup(from->v[i], strlen(from->v[i]));
        if (!copy)
            break;
        j->texts[j->texts_n++] = copy;
        to[n++] = copy;
    }
}

/* IPv6 addresses of the other nodes outside the mesh; IPv4 ones are out of a VM's reach anyway. */
static void copy_underlay(struct net_job *j, const struct mt_plan_network *n)
{
    char text[INET6_ADDRSTRLEN];
    size_t count = 0;
    for (size_t i = 0; i < n->n_peers; i++) {
        for (size_t k = 0; k < n->peers[i].endpoints.n && count < UNDERLAY_MAX; k++) {
            struct sockaddr_storage ss;
            socklen_t len;
            if (mt_mesh_endpoint_parse(n->peers[i].endpoints.v[k], &ss, &len, NULL) < 0 || ss.ss_family != AF_INET6)
                continue;
            (void)inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&ss)->sin6_addr, text, sizeof text);
            char *copy = mt_strndup(text, strlen(text));
            if (!copy)
                return;
            j->texts[j->texts_n++] = copy;
            j->underlay[count++] = copy;
        }
    }
}

static const char *keep_text(struct net_job *j, const char *text)
{
    char *copy = mt_strndup(text, strlen(text));
    if (copy)
        j->texts[j->texts_n++] = copy;
    return copy;
}

/* Decoded as addresses and ports; those that are being given back are still ours, without ports. */
static void copy_ipv4(struct net_job *j, const struct mt_plan_network *n)
{
    size_t open = 0, own = 0;
    for (size_t i = 0; i < n->n_ipv4; i++) {
        const struct mt_plan_ipv4 *v = &n->ipv4[i];
        if ((j->own4[own] = keep_text(j, v->address)) != NULL)
            own++;
        for (size_t k = 0; !v->until_unix_ms && k < v->n_ports && open < PUBLIC4_MAX; k++) {
            char text[40];
            (void)snprintf(text, sizeof text, "%s . %u", v->address, (unsigned)v->ports[k]);
            if ((j->public4[open] = keep_text(j, text)) != NULL)
                open++;
        }
    }
    j->fw.own4 = j->own4;
    j->fw.public4 = j->public4;
}

static void copy_edge_ports(struct net_job *j, const struct mt_plan_network *n)
{
    size_t count = 0;
    for (size_t i = 0; i < n->n_edge_ports; i++) {
        char text[8];
        (void)snprintf(text, sizeof text, "%u", (unsigned)n->edge_ports[i]);
        if ((j->edge_ports[count] = keep_text(j, text)) != NULL)
            count++;
    }
    j->fw.edge_ports = j->edge_ports;
}

static bool is_here(const struct mt_node_net *net, const char *address)
{
    struct in6_addr a;
    return net->has_prefix && net->prefix_len == 80 && inet_pton(AF_INET6, address, &a) == 1 && memcmp(&a, &net->prefix, 10) == 0;
}

/* Each pair of one environment of which at least one is here. */
static void copy_private(struct net_job *j, const struct mt_plan_network *n)
{
    size_t count = 0, first = 0;
    bool cut = false;
    for (size_t i = 0; i < n->n_private; i++) {
        const struct mt_plan_private *to = &n->private[i];
        bool here = is_here(&j->net, to->address);
        if (strcmp(n->private[first].env_id, to->env_id) != 0)
            first = i;
        for (size_t k = first; k < n->n_private && strcmp(n->private[k].env_id, to->env_id) == 0; k++) {
            if (k == i || (!here && !is_here(&j->net, n->private[k].address)))
                continue;
            for (size_t p = 0; p < to->n_ports; p++) {
                char text[2 * INET6_ADDRSTRLEN + 16];
                (void)snprintf(text, sizeof text, "%s . %s . %u", n->private[k].address, to->address, (unsigned)to->ports[p]);
                cut = cut || count == PRIVATE6_MAX;
                if (count < PRIVATE6_MAX && (j->private6[count] = keep_text(j, text)) != NULL)
                    count++;
            }
        }
    }
    if (cut)
        mt_log(MT_ERROR, "network.private_cut", KV("pairs", (uint64_t)PRIVATE6_MAX), KV("mend", "fewer instances of environments with private_network on one node"));
    j->fw.private6 = j->private6;
}

static void open_ports(const struct mt_agent *a, struct mt_fw_conf *fw)
{
    static const uint16_t usual[] = {9460, 9463, 9464}; /* control plane, edge, agent: docs/metrics.md */
    const char *own = a->conf.listen_metrics ? strrchr(a->conf.listen_metrics, ':') : NULL;
    uint64_t port;
    for (size_t i = 0; i < a->conf.firewall_open.n && fw->open_count < MT_ARRAY_LEN(fw->open); i++)
        fw->open_count += mt_fw_ports_parse(a->conf.firewall_open.v[i], &fw->open[fw->open_count], NULL) == 0;
    for (size_t i = 0; i < a->conf.metrics_scrapers.n && fw->scrapers_count < MT_FW_SCRAPERS_MAX; i++)
        (void)snprintf(fw->scrapers[fw->scrapers_count++], sizeof fw->scrapers[0], "%s", a->conf.metrics_scrapers.v[i]);
    for (size_t i = 0; i < MT_ARRAY_LEN(usual); i++)
        fw->metrics_ports[fw->metrics_ports_count++] = usual[i];
    if (own && mt_parse_u64(own + 1, 1, 65535, &port, NULL) == 0 && port != 9460 && port != 9463 && port != 9464)
        fw->metrics_ports[fw->metrics_ports_count++] = (uint16_t)port;
}

/* Prefixes as the kernel keeps them, without bits of hosts: checked when the file was read. */
static void egress_limits(const struct mt_agent *a, struct mt_fw_conf *fw)
{
    const struct mt_agent_conf *c = &a->conf;
    fw->flows = (uint32_t)c->flows_per_vm;
    fw->new_flows = (uint32_t)c->new_flows_per_vm;
    fw->new_flows_burst = (uint32_t)c->new_flows_burst;
    for (size_t i = 0; i < c->blocked_ports.n && fw->blocked_ports_count < MT_FW_BLOCKED_MAX; i++)
        fw->blocked_ports_count += mt_fw_ports_parse(c->blocked_ports.v[i], &fw->blocked_ports[fw->blocked_ports_count], NULL) == 0;
    for (size_t i = 0; i < c->blocked_prefixes.n && fw->blocked6_count < MT_FW_BLOCKED_MAX; i++) {
        struct in6_addr net;
        uint8_t plen;
        char text[INET6_ADDRSTRLEN];
        if (mt_net_parse6(c->blocked_prefixes.v[i], true, &net, &plen, NULL) == 0)
            (void)snprintf(fw->blocked6[fw->blocked6_count++], sizeof fw->blocked6[0], "%s/%u", inet_ntop(AF_INET6, &net, text, sizeof text), plen);
    }
}

void mt_netstate_load(struct mt_agent *a)
{
    const struct mt_plan *p = a->plan;
    if (!p || a->quitting)
        return;
    if (a->fw_loading) {
        a->fw_again = true;
        return;
    }
    struct net_job *j = calloc(1, sizeof *j);
    if (!j)
        return;
    const struct mt_plan_network *n = &p->network;
    j->a = a;
    j->net = a->net;
    j->vms = a->room_vms;
    j->fw.mode = strcmp(a->conf.host_firewall, "taps") == 0 ? MT_FW_TAPS : MT_FW_FULL;
    if (j->fw.mode == MT_FW_FULL && !a->fw_loaded)
        mt_log(MT_WARN, "network.full_firewall", KV("means", "the host's input policy becomes drop; table inet moat"));
    if (a->net.has_cluster)
        (void)snprintf(j->fw.cluster_prefix, sizeof j->fw.cluster_prefix, "%s", n->cluster_prefix);
    if (a->net.has_prefix) {
        char addr[INET6_ADDRSTRLEN];
        (void)snprintf(j->fw.own_prefix, sizeof j->fw.own_prefix, "%s/%u", inet_ntop(AF_INET6, &a->net.prefix, addr, sizeof addr), a->net.prefix_len);
    }
    const char *egress = a->conf.egress_mode[0] ? a->conf.egress_mode : n->egress_mode ? n->egress_mode : "none";
    (void)snprintf(j->fw.egress_mode, sizeof j->fw.egress_mode, "%s", egress);
    (void)snprintf(j->fw.nat64_prefix, sizeof j->fw.nat64_prefix, "%s", a->conf.nat64_prefix);
    (void)snprintf(j->fw.resolver, sizeof j->fw.resolver, "%s", a->conf.resolver);
    copy_addrs(j, &n->edges, ADDRS_MAX, j->edges);
    copy_addrs(j, &n->gateways, ADDRS_MAX, j->gateways);
    copy_addrs(j, &n->quarantine, MT_PLAN_INSTANCES_MAX, j->quarantine);
    j->fw.quarantine = j->quarantine;
    copy_underlay(j, n);
    j->fw.underlay = j->underlay;
    j->fw.mesh_port = n->mesh.present ? (uint16_t)n->mesh.listen_port : 0;
    copy_ipv4(j, n);
    copy_private(j, n);
    copy_edge_ports(j, n);
    open_ports(a, &j->fw);
    egress_limits(a, &j->fw);
    j->fw.edges = j->edges;
    j->fw.gateways = j->gateways;
    j->fw.uids[j->fw.uid_count++] = geteuid();
    if (a->edge_uid != (uid_t)-1 && a->edge_uid != geteuid())
        j->fw.uids[j->fw.uid_count++] = a->edge_uid;
    j->in_mesh = mt_mesh_has_device(a->mesh);
    /* packets between the mesh and the taps are forwarded whether or not guests may go out */
    j->forward = strcmp(egress, "none") != 0 || j->in_mesh;
    a->fw_loading = true;
    if (mt_pool_submit(a->steps, net_work, net_done, j, NULL) < 0) {
        a->fw_loading = false;
        job_free(j);
    }
}

void mt_netstate_plan(struct mt_agent *a, const struct mt_plan *plan, bool same)
{
    const struct mt_plan_network *n = &plan->network;
    struct mt_node_net net = {.mtu = n->mtu ? n->mtu : MTU_DEFAULT};
    struct mt_err err = {0};
    uint8_t plen;

    size_t vms = (plan->n_instances + ROOM_STEP - 1) / ROOM_STEP * ROOM_STEP;
    bool more = vms > a->room_vms;
    a->room_vms = more ? vms : a->room_vms;
    if (!more && a->net_section && a->fw_loaded && (same || json_equal(a->net_section, json_object_get(plan->doc, "network"))))
        return; /* nothing of the network changed, and the check looks after the rest */
    json_decref(a->net_section);
    a->net_section = json_incref(json_object_get(plan->doc, "network"));
    if (a->mesh_mtu && a->mesh_mtu < net.mtu)
        net.mtu = a->mesh_mtu;
    const char *own = n->overlay_ipv6 ? n->overlay_ipv6 : a->conf.overlay_ipv6;
    if (own)
        net.has_node = mt_net_parse6(own, false, &net.node, &plen, &err) == 0;
    if (n->instance_prefix)
        net.has_prefix = mt_net_parse6(n->instance_prefix, true, &net.prefix, &net.prefix_len, &err) == 0;
    if (n->cluster_prefix)
        net.has_cluster = mt_net_parse6(n->cluster_prefix, true, &net.cluster, &net.cluster_len, &err) == 0;
    /* one of the cluster's addresses for services: every node that runs a resolver has it, and only for its own VMs */
    if (net.has_cluster && a->conf.resolver[0] && inet_pton(AF_INET6, a->conf.resolver, &net.resolver) == 1)
        net.has_resolver = mt_net_inside6(&net.resolver, &net.cluster, net.cluster_len) && net.resolver.s6_addr[6] == net.cluster.s6_addr[6] && net.resolver.s6_addr[7] == (net.cluster.s6_addr[7] | 2);
    if (err.code)
        mt_log(MT_WARN, "network.bad_address", KV_ERR(&err));
    a->net = net;
    if (net.has_node)
        mt_remote_at(a->remote, &net.node);
    mt_netstate_load(a);
}

void mt_netstate_mtu(struct mt_agent *a, uint32_t mtu)
{
    uint32_t wish = a->plan && a->plan->network.mtu ? a->plan->network.mtu : MTU_DEFAULT;
    a->mesh_mtu = mtu;
    a->net.mtu = mtu && mtu < wish ? mtu : wish;
}

/* ---- leaving the host as it was ---------------------------------------------------------- */

int mt_netstate_restore(struct mt_agent *a, struct mt_err *err)
{
    json_t *doc = host_load(a);
    struct in6_addr addr;
    uint8_t plen;
    int rc = 0;
    const char *key;
    json_t *value;

    if (!doc)
        return MT_FAIL(err, MT_E_NOMEM, "host.json: out of memory");
    json_object_foreach(doc, key, value) {
        const char *v = json_string_value(value);
        int one = 0;
        if (!v)
            continue;
        if (strcmp(key, "nft_table") == 0)
            one = mt_fw_unload(a->fw, err);
        else if (strncmp(key, "lo ", 3) == 0 && mt_net_parse6(key + 3, false, &addr, &plen, err) == 0)
            one = mt_node_addr_del(&addr, err);
        else if (strncmp(key, "route ", 6) == 0 && mt_net_parse6(key + 6, true, &addr, &plen, err) == 0)
            one = mt_node_prefix_del(&addr, plen, err);
        else if ((strncmp(key, "/proc/sys/net/ipv6/conf/", 24) == 0 || strcmp(key, ROOM) == 0 || strcmp(key, FORWARDING4) == 0) && access(key, W_OK) == 0)
            one = sysctl_write(key, v, err);
        if (one < 0) {
            mt_log(MT_WARN, "network.not_restored", KV("what", key), KV_ERR(err));
            rc = one;
        }
    }
    json_decref(doc);
    if (rc == 0) {
        char path[PATH_MAX];
        if (host_path(a, path, err) == 0)
            (void)unlink(path);
        a->fw_loaded = false;
    }
    return rc;
}
