/* SPDX-License-Identifier: Apache-2.0 */
/* Guest control channel: envelope, small messages, lines. The config object is in guest_config.c. */
#include "wire/guest.h"

#include <string.h>

#include "base/assert.h"
#include "base/str.h"
#include "wire/guest_codec.h"

/* Values in one line. A guest message needs fewer than 40; a full config about 3600. */
enum { NODES_TO_HOST = 256, NODES_TO_GUEST = 8192 };

static const struct {
    const char *name;
    enum mt_guest_from from;
} types[MT_GUEST_TYPE_MAX] = {
    [MT_GUEST_UNKNOWN] = {"unknown", MT_GUEST_FROM_HOST},
    [MT_GUEST_HELLO] = {"hello", MT_GUEST_FROM_GUEST},
    [MT_GUEST_CONFIG] = {"config", MT_GUEST_FROM_HOST},
    [MT_GUEST_ACK] = {"ack", MT_GUEST_FROM_GUEST},
    [MT_GUEST_STATUS] = {"status", MT_GUEST_FROM_GUEST},
    [MT_GUEST_BYE] = {"bye", MT_GUEST_FROM_HOST},
    [MT_GUEST_RESUME] = {"resume", MT_GUEST_FROM_HOST},
    [MT_GUEST_REJECT] = {"reject", MT_GUEST_FROM_HOST},
    [MT_GUEST_PING] = {"ping", MT_GUEST_FROM_HOST},
    [MT_GUEST_PONG] = {"pong", MT_GUEST_FROM_GUEST},
    [MT_GUEST_SHUTDOWN] = {"shutdown", MT_GUEST_FROM_HOST},
    [MT_GUEST_SECRETS] = {"secrets", MT_GUEST_FROM_HOST},
    [MT_GUEST_FREEZE] = {"freeze", MT_GUEST_FROM_HOST},
    [MT_GUEST_THAW] = {"thaw", MT_GUEST_FROM_HOST},
    [MT_GUEST_QUIESCED] = {"quiesced", MT_GUEST_FROM_GUEST},
    [MT_GUEST_FETCH_LOG] = {"fetch_log", MT_GUEST_FROM_HOST},
    [MT_GUEST_LOG_CHUNK] = {"log_chunk", MT_GUEST_FROM_GUEST},
};

static const char *const phases[MT_GUEST_PHASE_MAX] = {"boot", "running"};
static const char *const quiesces[MT_GUEST_QUIESCE_MAX] = {"frozen", "thawed", "expired", "failed"};
static const char *const states[MT_GUEST_STATE_MAX] = {"configured", "started", "exited", "failed"};

const char *mt_guest_type_name(enum mt_guest_type type)
{
    return (unsigned)type < MT_GUEST_TYPE_MAX ? types[type].name : "unknown";
}

const char *mt_guest_phase_name(enum mt_guest_phase phase)
{
    return (unsigned)phase < MT_GUEST_PHASE_MAX ? phases[phase] : "unknown";
}

const char *mt_guest_state_name(enum mt_guest_state state)
{
    return (unsigned)state < MT_GUEST_STATE_MAX ? states[state] : "unknown";
}

const char *mt_guest_quiesce_name(enum mt_guest_quiesce state)
{
    return (unsigned)state < MT_GUEST_QUIESCE_MAX ? quiesces[state] : "unknown";
}

/* --- typed access --- */

static void wrong(struct mt_guest_fields *f, const char *key, const char *what)
{
    if (f->res == 0)
        f->res = MT_FAIL(f->err, MT_E_INVALID, "%s.%s: %s", f->where, key, what);
}

const struct mt_guest_json_node *mt_guest_get_node(struct mt_guest_fields *f, const char *key,
                                                   enum mt_guest_json_kind kind, enum mt_guest_need need)
{
    static const char *const expected[MT_GUEST_JSON_KIND_MAX] = {
        "must be null",     "must be true or false", "must be an integer",
        "must be a string", "must be a list",        "must be an object"};
    const struct mt_guest_json_node *n = f->object && f->res == 0 ? mt_guest_json_get(f->object, key) : NULL;
    if (!n || n->kind == MT_GUEST_JSON_NULL) {
        if (need == MT_GUEST_REQUIRED)
            wrong(f, key, "missing");
        return NULL;
    }
    if (n->kind != kind) {
        wrong(f, key, expected[kind]);
        return NULL;
    }
    return n;
}

