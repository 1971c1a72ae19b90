/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat node add: a Debian machine that is reached by ssh becomes a node, with one command.
 *
 * Everything happens through ssh(1) of this machine, over one connection: what keys, agents, jump hosts and known hosts are is the user's
 * ssh configuration, and no password is asked for. Each step looks first and does only what is missing, so that running it again after a
 * failure goes on where it ended, and on a node that is one already it brings the programs up to date. The enrolment token is made after everything
 * else is in place, goes over stdin, never argv, and is revoked when the join fails. Source: networking.md §1.1, docs/nodes.md.
 */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/spawn.h"
#include "wire/json.h"
#include "wire/toml.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <limits.h>
#include <libgen.h>
#include <sys/stat.h>
#include <unistd.h>

/* packaging/systemd/moat-agent.service, as the Debian package has it (meson.build) */
extern const char mt_agent_unit[];

#define REMOTE_BIN "/usr/lib/moat"
#define REMOTE_CONFIG "/etc/moat/agent.toml"
#define SCRIPT 2048
#define FILE_MAX (256U << 20)
#define SSH_MS 60000          /* one short command */
#define COPY_MS (15 * 60 * 1000)
#define APT_MS (20 * 60 * 1000)
#define READY_MS (3 * 60 * 1000)
#define TOKEN_TTL_S 600

/* What the agent and the programs it starts need of Debian 12. */
#define PACKAGES "ca-certificates e2fsprogs iproute2 kmod libcurl4 libext2fs2 libjansson4 libmnl0 libseccomp2 libssl3 libzstd1 nftables procps" \
                 " wireguard-go wireguard-tools xz-utils zlib1g zstd"

static const char *const programs[] = {"moat-agent", "moat-fetch", "moat-unpack", "moat-vsock", "moat-backup", "moat-edge"};

/* A step has scripts and paths on its stack; all of them inlined into one function would be a frame beyond the limit. */
#define STEP static __attribute__((noinline)) int

struct add {
    struct cli *c;
    const char *host;
    uint64_t port;
    char ssh[256], dir[64], control[96]; /* the folder and socket of the one connection; "" before it is made */
    const char *data_dir;
    char arch[16], address[INET6_ADDRSTRLEN], joined[64]; /* of the machine: amd64 or arm64, where ssh reached it, the node it is already or "" */
    bool systemd, changed; /* a program or the configuration was replaced: the agent is to start again */
    int64_t step_ns;
    json_t *steps;
};

/* ---- ssh ---- */

/* Run @script by the machine's shell, with @input on its stdin. Exit status other than 0: -MT_E_IO with its last line. */
static int remote(struct add *a, const char *script, const void *input, size_t len, struct mt_buf *out, int64_t timeout_ms, struct mt_err *err)
{
    char port[16], path[160];
    mt_auto_free char *home = mt_asprintf("HOME=%s", getenv("HOME") ? getenv("HOME") : "/"),
                      *agent = mt_asprintf("SSH_AUTH_SOCK=%s", getenv("SSH_AUTH_SOCK") ? getenv("SSH_AUTH_SOCK") : "");
    const char *identity = cli_opt(a->c, "identity"), *config = cli_opt(a->c, "ssh-config");
    const char *argv[32], *envp[] = {home, "PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", getenv("SSH_AUTH_SOCK") ? agent : NULL, NULL};
    size_t n = 0;
    if (!home || !agent)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    (void)snprintf(port, sizeof port, "%llu", (unsigned long long)a->port);
    (void)snprintf(path, sizeof path, "ControlPath=%s", a->control);
    const char *const fixed[] = {"ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ControlMaster=auto", "-o", path,
                                 "-o", "ControlPersist=60"};
    for (size_t i = 0; i < MT_ARRAY_LEN(fixed); i++)
        argv[n++] = fixed[i];
    if (config) {
        argv[n++] = "-F";
        argv[n++] = config;
    }
    if (identity) {
        argv[n++] = "-i";
        argv[n++] = identity;
    }
    if (cli_has(a->c, "accept-host-key")) {
        argv[n++] = "-o";
        argv[n++] = "StrictHostKeyChecking=accept-new";
    }
    if (a->port) {
        argv[n++] = "-p";
        argv[n++] = port;
    }
    argv[n++] = a->host;
    argv[n++] = script;
    argv[n] = NULL;
    MT_ASSERT(n < MT_ARRAY_LEN(argv));
    return mt_run_ok(&(struct mt_spawn){.path = a->ssh, .argv = argv, .envp = envp}, input, len, out, timeout_ms, err);
}

