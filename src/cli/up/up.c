/* SPDX-License-Identifier: Apache-2.0 */
/* `moat up`: start or adopt every program of a platform on this machine, supervise them until Ctrl-C (ruling R24). */
#include "cli/up/up.h"
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/sock.h"
#include "os/spawn.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

struct run {
    struct up u;
    struct cli *c;
    struct mt_source *notify, *watchdog, *settle, *log_timer; /* settle: looks again for what a first start makes last */
    int notify_fd;
    int64_t began, deadline;
    bool announced, stopping;
    int code;
    int tell_fd; /* --detach: the waiting parent's pipe, -1 */
};

enum { READY_LIMIT_MS = 60000, SETTLE_MS = 20, LOG_CHECK_MS = 60000, LOG_LIMIT = 32 << 20 };

static void step(struct run *r, const char *name, const char *detail, int64_t since)
{
    cli_say(r->c, "  %s✓%s %-12s %-44s %5.2f s", cli_color(r->c, "green"), cli_color(r->c, "reset"), name, detail,
            (double)(mt_clock_mono() - since) / 1e9);
}

static void tell(struct run *r, char what)
{
    if (r->tell_fd >= 0)
        (void)!write(r->tell_fd, &what, 1);
    mt_closep(&r->tell_fd);
}

static const char *detail_of(const struct run *r, int i, char *ret, size_t size)
{
    const struct up_layout *l = &r->u.layout;
    const struct service *s = &r->u.services[i];
    const char *how = s->adopted ? " (was running)" : "";
    if (i == UP_REGISTRY)
        (void)snprintf(ret, size, "%s%s", l->registry, how);
    else if (i == UP_EDGE)
        (void)snprintf(ret, size, "[%s]:%u%s", l->listen, l->tls_port, how);
    else if (i == UP_CONTROL)
        (void)snprintf(ret, size, "%s/run/control/api.sock%s", l->dir, how);
    else
        (void)snprintf(ret, size, "pid %d%s", (int)s->pid, how);
    return ret;
}

static bool all_ready(const struct run *r)
{
    for (int i = 0; i < UP_MAX; i++)
        if (r->u.services[i].argv[0] && r->u.services[i].state != SERVICE_READY)
            return false;
    return true;
}

/* Control answers before its first start has made the operator's token; without it the user's next command would be refused. */
static bool has_token(const struct run *r)
{
    char path[UP_PATH];
    return access(up_path(&r->u.layout, path, "control/operator.token"), F_OK) == 0;
}

static void start(struct run *r, int i)
{
    struct mt_err err;
    if (r->u.services[i].argv[0] && service_start(&r->u.services[i], &err) < 0)
        mt_log(MT_ERROR, "service.start_failed", KV("service", r->u.services[i].name), KV_ERR(&err));
}