const char *mt_guest_get_str(struct mt_guest_fields *f, const char *key, enum mt_guest_need need)
{
    const struct mt_guest_json_node *n = mt_guest_get_node(f, key, MT_GUEST_JSON_STRING, need);
    return n ? n->string : NULL;
}

uint64_t mt_guest_get_uint(struct mt_guest_fields *f, const char *key, enum mt_guest_need need,
                           uint64_t fallback, uint64_t max)
{
    const struct mt_guest_json_node *n = mt_guest_get_node(f, key, MT_GUEST_JSON_INT, need);
    if (!n)
        return fallback;
    if (n->number < 0 || (uint64_t)n->number > max) {
        wrong(f, key, "out of range");
        return fallback;
    }
    return (uint64_t)n->number;
}

int64_t mt_guest_get_int(struct mt_guest_fields *f, const char *key, enum mt_guest_need need)
{
    const struct mt_guest_json_node *n = mt_guest_get_node(f, key, MT_GUEST_JSON_INT, need);
    return n ? n->number : 0;
}

bool mt_guest_get_bool(struct mt_guest_fields *f, const char *key, enum mt_guest_need need)
{
    const struct mt_guest_json_node *n = mt_guest_get_node(f, key, MT_GUEST_JSON_BOOL, need);
    return n && n->number != 0;
}

void *mt_guest_get_room(struct mt_guest_fields *f, size_t count, size_t size)
{
    /* count is at most the nodes of the line, size a small struct: no overflow */
    void *p = f->res == 0 ? mt_guest_mem_take(f->mem, (count + 1) * size) : NULL;
    if (!p && f->res == 0)
        f->res = MT_FAIL(f->err, MT_E_LIMIT, "%s: out of decode memory", f->where);
    return p;
}

const char **mt_guest_get_list(struct mt_guest_fields *f, const char *key, enum mt_guest_need need,
                               size_t max, size_t *ret_count)
{
    *ret_count = 0;
    const struct mt_guest_json_node *n = mt_guest_get_node(f, key, MT_GUEST_JSON_ARRAY, need);
    if (n && n->len > max) {
        wrong(f, key, "too many items");
        return NULL;
    }
    const char **list = mt_guest_get_room(f, n ? n->len : 0, sizeof *list);
    if (!list || !n)
        return list;
    for (const struct mt_guest_json_node *item = n->child; item; item = item->next) {
        if (item->kind != MT_GUEST_JSON_STRING) {
            wrong(f, key, "items must be strings");
            return NULL;
        }
        list[(*ret_count)++] = item->string;
    }
    return list;
}

static int pick(struct mt_guest_fields *f, const char *key, const char *const *names, int count)
{
    const char *s = mt_guest_get_str(f, key, MT_GUEST_REQUIRED);
    for (int i = 0; s && i < count; i++)
        if (MT_STREQ(s, names[i]))
            return i;
    wrong(f, key, "unknown value");
    return 0;
}

/* --- decode --- */

static void decode_hello(struct mt_guest_fields *f, struct mt_guest_hello *h)
{
    h->proto_min = (uint32_t)mt_guest_get_uint(f, "proto_min", MT_GUEST_REQUIRED, 0, UINT32_MAX);
    h->proto_max = (uint32_t)mt_guest_get_uint(f, "proto_max", MT_GUEST_REQUIRED, 0, UINT32_MAX);
    if (h->proto_min > h->proto_max)
        wrong(f, "proto_min", "above proto_max");
    h->init_version = mt_guest_get_str(f, "init_version", MT_GUEST_REQUIRED);
    h->arch = mt_guest_get_str(f, "arch", MT_GUEST_REQUIRED);
    h->kernel = mt_guest_get_str(f, "kernel", MT_GUEST_REQUIRED);
    h->instance_id = mt_guest_get_str(f, "instance_id", MT_GUEST_REQUIRED);
    h->boot_id = mt_guest_get_str(f, "boot_id", MT_GUEST_REQUIRED);
    h->phase = (enum mt_guest_phase)pick(f, "phase", phases, MT_GUEST_PHASE_MAX);
    h->uptime_ms = mt_guest_get_uint(f, "uptime_ms", MT_GUEST_OPTIONAL, 0, INT64_MAX);
}

