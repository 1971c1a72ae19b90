/* SPDX-License-Identifier: Apache-2.0 */
/* agent.toml. See config.h. */
#include "agent/config.h"

#include "agent/bundle.h"
#include "agent/hostcheck.h"
#include "agent/net/firewall.h"
#include "agent/net/tap.h"
#include "agent/pace.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/sock.h"

#include <arpa/inet.h>
#include <libgen.h>
#include <limits.h>
#include <pwd.h>

#define AT(member) offsetof(struct mt_agent_conf, member)
#define PATH_KEY(key, member, help) {key, MT_CONF_STRING, AT(member), 1, 255, MT_CONF_NONE, "path", help}

/* clang-format off */
static const struct mt_conf_key keys[] = {
    {"node_id", MT_CONF_STRING, AT(node_id), 1, 40, MT_CONF_NONE, "id", "identity of this node, node_<ulid>; absent: the one that `moat-agent join` got, else with control_socket one of its own making"},
    {"cluster_id", MT_CONF_STRING, AT(cluster_id), 1, 64, MT_CONF_NONE, "id", "plans of another cluster are refused; absent: the first accepted plan's"},
    {"data_dir", MT_CONF_STRING, AT(data_dir), 1, 255, NULL, "path", "folder that holds everything the agent keeps"},
    PATH_KEY("run_dir", run_dir, "sockets and what a reboot may forget; default <data_dir>/run"),
    PATH_KEY("boot_dir", boot_dir, "kernel and init bundles; default <data_dir>/boot"),
    PATH_KEY("agent_dir", agent_dir, "plans and instance states; default <data_dir>/agent"),
    PATH_KEY("images_dir", images_dir, "blobs and root disks; default <data_dir>/images"),
    PATH_KEY("scratch_dir", scratch_dir, "scratch disks; default <data_dir>/scratch"),
    PATH_KEY("jail_dir", jail_dir, "chroots of the VMs; default <data_dir>/jail; one filesystem with images and scratch"),
    PATH_KEY("logs_dir", logs_dir, "workload logs; default <data_dir>/logs"),
    PATH_KEY("flows_dir", flows_dir, "which VM sent what to whom, for answering for an address later; default <data_dir>/flows"),
    PATH_KEY("control_socket", control_socket, "internal socket of moat-control, on its own machine; default <run_dir>/internal.sock"),
    {"control_address", MT_CONF_STRING, AT(control_address), 3, 260, MT_CONF_NONE, "host:port", "node listener of moat-control, for a node that has joined; absent: the one it joined by"},
    {"mesh_endpoints", MT_CONF_STRINGS, AT(mesh_endpoints), 0, 4, "", "address:port", "where other nodes reach this machine's WireGuard; for the machine of the control plane: takes it into the mesh"},
    PATH_KEY("admin_socket", admin_socket, "local socket of the agent; default <run_dir>/agent.sock"),
    {"listen_metrics", MT_CONF_STRING, AT(listen_metrics), 3, 80, MT_CONF_NONE, "address:port", "GET /metrics, /livez, /readyz for a Prometheus of the mesh, for example [fd00::1]:9464: loopback or an inner address, never every address; absent: not served"},
    PATH_KEY("bin_dir", bin_dir, "folder of moat-fetch, moat-unpack and moat-vsock; default the agent's own"),
    {"overlay_ipv6", MT_CONF_STRING, AT(overlay_ipv6), 2, 45, MT_CONF_NONE, "address", "the node's overlay address until a plan names it"},
    {"vmm", MT_CONF_STRING, AT(vmm), 1, 16, "auto", "", "auto, firecracker or qemu"},
    {"vmm_sha256", MT_CONF_STRINGS, AT(vmm_sha256), 0, 16, "", "", "sums of the programs that may run VMs (firecracker and its jailer, or QEMU), as sha256sum prints them; another one is not taken as a driver; empty: whatever root has installed"},
    {"cpu_template", MT_CONF_STRING, AT(cpu_template), 1, 255, MT_CONF_NONE, "path", "CPU template for Firecracker (JSON, root's), so that VMs of unlike machines see one processor; absent: none"},
    {"bundle_keys", MT_CONF_STRINGS, AT(bundle_keys), 0, 8, "", "key", "Ed25519 public keys, base64: a kernel bundle that was not built on this machine has to be signed by one of them; empty: what root put into boot_dir is taken unsigned"},
    {"host_firewall", MT_CONF_STRING, AT(host_firewall), 1, 8, "full", "", "taps: only traffic of own taps is filtered; full: the host's input too"},
    {"host_accepted", MT_CONF_STRINGS, AT(host_accepted), 0, 8, "", "", "what this host is not and need not be, though strangers share it: swap (may be on, in the clear), ksm, smt (may be on), inodes (may be few), nofile (may be low); the node is not taken out of placement for it"},
    {"firewall_open", MT_CONF_STRINGS, AT(firewall_open), 0, 32, "22", "port", "with host_firewall = full: TCP ports of this host that stay open to the world, as \"22\", an edge's \"443\" or \"10000-29999\""},
    {"metrics_scrapers", MT_CONF_STRINGS, AT(metrics_scrapers), 0, MT_FW_SCRAPERS_MAX, "", "address", "with host_firewall = full: overlay addresses of nodes with a Prometheus, which reach the port of listen_metrics, 9460, 9463 and 9464 over the mesh"},
    {"ipv4_interface", MT_CONF_STRING, AT(ipv4_interface), 0, 15, "", "link", "where dedicated IPv4 addresses of environments are put; empty: the link of the IPv4 default route"},
    {"public_ipv6", MT_CONF_STRING, AT(public_ipv6), 2, 45, MT_CONF_NONE, "address", "where the world reaches the edge of this host: shown with routes, and compared with what the DNS says of their names"},
    {"public_ipv4", MT_CONF_STRING, AT(public_ipv4), 7, 15, MT_CONF_NONE, "address", "the same for the record of the node"},
    {"hook_dir", MT_CONF_STRING, AT(hook_dir), 1, 255, "/etc/moat/hooks", "path", "folder of the operator's ipv4-up and ipv4-down, called with the address; with them it goes to lo"},
    {"drift_seconds", MT_CONF_U64, AT(drift_seconds), 5, 300, "30", "s", "time between looks for what somebody else changed in firewall and mesh"},
    {"egress_mode", MT_CONF_STRING, AT(egress_mode), 0, 8, "", "", "none, routed or nat66; empty: as the plan says"},
    {"nat64_prefix", MT_CONF_STRING, AT(nat64_prefix), 0, 50, "64:ff9b::/96", "prefix", "the NAT64 prefix of 96 bits that guests reach IPv4 through: private IPv4 behind it is refused them, as behind 64:ff9b::/96 always"},
    {"resolver", MT_CONF_STRING, AT(resolver), 0, 45, "", "address", "name server given to guests; P:2::53 (the cluster's prefix) is put on lo, for a resolver of this machine that listens there; empty: as the plan says"},
    {"blocked_ports", MT_CONF_STRINGS, AT(blocked_ports), 0, MT_FW_BLOCKED_MAX, "25 135-139 445 1900 11211/udp", "port", "ports that VMs may not reach outside, as \"25\" for TCP and UDP, \"135-139\", \"11211/udp\"; replaces the default"},
    {"blocked_prefixes", MT_CONF_STRINGS, AT(blocked_prefixes), 0, MT_FW_BLOCKED_MAX, "", "prefix", "IPv6 prefixes that VMs may not reach, besides those that are nobody's, the cluster's or other nodes'"},
    {"serial", MT_CONF_BOOL, AT(serial), 0, 1, "true", "", "keep the guest's serial console for diagnosis"},
    {"edge_user", MT_CONF_STRING, AT(edge_user), 1, 32, "moat-edge", "user", "may connect to VMs from this host"},
    {"control_user", MT_CONF_STRING, AT(control_user), 1, 32, "moat-control", "user", "may use the local socket"},
    {"worker_user", MT_CONF_STRING, AT(worker_user), 1, 32, "nobody", "user", "moat-fetch and moat-unpack run as this user"},
    {"fsck_user", MT_CONF_STRING, AT(fsck_user), 1, 32, "moat-fsck", "user", "mkfs, e2fsck and resize2fs run on volumes as this user"},
    {"cgroup_parent", MT_CONF_STRING, AT(cgroup_parent), 1, 128, "moat.slice/instances", "", "cgroup of the VMs, below each controller's root"},
    {"log_level", MT_CONF_STRING, AT(log_level), 1, 8, "info", "", "debug, info, warn or error"},
    {"heartbeat_ms", MT_CONF_U64, AT(heartbeat_ms), 100, 60000, "5000", "ms", "time between heartbeats"},
    {"programs.qemu", MT_CONF_STRING, AT(qemu_path), 1, 255, "/usr/bin/qemu-system-x86_64", "path", "QEMU"},
    {"programs.firecracker", MT_CONF_STRING, AT(firecracker_path), 1, 255, "/usr/lib/moat/firecracker", "path", "Firecracker"},
    {"programs.jailer", MT_CONF_STRING, AT(jailer_path), 1, 255, "/usr/lib/moat/jailer", "path", "its jailer, of the same version"},
    {"programs.nft", MT_CONF_STRING, AT(nft_path), 1, 255, "/usr/sbin/nft", "path", "nftables"},
    {"programs.wg", MT_CONF_STRING, AT(wg_path), 1, 255, "/usr/bin/wg", "path", "wireguard-tools"},
    {"programs.wireguard_go", MT_CONF_STRING, AT(wireguard_go_path), 1, 255, "/usr/bin/wireguard-go", "path", "WireGuard where the kernel has none"},
    {"programs.mkfs", MT_CONF_STRING, AT(mkfs_path), 1, 255, "/usr/sbin/mkfs.ext4", "path", "e2fsprogs"},
    {"programs.e2fsck", MT_CONF_STRING, AT(e2fsck_path), 1, 255, "/usr/sbin/e2fsck", "path", "e2fsprogs"},
    {"programs.resize2fs", MT_CONF_STRING, AT(resize2fs_path), 1, 255, "/usr/sbin/resize2fs", "path", "e2fsprogs"},
    {"storage.backend", MT_CONF_STRING, AT(storage_backend), 1, 16, "auto", "", "lvm-thin: volumes in an LVM thin pool; as files: reflink (XFS, btrfs), copy (any filesystem; not for production), auto: reflink where it works, copy where that is allowed; none"},
    {"storage.volume_group", MT_CONF_STRING, AT(volume_group), 1, 60, "moat", "", "lvm-thin: the volume group of the pool"},
    {"storage.thin_pool", MT_CONF_STRING, AT(thin_pool), 1, 60, "vols", "", "lvm-thin: the pool; made with lvcreate --type thin-pool --zero y --discards passdown, then lvchange --errorwhenfull y"},
    PATH_KEY("storage.dir", storage_dir, "folder of volumes; default <data_dir>/volumes; one filesystem with jail_dir"),
    {"storage.allow_copy_snapshots", MT_CONF_BOOL, AT(allow_copy_snapshots), 0, 1, "false", "", "a filesystem that cannot clone files will do: a snapshot then pauses the VM while it is copied"},
    {"storage.backup_file", MT_CONF_STRING, AT(backup_file), 1, 255, "/etc/moat/backup.toml", "path", "store of backups and its credentials, 0600; without it there are none"},
    {"reserve.memory_bytes", MT_CONF_U64, AT(reserve_memory_bytes), 0, UINT64_MAX, "0", "bytes", "kept from VMs; 0: max(1 GiB, 6 %) + max(512 MiB, 2 %)"},
    {"reserve.overhead_mib", MT_CONF_U64, AT(overhead_mib), 0, 256, "0", "MiB", "added to each VM's memory; 0: 64, QEMU 96"},
    {"limits.patience", MT_CONF_U64, AT(patience), 1, 30, "1", "", "waits for monitors and guests are this many times as long; for nested, slow hosts"},
    {"reserve.cpu_overcommit_percent", MT_CONF_U64, AT(cpu_overcommit_percent), 100, 10000, "400", "%", "allocatable CPU of the cores, steers scores"},
    {"reserve.cpu_ceiling_percent", MT_CONF_U64, AT(cpu_ceiling_percent), 100, 10000, "800", "%", "CPU above which nothing more is placed"},
    {"limits.instances", MT_CONF_U64, AT(instances), 1, 4096, "500", "VMs", "that run here at once; one more waits"},
    {"limits.launches_per_second", MT_CONF_U64, AT(launches_per_second), 1, MT_PACE_MAX, "10", "VMs", "begun in any second, so that a node that comes back does not start all at one moment"},
    {"limits.parallel_boots", MT_CONF_U64, AT(parallel_boots), 0, 64, "0", "VMs", "booting at once; 0: 8, on TCG one for each core"},
    {"limits.flows_per_vm", MT_CONF_U64, AT(flows_per_vm), 0, 1000000, "4096", "flows", "that one VM may have open to the outside at once; 0: no limit"},
    {"limits.new_flows_per_vm", MT_CONF_U64, AT(new_flows_per_vm), 0, 1000000, "200", "flows", "that one VM may open to the outside in a second; 0: no limit"},
    {"limits.new_flows_burst", MT_CONF_U64, AT(new_flows_burst), 1, 1000000, "1000", "flows", "above that, at once"},
    {"image.local_registries", MT_CONF_STRINGS, AT(local_registries), 0, 16, "", "host:port", "registries that may live at non-public addresses"},
    {"image.insecure_registries", MT_CONF_STRINGS, AT(insecure_registries), 0, 16, "", "host:port", "registries spoken to in plain HTTP"},
    {"image.ca_file", MT_CONF_STRING, AT(image_ca_file), 1, 255, MT_CONF_NONE, "path", "further trust anchors for registries"},
    {"image.cache_bytes", MT_CONF_U64, AT(image_cache_bytes), 0, UINT64_MAX, "0", "bytes", "budget of the image cache; 0: 20 % of its filesystem, at most 100 GiB"},
    {"logs.retention_days", MT_CONF_U64, AT(log_retention_days), 1, 3650, "7", "days", "workload logs older than this go"},
    {"logs.max_bytes_per_instance", MT_CONF_U64, AT(log_max_bytes), 16777216, UINT64_MAX, "536870912", "bytes", "oldest segments go above this"},
    {"logs.flow_bytes", MT_CONF_U64, AT(flow_bytes), 0, UINT64_MAX, "1073741824", "bytes", "flows of VMs to the outside and their counters each minute are kept up to this, the oldest go; at least 1 MiB; 0: none are recorded"},
    {"logs.flow_days", MT_CONF_U64, AT(flow_days), 1, 3650, "7", "days", "and no longer than this"},
    {"logs.sink", MT_CONF_STRING, AT(log_sink), 1, 8, "none", "", "where all workloads' lines go besides: none, syslog (RFC 5424 over TLS or TCP) or otlp (OTLP/HTTP, JSON)"},
    {"logs.sink_target", MT_CONF_STRING, AT(log_sink_target), 3, 2048, MT_CONF_NONE, "", "syslog: host:port; otlp: URL, for example https://collector.example.com:4318/v1/logs"},
    {"logs.sink_tls", MT_CONF_BOOL, AT(log_sink_tls), 0, 1, "true", "", "syslog: over TLS (RFC 5425); false: plain TCP, for a receiver on this host or a network of trust"},
    PATH_KEY("logs.sink_ca_file", log_sink_ca_file, "trust anchors for the receiver, PEM; absent: the system's"),
    PATH_KEY("logs.sink_cert_file", log_sink_cert_file, "certificate that is shown to the receiver, PEM"),
    PATH_KEY("logs.sink_key_file", log_sink_key_file, "its key, PEM, 0600"),
    PATH_KEY("logs.sink_headers_file", log_sink_headers_file, "otlp: lines \"Name: value\" that go with each request, such as a token; 0600"),
    {"logs.message_max_bytes", MT_CONF_U64, AT(log_message_max), 1024, 65536, "8192", "bytes", "syslog: a longer line is sent in parts; what the receiver takes (rsyslog: maxMessageSize)"},
    {"logs.drains", MT_CONF_BOOL, AT(log_drains), 0, 1, "true", "", "lines also go to the log drains that organisations have set"},
    {"logs.local_targets", MT_CONF_STRINGS, AT(log_local_targets), 0, 16, "", "host:port", "targets of organisations' drains that may live at non-public addresses"},
};
/* clang-format on */

