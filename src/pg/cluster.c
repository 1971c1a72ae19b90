/* SPDX-License-Identifier: Apache-2.0 */
/* Life of our own cluster. The truth about a running server is /proc: a process is ours when its program is postgres and
 * its working folder is the data folder; postmaster.pid alone can name a reused pid. */
#include "pg/cluster.h"
#include "pg/pg.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>

#define INITDB_MS 60000
#define CLUSTER_MAPS_MAX 32

static const char server_conf[] =
    "# written by moat at each start; changes are lost\n"
    "listen_addresses = ''\n"
    "unix_socket_permissions = 0777\n" /* peer authentication decides, pg_ident.conf lists who */
    "max_connections = 64\n"
    "shared_buffers = 32MB\n"
    "huge_pages = off\n"
    "work_mem = 4MB\n"
    "maintenance_work_mem = 16MB\n"
    "max_worker_processes = 4\n"
    "max_parallel_workers_per_gather = 0\n"
    "autovacuum_max_workers = 2\n"
    "jit = off\n"
    "timezone = 'UTC'\n"
    "log_timezone = 'UTC'\n"
    "log_min_messages = warning\n"
    "log_checkpoints = off\n"
    "log_line_prefix = '%m [%p] %a '\n"
    "cluster_name = 'moat'\n";

static const char *database_of(const struct mt_pg_cluster_conf *conf)
{
    return conf->database ? conf->database : "moat";
}

static int bin_path(const struct mt_pg_cluster_conf *conf, const char *program, char *ret, size_t size, struct mt_err *err)
{
    if (conf->bin_dir)
        return mt_fmt(ret, size, err, "%s/%s", conf->bin_dir, program);
    for (int v = 18; v >= 15; v--) {
        int r = mt_fmt(ret, size, err, "/usr/lib/postgresql/%d/bin/%s", v, program);
        if (r < 0 || access(ret, X_OK) == 0)
            return r;
    }
    return MT_FAIL(err, MT_E_NOT_FOUND, "no %s under /usr/lib/postgresql: install the package postgresql-15", program);
}

static int conf_ok(const struct mt_pg_cluster_conf *conf, struct mt_err *err)
{
    if (conf->uid == 0)
        return MT_FAIL(err, MT_E_INVALID, "PostgreSQL does not run as root: choose another user for the cluster");
    if (conf->data_dir[0] != '/' || conf->socket_dir[0] != '/' || strpbrk(conf->data_dir, "'\n\\") || strpbrk(conf->socket_dir, "'\n\\,"))
        return MT_FAIL(err, MT_E_INVALID, "data and socket folders of PostgreSQL are absolute paths without quotes");
    if (strlen(conf->socket_dir) + sizeof "/.s.PGSQL.5432" > 107)
        return MT_FAIL(err, MT_E_INVALID, "socket folder '%s' is too long for a Unix socket: use a shorter data folder", conf->socket_dir);
    return 0;
}

int mt_pg_cluster_conninfo(const struct mt_pg_cluster_conf *conf, const char *role, char *ret, size_t size, struct mt_err *err)
{
    return mt_fmt(ret, size, err, "host=%s dbname=%s user=%s", conf->socket_dir, database_of(conf), role);
}

/* ---- who runs ---- */

/* True when @pid runs a program called postgres with the data folder as its working folder. */
static bool is_ours(const char *data_dir, pid_t pid)
{
    char path[64], link[PATH_MAX], real[PATH_MAX];
    (void)snprintf(path, sizeof path, "/proc/%d/cwd", (int)pid);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n <= 0 || !realpath(data_dir, real))
        return false;
    link[n] = 0;
    if (!MT_STREQ(link, real))
        return false;
    (void)snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    mt_auto_free char *comm = NULL;
    size_t len = 0;
    return mt_file_read(path, 64, &comm, &len, NULL) == 0 && mt_starts_with(comm, "postgres");
}

static bool all_digits(const char *s)
{
    return *s && strspn(s, "0123456789") == strlen(s);
}

/* Signal every process of the cluster but @except; returns how many there are. */
static int signal_ours(const char *data_dir, pid_t except, int signo)
{
    mt_auto_dir DIR *proc = opendir("/proc");
    int n = 0;
    for (struct dirent *d; proc && (d = readdir(proc)) != NULL;) {
        uint64_t pid;
        if (!all_digits(d->d_name) || mt_parse_u64(d->d_name, 2, INT_MAX, &pid, NULL) < 0)
            continue;
        if ((pid_t)pid == except || !is_ours(data_dir, (pid_t)pid))
            continue;
        n++;
        if (signo)
            (void)kill((pid_t)pid, signo);
    }
    return n;
}