static int remote_text(struct add *a, const char *script, struct mt_buf *out, int64_t timeout_ms, struct mt_err *err)
{
    return remote(a, script, NULL, 0, out, timeout_ms, err);
}

/* The one connection, and the folder of its socket: 0700, below /tmp, since the path of a socket has to be short. */
static int open_connection(struct add *a, struct mt_err *err)
{
    int rc = mt_find_program("ssh", "openssh-client", a->ssh, sizeof a->ssh, err);
    if (rc < 0)
        return rc;
    (void)snprintf(a->dir, sizeof a->dir, "/tmp/moat-ssh-XXXXXX");
    if (!mkdtemp(a->dir)) {
        a->dir[0] = '\0';
        return MT_FAIL_ERRNO(err, MT_E_IO, "make a folder below /tmp");
    }
    return mt_fmt(a->control, sizeof a->control, err, "%s/c", a->dir);
}

static void close_connection(struct add *a)
{
    char path[160];
    if (!a->dir[0])
        return;
    (void)snprintf(path, sizeof path, "ControlPath=%s", a->control);
    const char *argv[] = {"ssh", "-o", path, "-O", "exit", a->host, NULL};
    struct mt_err ignored = {0};
    (void)mt_run_ok(&(struct mt_spawn){.path = a->ssh, .argv = argv}, NULL, 0, NULL, 10000, &ignored); /* there may be none */
    (void)unlink(a->control);
    (void)rmdir(a->dir);
}

/* ---- words that go into the machine's shell or configuration ---- */

static bool plain(const char *s, const char *more)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    for (; *s; s++)
        if (!strchr(letters, *s) && !strchr(more, *s))
            return false;
    return true;
}

/* ---- steps ---- */

