/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: what this machine has, what is missing and the command that mends it, and whether the platform answers. */
#include "cli/cli.h"
#include "cli/up/layout.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"
#include "os/spawn.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>

enum level { OK = 0, WARN, BAD };

struct doctor {
    struct cli *c;
    json_t *checks;
    unsigned bad, warned;
};

static void found(struct doctor *d, enum level level, const char *name, const char *finding, const char *mend)
{
    static const char *const word[] = {"ok", "warn", "fail"}, *const mark[] = {"✓", "!", "✗"}, *const color[] = {"green", "yellow", "red"};
    d->bad += level == BAD;
    d->warned += level == WARN;
    (void)json_array_append_new(d->checks, json_pack("{s:s,s:s,s:s,s:s?}", "check", name, "severity", word[level], "finding", finding, "mend", mend));
    if (d->c->json)
        return;
    char safe[400];
    (void)printf("%s%s%s %-22s %s\n", cli_color(d->c, color[level]), mark[level], cli_color(d->c, "reset"), name,
                 mt_printable(finding, strlen(finding), safe, sizeof safe));
    if (mend)
        (void)printf("    %s\n", mend);
}

static void check_programs(struct doctor *d)
{
    static const struct { const char *name, *package; enum level level; } need[] = {
        {"qemu-system-x86_64", "qemu-system-x86", BAD}, {"nft", "nftables", BAD}, {"mkfs.ext4", "e2fsprogs", BAD}, {"docker-registry", "docker-registry", WARN},
        {"skopeo", "skopeo", WARN}};
    char path[UP_PATH], mend[100];
    struct mt_err err;
    for (size_t i = 0; i < MT_ARRAY_LEN(need); i++) {
        bool there = mt_find_program(need[i].name, NULL, path, sizeof path, &err) == 0;
        (void)snprintf(mend, sizeof mend, "apt-get install %s", need[i].package);
        found(d, there ? OK : need[i].level, need[i].name, there ? path : "is not installed", there ? NULL : mend);
    }
    bool pg = access("/usr/lib/postgresql/15/bin/postgres", X_OK) == 0;
    found(d, pg ? OK : BAD, "postgresql-15", pg ? "/usr/lib/postgresql/15/bin/postgres" : "is not installed", pg ? NULL : "apt-get install postgresql-15");
}

static void check_kernel(struct doctor *d)
{
    struct utsname u;
    (void)uname(&u);
    char text[200];
    (void)snprintf(text, sizeof text, "Linux %s", u.release);
    unsigned major = 0, minor = 0;
    bool recent = sscanf(u.release, "%u.%u", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 1));
    found(d, recent ? OK : BAD, "kernel", text, recent ? NULL : "apt-get install linux-image-amd64, and reboot: 6.1 is the least");
    found(d, access("/dev/net/tun", R_OK | W_OK) == 0 ? OK : BAD, "tun", "/dev/net/tun", access("/dev/net/tun", R_OK | W_OK) == 0 ? NULL : "modprobe tun");
    bool kvm = access("/dev/kvm", R_OK | W_OK) == 0;
    found(d, kvm ? OK : WARN, "kvm", kvm ? "/dev/kvm opens; the agent's probe boot decides if it runs a guest" : "/dev/kvm cannot be opened: VMs run under emulation, slower",
          kvm ? NULL : "modprobe kvm_intel || modprobe kvm_amd; in a virtual machine: switch nested virtualisation on outside");
    mt_auto_free char *controllers = NULL;
    bool v2 = mt_file_read("/sys/fs/cgroup/cgroup.controllers", 4096, &controllers, NULL, NULL) == 0 && strstr(controllers, "memory");
    found(d, v2 ? OK : WARN, "cgroup", v2 ? "v2" : "only v1 controllers: QEMU guests are capped by cpu.shares and memory.limit_in_bytes",
          v2 ? NULL : "boot with systemd.unified_cgroup_hierarchy=1 for production");
    mt_auto_free char *swaps = NULL;
    size_t n = 0;
    bool swap = mt_file_read("/proc/swaps", 65536, &swaps, &n, NULL) == 0 && strchr(swaps, '\n') && strchr(swaps, '\n')[1];
    found(d, swap ? WARN : OK, "swap", swap ? "is on: guest memory may reach the disk" : "off", swap ? "swapoff -a" : NULL);
    mt_auto_fd int s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    found(d, s >= 0 ? OK : BAD, "ipv6", s >= 0 ? "available" : "the kernel has no IPv6", s >= 0 ? NULL : "boot without ipv6.disable=1");
}

