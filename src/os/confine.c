/* SPDX-License-Identifier: Apache-2.0 */
#include "os/confine.h"

#include "base/assert.h"
#include "base/cleanup.h"

#include <grp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int mt_confine_die_with_parent(pid_t parent, struct mt_err *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set the parent death signal");
    if (parent != 0 && getppid() != parent) /* it died before we asked */
        return MT_FAIL(err, MT_E_CANCELLED, "the parent process is gone");
    return 0;
}

int mt_confine_user(uid_t uid, gid_t gid, struct mt_err *err)
{
    struct rlimit none = {0};
    pid_t parent = getppid();
    if (geteuid() == 0 && uid != 0) {
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "become user %u", uid);
        if (setuid(0) == 0)
            return MT_FAIL(err, MT_E_IO, "root did not go away");
    }
    if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "give up privileges");
    return mt_confine_die_with_parent(parent, err);
}

static void release(scmp_filter_ctx *ctx)
{
    if (*ctx)
        seccomp_release(*ctx);
}

/* 0 or -errno of libseccomp. */
static int add(scmp_filter_ctx ctx, const struct mt_confine_calls *c, bool otherwise_kill)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->n_allowed; i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, c->allowed[i], 0);
    for (size_t i = 0; r == 0 && !otherwise_kill && i < c->n_deadly; i++) /* else as all the rest; libseccomp refuses to say it twice */
        r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, c->deadly[i], 0);
    for (size_t i = 0; r == 0 && i < c->n_rules; i++) {
        const struct mt_confine_rule *one = &c->rules[i];
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, one->nr, 1, SCMP_CMP(one->arg, SCMP_CMP_MASKED_EQ, one->mask, one->value));
    }
    return r;
}

static int make(const struct mt_confine_calls *c, scmp_filter_ctx *ret, struct mt_err *err)
{
    mt_cleanup(release) scmp_filter_ctx ctx = seccomp_init(c->otherwise_kill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(ENOSYS));
    if (!ctx)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a system call filter");
    int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = add(ctx, c, c->otherwise_kill);
    if (r == 0 && c->also)
        r = add(ctx, c->also, c->otherwise_kill);
    if (r < 0)
        return MT_FAIL(err, MT_E_IO, "system call filter: %s", strerrordesc_np(-r));
    *ret = MT_TAKE(ctx);
    return 0;
}

int mt_confine_calls(const struct mt_confine_calls *c, struct mt_err *err)
{
    mt_cleanup(release) scmp_filter_ctx ctx = NULL;
    int r = make(c, &ctx, err);
    if (r < 0)
        return r;
    r = seccomp_load(ctx);
    return r < 0 ? MT_FAIL(err, MT_E_IO, "load the system call filter: %s", strerrordesc_np(-r)) : 0;
}

int mt_confine_export(const struct mt_confine_calls *c, struct mt_confine_filter **ret, struct mt_err *err)
{
    struct stat st;
    mt_cleanup(release) scmp_filter_ctx ctx = NULL;
    int r = make(c, &ctx, err);
    if (r < 0)
        return r;
    mt_auto_fd int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0 || seccomp_export_bpf(ctx, fd) < 0 || fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make the system call filter");
    if (st.st_size <= 0 || st.st_size > (off_t)(BPF_MAXINSNS * sizeof(struct sock_filter)))
        return MT_FAIL(err, MT_E_IO, "system call filter: %lld bytes", (long long)st.st_size);
    struct mt_confine_filter *f = calloc(1, sizeof *f + (size_t)st.st_size);
    if (!f)
        return MT_FAIL(err, MT_E_NOMEM, "system call filter: out of memory");
    if (pread(fd, f->code, (size_t)st.st_size, 0) != (ssize_t)st.st_size) {
        free(f);
        return MT_FAIL_ERRNO(err, MT_E_IO, "read the system call filter");
    }
    f->prog = (struct sock_fprog){.len = (unsigned short)((size_t)st.st_size / sizeof f->code[0]), .filter = f->code};
    *ret = f;
    return 0;
}
