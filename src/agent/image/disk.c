/* SPDX-License-Identifier: Apache-2.0 */
/* rootdisks/<key>.json: written once, checked when the index is built. Format in docs/formats/rootdisk.md. */
#include "agent/image/internal.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/imageref.h"
#include "wire/json.h"

#include <sys/stat.h>

#define JSON_MAX ((size_t)4 << 20)

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

void mt_rootdisk_done(struct mt_rootdisk *d)
{
    free(d->path);
    free_list(d->config.entrypoint);
    free_list(d->config.cmd);
    free_list(d->config.env);
    free_list(d->config.exposed_ports);
    free(d->config.working_dir);
    free(d->config.user);
    free(d->config.stop_signal);
    *d = (struct mt_rootdisk){0};
}

void image_entry_free(struct image_entry *e)
{
    if (!e)
        return;
    mt_rootdisk_done(&e->disk);
    free(e);
}

static char *copy_text(const char *s)
{
    return mt_strndup(s ? s : "", s ? strlen(s) : 0);
}

static char **copy_list(char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    char **out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++)
        if (!(out[i] = copy_text(list[i]))) {
            free_list(out);
            return NULL;
        }
    return out;
}

int image_disk_copy(const struct mt_rootdisk *from, struct mt_rootdisk *ret, struct mt_err *err)
{
    struct mt_rootdisk d = *from;
    d.path = copy_text(from->path);
    d.config = (struct mt_image_config){.entrypoint = copy_list(from->config.entrypoint),
                                        .cmd = copy_list(from->config.cmd),
                                        .env = copy_list(from->config.env),
                                        .exposed_ports = copy_list(from->config.exposed_ports),
                                        .working_dir = copy_text(from->config.working_dir),
                                        .user = copy_text(from->config.user),
                                        .stop_signal = copy_text(from->config.stop_signal)};
    const struct mt_image_config *c = &d.config;
    if (!d.path || !c->entrypoint || !c->cmd || !c->env || !c->exposed_ports || !c->working_dir || !c->user || !c->stop_signal) {
        mt_rootdisk_done(&d);
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk");
    }
    *ret = d;
    return 0;
}

static int get_list(const json_t *obj, const char *key, char ***ret, struct mt_err *err)
{
    json_t *list;
    int r = mt_json_get_array(obj, key, 1024, &list, err);
    if (r < 0)
        return r;
    size_t n = json_array_size(list);
    char **out = calloc(n + 1, sizeof *out);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk");
    *ret = out;
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s)
            return MT_FAIL(err, MT_E_INVALID, "'%s' holds something that is not text", key);
        if (!(out[i] = copy_text(s)))
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk");
    }
    return 0;
}

static int get_copy(const json_t *obj, const char *key, char **ret, struct mt_err *err)
{
    const char *s;
    int r = mt_json_get_str(obj, key, 8192, &s, err);
    if (r == 0 && !(*ret = copy_text(s)))
        r = MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk");
    return r;
}

static int get_fixed(const json_t *obj, const char *key, char *ret, size_t size, struct mt_err *err)
{
    const char *s;
    int r = mt_json_get_str(obj, key, size - 1, &s, err);
    if (r == 0 && strlen(s) != size - 1)
        r = MT_FAIL(err, MT_E_INVALID, "'%s' has the wrong length", key);
    if (r == 0)
        memcpy(ret, s, size);
    return r;
}

int image_disk_from_json(const json_t *doc, const char *dir, struct image_entry *ret, struct mt_err *err)
{
    struct mt_rootdisk *d = &ret->disk;
    json_t *config;
    int r;
    *ret = (struct image_entry){0};
    if ((r = get_fixed(doc, "key", d->key, sizeof d->key, err)) < 0 || (r = get_fixed(doc, "uuid", d->uuid, sizeof d->uuid, err)) < 0 ||
        (r = get_fixed(doc, "digest", d->digest, sizeof d->digest, err)) < 0 ||
        (r = get_fixed(doc, "sha256", ret->sha256, sizeof ret->sha256, err)) < 0 ||
        (r = mt_json_get_u64(doc, "bytes", 1, INT64_MAX, &d->bytes, err)) < 0 ||
        (r = mt_json_get_u64(doc, "used_bytes", 0, INT64_MAX, &d->used_bytes, err)) < 0 ||
        (r = mt_json_get_object(doc, "config", &config, err)) < 0 ||
        (r = get_list(config, "Entrypoint", &d->config.entrypoint, err)) < 0 ||
        (r = get_list(config, "Cmd", &d->config.cmd, err)) < 0 || (r = get_list(config, "Env", &d->config.env, err)) < 0 ||
        (r = get_list(config, "ExposedPorts", &d->config.exposed_ports, err)) < 0 ||
        (r = get_copy(config, "WorkingDir", &d->config.working_dir, err)) < 0 ||
        (r = get_copy(config, "User", &d->config.user, err)) < 0 ||
        (r = get_copy(config, "StopSignal", &d->config.stop_signal, err)) < 0) {
        mt_rootdisk_done(d);
        return r;
    }
    if (!mt_digest_valid(d->digest)) {
        mt_rootdisk_done(d);
        return MT_FAIL(err, MT_E_INVALID, "'digest' is not a digest");
    }
    d->path = mt_asprintf("%s/%s.ext4", dir, d->key);
    if (!d->path) {
        mt_rootdisk_done(d);
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk");
    }
    return 0;
}

/* crc32c of the compact, key-sorted text without the member itself: the write rule of runtime.md 4. */
static int crc_of(json_t *doc, char ret[9], struct mt_err *err)
{
    mt_auto_free char *text = json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk's description");
    (void)snprintf(ret, 9, "%08x", mt_crc32c(0, text, strlen(text)));
    return 0;
}

int image_disk_save(const char *path, const json_t *doc, struct mt_err *err)
{
    mt_auto_json json_t *copy = json_deep_copy(doc);
    char crc[9];
    if (!copy || json_object_set_new(copy, "format", json_integer(1)) < 0)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk's description");
    if (crc_of(copy, crc, err) < 0)
        return -MT_E_NOMEM;
    if (json_object_set_new(copy, "crc32c", json_string(crc)) < 0)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk's description");
    mt_auto_free char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a root disk's description");
    return mt_file_write(path, text, strlen(text), 0444, err);
}

int image_disk_load(const char *path, const char *dir, struct image_entry *ret, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *doc = NULL;
    size_t len;
    uint64_t format;
    char crc[9], want[9];
    struct stat st;
    int r = mt_file_read(path, JSON_MAX, &text, &len, err);
    if (r < 0 || (r = mt_json_parse(text, len, JSON_MAX, 8, &doc, err)) < 0 ||
        (r = mt_json_get_u64(doc, "format", 1, 1, &format, err)) < 0 || (r = get_fixed(doc, "crc32c", want, sizeof want, err)) < 0)
        return r;
    (void)json_object_del(doc, "crc32c");
    if ((r = crc_of(doc, crc, err)) < 0)
        return r;
    if (strcmp(crc, want) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' fails its check", path);
    if ((r = image_disk_from_json(doc, dir, ret, err)) < 0)
        return r;
    if (lstat(ret->disk.path, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != ret->disk.bytes) {
        mt_rootdisk_done(&ret->disk);
        return MT_FAIL(err, MT_E_CORRUPT, "the root disk beside '%s' is missing or has another size", path);
    }
    return 0;
}
