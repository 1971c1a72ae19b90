/* SPDX-License-Identifier: Apache-2.0 */
/* The config object of the guest control channel: write, read, check (runtime.md 9.3). */
#include <arpa/inet.h>

#include "base/str.h"
#include "wire/guest_codec.h"

#define SECRETS_PATH "/run/secrets/platform.env"

/* --- check --- */

static int bad(struct mt_err *err, const char *field, const char *what)
{
    return MT_FAIL(err, MT_E_INVALID, "config.%s: %s", field, what);
}

static bool is_token(const char *s, size_t max, const char *also)
{
    size_t n = s ? strnlen(s, max + 1) : 0;
    if (n == 0 || n > max)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && !strchr(also, c))
            return false;
    }
    return true;
}

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

static bool is_ip6(const char *s)
{
    struct in6_addr a;
    return s && inet_pton(AF_INET6, s, &a) == 1;
}

static bool is_ip(const char *s)
{
    struct in_addr a;
    return is_ip6(s) || (s && inet_pton(AF_INET, s, &a) == 1);
}

static bool is_mac(const char *s)
{
    if (strlen(s) != 17)
        return false;
    for (size_t i = 0; i < 17; i++)
        if (i % 3 == 2 ? s[i] != ':' : !strchr("0123456789abcdef", s[i]))
            return false;
    return true;
}

static bool is_uuid(const char *s)
{
    if (!s || strlen(s) != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : !strchr("0123456789abcdef", s[i]))
            return false;
    }
    return true;
}

static bool is_device(const char *s)
{
    return s && strlen(s) == 8 && strncmp(s, "/dev/vd", 7) == 0 && s[7] >= 'a' && s[7] <= 'z';
}

static bool is_env_key(const char *s)
{
    return is_token(s, MT_GUEST_ENV_BYTES_MAX, "_") && !(s[0] >= '0' && s[0] <= '9');
}

static int check_argv(const char *const *argv, size_t argc, const char *field, struct mt_err *err)
{
    size_t sum = 0;
    if (argc < 1 || argc > MT_GUEST_ARGV_MAX || !argv)
        return bad(err, field, "1 to 256 items are allowed");
    for (size_t i = 0; i < argc; i++) {
        size_t n = argv[i] ? strnlen(argv[i], MT_GUEST_ARG_BYTES_MAX + 1) : MT_GUEST_ARG_BYTES_MAX + 1;
        if (n > MT_GUEST_ARG_BYTES_MAX)
            return bad(err, field, "an item is longer than 64 KiB");
        sum += n;
    }
    if (sum > MT_GUEST_ARGV_BYTES_MAX)
        return bad(err, field, "longer than 128 KiB in all");
    if (argv[0][0] == '\0')
        return bad(err, field, "the program name is empty");
    return 0;
}

static int check_env(const struct mt_guest_process *p, struct mt_err *err)
{
    size_t sum = 0;
    if (p->env_count > MT_GUEST_ENV_MAX)
        return bad(err, "process.env", "more than 512 entries");
    for (size_t i = 0; i < p->env_count; i++) {
        if (!is_env_key(p->env[i].key))
            return bad(err, "process.env", "a key is not [A-Za-z_][A-Za-z0-9_]*");
        if (!p->env[i].value)
            return bad(err, "process.env", "a value is missing");
        sum += strlen(p->env[i].key) + strlen(p->env[i].value) + 2;
    }
    return sum > MT_GUEST_ENV_BYTES_MAX ? bad(err, "process.env", "longer than 128 KiB in all") : 0;
}

