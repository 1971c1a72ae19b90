/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "os/file.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int scratch_up(struct scratch *s, struct mt_err *err)
{
    memset(s, 0, sizeof *s);
    s->cluster.pidfd = -1;
    (void)snprintf(s->dir, sizeof s->dir, "/tmp/mt-pg-XXXXXX");
    if (!mkdtemp(s->dir) || chmod(s->dir, 0755) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mkdtemp");
    (void)snprintf(s->data, sizeof s->data, "%s/data", s->dir);
    (void)snprintf(s->sock, sizeof s->sock, "%s/sock", s->dir);
    (void)snprintf(s->log, sizeof s->log, "%s/log", s->dir);
    const struct passwd *pw = getpwnam("nobody");
    uid_t uid = geteuid() ? geteuid() : pw ? pw->pw_uid : 65534;
    gid_t gid = geteuid() ? getegid() : pw ? pw->pw_gid : 65534;
    s->conf = (struct mt_pg_cluster_conf){.data_dir = s->data, .socket_dir = s->sock, .log_file = s->log, .uid = uid, .gid = gid};
    int r = mt_pg_cluster_up(&s->conf, 20000, &s->cluster, err);
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
