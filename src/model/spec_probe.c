/* SPDX-License-Identifier: Apache-2.0 */
/* What a proof runs on a restored copy: the process that mounts the volume, with the probe for its command. See spec.h. */
#include "model/spec.h"

#include "model/jsonout.h"
#include "model/manifest.h"
#include "wire/json.h"

#include "base/cleanup.h"
#include "base/str.h"

#define NOWHERE "::1" /* the guest of a proof has no network */

static const json_t *volume_of(const json_t *manifest, const char *name)
{
    json_t *o;
    size_t i;
    json_array_foreach(json_object_get(manifest, "volumes"), i, o)
        if (MT_STREQ(json_string_value(json_object_get(o, "name")), name))
            return o;
    return NULL;
}

static const char *path_of(const json_t *process, const char *volume)
{
    json_t *o;
    size_t i;
    json_array_foreach(json_object_get(process, "mounts"), i, o)
        if (MT_STREQ(json_string_value(json_object_get(o, "volume")), volume))
            return json_string_value(json_object_get(o, "path"));
    return NULL;
}

/* The manifest as the probe wants it: one command, and nothing around it that needs the world. */
static json_t *stripped(const struct mt_spec_group *g, const json_t *probe)
{
    json_t *m = json_deep_copy(g->manifest), *p = json_object_get(json_object_get(m, "processes"), g->process_type);
    static const char *const gone[] = {"health", "secrets", "prestart"};

    (void)json_object_del(json_object_get(m, "env"), "prestart");
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        (void)json_object_del(p, gone[i]);
    if (p && json_object_set_new(p, "command", json_deep_copy(probe)) == 0 && json_object_set_new(p, "ports", json_array()) == 0 &&
        json_object_set_new(p, "mounts", json_array()) == 0)
        return m;
    json_decref(m);
    return NULL;
}

static json_t *mount_of(const char *volume, const char *volume_id, const char *path)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "volume_id", volume_id);
    mt_jout_str(&o, "path", path);
    mt_jout_bool(&o, "read_only", false);
    mt_jout_str(&o, "name", volume);
    mt_jout_str(&o, "filesystem", "ext4");
    return mt_jout_take(&o);
}

int mt_spec_probe(const struct mt_spec_group *group, const struct mt_spec_instance *instance, const char *volume, const char *volume_id,
                  struct mt_workload **ret, uint32_t *ret_seconds, struct mt_err *err)
{
    const json_t *v = volume_of(group->manifest, volume), *probe = json_object_get(v, "probe");
    const char *path = path_of(json_object_get(json_object_get(group->manifest, "processes"), group->process_type), volume);
    struct mt_spec_group g = *group;
    struct mt_spec_instance in = *instance;
    mt_auto_workload struct mt_workload *w = NULL;
    mt_auto_json json_t *manifest = NULL, *doc = NULL;

    if (!json_array_size(probe) || !path)
        return MT_FAIL(err, MT_E_NOT_FOUND, "volume '%s' has no probe, or process '%s' does not mount it", volume, group->process_type);
    if (!(manifest = stripped(group, probe)))
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    g.manifest = manifest;
    g.secret_version_id = NULL;
    g.secrets_file = false;
    g.volumes = NULL;
    g.n_volumes = 0;
    in.overlay_ipv6 = NOWHERE;
    in.spec_hash = NULL;
    in.health_proxy_protocol = false;
    int rc = mt_spec_build(&g, &in, &w, err);
    if (rc < 0)
        return rc;
    doc = json_deep_copy(w->doc);
    json_t *mounts = json_pack("[o]", mount_of(volume, volume_id, path));
    if (!doc || !mounts || json_object_set_new(doc, "mounts", mounts) != 0)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    *ret_seconds = (uint32_t)json_integer_value(json_object_get(v, "probe_timeout_seconds"));
    return mt_workload_decode(doc, ret, NULL, err);
}
