/* SPDX-License-Identifier: Apache-2.0 */
/* OCI documents: strict where a value is used, indifferent to members that nobody reads. */
#include "wire/oci.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <jansson.h>

static void decref(json_t **j)
{
    json_decref(*j);
}
#define auto_json mt_cleanup(decref)

static int fault(enum mt_oci_fault *ret, enum mt_oci_fault f)
{
    if (ret)
        *ret = f;
    return 0;
}
#define OCI_FAIL(f, code, ...) (fault(ret_fault, (f)), MT_FAIL(err, (code), __VA_ARGS__))

static int load(const void *data, size_t len, size_t max, const char *what, json_t **ret, enum mt_oci_fault *ret_fault,
                struct mt_err *err)
{
    json_error_t je;
    if (len > max)
        return OCI_FAIL(MT_OCI_TOO_LARGE, MT_E_LIMIT, "%s of %zu bytes is above the limit of %zu", what, len, max);
    json_t *root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &je);
    if (!root) {
        char text[160];
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "%s is not valid JSON: %s", what,
                        mt_printable(je.text, strlen(je.text), text, sizeof text));
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "%s is not a JSON object", what);
    }
    *ret = root;
    return 0;
}

/* Text member; NULL when absent or of another type. jansson refuses U+0000 in text, so these are C strings. */
static const char *text_of(const json_t *obj, const char *key)
{
    return json_string_value(json_object_get(obj, key));
}

static int copy_text(const json_t *obj, const char *key, char *ret, size_t size)
{
    const char *s = text_of(obj, key);
    size_t n = s ? strlen(s) : 0;
    if (n >= size)
        return -1;
    if (n)
        memcpy(ret, s, n);
    ret[n] = 0;
    return 0;
}

/* The media type without parameters, e.g. of a Content-Type header. */
static bool type_is(const char *type, const char *want)
{
    size_t n = strlen(want);
    return type && strncasecmp(type, want, n) == 0 && (type[n] == 0 || type[n] == ';' || type[n] == ' ');
}

int mt_oci_sniff(const void *data, size_t len, const char *content_type, enum mt_oci_kind *ret_kind,
                 enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    auto_json json_t *root = NULL;
    int r = load(data, len, MT_OCI_MANIFEST_MAX, "manifest", &root, ret_fault, err);
    if (r < 0)
        return r;
    const char *type = text_of(root, "mediaType");
    if (!type && (json_is_array(json_object_get(root, "manifests")) || json_is_array(json_object_get(root, "layers")))) {
        /* OCI 1.0 allowed the member to be absent: the shape decides, and both shapes at once is an attack on parsers. */
        bool index = json_object_get(root, "manifests") != NULL;
        if (index && json_object_get(root, "layers"))
            return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "manifest has both 'layers' and 'manifests'");
        *ret_kind = index ? MT_OCI_INDEX : MT_OCI_MANIFEST;
        return 0;
    }
    if (!type)
        type = content_type;
    if (type_is(type, MT_OCI_TYPE_INDEX) || type_is(type, MT_OCI_TYPE_DOCKER_LIST)) {
        *ret_kind = MT_OCI_INDEX;
        return 0;
    }
    if (type_is(type, MT_OCI_TYPE_MANIFEST) || type_is(type, MT_OCI_TYPE_DOCKER_MANIFEST)) {
        *ret_kind = MT_OCI_MANIFEST;
        return 0;
    }
    char shown[96];
    return OCI_FAIL(MT_OCI_BAD_MEDIA_TYPE, MT_E_INVALID, "manifest of type '%s' is not run here",
                    type ? mt_printable(type, strlen(type), shown, sizeof shown) : "(none)");
}

static int parse_blob(const json_t *obj, const char *what, struct mt_oci_blob *ret, enum mt_oci_fault *ret_fault,
                      struct mt_err *err)
{
    const char *digest = text_of(obj, "digest");
    const json_t *size = json_object_get(obj, "size");
    if (!json_is_object(obj) || !digest || !mt_digest_valid(digest))
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "%s has no valid sha256 digest", what);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "%s has no valid size", what);
    memcpy(ret->digest, digest, MT_DIGEST_LEN + 1);
    ret->size = (uint64_t)json_integer_value(size);
    return 0;
}