/* Content of postmaster.pid: pid in line 1, state in line 8. */
static int read_pid_file(const struct mt_pg_cluster_conf *conf, pid_t *ret_pid, bool *ret_ready, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_free char *text = NULL;
    size_t n = 0;
    int r = mt_fmt(path, sizeof path, err, "%s/postmaster.pid", conf->data_dir);
    if (r < 0 || (r = mt_file_read(path, 4096, &text, &n, err)) < 0)
        return r;
    char *lines[8] = {NULL};
    char *at = text;
    for (int i = 0; i < 8 && at; i++) {
        lines[i] = at;
        at = strchr(at, '\n');
        if (at)
            *at++ = 0;
    }
    uint64_t pid;
    if (!lines[0] || mt_parse_u64(lines[0], 2, INT_MAX, &pid, NULL) < 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "'%s' holds no pid", path);
    *ret_pid = (pid_t)pid;
    *ret_ready = lines[7] && mt_starts_with(lines[7], "ready");
    return 0;
}

static bool has_ended(int pidfd, int wait_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, wait_ms) > 0;
}

int mt_pg_cluster_find(const struct mt_pg_cluster_conf *conf, struct mt_pg_cluster *ret, struct mt_err *err)
{
    pid_t pid = 0;
    bool ready = false;
    int r = read_pid_file(conf, &pid, &ready, err);
    if (r < 0)
        return r;
    int fd = -1;
    if ((r = mt_pidfd_open(pid, &fd, err)) < 0)
        return r;
    if (has_ended(fd, 0) || !is_ours(conf->data_dir, pid)) { /* asked after the pidfd: what it names can no longer change */
        mt_closep(&fd);
        return MT_FAIL(err, MT_E_NOT_FOUND, "pid %d is not the server of '%s'", (int)pid, conf->data_dir);
    }
    *ret = (struct mt_pg_cluster){.pid = pid, .pidfd = fd, .adopted = true};
    return 0;
}

/* End what a killed postmaster left: orphans keep the shared memory, and a new server would refuse to start. */
static int clear_remains(const struct mt_pg_cluster_conf *conf, struct mt_err *err)
{
    int64_t start = mt_clock_mono();
    for (int signo = SIGQUIT; signal_ours(conf->data_dir, 0, signo) > 0; ) {
        int64_t ms = (mt_clock_mono() - start) / MT_NS_PER_MS;
        if (ms > 5000)
            return MT_FAIL(err, MT_E_CONFLICT, "processes of the old server of '%s' do not end", conf->data_dir);
        signo = ms > 500 ? SIGKILL : 0;
        (void)poll(NULL, 0, 5);
    }
    /* Their pid may belong to somebody else by now, and the server trusts them. The socket folder is ours alone. */
    const struct {
        const char *dir, *name;
    } files[] = {{conf->data_dir, "postmaster.pid"}, {conf->socket_dir, ".s.PGSQL.5432.lock"}, {conf->socket_dir, ".s.PGSQL.5432"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[PATH_MAX];
        int r = mt_fmt(path, sizeof path, err, "%s/%s", files[i].dir, files[i].name);
        if (r < 0)
            return r;
        if (unlink(path) < 0 && errno != ENOENT)
            return MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path);
    }
    return 0;
}

/* ---- making it ---- */

static struct mt_spawn as_user(const struct mt_pg_cluster_conf *conf, const char *path, const char *const *argv)
{
    return (struct mt_spawn){.path = path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .uid = conf->uid,
                             .gid = conf->gid, .set_ids = geteuid() == 0, .no_new_privs = true};
}

static int own_dir(const char *path, const struct mt_pg_cluster_conf *conf, mode_t mode, struct mt_err *err)
{
    int r = mt_file_mkdirs(path, 0755, err);
    if (r < 0)
        return r;
    if (geteuid() == 0 && chown(path, conf->uid, conf->gid) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "chown '%s'", path);
    if (chmod(path, mode) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "chmod '%s'", path);
    return 0;
}

