/* SPDX-License-Identifier: Apache-2.0 */
/* moat-edge: command line, start, signals, end. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "edge/admin.h"
#include "edge/handover.h"
#include "edge/hub.h"
#include "edge/snapshot.h"
#include "edge/source.h"
#include "edge/status.h"
#include "os/file.h"
#include "os/landlock.h"
#include "os/loop.h"
#include "os/notify.h"
#include "wire/metrics_http.h"

#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ROUTES_FILE_MAX (256U * 1024U * 1024U)
#define EXIT_USAGE 2
#define GRACE_STEP_MS 20
#define DRAIN_STEP_MS 200

struct app {
    struct mt_edge_options opt;
    struct mt_edge_hub hub;
    struct mt_loop *loop;
    struct mt_edge_source_poll *source;
    struct mt_edge_admin *admin;
    struct mt_metrics_http *metrics;
    struct mt_edge_handover *handover;
    struct mt_source *grace;
    int64_t stop_at;
    bool stopping, handed_over;
    bool confined; /* it writes to its own folders alone and starts no program */
    int told; /* where the launcher of --take-over waits; -1: nobody does */
    /* static mode */
    const char *routes;
    mt_edge_key key;
    bool proxy_v2;
    uint64_t reloads;
};

static void usage(FILE *out)
{
    (void)fputs("moat-edge: L4 proxy that routes TLS by server name and raw TCP by port\n\n"
                "  moat-edge --config FILE [--check-config]\n"
                "  moat-edge --config FILE --take-over\n"
                "  moat-edge --static ROUTES --listen '[ADDR]:PORT' [--proxy-protocol v2] [--workers N] [--handover SOCKET]\n"
                "            [--access-log]\n"
                "  moat-edge --config-help | --help | --version\n\n"
                "--take-over is for `systemctl reload`: a new process takes the sockets of the one that runs (handover_socket) and becomes\n"
                "the service's main process, the old one ends with its last connection. Status 1: nothing changed, the old one serves.\n\n"
                "ROUTES holds lines 'hostname backend_addr backend_port [balance=least_conn] [min_tls=1.2]'; several lines of one\n"
                "name are several backends. SIGHUP reads it again, a file with a fault is\n"
                "named in the log and the running routes stay. Limits per source and of new connections per route are off in static mode.\n"
                "SIGTERM stops accepting, gives connections stop_grace_ms to end, then ends; a second one ends at once.\n",
                out);
}

static int load_static(struct app *a, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t len;
    struct mt_edge_table *t = NULL;
    int64_t began = mt_clock_mono();
    if (mt_file_read(a->routes, ROUTES_FILE_MAX, &text, &len, err) < 0)
        return -(int)err->code;
    if (mt_edge_routes_parse(text, len, a->key, a->proxy_v2, &t, err) < 0)
        return mt_err_wrap(err, "%s", a->routes);
    free(MT_TAKE(text));
    (void)snprintf(t->cluster_id, sizeof t->cluster_id, "static");
    t->epoch = 1;
    t->revision = ++a->reloads;
    uint32_t routes = t->n_routes;
    if (mt_edge_hub_apply(&a->hub, t, true, err) < 0)
        return -(int)err->code;
    if (len > 1024 * 1024) /* what parsing took may be many times what the table needs; a small file is not worth the time */
        (void)malloc_trim(0);
    atomic_fetch_add(&a->hub.totals.applied, 1);
    mt_log(MT_INFO, "edge.config_applied", KV("from", "static"), KV("routes", routes), KV("revision", a->reloads),
           KV("took_us", (mt_clock_mono() - began) / 1000));
    return 0;
}

static void on_hup(struct mt_source *s, int signo, void *arg)
{
    struct app *a = arg;
    struct mt_err err = {0};
    (void)s;
    (void)signo;
    if (a->routes && !a->stopping && load_static(a, &err) < 0)
        mt_log(MT_ERROR, "edge.config_rejected", KV_ERR(&err), KV("mend", "the running routes stay; correct the file, send SIGHUP again"));
}

static void on_grace(struct mt_source *s, void *arg)
{
    struct app *a = arg;
    (void)s;
    if (mt_edge_hub_drained(&a->hub) || mt_clock_mono() >= a->stop_at)
        mt_loop_stop(a->loop, 0);
    else
        mt_loop_timer_after(a->grace, a->handed_over ? DRAIN_STEP_MS : GRACE_STEP_MS);
}