static const struct {
    const char *type;
    enum mt_oci_compression compression;
} layer_types[] = {
    {"application/vnd.oci.image.layer.v1.tar", MT_OCI_PLAIN},
    {"application/vnd.oci.image.layer.v1.tar+gzip", MT_OCI_GZIP},
    {"application/vnd.oci.image.layer.v1.tar+zstd", MT_OCI_ZSTD},
    {"application/vnd.docker.image.rootfs.diff.tar", MT_OCI_PLAIN},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", MT_OCI_GZIP},
    {"application/vnd.docker.image.rootfs.diff.tar.zstd", MT_OCI_ZSTD},
};

static int layer_compression(const json_t *layer, enum mt_oci_compression *ret)
{
    const char *type = text_of(layer, "mediaType");
    for (size_t i = 0; type && i < sizeof layer_types / sizeof layer_types[0]; i++)
        if (strcmp(type, layer_types[i].type) == 0) {
            *ret = layer_types[i].compression;
            return 0;
        }
    return -1;
}

int mt_oci_manifest_parse(const void *data, size_t len, uint64_t max_compressed, struct mt_oci_manifest *ret,
                          enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    auto_json json_t *root = NULL;
    enum mt_oci_kind kind;
    int r = mt_oci_sniff(data, len, MT_OCI_TYPE_MANIFEST, &kind, ret_fault, err);
    if (r < 0)
        return r;
    if (kind != MT_OCI_MANIFEST)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "document is an index, not a manifest");
    r = load(data, len, MT_OCI_MANIFEST_MAX, "manifest", &root, ret_fault, err);
    if (r < 0)
        return r;
    const json_t *version = json_object_get(root, "schemaVersion");
    if (!json_is_integer(version) || json_integer_value(version) != 2)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "manifest has no schemaVersion 2");

    mt_auto_free struct mt_oci_manifest *m = calloc(1, sizeof *m);
    if (!m)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a manifest");
    r = parse_blob(json_object_get(root, "config"), "the manifest's config", &m->config, ret_fault, err);
    if (r < 0)
        return r;
    if (m->config.size > MT_OCI_CONFIG_MAX)
        return OCI_FAIL(MT_OCI_TOO_LARGE, MT_E_LIMIT, "config of %ju bytes is above the limit of %zu",
                        (uintmax_t)m->config.size, MT_OCI_CONFIG_MAX);

    const json_t *layers = json_object_get(root, "layers");
    size_t n = json_array_size(layers);
    if (!json_is_array(layers) || n == 0)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "manifest has no layers");
    if (n > MT_OCI_LAYERS_MAX)
        return OCI_FAIL(MT_OCI_TOO_LARGE, MT_E_LIMIT, "manifest has %zu layers, the limit is %d", n, MT_OCI_LAYERS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *layer = json_array_get(layers, i);
        char what[32], shown[96];
        (void)snprintf(what, sizeof what, "layer %zu", i);
        r = parse_blob(layer, what, &m->layers[i], ret_fault, err);
        if (r < 0)
            return r;
        if (layer_compression(layer, &m->layers[i].compression) < 0) {
            const char *type = text_of(layer, "mediaType");
            return OCI_FAIL(MT_OCI_BAD_MEDIA_TYPE, MT_E_INVALID, "%s has media type '%s', which is not run here", what,
                            type ? mt_printable(type, strlen(type), shown, sizeof shown) : "(none)");
        }
        if (__builtin_add_overflow(m->compressed_bytes, m->layers[i].size, &m->compressed_bytes) ||
            m->compressed_bytes > max_compressed)
            return OCI_FAIL(MT_OCI_TOO_LARGE, MT_E_LIMIT, "layers are together above the limit of %ju compressed bytes",
                            (uintmax_t)max_compressed);
    }
    m->layer_count = n;
    *ret = *m;
    return 0;
}