static void done(struct add *a, const char *step, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void done(struct add *a, const char *step, const char *fmt, ...)
{
    char what[400];
    int64_t now = mt_clock_mono();
    double s = (double)(now - a->step_ns) / 1e9;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    a->step_ns = now;
    json_t *row = json_pack("{s:s, s:f, s:s}", "step", step, "seconds", (double)(int64_t)(s * 1000) / 1000, "result", what);
    if (row)
        cli_tame(row);
    cli_say(a->c, "  %6.2f s  %-9s %s", s, step, row ? cli_str(row, "result") : "");
    (void)json_array_append_new(a->steps, row);
}

/* The value behind @key of a line "KEY VALUE", cut to @size; "" when there is none. */
static void value_of(const char *text, const char *key, char *ret, size_t size)
{
    size_t n = strlen(key);
    *ret = '\0';
    for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (strncmp(p, key, n) == 0 && p[n] == ' ')
            (void)snprintf(ret, size, "%.*s", (int)strcspn(p + n + 1, "\n"), p + n + 1);
}

STEP look(struct add *a, struct mt_err *err)
{
    static const char fmt[] = "set -u; echo uid $(id -u); echo arch $(uname -m); . /etc/os-release 2>/dev/null; echo os ${ID:-unknown} ${VERSION_ID:-};"
                              " echo ssh ${SSH_CONNECTION:-}; [ ! -d /run/systemd/system ] || echo systemd yes;"
                              " [ ! -e %s/keys/identity.json ] || echo identity $(tr -d '\\n' < %s/keys/identity.json)";
    mt_auto_buf struct mt_buf script = MT_BUF_INIT(4096), out = MT_BUF_INIT(65536);
    char uid[16], arch[32], os[64], conn[160], identity[4096], yes[8];
    unsigned version = 0;
    mt_buf_printf(&script, fmt, a->data_dir, a->data_dir);
    int rc = remote_text(a, mt_buf_cstr(&script), &out, SSH_MS, err);
    if (rc < 0)
        return rc;
    const char *text = mt_buf_cstr(&out);
    value_of(text, "uid", uid, sizeof uid);
    value_of(text, "arch", arch, sizeof arch);
    value_of(text, "os", os, sizeof os);
    value_of(text, "ssh", conn, sizeof conn);
    value_of(text, "systemd", yes, sizeof yes);
    value_of(text, "identity", identity, sizeof identity);
    a->systemd = MT_STREQ(yes, "yes");
    if (!MT_STREQ(uid, "0"))
        return MT_FAIL(err, MT_E_DENIED, "who logs in there has uid %.10s: log in as root (root@HOST, or User in ~/.ssh/config)", uid);
    if (sscanf(os, "debian %u", &version) != 1 || version < 12)
        return MT_FAIL(err, MT_E_INVALID, "it runs '%.40s'; moat runs on Debian 12 and newer", os);
    (void)snprintf(a->arch, sizeof a->arch, "%s", MT_STREQ(arch, "x86_64") ? "amd64" : MT_STREQ(arch, "aarch64") ? "arm64" : "other");
#if defined(__x86_64__)
    static const char ours[] = "amd64";
#else
    static const char ours[] = "arm64";
#endif
    if (!MT_STREQ(a->arch, ours) && !cli_has(a->c, "programs"))
        return MT_FAIL(err, MT_E_INVALID, "it is %.20s and the programs here are %s: run this on a machine of its kind, or give --programs", arch, ours);
    char client[64], server[64];
    unsigned cport, sport;
    if (sscanf(conn, "%63s %u %63s %u", client, &cport, server, &sport) == 4 && plain(server, ".:"))
        (void)snprintf(a->address, sizeof a->address, "%.45s", server);
    json_error_t je;
    mt_auto_json json_t *id = *identity ? json_loads(identity, 0, &je) : NULL;
    const char *node = cli_str(id, "node_id");
    if (*identity && !(mt_starts_with(node, "node_") && strlen(node) == 31 && plain(node, "_")))
        return MT_FAIL(err, MT_E_CORRUPT, "%s/keys/identity.json there is not one of a node", a->data_dir);
    (void)snprintf(a->joined, sizeof a->joined, "%s", node);
    done(a, "connect", "%s, %s%s%s", os, a->arch, *a->joined ? ", already node " : "", a->joined);
    return 0;
}

STEP packages(struct add *a, struct mt_err *err)
{
    static const char fmt[] =
        "set -eu; missing=; for p in " PACKAGES " %s; do"
        " [ \"$(dpkg-query -W -f '${db:Status-Status}' $p 2>/dev/null)\" = installed ] || missing=\"$missing $p\"; done;"
        " [ -n \"$missing\" ] || exit 0; export DEBIAN_FRONTEND=noninteractive;"
        " apt-get update -q > /dev/null; apt-get install -y -q --no-install-recommends $missing > /dev/null; echo $missing";
    mt_auto_buf struct mt_buf script = MT_BUF_INIT(4096), out = MT_BUF_INIT(4096);
    mt_buf_printf(&script, fmt, MT_STREQ(a->arch, "arm64") ? "qemu-system-arm" : "qemu-system-x86");
    int rc = remote_text(a, mt_buf_cstr(&script), &out, APT_MS, err);
    if (rc < 0)
        return mt_err_wrap(err, "packages");
    const char *text = mt_buf_cstr(&out);
    done(a, "packages", *text ? "installed %.*s" : "all there%.*s", (int)strcspn(text, "\n"), text);
    return 0;
}

/* One file to @to on the machine, whole or not at all. */
static int copy_file(struct add *a, const char *from, const char *to, const char *mode, size_t *ret_bytes, struct mt_err *err)
{
    char script[SCRIPT];
    mt_auto_free char *data = NULL;
    size_t len = 0;
    int rc = mt_file_read(from, FILE_MAX, &data, &len, err);
    if (rc == 0)
        rc = mt_fmt(script, sizeof script, err, "set -eu; umask 077; cat > '%s.new'; chmod %s '%s.new'; mv -f '%s.new' '%s'", to, mode, to, to, to);
    if (rc == 0)
        rc = remote(a, script, data, len, NULL, COPY_MS, err);
    *ret_bytes += rc == 0 ? len : 0;
    return rc < 0 ? mt_err_wrap(err, "copy '%s'", to) : 0;
}

STEP copy_programs(struct add *a, const char *from, struct mt_err *err)
{
    static const char prepare[] = "set -eu; mkdir -p " REMOTE_BIN " /etc/moat; for u in moat-edge moat-control; do getent passwd $u > /dev/null ||"
                                  " useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin $u; done;"
                                  " cd " REMOTE_BIN "; sha256sum moat-* 2> /dev/null || :";
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(65536);
    size_t bytes = 0, copied = 0;
    int rc = remote_text(a, prepare, &out, SSH_MS, err);
    for (size_t i = 0; rc == 0 && i < MT_ARRAY_LEN(programs); i++) {
        char path[PATH_MAX], to[128], have[MT_SHA256_HEX + 64], sum[MT_SHA256_HEX];
        if ((rc = mt_fmt(path, sizeof path, err, "%s/%s", from, programs[i])) < 0 || (rc = mt_sha256_file(path, sum, err)) < 0)
            break;
        (void)snprintf(have, sizeof have, "%s  %s\n", sum, programs[i]);
        if (strstr(mt_buf_cstr(&out), have))
            continue;
        (void)snprintf(to, sizeof to, REMOTE_BIN "/%s", programs[i]);
        rc = copy_file(a, path, to, "755", &bytes, err);
        copied++;
    }
    if (rc < 0)
        return mt_err_wrap(err, "programs");
    a->changed = a->changed || copied > 0;
    if (copied)
        done(a, "programs", "%zu of %zu copied, %.1f MiB", copied, MT_ARRAY_LEN(programs), (double)bytes / 1048576);
    else
        done(a, "programs", "all there");
    return 0;
}

/* What tells one copy of a bundle from another: its manifest, and the signature of it if there is one. */
static int bundle_sum(const char *dir, char ret[MT_SHA256_HEX], struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_free char *manifest = NULL, *sig = NULL;
    size_t len = 0, sig_len = 0;
    uint8_t sum[MT_SHA256_LEN];
    int rc = mt_fmt(path, sizeof path, err, "%s/manifest.json", dir);
    if (rc == 0)
        rc = mt_file_read(path, 65536, &manifest, &len, err);
    if (rc == 0)
        rc = mt_fmt(path, sizeof path, err, "%s/manifest.sig", dir);
    if (rc < 0)
        return rc;
    if (access(path, F_OK) == 0 && (rc = mt_file_read(path, 4096, &sig, &sig_len, err)) < 0)
        return rc;
    if ((rc = mt_sha256_two(manifest, len, sig ? sig : "", sig_len, sum, err)) < 0)
        return rc;
    for (size_t i = 0; i < sizeof sum; i++)
        (void)snprintf(ret + 2 * i, 3, "%02x", sum[i]);
    return 0;
}

/* The kernel bundle: a folder of plain files, copied beside and then renamed; `current` points to it. */
STEP copy_bundle(struct add *a, const char *given, struct mt_err *err)
{
    char from[PATH_MAX], script[SCRIPT], sum[MT_SHA256_HEX], to[512];
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(4096);
    size_t bytes = 0, files = 0;
    if (!realpath(given, from))
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "kernel bundle '%s': `moat up` or packaging/bundle/make-bundle makes one; --bundle names it", given);
    const char *name = strrchr(from, '/') + 1;
    if (!*name || !plain(name, "._+-") || name[0] == '.')
        return MT_FAIL(err, MT_E_INVALID, "the bundle's folder is called '%s'", name);
    int rc = bundle_sum(from, sum, err);
    if (rc == 0)
        rc = mt_fmt(script, sizeof script, err, "set -eu; mkdir -p '%s/boot'; cd '%s/boot'; rm -rf new; [ ! -e '%s' ] || cat '%s/manifest.json' $(ls '%s/manifest.sig' 2>/dev/null) | sha256sum; mkdir new",
                    a->data_dir, a->data_dir, name, name, name);
    if (rc == 0)
        rc = remote_text(a, script, &out, SSH_MS, err);
    if (rc < 0)
        return mt_err_wrap(err, "bundle");
    if (strncmp(mt_buf_cstr(&out), sum, strlen(sum)) != 0) {
        DIR *d = opendir(from);
        if (!d)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read '%s'", from);
        for (struct dirent *e; rc == 0 && (e = readdir(d));) {
            char path[PATH_MAX];
            struct stat st;
            if ((rc = mt_fmt(path, sizeof path, err, "%s/%s", from, e->d_name)) < 0)
                break;
            if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || !plain(e->d_name, "._+-"))
                continue;
            if ((rc = mt_fmt(to, sizeof to, err, "%s/boot/new/%s", a->data_dir, e->d_name)) == 0)
                rc = copy_file(a, path, to, "644", &bytes, err);
            files++;
        }
        (void)closedir(d);
        if (rc == 0)
            rc = mt_fmt(script, sizeof script, err, "set -eu; cd '%s/boot'; rm -rf '%s'; chmod 755 new; mv new '%s'; ln -sfn '%s' current; sync -f .", a->data_dir, name, name, name);
    } else {
        rc = mt_fmt(script, sizeof script, err, "set -eu; cd '%s/boot'; rmdir new; ln -sfn '%s' current", a->data_dir, name);
    }
    if (rc == 0)
        rc = remote_text(a, script, NULL, SSH_MS, err);
    if (rc < 0)
        return mt_err_wrap(err, "bundle");
    if (files)
        done(a, "bundle", "%s, %zu files, %.1f MiB", name, files, (double)bytes / 1048576);
    else
        done(a, "bundle", "%s is there", name);
    return 0;
}