static void on_term(struct mt_source *s, int signo, void *arg)
{
    struct app *a = arg;
    (void)s;
    if (a->stopping && !a->handed_over) {
        mt_loop_stop(a->loop, 0);
        return;
    }
    a->stopping = true;
    a->handed_over = false; /* no longer as patient */
    a->stop_at = mt_clock_mono() + (int64_t)a->opt.stop_grace_ms * MT_NS_PER_MS;
    mt_log(MT_INFO, "edge.stopping", KV("signal", signo), KV("connections", atomic_load(&a->hub.totals.open)));
    mt_notify("STOPPING=1");
    mt_edge_hub_drain(&a->hub);
    mt_loop_timer_after(a->grace, 0);
}

/* A successor asks. What is in force goes to disk with the end of the poll, where it reads it. */
static void on_handover_asked(void *arg)
{
    struct app *a = arg;
    mt_edge_source_stop(a->source);
    a->source = NULL;
}

static void on_handover_missed(void *arg)
{
    struct app *a = arg;
    struct mt_err err = {0};
    if (!a->routes)
        a->source = mt_edge_source_start(&a->hub, &err);
    if (!a->routes && !a->source)
        mt_log(MT_ERROR, "edge.source_failed", KV_ERR(&err), KV("mend", "serving goes on with the last configuration; start moat-edge again"));
}

static void on_handover_done(void *arg)
{
    struct app *a = arg;
    a->handed_over = a->stopping = true;
    a->stop_at = mt_clock_mono() + (int64_t)a->opt.handover_grace_ms * MT_NS_PER_MS;
    mt_log(MT_INFO, "edge.handed_over", KV("connections", atomic_load(&a->hub.totals.open)));
    mt_edge_hub_drain(&a->hub);
    mt_edge_admin_stop(a->admin);
    a->admin = NULL;
    mt_metrics_http_free(a->metrics);
    a->metrics = NULL;
    mt_edge_handover_stop(a->handover, false);
    a->handover = NULL;
    mt_loop_timer_after(a->grace, 0);
}

static int metrics_page(void *arg, struct mt_buf *b, struct mt_err *err)
{
    struct app *a = arg;
    return mt_edge_status_metrics(&a->hub, b, err);
}

static bool metrics_ready(void *arg, const char **ret_why)
{
    struct app *a = arg;
    uint64_t epoch, revision;
    mt_edge_hub_version(&a->hub, &epoch, &revision, NULL);
    *ret_why = "no configuration yet\n";
    return revision > 0;
}

/* Sockets with names: after the process before has let go of them. */
static int open_names(struct app *a, struct mt_err *err)
{
    if (a->opt.admin_socket) {
        a->admin = mt_edge_admin_start(a->loop, a->opt.admin_socket, &a->hub, err);
        if (!a->admin)
            return mt_err_wrap(err, "admin_socket");
    }
    if (a->opt.listen_metrics) {
        const struct mt_metrics_http_conf mc = {.address = a->opt.listen_metrics, .page = metrics_page, .ready = metrics_ready, .arg = a};
        a->metrics = mt_metrics_http_new(a->loop, &mc, err);
        if (!a->metrics)
            return mt_err_wrap(err, "listen_metrics");
    }
    if (a->opt.handover_socket) {
        const struct mt_edge_handover_calls calls = {.asked = on_handover_asked, .missed = on_handover_missed,
                                                     .done = on_handover_done, .arg = a};
        a->handover = mt_edge_handover_serve(a->loop, a->opt.handover_socket, &a->hub, &calls, err);
        if (!a->handover)
            return mt_err_wrap(err, "handover_socket");
    }
    return 0;
}

/* The process before serves something that cannot be read here: it goes on, this one ends. */
static int no_configuration(const struct app *a, struct mt_err *err)
{
    if (a->hub.n_inherited == 0)
        return 0; /* it has none either */
    return MT_FAIL(err, MT_E_UNAVAILABLE, "no usable configuration in '%s', so the sockets stay with the process before", a->opt.data_dir);
}

/* To the launcher: @pid is the service's main process, 0: it serves. The answer is waited for: then the supervisor knows. */
static void tell_launcher(int fd, pid_t pid)
{
    char answer;
    ssize_t n = write(fd, &pid, sizeof pid);
    while (n == (ssize_t)sizeof pid && read(fd, &answer, 1) < 0 && errno == EINTR)
        ;
}

/*
 * Before the old process lets go: its end must find another main process in the supervisor's book, or the service counts as dead. The
 * supervisor reads what it is told before it looks who has died. When the old one goes on after all it is told so.
 */
static int succeed(struct app *a, int *before, struct mt_err *err)
{
    struct ucred old = {0};
    socklen_t len = sizeof old;
    (void)getsockopt(*before, SOL_SOCKET, SO_PEERCRED, &old, &len);
    if (a->told >= 0)
        tell_launcher(a->told, getpid());
    int r = mt_edge_handover_ready(before, err);
    if (r < 0 && a->told >= 0 && old.pid > 0)
        tell_launcher(a->told, old.pid);
    return r;
}

