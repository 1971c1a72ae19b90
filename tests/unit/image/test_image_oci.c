/* SPDX-License-Identifier: Apache-2.0 */
/* OCI documents and their limits. */
#include "base/buf.h"
#include "wire/oci.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define D "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define LAYER(type, size) "{\"mediaType\":\"" type "\",\"digest\":\"" D "\",\"size\":" size "}"
#define GZ "application/vnd.oci.image.layer.v1.tar+gzip"
#define MANIFEST(layers) "{\"schemaVersion\":2,\"config\":{\"digest\":\"" D "\",\"size\":7},\"layers\":[" layers "]}"

static int parse(const char *text, enum mt_oci_fault *fault)
{
    static struct mt_oci_manifest m;
    struct mt_err err;
    *fault = MT_OCI_OK;
    return mt_oci_manifest_parse(text, strlen(text), 1000, &m, fault, &err);
}

static void a_manifest_gives_layers_and_compression(void **state)
{
    static struct mt_oci_manifest m;
    static const char text[] = MANIFEST(LAYER(GZ, "400") "," LAYER("application/vnd.oci.image.layer.v1.tar+zstd", "500") ","
                                        LAYER("application/vnd.oci.image.layer.v1.tar", "1") ","
                                        LAYER("application/vnd.docker.image.rootfs.diff.tar.gzip", "2"));
    enum mt_oci_fault fault;
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_oci_manifest_parse(text, sizeof text - 1, 1000, &m, &fault, &err), 0);
    assert_int_equal(m.layer_count, 4);
    assert_int_equal(m.compressed_bytes, 903);
    assert_int_equal(m.layers[0].compression, MT_OCI_GZIP);
    assert_int_equal(m.layers[1].compression, MT_OCI_ZSTD);
    assert_int_equal(m.layers[2].compression, MT_OCI_PLAIN);
    assert_int_equal(m.layers[3].compression, MT_OCI_GZIP);
    assert_string_equal(m.config.digest, D);
}

