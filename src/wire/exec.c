/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/exec.h"

#include "base/str.h"
#include "wire/guest_codec.h"

enum { NODES_MAX = 512, NAME_MAX_BYTES = 128, PATH_BYTES_MAX = 4096 };

static const char *const reasons[] = {"exited", "killed", "timeout", "connect_timeout", "client_disconnect", "revoked",
                                      "instance_stopped", "agent_unreachable", "start_failed", "protocol_error"};
static const char *const signals[] = {"INT", "TERM", "KILL", "HUP", "QUIT"};
static const char *const kinds[MT_EXEC_CONTROL_MAX] = {"", "resize", "signal", "close", "ping", "pong"};

static bool one_of(const char *s, const char *const *list, size_t n)
{
    for (size_t i = 0; s && i < n; i++)
        if (MT_STREQ(s, list[i]))
            return true;
    return false;
}

bool mt_exec_reason_known(const char *reason)
{
    return one_of(reason, reasons, sizeof reasons / sizeof reasons[0]);
}

/* --- frames --- */

bool mt_exec_allowed(enum mt_exec_from from, uint8_t type, size_t len)
{
    bool guest = from == MT_EXEC_FROM_GUEST;
    switch (type) {
    case MT_EXEC_STDIN:
        return !guest && len <= MT_EXEC_PAYLOAD_MAX;
    case MT_EXEC_OPEN:
        return !guest && len > 0 && len <= MT_EXEC_PAYLOAD_MAX;
    case MT_EXEC_STDOUT:
    case MT_EXEC_STDERR:
        return guest && len > 0 && len <= MT_EXEC_PAYLOAD_MAX;
    case MT_EXEC_CONTROL:
        return len > 0 && len <= MT_EXEC_JSON_MAX;
    case MT_EXEC_EXIT:
    case MT_EXEC_OPENED:
        return guest && len > 0 && len <= MT_EXEC_JSON_MAX;
    case MT_EXEC_WINDOW_MORE:
        return guest && len == 4;
    default:
        return false;
    }
}

void mt_exec_head(uint8_t out[MT_EXEC_HEAD], uint8_t type, size_t len)
{
    out[0] = type;
    out[1] = out[2] = out[3] = 0;
    out[4] = (uint8_t)(len >> 24);
    out[5] = (uint8_t)(len >> 16);
    out[6] = (uint8_t)(len >> 8);
    out[7] = (uint8_t)len;
}

