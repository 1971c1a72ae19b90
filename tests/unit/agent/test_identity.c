/* SPDX-License-Identifier: Apache-2.0 */
/* Whom a node trusts: what a heartbeat's answer may change of it, and what it may not. */
#include "agent/identity/identity.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/x509.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define NODE "node_01aryz6s4104hmasw9nf6yy091"

static char dir[64];
static struct {
    char *key, *cert;
    struct mt_x509_cert about;
} ca[3];

static void put(const char *name, const char *text)
{
    struct mt_err err;
    mt_auto_free char *path = mt_asprintf("%s/keys/%s", dir, name);
    assert_int_equal(mt_file_write(path, text, strlen(text), 0600, &err), 0);
}

static char *got(const char *name)
{
    struct mt_err err;
    char *text = NULL;
    size_t n;
    mt_auto_free char *path = mt_asprintf("%s/keys/%s", dir, name);
    assert_int_equal(mt_file_read(path, 65536, &text, &n, &err), 0);
    return text;
}

/* A node that ca[0] signed and that trusts it, with an edge. */
static int begin(void **state)
{
    struct mt_err err;
    mt_auto_free char *key = NULL;
    mt_auto_free char *csr = NULL;
    mt_auto_free char *pem = NULL;
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mt-identity-XXXXXX");
    assert_non_null(mkdtemp(dir));
    mt_auto_free char *edge = mt_asprintf("%s/keys/edge", dir);
    assert_int_equal(mt_file_mkdirs(edge, 0755, &err), 0);
    int64_t now = time(NULL);
    for (int i = 0; i < 3; i++) {
        char cn[24];
        snprintf(cn, sizeof cn, "authority %d", i);
        assert_int_equal(mt_x509_ca_new(cn, now - 60, now + 86400, &ca[i].key, &ca[i].cert, &err), 0);
        assert_int_equal(mt_x509_read(ca[i].cert, &ca[i].about, &err), 0);
    }
    const struct mt_x509_spec spec = {.cn = NODE, .not_before_s = now - 60, .not_after_s = now + 3600, .client = true, .server = true};
    assert_int_equal(mt_x509_key_new(&key, &err), 0);
    assert_int_equal(mt_x509_csr_new(key, NODE, &csr, &err), 0);
    assert_int_equal(mt_x509_sign(ca[0].key, ca[0].cert, csr, &spec, &pem, NULL, &err), 0);
    mt_auto_free char *both = mt_asprintf("%s%s", pem, key);
    put("node.pem", both);
    put("ca.crt", ca[0].cert);
    put("edge/ca.crt", ca[0].cert);
    put("identity.json", "{\"node_id\":\"" NODE "\",\"cluster_id\":\"cl_x\",\"control\":\"192.0.2.1:7443\",\"edge\":true}");
    return 0;
}

static int end(void **state)
{
    struct mt_err err;
    (void)state;
    for (int i = 0; i < 3; i++) {
        free(ca[i].key);
        free(ca[i].cert);
    }
    return mt_file_remove_tree(AT_FDCWD, dir, &err);
}

static struct mt_identity *loaded(void)
{
    struct mt_identity *id = NULL;
    struct mt_err err;
    if (mt_identity_load(dir, NULL, &id, &err) < 0)
        fail_msg("%s", err.msg);
    return id;
}

static void trusts(struct mt_identity *id, const char *text)
{
    char is[65], want[65];
    mt_auto_free char *own = got("ca.crt");
    mt_auto_free char *edge = got("edge/ca.crt");
    mt_identity_trust(id, is);
    mt_sha256_hex(text, strlen(text), want);
    assert_string_equal(is, want);
    assert_string_equal(own, text);
    assert_string_equal(edge, text);
}

static void an_authority_is_replaced(void **state)
{
    (void)state;
    struct mt_identity *id = loaded();
    struct mt_err err = {0};
    bool due = true;
    mt_auto_free char *both = mt_asprintf("%s%s", ca[0].cert, ca[1].cert);
    mt_auto_free char *turned = mt_asprintf("%s%s", ca[1].cert, ca[0].cert);
    assert_int_equal(mt_identity_authority(id, NULL, ca[0].about.key_id, &due, &err), 0);
    assert_false(due);
    assert_int_equal(mt_identity_authority(id, both, ca[0].about.key_id, &due, &err), 0);
    assert_false(due);
    trusts(id, both);
    assert_int_equal(mt_identity_authority(id, turned, ca[1].about.key_id, &due, &err), 0);
    assert_true(due); /* another one signs now */
    assert_int_equal(mt_identity_authority(id, NULL, ca[1].about.key_id, &due, &err), 0);
    assert_false(due); /* said once; the thread that renews goes on by itself */
    trusts(id, turned);
    assert_int_equal(mt_identity_authority(id, ca[1].cert, NULL, &due, &err), 0);
    trusts(id, ca[1].cert);
    mt_identity_free(id);
    id = loaded(); /* and after a start */
    trusts(id, ca[1].cert);
    mt_identity_free(id);
}

static void what_would_cut_the_node_off_is_refused(void **state)
{
    (void)state;
    struct mt_identity *id = loaded();
    struct mt_err err = {0};
    bool due = false;
    mt_auto_free char *foreign = mt_asprintf("%s%s", ca[1].cert, ca[2].cert);
    mt_auto_free char *five = mt_asprintf("%s%s%s%s%s", ca[0].cert, ca[1].cert, ca[2].cert, ca[1].cert, ca[2].cert);
    mt_auto_free char *keyed = mt_asprintf("%s%s", ca[1].key, ca[1].cert);
    mt_auto_free char *large = calloc(1, MT_X509_PEM_MAX + 2);
    memset(large, 'A', MT_X509_PEM_MAX + 1);
    assert_int_equal(mt_identity_authority(id, ca[1].cert, ca[1].about.key_id, &due, &err), -MT_E_DENIED);
    assert_int_equal(mt_identity_authority(id, foreign, NULL, &due, &err), -MT_E_DENIED);
    assert_int_equal(mt_identity_authority(id, keyed, NULL, &due, &err), -MT_E_DENIED);
    assert_int_equal(mt_identity_authority(id, five, NULL, &due, &err), -MT_E_LIMIT);
    assert_int_equal(mt_identity_authority(id, large, NULL, &due, &err), -MT_E_INVALID);
    assert_int_equal(mt_identity_authority(id, "", NULL, &due, &err), -MT_E_INVALID);
    assert_int_equal(mt_identity_authority(id, "nonsense", NULL, &due, &err), -MT_E_INVALID);
    assert_false(due);
    trusts(id, ca[0].cert);
    /* a key id that is none is not one */
    assert_int_equal(mt_identity_authority(id, NULL, "../../etc", &due, &err), 0);
    assert_int_equal(mt_identity_authority(id, NULL, "", &due, &err), 0);
    assert_int_equal(mt_identity_authority(id, NULL, "0123456789012345678901234567890123456789012345", &due, &err), 0);
    assert_false(due);
    mt_identity_free(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(an_authority_is_replaced, begin, end),
                                       cmocka_unit_test_setup_teardown(what_would_cut_the_node_off_is_refused, begin, end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
