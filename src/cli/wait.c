/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for a deploy (control-plane.md §15.6): follows the event stream, prints step changes with seconds, ends with the split
 * timeline of the first ready instance, or with the reason and last lines of the one that failed. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

/* Steps of the split timeline, in order; times are microseconds of the event log. */
enum step { STEP_ACCEPTED = 0, STEP_SCHEDULED, STEP_DISK, STEP_VM, STEP_READY, STEP_ROUTED, STEP_MAX };
static const char *const step_name[STEP_MAX] = {"accepted", "scheduled", "disk", "VM", "ready", "routed"};

struct watch {
    const char *deploy_id;
    int64_t deadline; /* monotonic */
    int64_t at[STEP_MAX]; /* wall microseconds, 0: not yet */
    char first[40];   /* instance whose steps are timed */
    char status[16];
    bool lines;       /* --json: one line per event */
    uint64_t after;   /* event id of the mutation; 0: somebody else's */
    bool past;        /* what is told has been long ago */
};

enum { DONE = 1 };

bool cli_wants_wait(const struct cli *c)
{
    if (cli_has(c, "no-wait"))
        return false;
    const char *name = c->command->name;
    return cli_has(c, "wait") || (c->tty && (MT_STREQ(name, "deploy") || MT_STREQ(name, "run") || MT_STREQ(name, "rollback")));
}

static bool final_status(const char *s)
{
    return MT_STREQ(s, "succeeded") || MT_STREQ(s, "failed") || MT_STREQ(s, "superseded");
}

static void mark(struct watch *w, enum step s, int64_t us)
{
    if (w->at[s] == 0)
        w->at[s] = us;
}

static void print_step(struct cli *c, const struct watch *w, int64_t us, const char *what, const char *detail, const char *color)
{
    double s = w->at[STEP_ACCEPTED] && us > w->at[STEP_ACCEPTED] ? (double)(us - w->at[STEP_ACCEPTED]) / 1e6 : 0;
    cli_say(c, "  %6.2f s  %s%s%s%s%s", s, cli_color(c, color), what, cli_color(c, "reset"), *detail ? " " : "", detail);
}

static void on_instance(struct cli *c, struct watch *w, const json_t *ev, int64_t us)
{
    char text[300];
    const char *id = cli_str(ev, "aggregate_id"), *status = cli_str(ev, "payload.status"), *detail = cli_str(ev, "payload.status_detail");
    if (MT_STREQ(cli_str(ev, "event_type"), "instance.allocated")) {
        if (!*w->first) {
            (void)snprintf(w->first, sizeof w->first, "%s", id);
            mark(w, STEP_SCHEDULED, us);
        }
        (void)snprintf(text, sizeof text, "%s %s on %s", cli_str(ev, "payload.process_type"), id, cli_str(ev, "payload.node_id"));
        print_step(c, w, us, "scheduled", text, "bold");
        return;
    }
    if (MT_STREQ(cli_str(ev, "event_type"), "instance.desired_state_changed")) {
        (void)snprintf(text, sizeof text, "%s (%s)", id, cli_str(ev, "payload.reason"));
        print_step(c, w, us, cli_str(ev, "payload.desired_state"), text, "dim");
        return;
    }
    if (!MT_STREQ(cli_str(ev, "event_type"), "instance.status_changed"))
        return;
    if (MT_STREQ(id, w->first)) {
        if (MT_STREQ(detail, "booting_vm"))
            mark(w, STEP_DISK, us);
        if (MT_STREQ(status, "starting") || MT_STREQ(status, "ready"))
            mark(w, STEP_VM, us);
        if (MT_STREQ(status, "ready"))
            mark(w, STEP_READY, us);
    }
    const char *reason = cli_str(ev, "payload.reason_code");
    char code[40] = "";
    if (cli_member(ev, "payload.exit_code"))
        (void)snprintf(code, sizeof code, " exit code %" PRId64, cli_int(ev, "payload.exit_code"));
    /* without a reason the detail is only what the last health check met on the way up */
    const char *why = *reason ? cli_str(ev, "payload.reason_detail") : "";
    (void)snprintf(text, sizeof text, "%s%s%s%s%s%s%s%s", id, *detail ? " " : "", detail, *reason ? ": " : "", reason, *why ? " " : "", why, code);
    print_step(c, w, us, status, text, MT_STREQ(status, "failed") ? "red" : MT_STREQ(status, "ready") ? "green" : "bold");
}