int mt_oci_index_parse(const void *data, size_t len, struct mt_oci_index *ret, enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    auto_json json_t *root = NULL;
    int r = load(data, len, MT_OCI_MANIFEST_MAX, "index", &root, ret_fault, err);
    if (r < 0)
        return r;
    const json_t *list = json_object_get(root, "manifests");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || json_object_get(root, "layers"))
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "index has no list of manifests");
    if (n > MT_OCI_PLATFORMS_MAX)
        return OCI_FAIL(MT_OCI_TOO_LARGE, MT_E_LIMIT, "index has %zu manifests, the limit is %d", n, MT_OCI_PLATFORMS_MAX);
    mt_auto_free struct mt_oci_platform *entries = calloc(n ? n : 1, sizeof *entries);
    if (!entries)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for an index");
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, i);
        const json_t *p = json_object_get(m, "platform");
        struct mt_oci_platform *e = &entries[count];
        struct mt_oci_blob blob;
        char what[32];
        (void)snprintf(what, sizeof what, "index entry %zu", i);
        r = parse_blob(m, what, &blob, ret_fault, err);
        if (r < 0)
            return r;
        if (copy_text(p, "os", e->os, sizeof e->os) < 0 || copy_text(p, "architecture", e->arch, sizeof e->arch) < 0 ||
            copy_text(p, "variant", e->variant, sizeof e->variant) < 0)
            continue; /* a platform with such a name is none of ours */
        const char *type = text_of(m, "mediaType");
        if (!e->os[0] || !e->arch[0] || strcmp(e->os, "unknown") == 0 ||
            (type && !type_is(type, MT_OCI_TYPE_MANIFEST) && !type_is(type, MT_OCI_TYPE_DOCKER_MANIFEST)))
            continue;
        memcpy(e->digest, blob.digest, sizeof e->digest);
        e->size = blob.size;
        count++;
    }
    ret->entries = MT_TAKE(entries);
    ret->count = count;
    return 0;
}

void mt_oci_index_done(struct mt_oci_index *index)
{
    if (!index)
        return;
    free(index->entries);
    *index = (struct mt_oci_index){0};
}

static bool platform_fits(const char *os, const char *arch, const char *variant, const char *want)
{
    if (strcmp(os, "linux") != 0 || strcmp(arch, want) != 0)
        return false;
    return strcmp(want, "arm64") != 0 || variant[0] == 0 || strcmp(variant, "v8") == 0;
}

const struct mt_oci_platform *mt_oci_index_pick(const struct mt_oci_index *index, const char *arch)
{
    for (size_t i = 0; i < index->count; i++)
        if (platform_fits(index->entries[i].os, index->entries[i].arch, index->entries[i].variant, arch))
            return &index->entries[i];
    return NULL;
}

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

void mt_oci_config_done(struct mt_oci_config *c)
{
    if (!c)
        return;
    free_list(c->entrypoint);
    free_list(c->cmd);
    free_list(c->env);
    free_list(c->exposed_ports);
    free(c->working_dir);
    free(c->user);
    free(c->stop_signal);
    *c = (struct mt_oci_config){0};
}

#define LIST_MAX 1024
#define TEXT_MAX ((size_t)32 << 10)

static int bad_member(const char *key, enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "config member '%s' has the wrong type or is too long", key);
}

/* Array of text, null or absent; @max_total bounds the sum of lengths. */
static int text_list(const json_t *obj, const char *key, size_t max_count, size_t max_total, char ***ret,
                     enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    const json_t *list = json_object_get(obj, key);
    size_t n = json_array_size(list), total = 0;
    if (list && !json_is_null(list) && (!json_is_array(list) || n > max_count))
        return bad_member(key, ret_fault, err);
    char **out = calloc(n + 1, sizeof *out);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for an image config");
    *ret = out; /* the config owns it from here, half filled or not */
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        size_t len = s ? strlen(s) : 0;
        total += len;
        if (!s || len > TEXT_MAX || total > max_total)
            return bad_member(key, ret_fault, err);
        out[i] = mt_strndup(s, len);
        if (!out[i])
            return MT_FAIL(err, MT_E_NOMEM, "no memory for an image config");
    }
    return 0;
}

static int text_member(const json_t *obj, const char *key, size_t max, char **ret, enum mt_oci_fault *ret_fault,
                       struct mt_err *err)
{
    const json_t *v = json_object_get(obj, key);
    const char *s = json_string_value(v);
    if ((v && !json_is_null(v) && !s) || (s && strlen(s) > max))
        return bad_member(key, ret_fault, err);
    *ret = mt_strndup(s ? s : "", s ? strlen(s) : 0);
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory for an image config");
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The keys of an object whose values are empty objects. */
static int ports_member(const json_t *obj, char ***ret, enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    json_t *ports = json_object_get(obj, "ExposedPorts");
    size_t n = json_object_size(ports), i = 0;
    if ((ports && !json_is_null(ports) && !json_is_object(ports)) || n > LIST_MAX)
        return bad_member("ExposedPorts", ret_fault, err);
    char **out = calloc(n + 1, sizeof *out);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for an image config");
    *ret = out;
    const char *key;
    json_t *value;
    json_object_foreach (ports, key, value) {
        if (strlen(key) > 64)
            return bad_member("ExposedPorts", ret_fault, err);
        out[i] = mt_strndup(key, strlen(key));
        if (!out[i++])
            return MT_FAIL(err, MT_E_NOMEM, "no memory for an image config");
    }
    qsort(out, n, sizeof *out, by_bytes);
    return 0;
}

static int parse_diff_ids(const json_t *root, size_t layer_count, struct mt_oci_config *c, enum mt_oci_fault *ret_fault,
                          struct mt_err *err)
{
    const json_t *rootfs = json_object_get(root, "rootfs");
    const char *type = text_of(rootfs, "type");
    const json_t *ids = json_object_get(rootfs, "diff_ids");
    size_t n = json_array_size(ids);
    if (!type || strcmp(type, "layers") != 0)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "config has no rootfs of type 'layers'");
    if (!json_is_array(ids) || n != layer_count || n > MT_OCI_LAYERS_MAX)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "config names %zu diff_ids, the manifest has %zu layers", n,
                        layer_count);
    for (size_t i = 0; i < n; i++) {
        const char *id = json_string_value(json_array_get(ids, i));
        if (!id || !mt_digest_valid(id))
            return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "config diff_id %zu is not a sha256 digest", i);
        memcpy(c->diff_ids[i], id, MT_DIGEST_LEN + 1);
    }
    c->diff_id_count = n;
    return 0;
}