/* The folders above must let the user through; PostgreSQL's own message for that is hard to read. */
static int traversable(const char *path, uid_t uid, struct mt_err *err)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof part)
        return MT_FAIL(err, MT_E_INVALID, "path '%.80s...' is too long", path);
    memcpy(part, path, n + 1);
    for (char *slash = strrchr(part, '/'); slash && slash > part; slash = strrchr(part, '/')) {
        *slash = 0;
        struct stat st;
        if (stat(part, &st) < 0)
            continue;
        if (!(st.st_mode & S_IXOTH) && st.st_uid != uid)
            return MT_FAIL(err, MT_E_DENIED, "folder '%s' does not let PostgreSQL's user through: choose another data folder or chmod o+x it",
                           part);
    }
    return 0;
}

static int run_initdb(const struct mt_pg_cluster_conf *conf, struct mt_err *err)
{
    char initdb[PATH_MAX], fresh[PATH_MAX];
    int r = bin_path(conf, "initdb", initdb, sizeof initdb, err);
    if (r < 0 || (r = mt_fmt(fresh, sizeof fresh, err, "%s.new", conf->data_dir)) < 0 ||
        (r = mt_file_remove_tree(AT_FDCWD, fresh, err)) < 0 || (r = own_dir(fresh, conf, 0700, err)) < 0 ||
        (r = traversable(fresh, conf->uid, err)) < 0)
        return r;
    /* Synced below in one go, before the rename makes it the cluster. */
    const char *const argv[] = {"initdb", "-D", fresh, "-U", "moat_super", "--locale=C.UTF-8", "--lc-collate=C", "--encoding=UTF8",
                                "--auth-local=peer", "--auth-host=reject", "--no-sync", "--no-instructions", NULL};
    struct mt_spawn s = as_user(conf, initdb, argv);
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(64u << 10);
    int64_t from = mt_clock_mono();
    if ((r = mt_run_ok(&s, NULL, 0, &out, INITDB_MS, err)) < 0)
        return mt_err_wrap(err, "initdb of '%s'", conf->data_dir);
    mt_auto_fd int dir = open(fresh, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || syncfs(dir) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "sync '%s'", fresh);
    if (rename(fresh, conf->data_dir) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "rename '%s'", fresh);
    mt_log(MT_INFO, "pg.initdb", KV("data_dir", conf->data_dir), KV("took_ms", (mt_clock_mono() - from) / MT_NS_PER_MS));
    return 0;
}

static int write_conf(const struct mt_pg_cluster_conf *conf, const char *name, struct mt_buf *b, struct mt_err *err)
{
    char path[PATH_MAX];
    int r = mt_buf_check(b, err);
    if (r < 0 || (r = mt_fmt(path, sizeof path, err, "%s/%s", conf->data_dir, name)) < 0)
        return r;
    mt_auto_free char *old = NULL;
    size_t n = 0;
    if (mt_file_read(path, 1u << 20, &old, &n, NULL) == 0 && n == b->len && memcmp(old, b->p, n) == 0)
        return 0;
    if ((r = mt_file_write(path, b->p, b->len, 0600, err)) < 0)
        return r;
    if (geteuid() == 0 && chown(path, conf->uid, conf->gid) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "chown '%s'", path);
    return 0;
}

static int write_confs(const struct mt_pg_cluster_conf *conf, struct mt_err *err)
{
    mt_auto_buf struct mt_buf main = MT_BUF_INIT(64u << 10), hba = MT_BUF_INIT(4096), ident = MT_BUF_INIT(64u << 10);
    mt_buf_puts(&main, server_conf);
    mt_buf_printf(&main, "unix_socket_directories = '%s'\n", conf->socket_dir);
    if (conf->extra_conf)
        mt_buf_puts(&main, conf->extra_conf);
    mt_buf_puts(&hba, "# written by moat\nlocal all all peer map=moat\n");
    struct passwd *me = getpwuid(geteuid());
    if (!me)
        return MT_FAIL(err, MT_E_NOT_FOUND, "user %u has no name", (unsigned)geteuid());
    if (conf->n_maps > CLUSTER_MAPS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "at most %d user maps", CLUSTER_MAPS_MAX);
    mt_buf_puts(&ident, "# written by moat: map, system user, role\n");
    static const char *const mine[] = {"moat_super", "moat_owner", "moat_control"};
    for (size_t i = 0; i < sizeof mine / sizeof *mine; i++)
        mt_buf_printf(&ident, "moat \"%s\" %s\n", me->pw_name, mine[i]);
    for (int i = 0; i < conf->n_maps; i++)
        mt_buf_printf(&ident, "moat \"%s\" %s\n", conf->maps[i].os_user, conf->maps[i].role);
    int r = write_conf(conf, "postgresql.conf", &main, err);
    if (r == 0)
        r = write_conf(conf, "pg_hba.conf", &hba, err);
    if (r == 0)
        r = write_conf(conf, "pg_ident.conf", &ident, err);
    return r;
}