/* From here on nobody reads our terminal: what is said goes to log/up.log, and the parent's pipes are let go. */
static void leave_terminal(struct run *r)
{
    char path[UP_PATH];
    mt_auto_fd int log = open(up_path(&r->u.layout, path, "log/up.log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (log < 0)
        return;
    (void)fflush(NULL);
    mt_auto_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0)
        (void)dup2(null, STDIN_FILENO);
    (void)dup2(log, STDOUT_FILENO);
    (void)dup2(log, STDERR_FILENO);
}

static void announce(struct run *r)
{
    const struct up_layout *l = &r->u.layout;
    r->announced = true;
    mt_log_level(MT_INFO); /* until here the steps above tell it better */
    mt_loop_timer_set(r->watchdog, -1);
    if (r->c->json) {
        mt_auto_json json_t *j = json_pack("{s:s,s:s,s:s,s:i,s:I}", "data_dir", l->dir, "api", r->u.services[UP_CONTROL].argv[2], "registry", l->registry,
                                           "tls_port", (int)l->tls_port, "ready_ms", (json_int_t)((mt_clock_mono() - r->began) / MT_NS_PER_MS));
        (void)cli_print_object(r->c, "Up", j);
    }
    cli_say(r->c, "ready in %.1f s", (double)(mt_clock_mono() - r->began) / 1e9);
    if (!MT_STREQ(l->dir, "/var/lib/moat"))
        cli_say(r->c, "  export MOAT_CONFIG=%s/etc/cli.toml", l->dir);
    cli_say(r->c, "  registry %s   try: moat run %s/IMAGE --port 8443 --hostname app.example.com", l->registry, l->registry);
    if (r->tell_fd < 0)
        cli_say(r->c, "  Ctrl-C stops everything; with --detach it goes on in the background");
    if (r->tell_fd >= 0)
        leave_terminal(r);
    tell(r, 'R');
}

static void announce_when_ready(struct run *r)
{
    if (r->announced || r->stopping || !all_ready(r))
        return;
    if (has_token(r))
        announce(r);
    else
        mt_loop_timer_after(r->settle, SETTLE_MS);
}

static void on_settle(struct mt_source *t, void *arg)
{
    (void)t;
    announce_when_ready(arg);
}

/* What may start once another is ready: control needs PostgreSQL; agent and edge need nobody, they wait by themselves. */
static void changed(struct service *s, enum service_state from)
{
    struct run *r = s->arg;
    char text[UP_PATH + 64];
    int i = (int)(s - r->u.services);
    if (s->state == SERVICE_READY) {
        if (!r->announced)
            step(r, s->name, detail_of(r, i, text, sizeof text), s->adopted ? mt_clock_mono() : s->started_ns);
        else if (from == SERVICE_STARTING)
            mt_log(MT_INFO, "service.ready", KV("service", s->name), KV("pid", s->pid));
        if (i == UP_POSTGRES && r->u.services[UP_CONTROL].state == SERVICE_DOWN && !r->stopping)
            start(r, UP_CONTROL);
    }
    announce_when_ready(r);
    if (r->stopping && s->state == SERVICE_ENDED)
        mt_loop_stop(r->u.loop, 0);
}

static void on_notify(struct mt_source *src, int fd, uint32_t ev, void *arg)
{
    struct run *r = arg;
    char text[256], cbuf[CMSG_SPACE(sizeof(struct ucred))];
    (void)src;
    (void)ev;
    for (int budget = 0; budget < 16; budget++) {
        struct iovec io = {text, sizeof text - 1};
        struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = cbuf, .msg_controllen = sizeof cbuf};
        ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
        if (n < 0)
            return;
        text[n] = '\0';
        const struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        if (!h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_CREDENTIALS || !strstr(text, "READY=1"))
            continue;
        struct ucred cred;
        memcpy(&cred, CMSG_DATA(h), sizeof cred);
        for (int i = 0; i < UP_MAX; i++) /* only the program itself may call itself ready */
            if (cred.pid > 0 && r->u.services[i].pid == cred.pid)
                service_ready(&r->u.services[i]);
    }
}