STEP configure(struct add *a, struct mt_err *err)
{
    static const char keep[] = "set -eu; if [ -e " REMOTE_CONFIG " ]; then echo kept; else cat > " REMOTE_CONFIG ".new; chmod 600 " REMOTE_CONFIG ".new;"
                               " mv " REMOTE_CONFIG ".new " REMOTE_CONFIG "; fi";
    static const char take[] = "set -eu; cat > " REMOTE_CONFIG ".new; chmod 600 " REMOTE_CONFIG ".new; if cmp -s " REMOTE_CONFIG ".new " REMOTE_CONFIG ";"
                               " then rm " REMOTE_CONFIG ".new; echo kept; else mv " REMOTE_CONFIG ".new " REMOTE_CONFIG "; fi";
    const char *given = cli_opt(a->c, "agent-config");
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(65536), out = MT_BUF_INIT(256);
    mt_auto_free char *file = NULL;
    size_t len;
    if (given) {
        int rc = mt_file_read(given, 65536, &file, &len, err);
        if (rc < 0)
            return rc;
        mt_buf_put(&text, file, len);
    } else {
        mt_buf_printf(&text, "# made by `moat node add`; `moat-agent --config-help` tells of every setting\ndata_dir = \"%s\"\nbin_dir = \"" REMOTE_BIN "\"\n"
                             "host_firewall = \"full\"\nfirewall_open = [\"%llu\"%s]\n", a->data_dir, (unsigned long long)(a->port ? a->port : 22),
                      cli_has(a->c, "roles") && strstr(cli_opt(a->c, "roles"), "edge") ? ", \"443\"" : "");
    }
    int rc = remote(a, given ? take : keep, text.p, text.len, &out, SSH_MS, err);
    if (rc < 0)
        return mt_err_wrap(err, "configuration");
    bool kept = strncmp(mt_buf_cstr(&out), "kept", 4) == 0;
    a->changed = a->changed || !kept;
    done(a, "configure", kept ? REMOTE_CONFIG " kept as it is" : REMOTE_CONFIG " written");
    return 0;
}

