/* SPDX-License-Identifier: Apache-2.0 */
/* The two jobs of moat-fetch; contract in docs/formats/fetch.md. Both return the answer to print, or NULL with @f set. */
#pragma once

#include "fetch/http.h"

#include <jansson.h>

#define MT_FETCH_ACCEPT \
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " \
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

/** Reference to digest and platforms. */
json_t *mt_fetch_resolve(const struct mt_fetch_options *o, const struct mt_imageref *ref, struct mt_fetch_fault *f);

/** Manifest, config and layers into the store (current folder = images_dir), up to four layers at a time. */
json_t *mt_fetch_pull(const struct mt_fetch_options *o, const struct mt_imageref *ref, struct mt_fetch_fault *f);

/** An OCI fault as a fetch fault. */
int mt_fetch_oci_fail(struct mt_fetch_fault *f, int oci_fault, const struct mt_err *err);