uint32_t mt_exec_window(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int mt_exec_decode(enum mt_exec_from from, const uint8_t *data, size_t len, struct mt_exec_frame *ret, size_t *ret_used,
                   struct mt_err *err)
{
    if (len < MT_EXEC_HEAD)
        return 1;
    size_t n = mt_exec_window(data + 4);
    if (data[1] | data[2] | data[3])
        return MT_FAIL(err, MT_E_INVALID, "exec frame: flags are not zero");
    if (n > MT_EXEC_PAYLOAD_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "exec frame of %zu bytes", n);
    if (!mt_exec_allowed(from, data[0], n))
        return MT_FAIL(err, MT_E_INVALID, "exec frame of type 0x%02x with %zu bytes is not expected here", data[0], n);
    if (len < MT_EXEC_HEAD + n)
        return 1;
    *ret = (struct mt_exec_frame){.type = data[0], .payload = data + MT_EXEC_HEAD, .len = n};
    *ret_used = MT_EXEC_HEAD + n;
    return 0;
}

/* --- bodies --- */

static bool is_env_key(const char *s)
{
    if (!*s || strlen(s) > NAME_MAX_BYTES || (*s >= '0' && *s <= '9'))
        return false;
    for (; *s; s++)
        if (!((*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_'))
            return false;
    return true;
}

static int open_check(const struct mt_exec_open *o, struct mt_err *err)
{
    if (o->argc < 1 || o->argc > MT_EXEC_ARGV_MAX || !o->argv[0][0])
        return MT_FAIL(err, MT_E_INVALID, "exec open: a command of 1 to %d words is needed", MT_EXEC_ARGV_MAX);
    if (o->env_count > MT_EXEC_ENV_MAX)
        return MT_FAIL(err, MT_E_INVALID, "exec open: more than %d variables", MT_EXEC_ENV_MAX);
    if (o->env_count > 0 && !o->env)
        return MT_FAIL(err, MT_E_INVALID, "exec open: variables are counted and are not there");
    for (size_t i = 0; i < o->env_count; i++)
        if (!is_env_key(o->env[i].key))
            return MT_FAIL(err, MT_E_INVALID, "exec open: env has a name that is not [A-Za-z_][A-Za-z0-9_]*");
    if (o->cwd && (o->cwd[0] != '/' || strlen(o->cwd) > PATH_BYTES_MAX))
        return MT_FAIL(err, MT_E_INVALID, "exec open: cwd is not an absolute path");
    if ((o->user && strlen(o->user) > NAME_MAX_BYTES) || (o->term && strlen(o->term) > NAME_MAX_BYTES))
        return MT_FAIL(err, MT_E_INVALID, "exec open: user or term is too long");
    if (o->cols > MT_EXEC_SIZE_MAX || o->rows > MT_EXEC_SIZE_MAX)
        return MT_FAIL(err, MT_E_INVALID, "exec open: cols and rows are at most %u", MT_EXEC_SIZE_MAX);
    return 0;
}

static int written(const struct mt_guest_json_out *o, size_t *ret_len, struct mt_err *err)
{
    if (o->bad_text)
        return MT_FAIL(err, MT_E_INVALID, "exec: text is not UTF-8");
    if (o->full)
        return MT_FAIL(err, MT_E_LIMIT, "exec: body does not fit in %zu bytes", o->cap);
    *ret_len = o->len;
    return 0;
}

static struct mt_guest_json_out out_of(uint8_t *out, size_t cap)
{
    return (struct mt_guest_json_out){.at = (char *)out, .cap = cap};
}

int mt_exec_open_encode(const struct mt_exec_open *o, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err)
{
    int rc = open_check(o, err);
    if (rc < 0)
        return rc;
    struct mt_guest_json_out w = out_of(out, cap);
    mt_guest_json_put_open(&w, NULL, '{');
    mt_guest_json_put_open(&w, "argv", '[');
    for (size_t i = 0; i < o->argc; i++)
        mt_guest_json_put_str(&w, NULL, o->argv[i]);
    mt_guest_json_put_close(&w, ']');
    mt_guest_json_put_open(&w, "env", '{');
    for (size_t i = 0; i < o->env_count; i++)
        mt_guest_json_put_str(&w, o->env[i].key, o->env[i].value);
    mt_guest_json_put_close(&w, '}');
    if (o->cwd)
        mt_guest_json_put_str(&w, "cwd", o->cwd);
    if (o->user)
        mt_guest_json_put_str(&w, "user", o->user);
    if (o->term)
        mt_guest_json_put_str(&w, "term", o->term);
    mt_guest_json_put_bool(&w, "tty", o->tty);
    mt_guest_json_put_bool(&w, "stdin", o->stdin_open);
    mt_guest_json_put_uint(&w, "cols", o->cols);
    mt_guest_json_put_uint(&w, "rows", o->rows);
    mt_guest_json_put_close(&w, '}');
    return written(&w, ret_len, err);
}

static int parse(const uint8_t *data, size_t len, const char *where, struct mt_guest_mem *mem, struct mt_guest_fields *f,
                 struct mt_err *err)
{
    *f = (struct mt_guest_fields){.where = where, .mem = mem, .err = err};
    mem->used = 0;
    return mt_guest_json_parse((const char *)data, len, NODES_MAX, mem, &f->object, err);
}

int mt_exec_open_decode(const uint8_t *data, size_t len, struct mt_guest_mem *mem, struct mt_exec_open *ret, struct mt_err *err)
{
    struct mt_guest_fields f;
    struct mt_exec_open o = {0};
    int rc = parse(data, len, "exec.open", mem, &f, err);
    if (rc < 0)
        return rc;
    o.argv = mt_guest_get_list(&f, "argv", MT_GUEST_REQUIRED, MT_EXEC_ARGV_MAX, &o.argc);
    const struct mt_guest_json_node *env = mt_guest_get_node(&f, "env", MT_GUEST_JSON_OBJECT, MT_GUEST_OPTIONAL);
    if (env && env->len > MT_EXEC_ENV_MAX)
        return MT_FAIL(err, MT_E_INVALID, "exec open: more than %d variables", MT_EXEC_ENV_MAX);
    if (env && f.res == 0)
        o.env = mt_guest_get_room(&f, env->len, sizeof *o.env);
    for (const struct mt_guest_json_node *m = env && o.env ? env->child : NULL; m; m = m->next) {
        if (m->kind != MT_GUEST_JSON_STRING)
            return MT_FAIL(err, MT_E_INVALID, "exec open: env holds texts only");
        o.env[o.env_count++] = (struct mt_guest_env){m->key, m->string};
    }
    o.cwd = mt_guest_get_str(&f, "cwd", MT_GUEST_OPTIONAL);
    o.user = mt_guest_get_str(&f, "user", MT_GUEST_OPTIONAL);
    o.term = mt_guest_get_str(&f, "term", MT_GUEST_OPTIONAL);
    o.tty = mt_guest_get_bool(&f, "tty", MT_GUEST_OPTIONAL);
    o.stdin_open = mt_guest_get_bool(&f, "stdin", MT_GUEST_OPTIONAL);
    o.cols = (uint32_t)mt_guest_get_uint(&f, "cols", MT_GUEST_OPTIONAL, 0, MT_EXEC_SIZE_MAX);
    o.rows = (uint32_t)mt_guest_get_uint(&f, "rows", MT_GUEST_OPTIONAL, 0, MT_EXEC_SIZE_MAX);
    if (f.res < 0)
        return f.res;
    if ((rc = open_check(&o, err)) < 0)
        return rc;
    *ret = o;
    return 0;
}

static int control_check(const struct mt_exec_control *c, struct mt_err *err)
{
    if (c->kind == MT_EXEC_RESIZE &&
        (c->cols < 1 || c->rows < 1 || c->cols > MT_EXEC_SIZE_MAX || c->rows > MT_EXEC_SIZE_MAX))
        return MT_FAIL(err, MT_E_INVALID, "exec resize: cols and rows are 1 to %u", MT_EXEC_SIZE_MAX);
    if (c->kind == MT_EXEC_SIGNAL && !one_of(c->signal, signals, sizeof signals / sizeof signals[0]))
        return MT_FAIL(err, MT_E_INVALID, "exec signal: name is INT, TERM, KILL, HUP or QUIT");
    if (c->kind == MT_EXEC_CLOSE && c->reason && !mt_exec_reason_known(c->reason))
        return MT_FAIL(err, MT_E_INVALID, "exec close: not an end reason");
    return 0;
}

int mt_exec_control_encode(const struct mt_exec_control *c, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err)
{
    int rc = control_check(c, err);
    if (rc < 0)
        return rc;
    if (c->kind == MT_EXEC_UNKNOWN || (unsigned)c->kind >= MT_EXEC_CONTROL_MAX)
        return MT_FAIL(err, MT_E_INVALID, "exec control: no kind");
    struct mt_guest_json_out w = out_of(out, cap);
    mt_guest_json_put_open(&w, NULL, '{');
    mt_guest_json_put_str(&w, "type", kinds[c->kind]);
    if (c->kind == MT_EXEC_RESIZE) {
        mt_guest_json_put_uint(&w, "cols", c->cols);
        mt_guest_json_put_uint(&w, "rows", c->rows);
    }
    if (c->kind == MT_EXEC_SIGNAL)
        mt_guest_json_put_str(&w, "name", c->signal);
    if (c->kind == MT_EXEC_CLOSE && c->reason)
        mt_guest_json_put_str(&w, "reason", c->reason);
    if (c->kind == MT_EXEC_PING || c->kind == MT_EXEC_PONG)
        mt_guest_json_put_int(&w, "t", c->t);
    mt_guest_json_put_close(&w, '}');
    return written(&w, ret_len, err);
}

int mt_exec_control_decode(const uint8_t *data, size_t len, struct mt_guest_mem *mem, struct mt_exec_control *ret, struct mt_err *err)
{
    struct mt_guest_fields f;
    struct mt_exec_control c = {0};
    int rc = parse(data, len, "exec.control", mem, &f, err);
    if (rc < 0)
        return rc;
    const char *type = mt_guest_get_str(&f, "type", MT_GUEST_REQUIRED);
    if (f.res < 0)
        return f.res;
    for (int k = MT_EXEC_RESIZE; k < MT_EXEC_CONTROL_MAX; k++)
        if (MT_STREQ(type, kinds[k]))
            c.kind = (enum mt_exec_control_kind)k;
    if (c.kind == MT_EXEC_RESIZE) {
        c.cols = (uint32_t)mt_guest_get_uint(&f, "cols", MT_GUEST_REQUIRED, 0, MT_EXEC_SIZE_MAX);
        c.rows = (uint32_t)mt_guest_get_uint(&f, "rows", MT_GUEST_REQUIRED, 0, MT_EXEC_SIZE_MAX);
    }
    if (c.kind == MT_EXEC_SIGNAL)
        c.signal = mt_guest_get_str(&f, "name", MT_GUEST_REQUIRED);
    if (c.kind == MT_EXEC_CLOSE)
        c.reason = mt_guest_get_str(&f, "reason", MT_GUEST_OPTIONAL);
    if (c.kind == MT_EXEC_PING || c.kind == MT_EXEC_PONG)
        c.t = mt_guest_get_int(&f, "t", MT_GUEST_OPTIONAL);
    if (f.res < 0)
        return f.res;
    if ((rc = control_check(&c, err)) < 0)
        return rc;
    *ret = c;
    return 0;
}

static int exit_check(const struct mt_exec_exit *e, struct mt_err *err)
{
    if (!mt_exec_reason_known(e->reason))
        return MT_FAIL(err, MT_E_INVALID, "exec exit: not an end reason");
    if (e->exit_code < -1 || e->exit_code > 255 || (e->exit_code >= 0 && e->signal))
        return MT_FAIL(err, MT_E_INVALID, "exec exit: exit_code is 0 to 255, and there is a signal or a code");
    for (const char *s = e->signal; s && *s; s++)
        if (s - e->signal > 15 || !((*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9')))
            return MT_FAIL(err, MT_E_INVALID, "exec exit: not the name of a signal");
    return 0;
}

static int exit_put(const struct mt_exec_exit *e, const char *detail, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err)
{
    struct mt_guest_json_out w = out_of(out, cap);
    mt_guest_json_put_open(&w, NULL, '{');
    if (e->exit_code >= 0)
        mt_guest_json_put_int(&w, "exit_code", e->exit_code);
    if (e->signal)
        mt_guest_json_put_str(&w, "signal", e->signal);
    mt_guest_json_put_str(&w, "reason", e->reason);
    if (detail)
        mt_guest_json_put_str(&w, "detail", detail);
    mt_guest_json_put_close(&w, '}');
    return written(&w, ret_len, err);
}

int mt_exec_exit_encode(const struct mt_exec_exit *e, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err)
{
    int rc = exit_check(e, err);
    if (rc == 0 && (rc = exit_put(e, e->detail, out, cap, ret_len, err)) < 0 && e->detail)
        rc = exit_put(e, NULL, out, cap, ret_len, err);
    return rc;
}

int mt_exec_exit_decode(const uint8_t *data, size_t len, struct mt_guest_mem *mem, struct mt_exec_exit *ret, struct mt_err *err)
{
    struct mt_guest_fields f;
    int rc = parse(data, len, "exec.exit", mem, &f, err);
    if (rc < 0)
        return rc;
    uint64_t code = mt_guest_get_uint(&f, "exit_code", MT_GUEST_OPTIONAL, 256, 255);
    struct mt_exec_exit e = {.exit_code = code > 255 ? -1 : (int)code,
                             .signal = mt_guest_get_str(&f, "signal", MT_GUEST_OPTIONAL),
                             .reason = mt_guest_get_str(&f, "reason", MT_GUEST_REQUIRED),
                             .detail = mt_guest_get_str(&f, "detail", MT_GUEST_OPTIONAL)};
    if (f.res < 0)
        return f.res;
    if ((rc = exit_check(&e, err)) < 0)
        return rc;
    *ret = e;
    return 0;
}
