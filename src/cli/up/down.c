/* SPDX-License-Identifier: Apache-2.0 */
/* `moat down`: end what `moat up` runs, through its supervisor when it lives, by ourselves when it does not (ruling R27). */
#include "cli/cli.h"
#include "cli/up/up.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "os/file.h"
#include "os/spawn.h"

#include <sys/mount.h>
#include <fcntl.h>

enum { SUPERVISOR_MS = 90000 };

static void changed(struct service *s, enum service_state from)
{
    (void)s;
    (void)from;
}

/* The supervisor holds the lock: tell it to end, wait until the lock is free. */
static int through_supervisor(struct cli *c, const struct up_layout *l, int *lock)
{
    char path[UP_PATH];
    mt_auto_free char *text = NULL;
    mt_auto_fd int pidfd = -1;
    uint64_t pid;
    struct mt_err err;
    /* run/ may be written by others: a pid that root is going to signal must come from root */
    if (mt_file_read_plain(up_path(l, path, "run/up.pid"), 0, 32, &text, NULL, &err) < 0)
        return cli_fail(c, &err, NULL);
    text[strcspn(text, "\n")] = '\0';
    if (mt_parse_u64(text, 2, 1 << 22, &pid, &err) < 0 || mt_pidfd_open((pid_t)pid, &pidfd, &err) < 0 || mt_pidfd_kill(pidfd, SIGTERM, &err) < 0)
        return cli_fail(c, &err, NULL);
    cli_say(c, "stopping (supervisor pid %d)", (int)pid);
    int64_t end = mt_clock_mono() + SUPERVISOR_MS * MT_NS_PER_MS;
    while (mt_file_lock(up_path(l, path, "run/up.lock"), lock, &err) == -MT_E_CONFLICT) {
        if (mt_clock_mono() > end)
            return cli_error(c, CLI_TRANSIENT, "the supervisor did not end in time", "kill it, then `moat down` again ends the rest");
        (void)nanosleep(&(struct timespec){.tv_nsec = 20 * MT_NS_PER_MS}, NULL);
    }
    return *lock >= 0 ? CLI_OK : cli_fail(c, &err, NULL);
}

static bool runs(const struct up *u, int i)
{
    return i == UP_POSTGRES ? up_postgres_runs(u) : service_find(&u->services[i]) != 0;
}

/* No supervisor: adopt each program that runs and end it. VMs are the agent's to stop, so it is started when it is gone. */
static int by_ourselves(struct up *u)
{
    struct mt_err err;
    struct cli *c = u->cli;
    if (up_users_make(&u->layout.users, &err) < 0)
        return cli_fail(c, &err, NULL);
    u->loop = mt_loop_new(&err);
    u->pool = u->loop ? mt_pool_new(u->loop, 1, 4, 512 * 1024, &err) : NULL;
    if (!u->pool)
        return cli_fail(c, &err, NULL);
    up_path(&u->layout, u->notify, "run/notify.sock");
    up_services(u);
    mt_auto_free char *rest = up_leftovers(u);
    char host_json[UP_PATH];
    /* the agent knows how to end VMs and to give the host back; host.json is there while it has something to give back */
    bool had_vms = (rest && *rest) || access(up_path(&u->layout, host_json, "agent/host.json"), F_OK) == 0;
    bool any = had_vms;
    for (int i = 0; i < UP_MAX; i++) {
        struct service *s = &u->services[i];
        if (!s->argv[0])
            continue;
        s->changed = changed;
        any = any || runs(u, i);
    }
    if (!any) {
        cli_say(c, "nothing runs");
        return CLI_OK;
    }
    cli_say(c, "stopping what is left of %s", u->layout.dir);
    if (had_vms && up_programs_install(&u->layout, &err) < 0)
        return cli_fail(c, &err, "the agent stops VMs; it has to be there");
    for (int i = 0; i < UP_MAX; i++) {
        struct service *s = &u->services[i];
        if (!s->argv[0] || (!runs(u, i) && !(i == UP_AGENT && had_vms)))
            continue;
        s->notify_path = NULL;
        s->probe = NULL;
        if (service_init(s, u->loop, &err) < 0 || service_start(s, &err) < 0)
            return cli_fail(c, &err, NULL);
    }
    if (u->services[UP_AGENT].loop) { /* its socket tells when it has adopted what there is */
        int64_t end = mt_clock_mono() + 15 * MT_NS_PER_S;
        while (up_stop_instances(&u->layout, 20000, &err) == -MT_E_UNAVAILABLE && mt_clock_mono() < end)
            (void)mt_loop_turn(u->loop, 50);
    }
    if (up_stop_all(u, &err) < 0)
        return cli_fail(c, &err, NULL);
    return CLI_OK;
}

static int purge(struct cli *c, const struct up_layout *l)
{
    char mark[UP_PATH];
    struct mt_err err;
    if (access(up_path(l, mark, "etc/moat-data-folder"), F_OK) != 0)
        return cli_error(c, CLI_USAGE, "the data folder does not carry moat's mark (etc/moat-data-folder); nothing was removed", NULL);
    (void)umount2(up_path(l, mark, "run/secrets"), UMOUNT_NOFOLLOW); /* left there by an agent that was killed */
    if (mt_file_remove_tree(AT_FDCWD, l->dir, &err) < 0)
        return cli_fail(c, &err, NULL);
    cli_say(c, "removed %s", l->dir);
    return CLI_OK;
}

int cmd_down(struct cli *c)
{
    struct up u = {.cli = c};
    struct mt_err err;
    char path[UP_PATH];
    mt_auto_fd int lock = -1;
    if (geteuid() != 0)
        return cli_error(c, CLI_USAGE, "`moat down` needs root", "sudo moat down");
    mt_log_init("down", MT_WARN, c->json || !c->tty);
    if (up_layout_init(&u.layout, cli_opt(c, "data-dir"), &err) < 0)
        return cli_fail(c, &err, NULL);
    if (access(u.layout.dir, F_OK) != 0) {
        cli_say(c, "nothing runs");
        return CLI_OK;
    }
    if (up_layout_load(&u.layout, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (u.layout.registry_port)
        (void)snprintf(u.layout.registry, sizeof u.layout.registry, "127.0.0.1:%u", u.layout.registry_port);
    int rc = access(up_path(&u.layout, path, "run"), F_OK) == 0 ? mt_file_lock(up_path(&u.layout, path, "run/up.lock"), &lock, &err) : 0;
    int code = CLI_OK;
    if (rc == -MT_E_CONFLICT)
        code = through_supervisor(c, &u.layout, &lock);
    else if (rc < 0)
        return cli_fail(c, &err, NULL);
    if (code == CLI_OK)
        code = by_ourselves(&u);
    for (int i = 0; i < UP_MAX; i++)
        if (u.services[i].loop)
            service_done(&u.services[i]);
    mt_pool_free(u.pool);
    mt_loop_free(u.loop);
    mt_auto_free char *rest = up_leftovers(&u);
    if (code == CLI_OK && rest && *rest)
        code = cli_error(c, CLI_FAILURE, rest, "look at them; they carry this platform's names");
    if (code == CLI_OK && cli_has(c, "purge"))
        code = purge(c, &u.layout);
    if (code == CLI_OK)
        cli_say(c, "down");
    return code;
}