STEP service(struct add *a, struct mt_err *err)
{
    static const char put[] = "set -eu; f=/etc/systemd/system/moat-agent.service; cat > $f.new; if cmp -s $f.new $f; then rm $f.new; echo kept; else mv $f.new $f; fi;"
                              " systemctl daemon-reload; systemctl enable -q moat-agent";
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(256);
    if (!a->systemd) {
        done(a, "service", "no systemd there: started now, and by you after a reboot");
        return 0;
    }
    if (remote(a, put, mt_agent_unit, strlen(mt_agent_unit), &out, SSH_MS, err) < 0)
        return mt_err_wrap(err, "service");
    done(a, "service", strncmp(mt_buf_cstr(&out), "kept", 4) == 0 ? "moat-agent.service is there" : "moat-agent.service written and enabled");
    return 0;
}

/* Is the node that the machine says it is one of ours, and still trusted? Exit code. */
static int known(struct add *a, bool *ret)
{
    mt_auto_json json_t *n = NULL;
    char path[120];
    (void)snprintf(path, sizeof path, "/v1/nodes/%s", a->joined);
    int code = cli_call_allow(a->c, "GET", path, NULL, 404, &n);
    *ret = n && !MT_STREQ(cli_str(n, "admin_state"), "disabled");
    return code;
}