static void check_agent(struct doctor *d, const char *data_dir)
{
    char path[UP_PATH];
    struct mt_err err;
    mt_auto_fd int fd = -1;
    if (mt_fmt(path, sizeof path, &err, "%s/run/agent.sock", data_dir) < 0 || mt_sock_unix_connect(path, &fd, &err) < 0 ||
        mt_sock_timeout(fd, 5000, &err) < 0) {
        found(d, WARN, "agent", err.msg, "moat up");
        return;
    }
    static const char ask[] = "{\"op\":\"doctor\"}\n";
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(65536);
    ssize_t n = send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL);
    char part[4096];
    while (n > 0 && !b.failed && (n = recv(fd, part, sizeof part, 0)) > 0)
        mt_buf_put(&b, part, (size_t)n);
    const char *p = mt_buf_cstr(&b);
    unsigned shown = 0;
    for (const char *eol; (eol = strchr(p, '\n')); p = eol + 1) {
        mt_auto_json json_t *j = NULL;
        if (mt_json_parse(p, (size_t)(eol - p), 65536, 8, &j, NULL) < 0)
            continue;
        if (!d->c->json)
            cli_tame(j);
        const char *sev = cli_str(j, "severity"), *name = *cli_str(j, "check") ? cli_str(j, "check") : cli_str(j, "name");
        if (!*name)
            continue;
        found(d, MT_STREQ(sev, "fail") || MT_STREQ(sev, "error") ? BAD : MT_STREQ(sev, "warn") || MT_STREQ(sev, "warning") ? WARN : OK, name,
              cli_str(j, "finding"), *cli_str(j, "mend") ? cli_str(j, "mend") : NULL);
        shown++;
    }
    if (shown == 0)
        found(d, WARN, "agent", "answers, but reports no checks", NULL);
}

static void check_platform(struct doctor *d)
{
    struct cli *c = d->c;
    struct cli side = *c;
    side.http = NULL;
    side.hush = true; /* its errors are ours to show */
    side.api = side.token = side.config_org = side.config_app = side.config_env = side.config_data_dir = NULL;
    side.timeout_ms = 5000;
    json_t *who = NULL;
    int code = cli_call(&side, "GET", "/v1/auth/whoami", NULL, &who);
    static const char *const why[] = {"answers", "failed", "no platform is configured here", "refused the token", "not found", "conflict",
                                      "does not answer", "internal error", "?"};
    found(d, code == CLI_OK ? OK : WARN, "control plane", code == CLI_OK ? side.api : code >= 0 && (size_t)code < MT_ARRAY_LEN(why) ? why[code] : "?",
          code == CLI_OK ? NULL : "moat up");
    json_decref(who);
    if (code == CLI_OK) {
        mt_auto_json json_t *nodes = NULL;
        size_t i;
        json_t *n;
        if (cli_list(&side, "/v1/nodes", &nodes) == CLI_OK)
            json_array_foreach(nodes, i, n)
            {
                char text[300];
                (void)snprintf(text, sizeof text, "%s is %s, VMM %s/%s", cli_str(n, "name"), cli_str(n, "health"), cli_str(n, "vmm.driver"), cli_str(n, "vmm.accel"));
                found(d, MT_STREQ(cli_str(n, "health"), "ready") ? OK : WARN, "node", text, NULL);
            }
    }
    if (side.config_data_dir && !cli_has(c, "data-dir"))
        c->config_data_dir = MT_TAKE(side.config_data_dir);
    cli_done(&side);
}

int cmd_doctor(struct cli *c)
{
    struct doctor d = {.c = c, .checks = json_array()};
    struct up_layout l;
    struct mt_err err;
    check_kernel(&d);
    check_programs(&d);
    check_platform(&d);
    if (geteuid() == 0 && up_layout_init(&l, cli_has(c, "data-dir") ? cli_opt(c, "data-dir") : c->config_data_dir, &err) == 0)
        check_agent(&d, l.dir);
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:b,s:O}", "ok", d.bad == 0, "checks", d.checks);
        (void)cli_print_object(c, "Doctor", j);
    }
    json_decref(d.checks);
    return d.bad ? CLI_FAILURE : CLI_OK;
}

/* Of the cluster, as the control plane sees it: the same form as the machine's. */
static int ask_platform(struct cli *c, const char *path)
{
    mt_auto_json json_t *r = NULL;
    size_t i;
    json_t *k;
    int code = cli_call(c, "GET", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    struct doctor d = {.c = c, .checks = json_array()};
    json_array_foreach(json_object_get(r, "checks"), i, k)
    {
        const char *sev = cli_str(k, "severity"), *mend = cli_str(k, "mend");
        if (!c->json)
            cli_tame(k);
        found(&d, MT_STREQ(sev, "ok") ? OK : MT_STREQ(sev, "warn") ? WARN : BAD, cli_str(k, "check"), cli_str(k, "finding"), *mend ? mend : NULL);
    }
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:b,s:O}", "ok", d.bad == 0, "checks", d.checks);
        (void)cli_print_object(c, "Doctor", j);
    } else if (!c->quiet) {
        (void)printf("%u to mend, %u to look at, %zu fine\n", d.bad, d.warned, json_array_size(d.checks) - d.bad - d.warned);
    }
    json_decref(d.checks);
    return d.bad ? CLI_FAILURE : CLI_OK;
}

int cmd_admin_doctor(struct cli *c)
{
    return ask_platform(c, "/v1/admin/doctor");
}

int cmd_admin_upgrade(struct cli *c)
{
    return ask_platform(c, "/v1/admin/upgrade");
}
