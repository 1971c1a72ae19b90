/* SPDX-License-Identifier: Apache-2.0 */
/* State of an instance as JSON, and sealed files. See state.h. */
#include "agent/instance/state.h"

#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/str.h"
#include "os/file.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>

#define STATE_BYTES_MAX 65536
#define SEQ_BLOCK 1000 /* a lost state starts above: milliseconds outrun the counter */

void mt_state_init(struct mt_state *s, const char *instance_id, int64_t wall_us)
{
    *s = (struct mt_state){.slot = MT_STATE_NO_SLOT};
    (void)snprintf(s->instance_id, sizeof s->instance_id, "%s", instance_id);
    s->seq_reserved = wall_us > 0 ? (uint64_t)wall_us / SEQ_BLOCK : 1;
}

void mt_state_tap(const struct mt_state *s, char ret[IFNAMSIZ])
{
    (void)snprintf(ret, IFNAMSIZ, "mt%05x", s->slot & 0xfffffU);
}

int mt_state_jail_id(const struct mt_state *s, char ret[MT_VMM_JAIL_ID_MAX + 1], struct mt_err *err)
{
    return mt_fmt(ret, MT_VMM_JAIL_ID_MAX + 1, err, "%s-%" PRIu64, mt_id_ulid(s->instance_id),
                  s->boot_seq);
}

/* ---- sealed files ------------------------------------------------------------------------ */

/* CRC of the compact, key-sorted text of @doc, which must not hold "crc32c" itself. */
static int seal_of(const json_t *doc, uint32_t *ret, struct mt_err *err)
{
    mt_auto_free char *text = json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "write state: out of memory");
    *ret = mt_crc32c(0, text, strlen(text));
    return 0;
}

int mt_sealed_encode(const json_t *doc, char **ret, struct mt_err *err)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)doc); /* shallow; jansson's copy takes no const */
    uint32_t crc;
    char hex[9];
    int rc = -MT_E_NOMEM;

    if (!copy || json_object_set_new(copy, "format", json_integer(MT_STATE_FORMAT)) < 0)
        goto out;
    rc = seal_of(copy, &crc, err);
    if (rc < 0)
        goto out;
    (void)snprintf(hex, sizeof hex, "%08" PRIx32, crc);
    rc = -MT_E_NOMEM;
    if (json_object_set_new(copy, "crc32c", json_string(hex)) < 0)
        goto out;
    *ret = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
    if (*ret)
        rc = 0;
out:
    json_decref(copy);
    if (rc == -MT_E_NOMEM)
        return MT_FAIL(err, MT_E_NOMEM, "write state: out of memory");
    return rc;
}

int mt_sealed_decode(const char *text, size_t len, json_t **ret, struct mt_err *err)
{
    json_error_t je;
    json_t *doc = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!doc)
        return MT_FAIL(err, MT_E_CORRUPT, "not JSON: line %d: %s", je.line, je.text);

    const json_t *format = json_object_get(doc, "format");
    const char *crc_text = json_string_value(json_object_get(doc, "crc32c"));
    uint32_t have = 0;
    char hex[9];
    int rc;

    if (!json_is_integer(format) || json_integer_value(format) != MT_STATE_FORMAT) {
        rc = MT_FAIL(err, MT_E_CORRUPT, "format is not %d", MT_STATE_FORMAT);
    } else if (!crc_text) {
        rc = MT_FAIL(err, MT_E_CORRUPT, "no crc32c");
    } else {
        (void)snprintf(hex, sizeof hex, "%s", crc_text);
        bool length_ok = strlen(crc_text) == 8;
        (void)json_object_del(doc, "crc32c"); /* crc_text is gone from here */
        rc = seal_of(doc, &have, err);
        char want[9];
        (void)snprintf(want, sizeof want, "%08" PRIx32, have);
        if (rc == 0 && (!length_ok || strcmp(want, hex) != 0))
            rc = MT_FAIL(err, MT_E_CORRUPT, "crc32c does not fit the content");
    }
    if (rc < 0) {
        json_decref(doc);
        return rc;
    }
    (void)json_object_del(doc, "format");
    *ret = doc;
    return 0;
}

int mt_sealed_save(const char *path, const json_t *doc, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    int rc = mt_sealed_encode(doc, &text, err);
    if (rc < 0)
        return rc;
    return mt_file_write(path, text, strlen(text), 0600, err);
}

