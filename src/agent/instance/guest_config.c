/* SPDX-License-Identifier: Apache-2.0 */
/* The config line for a guest out of workload and image (runtime.md §9.3). See guest_config.h. */
#include "agent/instance/guest_config.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/ids.h"

#include <string.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct env_list {
    struct mt_guest_env v[MT_GUEST_ENV_MAX];
    size_t n;
    bool full;
};

/* Later ones win: image, then workload, then the platform's own. */
static void env_set(struct env_list *e, const char *key, const char *value)
{
    for (size_t i = 0; i < e->n; i++) {
        if (strcmp(e->v[i].key, key) == 0) {
            e->v[i].value = value;
            return;
        }
    }
    if (e->n == MT_GUEST_ENV_MAX) {
        e->full = true;
        return;
    }
    e->v[e->n++] = (struct mt_guest_env){key, value};
}

/* Image entries are "KEY=value"; names the guest would refuse are left out, as a shell would. */
static void env_image(struct env_list *e, char *const *env, struct mt_arena *ar)
{
    for (size_t i = 0; env[i]; i++) {
        const char *eq = strchr(env[i], '=');
        if (!eq || eq == env[i])
            continue;
        bool ok = !(env[i][0] >= '0' && env[i][0] <= '9');
        for (const char *p = env[i]; p < eq; p++)
            ok = ok && ((*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '_');
        const char *key = ok ? mt_arena_strndup(ar, env[i], (size_t)(eq - env[i])) : NULL;
        if (key)
            env_set(e, key, eq + 1);
    }
}

static bool in_workload(const struct mt_workload *w, const char *key)
{
    for (size_t i = 0; i < w->n_env_vars; i++) {
        if (strcmp(w->env_vars[i].key, key) == 0)
            return true;
    }
    return false;
}

/* The control plane resolves the platform's own variables into env_vars; what is missing there is set here. */
static void env_platform(struct env_list *e, const struct mt_workload *w)
{
    const struct {
        const char *key, *value;
    } own[] = {
        {"MOAT_ORG", w->org_id},         {"MOAT_APP", w->app_id},
        {"MOAT_ENV", w->env_id},         {"MOAT_PROCESS", w->process_type},
        {"MOAT_INSTANCE_ID", w->instance_id}, {"MOAT_RELEASE_ID", w->release_id},
        {"MOAT_IPV6", w->network.overlay_ipv6},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(own); i++) {
        if (own[i].value && !in_workload(w, own[i].key))
            env_set(e, own[i].key, own[i].value);
    }
    for (size_t i = 0; i < e->n; i++) {
        if (strcmp(e->v[i].key, "PATH") == 0)
            return;
    }
    env_set(e, "PATH", DEFAULT_PATH);
}

/* argv of the workload: its own, or the image's entrypoint and command. */
static int fill_argv(const struct mt_guest_make *m, struct mt_arena *ar, struct mt_guest_process *p, struct mt_err *err)
{
    const struct mt_workload *w = m->spec;
    if (w->command.n > 0) {
        p->argv = w->command.v;
        p->argc = w->command.n;
        return 0;
    }
    if (!m->image)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "the image's configuration is not at hand");
    const char **v = mt_arena_alloc(ar, MT_GUEST_ARGV_MAX * sizeof *v);
    if (!v)
        return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
    char *const *parts[2] = {m->image->entrypoint, m->image->cmd};
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; parts[k] && parts[k][i]; i++) {
            if (p->argc == MT_GUEST_ARGV_MAX)
                return MT_FAIL(err, MT_E_LIMIT, "the image's command has more than %d words", MT_GUEST_ARGV_MAX);
            v[p->argc++] = parts[k][i];
        }
    }
    p->argv = v;
    if (p->argc == 0)
        return MT_FAIL(err, MT_E_INVALID, "neither the process nor its image names a command");
    return 0;
}

static const char *first_of(const char *own, const char *image, const char *fallback)
{
    if (own && *own)
        return own;
    return image && *image ? image : fallback;
}

static const char *signal_name(const char *s)
{
    static const char *const known[] = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2"};
    if (s && strncmp(s, "SIG", 3) == 0)
        s += 3;
    for (size_t i = 0; s && i < MT_ARRAY_LEN(known); i++) {
        if (strcmp(s, known[i]) == 0)
            return known[i];
    }
    return "TERM";
}