const struct mt_conf_key *mt_agent_conf_keys(size_t *ret_n)
{
    *ret_n = MT_ARRAY_LEN(keys);
    return keys;
}

static bool one_of(const char *v, const char *const *words)
{
    for (size_t i = 0; words[i]; i++) {
        if (strcmp(v, words[i]) == 0)
            return true;
    }
    return false;
}

static int fill_path(char **at, const char *base, const char *name, struct mt_err *err)
{
    if (!*at)
        *at = mt_asprintf("%s/%s", base, name);
    if (!*at)
        return MT_FAIL(err, MT_E_NOMEM, "configuration: out of memory");
    if ((*at)[0] != '/')
        return MT_FAIL(err, MT_E_INVALID, "path '%s' is not absolute", *at);
    return 0;
}

static int fill_bin_dir(struct mt_agent_conf *c, struct mt_err *err)
{
    char self[PATH_MAX];
    if (c->bin_dir)
        return 0;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "find own program");
    self[n] = '\0';
    const char *dir = dirname(self);
    c->bin_dir = mt_strndup(dir, strlen(dir));
    return c->bin_dir ? 0 : MT_FAIL(err, MT_E_NOMEM, "configuration: out of memory");
}

/* Becomes an argument of LVM's programs and part of paths below /dev. */
static bool lvm_name(const char *s)
{
    return *s != '-' && *s != '.' && s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-")] == '\0';
}

