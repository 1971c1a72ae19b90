/* SPDX-License-Identifier: Apache-2.0 */
/* The config line for the guest, from workload, image and node (runtime.md §9.3). See inst.h. */
#include "agent/instance/inst.h"

#include "agent/net/tap.h"
#include "agent/secrets.h"
#include "base/arena.h"
#include "base/assert.h"
#include "base/str.h"
#include "os/digest.h"
#include "wire/exec.h"

#include <string.h>

#define ARENA_MAX (4U << 20)
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
static int fill_argv(struct mt_inst *in, struct mt_arena *ar, struct mt_guest_process *p, struct mt_err *err)
{
    const struct mt_workload *w = in->spec;
    if (w->command.n > 0) {
        p->argv = w->command.v;
        p->argc = w->command.n;
        return 0;
    }
    if (!in->have_disk)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "the image's configuration is not at hand");
    const char **v = mt_arena_alloc(ar, MT_GUEST_ARGV_MAX * sizeof *v);
    if (!v)
        return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
    char *const *parts[2] = {in->disk.config.entrypoint, in->disk.config.cmd};
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

static const char *image_text(const struct mt_inst *in, const char *own, const char *image, const char *fallback)
{
    if (own && *own)
        return own;
    return in->have_disk && image && *image ? image : fallback;
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

int mt_inst_send_config(struct mt_inst *in, enum mt_reason *ret_reason, struct mt_err *err)
{
    const struct mt_workload *w = in->spec;
    const struct mt_agent *a = in->a;
    mt_auto_arena struct mt_arena ar;
    mt_arena_init(&ar, ARENA_MAX);
    *ret_reason = MT_REASON_CONFIG_FETCH_FAILED;

    struct env_list *env = mt_arena_alloc(&ar, sizeof *env);
    uint8_t host_mac[6], mac[6];
    mt_tap_macs(in->st.slot, host_mac, mac);
    const char *mac_text = mt_arena_printf(&ar, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    const char *gw_text = mt_arena_printf(&ar, "%02x:%02x:%02x:%02x:%02x:%02x", host_mac[0], host_mac[1], host_mac[2],
                                          host_mac[3], host_mac[4], host_mac[5]);
    const char *hostname = mt_arena_printf(&ar, "%.40s-%s", w->process_type,
                                           mt_id_ulid(in->st.instance_id) + MT_ULID_LEN - 8);
    struct mt_guest_prestart *pre = mt_arena_alloc(&ar, (w->n_prestart + 1) * sizeof *pre);
    struct mt_guest_mount *mounts = mt_arena_alloc(&ar, (w->n_mounts + 1) * sizeof *mounts);
    if (!env || !mac_text || !gw_text || !hostname || !pre || !mounts)
        return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");

    struct mt_guest_msg msg = {.type = MT_GUEST_CONFIG};
    struct mt_guest_config *c = &msg.u.config;
    c->instance_id = in->st.instance_id;
    c->boot_id = in->st.boot_id;
    c->generation = in->st.generation ? in->st.generation : 1;
    c->hostname = hostname;
    int rc = fill_argv(in, &ar, &c->process, err);
    if (rc < 0) {
        if (rc == -MT_E_INVALID)
            *ret_reason = MT_REASON_EXEC_NOT_FOUND;
        return rc;
    }
    if (in->have_disk && in->disk.config.env)
        env_image(env, in->disk.config.env, &ar);
    for (size_t i = 0; i < w->n_env_vars; i++)
        env_set(env, w->env_vars[i].key, w->env_vars[i].value);
    env_platform(env, w);
    if (env->full)
        return MT_FAIL(err, MT_E_LIMIT, "more than %d environment variables", MT_GUEST_ENV_MAX);
    c->process.env = env->v;
    c->process.env_count = env->n;
    c->process.cwd = image_text(in, w->workdir, in->disk.config.working_dir, "/");
    c->process.user = image_text(in, w->user, in->disk.config.user, "0:0");
    c->process.stop_signal = signal_name(w->lifecycle.stop_signal && w->lifecycle.stop_signal[0]
                                             ? w->lifecycle.stop_signal
                                             : in->have_disk ? in->disk.config.stop_signal : NULL);
    for (size_t i = 0; i < w->n_prestart; i++)
        pre[i] = (struct mt_guest_prestart){.argv = w->prestart[i].argv.v,
                                            .argc = w->prestart[i].argv.n,
                                            .timeout_ms = (uint64_t)w->prestart[i].timeout_seconds * 1000};
    c->process.prestart = pre;
    c->process.prestart_count = w->n_prestart;
    c->root = (struct mt_guest_root){.lower = "/dev/vda", .lower_uuid = in->st.root_uuid,
                                     .upper = "/dev/vdb", .upper_uuid = in->st.scratch_uuid};
    c->network = (struct mt_guest_network){.ifname = "eth0",
                                           .mac = mac_text,
                                           .address = in->st.address,
                                           .prefix_len = 128,
                                           .gateway = "fe80::1",
                                           .gateway_mac = gw_text,
                                           .mtu = w->network.mtu ? w->network.mtu : a->net.mtu};
    const char *resolver[1] = {a->conf.resolver};
    if (w->network.dns.n > 0) {
        c->network.dns = w->network.dns.v;
        c->network.dns_count = w->network.dns.n;
    } else if (a->conf.resolver[0]) {
        c->network.dns = resolver;
        c->network.dns_count = 1;
    } else if (a->plan) {
        c->network.dns = a->plan->network.dns.v;
        c->network.dns_count = a->plan->network.dns.n;
    }
    for (size_t i = 0; i < w->n_mounts; i++) { /* ascending by volume id on both sides: the n-th mount is the n-th disk behind the first two */
        const struct mt_workload_mount *m = &w->mounts[i];
        mounts[i] = (struct mt_guest_mount){.name = m->name, .volume_id = m->volume_id, .device = mt_arena_printf(&ar, "/dev/vd%c", (char)('c' + i)),
                                            .fs_uuid = m->fs_uuid, .path = m->path, .ro = m->read_only};
        if (!mounts[i].device)
            return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
    }
    c->mounts = mounts;
    c->mounts_count = w->n_mounts;
    c->exec = (struct mt_guest_exec){.enabled = true, .port = MT_GUEST_PORT_EXEC, .max_sessions = MT_EXEC_SESSIONS_MAX};
    if (w->secrets.version_id) {
        size_t bytes = 0;
        char *sha = mt_arena_alloc(&ar, MT_SHA256_HEX);
        if (!sha)
            return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
        rc = mt_secret_store_info(a->secrets, w->secrets.version_id, &bytes, sha, err);
        if (rc < 0) {
            *ret_reason = MT_REASON_SECRETS_INJECTION_FAILED;
            return MT_FAIL(err, MT_E_UNAVAILABLE, "unavailable: %s", w->secrets.version_id);
        }
        c->secrets = (struct mt_guest_secrets){.present = true,
                                               .required = w->secrets.required,
                                               .version_id = w->secrets.version_id,
                                               .path = MT_SECRETS_PATH,
                                               .sha256 = sha,
                                               .mode = w->secrets.mode,
                                               .uid = w->secrets.has_uid ? w->secrets.uid : UINT32_MAX,
                                               .gid = w->secrets.has_gid ? w->secrets.gid : UINT32_MAX,
                                               .bytes = bytes};
    }
    c->logs = (struct mt_guest_logs){.port = MT_GUEST_PORT_LOG, .line_max = 16384, .ring_bytes = 1048576};
    c->time_ns = mt_clock_wall_us() * 1000;
    return mt_channel_send(in->chan, &msg, in->config_sha256, err);
}

int mt_inst_send_secrets(struct mt_inst *in, struct mt_err *err)
{
    const char *version = in->spec->secrets.version_id;
    mt_auto_lockmem struct mt_lockmem text = {0};
    char sha[MT_SHA256_HEX];
    if (!version)
        return 0;
    int rc = mt_secret_store_text(in->a->secrets, version, &text, sha, err);
    if (rc < 0)
        return rc;
    struct mt_guest_msg msg = {.type = MT_GUEST_SECRETS,
                               .u.secrets = {.version_id = version, .data = (const char *)text.p, .sha256 = sha}};
    return mt_channel_send(in->chan, &msg, NULL, err);
}