/* "worker,edge" as an array; NULL when memory is out. */
static json_t *roles_of(const char *list)
{
    json_t *r = json_array();
    while (r && *list) {
        size_t n = strcspn(list, ",");
        if (n)
            (void)json_array_append_new(r, json_stringn(list, n));
        list += n + (list[n] == ',');
    }
    return r;
}

/* Exit code; the error has been printed. */
static int join(struct add *a)
{
    struct cli *c = a->c;
    const char *name = cli_opt(c, "name"), *endpoint;
    mt_auto_json json_t *body = json_pack("{s:i, s:o}", "ttl_seconds", TOKEN_TTL_S, "roles", roles_of(cli_has(c, "roles") ? cli_opt(c, "roles") : "worker")), *made = NULL;
    mt_auto_buf struct mt_buf script = MT_BUF_INIT(8192);
    struct mt_err err = {0};
    char path[120];
    if (!body)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (name)
        (void)json_object_set_new(body, "node_name", json_string(name));
    int code = cli_call(c, "POST", "/v1/enrollment-tokens", body, &made);
    if (code != CLI_OK)
        return code;
    const char *at = cli_has(c, "control") ? cli_opt(c, "control") : cli_str(made, "control_address");
    int rc = *at && plain(at, ".:-[]") ? 0 : MT_FAIL(&err, MT_E_INVALID, "the control plane has no address for nodes: set listen_nodes and nodes_address there");
    if (rc == 0) {
        mt_buf_printf(&script, REMOTE_BIN "/moat-agent --config " REMOTE_CONFIG " join --control '%s' --token -", at);
        if (name)
            mt_buf_printf(&script, " --name '%s'", name);
        for (size_t i = 0; (endpoint = cli_opt_n(c, "endpoint", i)); i++)
            mt_buf_printf(&script, " --endpoint '%s'", endpoint);
        if (!cli_has(c, "endpoint") && *a->address)
            mt_buf_printf(&script, strchr(a->address, ':') ? " --endpoint '[%s]:51820'" : " --endpoint '%s:51820'", a->address);
        rc = remote(a, mt_buf_cstr(&script), cli_str(made, "token"), strlen(cli_str(made, "token")), NULL, SSH_MS, &err);
    }
    if (rc < 0) {
        mt_auto_json json_t *gone = NULL;
        char why[400];
        (void)snprintf(path, sizeof path, "/v1/enrollment-tokens/%s", cli_str(made, "id"));
        (void)cli_call_allow(c, "DELETE", path, NULL, 409, &gone); /* used by the very join that failed later */
        (void)snprintf(why, sizeof why, "%.280s", err.msg);
        return cli_error_reason(c, CLI_FAILURE, "join_failed", why, "docs/nodes.md has what is refused and why; run it again when that is mended");
    }
    mt_auto_buf struct mt_buf again = MT_BUF_INIT(65536);
    char cat[160];
    json_error_t je;
    (void)snprintf(cat, sizeof cat, "cat '%s/keys/identity.json'", a->data_dir);
    if (remote_text(a, cat, &again, SSH_MS, &err) < 0)
        return cli_fail(c, &err, NULL);
    mt_auto_json json_t *id = json_loads(mt_buf_cstr(&again), 0, &je);
    (void)snprintf(a->joined, sizeof a->joined, "%.60s", cli_str(id, "node_id"));
    a->changed = true;
    done(a, "join", "node %s", a->joined);
    return CLI_OK;
}