/* Ready is not yet reachable: ask until an edge has applied the route, for at most two seconds. */
static void wait_routed(struct cli *c, struct watch *w)
{
    mt_auto_free char *path = cli_env_path(c, "/status");
    struct cli side = {.api = c->api, .token = c->token, .http = cli_client_new(c), .timeout_ms = 2000, .hush = true, .quiet = true};
    int64_t end = mt_clock_mono() + 2 * MT_NS_PER_S;
    while (path && side.http && mt_clock_mono() < end) {
        mt_auto_json json_t *st = NULL;
        if (cli_call(&side, "GET", path, NULL, &st) != CLI_OK)
            break;
        size_t i, routes = 0, active = 0;
        json_t *r;
        json_array_foreach(json_object_get(st, "routes"), i, r)
        {
            routes++;
            active += MT_STREQ(cli_str(r, "status"), "active");
        }
        if (routes == 0)
            break;
        if (active == routes) {
            mark(w, STEP_ROUTED, mt_clock_wall_us());
            print_step(c, w, w->at[STEP_ROUTED], "routed", "", "green");
            break;
        }
        (void)usleep(10000);
    }
    mt_http_client_free(side.http);
}

static int on_event(struct cli *c, json_t *ev, void *arg)
{
    struct watch *w = arg;
    const char *type = cli_str(ev, "event_type");
    int64_t us = mt_clock_wall_us();
    if (mt_clock_mono() > w->deadline)
        return CLI_TRANSIENT + 1;
    if (!*type)
        return 0; /* heartbeat */
    (void)mt_rfc3339_parse(cli_str(ev, "occurred_at"), &us, NULL);
    if (w->lines) {
        (void)json_object_set_new(ev, "type", json_string("event"));
        (void)json_object_set(ev, "ts", json_object_get(ev, "occurred_at"));
        (void)cli_print_line(c, ev);
    }
    if (MT_STREQ(type, "deploy.created"))
        mark(w, STEP_ACCEPTED, us);
    bool ready_before = w->at[STEP_READY] != 0 || w->past;
    if (mt_starts_with(type, "instance."))
        on_instance(c, w, ev, us);
    if (!ready_before && w->at[STEP_READY])
        wait_routed(c, w);
    if (MT_STREQ(type, "deploy.status_changed") && MT_STREQ(cli_str(ev, "aggregate_id"), w->deploy_id)) {
        (void)snprintf(w->status, sizeof w->status, "%s", cli_str(ev, "payload.status"));
        if (final_status(w->status)) {
            print_step(c, w, us, w->status, cli_str(ev, "payload.message"), MT_STREQ(w->status, "succeeded") ? "green" : "red");
            return DONE;
        }
        if (*cli_str(ev, "payload.message")) /* why it does not go on */
            print_step(c, w, us, "waiting", cli_str(ev, "payload.message"), "yellow");
    }
    return 0;
}

static void print_timeline(struct cli *c, const struct watch *w)
{
    char text[200] = "";
    size_t used = 0;
    int64_t before = w->at[STEP_ACCEPTED];
    for (int s = STEP_SCHEDULED; s < STEP_MAX && before; s++) {
        if (!w->at[s])
            continue;
        int n = snprintf(text + used, sizeof text - used, "%s%s %.2f s", used ? ", " : "", step_name[s],
                         (double)(w->at[s] > before ? w->at[s] - before : 0) / 1e6);
        used += n > 0 && (size_t)n < sizeof text - used ? (size_t)n : 0;
        before = w->at[s] > before ? w->at[s] : before;
    }
    if (used)
        cli_say(c, "%stimeline%s  %s", cli_color(c, "bold"), cli_color(c, "reset"), text);
}

static json_t *timeline_json(const struct watch *w)
{
    json_t *t = json_object();
    for (int s = STEP_SCHEDULED; s < STEP_MAX; s++)
        if (w->at[s] && w->at[STEP_ACCEPTED])
            (void)json_object_set_new(t, step_name[s], json_integer((w->at[s] - w->at[STEP_ACCEPTED]) / 1000));
    return t;
}

static int outcome(struct cli *c, struct watch *w, const json_t *dep)
{
    const char *status = cli_str(dep, "status");
    int code = MT_STREQ(status, "succeeded") ? CLI_OK : CLI_NOT_CONVERGED;
    if (c->json) {
        char op[64];
        (void)snprintf(op, sizeof op, "%s.create", *cli_str(dep, "kind") ? cli_str(dep, "kind") : "deploy");
        mt_auto_json json_t *r = cli_receipt_json(c, "deploy", w->after ? op : "deploy.wait", dep);
        (void)json_object_set_new(r, "changed", json_boolean(w->after != 0));
        if (w->after)
            (void)json_object_set_new(r, "event_id", json_integer((json_int_t)w->after));
        (void)json_object_set_new(r, "type", json_string("receipt"));
        (void)json_object_set_new(r, "ts", json_string(mt_rfc3339(mt_clock_wall_us(), (char[MT_RFC3339_LEN]){0})));
        (void)json_object_set_new(r, "timeline_ms", timeline_json(w));
        (void)cli_print_line(c, r);
        return code;
    }
    print_timeline(c, w);
    if (code == CLI_OK) {
        mt_auto_json json_t *items = NULL;
        mt_auto_free char *path = cli_env_path(c, "/routes");
        size_t i;
        json_t *r;
        char url[300];
        if (path && cli_list(c, path, &items) == CLI_OK)
            json_array_foreach(items, i, r) cli_say(c, "%sserving%s   %s", cli_color(c, "bold"), cli_color(c, "reset"), cli_route_url(c, r, url, sizeof url));
        return CLI_OK;
    }
    cli_print_failure(c, stderr, cli_member(dep, "failure"));
    char what[300];
    const char *message = *cli_str(dep, "message") ? cli_str(dep, "message") : cli_str(dep, "failed_reason");
    (void)snprintf(what, sizeof what, "deploy %s%s%s", status, *message ? ": " : "", message);
    return cli_error(c, code, what, MT_STREQ(status, "superseded") ? "a newer deploy took over: moat status" : "the release before still serves; moat logs, moat status");
}