static void decode_status(struct mt_guest_fields *f, struct mt_guest_status *s)
{
    s->state = (enum mt_guest_state)pick(f, "state", states, MT_GUEST_STATE_MAX);
    s->reason = mt_guest_get_str(f, "reason", MT_GUEST_OPTIONAL);
    s->detail = mt_guest_get_str(f, "detail", MT_GUEST_OPTIONAL);
    s->pid = (int64_t)mt_guest_get_uint(f, "pid", MT_GUEST_OPTIONAL, 0, INT32_MAX);
    uint64_t code = mt_guest_get_uint(f, "exit_code", MT_GUEST_OPTIONAL, UINT64_MAX, 255);
    s->exit_code = code == UINT64_MAX ? -1 : (int32_t)code;
    s->signal = mt_guest_get_str(f, "signal", MT_GUEST_OPTIONAL);
    s->core = mt_guest_get_bool(f, "core", MT_GUEST_OPTIONAL);
    s->oom_kills = mt_guest_get_uint(f, "oom_kills", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    s->clean_umount = mt_guest_get_bool(f, "clean_umount", MT_GUEST_OPTIONAL);
    s->uptime_ms = mt_guest_get_uint(f, "uptime_ms", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    s->ts_ns = mt_guest_get_int(f, "ts_ns", MT_GUEST_OPTIONAL);
    if (s->state == MT_GUEST_STATE_EXITED && (s->exit_code >= 0) == (s->signal != NULL))
        wrong(f, "exit_code", "exited needs exit_code or signal, not both");
    if (s->state == MT_GUEST_STATE_FAILED && !s->reason)
        wrong(f, "reason", "missing");
}

static void decode_volumes(struct mt_guest_fields *f, struct mt_guest_pong *p)
{
    const struct mt_guest_json_node *list = mt_guest_get_node(f, "volumes", MT_GUEST_JSON_ARRAY, MT_GUEST_OPTIONAL);
    if (list && list->len > MT_GUEST_MOUNTS_MAX) {
        wrong(f, "volumes", "too many items");
        return;
    }
    for (const struct mt_guest_json_node *n = list ? list->child : NULL; n && f->res == 0; n = n->next) {
        struct mt_guest_fields item = {.object = n->kind == MT_GUEST_JSON_OBJECT ? n : NULL, .where = "pong.volumes", .mem = f->mem, .err = f->err};
        struct mt_guest_volume_use *v = &p->volumes[p->volumes_count++];
        const char *name = mt_guest_get_str(&item, "name", MT_GUEST_REQUIRED);
        v->used_bytes = mt_guest_get_uint(&item, "used", MT_GUEST_REQUIRED, 0, INT64_MAX);
        v->size_bytes = mt_guest_get_uint(&item, "size", MT_GUEST_REQUIRED, 0, INT64_MAX);
        if (name && mt_fmt(v->name, sizeof v->name, NULL, "%s", name) < 0)
            wrong(&item, "name", "too long");
        f->res = item.res;
    }
}

static void decode_pong(struct mt_guest_fields *f, struct mt_guest_pong *p)
{
    p->ts_ns = mt_guest_get_int(f, "ts_ns", MT_GUEST_REQUIRED);
    p->mem_total_bytes = mt_guest_get_uint(f, "mem_total", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    p->mem_available_bytes = mt_guest_get_uint(f, "mem_available", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    p->oom_kills = mt_guest_get_uint(f, "oom_kills", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    p->procs = mt_guest_get_uint(f, "procs", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    p->load1_milli = mt_guest_get_uint(f, "load1", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    p->rootfs_used_bytes = mt_guest_get_uint(f, "rootfs_used", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    p->fs_errors = mt_guest_get_uint(f, "fs_errors", MT_GUEST_OPTIONAL, 0, INT64_MAX);
    decode_volumes(f, p);
}

static bool is_hex(const char *s, size_t n)
{
    return s && strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

static void decode_ack(struct mt_guest_fields *f, struct mt_guest_ack *a)
{
    a->generation = mt_guest_get_uint(f, "generation", MT_GUEST_REQUIRED, 0, INT64_MAX);
    a->config_sha256 = mt_guest_get_str(f, "config_sha256", MT_GUEST_REQUIRED);
    if (!is_hex(a->config_sha256, 64))
        wrong(f, "config_sha256", "must be 64 lower-case hex digits");
}

static void decode_secrets(struct mt_guest_fields *f, struct mt_guest_secrets_data *s)
{
    const char *encoding = mt_guest_get_str(f, "encoding", MT_GUEST_REQUIRED);
    s->version_id = mt_guest_get_str(f, "version_id", MT_GUEST_REQUIRED);
    s->data = mt_guest_get_str(f, "data", MT_GUEST_REQUIRED);
    s->sha256 = mt_guest_get_str(f, "sha256", MT_GUEST_REQUIRED);
    if (f->res < 0)
        return;
    if (!MT_STREQ(encoding, "base64"))
        wrong(f, "encoding", "must be base64");
    if (!is_hex(s->sha256, 64))
        wrong(f, "sha256", "must be 64 lower-case hex digits");
}

static int decode_envelope(struct mt_guest_fields *f, enum mt_guest_from from, struct mt_guest_msg *msg)
{
    if (mt_guest_get_uint(f, "v", MT_GUEST_REQUIRED, 0, UINT32_MAX) != 1)
        wrong(f, "v", "must be 1");
    const char *type = mt_guest_get_str(f, "type", MT_GUEST_REQUIRED);
    msg->seq = (uint32_t)mt_guest_get_uint(f, "seq", MT_GUEST_REQUIRED, 0, UINT32_MAX);
    if (f->res < 0)
        return f->res;
    msg->type = MT_GUEST_UNKNOWN;
    for (int i = MT_GUEST_UNKNOWN + 1; i < MT_GUEST_TYPE_MAX; i++)
        if (MT_STREQ(type, types[i].name))
            msg->type = (enum mt_guest_type)i;
    if (msg->type != MT_GUEST_UNKNOWN && types[msg->type].from != from)
        wrong(f, "type", "not allowed in this direction");
    return f->res;
}

int mt_guest_decode(enum mt_guest_from from, const char *line, size_t len, struct mt_guest_mem *mem,
                    struct mt_guest_msg *ret_msg, struct mt_err *err)
{
    bool to_host = from == MT_GUEST_FROM_GUEST;
    struct mt_guest_msg msg = {.type = MT_GUEST_UNKNOWN};
    struct mt_guest_fields f = {.where = "message", .mem = mem, .err = err};
    mem->used = 0;
    if (len > (to_host ? MT_GUEST_LINE_TO_HOST_MAX : MT_GUEST_LINE_TO_GUEST_MAX))
        return MT_FAIL(err, MT_E_LIMIT, "line of %zu bytes is over the cap", len);
    int res = mt_guest_json_parse(line, len, to_host ? NODES_TO_HOST : NODES_TO_GUEST, mem, &f.object, err);
    if (res < 0)
        return res;
    res = decode_envelope(&f, from, &msg);
    if (res < 0)
        return res;
    f.where = mt_guest_type_name(msg.type);
    switch (msg.type) {
    case MT_GUEST_HELLO:
        decode_hello(&f, &msg.u.hello);
        break;
    case MT_GUEST_CONFIG:
        f.res = mt_guest_config_decode(f.object, mem, &msg.u.config, err);
        break;
    case MT_GUEST_ACK:
        decode_ack(&f, &msg.u.ack);
        break;
    case MT_GUEST_STATUS:
        decode_status(&f, &msg.u.status);
        break;
    case MT_GUEST_REJECT:
        msg.u.reject.reason = mt_guest_get_str(&f, "reason", MT_GUEST_REQUIRED);
        break;
    case MT_GUEST_PING:
        msg.u.ping.ts_ns = mt_guest_get_int(&f, "ts_ns", MT_GUEST_REQUIRED);
        break;
    case MT_GUEST_PONG:
        decode_pong(&f, &msg.u.pong);
        break;
    case MT_GUEST_SHUTDOWN:
        msg.u.shutdown.grace_ms = mt_guest_get_uint(&f, "grace_ms", MT_GUEST_REQUIRED, 0, 3600000);
        msg.u.shutdown.reason = mt_guest_get_str(&f, "reason", MT_GUEST_OPTIONAL);
        break;
    case MT_GUEST_SECRETS:
        decode_secrets(&f, &msg.u.secrets);
        break;
    case MT_GUEST_FREEZE:
    case MT_GUEST_THAW:
        msg.u.freeze.volume_id = mt_guest_get_str(&f, "volume_id", MT_GUEST_REQUIRED);
        break;
    case MT_GUEST_QUIESCED:
        msg.u.quiesced.volume_id = mt_guest_get_str(&f, "volume_id", MT_GUEST_REQUIRED);
        msg.u.quiesced.state = (enum mt_guest_quiesce)pick(&f, "state", quiesces, MT_GUEST_QUIESCE_MAX);
        msg.u.quiesced.detail = mt_guest_get_str(&f, "detail", MT_GUEST_OPTIONAL);
        break;
    case MT_GUEST_FETCH_LOG:
        msg.u.fetch_log.offset = mt_guest_get_uint(&f, "offset", MT_GUEST_OPTIONAL, 0, INT64_MAX);
        break;
    case MT_GUEST_LOG_CHUNK:
        msg.u.log_chunk.offset = mt_guest_get_uint(&f, "offset", MT_GUEST_REQUIRED, 0, INT64_MAX);
        msg.u.log_chunk.data = mt_guest_get_str(&f, "data", MT_GUEST_REQUIRED);
        msg.u.log_chunk.last = mt_guest_get_bool(&f, "last", MT_GUEST_REQUIRED);
        break;
    case MT_GUEST_BYE:
    case MT_GUEST_RESUME:
    case MT_GUEST_UNKNOWN:
    case MT_GUEST_TYPE_MAX:
        break;
    }
    if (f.res < 0)
        return f.res;
    *ret_msg = msg;
    return 0;
}

/* --- encode --- */

/* cut at MT_GUEST_TEXT_MAX, never inside a character */
static void put_text(struct mt_guest_json_out *out, const char *key, const char *text)
{
    char cut[MT_GUEST_TEXT_MAX + 1];
    if (!text)
        return;
    size_t n = strnlen(text, MT_GUEST_TEXT_MAX + 1);
    if (n > MT_GUEST_TEXT_MAX) {
        n = MT_GUEST_TEXT_MAX;
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--;
    }
    memcpy(cut, text, n);
    cut[n] = '\0';
    mt_guest_json_put_str(out, key, cut);
}

static const char *encode_hello(const struct mt_guest_hello *h, struct mt_guest_json_out *out)
{
    if (!h->init_version || !h->arch || !h->kernel || !h->instance_id || !h->boot_id)
        return "hello needs init_version, arch, kernel, instance_id and boot_id";
    mt_guest_json_put_uint(out, "proto_min", h->proto_min);
    mt_guest_json_put_uint(out, "proto_max", h->proto_max);
    put_text(out, "init_version", h->init_version);
    put_text(out, "arch", h->arch);
    put_text(out, "kernel", h->kernel);
    put_text(out, "instance_id", h->instance_id);
    put_text(out, "boot_id", h->boot_id);
    mt_guest_json_put_str(out, "phase", mt_guest_phase_name(h->phase));
    if (h->uptime_ms)
        mt_guest_json_put_uint(out, "uptime_ms", h->uptime_ms);
    return NULL;
}

static const char *encode_status(const struct mt_guest_status *s, struct mt_guest_json_out *out)
{
    if (s->state == MT_GUEST_STATE_FAILED && !s->reason)
        return "status failed needs a reason";
    if (s->state == MT_GUEST_STATE_EXITED && (s->exit_code >= 0) == (s->signal != NULL))
        return "status exited needs exit_code or signal, not both";
    mt_guest_json_put_str(out, "state", mt_guest_state_name(s->state));
    put_text(out, "reason", s->reason);
    put_text(out, "detail", s->detail);
    if (s->pid > 0)
        mt_guest_json_put_int(out, "pid", s->pid);
    if (s->exit_code >= 0 && mt_guest_state_terminal(s->state))
        mt_guest_json_put_int(out, "exit_code", s->exit_code);
    put_text(out, "signal", s->signal);
    mt_guest_json_put_bool(out, "core", s->core);
    mt_guest_json_put_uint(out, "oom_kills", s->oom_kills);
    mt_guest_json_put_bool(out, "clean_umount", s->clean_umount);
    mt_guest_json_put_uint(out, "uptime_ms", s->uptime_ms);
    mt_guest_json_put_int(out, "ts_ns", s->ts_ns);
    return NULL;
}

static void encode_pong(const struct mt_guest_pong *p, struct mt_guest_json_out *out)
{
    mt_guest_json_put_int(out, "ts_ns", p->ts_ns);
    mt_guest_json_put_uint(out, "mem_total", p->mem_total_bytes);
    mt_guest_json_put_uint(out, "mem_available", p->mem_available_bytes);
    mt_guest_json_put_uint(out, "oom_kills", p->oom_kills);
    mt_guest_json_put_uint(out, "procs", p->procs);
    mt_guest_json_put_uint(out, "load1", p->load1_milli);
    mt_guest_json_put_uint(out, "rootfs_used", p->rootfs_used_bytes);
    mt_guest_json_put_uint(out, "fs_errors", p->fs_errors);
    if (p->volumes_count == 0)
        return;
    mt_guest_json_put_open(out, "volumes", '[');
    for (size_t i = 0; i < p->volumes_count; i++) {
        mt_guest_json_put_open(out, NULL, '{');
        mt_guest_json_put_str(out, "name", p->volumes[i].name);
        mt_guest_json_put_uint(out, "used", p->volumes[i].used_bytes);
        mt_guest_json_put_uint(out, "size", p->volumes[i].size_bytes);
        mt_guest_json_put_close(out, '}');
    }
    mt_guest_json_put_close(out, ']');
}

/* NULL, or what is missing */
static const char *encode_fields(const struct mt_guest_msg *msg, struct mt_guest_json_out *out)
{
    switch (msg->type) {
    case MT_GUEST_HELLO:
        return encode_hello(&msg->u.hello, out);
    case MT_GUEST_CONFIG:
        mt_guest_config_encode(&msg->u.config, out);
        return NULL;
    case MT_GUEST_ACK:
        if (!is_hex(msg->u.ack.config_sha256, 64))
            return "ack needs config_sha256 of 64 lower-case hex digits";
        mt_guest_json_put_uint(out, "generation", msg->u.ack.generation);
        mt_guest_json_put_str(out, "config_sha256", msg->u.ack.config_sha256);
        return NULL;
    case MT_GUEST_STATUS:
        return encode_status(&msg->u.status, out);
    case MT_GUEST_REJECT:
        if (!msg->u.reject.reason)
            return "reject needs a reason";
        put_text(out, "reason", msg->u.reject.reason);
        return NULL;
    case MT_GUEST_PING:
        mt_guest_json_put_int(out, "ts_ns", msg->u.ping.ts_ns);
        return NULL;
    case MT_GUEST_PONG:
        encode_pong(&msg->u.pong, out);
        return NULL;
    case MT_GUEST_SHUTDOWN:
        if (msg->u.shutdown.grace_ms > 3600000)
            return "shutdown grace_ms is above 3600000";
        mt_guest_json_put_uint(out, "grace_ms", msg->u.shutdown.grace_ms);
        put_text(out, "reason", msg->u.shutdown.reason);
        return NULL;
    case MT_GUEST_SECRETS:
        if (!msg->u.secrets.version_id || !msg->u.secrets.data || !is_hex(msg->u.secrets.sha256, 64))
            return "secrets need version_id, data and sha256 of 64 lower-case hex digits";
        mt_guest_json_put_str(out, "version_id", msg->u.secrets.version_id);
        mt_guest_json_put_str(out, "encoding", "base64");
        mt_guest_json_put_str(out, "data", msg->u.secrets.data);
        mt_guest_json_put_str(out, "sha256", msg->u.secrets.sha256);
        return NULL;
    case MT_GUEST_FREEZE:
    case MT_GUEST_THAW:
        if (!msg->u.freeze.volume_id)
            return "freeze and thaw need volume_id";
        put_text(out, "volume_id", msg->u.freeze.volume_id);
        return NULL;
    case MT_GUEST_QUIESCED:
        if (!msg->u.quiesced.volume_id)
            return "quiesced needs volume_id";
        put_text(out, "volume_id", msg->u.quiesced.volume_id);
        mt_guest_json_put_str(out, "state", mt_guest_quiesce_name(msg->u.quiesced.state));
        put_text(out, "detail", msg->u.quiesced.detail);
        return NULL;
    case MT_GUEST_FETCH_LOG:
        mt_guest_json_put_uint(out, "offset", msg->u.fetch_log.offset);
        return NULL;
    case MT_GUEST_LOG_CHUNK:
        if (!msg->u.log_chunk.data)
            return "log_chunk needs data";
        mt_guest_json_put_uint(out, "offset", msg->u.log_chunk.offset);
        mt_guest_json_put_str(out, "data", msg->u.log_chunk.data);
        mt_guest_json_put_bool(out, "last", msg->u.log_chunk.last);
        return NULL;
    case MT_GUEST_BYE:
    case MT_GUEST_RESUME:
        return NULL;
    case MT_GUEST_UNKNOWN:
    case MT_GUEST_TYPE_MAX:
        break;
    }
    return "message of unknown type";
}

int mt_guest_encode(const struct mt_guest_msg *msg, char *out, size_t cap, size_t *ret_len,
                    struct mt_err *err)
{
    if (msg->type == MT_GUEST_CONFIG) {
        int res = mt_guest_config_check(&msg->u.config, err);
        if (res < 0)
            return res;
    }
    bool to_host = (unsigned)msg->type < MT_GUEST_TYPE_MAX && types[msg->type].from == MT_GUEST_FROM_GUEST;
    size_t line_max = to_host ? MT_GUEST_LINE_TO_HOST_MAX : MT_GUEST_LINE_TO_GUEST_MAX;
    struct mt_guest_json_out o = {.at = out, .cap = cap < line_max + 1 ? cap : line_max + 1};
    mt_guest_json_put_open(&o, NULL, '{');
    mt_guest_json_put_int(&o, "v", 1);
    mt_guest_json_put_str(&o, "type", mt_guest_type_name(msg->type));
    mt_guest_json_put_uint(&o, "seq", msg->seq);
    const char *missing = encode_fields(msg, &o);
    if (missing)
        return MT_FAIL(err, MT_E_INVALID, "%s", missing);
    mt_guest_json_put_close(&o, '}');
    mt_guest_json_put_raw(&o, "\n", 1);
    if (o.bad_text)
        return MT_FAIL(err, MT_E_INVALID, "%s: text is not UTF-8", mt_guest_type_name(msg->type));
    if (o.full)
        return MT_FAIL(err, MT_E_LIMIT, "%s does not fit in %zu bytes", mt_guest_type_name(msg->type), o.cap);
    *ret_len = o.len;
    return 0;
}

/* --- lines --- */

size_t mt_guest_lines_room(struct mt_guest_lines *lines, char **ret_at)
{
    if (lines->taken > 0) {
        lines->len -= lines->taken;
        memmove(lines->buf, lines->buf + lines->taken, lines->len);
        lines->taken = 0;
    }
    *ret_at = lines->buf + lines->len;
    MT_ASSERT(lines->len < lines->cap); /* _next() said "too long" and was not heeded */
    return lines->cap - lines->len;
}

void mt_guest_lines_fed(struct mt_guest_lines *lines, size_t n)
{
    MT_ASSERT(n <= lines->cap - lines->len);
    lines->len += n;
}

int mt_guest_lines_next(struct mt_guest_lines *lines, const char **ret_line, size_t *ret_len)
{
    char *from = lines->buf + lines->taken;
    size_t left = lines->len - lines->taken;
    char *end = left > 0 ? memchr(from, '\n', left) : NULL;
    if (!end)
        return left >= lines->cap ? -MT_E_LIMIT : 0;
    *ret_line = from;
    *ret_len = (size_t)(end - from);
    lines->taken += *ret_len + 1;
    return 1;
}
