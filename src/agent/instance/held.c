/* SPDX-License-Identifier: Apache-2.0 */
/* The volumes that an attempt has, and their locks. See inst.h. */
#include "agent/instance/inst.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

size_t mt_inst_attachments(const struct mt_inst *in, struct mt_attachment ret[MT_VMM_VOLUMES_MAX])
{
    size_t n = 0;
    for (; in->spec && n < in->spec->n_mounts && n < MT_VMM_VOLUMES_MAX; n++) {
        mt_volumes_attachment(in->a->volumes, in->spec, n, &ret[n]);
        ret[n].check = in->check_volumes;
    }
    return n;
}

int mt_inst_attach_volumes(struct mt_agent *a, const char *instance_id, struct mt_attachment *at, size_t n, struct mt_err *err)
{
    const char *detail = "device_attach_failed";
    for (size_t i = 0; i < n; i++) {
        struct mt_err why = {0};
        int64_t began = mt_clock_mono();
        bool ok = mt_volumes_attach(a->volumes, &at[i], &detail, &why) == 0;
        mt_storage_measure_attach(&a->measure.storage, ok, (mt_clock_mono() - began) / 1000);
        if (ok)
            continue;
        mt_log(MT_WARN, "volume.not_attached", KV("instance_id", instance_id), KV("volume_id", at[i].volume_id), KV("detail", detail), KV_ERR(&why));
        return MT_FAIL(err, why.code ? why.code : MT_E_IO, "%s: %s", detail, why.msg);
    }
    return 0;
}

void mt_inst_hold_volume(struct mt_inst *in, const char *volume_id, int fd)
{
    MT_ASSERT(in->held_n < MT_ARRAY_LEN(in->held));
    (void)snprintf(in->held[in->held_n].volume_id, sizeof in->held[0].volume_id, "%s", volume_id);
    in->held[in->held_n++].fd = fd;
}

void mt_inst_release_volumes(struct mt_inst *in)
{
    while (in->held_n > 0) {
        in->held_n--;
        mt_closep(&in->held[in->held_n].fd);
        mt_volumes_released(in->a->volumes, in->held[in->held_n].volume_id);
    }
}

/* Before anything else may run for anybody: while no agent was there, nobody had the lock of a volume whose VM went on. */
void mt_inst_retake_volumes(struct mt_inst *in)
{
    struct mt_err err = {0};
    if (!(in->st.undo & MT_STEP_BIT(MT_STEP_VOLUMES)) || !in->spec)
        return;
    for (size_t i = 0; i < in->spec->n_mounts && i < MT_ARRAY_LEN(in->held); i++) {
        int fd = -1;
        if (mt_volumes_retake(in->a->volumes, in->spec->mounts[i].volume_id, &fd, &err) == 0)
            mt_inst_hold_volume(in, in->spec->mounts[i].volume_id, fd);
        else
            mt_log(MT_ERROR, "volume.lock_not_retaken", KV("instance_id", in->st.instance_id), KV("volume_id", in->spec->mounts[i].volume_id), KV_ERR(&err));
    }
}
