/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The autopsy of the newest attempt that failed: kept beside the state until the control plane has acknowledged a report with it, so
 * that neither a killed agent nor an outage of the control plane loses it. One for each instance: what crashes in a loop while nobody
 * listens leaves its latest.
 */
#include "agent/instance/inst.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/json.h"

#include <unistd.h>

static int path_of(const char *dir, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/autopsy.json", dir);
}

void mt_inst_note_place(struct mt_inst *in)
{
    if (in->end_phase || in->st.phase == MT_PH_TEARDOWN)
        return;
    in->end_phase = mt_phase_name(in->st.phase);
    in->end_step = in->detail;
}

const char *mt_inst_autopsy_boot(const struct mt_inst *in)
{
    return json_string_value(json_object_get(in->autopsy, "boot_id"));
}

void mt_inst_make_autopsy(struct mt_inst *in, const char *console, size_t console_len, const struct mt_autopsy_tail *tail, uint64_t oom_cgroup)
{
    const struct mt_state *st = &in->st;
    bool judged = st->t.started != 0; /* only then was there a check */
    struct mt_autopsy_in a = {.st = st,
                              .phase = in->end_phase ? in->end_phase : "",
                              .step = in->end_step ? in->end_step : "",
                              .explain = in->explain,
                              .console = console,
                              .console_len = console_len,
                              .tail = tail,
                              .oom_guest = in->oom_kills > in->pong.oom_kills ? in->oom_kills : in->pong.oom_kills,
                              .oom_cgroup = oom_cgroup,
                              .memory_bytes = in->spec ? in->spec->resources.memory_bytes : 0,
                              .memory_available_bytes = in->pong.mem_available_bytes,
                              .health = {.check = judged ? &in->hconf.check : NULL,
                                         .error = in->health_why,
                                         .status = in->health_status,
                                         .body = in->health_body,
                                         .body_len = in->health_body_len,
                                         .failures = in->hcount.bad},
                              .ended_us = mt_clock_wall_us()};
    mt_auto_free char *text = mt_autopsy_text(&a);
    struct mt_err err = {0};
    json_t *record = NULL;
    if (!text || mt_json_parse(text, strlen(text), MT_AUTOPSY_MAX, 8, &record, &err) < 0) {
        mt_log(MT_WARN, "autopsy.not_made", KV("instance_id", st->instance_id), KV_ERR(&err));
        return;
    }
    json_decref(in->autopsy);
    in->autopsy = record;
    in->autopsy_unsaved = true;
}

int mt_inst_save_autopsy(const char *dir, const json_t *record, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = path_of(dir, path, err);
    return rc < 0 ? rc : mt_sealed_save(path, record, err);
}

void mt_inst_load_autopsy(struct mt_inst *in)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    if (path_of(in->dir, path, NULL) == 0 && access(path, F_OK) == 0 && mt_sealed_load(path, 2 * MT_AUTOPSY_MAX, &in->autopsy, &err) < 0)
        mt_log(MT_WARN, "autopsy.lost", KV("instance_id", in->st.instance_id), KV_ERR(&err));
}

void mt_inst_autopsy_told(struct mt_inst *in, const char *boot_id)
{
    char path[PATH_MAX];
    const char *mine = mt_inst_autopsy_boot(in);
    if (!mine || !MT_STREQ(mine, boot_id))
        return; /* a newer one took its place meanwhile */
    json_decref(in->autopsy);
    in->autopsy = NULL;
    in->autopsy_unsaved = false;
    if (path_of(in->dir, path, NULL) == 0)
        (void)unlink(path); /* a save that is under way may put it back: then it is told once more, to no effect */
}