int mt_sealed_load(const char *path, size_t max, json_t **ret, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t len = 0;
    int rc = mt_file_read(path, max, &text, &len, err);
    if (rc < 0 && rc != -MT_E_LIMIT)
        return rc;
    if (rc == 0)
        rc = mt_sealed_decode(text, len, ret, err);
    if (rc < 0 && rc != -MT_E_NOMEM) {
        char bad[PATH_MAX];
        struct mt_err why = *err;
        if (mt_fmt(bad, sizeof bad, err, "%s.bad", path) < 0 || rename(path, bad) < 0)
            return MT_FAIL(err, MT_E_IO, "'%s' is broken (%s) and cannot be moved aside", path, why.msg);
        return MT_FAIL(err, MT_E_NOT_FOUND, "'%s' is broken (%s), moved to .bad", path, why.msg);
    }
    return rc;
}

/* ---- the state itself -------------------------------------------------------------------- */

/* Text members that are plain copies: one table for both directions. */
#define TEXT(member) {#member, offsetof(struct mt_state, member), sizeof(((struct mt_state *)0)->member)}
static const struct text_field {
    const char *name;
    size_t offset, size;
} text_fields[] = {
    TEXT(instance_id), TEXT(env_id), TEXT(boot_id),   TEXT(spec_hash),    TEXT(host_boot),
    TEXT(address),     TEXT(digest), TEXT(root_uuid), TEXT(scratch_uuid), TEXT(stop_reason), TEXT(driver), TEXT(accel),
};

#define NUM(member) {#member, offsetof(struct mt_timeline, member)}
static const struct time_field {
    const char *name;
    size_t offset;
} time_fields[] = {
    NUM(plan),   NUM(prepare), NUM(image), NUM(disk),       NUM(network), NUM(launch),
    NUM(vm),     NUM(hello),   NUM(configured), NUM(started), NUM(ready),
};

static json_t *vmm_json(const struct mt_vmm_ids *v)
{
    json_t *procs = json_array();
    for (size_t i = 0; i < v->proc_count; i++) {
        (void)json_array_append_new(
            procs, json_pack("{s:I, s:I}", "pid", (json_int_t)v->proc[i].pid, "start_ticks",
                             (json_int_t)v->proc[i].start_ticks));
    }
    return json_pack("{s:s, s:I, s:o}", "jail_id", v->jail_id, "slot", (json_int_t)v->slot, "procs",
                     procs);
}

int mt_state_encode(const struct mt_state *s, char **ret, struct mt_err *err)
{
    json_t *doc = json_object();
    json_t *undo = json_array(), *t = json_object();

    for (size_t i = 0; i < sizeof text_fields / sizeof text_fields[0]; i++)
        (void)json_object_set_new(doc, text_fields[i].name,
                                  json_string((const char *)s + text_fields[i].offset));
    for (int i = 0; i < MT_STEP_MAX; i++) {
        if (s->undo & MT_STEP_BIT(i))
            (void)json_array_append_new(undo, json_string(mt_step_name((enum mt_step)i)));
    }
    for (size_t i = 0; i < sizeof time_fields / sizeof time_fields[0]; i++) {
        int64_t us;
        memcpy(&us, (const char *)&s->t + time_fields[i].offset, sizeof us);
        if (us)
            (void)json_object_set_new(t, time_fields[i].name, json_integer(us));
    }
    (void)json_object_set_new(doc, "phase", json_string(mt_phase_name(s->phase)));
    (void)json_object_set_new(doc, "undo", undo);
    (void)json_object_set_new(doc, "timeline", t);
    (void)json_object_set_new(doc, "vmm", vmm_json(&s->vmm));
    if (s->slot != MT_STATE_NO_SLOT)
        (void)json_object_set_new(doc, "slot", json_integer(s->slot));
    json_t *rest = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b}", "boot_seq", (json_int_t)s->boot_seq,
        "generation", (json_int_t)s->generation, "seq_reserved", (json_int_t)s->seq_reserved, "attempts",
        (json_int_t)s->counters.attempts, "own_failures", (json_int_t)s->counters.own_failures,
        "restart_count", (json_int_t)s->counters.restart_count, "next_retry_us",
        (json_int_t)s->next_retry_us, "crash_loop", s->crash_loop, "planned", s->planned, "interrupted",
        s->interrupted, "stop_reported", s->stop_reported);
    json_t *end = json_pack("{s:s, s:s, s:s, s:b}", "reason", s->end.reason, "detail", s->end.detail,
                            "signal", s->end.signal, "from_guest", s->end.from_guest);
    if (end && s->end.has_exit_code)
        (void)json_object_set_new(end, "exit_code", json_integer(s->end.exit_code));
    bool ok = doc && undo && t && rest && end && json_object_update(doc, rest) == 0;
    json_decref(rest);
    (void)json_object_set_new(doc, "end", end);
    /* a member that could not be made is missing, and the decoder would refuse the file later */
    ok = ok && json_object_get(doc, "vmm") && json_object_get(doc, "end") && json_object_get(doc, "undo");
    int rc = ok ? mt_sealed_encode(doc, ret, err) : MT_FAIL(err, MT_E_NOMEM, "write state: out of memory");
    json_decref(doc);
    return rc;
}

