/* SPDX-License-Identifier: Apache-2.0 */
/* Reads manifests and configs, never layers. */
#include "fetch/fetch.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "fetch/blob.h"
#include "wire/json.h"
#include "wire/oci.h"

#define RESOLVE_TRIES 2 /* somebody waits at a prompt */

int mt_fetch_oci_fail(struct mt_fetch_fault *f, int oci_fault, const struct mt_err *err)
{
    switch ((enum mt_oci_fault)oci_fault) {
    case MT_OCI_BAD_MEDIA_TYPE:
        return mt_fetch_fail(f, MT_FETCH_BAD_LAYER, "media_type", "%s", err->msg);
    case MT_OCI_TOO_LARGE:
        return mt_fetch_fail(f, MT_FETCH_TOO_LARGE, "manifest", "%s", err->msg);
    case MT_OCI_BAD_PLATFORM:
        return mt_fetch_fail(f, MT_FETCH_PLATFORM, "config", "%s", err->msg);
    case MT_OCI_OK:
        return mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "%s", err->msg);
    case MT_OCI_BAD_DOCUMENT:
    case MT_OCI_FAULT_MAX:
        break;
    }
    return mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "manifest", "%s", err->msg);
}

/* One manifest with its config as an entry of platforms[]; NULL with the fault. */
static json_t *platform(struct mt_fetch_session *s, const struct mt_fetch_options *o, const char *digest, const void *data,
                        size_t len, struct mt_fetch_fault *f)
{
    static struct mt_oci_manifest m;
    mt_cleanup(mt_oci_config_done) struct mt_oci_config c = {0};
    mt_auto_buf struct mt_buf body = {0};
    char got[MT_DIGEST_LEN + 1];
    enum mt_oci_fault what = MT_OCI_OK;
    struct mt_err err = {0};
    if (mt_oci_manifest_parse(data, len, o->max_compressed_bytes, &m, &what, &err) < 0) {
        (void)mt_fetch_oci_fail(f, what, &err);
        return NULL;
    }
    if (mt_blob_document(s, "blobs", m.config.digest, NULL, MT_OCI_CONFIG_MAX, RESOLVE_TRIES, &body, got, NULL, f) < 0)
        return NULL;
    if (mt_oci_config_parse(body.p, body.len, m.layer_count, &c, &what, &err) < 0) {
        (void)mt_fetch_oci_fail(f, what, &err);
        return NULL;
    }
    json_t *variant = c.variant[0] ? json_string(c.variant) : json_null();
    return json_pack("{s:s,s:s,s:o,s:s,s:I,s:o}", "os", c.os, "arch", c.arch, "variant", variant, "digest", digest,
                     "compressed_bytes", (json_int_t)m.compressed_bytes, "config", mt_oci_config_subset(&c));
}

static bool runs_here(const json_t *p)
{
    const char *os = json_string_value(json_object_get(p, "os")), *arch = json_string_value(json_object_get(p, "arch"));
    return os && arch && strcmp(os, "linux") == 0 && (strcmp(arch, "amd64") == 0 || strcmp(arch, "arm64") == 0);
}

static int add_platform(json_t *list, json_t *entry, struct mt_fetch_fault *f)
{
    if (!entry)
        return f->kind == MT_FETCH_OK ? mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for the answer") : -1;
    if (!runs_here(entry)) {
        json_decref(entry);
        return 0;
    }
    return json_array_append_new(list, entry);
}

static int add_index(struct mt_fetch_session *s, const struct mt_fetch_options *o, const struct mt_buf *doc, json_t *list,
                     struct mt_fetch_fault *f)
{
    static const char *const arches[] = {"amd64", "arm64"};
    mt_cleanup(mt_oci_index_done) struct mt_oci_index index = {0};
    enum mt_oci_fault what = MT_OCI_OK;
    struct mt_err err = {0};
    if (mt_oci_index_parse(doc->p, doc->len, &index, &what, &err) < 0)
        return mt_fetch_oci_fail(f, what, &err);
    for (size_t i = 0; i < sizeof arches / sizeof arches[0]; i++) {
        const struct mt_oci_platform *p = mt_oci_index_pick(&index, arches[i]);
        mt_auto_buf struct mt_buf body = {0};
        char got[MT_DIGEST_LEN + 1];
        if (!p)
            continue;
        if (mt_blob_document(s, "manifests", p->digest, MT_FETCH_ACCEPT, MT_OCI_MANIFEST_MAX, RESOLVE_TRIES, &body, got, NULL, f) < 0 ||
            add_platform(list, platform(s, o, p->digest, body.p, body.len, f), f) < 0)
            return -1;
    }
    return 0;
}

json_t *mt_fetch_resolve(const struct mt_fetch_options *o, const struct mt_imageref *ref, struct mt_fetch_fault *f)
{
    struct mt_fetch_session *s = mt_fetch_session_new(o, ref, f);
    mt_auto_buf struct mt_buf doc = {0};
    json_t *list = json_array(), *answer = NULL;
    char digest[MT_DIGEST_LEN + 1], type[128];
    enum mt_oci_kind kind;
    enum mt_oci_fault what = MT_OCI_OK;
    struct mt_err err = {0};
    int r = s && list ? 0 : -1;
    if (r == 0)
        r = mt_blob_document(s, "manifests", ref->digest[0] ? ref->digest : ref->tag, MT_FETCH_ACCEPT, MT_OCI_MANIFEST_MAX,
                             RESOLVE_TRIES, &doc, digest, type, f);
    if (r == 0 && mt_oci_sniff(doc.p, doc.len, type, &kind, &what, &err) < 0)
        r = what == MT_OCI_BAD_MEDIA_TYPE ? mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "media_type", "%s", err.msg)
                                          : mt_fetch_oci_fail(f, what, &err);
    if (r == 0)
        r = kind == MT_OCI_INDEX ? add_index(s, o, &doc, list, f) : add_platform(list, platform(s, o, digest, doc.p, doc.len, f), f);
    if (r == 0 && json_array_size(list) == 0)
        r = mt_fetch_fail(f, MT_FETCH_PLATFORM, "none", "image '%s/%s' has no platform linux/amd64 or linux/arm64", ref->host, ref->path);
    if (r == 0) {
        char repository[520], text[128];
        (void)snprintf(repository, sizeof repository, "%s/%s", ref->host, ref->path);
        size_t n = strcspn(type, "; ");
        answer = json_pack("{s:b,s:s,s:o,s:s,s:s,s:s,s:O}", "ok", 1, "repository", repository, "tag",
                           ref->tag[0] ? json_string(ref->tag) : json_null(), "digest", digest, "kind",
                           kind == MT_OCI_INDEX ? "index" : "manifest", "media_type",
                           mt_printable(type, n, text, sizeof text), "platforms", list);
        if (!answer)
            (void)mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for the answer");
    }
    if (r < 0 && f->kind == MT_FETCH_OK)
        (void)mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for the answer");
    json_decref(list);
    mt_fetch_session_free(s);
    return answer;
}
