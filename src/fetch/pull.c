/* SPDX-License-Identifier: Apache-2.0 */
/* All blobs of one manifest into the store. The first fault stops the other threads. */
#include "fetch/fetch.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "fetch/blob.h"
#include "wire/json.h"
#include "wire/oci.h"

#include <pthread.h>

#define PARALLEL 4

struct pull {
    struct mt_fetch_session *session;
    const struct mt_fetch_options *options;
    const struct mt_oci_manifest *manifest;
    atomic_size_t next;
    atomic_bool stop;
    atomic_uint_fast64_t downloaded;
    atomic_uint reused;
    pthread_mutex_t lock;
    struct mt_fetch_fault fault; /* the first one that is not "stopped" */
};

static void *pull_layers(void *arg)
{
    struct pull *p = arg;
    for (;;) {
        size_t i = atomic_fetch_add(&p->next, 1);
        if (i >= p->manifest->layer_count || atomic_load(&p->stop))
            return NULL;
        const struct mt_oci_blob *layer = &p->manifest->layers[i];
        struct mt_fetch_fault f = {0};
        if (mt_blob_present(layer->digest, layer->size)) {
            (void)atomic_fetch_add(&p->reused, 1U);
            continue;
        }
        int64_t deadline = mt_clock_mono() + (int64_t)p->options->layer_timeout_s * MT_NS_PER_S;
        if (mt_blob_download(p->session, layer->digest, layer->size, deadline, &p->stop, &p->downloaded, &f) < 0) {
            (void)pthread_mutex_lock(&p->lock);
            if (p->fault.kind == MT_FETCH_OK && f.kind != MT_FETCH_STOPPED)
                p->fault = f;
            (void)pthread_mutex_unlock(&p->lock);
            atomic_store(&p->stop, true);
            return NULL;
        }
    }
}

static int pull_all(struct pull *p, struct mt_fetch_fault *f)
{
    pthread_t threads[PARALLEL];
    size_t n = 0, want = p->manifest->layer_count < PARALLEL ? p->manifest->layer_count : PARALLEL;
    (void)pthread_mutex_init(&p->lock, NULL);
    while (n + 1 < want && pthread_create(&threads[n], NULL, pull_layers, p) == 0)
        n++;
    (void)pull_layers(p); /* this thread is the last of them */
    for (size_t i = 0; i < n; i++)
        (void)pthread_join(threads[i], NULL);
    (void)pthread_mutex_destroy(&p->lock);
    if (p->fault.kind != MT_FETCH_OK) {
        *f = p->fault;
        return -1;
    }
    return 0;
}

/* The manifest from the store or the registry, put into the store. */
static int get_manifest(struct mt_fetch_session *s, const struct mt_fetch_options *o, struct mt_oci_manifest *ret,
                        struct mt_fetch_fault *f)
{
    mt_auto_buf struct mt_buf doc = {0};
    char digest[MT_DIGEST_LEN + 1], type[128];
    enum mt_oci_kind kind;
    enum mt_oci_fault what = MT_OCI_OK;
    struct mt_err err = {0};
    if (mt_blob_document(s, "manifests", o->digest, MT_FETCH_ACCEPT, MT_OCI_MANIFEST_MAX, 0, &doc, digest, type, f) < 0)
        return -1;
    if (mt_oci_sniff(doc.p, doc.len, type, &kind, &what, &err) < 0)
        return mt_fetch_oci_fail(f, what, &err);
    if (kind == MT_OCI_INDEX)
        return mt_fetch_fail(f, MT_FETCH_UNRESOLVED, "index", "digest '%s' is an index; the manifest for %s was to be named", o->digest,
                             o->arch);
    if (mt_oci_manifest_parse(doc.p, doc.len, o->max_compressed_bytes, ret, &what, &err) < 0)
        return mt_fetch_oci_fail(f, what, &err);
    return mt_blob_put(o->digest, doc.p, doc.len, f);
}

static int get_config(struct mt_fetch_session *s, const struct mt_fetch_options *o, const struct mt_oci_manifest *m,
                      struct mt_fetch_fault *f)
{
    mt_auto_buf struct mt_buf doc = {0};
    mt_cleanup(mt_oci_config_done) struct mt_oci_config c = {0};
    char digest[MT_DIGEST_LEN + 1];
    enum mt_oci_fault what = MT_OCI_OK;
    struct mt_err err = {0};
    if (mt_blob_document(s, "blobs", m->config.digest, NULL, MT_OCI_CONFIG_MAX, 0, &doc, digest, NULL, f) < 0)
        return -1;
    if (mt_oci_config_parse(doc.p, doc.len, m->layer_count, &c, &what, &err) < 0 ||
        mt_oci_config_match(&c, o->arch, &what, &err) < 0)
        return what == MT_OCI_BAD_DOCUMENT ? mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "config", "%s", err.msg)
                                           : mt_fetch_oci_fail(f, what, &err);
    return mt_blob_put(m->config.digest, doc.p, doc.len, f);
}

json_t *mt_fetch_pull(const struct mt_fetch_options *o, const struct mt_imageref *ref, struct mt_fetch_fault *f)
{
    static struct mt_oci_manifest m;
    static struct pull p;
    json_t *answer = NULL;
    struct mt_fetch_session *s = mt_fetch_session_new(o, ref, f);
    p.session = s;
    p.options = o;
    p.manifest = &m;
    if (s && get_manifest(s, o, &m, f) == 0 && get_config(s, o, &m, f) == 0 && pull_all(&p, f) == 0) {
        answer = json_pack("{s:b,s:s,s:s,s:I,s:I,s:I}", "ok", 1, "manifest_digest", o->digest, "config_digest", m.config.digest,
                           "layers", (json_int_t)m.layer_count, "bytes_downloaded", (json_int_t)atomic_load(&p.downloaded),
                           "blobs_reused", (json_int_t)atomic_load(&p.reused));
        if (!answer)
            (void)mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for the answer");
    }
    mt_fetch_session_free(s);
    return answer;
}