static int check_process(const struct mt_guest_process *p, struct mt_err *err)
{
    static const char *const signals[] = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2"};
    bool known = false;
    int res = check_argv(p->argv, p->argc, "process.argv", err);
    if (res < 0)
        return res;
    if (!p->cwd || p->cwd[0] != '/' || strlen(p->cwd) > 4095)
        return bad(err, "process.cwd", "must be an absolute path of at most 4095 bytes");
    res = check_env(p, err);
    if (res < 0)
        return res;
    if (p->user && (strlen(p->user) > 256 || has_control(p->user)))
        return bad(err, "process.user", "must be at most 256 printable bytes");
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        known |= p->stop_signal && MT_STREQ(p->stop_signal, signals[i]);
    if (!known)
        return bad(err, "process.stop_signal", "must be TERM, INT, QUIT, HUP, USR1 or USR2");
    if (p->nofile > 1048576)
        return bad(err, "process.nofile", "above 1048576");
    if (p->prestart_count > MT_GUEST_PRESTART_MAX)
        return bad(err, "process.prestart", "more than 8 commands");
    for (size_t i = 0; i < p->prestart_count; i++) {
        res = check_argv(p->prestart[i].argv, p->prestart[i].argc, "process.prestart.argv", err);
        if (res < 0)
            return res;
        if (p->prestart[i].timeout_ms < 1000 || p->prestart[i].timeout_ms > 600000)
            return bad(err, "process.prestart.timeout_ms", "must be 1000 to 600000");
    }
    return 0;
}

static int check_devices(const struct mt_guest_config *c, struct mt_err *err)
{
    uint32_t seen = 0;
    if (!is_device(c->root.lower) || !is_device(c->root.upper) || MT_STREQ(c->root.lower, c->root.upper))
        return bad(err, "root", "lower and upper must be two different /dev/vd[a-z]");
    if (!is_uuid(c->root.lower_uuid) || !is_uuid(c->root.upper_uuid))
        return bad(err, "root", "lower_uuid and upper_uuid must be UUIDs in lower case");
    seen |= 1U << (c->root.lower[7] - 'a') | 1U << (c->root.upper[7] - 'a');
    if (c->mounts_count > MT_GUEST_MOUNTS_MAX)
        return bad(err, "mounts", "more than 8");
    for (size_t i = 0; i < c->mounts_count; i++) {
        const struct mt_guest_mount *m = &c->mounts[i];
        if (!is_device(m->device) || (seen & 1U << (m->device[7] - 'a')))
            return bad(err, "mounts.device", "must be a /dev/vd[a-z] used once");
        seen |= 1U << (m->device[7] - 'a');
        if (!is_token(m->name, 63, "-_") || !is_token(m->volume_id, 64, "-_"))
            return bad(err, "mounts", "name and volume_id must be plain words");
        if (!is_uuid(m->fs_uuid))
            return bad(err, "mounts.fs_uuid", "must be a UUID in lower case");
        if (!m->path || m->path[0] != '/' || strlen(m->path) > 255 || has_control(m->path))
            return bad(err, "mounts.path", "must be an absolute path of at most 255 bytes");
    }
    return 0;
}

static int check_network(const struct mt_guest_network *n, struct mt_err *err)
{
    if (!is_token(n->ifname, 15, "-_"))
        return bad(err, "network.ifname", "must be an interface name");
    if ((n->mac && !is_mac(n->mac)) || (n->gateway_mac && !is_mac(n->gateway_mac)))
        return bad(err, "network.mac", "must be aa:bb:cc:dd:ee:ff in lower case");
    if (!is_ip6(n->address) || !is_ip6(n->gateway))
        return bad(err, "network", "address and gateway must be IPv6 addresses");
    if (n->prefix_len != 128)
        return bad(err, "network.prefix_len", "must be 128");
    if (n->mtu < 1280 || n->mtu > 9000)
        return bad(err, "network.mtu", "must be 1280 to 9000");
    if (n->dns_count > MT_GUEST_DNS_MAX || n->search_count > MT_GUEST_SEARCH_MAX ||
        n->hosts_count > MT_GUEST_HOSTS_MAX)
        return bad(err, "network", "at most 3 dns, 6 search and 64 hosts entries");
    for (size_t i = 0; i < n->dns_count; i++)
        if (!is_ip(n->dns[i]))
            return bad(err, "network.dns", "must be addresses");
    for (size_t i = 0; i < n->search_count; i++)
        if (!is_token(n->search[i], 253, "-._"))
            return bad(err, "network.search", "must be domain names");
    for (size_t i = 0; i < n->hosts_count; i++)
        if (!is_token(n->hosts[i].name, 253, "-._") || !is_ip(n->hosts[i].address))
            return bad(err, "network.hosts", "must be host names with addresses");
    return 0;
}