static bool prefix96(const char *s)
{
    struct in6_addr a;
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(s, '/');
    if (!slash || strcmp(slash, "/96") != 0 || mt_fmt(address, sizeof address, NULL, "%.*s", (int)(slash - s), s) < 0)
        return false;
    return inet_pton(AF_INET6, address, &a) == 1 && memcmp(a.s6_addr + 12, "\0\0\0\0", 4) == 0;
}

/* In its one spelling afterwards. */
static int check_address(const char *key, int family, char **text, struct mt_err *err)
{
    uint8_t bin[16];
    char spelled[INET6_ADDRSTRLEN];
    if (!*text)
        return 0;
    if (inet_pton(family, *text, bin) != 1 || !inet_ntop(family, bin, spelled, sizeof spelled))
        return MT_FAIL(err, MT_E_INVALID, "%s: '%s' is no such address", key, *text);
    char *copy = strdup(spelled);
    if (!copy)
        return MT_FAIL(err, MT_E_NOMEM, "%s", key);
    free(*text);
    *text = copy;
    return 0;
}

static int check(struct mt_agent_conf *c, struct mt_err *err)
{
    static const char *const vmms[] = {"auto", "firecracker", "qemu", NULL};
    static const char *const walls[] = {"taps", "full", NULL};
    static const char *const egress[] = {"", "none", "routed", "nat66", NULL};
    static const char *const sinks[] = {"none", "syslog", "otlp", NULL};
    static const char *const backends[] = {"auto", "lvm-thin", "reflink", "copy", "none", NULL};
    struct in6_addr a;

    if (check_address("public_ipv6", AF_INET6, &c->public_ipv6, err) < 0 || check_address("public_ipv4", AF_INET, &c->public_ipv4, err) < 0)
        return -(int)err->code;
    if (c->node_id && mt_id_check(MT_ID_NODE, c->node_id, err) < 0)
        return mt_err_wrap(err, "node_id");
    if (!one_of(c->vmm, vmms))
        return MT_FAIL(err, MT_E_INVALID, "vmm is '%s'; it is auto, firecracker or qemu", c->vmm);
    if (!one_of(c->host_firewall, walls))
        return MT_FAIL(err, MT_E_INVALID, "host_firewall is '%s'; it is taps or full", c->host_firewall);
    if (!one_of(c->log_sink, sinks))
        return MT_FAIL(err, MT_E_INVALID, "logs.sink is '%s'; it is none, syslog or otlp", c->log_sink);
    if (!one_of(c->storage_backend, backends))
        return MT_FAIL(err, MT_E_INVALID, "storage.backend is '%s'; it is auto, lvm-thin, reflink, copy or none", c->storage_backend);
    if (!lvm_name(c->volume_group) || !lvm_name(c->thin_pool))
        return MT_FAIL(err, MT_E_INVALID, "storage.volume_group and storage.thin_pool are names of LVM: letters, digits and + _ . -, not - or . at the start");
    if (!one_of(c->egress_mode, egress))
        return MT_FAIL(err, MT_E_INVALID, "egress_mode is '%s'; it is none, routed or nat66", c->egress_mode);
    if (c->nat64_prefix[0] && !prefix96(c->nat64_prefix))
        return MT_FAIL(err, MT_E_INVALID, "nat64_prefix '%s' is not an IPv6 prefix of 96 bits, like 64:ff9b::/96", c->nat64_prefix);
    if (c->resolver[0] && inet_pton(AF_INET6, c->resolver, &a) != 1)
        return MT_FAIL(err, MT_E_INVALID, "resolver '%s' is not an IPv6 address", c->resolver);
    if (c->overlay_ipv6 && inet_pton(AF_INET6, c->overlay_ipv6, &a) != 1)
        return MT_FAIL(err, MT_E_INVALID, "overlay_ipv6 '%s' is not an IPv6 address", c->overlay_ipv6);
    for (size_t i = 0; i < c->bundle_keys.n; i++) {
        uint8_t key[32];
        if (mt_bundle_key(c->bundle_keys.v[i], key, err) < 0)
            return mt_err_wrap(err, "bundle_keys");
    }
    for (size_t i = 0; i < c->vmm_sha256.n; i++) {
        const char *sum = c->vmm_sha256.v[i];
        if (strlen(sum) != 64 || strspn(sum, "0123456789abcdef") != 64)
            return MT_FAIL(err, MT_E_INVALID, "vmm_sha256: '%s' is not 64 lower-case hex digits, as sha256sum prints them", sum);
    }
    for (size_t i = 0; i < c->host_accepted.n; i++) {
        if (!mt_hostcheck_may_accept(c->host_accepted.v[i]))
            return MT_FAIL(err, MT_E_INVALID, "host_accepted: '%s' cannot be accepted; swap, ksm, smt, inodes and nofile can", c->host_accepted.v[i]);
    }
    for (size_t i = 0; i < c->firewall_open.n; i++) {
        struct mt_fw_ports ports;
        if (strchr(c->firewall_open.v[i], '/') || mt_fw_ports_parse(c->firewall_open.v[i], &ports, NULL) < 0)
            return MT_FAIL(err, MT_E_INVALID, "firewall_open: '%s' is no port or range of TCP: 22 or 10000-29999", c->firewall_open.v[i]);
    }
    for (size_t i = 0; i < c->metrics_scrapers.n; i++) {
        if (inet_pton(AF_INET6, c->metrics_scrapers.v[i], &a) != 1)
            return MT_FAIL(err, MT_E_INVALID, "metrics_scrapers: '%s' is not an IPv6 address", c->metrics_scrapers.v[i]);
    }
    for (size_t i = 0; i < c->blocked_ports.n; i++) {
        struct mt_fw_ports ports;
        if (mt_fw_ports_parse(c->blocked_ports.v[i], &ports, err) < 0)
            return mt_err_wrap(err, "blocked_ports");
    }
    for (size_t i = 0; i < c->blocked_prefixes.n; i++) {
        struct in6_addr net;
        uint8_t plen;
        if (strlen(c->blocked_prefixes.v[i]) > 49 || mt_net_parse6(c->blocked_prefixes.v[i], true, &net, &plen, err) < 0 || plen == 0)
            return MT_FAIL(err, MT_E_INVALID, "blocked_prefixes: '%s' is no IPv6 prefix, like 2001:db8:5::/48; none of all addresses: that is egress_mode = \"none\"", c->blocked_prefixes.v[i]);
    }
    const char *socks[] = {c->control_socket, c->admin_socket};
    for (size_t i = 0; i < 2; i++) {
        if (strlen(socks[i]) > MT_UNIX_PATH_MAX)
            return MT_FAIL(err, MT_E_INVALID, "socket path '%s' is longer than %d bytes; use a shorter data_dir",
                           socks[i], MT_UNIX_PATH_MAX);
    }
    return 0;
}