static void bad_manifests_name_their_fault(void **state)
{
    static const struct {
        const char *text;
        enum mt_oci_fault fault;
    } bad[] = {
        {"", MT_OCI_BAD_DOCUMENT},
        {"[]", MT_OCI_BAD_DOCUMENT},
        {"{\"layers\":[]}x", MT_OCI_BAD_DOCUMENT},
        {MANIFEST(""), MT_OCI_BAD_DOCUMENT},
        {"{\"schemaVersion\":1,\"config\":{\"digest\":\"" D "\",\"size\":7},\"layers\":[" LAYER(GZ, "1") "]}", MT_OCI_BAD_DOCUMENT},
        {"{\"layers\":[],\"layers\":[]}", MT_OCI_BAD_DOCUMENT},
        {"{\"layers\":[],\"manifests\":[]}", MT_OCI_BAD_DOCUMENT},
        {MANIFEST(LAYER(GZ, "-1")), MT_OCI_BAD_DOCUMENT},
        {MANIFEST(LAYER(GZ, "1.5")), MT_OCI_BAD_DOCUMENT},
        {MANIFEST("{\"mediaType\":\"" GZ "\",\"digest\":\"sha256:../../x\",\"size\":1}"), MT_OCI_BAD_DOCUMENT},
        {MANIFEST(LAYER(GZ, "1001")), MT_OCI_TOO_LARGE},
        {MANIFEST(LAYER(GZ, "600") "," LAYER(GZ, "401")), MT_OCI_TOO_LARGE},
        {MANIFEST(LAYER(GZ, "9223372036854775807") "," LAYER(GZ, "9223372036854775807") "," LAYER(GZ, "9223372036854775807")), MT_OCI_TOO_LARGE},
        {"{\"schemaVersion\":2,\"config\":{\"digest\":\"" D "\",\"size\":8388609},\"layers\":[" LAYER(GZ, "1") "]}", MT_OCI_TOO_LARGE},
        {MANIFEST(LAYER("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "1")), MT_OCI_BAD_MEDIA_TYPE},
        {MANIFEST(LAYER("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "1")), MT_OCI_BAD_MEDIA_TYPE},
        {"{\"mediaType\":\"application/vnd.docker.distribution.manifest.v1+prettyjws\"}", MT_OCI_BAD_MEDIA_TYPE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        enum mt_oci_fault fault;
        int r = parse(bad[i].text, &fault);
        if (r >= 0 || fault != bad[i].fault)
            fail_msg("case %zu: result %d, fault %d", i, r, (int)fault);
    }
}

static void at_most_128_layers(void **state)
{
    struct mt_buf b = MT_BUF_INIT(1 << 20);
    enum mt_oci_fault fault;
    (void)state;
    for (int n = 128; n <= 129; n++) {
        mt_buf_reset(&b);
        mt_buf_puts(&b, "{\"schemaVersion\":2,\"config\":{\"digest\":\"" D "\",\"size\":7},\"layers\":[");
        for (int i = 0; i < n; i++)
            mt_buf_printf(&b, "%s" LAYER(GZ, "1"), i ? "," : "");
        mt_buf_puts(&b, "]}");
        int r = parse(mt_buf_cstr(&b), &fault);
        if (n == 128)
            assert_int_equal(r, 0);
        else
            assert_true(r < 0 && fault == MT_OCI_TOO_LARGE);
    }
    mt_buf_done(&b);
}

static void an_index_is_picked_by_platform(void **state)
{
#define ENTRY(os, arch, variant) "{\"digest\":\"" D "\",\"size\":1,\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch "\",\"variant\":\"" variant "\"}}"
    static const char text[] = "{\"manifests\":[" ENTRY("unknown", "unknown", "") "," ENTRY("windows", "amd64", "") "," ENTRY("linux", "arm64", "v9") ","
                               ENTRY("linux", "arm64", "v8") "," ENTRY("linux", "amd64", "") "]}";
    struct mt_oci_index index;
    enum mt_oci_fault fault;
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_oci_index_parse(text, sizeof text - 1, &index, &fault, &err), 0);
    assert_int_equal(index.count, 4);
    assert_ptr_equal(mt_oci_index_pick(&index, "amd64"), &index.entries[3]);
    assert_ptr_equal(mt_oci_index_pick(&index, "arm64"), &index.entries[2]);
    assert_null(mt_oci_index_pick(&index, "riscv64"));
    mt_oci_index_done(&index);
}

static void a_config_gives_its_subset(void **state)
{
    static const char text[] = "{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Entrypoint\":null,\"Cmd\":[\"a\",\"b\"],\"Env\":[\"K=v\"],"
                               "\"ExposedPorts\":{\"9/udp\":{},\"80/tcp\":{}},\"User\":\"1:2\"},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}";
    struct mt_oci_config c;
    enum mt_oci_fault fault = MT_OCI_OK;
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_oci_config_parse(text, sizeof text - 1, 2, &c, &fault, &err), -MT_E_INVALID);
    assert_int_equal(mt_oci_config_parse(text, sizeof text - 1, 1, &c, &fault, &err), 0);
    assert_null(c.entrypoint[0]);
    assert_string_equal(c.cmd[1], "b");
    assert_string_equal(c.exposed_ports[0], "80/tcp");
    assert_string_equal(c.exposed_ports[1], "9/udp");
    assert_string_equal(c.stop_signal, "");
    assert_int_equal(mt_oci_config_match(&c, "amd64", &fault, &err), 0);
    assert_int_equal(mt_oci_config_match(&c, "arm64", &fault, &err), -MT_E_INVALID);
    assert_int_equal(fault, MT_OCI_BAD_PLATFORM);
    json_t *subset = mt_oci_config_subset(&c);
    assert_string_equal(json_string_value(json_object_get(subset, "User")), "1:2");
    json_decref(subset);
    mt_oci_config_done(&c);
}

static void bad_configs_are_refused(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"x\"]}}",
        "{\"rootfs\":{\"type\":\"other\",\"diff_ids\":[\"" D "\"]}}",
        "{\"config\":[],\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}",
        "{\"config\":{\"Cmd\":\"x\"},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}",
        "{\"config\":{\"Cmd\":[1]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}",
        "{\"config\":{\"User\":7},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}",
        "{\"config\":{\"Env\":[\"a\\u0000b\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D "\"]}}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mt_oci_config c;
        enum mt_oci_fault fault = MT_OCI_OK;
        struct mt_err err;
        if (mt_oci_config_parse(bad[i], strlen(bad[i]), 1, &c, &fault, &err) >= 0 || fault != MT_OCI_BAD_DOCUMENT)
            fail_msg("case %zu was accepted", i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_manifest_gives_layers_and_compression), cmocka_unit_test(bad_manifests_name_their_fault),
        cmocka_unit_test(at_most_128_layers),                      cmocka_unit_test(an_index_is_picked_by_platform),
        cmocka_unit_test(a_config_gives_its_subset),               cmocka_unit_test(bad_configs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