static int check_secrets(const struct mt_guest_secrets *s, struct mt_err *err)
{
    if (!s->present)
        return 0;
    if (!s->path || !MT_STREQ(s->path, SECRETS_PATH))
        return bad(err, "secrets.path", "must be " SECRETS_PATH);
    if (s->mode != 0400 && s->mode != 0440)
        return bad(err, "secrets.mode", "must be 256 or 288 (0400 or 0440)");
    if (s->bytes > 262144)
        return bad(err, "secrets.bytes", "above 262144");
    if (!s->sha256 || strlen(s->sha256) != 64 || strspn(s->sha256, "0123456789abcdef") != 64)
        return bad(err, "secrets.sha256", "must be 64 lower-case hex digits");
    return 0;
}

static int check_rest(const struct mt_guest_config *c, struct mt_err *err)
{
    const struct mt_guest_logs *l = &c->logs;
    if (c->exec.enabled && (c->exec.port == 0 || c->exec.max_sessions < 1 || c->exec.max_sessions > 16))
        return bad(err, "exec", "port must be set and max_sessions 1 to 16");
    if (l->line_max != 0 && (l->line_max < 256 || l->line_max > 16384))
        return bad(err, "logs.line_max", "must be 256 to 16384");
    if (l->ring_bytes != 0 && (l->ring_bytes < 65536 || l->ring_bytes > 8388608))
        return bad(err, "logs.ring_bytes", "must be 65536 to 8388608");
    const uint64_t sizes[] = {c->tmpfs.run_bytes, c->tmpfs.tmp_bytes, c->tmpfs.shm_bytes};
    for (size_t i = 0; i < 3; i++)
        if (sizes[i] != 0 && (sizes[i] < 4096 || sizes[i] > (uint64_t)1 << 40))
            return bad(err, "tmpfs", "sizes must be 4096 to 2^40 bytes");
    return c->time_ns < 0 ? bad(err, "time_ns", "is negative") : 0;
}

int mt_guest_config_check(const struct mt_guest_config *c, struct mt_err *err)
{
    if (!is_token(c->instance_id, 64, "_-") || !is_token(c->boot_id, 64, "_-"))
        return bad(err, "instance_id", "instance_id and boot_id must be ids");
    if (c->generation < 1 || c->generation > INT64_MAX)
        return bad(err, "generation", "must be at least 1");
    if (c->required_features_count > MT_GUEST_FEATURES_MAX)
        return bad(err, "required_features", "more than 16");
    for (size_t i = 0; i < c->required_features_count; i++)
        if (!is_token(c->required_features[i], 64, "_-."))
            return bad(err, "required_features", "must be plain words");
    if (!is_token(c->hostname, 63, "-."))
        return bad(err, "hostname", "must be a host name of 1 to 63 bytes");
    int res = check_process(&c->process, err);
    if (res == 0)
        res = check_devices(c, err);
    if (res == 0)
        res = check_network(&c->network, err);
    if (res == 0)
        res = check_secrets(&c->secrets, err);
    return res == 0 ? check_rest(c, err) : res;
}

/* --- decode --- */

static struct mt_guest_fields enter(struct mt_guest_fields *parent, const char *key, const char *where,
                                    enum mt_guest_need need)
{
    struct mt_guest_fields f = *parent;
    f.object = mt_guest_get_node(parent, key, MT_GUEST_JSON_OBJECT, need);
    f.where = where;
    f.res = parent->res;
    return f;
}