static int get_text(const json_t *o, const char *name, char *ret, size_t size, struct mt_err *err)
{
    const char *v = json_string_value(json_object_get(o, name));
    if (!v || strlen(v) >= size)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is missing or too long", name);
    (void)snprintf(ret, size, "%s", v);
    return 0;
}

static int get_num(const json_t *o, const char *name, int64_t min, int64_t max, int64_t *ret,
                   struct mt_err *err)
{
    const json_t *v = json_object_get(o, name);
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is missing or out of range", name);
    *ret = json_integer_value(v);
    return 0;
}

static int decode_vmm(const json_t *o, struct mt_vmm_ids *v, struct mt_err *err)
{
    int64_t n;
    if (get_text(o, "jail_id", v->jail_id, sizeof v->jail_id, err) < 0)
        return -MT_E_CORRUPT;
    if (get_num(o, "slot", 0, UINT32_MAX, &n, err) < 0)
        return -MT_E_CORRUPT;
    v->slot = (uint32_t)n;
    const json_t *procs = json_object_get(o, "procs");
    if (!json_is_array(procs) || json_array_size(procs) > MT_VMM_PROCS_MAX)
        return MT_FAIL(err, MT_E_CORRUPT, "'procs' is missing or too long");
    v->proc_count = json_array_size(procs);
    for (size_t i = 0; i < v->proc_count; i++) {
        const json_t *p = json_array_get(procs, i);
        int64_t pid, ticks;
        if (get_num(p, "pid", 1, INT_MAX, &pid, err) < 0 ||
            get_num(p, "start_ticks", 0, INT64_MAX, &ticks, err) < 0)
            return -MT_E_CORRUPT;
        v->proc[i] = (struct mt_vmm_proc){.pid = (pid_t)pid, .start_ticks = (uint64_t)ticks};
    }
    return 0;
}

static int decode_end(const json_t *o, struct mt_end *e, struct mt_err *err)
{
    if (get_text(o, "reason", e->reason, sizeof e->reason, err) < 0 ||
        get_text(o, "detail", e->detail, sizeof e->detail, err) < 0 ||
        get_text(o, "signal", e->signal, sizeof e->signal, err) < 0)
        return -MT_E_CORRUPT;
    e->from_guest = json_is_true(json_object_get(o, "from_guest"));
    if (json_object_get(o, "exit_code")) {
        int64_t code;
        if (get_num(o, "exit_code", 0, 255, &code, err) < 0)
            return -MT_E_CORRUPT;
        e->has_exit_code = true;
        e->exit_code = (int32_t)code;
    }
    return 0;
}