/* The folder of a file, "." when its name has none; NULL without a name. */
static const char *folder_of(const char *path, char ret[PATH_MAX])
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    if (!path)
        return NULL;
    (void)snprintf(ret, PATH_MAX, "%.*s", slash ? (int)(slash - path) + (slash == path) : 1, slash ? path : ".");
    return ret;
}

/* It reads what the world sends, so it may do little with the machine: its configuration and its sockets are all that it writes. */
static int confine(struct app *a, struct mt_err *err)
{
    char of[2][PATH_MAX];
    const char *const dirs[] = {a->opt.data_dir, folder_of(a->opt.admin_socket, of[0]), folder_of(a->opt.handover_socket, of[1])};
    int rc = mt_landlock_writes(dirs, MT_ARRAY_LEN(dirs), err);
    a->confined = rc == 0;
    if (rc == -MT_E_UNAVAILABLE)
        mt_log(MT_WARN, "edge.not_confined", KV_ERR(err), KV("mend", "none needed to serve; a kernel with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=) keeps its writes to its own folders"));
    return rc == -MT_E_UNAVAILABLE ? 0 : rc;
}

/* Loop and signals first: threads inherit the blocked signals. */
static int start(struct app *a, struct mt_err *err)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGPIPE, &ignore, NULL);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (confine(a, err) < 0)
        return -(int)err->code;
    a->loop = mt_loop_new(err);
    if (!a->loop || !mt_loop_signal(a->loop, SIGTERM, on_term, a, err) || !mt_loop_signal(a->loop, SIGINT, on_term, a, err) ||
        !mt_loop_signal(a->loop, SIGHUP, on_hup, a, err))
        return -(int)err->code;
    a->grace = mt_loop_timer(a->loop, "grace", on_grace, a, err);
    if (!a->grace || mt_edge_hub_init(&a->hub, &a->opt, err) < 0)
        return -(int)err->code;
    mt_auto_fd int before = -1;
    if (a->opt.handover_socket && mt_edge_handover_take(a->opt.handover_socket, &a->hub, &before, err) < 0)
        return mt_err_wrap(err, "handover_socket '%s'", a->opt.handover_socket);
    if (a->told >= 0 && before < 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "--take-over: no moat-edge answers at handover_socket '%s': start it without --take-over",
                       a->opt.handover_socket ? a->opt.handover_socket : "");
    if (a->routes ? load_static(a, err) < 0 : (!mt_edge_source_load(&a->hub) && before >= 0 && no_configuration(a, err) < 0))
        return -(int)err->code;
    if (before >= 0 && succeed(a, &before, err) < 0)
        return -(int)err->code;
    if (open_names(a, err) < 0)
        return -(int)err->code;
    if (a->routes)
        return 0;
    a->source = mt_edge_source_start(&a->hub, err);
    return a->source ? 0 : -(int)err->code;
}

static int run(struct app *a)
{
    struct mt_err err = {0};
    if (start(a, &err) < 0) {
        mt_log(MT_ERROR, "edge.start_failed", KV_ERR(&err));
        return 1; /* threads may run; the exit ends them */
    }
    mt_log(MT_INFO, "edge.started", KV("version", MOAT_VERSION), KV("workers", a->hub.n_workers), KV("confined", a->confined));
    mt_notify("READY=1");
    if (a->told >= 0) {
        tell_launcher(a->told, 0);
        (void)close(a->told);
    }
    int r = mt_loop_run(a->loop);
    mt_edge_handover_stop(a->handover, false);
    mt_metrics_http_free(a->metrics);
    mt_edge_admin_stop(a->admin);
    mt_edge_source_stop(a->source);
    mt_edge_hub_done(&a->hub);
    mt_loop_free(a->loop);
    mt_edge_options_done(&a->opt);
    mt_log(MT_INFO, "edge.stopped");
    return r < 0 ? 1 : 0;
}

/*
 * The successor is nobody's child, so that the supervisor's PID 1 sees its end like that of one it started. The launcher stays until it serves
 * and speaks for it: of the processes of a reload the supervisor listens to this one alone (NotifyAccess=exec).
 */
static int take_over(struct app *a)
{
    int fds[2], status = 0;
    char text[64];
    pid_t said;
    ssize_t n;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
        (void)fprintf(stderr, "moat-edge: --take-over: socketpair: %s\n", strerror(errno));
        return 1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        pid = fork();
        if (pid != 0)
            _exit(pid < 0);
        (void)close(fds[0]);
        a->told = fds[1];
        return run(a);
    }
    (void)close(fds[1]);
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0) {
        (void)fprintf(stderr, "moat-edge: --take-over: fork failed\n");
        return 1;
    }
    while ((n = read(fds[0], &said, sizeof said)) == (ssize_t)sizeof said || (n < 0 && errno == EINTR)) {
        if (n < 0)
            continue;
        if (said > 0) {
            (void)snprintf(text, sizeof text, "MAINPID=%d", said);
            mt_notify(text);
        }
        (void)!write(fds[0], "y", 1);
        if (said == 0)
            return 0;
    }
    return 1; /* it has ended and says why in the log; the old one serves */
}