static int open_notify(struct run *r, struct mt_err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    up_path(&r->u.layout, r->u.notify, "run/notify.sock");
    if (mt_fmt(a.sun_path, sizeof a.sun_path, err, "%s", r->u.notify) < 0)
        return -MT_E_LIMIT;
    r->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;
    if (r->notify_fd < 0 || (unlink(a.sun_path) < 0 && errno != ENOENT) || bind(r->notify_fd, (struct sockaddr *)&a, sizeof a) < 0 ||
        chmod(a.sun_path, 0660) < 0 || chown(a.sun_path, 0, r->u.layout.users.moat) < 0 ||
        setsockopt(r->notify_fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", a.sun_path);
    r->notify = mt_loop_fd(r->u.loop, "notify", r->notify_fd, EPOLLIN, on_notify, r, err);
    return r->notify ? 0 : -MT_E_NOMEM;
}

static void print_log_tail(struct run *r, const struct service *s)
{
    mt_auto_fd int fd = open(s->log_path, O_RDONLY | O_CLOEXEC);
    char text[2049];
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return;
    off_t from = st.st_size > 2048 ? st.st_size - 2048 : 0;
    ssize_t n = pread(fd, text, sizeof text - 1, from);
    if (n <= 0)
        return;
    text[n] = '\0';
    char *p = text;
    unsigned lines = 0;
    for (ssize_t i = n - 1; i > 0 && lines < 6; i--)
        if (text[i - 1] == '\n' && ++lines == 5)
            p = text + i;
    cli_say(r->c, "last lines of %s:", s->log_path);
    for (char *line, *save = NULL; (line = strtok_r(p, "\n", &save)); p = NULL) { /* daemons log what strangers sent them */
        mt_make_printable(line);
        cli_say(r->c, "%s", line);
    }
}

static void on_watchdog(struct mt_source *t, void *arg)
{
    struct run *r = arg;
    char what[300] = "";
    (void)t;
    for (int i = 0; i < UP_MAX; i++)
        if (r->u.services[i].argv[0] && r->u.services[i].state != SERVICE_READY) {
            size_t used = strlen(what);
            (void)snprintf(what + used, sizeof what - used, "%s%s", used ? ", " : "", r->u.services[i].name);
            print_log_tail(r, &r->u.services[i]);
        }
    if (!*what) {
        (void)snprintf(what, sizeof what, "%s", "control (it has not made control/operator.token)");
        print_log_tail(r, &r->u.services[UP_CONTROL]);
    }
    char text[400];
    (void)snprintf(text, sizeof text, "not ready after %d s: %s", READY_LIMIT_MS / 1000, what);
    r->code = cli_error(r->c, CLI_TRANSIENT, text, "the logs are in the data folder, log/");
    mt_loop_stop(r->u.loop, 1);
}

static void on_log_check(struct mt_source *t, void *arg)
{
    struct run *r = arg;
    char path[UP_PATH];
    for (int i = 0; i < UP_MAX; i++)
        if (r->u.services[i].log_path)
            service_trim_log(r->u.services[i].log_path, LOG_LIMIT);
    service_trim_log(up_path(&r->u.layout, path, "log/up.log"), LOG_LIMIT);
    mt_loop_timer_after(t, LOG_CHECK_MS);
}

static void on_signal(struct mt_source *s, int signo, void *arg)
{
    struct run *r = arg;
    (void)s;
    if (signo == SIGINT)
        (void)putc(0x0a, stderr);
    mt_loop_stop(r->u.loop, 1);
}

/* The bundle in use fits: made of this very moat-init, and the archive was asked for a newer kernel less than a day ago. */
static bool bundle_is_fresh(const struct up_layout *l, char *ret_version, size_t size)
{
    char path[UP_PATH], init[UP_PATH + 16], hash[MT_SHA256_HEX];
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *j = NULL;
    const char *version, *init_hash;
    struct stat st;
    size_t n;
    up_path(l, path, "boot/current/manifest.json");
    (void)snprintf(init, sizeof init, "%s/moat-init", l->bin);
    if (stat(path, &st) < 0 || time(NULL) - st.st_mtime > 86400 || mt_file_read(path, 65536, &text, &n, NULL) < 0 ||
        mt_json_parse(text, n, 65536, 8, &j, NULL) < 0 || mt_json_get_str(j, "version", 64, &version, NULL) < 0 ||
        mt_json_get_str(j, "init_sha256", 64, &init_hash, NULL) < 0 || mt_sha256_file(init, hash, NULL) < 0 || !MT_STREQ(hash, init_hash))
        return false;
    (void)snprintf(ret_version, size, "%s", version);
    return true;
}

/* The kernel bundle, made once from the Debian archive and found again by its version. */
static int make_bundle(struct run *r, char *ret_version, size_t size, struct mt_err *err)
{
    char builder[UP_PATH + 32], init[UP_PATH + 16], out[UP_PATH];
    const struct up_layout *l = &r->u.layout;
    if (bundle_is_fresh(l, ret_version, size))
        return 0;
    if (mt_fmt(builder, sizeof builder, err, "%s/bundle/make-bundle", l->share) < 0 || mt_fmt(init, sizeof init, err, "%s/moat-init", l->bin) < 0)
        return -MT_E_LIMIT;
    up_path(l, out, "boot");
    const char *argv[] = {"make-bundle", "--init", init, "--out", out, "--cache", "/var/cache/moat", NULL};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(8192);
    int rc = mt_run_ok(&(struct mt_spawn){.path = builder, .argv = argv}, NULL, 0, &b, 600000, err);
    if (rc < 0)
        return mt_err_wrap(err, "kernel bundle");
    char *text = (char *)(uintptr_t)mt_buf_cstr(&b);
    text[strcspn(text, "\n")] = '\0';
    const char *base = strrchr(text, '/');
    (void)snprintf(ret_version, size, "%s", base ? base + 1 : text);
    return 0;
}

static int prepare(struct run *r, struct mt_err *err)
{
    struct up_layout *l = &r->u.layout;
    int64_t t = mt_clock_mono();
    char version[80];
    int rc = up_users_make(&l->users, err);
    if (rc == 0)
        rc = up_layout_make(l, err);
    if (rc == 0)
        rc = up_programs_install(l, err);
    if (rc == 0)
        rc = up_choose_ports(l, !cli_has(r->c, "registry"), err);
    if (rc == 0)
        rc = up_layout_save(l, err);
    if (rc == 0)
        rc = up_config_write(l, err);
    if (rc < 0)
        return rc;
    step(r, "folders", l->dir, t);
    t = mt_clock_mono();
    rc = make_bundle(r, version, sizeof version, err);
    if (rc < 0)
        return rc;
    step(r, "kernel", version, t);
    return 0;
}

static int supervise(struct run *r, struct mt_err *err)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    r->u.loop = mt_loop_new(err);
    r->u.pool = r->u.loop ? mt_pool_new(r->u.loop, 1, 4, 512 * 1024, err) : NULL;
    if (!r->u.pool)
        return -MT_E_NOMEM;
    for (size_t i = 0; i < MT_ARRAY_LEN(signals); i++)
        if (!mt_loop_signal(r->u.loop, signals[i], on_signal, r, err))
            return -MT_E_IO;
    int rc = prepare(r, err);
    if (rc == 0)
        rc = open_notify(r, err);
    if (rc < 0)
        return rc;
    up_services(&r->u);
    for (int i = 0; i < UP_MAX; i++) {
        struct service *s = &r->u.services[i];
        if (!s->argv[0])
            continue;
        s->changed = changed;
        s->arg = r;
        rc = service_init(s, r->u.loop, err);
        if (rc < 0)
            return rc;
    }
    r->watchdog = mt_loop_timer(r->u.loop, "watchdog", on_watchdog, r, err);
    r->settle = mt_loop_timer(r->u.loop, "settle", on_settle, r, err);
    if (!r->watchdog || !r->settle)
        return -MT_E_NOMEM;
    r->log_timer = mt_loop_timer(r->u.loop, "logs", on_log_check, r, err);
    if (!r->log_timer)
        return -MT_E_NOMEM;
    mt_loop_timer_after(r->log_timer, LOG_CHECK_MS);
    mt_loop_timer_after(r->watchdog, READY_LIMIT_MS);
    static const int first[] = {UP_POSTGRES, UP_REGISTRY, UP_EDGE, UP_AGENT};
    for (size_t i = 0; i < MT_ARRAY_LEN(first); i++)
        start(r, first[i]);
    (void)mt_loop_run(r->u.loop);
    return 0;
}

static int stop(struct run *r)
{
    struct mt_err err;
    int64_t t = mt_clock_mono();
    r->stopping = true;
    cli_say(r->c, "stopping");
    if (up_stop_all(&r->u, &err) < 0)
        return cli_fail(r->c, &err, NULL);
    char path[UP_PATH];
    (void)unlink(r->u.notify);
    (void)unlink(up_path(&r->u.layout, path, "run/up.pid"));
    mt_auto_free char *left = up_leftovers(&r->u);
    if (left && *left)
        return cli_error(r->c, CLI_FAILURE, left, "`moat down` tries again; these belong to this data folder");
    cli_say(r->c, "stopped in %.1f s", (double)(mt_clock_mono() - t) / 1e9);
    return CLI_OK;
}

/* With --detach the child goes on; the parent waits for its word and leaves with its code. */
static int detach(struct run *r, bool *ret_parent)
{
    int p[2];
    *ret_parent = true;
    if (pipe2(p, O_CLOEXEC) < 0)
        return cli_error(r->c, CLI_FAILURE, "cannot make a pipe", NULL);
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return cli_error(r->c, CLI_FAILURE, "cannot fork", NULL);
    if (pid == 0) {
        (void)close(p[0]);
        (void)setsid();
        r->tell_fd = p[1];
        *ret_parent = false;
        return CLI_OK;
    }
    (void)close(p[1]);
    char word = 0;
    ssize_t n;
    while ((n = read(p[0], &word, 1)) < 0 && errno == EINTR)
        ;
    (void)close(p[0]);
    if (n == 1 && word == 'R')
        return CLI_OK;
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : CLI_FAILURE; /* it has printed why */
}

static int already_up(struct run *r)
{
    char path[UP_PATH], text[400];
    (void)snprintf(text, sizeof text, "a platform runs on '%s' already", r->u.layout.dir);
    mt_auto_free char *pid = NULL;
    if (mt_file_read_plain(up_path(&r->u.layout, path, "run/up.pid"), 0, 32, &pid, NULL, NULL) == 0)
        pid[strcspn(pid, "\n")] = '\0';
    if (cli_has(r->c, "detach")) { /* asked for a running platform, and it is one */
        cli_say(r->c, "%s (supervisor pid %s)", text, pid ? pid : "?");
        return CLI_OK;
    }
    return cli_error(r->c, CLI_CONFLICT, text, "`moat down` stops it");
}

/* Taps and the firewall table are named once for a network namespace: a second platform in it would take the first one's away. */
static int lock_network(struct run *r, int *ret_fd, struct mt_err *err)
{
    struct stat st;
    char path[64], text[200];
    if (stat("/proc/self/ns/net", &st) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look at the network namespace");
    (void)snprintf(path, sizeof path, "/run/moat-net-%lu.lock", (unsigned long)st.st_ino);
    int rc = mt_file_lock(path, ret_fd, err);
    if (rc == -MT_E_CONFLICT) {
        mt_auto_free char *who = NULL;
        if (mt_file_read_plain(path, 0, 150, &who, NULL, NULL) == 0)
            who[strcspn(who, "\n")] = '\0';
        return MT_FAIL(err, MT_E_CONFLICT, "another platform runs on this machine, data folder '%s'", who ? who : "?");
    }
    if (rc < 0)
        return rc;
    int n = snprintf(text, sizeof text, "%s\n", r->u.layout.dir);
    if (ftruncate(*ret_fd, 0) < 0 || pwrite(*ret_fd, text, (size_t)n, 0) != n)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write '%s'", path);
    return 0;
}

int cmd_up(struct cli *c)
{
    struct run r = {.c = c, .u.cli = c, .notify_fd = -1, .tell_fd = -1, .began = mt_clock_mono()};
    struct up_layout *l = &r.u.layout;
    struct mt_err err;
    uint64_t port = 0;
    char path[UP_PATH];
    mt_auto_fd int lock = -1;
    mt_auto_fd int network_lock = -1;
    if (geteuid() != 0)
        return cli_error(c, CLI_USAGE, "`moat up` needs root: it makes users, taps and microVMs", "sudo moat up");
    if (up_layout_init(l, cli_opt(c, "data-dir"), &err) < 0)
        return cli_fail(c, &err, "--data-dir DIR");
    if (cli_has(c, "tls-port") && mt_parse_u64(cli_opt(c, "tls-port"), 1, 65535, &port, &err) < 0)
        return cli_usage(c, "--tls-port: %s", err.msg);
    if (cli_has(c, "vmm") && !MT_STREQ(cli_opt(c, "vmm"), "auto") && !MT_STREQ(cli_opt(c, "vmm"), "firecracker") && !MT_STREQ(cli_opt(c, "vmm"), "qemu"))
        return cli_usage(c, "--vmm is auto, firecracker or qemu");
    unsigned char ip[sizeof(struct in6_addr)];
    if (cli_has(c, "listen") && inet_pton(AF_INET6, cli_opt(c, "listen"), ip) != 1 && inet_pton(AF_INET, cli_opt(c, "listen"), ip) != 1)
        return cli_usage(c, "--listen '%.60s' is not an IPv6 or IPv4 address", cli_opt(c, "listen"));
    if (up_layout_load(l, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (port)
        l->tls_port = (unsigned)port;
    if (cli_has(c, "vmm"))
        (void)snprintf(l->vmm, sizeof l->vmm, "%s", cli_opt(c, "vmm"));
    if (cli_has(c, "listen"))
        (void)snprintf(l->listen, sizeof l->listen, "%s", cli_opt(c, "listen"));
    if (cli_has(c, "registry"))
        (void)snprintf(l->registry, sizeof l->registry, "%s", cli_opt(c, "registry"));
    char dir[UP_PATH];
    if (mt_file_mkdirs(up_path(l, dir, "run"), 0755, &err) < 0)
        return cli_fail(c, &err, NULL);
    int rc = mt_file_lock(up_path(l, path, "run/up.lock"), &lock, &err);
    if (rc == -MT_E_CONFLICT)
        return already_up(&r);
    if (rc < 0)
        return cli_fail(c, &err, NULL);
    if (lock_network(&r, &network_lock, &err) < 0)
        return cli_fail(c, &err, "moat down --data-dir that folder stops it");
    if (cli_has(c, "detach")) {
        bool parent;
        int code = detach(&r, &parent);
        if (parent) {
            lock = -1; /* the child holds it now; closing our copy would not release it, but it is not ours to close early */
            return code;
        }
    }
    mt_log_init("up", MT_WARN, c->json || !c->tty || r.tell_fd >= 0);
    char pid[32];
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (mt_file_write(up_path(l, path, "run/up.pid"), pid, (size_t)n, 0644, &err) < 0)
        return cli_fail(c, &err, NULL);
    cli_say(c, "%smoat up%s  %s", cli_color(c, "bold"), cli_color(c, "reset"), l->dir);
    rc = supervise(&r, &err);
    if (rc < 0)
        r.code = cli_fail(c, &err, NULL);
    int code = r.u.loop && r.u.services[0].argv[0] ? stop(&r) : CLI_OK;
    tell(&r, 'F');
    for (int i = 0; i < UP_MAX; i++)
        if (r.u.services[i].loop)
            service_done(&r.u.services[i]);
    mt_pool_free(r.u.pool);
    mt_loop_free(r.u.loop);
    mt_closep(&r.notify_fd);
    return r.code ? r.code : code;
}