/* one item of a list of objects; the sticky result travels with it */
static struct mt_guest_fields enter_item(const struct mt_guest_fields *list_of,
                                         const struct mt_guest_json_node *item, const char *where)
{
    struct mt_guest_fields f = *list_of;
    f.object = item;
    f.where = where;
    if (item->kind != MT_GUEST_JSON_OBJECT && f.res == 0)
        f.res = MT_FAIL(f.err, MT_E_INVALID, "%s: items must be objects", where);
    return f;
}

static const struct mt_guest_json_node *list_of_objects(struct mt_guest_fields *f, const char *key, size_t max)
{
    const struct mt_guest_json_node *n = mt_guest_get_node(f, key, MT_GUEST_JSON_ARRAY, MT_GUEST_OPTIONAL);
    if (n && n->len > max) {
        f->res = MT_FAIL(f->err, MT_E_INVALID, "%s.%s: more than %zu items", f->where, key, max);
        return NULL;
    }
    return n;
}

static void decode_env(struct mt_guest_fields *f, struct mt_guest_process *p)
{
    const struct mt_guest_json_node *env =
        mt_guest_get_node(f, "env", MT_GUEST_JSON_OBJECT, MT_GUEST_OPTIONAL);
    p->env = mt_guest_get_room(f, env ? env->len : 0, sizeof *p->env);
    if (!p->env || !env)
        return;
    for (const struct mt_guest_json_node *m = env->child; m; m = m->next) {
        if (m->kind != MT_GUEST_JSON_STRING) {
            f->res = MT_FAIL(f->err, MT_E_INVALID, "config.process.env: values must be strings");
            return;
        }
        p->env[p->env_count++] = (struct mt_guest_env){.key = m->key, .value = m->string};
    }
}

static void decode_prestart(struct mt_guest_fields *f, struct mt_guest_process *p)
{
    const struct mt_guest_json_node *list = list_of_objects(f, "prestart", MT_GUEST_PRESTART_MAX);
    p->prestart = mt_guest_get_room(f, list ? list->len : 0, sizeof *p->prestart);
    for (const struct mt_guest_json_node *n = list ? list->child : NULL; n && f->res == 0; n = n->next) {
        struct mt_guest_fields g = enter_item(f, n, "config.process.prestart");
        struct mt_guest_prestart *s = &p->prestart[p->prestart_count++];
        s->argv = mt_guest_get_list(&g, "argv", MT_GUEST_REQUIRED, MT_GUEST_ARGV_MAX, &s->argc);
        s->timeout_ms = mt_guest_get_uint(&g, "timeout_ms", MT_GUEST_OPTIONAL, 30000, INT64_MAX);
        f->res = g.res;
    }
}

