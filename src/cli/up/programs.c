/* SPDX-License-Identifier: Apache-2.0 */
/* The command lines of the programs, and ending them all. */
#include "cli/cli.h"
#include "cli/up/up.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"
#include "os/spawn.h"
#include "pg/cluster.h"
#include "wire/json.h"
#include "wire/stop_all.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

static const char *keep(struct up *u, const char *below, bool bin)
{
    MT_ASSERT(u->paths_used < MT_ARRAY_LEN(u->paths));
    char *p = u->paths[u->paths_used++];
    MT_ASSERT(mt_fmt(p, UP_PATH, NULL, "%s/%s", bin ? u->layout.bin : u->layout.dir, below) == 0);
    return p;
}

static bool tcp_answers(const char *host_port)
{
    char host[64];
    const char *colon = strrchr(host_port, ':');
    uint64_t port;
    if (!colon || (size_t)(colon - host_port) >= sizeof host || mt_parse_u64(colon + 1, 1, 65535, &port, NULL) < 0)
        return false;
    memcpy(host, host_port, (size_t)(colon - host_port));
    host[colon - host_port] = '\0';
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    mt_auto_fd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && inet_pton(AF_INET, host, &a.sin_addr) == 1 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
}

static bool registry_answers(struct service *s)
{
    struct up *u = MT_CONTAINER(s, struct up, services[UP_REGISTRY]);
    return tcp_answers(u->layout.registry);
}

static const struct mt_pg_map pg_maps[] = {{"moat-control", "moat_control"}, {"moat-control", "moat_owner"}};

static struct mt_pg_cluster_conf pg_conf(const struct up *u)
{
    return (struct mt_pg_cluster_conf){.data_dir = u->pg_dir, .socket_dir = u->pg_socket_dir, .log_file = u->pg_log, .uid = u->layout.users.pg,
                                       .gid = u->layout.users.pg_gid, .maps = pg_maps, .n_maps = MT_ARRAY_LEN(pg_maps)};
}

static int postgres_up(struct service *s, pid_t *ret_pid, int *ret_pidfd, bool *ret_adopted, struct mt_err *err)
{
    struct up *u = MT_CONTAINER(s, struct up, services[UP_POSTGRES]);
    struct mt_pg_cluster_conf conf = pg_conf(u);
    struct mt_pg_cluster c;
    int r = mt_pg_cluster_up(&conf, 60000, &c, err);
    if (r < 0)
        return r;
    *ret_pid = c.pid;
    *ret_pidfd = c.pidfd;
    *ret_adopted = c.adopted;
    return 0;
}

bool up_postgres_runs(const struct up *u)
{
    struct mt_pg_cluster_conf conf = pg_conf(u);
    struct mt_pg_cluster c;
    if (mt_pg_cluster_find(&conf, &c, NULL) < 0)
        return false;
    mt_closep(&c.pidfd);
    return true;
}

void up_services(struct up *u)
{
    const struct up_layout *l = &u->layout;
    u->paths_used = 0;
    up_path(l, u->pg_dir, "pg");
    up_path(l, u->pg_socket_dir, "run/pg");
    up_path(l, u->pg_log, "log/postgres.log");
    u->services[UP_POSTGRES] = (struct service){
        .name = "postgres", .argv = {"postgres"}, .log_path = u->pg_log, .bring_up = postgres_up, .pool = u->pool, .stop_signal = SIGINT,
        .stop_ms = 20000};
    if (l->registry_port)
        u->services[UP_REGISTRY] = (struct service){
            .name = "registry", .argv = {"/usr/bin/docker-registry", "serve", keep(u, "etc/registry.yml", false)}, .uid = l->users.registry,
            .gid = l->users.registry_gid, .set_ids = true, .log_path = keep(u, "log/registry.log", false), .probe = registry_answers,
            .stop_signal = SIGTERM, .stop_ms = 5000};
    u->services[UP_CONTROL] = (struct service){
        .name = "control", .argv = {keep(u, "moat-control", true), "--config", keep(u, "etc/control.toml", false)}, .uid = l->users.control,
        .gid = l->users.moat, .set_ids = true, .log_path = keep(u, "log/control.log", false), .notify_path = u->notify, .stop_signal = SIGTERM,
        .stop_ms = 25000, .start_ms = 60000};
    u->services[UP_EDGE] = (struct service){
        .name = "edge", .argv = {keep(u, "moat-edge", true), "--config", keep(u, "etc/edge.toml", false)}, .uid = l->users.edge, .gid = l->users.moat,
        .set_ids = true, .ambient_caps = UINT64_C(1) << CAP_NET_BIND_SERVICE, .log_path = keep(u, "log/edge.log", false), .notify_path = u->notify,
        .stop_signal = SIGTERM, .stop_ms = 10000, .start_ms = 60000};
    u->services[UP_AGENT] = (struct service){
        .name = "agent", .argv = {keep(u, "moat-agent", true), "--config", keep(u, "etc/agent.toml", false)},
        .log_path = keep(u, "log/agent.log", false), .notify_path = u->notify, .stop_signal = SIGTERM, .stop_ms = 10000, .start_ms = 60000};
}

