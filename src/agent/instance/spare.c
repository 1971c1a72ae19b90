/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/instance/spare.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"
#include "wire/json.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define SPARE_BYTES_MAX (2U << 20)

/* Torn by a crash it fails its check, as every sealed file does. */
static int put(const char *path, const char *text, struct mt_err *err)
{
    mt_auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    size_t n = strlen(text);
    if (fd == -1 || write(fd, text, n) != (ssize_t)n)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write '%s'", path);
    return 0;
}

void mt_spare_write(const struct mt_inst *in)
{
    const struct mt_state *st = &in->st;
    mt_auto_free char *state = NULL, *spec = NULL;
    char dir[PATH_MAX], path[PATH_MAX];
    struct mt_err err = {0};
    int rc = mt_fmt(dir, sizeof dir, &err, "%s/%s/%s", in->a->conf.jail_dir, st->driver, st->vmm.jail_id);
    if (rc == 0 && in->spec)
        rc = mt_sealed_encode(in->spec->doc, &spec, &err);
    if (rc == 0)
        rc = mt_state_encode(st, &state, &err);
    if (rc == 0 && spec && (rc = mt_fmt(path, sizeof path, &err, "%s/spec.json", dir)) == 0)
        rc = put(path, spec, &err);
    if (rc == 0 && (rc = mt_fmt(path, sizeof path, &err, "%s/state.json", dir)) == 0)
        rc = put(path, state, &err);
    if (rc < 0)
        mt_log(MT_WARN, "instance.spare_not_written", KV("instance_id", st->instance_id), KV_ERR(&err));
}

/* The spec first: with the state alone the instance counts as known. */
static int copy(const char *jail, const char *dir, const struct mt_state *st, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_json json_t *spec = NULL;
    int rc = mt_file_mkdirs(dir, 0700, err);
    if (rc == 0)
        rc = mt_fmt(path, sizeof path, err, "%s/spec.json", jail);
    if (rc == 0)
        rc = mt_sealed_load(path, SPARE_BYTES_MAX, &spec, err);
    if (rc == 0)
        rc = mt_fmt(path, sizeof path, err, "%s/spec.json", dir);
    if (rc == 0)
        rc = mt_sealed_save(path, spec, err);
    return rc == 0 ? mt_state_save(dir, st, err) : rc;
}

static void restore_one(const struct mt_agent *a, const char *driver, const char *jail_id)
{
    char jail[PATH_MAX], path[PATH_MAX], dir[PATH_MAX];
    struct mt_state st, known;
    struct mt_err err = {0};
    if (mt_fmt(jail, sizeof jail, NULL, "%s/%s/%s", a->conf.jail_dir, driver, jail_id) < 0 || mt_fmt(path, sizeof path, NULL, "%s/state.json", jail) < 0 ||
        access(path, F_OK) != 0)
        return; /* a VM that is not that far, or a probe's */
    if (mt_state_load(jail, &st, &err) < 0 || !mt_id_valid(MT_ID_INSTANCE, st.instance_id, strlen(st.instance_id)) || !MT_STREQ(st.vmm.jail_id, jail_id) ||
        !MT_STREQ(st.driver, driver)) {
        mt_log(MT_WARN, "instance.spare_unreadable", KV("jail", jail_id), KV_ERR(&err));
        return;
    }
    if (mt_fmt(dir, sizeof dir, NULL, "%s/instances/%s", a->conf.agent_dir, st.instance_id) < 0 || mt_state_load(dir, &known, NULL) == 0)
        return; /* what is told last is known */
    if (copy(jail, dir, &st, &err) < 0)
        mt_log(MT_ERROR, "instance.not_recovered", KV("instance_id", st.instance_id), KV("jail", jail_id), KV_ERR(&err));
    else
        mt_log(MT_WARN, "instance.recovered", KV("instance_id", st.instance_id), KV("jail", jail_id), KV("why", "its state was lost; what its jail says is taken"));
}

void mt_spare_restore(const struct mt_agent *a)
{
    static const char *const drivers[] = {"firecracker", "qemu"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof drivers / sizeof drivers[0]; i++) {
        if (mt_fmt(path, sizeof path, NULL, "%s/%s", a->conf.jail_dir, drivers[i]) < 0)
            continue;
        mt_auto_dir DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));)
            if (e->d_name[0] != '.')
                restore_one(a, drivers[i], e->d_name);
    }
}
