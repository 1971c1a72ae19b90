/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "os/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Where clusters are: in memory where there is room for them. What they flush would cost the disk that all tests share, and here processes die, never the
 * machine. What was left there by a test that was killed goes with the next one. */
static const char *place(void)
{
    static const char memory[] = "/dev/shm";
    struct statvfs v;
    if (statvfs(memory, &v) < 0 || v.f_bavail * v.f_frsize < UINT64_C(2) << 30 || access(memory, W_OK) < 0)
        return "/tmp";
    int dir = open(memory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = dir < 0 ? NULL : fdopendir(dup(dir));
    for (const struct dirent *e; d && (e = readdir(d));) {
        struct mt_err err;
        int pid, end = 0;
        if (sscanf(e->d_name, "mt-pg-%d-%n", &pid, &end) == 1 && end && kill(pid, 0) < 0 && errno == ESRCH)
            (void)mt_file_remove_tree(dir, e->d_name, &err);
    }
    if (d)
        (void)closedir(d);
    if (dir >= 0)
        (void)close(dir);
    return memory;
}

int scratch_up(struct scratch *s, struct mt_err *err)
{
    memset(s, 0, sizeof *s);
    s->cluster.pidfd = -1;
    (void)snprintf(s->dir, sizeof s->dir, "%s/mt-pg-%d-XXXXXX", place(), (int)getpid());
    if (!mkdtemp(s->dir) || chmod(s->dir, 0755) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mkdtemp");
    (void)snprintf(s->data, sizeof s->data, "%s/data", s->dir);
    (void)snprintf(s->sock, sizeof s->sock, "%s/sock", s->dir);
    (void)snprintf(s->log, sizeof s->log, "%s/log", s->dir);
    const struct passwd *pw = getpwnam("nobody");
    uid_t uid = geteuid() ? geteuid() : pw ? pw->pw_uid : 65534;
    gid_t gid = geteuid() ? getegid() : pw ? pw->pw_gid : 65534;
    s->conf = (struct mt_pg_cluster_conf){.data_dir = s->data, .socket_dir = s->sock, .log_file = s->log, .uid = uid, .gid = gid};
    int r = mt_pg_cluster_up(&s->conf, 120000, &s->cluster, err);
    if (r == 0)
        r = mt_pg_cluster_conninfo(&s->conf, "moat_super", s->super, sizeof s->super, err);
    if (r == 0)
        r = mt_pg_cluster_conninfo(&s->conf, "moat_owner", s->owner, sizeof s->owner, err);
    if (r == 0)
        r = mt_pg_cluster_conninfo(&s->conf, "moat_control", s->control, sizeof s->control, err);
    return r;
}

void scratch_down(struct scratch *s)
{
    struct mt_err err;
    if (s->cluster.pidfd >= 0)
        (void)mt_pg_cluster_stop(&s->cluster, &s->conf, MT_PG_STOP_IMMEDIATE, 5000, &err);
    if (s->dir[0])
        (void)mt_file_remove_tree(AT_FDCWD, s->dir, &err);
}
