/* SPDX-License-Identifier: Apache-2.0 */
/* Manifest, index and config: any bytes give a checked struct or an error with a fault named. */
#include "base/assert.h"
#include "wire/oci.h"

#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct mt_oci_manifest m;
    struct mt_oci_index index = {0};
    struct mt_oci_config config = {0};
    struct mt_err err;
    enum mt_oci_kind kind;
    enum mt_oci_fault fault = MT_OCI_OK;
    if (mt_oci_sniff(data, len, NULL, &kind, &fault, &err) < 0)
        MT_ASSERT(fault != MT_OCI_OK);
    if (mt_oci_manifest_parse(data, len, (uint64_t)10 << 30, &m, &fault, &err) == 0) {
        MT_ASSERT(m.layer_count >= 1 && m.layer_count <= MT_OCI_LAYERS_MAX && m.compressed_bytes <= (uint64_t)10 << 30);
        for (size_t i = 0; i < m.layer_count; i++)
            MT_ASSERT(mt_digest_valid(m.layers[i].digest));
    }
    if (mt_oci_index_parse(data, len, &index, &fault, &err) == 0) {
        const struct mt_oci_platform *p = mt_oci_index_pick(&index, "amd64");
        MT_ASSERT(!p || mt_digest_valid(p->digest));
        mt_oci_index_done(&index);
    }
    for (size_t layers = 0; layers < 3; layers++) {
        if (mt_oci_config_parse(data, len, layers, &config, &fault, &err) < 0)
            continue;
        MT_ASSERT(config.diff_id_count == layers && config.entrypoint && config.user);
        json_decref(mt_oci_config_subset(&config));
        mt_oci_config_done(&config);
    }
    return 0;
}