STEP start(struct add *a, struct mt_err *err)
{
    char script[SCRIPT];
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(256);
    int rc = a->systemd
                 ? mt_fmt(script, sizeof script, err, "set -eu; if [ %d = 0 ] && systemctl is-active -q moat-agent; then echo kept; else systemctl restart moat-agent; fi", a->changed)
                 : mt_fmt(script, sizeof script, err,
                          "set -u; f='%s/run/moat-agent.pid'; mkdir -p '%s/run'; p=$(cat $f 2>/dev/null || echo 0);"
                          " if [ \"$(cat /proc/$p/comm 2>/dev/null)\" = moat-agent ]; then [ %d = 1 ] || { echo kept; exit 0; }; kill $p;"
                          " i=0; while [ -d /proc/$p ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i+1)); done; fi;"
                          " setsid " REMOTE_BIN "/moat-agent --config " REMOTE_CONFIG " < /dev/null >> /var/log/moat-agent.log 2>&1 & echo $! > $f",
                          a->data_dir, a->data_dir, a->changed);
    if (rc == 0)
        rc = remote_text(a, script, &out, SSH_MS, err);
    if (rc < 0)
        return mt_err_wrap(err, "start");
    done(a, "start", strncmp(mt_buf_cstr(&out), "kept", 4) == 0 ? "the agent runs" : "the agent was started");
    return 0;
}

/* Until the node is heard and ready, or waits for an operator. Exit code. */
static int wait_ready(struct add *a, json_t **ret)
{
    struct cli *c = a->c;
    int64_t began = mt_clock_mono(), limit_ms = cli_has(c, "wait-timeout") ? c->wait_ms : READY_MS;
    char path[120], what[240];
    (void)snprintf(path, sizeof path, "/v1/nodes/%s", a->joined);
    cli_catch_interrupt(c, "the start of the node", "moat nodes");
    for (;;) {
        mt_auto_json json_t *n = NULL;
        int code = cli_call(c, "GET", path, NULL, &n);
        if (code != CLI_OK)
            return code;
        const char *state = cli_str(n, "admin_state"), *health = cli_str(n, "health");
        /* a node begins as ready, before anybody heard it: its first word on its VMM comes with a heartbeat, and while it probes it is not ready */
        const char *driver = cli_str(n, "vmm.driver");
        bool waits = MT_STREQ(state, "pending_approval"), heard = *driver && !MT_STREQ(driver, "probing");
        if (waits || (heard && MT_STREQ(health, "ready"))) {
            done(a, "ready", waits ? "%s waits for `moat node activate`" : "%s is ready", cli_str(n, "name"));
            *ret = json_incref(n);
            return CLI_OK;
        }
        if ((mt_clock_mono() - began) / MT_NS_PER_MS >= limit_ms) {
            json_t *conditions = json_object_get(n, "conditions");
            (void)snprintf(what, sizeof what, "node %.40s has joined and is %.20s%s%.60s", cli_str(n, "name"), health, json_array_size(conditions) ? ": " : "",
                           json_array_size(conditions) ? json_string_value(json_array_get(conditions, 0)) : "");
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", what, "moat node describe NODE; the agent's log is in the journal, or in /var/log/moat-agent.log");
        }
        (void)usleep(300000);
    }
}

/* What the given agent.toml says of its data folder is what holds there; by another one keys and bundle would be looked for where they are not. */
static int data_dir_of(struct cli *c, struct add *a, char *ret, size_t size)
{
    const char *path = cli_opt(c, "agent-config");
    mt_auto_free char *text = NULL;
    mt_auto_toml struct mt_toml *t = NULL;
    struct mt_err err = {0};
    size_t len;
    if (!path)
        return CLI_OK;
    int rc = mt_file_read(path, 65536, &text, &len, &err);
    if (rc == 0)
        rc = mt_toml_parse(text, len, &t, &err);
    if (rc < 0)
        return cli_fail(c, &err, NULL);
    if (t->n_problems)
        return cli_usage(c, "%s:%u: %s", path, (unsigned)t->problems[0].pos.line, t->problems[0].message);
    for (size_t i = 0; i < t->root->table.n; i++) {
        const struct mt_toml_entry *e = &t->root->table.v[i];
        if (!MT_STREQ(e->key, "data_dir") || e->value->type != MT_TOML_STRING)
            continue;
        (void)snprintf(ret, size, "%s", e->value->string.s);
        if (cli_has(c, "node-data-dir") && !MT_STREQ(a->data_dir, ret))
            return cli_usage(c, "--node-data-dir is %s, and %s says data_dir = \"%s\"", a->data_dir, path, ret);
        a->data_dir = ret;
    }
    return CLI_OK;
}