int mt_oci_config_parse(const void *data, size_t len, size_t layer_count, struct mt_oci_config *ret,
                        enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    auto_json json_t *root = NULL;
    int r = load(data, len, MT_OCI_CONFIG_MAX, "config", &root, ret_fault, err);
    if (r < 0)
        return r;
    mt_cleanup(mt_oci_config_done) struct mt_oci_config c = {0};
    if (copy_text(root, "os", c.os, sizeof c.os) < 0 || copy_text(root, "architecture", c.arch, sizeof c.arch) < 0 ||
        copy_text(root, "variant", c.variant, sizeof c.variant) < 0)
        return OCI_FAIL(MT_OCI_BAD_DOCUMENT, MT_E_INVALID, "config has an overlong platform name");
    const json_t *inner = json_object_get(root, "config");
    if (inner && !json_is_null(inner) && !json_is_object(inner))
        return bad_member("config", ret_fault, err);
    if ((r = parse_diff_ids(root, layer_count, &c, ret_fault, err)) < 0 ||
        (r = text_list(inner, "Entrypoint", LIST_MAX, (size_t)1 << 20, &c.entrypoint, ret_fault, err)) < 0 ||
        (r = text_list(inner, "Cmd", LIST_MAX, (size_t)1 << 20, &c.cmd, ret_fault, err)) < 0 ||
        (r = text_list(inner, "Env", 512, (size_t)128 << 10, &c.env, ret_fault, err)) < 0 ||
        (r = ports_member(inner, &c.exposed_ports, ret_fault, err)) < 0 ||
        (r = text_member(inner, "WorkingDir", 4095, &c.working_dir, ret_fault, err)) < 0 ||
        (r = text_member(inner, "User", 255, &c.user, ret_fault, err)) < 0 ||
        (r = text_member(inner, "StopSignal", 32, &c.stop_signal, ret_fault, err)) < 0)
        return r;
    *ret = c;
    c = (struct mt_oci_config){0};
    return 0;
}

int mt_oci_config_match(const struct mt_oci_config *c, const char *arch, enum mt_oci_fault *ret_fault, struct mt_err *err)
{
    char os[40], have[40];
    if (platform_fits(c->os, c->arch, c->variant, arch))
        return 0;
    return OCI_FAIL(MT_OCI_BAD_PLATFORM, MT_E_INVALID, "image is for '%s/%s', the node runs linux/%s",
                    mt_printable(c->os, strlen(c->os), os, sizeof os), mt_printable(c->arch, strlen(c->arch), have, sizeof have),
                    arch);
}

static json_t *json_list(char *const *list)
{
    json_t *out = json_array();
    for (size_t i = 0; out && list && list[i]; i++)
        if (json_array_append_new(out, json_string(list[i])) < 0) {
            json_decref(out);
            return NULL;
        }
    return out;
}

json_t *mt_oci_config_subset(const struct mt_oci_config *c)
{
    return json_pack("{s:o,s:o,s:o,s:o,s:s,s:s,s:s}", "Entrypoint", json_list(c->entrypoint), "Cmd", json_list(c->cmd), "Env",
                     json_list(c->env), "ExposedPorts", json_list(c->exposed_ports), "WorkingDir",
                     c->working_dir ? c->working_dir : "", "User", c->user ? c->user : "", "StopSignal",
                     c->stop_signal ? c->stop_signal : "");
}