static int decode_body(const json_t *doc, struct mt_state *s, struct mt_err *err)
{
    int64_t n[7];
    static const char *const nums[7] = {"boot_seq",     "generation",    "seq_reserved", "attempts",
                                        "own_failures", "restart_count", "next_retry_us"};

    for (size_t i = 0; i < sizeof text_fields / sizeof text_fields[0]; i++) {
        if (get_text(doc, text_fields[i].name, (char *)s + text_fields[i].offset, text_fields[i].size,
                     err) < 0)
            return -MT_E_CORRUPT;
    }
    if (mt_id_check(MT_ID_INSTANCE, s->instance_id, err) < 0)
        return -MT_E_CORRUPT;
    for (size_t i = 0; i < 7; i++) {
        if (get_num(doc, nums[i], 0, i >= 3 && i < 6 ? UINT32_MAX : INT64_MAX, &n[i], err) < 0)
            return -MT_E_CORRUPT;
    }
    s->boot_seq = (uint64_t)n[0];
    s->generation = (uint64_t)n[1];
    s->seq_reserved = (uint64_t)n[2];
    s->counters = (struct mt_restart_counters){(uint32_t)n[3], (uint32_t)n[4], (uint32_t)n[5]};
    s->next_retry_us = n[6];
    s->crash_loop = json_is_true(json_object_get(doc, "crash_loop"));
    s->planned = json_is_true(json_object_get(doc, "planned"));
    s->interrupted = json_is_true(json_object_get(doc, "interrupted"));
    s->stop_reported = json_is_true(json_object_get(doc, "stop_reported"));

    const char *phase = json_string_value(json_object_get(doc, "phase"));
    if (!phase || !mt_phase_parse(phase, &s->phase))
        return MT_FAIL(err, MT_E_CORRUPT, "'phase' is missing or unknown");
    s->slot = MT_STATE_NO_SLOT;
    if (json_object_get(doc, "slot")) {
        int64_t slot;
        if (get_num(doc, "slot", 0, MT_VMM_SLOT_MAX, &slot, err) < 0)
            return -MT_E_CORRUPT;
        s->slot = (uint32_t)slot;
    }
    size_t i;
    json_t *v;
    const json_t *undo = json_object_get(doc, "undo");
    if (!json_is_array(undo))
        return MT_FAIL(err, MT_E_CORRUPT, "'undo' is missing");
    json_array_foreach(undo, i, v) {
        enum mt_step step;
        if (!json_is_string(v) || !mt_step_parse(json_string_value(v), &step))
            return MT_FAIL(err, MT_E_CORRUPT, "'undo' holds an unknown step");
        s->undo |= MT_STEP_BIT(step);
    }
    const json_t *t = json_object_get(doc, "timeline");
    for (i = 0; i < sizeof time_fields / sizeof time_fields[0]; i++) {
        int64_t us = json_integer_value(json_object_get(t, time_fields[i].name));
        memcpy((char *)&s->t + time_fields[i].offset, &us, sizeof us);
    }
    if (decode_vmm(json_object_get(doc, "vmm"), &s->vmm, err) < 0)
        return -MT_E_CORRUPT;
    return decode_end(json_object_get(doc, "end"), &s->end, err);
}

int mt_state_decode(const char *text, size_t len, struct mt_state *ret, struct mt_err *err)
{
    json_t *doc;
    int rc = mt_sealed_decode(text, len, &doc, err);
    if (rc < 0)
        return rc;
    struct mt_state s = {0};
    rc = decode_body(doc, &s, err);
    json_decref(doc);
    if (rc == 0)
        *ret = s;
    return rc;
}

int mt_state_save(const char *dir, const struct mt_state *s, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    char path[PATH_MAX];
    int rc = mt_state_encode(s, &text, err);
    if (rc == 0)
        rc = mt_fmt(path, sizeof path, err, "%s/state.json", dir);
    if (rc == 0)
        rc = mt_file_write(path, text, strlen(text), 0600, err);
    return rc;
}

int mt_state_load(const char *dir, struct mt_state *ret, struct mt_err *err)
{
    char path[PATH_MAX];
    json_t *doc;
    int rc = mt_fmt(path, sizeof path, err, "%s/state.json", dir);
    if (rc == 0)
        rc = mt_sealed_load(path, STATE_BYTES_MAX, &doc, err);
    if (rc < 0)
        return rc;
    struct mt_state s = {0};
    rc = decode_body(doc, &s, err);
    json_decref(doc);
    if (rc < 0) {
        char bad[PATH_MAX];
        if (mt_fmt(bad, sizeof bad, NULL, "%s.bad", path) == 0)
            (void)rename(path, bad);
        mt_err_wrap(err, "'%s' is broken, moved to .bad", path);
        err->code = MT_E_NOT_FOUND;
        return -MT_E_NOT_FOUND;
    }
    *ret = s;
    return 0;
}
