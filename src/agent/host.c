/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine lacks. See host.h. */
#include "agent/host.h"

#include "agent/agent.h"
#include "agent/mesh/mesh.h"
#include "agent/net/underlay.h"
#include "agent/vmm/driver.h"
#include "agent/volume/backend.h"
#include "agent/volumes.h"
#include "base/clock.h"
#include "base/log.h"
#include "os/spawn.h"

#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#define NOFILE_WANTED 1048576u
#define E2FS_ASK_MS 2000

void mt_host_prepare(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return;
    rlim_t most = l.rlim_max > NOFILE_WANTED ? l.rlim_max : NOFILE_WANTED;
    if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = most, .rlim_max = most}) == 0)
        return;
    l.rlim_cur = l.rlim_max; /* without CAP_SYS_RESOURCE: what there is; the check says when that is too little */
    (void)setrlimit(RLIMIT_NOFILE, &l);
}

/* "mke2fs 1.47.2 (1-Jan-2025)" on stderr; asked again only when another program stands there. */
static void ask_e2fs(struct mt_agent *a)
{
    struct mt_host *h = &a->host;
    struct stat st;
    mt_auto_buf struct mt_buf said = MT_BUF_INIT(1024);
    struct mt_run_result end;
    const char *argv[] = {a->conf.mkfs_path, "-V", NULL};
    if (stat(a->conf.mkfs_path, &st) < 0) {
        h->e2fs_made_ns = 0;
        h->e2fs_version[0] = '\0';
        return;
    }
    int64_t made = (int64_t)st.st_ctim.tv_sec * MT_NS_PER_S + st.st_ctim.tv_nsec;
    if (made == h->e2fs_made_ns)
        return;
    h->e2fs_made_ns = made;
    h->e2fs_version[0] = '\0';
    if (mt_run(&(struct mt_spawn){.path = a->conf.mkfs_path, .argv = argv}, NULL, 0, NULL, &said, E2FS_ASK_MS, &end, NULL) == 0)
        (void)sscanf(mt_buf_cstr(&said), "mke2fs %23[0-9.]", h->e2fs_version);
}

static bool openat2_there(void)
{
    struct open_how how = {0};
    return syscall(SYS_openat2, -1, "", &how, sizeof how) >= 0 || (errno != ENOSYS && errno != EPERM);
}

static void look(struct mt_agent *a)
{
    struct mt_host *h = &a->host;
    const struct mt_backend *b = a->volumes ? mt_volumes_backend(a->volumes) : NULL;
    struct mt_vmm *v = mt_agent_vmm(a);
    struct utsname u;
    struct rlimit most = {0};
    struct mt_err err;
    char clash[MT_UNDERLAY_TEXT] = "";

    if (a->net.has_cluster)
        (void)mt_underlay_clash(&a->net.cluster, a->net.cluster_len, clash, &err); /* what cannot be asked is no finding */
    ask_e2fs(a);
    (void)uname(&u);
    (void)getrlimit(RLIMIT_NOFILE, &most);
    mt_hostcheck(&(struct mt_hostcheck){.proc = "/proc", .sys = "/sys", .passwd = "/etc/passwd", .group = "/etc/group", .tun = "/dev/net/tun",
                                        .data_dir = a->conf.data_dir, .jail_dir = a->conf.jail_dir,
                                        .linked = {a->conf.images_dir, a->conf.scratch_dir, b && b->kind != MT_BACKEND_LVM ? a->conf.storage_dir : NULL},
                                        .release = u.release, .e2fs_version = h->e2fs_version, .openat2 = openat2_there(),
                                        .forwards = a->fw_loaded && mt_mesh_has_device(a->mesh), .cgroups = v ? mt_vmm_cgroup_version(v) : -1,
                                        .needs_v2 = a->choice.ok && a->choice.kind == MT_VMM_FIRECRACKER, .nofile = most.rlim_max, .overlay_clash = clash, .skew_ms = a->skew_ms,
                                        /* somebody's own machine: what only matters between strangers is a warning there */
                                        .strict = strcmp(a->conf.host_firewall, "full") == 0 ? 2 : 1,
                                        .accepted = a->conf.host_accepted.v, .n_accepted = a->conf.host_accepted.n},
                 h->rows);
}

static void judge(struct mt_agent *a, bool first)
{
    struct mt_host *h = &a->host;
    for (size_t i = 0; i < MT_HOSTCHECK_ROWS; i++) {
        const struct mt_hostcheck_row *r = &h->rows[i];
        h->in_row[i] = r->level == 2 ? h->in_row[i] + 1 : 0;
        bool fails = h->in_row[i] >= (first || h->failing[i] ? 1 : 2);
        if (fails != h->failing[i])
            mt_log(fails ? MT_ERROR : MT_INFO, fails ? "host.requirement_failed" : "host.requirement_met", KV("item", r->condition + 5), KV("finding", r->finding),
                   KV("mend", fails ? r->mend : NULL));
        h->failing[i] = fails;
    }
}

const struct mt_hostcheck_row *mt_host_rows(struct mt_agent *a, bool now)
{
    struct mt_host *h = &a->host;
    int64_t at = mt_clock_mono();
    bool due = !h->looked_ns || at - h->looked_ns >= MT_HOST_LOOK_MS * MT_NS_PER_MS;
    if (now || due)
        look(a);
    if (due) { /* a doctor asked in between sees what is, and does not make two looks of one */
        judge(a, !h->looked_ns);
        h->looked_ns = at;
    }
    return h->rows;
}

size_t mt_host_conditions(struct mt_agent *a, const char **ret, size_t max)
{
    const struct mt_hostcheck_row *rows = mt_host_rows(a, false);
    size_t n = 0;
    for (size_t i = 0; i < MT_HOSTCHECK_ROWS && n < max; i++)
        if (a->host.failing[i])
            ret[n++] = rows[i].condition;
    return n;
}

json_t *mt_host_report(struct mt_agent *a)
{
    const struct mt_hostcheck_row *rows = mt_host_rows(a, false);
    json_t *list = NULL;
    for (size_t i = 0; i < MT_HOSTCHECK_ROWS; i++) {
        if (!a->host.failing[i])
            continue;
        list = list ? list : json_array();
        (void)json_array_append_new(list, json_pack("{s:s,s:s,s:s}", "item", rows[i].condition + 5, "finding", rows[i].finding, "mend", rows[i].mend));
    }
    return list;
}