int up_stop_instances(const struct up_layout *l, int64_t deadline_ms, struct mt_err *err)
{
    char path[UP_PATH];
    return mt_stop_all(up_path(l, path, "run/agent.sock"), deadline_ms, err);
}

static int end_and_wait(struct up *u, int i)
{
    struct service *s = &u->services[i];
    if (!s->argv[0] || !s->loop || s->state == SERVICE_ENDED)
        return 0;
    service_stop(s);
    while (s->state != SERVICE_ENDED) {
        int rc = mt_loop_turn(u->loop, 1000);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int up_stop_all(struct up *u, struct mt_err *err)
{
    static const int order[] = {UP_AGENT, UP_EDGE, UP_CONTROL, UP_REGISTRY, UP_POSTGRES};
    struct mt_err agent_err;
    int stopped = up_stop_instances(&u->layout, 20000, &agent_err);
    for (size_t i = 0; i < MT_ARRAY_LEN(order); i++)
        if (end_and_wait(u, order[i]) < 0)
            return MT_FAIL(err, MT_E_IO, "wait for '%s' to end", u->services[order[i]].name);
    if (stopped < 0 && stopped != -MT_E_UNAVAILABLE) {
        *err = agent_err;
        return stopped;
    }
    return 0;
}

static void left(struct mt_buf *b, const char *what, const char *name)
{
    mt_buf_printf(b, "%s%s %s", b->len ? ", " : "left behind: ", what, name);
}

/* A VM's processes see the jail as their root, so their command lines do not name the data folder; their mounts do. */
static bool belongs(pid_t pid, const char *cmd, size_t n, const char *needle)
{
    char path[64];
    mt_auto_free char *mounts = NULL;
    size_t k;
    if (memmem(cmd, n, needle, strlen(needle)))
        return true;
    (void)snprintf(path, sizeof path, "/proc/%d/mountinfo", (int)pid);
    return mt_file_read(path, 4 << 20, &mounts, &k, NULL) == 0 && memmem(mounts, k, needle, strlen(needle));
}

static void left_processes(const struct up *u, struct mt_buf *b)
{
    mt_auto_dir DIR *d = opendir("/proc");
    char needle[UP_PATH + 1];
    (void)snprintf(needle, sizeof needle, "%s/", u->layout.dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        uint64_t pid;
        char path[64], text[96];
        mt_auto_free char *cmd = NULL;
        size_t n;
        if (mt_parse_u64(e->d_name, 2, 1 << 22, &pid, NULL) < 0 || (pid_t)pid == getpid() || (pid_t)pid == getppid())
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
        if (mt_file_read(path, 65536, &cmd, &n, NULL) < 0 || n == 0)
            continue;
        const char *base = strrchr(cmd, '/') ? strrchr(cmd, '/') + 1 : cmd;
        bool ours = mt_starts_with(base, "qemu-system") || mt_starts_with(base, "moat-") || mt_starts_with(base, "firecracker") || mt_starts_with(base, "postgres");
        if (ours && belongs((pid_t)pid, cmd, n, needle)) {
            (void)snprintf(text, sizeof text, "%.60s[%d]", base, (int)pid);
            left(b, "process", text);
        }
    }
}

char *up_leftovers(const struct up *u)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(4000);
    left_processes(u, &b);
    struct if_nameindex *ifs = if_nameindex();
    for (struct if_nameindex *i = ifs; i && i->if_name; i++)
        if (mt_starts_with(i->if_name, "mt") && strlen(i->if_name) == 7 && strspn(i->if_name + 2, "0123456789abcdef") == 5)
            left(&b, "link", i->if_name);
    if (ifs)
        if_freenameindex(ifs);
    mt_auto_free char *mounts = NULL;
    size_t n;
    if (mt_file_read("/proc/self/mountinfo", 4 << 20, &mounts, &n, NULL) == 0) {
        char needle[UP_PATH + 2];
        (void)snprintf(needle, sizeof needle, " %s/", u->layout.dir);
        if (strstr(mounts, needle))
            left(&b, "mount below", u->layout.dir);
    }
    return mt_buf_take(&b);
}