static int check_words(struct cli *c, struct add *a)
{
    const char *endpoint;
    if (!*a->host || *a->host == '-' || strlen(a->host) > 255 || !plain(a->host, "@._:%-[]"))
        return cli_usage(c, "'%.60s' is no [USER@]HOST", a->host);
    if (cli_has(c, "ssh-port") && mt_parse_u64(cli_opt(c, "ssh-port"), 1, 65535, &a->port, NULL) < 0)
        return cli_usage(c, "--ssh-port is a number from 1 to 65535");
    if (cli_has(c, "name") && (!*cli_opt(c, "name") || !plain(cli_opt(c, "name"), "-")))
        return cli_usage(c, "--name is letters, digits and -");
    for (size_t i = 0; (endpoint = cli_opt_n(c, "endpoint", i)); i++)
        if (!plain(endpoint, ".:[]"))
            return cli_usage(c, "--endpoint is ADDRESS:PORT");
    if (a->data_dir[0] != '/' || strlen(a->data_dir) > 80 || !plain(a->data_dir, "/._-") || strstr(a->data_dir, ".."))
        return cli_usage(c, "--node-data-dir is an absolute path of letters, digits and /._-");
    return CLI_OK;
}

static int prepare(struct add *a, const char *bin, const char *bundle)
{
    struct cli *c = a->c;
    struct mt_err err = {0};
    bool ours = false;
    if (open_connection(a, &err) < 0 || look(a, &err) < 0)
        return cli_fail(c, &err, "ssh asks for nothing here: `ssh HOST true` has to work without a password, and the host has to be known (or --accept-host-key)");
    if (*a->joined) {
        int code = known(a, &ours);
        if (code != CLI_OK)
            return code;
        if (!ours)
            return cli_error_reason(c, CLI_CONFLICT, "other_identity", "the machine has the identity of a node that this platform does not know, or has disabled",
                                    "to enrol it anew, stop moat-agent there and remove keys/ from its data folder");
    }
    if (packages(a, &err) < 0 || copy_programs(a, bin, &err) < 0 || copy_bundle(a, bundle, &err) < 0 || configure(a, &err) < 0 || service(a, &err) < 0)
        return cli_fail(c, &err, "run it again when that is mended: what is done stays done");
    if (ours)
        done(a, "join", "is node %s already", a->joined);
    else {
        int code = join(a);
        if (code != CLI_OK)
            return code;
    }
    return start(a, &err) < 0 ? cli_fail(c, &err, "run it again when that is mended: what is done stays done") : CLI_OK;
}

int cmd_node_add(struct cli *c)
{
    mt_auto_json json_t *steps = json_array(), *node = NULL;
    char self[PATH_MAX] = "", bundle[PATH_MAX], data_dir[96];
    struct add a = {.c = c, .host = c->argv[0], .data_dir = cli_has(c, "node-data-dir") ? cli_opt(c, "node-data-dir") : "/var/lib/moat", .step_ns = mt_clock_mono(), .steps = steps};
    int code = data_dir_of(c, &a, data_dir, sizeof data_dir);
    if (code == CLI_OK)
        code = check_words(c, &a);
    if (code == CLI_OK)
        code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    const char *bin = cli_has(c, "programs") ? cli_opt(c, "programs") : dirname(self);
    (void)snprintf(bundle, sizeof bundle, "%s", cli_has(c, "bundle") ? cli_opt(c, "bundle") : "/var/lib/moat/boot/current");
    code = prepare(&a, bin, bundle);
    close_connection(&a);
    if (code == CLI_OK)
        code = wait_ready(&a, &node);
    if (code != CLI_OK || !c->json)
        return code;
    mt_auto_json json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:O}", "id", cli_str(node, "id"), "name", cli_str(node, "name"), "admin_state", cli_str(node, "admin_state"), "health",
                                       cli_str(node, "health"), "steps", steps);
    return cli_print_object(c, "NodeAdded", o);
}
