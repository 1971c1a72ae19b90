/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/options.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "wire/imageref.h"
#include "wire/json.h"

#include <strings.h>

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

void mt_fetch_options_done(struct mt_fetch_options *o)
{
    if (o->password)
        explicit_bzero(o->password, strlen(o->password));
    free(o->images_dir);
    free(o->repository);
    free(o->digest);
    free(o->arch);
    free(o->ca_file);
    free(o->username);
    free(o->password);
    free_list(o->local_registries);
    free_list(o->insecure_registries);
    *o = (struct mt_fetch_options){0};
}

bool mt_fetch_listed(char *const *list, const char *host)
{
    for (size_t i = 0; list && list[i]; i++)
        if (strcasecmp(list[i], host) == 0)
            return true;
    return false;
}

static int opt_text(const json_t *obj, const char *key, bool required, char **ret, struct mt_err *err)
{
    const char *s = NULL;
    int r = required ? mt_json_get_str(obj, key, 3000, &s, err) : mt_json_opt_str(obj, key, 3000, NULL, &s, err);
    if (r < 0 || !s)
        return r;
    *ret = mt_strndup(s, strlen(s));
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory for the request");
}

static int opt_list(const json_t *obj, const char *key, char ***ret, struct mt_err *err)
{
    json_t *list = NULL;
    int r = mt_json_opt_array(obj, key, 256, &list, err);
    if (r < 0)
        return r;
    size_t n = json_array_size(list);
    char **out = calloc(n + 1, sizeof *out);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the request");
    *ret = out;
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s || strlen(s) > 261)
            return MT_FAIL(err, MT_E_INVALID, "'%s' must hold texts of the form host:port", key);
        out[i] = mt_strndup(s, strlen(s));
        if (!out[i])
            return MT_FAIL(err, MT_E_NOMEM, "no memory for the request");
    }
    return 0;
}

int mt_fetch_options_parse(const char *text, size_t len, bool pull, struct mt_fetch_options *ret, struct mt_err *err)
{
    static const char *const known[] = {"images_dir", "repository", "digest", "arch", "ca_file", "username", "password",
                                        "local_registries", "insecure_registries", "max_compressed_bytes", "total_timeout_s",
                                        "layer_timeout_s", "uid", "gid", NULL};
    mt_auto_json json_t *root = NULL;
    mt_cleanup(mt_fetch_options_done) struct mt_fetch_options o = {0};
    uint64_t total, layer, uid, gid;
    if (len == 0 && !pull) {
        text = "{}";
        len = 2;
    }
    int r = mt_json_parse(text, len, (size_t)256 << 10, 8, &root, err);
    if (r < 0 || (r = mt_json_only(root, known, err)) < 0 || (r = opt_text(root, "images_dir", pull, &o.images_dir, err)) < 0 ||
        (r = opt_text(root, "repository", pull, &o.repository, err)) < 0 ||
        (r = opt_text(root, "digest", pull, &o.digest, err)) < 0 || (r = opt_text(root, "arch", pull, &o.arch, err)) < 0 ||
        (r = opt_text(root, "ca_file", false, &o.ca_file, err)) < 0 ||
        (r = opt_text(root, "username", false, &o.username, err)) < 0 ||
        (r = opt_text(root, "password", false, &o.password, err)) < 0 ||
        (r = opt_list(root, "local_registries", &o.local_registries, err)) < 0 ||
        (r = opt_list(root, "insecure_registries", &o.insecure_registries, err)) < 0 ||
        (r = mt_json_opt_u64(root, "max_compressed_bytes", 1, (uint64_t)1 << 44, (uint64_t)10 << 30, &o.max_compressed_bytes,
                             err)) < 0 ||
        (r = mt_json_opt_u64(root, "total_timeout_s", 1, 14400, pull ? 1800 : 10, &total, err)) < 0 ||
        (r = mt_json_opt_u64(root, "layer_timeout_s", 1, 3600, 300, &layer, err)) < 0 ||
        (r = mt_json_opt_u64(root, "uid", 0, UINT32_MAX - 1, 0, &uid, err)) < 0 ||
        (r = mt_json_opt_u64(root, "gid", 0, UINT32_MAX - 1, 0, &gid, err)) < 0)
        return r;
    o.total_timeout_s = (uint32_t)total;
    o.layer_timeout_s = (uint32_t)layer;
    o.uid = (uid_t)uid;
    o.gid = (gid_t)gid;
    if (pull && o.images_dir[0] != '/')
        return MT_FAIL(err, MT_E_INVALID, "images_dir must be an absolute path");
    if (pull && !mt_digest_valid(o.digest))
        return MT_FAIL(err, MT_E_INVALID, "digest must be 'sha256:' and 64 lower-case hex digits");
    *ret = o;
    o = (struct mt_fetch_options){0};
    return 0;
}