/* '[ADDR]:PORT' or 'ADDR:PORT' for IPv4. */
static int parse_listen(struct app *a, const char *s, struct mt_err *err)
{
    const char *colon = strrchr(s, ':');
    char ip[64];
    uint64_t port;
    if (!colon || (size_t)(colon - s) >= sizeof ip)
        return MT_FAIL(err, MT_E_INVALID, "--listen '%s': must be '[ADDR]:PORT'", s);
    memcpy(ip, s, (size_t)(colon - s));
    ip[colon - s] = '\0';
    if (mt_parse_u64(colon + 1, 1, 65535, &port, err) < 0)
        return mt_err_wrap(err, "--listen port");
    free(a->opt.publics);
    a->opt.publics = calloc(1, sizeof *a->opt.publics);
    if (!a->opt.publics)
        return MT_FAIL(err, MT_E_NOMEM, "no memory");
    a->opt.n_publics = 1;
    a->key = mt_edge_key_of(MT_EDGE_TLS, MT_EDGE_SHARED6, (struct in_addr){0}, (uint16_t)port);
    return mt_edge_parse_addr(ip, 0, &a->opt.publics[0], err);
}

static int main_static(struct app *a, const char *listen, const char *workers, const char *handover, bool access_log,
                       struct mt_err *err)
{
    uint64_t n = 0;
    if (!listen)
        return MT_FAIL(err, MT_E_INVALID, "--static needs --listen '[ADDR]:PORT'");
    if (mt_edge_options_default(&a->opt, err) < 0 || mt_edge_options_check(&a->opt, err) < 0)
        return -(int)err->code;
    if (workers && mt_parse_u64(workers, 1, 256, &n, err) < 0)
        return mt_err_wrap(err, "--workers");
    a->opt.workers = n;
    a->opt.handover_socket = handover ? strdup(handover) : NULL;
    if (!access_log)
        a->opt.access_log_per_s = 0;
    a->opt.source_conns = a->opt.source_new_per_s = a->opt.source_preroute = a->opt.route_new_per_s = 0;
    return parse_listen(a, listen, err);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},  {"check-config", no_argument, NULL, 'C'},
        {"static", required_argument, NULL, 's'},  {"listen", required_argument, NULL, 'l'},
        {"workers", required_argument, NULL, 'w'}, {"proxy-protocol", required_argument, NULL, 'p'},
        {"access-log", no_argument, NULL, 'a'},    {"handover", required_argument, NULL, 'o'},
        {"config-help", no_argument, NULL, 'H'},   {"take-over", no_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},          {"version", no_argument, NULL, 'v'},
        {NULL, 0, NULL, 0},
    };
    static struct app a;
    struct mt_err err = {0};
    const char *config = NULL, *listen = NULL, *workers = NULL, *handover = NULL;
    bool check = false, access_log = false, taking_over = false;
    int o;
    a.told = -1;
    mt_log_init("edge", MT_INFO, true);
    while ((o = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        switch (o) {
        case 'c':
            config = optarg;
            break;
        case 'C':
            check = true;
            break;
        case 's':
            a.routes = optarg;
            break;
        case 'l':
            listen = optarg;
            break;
        case 'w':
            workers = optarg;
            break;
        case 'p':
            if (!MT_STREQ(optarg, "v2") && !MT_STREQ(optarg, "off")) {
                (void)fprintf(stderr, "moat-edge: --proxy-protocol '%s': must be v2 or off\n", optarg);
                return EXIT_USAGE;
            }
            a.proxy_v2 = MT_STREQ(optarg, "v2");
            break;
        case 'o':
            handover = optarg;
            break;
        case 't':
            taking_over = true;
            break;
        case 'a':
            access_log = true;
            break;
        case 'H':
            mt_edge_options_help(stdout);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        case 'v':
            (void)puts("moat-edge " MOAT_VERSION);
            return 0;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc || (config != NULL) == (a.routes != NULL) || (taking_over && !config)) {
        usage(stderr);
        return EXIT_USAGE;
    }
    int r = config ? mt_edge_options_load(config, &a.opt, stderr, &err) : main_static(&a, listen, workers, handover, access_log, &err);
    if (r < 0) {
        (void)fprintf(stderr, "moat-edge: %s\n", err.msg);
        return EXIT_USAGE;
    }
    if (check) {
        (void)puts("ok");
        return 0;
    }
    return taking_over ? take_over(&a) : run(&a);
}