/* Ctrl-C ends the waiting, not the deploy: what the handler says, made before it can be called. */
static char interrupt_text[400];
static int interrupt_fd;

static void on_interrupt(int sig)
{
    (void)sig;
    ssize_t n = write(interrupt_fd, interrupt_text, strlen(interrupt_text));
    (void)n; /* whether somebody still reads changes nothing */
    _exit(CLI_INTERRUPTED);
}

void cli_catch_interrupt(const struct cli *c, const char *what, const char *resume)
{
    interrupt_fd = c->json ? STDOUT_FILENO : STDERR_FILENO;
    (void)snprintf(interrupt_text, sizeof interrupt_text,
                   c->json ? "{\"error\":{\"category\":\"interrupted\",\"code\":\"interrupted\",\"message\":\"%.60s goes on\",\"hint\":\"%.100s\","
                             "\"retryable\":true}}\n"
                           : "\ninterrupted; %.60s goes on\nhint: %.100s\n",
                   what, resume);
    (void)sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
}

/* Somebody else's deploy: is there one, and has it ended? Then its steps are told from the log, and nothing is waited for. -1: it goes on. */
static int ended_before(struct cli *c, struct watch *w, const char *path)
{
    mt_auto_json json_t *dep = NULL, *page = NULL;
    char target[200];
    size_t i;
    json_t *ev;
    int code = cli_call(c, "GET", path, NULL, &dep);
    if (code != CLI_OK)
        return code;
    if (!final_status(cli_str(dep, "status")))
        return -1;
    (void)snprintf(target, sizeof target, "/v1/orgs/%s/events?limit=500&order=asc&correlation_id=%s", c->org_id, w->deploy_id);
    w->past = true;
    c->hush = true; /* how it ended is known without them */
    if (cli_call(c, "GET", target, NULL, &page) == CLI_OK)
        json_array_foreach(json_object_get(page, "items"), i, ev) (void)on_event(c, ev, w);
    c->hush = false;
    return outcome(c, w, dep);
}

int cli_wait_deploy(struct cli *c, const char *deploy_id, uint64_t after)
{
    struct watch w = {.deploy_id = deploy_id, .lines = c->json, .after = after, .deadline = mt_clock_mono() + c->wait_ms * MT_NS_PER_MS};
    char target[300];
    /* from just before the command's own events: it wrote fewer than 100 */
    (void)snprintf(target, sizeof target, "/v1/orgs/%s/events/stream?after_event_id=%" PRIu64 "&correlation_id=%s", c->org_id,
                   after > 100 ? after - 100 : 0, deploy_id);
    mt_auto_free char *path = cli_env_path(c, "/deploys/%s", deploy_id);
    bool told = false;
    char resume[80];
    (void)snprintf(resume, sizeof resume, "moat deploys wait %.40s", deploy_id);
    cli_catch_interrupt(c, "the deploy", resume);
    int before = after || !path ? -1 : ended_before(c, &w, path);
    if (before != -1)
        return before;
    for (;;) {
        int64_t left_ms = (w.deadline - mt_clock_mono()) / MT_NS_PER_MS;
        c->hush = true; /* the deploy itself, asked next, tells what is wrong */
        int followed = left_ms <= 0 ? CLI_TRANSIENT : cli_follow(c, target, on_event, &w, left_ms < 20000 ? left_ms : 20000);
        c->hush = false;
        mt_auto_json json_t *dep = NULL;
        if (mt_clock_mono() >= w.deadline) {
            char hint[100];
            (void)snprintf(hint, sizeof hint, "moat deploys wait %s", deploy_id);
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; the deploy goes on", hint);
        }
        c->hush = followed == CLI_TRANSIENT; /* the control plane is away: it may come back while we wait */
        int code = cli_call(c, "GET", path, NULL, &dep);
        c->hush = false;
        if (code == CLI_OK && final_status(cli_str(dep, "status")))
            return outcome(c, &w, dep);
        if (code != CLI_OK && code != CLI_TRANSIENT)
            return code;
        if (code == CLI_TRANSIENT && !told)
            cli_say(c, "  the control plane does not answer; still waiting");
        told = code == CLI_TRANSIENT;
        (void)usleep(followed == CLI_OK ? 200000 : 2000000);
    }
}