int mt_agent_conf_load(const char *path, struct mt_agent_conf *ret, struct mt_err *err)
{
    struct mt_agent_conf c = {0};
    int rc = mt_conf_load(path, keys, MT_ARRAY_LEN(keys), &c, stderr, err);
    if (rc < 0)
        return rc;
    const struct {
        char **at;
        const char *name;
    } folders[] = {{&c.run_dir, "run"},       {&c.boot_dir, "boot"},       {&c.agent_dir, "agent"},
                   {&c.images_dir, "images"}, {&c.scratch_dir, "scratch"}, {&c.jail_dir, "jail"},
                   {&c.logs_dir, "logs"},     {&c.storage_dir, "volumes"},   {&c.flows_dir, "flows"}};
    for (size_t i = 0; rc == 0 && i < MT_ARRAY_LEN(folders); i++)
        rc = fill_path(folders[i].at, c.data_dir, folders[i].name, err);
    c.beside_control = c.control_socket != NULL;
    if (rc == 0)
        rc = fill_path(&c.control_socket, c.run_dir, "internal.sock", err);
    if (rc == 0)
        rc = fill_path(&c.admin_socket, c.run_dir, "agent.sock", err);
    if (rc == 0)
        rc = fill_bin_dir(&c, err);
    if (rc == 0)
        rc = check(&c, err);
    if (rc < 0) {
        mt_agent_conf_done(&c);
        return rc;
    }
    *ret = c;
    return 0;
}

void mt_agent_conf_done(struct mt_agent_conf *c)
{
    mt_conf_done(keys, MT_ARRAY_LEN(keys), c);
}

int mt_agent_uid(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct mt_err *err)
{
    char buf[4096];
    struct passwd pw, *found = NULL;
    int rc = getpwnam_r(user, &pw, buf, sizeof buf, &found);
    if (rc != 0 || !found)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no user '%s' on this host; `moat up` makes it", user);
    *ret_uid = pw.pw_uid;
    if (ret_gid)
        *ret_gid = pw.pw_gid;
    return 0;
}