static int decode_process(struct mt_guest_fields *top, struct mt_guest_process *p)
{
    struct mt_guest_fields f = enter(top, "process", "config.process", MT_GUEST_REQUIRED);
    p->argv = mt_guest_get_list(&f, "argv", MT_GUEST_REQUIRED, MT_GUEST_ARGV_MAX, &p->argc);
    p->cwd = mt_guest_get_str(&f, "cwd", MT_GUEST_REQUIRED);
    decode_env(&f, p);
    p->user = mt_guest_get_str(&f, "user", MT_GUEST_OPTIONAL);
    p->stop_signal = mt_guest_get_str(&f, "stop_signal", MT_GUEST_OPTIONAL);
    if (!p->stop_signal)
        p->stop_signal = "TERM";
    decode_prestart(&f, p);
    p->nofile = mt_guest_get_uint(&f, "nofile", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    return f.res;
}

static int decode_root(struct mt_guest_fields *top, struct mt_guest_root *r)
{
    struct mt_guest_fields f = enter(top, "root", "config.root", MT_GUEST_REQUIRED);
    r->lower = mt_guest_get_str(&f, "lower", MT_GUEST_REQUIRED);
    r->lower_uuid = mt_guest_get_str(&f, "lower_uuid", MT_GUEST_REQUIRED);
    r->upper = mt_guest_get_str(&f, "upper", MT_GUEST_REQUIRED);
    r->upper_uuid = mt_guest_get_str(&f, "upper_uuid", MT_GUEST_REQUIRED);
    return f.res;
}

static int decode_mounts(struct mt_guest_fields *top, struct mt_guest_config *c)
{
    const struct mt_guest_json_node *list = list_of_objects(top, "mounts", MT_GUEST_MOUNTS_MAX);
    c->mounts = mt_guest_get_room(top, list ? list->len : 0, sizeof *c->mounts);
    for (const struct mt_guest_json_node *n = list ? list->child : NULL; n && top->res == 0; n = n->next) {
        struct mt_guest_fields f = enter_item(top, n, "config.mounts");
        struct mt_guest_mount *m = &c->mounts[c->mounts_count++];
        m->name = mt_guest_get_str(&f, "name", MT_GUEST_REQUIRED);
        m->volume_id = mt_guest_get_str(&f, "volume_id", MT_GUEST_REQUIRED);
        m->device = mt_guest_get_str(&f, "device", MT_GUEST_REQUIRED);
        m->fs_uuid = mt_guest_get_str(&f, "fs_uuid", MT_GUEST_REQUIRED);
        m->path = mt_guest_get_str(&f, "path", MT_GUEST_REQUIRED);
        m->ro = mt_guest_get_bool(&f, "ro", MT_GUEST_OPTIONAL);
        top->res = f.res;
    }
    return top->res;
}

static int decode_network(struct mt_guest_fields *top, struct mt_guest_network *n)
{
    struct mt_guest_fields f = enter(top, "network", "config.network", MT_GUEST_REQUIRED);
    n->ifname = mt_guest_get_str(&f, "ifname", MT_GUEST_REQUIRED);
    n->mac = mt_guest_get_str(&f, "mac", MT_GUEST_OPTIONAL);
    n->address = mt_guest_get_str(&f, "address", MT_GUEST_REQUIRED);
    n->prefix_len = (uint32_t)mt_guest_get_uint(&f, "prefix_len", MT_GUEST_REQUIRED, 0, UINT32_MAX);
    n->gateway = mt_guest_get_str(&f, "gateway", MT_GUEST_REQUIRED);
    n->gateway_mac = mt_guest_get_str(&f, "gateway_mac", MT_GUEST_OPTIONAL);
    n->mtu = (uint32_t)mt_guest_get_uint(&f, "mtu", MT_GUEST_REQUIRED, 0, UINT32_MAX);
    n->dns = mt_guest_get_list(&f, "dns", MT_GUEST_OPTIONAL, MT_GUEST_DNS_MAX, &n->dns_count);
    n->search = mt_guest_get_list(&f, "search", MT_GUEST_OPTIONAL, MT_GUEST_SEARCH_MAX, &n->search_count);
    const struct mt_guest_json_node *list = list_of_objects(&f, "hosts", MT_GUEST_HOSTS_MAX);
    n->hosts = mt_guest_get_room(&f, list ? list->len : 0, sizeof *n->hosts);
    for (const struct mt_guest_json_node *h = list ? list->child : NULL; h && f.res == 0; h = h->next) {
        struct mt_guest_fields g = enter_item(&f, h, "config.network.hosts");
        struct mt_guest_host *host = &n->hosts[n->hosts_count++];
        host->name = mt_guest_get_str(&g, "name", MT_GUEST_REQUIRED);
        host->address = mt_guest_get_str(&g, "address", MT_GUEST_REQUIRED);
        f.res = g.res;
    }
    return f.res;
}

static int decode_secrets(struct mt_guest_fields *top, struct mt_guest_secrets *s)
{
    struct mt_guest_fields f = enter(top, "secrets", "config.secrets", MT_GUEST_OPTIONAL);
    s->present = mt_guest_get_bool(&f, "present", MT_GUEST_OPTIONAL);
    s->required = mt_guest_get_bool(&f, "required", MT_GUEST_OPTIONAL);
    s->version_id = mt_guest_get_str(&f, "version_id", MT_GUEST_OPTIONAL);
    s->path = mt_guest_get_str(&f, "path", MT_GUEST_OPTIONAL);
    s->sha256 = mt_guest_get_str(&f, "sha256", MT_GUEST_OPTIONAL);
    s->mode = (uint32_t)mt_guest_get_uint(&f, "mode", MT_GUEST_OPTIONAL, 0, 07777);
    s->uid = (uint32_t)mt_guest_get_uint(&f, "uid", MT_GUEST_OPTIONAL, UINT32_MAX, UINT32_MAX);
    s->gid = (uint32_t)mt_guest_get_uint(&f, "gid", MT_GUEST_OPTIONAL, UINT32_MAX, UINT32_MAX);
    s->bytes = mt_guest_get_uint(&f, "bytes", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    return f.res;
}

static int decode_services(struct mt_guest_fields *top, struct mt_guest_config *c)
{
    struct mt_guest_fields e = enter(top, "exec", "config.exec", MT_GUEST_OPTIONAL);
    c->exec.enabled = mt_guest_get_bool(&e, "enabled", MT_GUEST_OPTIONAL);
    c->exec.port = (uint32_t)mt_guest_get_uint(&e, "port", MT_GUEST_OPTIONAL, 0, UINT32_MAX);
    c->exec.max_sessions = (uint32_t)mt_guest_get_uint(&e, "max_sessions", MT_GUEST_OPTIONAL, 0, UINT32_MAX);
    top->res = e.res;
    struct mt_guest_fields l = enter(top, "logs", "config.logs", MT_GUEST_OPTIONAL);
    c->logs.port = (uint32_t)mt_guest_get_uint(&l, "port", MT_GUEST_OPTIONAL, 0, UINT32_MAX);
    c->logs.line_max = (uint32_t)mt_guest_get_uint(&l, "line_max", MT_GUEST_OPTIONAL, 0, UINT32_MAX);
    c->logs.ring_bytes = (uint32_t)mt_guest_get_uint(&l, "ring_bytes", MT_GUEST_OPTIONAL, 0, UINT32_MAX);
    top->res = l.res;
    struct mt_guest_fields t = enter(top, "tmpfs", "config.tmpfs", MT_GUEST_OPTIONAL);
    c->tmpfs.run_bytes = mt_guest_get_uint(&t, "run_bytes", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    c->tmpfs.tmp_bytes = mt_guest_get_uint(&t, "tmp_bytes", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    c->tmpfs.shm_bytes = mt_guest_get_uint(&t, "shm_bytes", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    return t.res;
}

int mt_guest_config_decode(const struct mt_guest_json_node *root, struct mt_guest_mem *mem,
                           struct mt_guest_config *ret, struct mt_err *err)
{
    struct mt_guest_fields f = {.object = root, .where = "config", .mem = mem, .err = err};
    struct mt_guest_config c = {0};
    c.instance_id = mt_guest_get_str(&f, "instance_id", MT_GUEST_REQUIRED);
    c.boot_id = mt_guest_get_str(&f, "boot_id", MT_GUEST_REQUIRED);
    c.generation = mt_guest_get_uint(&f, "generation", MT_GUEST_REQUIRED, 0, INT64_MAX);
    c.required_features = mt_guest_get_list(&f, "required_features", MT_GUEST_OPTIONAL,
                                            MT_GUEST_FEATURES_MAX, &c.required_features_count);
    c.hostname = mt_guest_get_str(&f, "hostname", MT_GUEST_REQUIRED);
    c.time_ns = mt_guest_get_int(&f, "time_ns", MT_GUEST_OPTIONAL);
    if (f.res == 0)
        f.res = decode_process(&f, &c.process);
    if (f.res == 0)
        f.res = decode_root(&f, &c.root);
    if (f.res == 0)
        f.res = decode_mounts(&f, &c);
    if (f.res == 0)
        f.res = decode_network(&f, &c.network);
    if (f.res == 0)
        f.res = decode_secrets(&f, &c.secrets);
    if (f.res == 0)
        f.res = decode_services(&f, &c);
    if (f.res == 0)
        f.res = mt_guest_config_check(&c, err);
    if (f.res == 0)
        *ret = c;
    return f.res;
}

/* --- encode --- */

static void put_optional(struct mt_guest_json_out *out, const char *key, const char *value)
{
    if (value)
        mt_guest_json_put_str(out, key, value);
}

static void put_list(struct mt_guest_json_out *out, const char *key, const char *const *list, size_t count)
{
    mt_guest_json_put_open(out, key, '[');
    for (size_t i = 0; i < count; i++)
        mt_guest_json_put_str(out, NULL, list[i]);
    mt_guest_json_put_close(out, ']');
}

static void put_process(struct mt_guest_json_out *out, const struct mt_guest_process *p)
{
    mt_guest_json_put_open(out, "process", '{');
    put_list(out, "argv", p->argv, p->argc);
    mt_guest_json_put_str(out, "cwd", p->cwd);
    mt_guest_json_put_open(out, "env", '{');
    for (size_t i = 0; i < p->env_count; i++)
        mt_guest_json_put_str(out, p->env[i].key, p->env[i].value);
    mt_guest_json_put_close(out, '}');
    put_optional(out, "user", p->user);
    mt_guest_json_put_str(out, "stop_signal", p->stop_signal);
    mt_guest_json_put_open(out, "prestart", '[');
    for (size_t i = 0; i < p->prestart_count; i++) {
        mt_guest_json_put_open(out, NULL, '{');
        put_list(out, "argv", p->prestart[i].argv, p->prestart[i].argc);
        mt_guest_json_put_uint(out, "timeout_ms", p->prestart[i].timeout_ms);
        mt_guest_json_put_close(out, '}');
    }
    mt_guest_json_put_close(out, ']');
    if (p->nofile > 0)
        mt_guest_json_put_uint(out, "nofile", p->nofile);
    mt_guest_json_put_close(out, '}');
}

static void put_disks(struct mt_guest_json_out *out, const struct mt_guest_config *c)
{
    mt_guest_json_put_open(out, "root", '{');
    mt_guest_json_put_str(out, "lower", c->root.lower);
    mt_guest_json_put_str(out, "lower_uuid", c->root.lower_uuid);
    mt_guest_json_put_str(out, "upper", c->root.upper);
    mt_guest_json_put_str(out, "upper_uuid", c->root.upper_uuid);
    mt_guest_json_put_close(out, '}');
    mt_guest_json_put_open(out, "mounts", '[');
    for (size_t i = 0; i < c->mounts_count; i++) {
        const struct mt_guest_mount *m = &c->mounts[i];
        mt_guest_json_put_open(out, NULL, '{');
        mt_guest_json_put_str(out, "name", m->name);
        mt_guest_json_put_str(out, "volume_id", m->volume_id);
        mt_guest_json_put_str(out, "device", m->device);
        mt_guest_json_put_str(out, "fs_uuid", m->fs_uuid);
        mt_guest_json_put_str(out, "path", m->path);
        mt_guest_json_put_bool(out, "ro", m->ro);
        mt_guest_json_put_close(out, '}');
    }
    mt_guest_json_put_close(out, ']');
}

static void put_network(struct mt_guest_json_out *out, const struct mt_guest_network *n)
{
    mt_guest_json_put_open(out, "network", '{');
    mt_guest_json_put_str(out, "ifname", n->ifname);
    put_optional(out, "mac", n->mac);
    mt_guest_json_put_str(out, "address", n->address);
    mt_guest_json_put_uint(out, "prefix_len", n->prefix_len);
    mt_guest_json_put_str(out, "gateway", n->gateway);
    put_optional(out, "gateway_mac", n->gateway_mac);
    mt_guest_json_put_uint(out, "mtu", n->mtu);
    put_list(out, "dns", n->dns, n->dns_count);
    put_list(out, "search", n->search, n->search_count);
    mt_guest_json_put_open(out, "hosts", '[');
    for (size_t i = 0; i < n->hosts_count; i++) {
        mt_guest_json_put_open(out, NULL, '{');
        mt_guest_json_put_str(out, "name", n->hosts[i].name);
        mt_guest_json_put_str(out, "address", n->hosts[i].address);
        mt_guest_json_put_close(out, '}');
    }
    mt_guest_json_put_close(out, ']');
    mt_guest_json_put_close(out, '}');
}

static void put_secrets(struct mt_guest_json_out *out, const struct mt_guest_secrets *s)
{
    mt_guest_json_put_open(out, "secrets", '{');
    mt_guest_json_put_bool(out, "present", s->present);
    mt_guest_json_put_bool(out, "required", s->required);
    if (s->present) {
        put_optional(out, "version_id", s->version_id);
        put_optional(out, "path", s->path);
        mt_guest_json_put_uint(out, "mode", s->mode);
        if (s->uid != UINT32_MAX)
            mt_guest_json_put_uint(out, "uid", s->uid);
        if (s->gid != UINT32_MAX)
            mt_guest_json_put_uint(out, "gid", s->gid);
        mt_guest_json_put_uint(out, "bytes", s->bytes);
        put_optional(out, "sha256", s->sha256);
    }
    mt_guest_json_put_close(out, '}');
}

static void put_services(struct mt_guest_json_out *out, const struct mt_guest_config *c)
{
    mt_guest_json_put_open(out, "exec", '{');
    mt_guest_json_put_bool(out, "enabled", c->exec.enabled);
    if (c->exec.enabled) {
        mt_guest_json_put_uint(out, "port", c->exec.port);
        mt_guest_json_put_uint(out, "max_sessions", c->exec.max_sessions);
    }
    mt_guest_json_put_close(out, '}');
    mt_guest_json_put_open(out, "logs", '{');
    mt_guest_json_put_uint(out, "port", c->logs.port);
    mt_guest_json_put_uint(out, "line_max", c->logs.line_max);
    mt_guest_json_put_uint(out, "ring_bytes", c->logs.ring_bytes);
    mt_guest_json_put_close(out, '}');
    mt_guest_json_put_open(out, "tmpfs", '{');
    mt_guest_json_put_uint(out, "run_bytes", c->tmpfs.run_bytes);
    mt_guest_json_put_uint(out, "tmp_bytes", c->tmpfs.tmp_bytes);
    mt_guest_json_put_uint(out, "shm_bytes", c->tmpfs.shm_bytes);
    mt_guest_json_put_close(out, '}');
}

void mt_guest_config_encode(const struct mt_guest_config *c, struct mt_guest_json_out *out)
{
    mt_guest_json_put_str(out, "instance_id", c->instance_id);
    mt_guest_json_put_str(out, "boot_id", c->boot_id);
    mt_guest_json_put_uint(out, "generation", c->generation);
    put_list(out, "required_features", c->required_features, c->required_features_count);
    mt_guest_json_put_str(out, "hostname", c->hostname);
    put_process(out, &c->process);
    put_disks(out, c);
    put_network(out, &c->network);
    put_secrets(out, &c->secrets);
    put_services(out, c);
    mt_guest_json_put_int(out, "time_ns", c->time_ns);
}