int mt_guest_config_make(const struct mt_guest_make *m, struct mt_arena *ar, struct mt_guest_config *c, enum mt_reason *ret_reason, struct mt_err *err)
{
    const struct mt_workload *w = m->spec;
    *ret_reason = MT_REASON_CONFIG_FETCH_FAILED;

    struct env_list *env = mt_arena_alloc(ar, sizeof *env);
    const char *hostname = mt_arena_printf(ar, "%.40s-%s", w->process_type, mt_id_ulid(m->instance_id) + MT_ULID_LEN - 8);
    struct mt_guest_prestart *pre = mt_arena_alloc(ar, (w->n_prestart + 1) * sizeof *pre);
    struct mt_guest_mount *mounts = mt_arena_alloc(ar, (w->n_mounts + 1) * sizeof *mounts);
    if (!env || !hostname || !pre || !mounts)
        return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");

    c->instance_id = m->instance_id;
    c->boot_id = m->boot_id;
    c->generation = m->generation ? m->generation : 1;
    c->hostname = hostname;
    int rc = fill_argv(m, ar, &c->process, err);
    if (rc < 0) {
        if (rc == -MT_E_INVALID)
            *ret_reason = MT_REASON_EXEC_NOT_FOUND;
        return rc;
    }
    if (m->image && m->image->env)
        env_image(env, m->image->env, ar);
    for (size_t i = 0; i < w->n_env_vars; i++)
        env_set(env, w->env_vars[i].key, w->env_vars[i].value);
    env_platform(env, w);
    if (env->full)
        return MT_FAIL(err, MT_E_LIMIT, "more than %d environment variables", MT_GUEST_ENV_MAX);
    c->process.env = env->v;
    c->process.env_count = env->n;
    c->process.cwd = first_of(w->workdir, m->image ? m->image->working_dir : NULL, "/");
    c->process.user = first_of(w->user, m->image ? m->image->user : NULL, "0:0");
    c->process.stop_signal = signal_name(w->lifecycle.stop_signal && w->lifecycle.stop_signal[0] ? w->lifecycle.stop_signal
                                         : m->image                                              ? m->image->stop_signal
                                                                                                 : NULL);
    for (size_t i = 0; i < w->n_prestart; i++)
        pre[i] = (struct mt_guest_prestart){.argv = w->prestart[i].argv.v,
                                            .argc = w->prestart[i].argv.n,
                                            .timeout_ms = (uint64_t)w->prestart[i].timeout_seconds * 1000};
    c->process.prestart = pre;
    c->process.prestart_count = w->n_prestart;
    c->root = (struct mt_guest_root){.lower = "/dev/vda", .lower_uuid = m->root_uuid, .upper = "/dev/vdb", .upper_uuid = m->scratch_uuid};
    for (size_t i = 0; i < w->n_mounts; i++) { /* ascending by volume id on both sides: the n-th mount is the n-th disk behind the first two */
        const struct mt_workload_mount *v = &w->mounts[i];
        mounts[i] = (struct mt_guest_mount){.name = v->name, .volume_id = v->volume_id, .device = mt_arena_printf(ar, "/dev/vd%c", (char)('c' + i)),
                                            .fs_uuid = v->fs_uuid, .path = v->path, .ro = v->read_only};
        if (!mounts[i].device)
            return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
    }
    c->mounts = mounts;
    c->mounts_count = w->n_mounts;
    c->logs = (struct mt_guest_logs){.port = MT_GUEST_PORT_LOG, .line_max = 16384, .ring_bytes = 1048576};
    c->time_ns = mt_clock_wall_us() * 1000;
    return 0;
}

int mt_guest_boot_args(bool builtin, const char *instance_id, const char *boot_id, char *ret, size_t size, struct mt_err *err)
{
    return mt_fmt(ret, size, err,
                  "console=ttyS0 quiet loglevel=4 reboot=k panic=1 random.trust_cpu=on i8042.noaux i8042.nomux "
                  "i8042.dumbkbd swiotlb=noforce initcall_blacklist=slab_late_init %smoat.instance=%s moat.boot=%s moat.proto=1",
                  builtin ? "nomodule " : "", instance_id, boot_id);
}