/* ---- starting ---- */

static int log_open(const struct mt_pg_cluster_conf *conf, int *ret_fd, off_t *ret_size, struct mt_err *err)
{
    int fd = open(conf->log_file, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", conf->log_file);
    struct stat st;
    *ret_size = fstat(fd, &st) == 0 ? st.st_size : 0;
    *ret_fd = fd;
    return 0;
}

/* The last line that the server wrote since the start, for the error message. */
static int died(const struct mt_pg_cluster_conf *conf, int log_fd, off_t from, const char *what, struct mt_err *err)
{
    char text[2048];
    struct stat st;
    off_t size = fstat(log_fd, &st) == 0 ? st.st_size : from;
    off_t at = size - from > (off_t)sizeof text - 1 ? size - (off_t)sizeof text + 1 : from;
    ssize_t n = pread(log_fd, text, sizeof text - 1, at);
    text[n > 0 ? n : 0] = 0;
    char *fatal = strstr(text, "FATAL:");
    if (!fatal)
        fatal = text;
    char *end = strchr(fatal, '\n');
    if (end)
        *end = 0;
    char shown[140];
    return MT_FAIL(err, MT_E_UNAVAILABLE, "PostgreSQL of '%s' %s: %s", conf->data_dir, what,
                   mt_printable(fatal, strlen(fatal), shown, sizeof shown));
}

static int await_ready(const struct mt_pg_cluster_conf *conf, int pidfd, int log_fd, off_t log_from, int64_t deadline, struct mt_err *err)
{
    for (;;) {
        pid_t pid = 0;
        bool ready = false;
        if (read_pid_file(conf, &pid, &ready, NULL) == 0 && ready)
            return 0;
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        if (poll(&p, 1, 4) > 0)
            return died(conf, log_fd, log_from, "ended while starting", err);
        if (mt_clock_mono() > deadline)
            return died(conf, log_fd, log_from, "was not ready in time", err);
    }
}

static int start(const struct mt_pg_cluster_conf *conf, int64_t deadline, struct mt_pg_cluster *c, struct mt_err *err)
{
    char postgres[PATH_MAX];
    mt_auto_fd int log_fd = -1;
    off_t log_from = 0;
    int r = bin_path(conf, "postgres", postgres, sizeof postgres, err);
    if (r < 0 || (r = log_open(conf, &log_fd, &log_from, err)) < 0)
        return r;
    const char *const argv[] = {postgres, "-D", conf->data_dir, NULL};
    /* Backends keep the few MiB that each batch needs, instead of giving them back and faulting them in again each time. */
    const char *const envp[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", "MALLOC_TRIM_THRESHOLD_=4194304", "MALLOC_MMAP_THRESHOLD_=4194304", NULL};
    struct mt_spawn s = as_user(conf, postgres, argv);
    s.envp = envp;
    s.stdout_fd = s.stderr_fd = log_fd;
    s.new_session = true; /* Ctrl-C in the terminal of `moat up` is answered in order, not by everyone at once */
    if ((r = mt_spawn(&s, &c->pid, &c->pidfd, err)) < 0)
        return mt_err_wrap(err, "start PostgreSQL");
    if ((r = await_ready(conf, c->pidfd, log_fd, log_from, deadline, err)) == 0)
        return 0;
    struct mt_run_result ended;
    (void)mt_pidfd_kill(c->pidfd, SIGQUIT, NULL);
    if (mt_pidfd_wait(c->pidfd, 3000, &ended, NULL) < 0) {
        (void)mt_pidfd_kill(c->pidfd, SIGKILL, NULL);
        (void)mt_pidfd_wait(c->pidfd, 3000, &ended, NULL);
    }
    mt_closep(&c->pidfd);
    return r;
}

/* ---- roles and the database ---- */

static const struct mt_pg_stmt st_have = {"cluster_have", "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"};

static int make_database(const struct mt_pg_cluster_conf *conf, struct mt_err *err)
{
    char conninfo[256], sql[256];
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *have = NULL;
    const char *db = database_of(conf);
    if (strspn(db, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(db))
        return MT_FAIL(err, MT_E_INVALID, "database name '%.60s' has other letters than a-z, 0-9 and _", db);
    int r = mt_fmt(conninfo, sizeof conninfo, err, "host=%s dbname=postgres user=moat_super", conf->socket_dir);
    if (r < 0 || (r = mt_pg_connect(&(struct mt_pg_conf){.conninfo = conninfo, .application_name = "moat cluster", .call_timeout_ms = 30000},
                                    &pg, err)) < 0)
        return r;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, db);
    if ((r = mt_pg_query_one(pg, &st_have, &p, &have, err)) < 0 || mt_pg_bool(have, 0, 0))
        return r;
    /* The database is made last: when it is there, the roles are. */
    r = mt_pg_exec(pg, "DO $$ BEGIN"
                       " IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_owner') THEN CREATE ROLE moat_owner LOGIN; END IF;"
                       " IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_projector') THEN CREATE ROLE moat_projector NOLOGIN; END IF;"
                       " IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_control') THEN"
                       "  CREATE ROLE moat_control LOGIN NOINHERIT IN ROLE moat_projector; END IF; END $$", err);
    if (r == 0)
        r = mt_fmt(sql, sizeof sql, err, "CREATE DATABASE %s OWNER moat_owner", db);
    return r < 0 ? r : mt_pg_exec(pg, sql, err);
}

/* 0 it serves; 1 it was ending (pidfd closed): start another; -code. */
static int adopt(const struct mt_pg_cluster_conf *conf, struct mt_pg_cluster *found, int64_t deadline, struct mt_err *err)
{
    mt_auto_fd int log_fd = -1;
    off_t log_from = 0;
    int r = log_open(conf, &log_fd, &log_from, err);
    if (r == 0)
        r = await_ready(conf, found->pidfd, log_fd, log_from, deadline, err);
    if (r == 0)
        r = make_database(conf, err);
    if (r == 0)
        return 0;
    /* Dying processes still have a pid file and a working folder; give what was killed a moment to be gone. */
    if (!has_ended(found->pidfd, 1000))
        return mt_err_wrap(err, "adopting the server with pid %d", (int)found->pid);
    mt_closep(&found->pidfd);
    return 1;
}

int mt_pg_cluster_up(const struct mt_pg_cluster_conf *conf, int timeout_ms, struct mt_pg_cluster *ret, struct mt_err *err)
{
    struct mt_pg_cluster c = {.pidfd = -1};
    char path[PATH_MAX];
    struct stat st;
    struct mt_pg_cluster found;
    int r = conf_ok(conf, err);
    if (r < 0 || (r = mt_fmt(path, sizeof path, err, "%s/PG_VERSION", conf->data_dir)) < 0)
        return r;
    if (stat(path, &st) < 0) {
        if ((r = run_initdb(conf, err)) < 0)
            return r;
        c.fresh = true;
    }
    int64_t deadline = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    if ((r = traversable(conf->data_dir, conf->uid, err)) < 0 || (r = own_dir(conf->socket_dir, conf, 0755, err)) < 0)
        return r;
    if (mt_pg_cluster_find(conf, &found, NULL) == 0 && (r = adopt(conf, &found, deadline, err)) != 1) {
        c.pid = found.pid;
        c.pidfd = found.pidfd;
        c.adopted = true;
    } else if ((r = clear_remains(conf, err)) == 0 && (r = write_confs(conf, err)) == 0 &&
               (r = start(conf, deadline, &c, err)) == 0) {
        r = make_database(conf, err);
    }
    if (r < 0) {
        mt_closep(&c.pidfd);
        return r;
    }
    *ret = c;
    return 0;
}

int mt_pg_cluster_stop(struct mt_pg_cluster *c, const struct mt_pg_cluster_conf *conf, enum mt_pg_stop how, int timeout_ms,
                       struct mt_err *err)
{
    struct mt_run_result ended;
    int r = mt_pidfd_kill(c->pidfd, how == MT_PG_STOP_FAST ? SIGINT : SIGQUIT, err);
    if (r == 0)
        r = mt_pidfd_wait(c->pidfd, timeout_ms / 2, &ended, err);
    if (r == -(int)MT_E_TIMEOUT && (r = mt_pidfd_kill(c->pidfd, SIGQUIT, err)) == 0)
        r = mt_pidfd_wait(c->pidfd, timeout_ms / 2, &ended, err);
    if (r == -(int)MT_E_TIMEOUT) {
        mt_log(MT_WARN, "pg.killed", KV("pid", (int)c->pid));
        if ((r = mt_pidfd_kill(c->pidfd, SIGKILL, err)) == 0 && (r = mt_pidfd_wait(c->pidfd, 5000, &ended, err)) == 0)
            r = clear_remains(conf, err);
    }
    mt_closep(&c->pidfd);
    return r;
}
