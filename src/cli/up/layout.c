/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/up/layout.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"
#include "os/spawn.h"
#include "wire/json.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { DIR_MAX = 60 }; /* the longest socket below it: /run/pg/.s.PGSQL.5432 and the jails' vsock sockets must fit in 107 bytes */

int up_layout_init(struct up_layout *l, const char *data_dir, struct mt_err *err)
{
    *l = (struct up_layout){0};
    char real[PATH_MAX], self[PATH_MAX] = "";
    const char *dir = data_dir ? data_dir : "/var/lib/moat";
    if (*dir != '/' && (!realpath(".", real) || mt_fmt(self, sizeof self, err, "%s/%s", real, dir) < 0))
        return MT_FAIL(err, MT_E_INVALID, "data folder '%s' cannot be resolved", dir);
    if (*self)
        dir = self;
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (n > DIR_MAX || n < 2)
        return MT_FAIL(err, MT_E_INVALID, "data folder '%.80s' has %zu bytes; sockets below it allow at most %d", dir, n, DIR_MAX);
    /* it is written into configuration files of four formats, none of which should have to quote it */
    if (strspn(dir, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+@-") < n)
        return MT_FAIL(err, MT_E_INVALID, "data folder '%s' holds a character other than letters, digits and /._+@-: name another", dir);
    memcpy(l->dir, dir, n);
    ssize_t k = readlink("/proc/self/exe", self, sizeof self - 1);
    if (k <= 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "find the running program");
    self[k] = '\0';
    *strrchr(self, '/') = '\0';
    if (mt_fmt(l->source, sizeof l->source, err, "%s", self) < 0 || mt_fmt(l->bin, sizeof l->bin, err, "%s/bin", l->dir) < 0)
        return -MT_E_LIMIT;
    /* beside the sources: BIN/../packaging; installed: /usr/lib/moat */
    if (mt_fmt(l->share, sizeof l->share, err, "%s/../packaging", self) < 0)
        return -MT_E_LIMIT;
    if (access(l->share, F_OK) != 0)
        (void)snprintf(l->share, sizeof l->share, "/usr/lib/moat");
    (void)snprintf(l->listen, sizeof l->listen, "::");
    (void)snprintf(l->vmm, sizeof l->vmm, "auto");
    return 0;
}

const char *up_path(const struct up_layout *l, char ret[UP_PATH], const char *below)
{
    int n = snprintf(ret, UP_PATH, "%s/%s", l->dir, below);
    MT_ASSERT(n > 0 && n < UP_PATH);
    return ret;
}

int up_layout_load(struct up_layout *l, struct mt_err *err)
{
    char path[UP_PATH];
    mt_auto_free char *text = NULL;
    size_t n;
    int r = mt_file_read(up_path(l, path, "etc/up.json"), 4096, &text, &n, err);
    if (r == -MT_E_NOT_FOUND)
        return 0;
    mt_auto_json json_t *j = NULL;
    if (r == 0)
        r = mt_json_parse(text, n, 4096, 4, &j, err);
    const char *node = NULL;
    uint64_t tls = 0, reg = 0;
    if (r == 0)
        r = mt_json_get_str(j, "node_id", sizeof l->node_id - 1, &node, err);
    if (r == 0)
        r = mt_json_opt_u64(j, "tls_port", 0, 65535, 0, &tls, err);
    if (r == 0)
        r = mt_json_opt_u64(j, "registry_port", 0, 65535, 0, &reg, err);
    if (r < 0)
        return mt_err_wrap(err, "'%s'", path);
    (void)snprintf(l->node_id, sizeof l->node_id, "%s", node);
    l->tls_port = (unsigned)tls;
    l->registry_port = (unsigned)reg;
    return 0;
}

int up_layout_save(const struct up_layout *l, struct mt_err *err)
{
    char path[UP_PATH];
    mt_auto_json json_t *j = json_pack("{s:i,s:s,s:i,s:i}", "format", 1, "node_id", l->node_id, "tls_port", (int)l->tls_port, "registry_port",
                                       (int)l->registry_port);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(4096);
    int r = mt_json_dump(j, &b, err);
    return r < 0 ? r : mt_file_write(up_path(l, path, "etc/up.json"), b.p, b.len, 0644, err);
}

static int make_dir(const struct up_layout *l, const char *below, mode_t mode, uid_t uid, gid_t gid, struct mt_err *err)
{
    char path[UP_PATH];
    up_path(l, path, below);
    if (mt_file_mkdirs(path, mode, err) < 0)
        return -MT_E_IO;
    /* never through a link: some of these lie in a folder that the daemons' users may write */
    mt_auto_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set owner and mode of '%s'", path);
    return 0;
}

int up_layout_make(const struct up_layout *l, struct mt_err *err)
{
    const struct up_users *u = &l->users;
    const struct { const char *name; mode_t mode; uid_t uid; gid_t gid; } dirs[] = {
        {"etc", 0755, 0, 0},
        /* each daemon makes its sockets in a folder of its own, so that none can sit on another's name */
        {"run", 0755, 0, 0},
        {"run/control", 0755, u->control, u->moat},
        {"run/edge", 0755, u->edge, u->moat},
        {"run/pg", 0755, u->pg, u->pg_gid},
        {"pg", 0700, u->pg, u->pg_gid},
        {"control", 0700, u->control, u->moat},
        {"edge", 0700, u->edge, u->moat},
        {"log", 0755, 0, 0},
        {"bin", 0755, 0, 0},
        {"boot", 0755, 0, 0},
        {"registry", 0700, u->registry, u->registry_gid},
    };
    char path[UP_PATH];
    if (mt_file_mkdirs(l->dir, 0755, err) < 0)
        return -MT_E_IO;
    for (size_t i = 0; i < MT_ARRAY_LEN(dirs); i++)
        if (make_dir(l, dirs[i].name, dirs[i].mode, dirs[i].uid, dirs[i].gid, err) < 0)
            return -MT_E_IO;
    /* the mark that `moat down --purge` looks for before it removes anything */
    return mt_file_write(up_path(l, path, "etc/moat-data-folder"), "1\n", 2, 0644, err);
}

int up_programs_install(const struct up_layout *l, struct mt_err *err)
{
    static const char *const names[] = {"moat-control", "moat-agent", "moat-edge", "moat-init", "moat-unpack", "moat-fetch", "moat-backup", "moat-vsock"};
    for (size_t i = 0; i < MT_ARRAY_LEN(names); i++) {
        char from[UP_PATH + 32], to[UP_PATH + 32];
        mt_auto_free char *now = NULL;
        mt_auto_free char *old = NULL;
        size_t n, k = 0;
        if (mt_fmt(from, sizeof from, err, "%s/%s", l->source, names[i]) < 0 || mt_fmt(to, sizeof to, err, "%s/%s", l->bin, names[i]) < 0)
            return -MT_E_LIMIT;
        int r = mt_file_read(from, 64 << 20, &now, &n, err);
        if (r < 0)
            return mt_err_wrap(err, "program '%s' (run `make`)", names[i]);
        if (mt_file_read(to, 64 << 20, &old, &k, NULL) == 0 && k == n && memcmp(old, now, n) == 0)
            continue;
        r = mt_file_write(to, now, n, 0755, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int add_user(const char *name, const char *group, struct mt_err *err)
{
    const char *argv[] = {"useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin",
                          group ? "--gid" : "--user-group", group ? group : name, group ? name : NULL, NULL};
    return mt_run_ok(&(struct mt_spawn){.path = "/usr/sbin/useradd", .argv = argv}, NULL, 0, NULL, 20000, err);
}

static int need_group(const char *name, gid_t *ret, struct mt_err *err)
{
    if (!getgrnam(name)) {
        const char *argv[] = {"groupadd", "--system", name, NULL};
        if (mt_run_ok(&(struct mt_spawn){.path = "/usr/sbin/groupadd", .argv = argv}, NULL, 0, NULL, 20000, err) < 0)
            return mt_err_wrap(err, "make group '%s'", name);
    }
    const struct group *g = getgrnam(name);
    if (!g)
        return MT_FAIL(err, MT_E_IO, "group '%s' is missing after groupadd", name);
    *ret = g->gr_gid;
    return 0;
}

static int need_user(const char *name, const char *group, uid_t *ret, gid_t *ret_gid, struct mt_err *err)
{
    if (!getpwnam(name) && add_user(name, group, err) < 0)
        return mt_err_wrap(err, "make user '%s'", name);
    const struct passwd *p = getpwnam(name);
    if (!p)
        return MT_FAIL(err, MT_E_IO, "user '%s' is missing after useradd", name);
    *ret = p->pw_uid;
    if (ret_gid)
        *ret_gid = p->pw_gid;
    return 0;
}

int up_users_make(struct up_users *ret, struct mt_err *err)
{
    int r = need_group("moat", &ret->moat, err);
    if (r == 0)
        r = need_user("moat-pg", NULL, &ret->pg, &ret->pg_gid, err);
    if (r == 0)
        r = need_user("moat-control", "moat", &ret->control, NULL, err);
    if (r == 0)
        r = need_user("moat-edge", "moat", &ret->edge, NULL, err);
    if (r == 0)
        r = need_user("moat-registry", NULL, &ret->registry, &ret->registry_gid, err);
    if (r == 0)
        r = need_user("moat-fetch", NULL, &ret->fetch, NULL, err);
    if (r == 0)
        r = need_user("moat-fsck", NULL, &ret->fsck, NULL, err);
    return r;
}

static bool port_is_free(const char *address, unsigned port)
{
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    bool six = inet_pton(AF_INET6, address, &a6.sin6_addr) == 1;
    if (!six && inet_pton(AF_INET, address, &a4.sin_addr) != 1)
        return false;
    mt_auto_fd int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd < 0)
        return false;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); /* as the edge does: TIME_WAIT is not in the way */
    if (six)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    return bind(fd, six ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4, six ? sizeof a6 : sizeof a4) == 0;
}

int up_choose_ports(struct up_layout *l, bool own_registry, struct mt_err *err)
{
    if (!*l->node_id) {
        char id[40];
        mt_id_new(MT_ID_NODE, id);
        (void)snprintf(l->node_id, sizeof l->node_id, "%s", id);
    }
    if (l->tls_port == 0 && port_is_free(l->listen, 443))
        l->tls_port = 443;
    for (unsigned p = 8443; l->tls_port == 0 && p < 8543; p++)
        l->tls_port = port_is_free(l->listen, p) ? p : 0;
    for (unsigned p = 5055; own_registry && l->registry_port == 0 && p < 5155; p++)
        l->registry_port = port_is_free("127.0.0.1", p) ? p : 0;
    if (l->tls_port == 0 || (own_registry && l->registry_port == 0))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "no free port was found; name one with --tls-port");
    if (own_registry)
        (void)snprintf(l->registry, sizeof l->registry, "127.0.0.1:%u", l->registry_port);
    else
        l->registry_port = 0;
    return 0;
}
