/* SPDX-License-Identifier: Apache-2.0 */
/* The authority for nodes and its rotation: what the files say after each step, and after a step that was cut at each place where it can be. */
#include "base/cleanup.h"
#include "base/str.h"
#include "control/nodes/ca.h"
#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mt-node-ca-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    struct mt_err err;
    (void)state;
    return mt_file_remove_tree(AT_FDCWD, dir, &err);
}

static char *path(const char *name)
{
    return mt_asprintf("%s/%s", dir, name);
}

static char *text(const char *name)
{
    mt_auto_free char *p = path(name);
    char *s = NULL;
    size_t n;
    struct mt_err err;
    return mt_file_read(p, 65536, &s, &n, &err) < 0 ? NULL : s;
}

static bool there(const char *name)
{
    mt_auto_free char *p = path(name);
    return access(p, F_OK) == 0;
}

static void put(const char *name, const char *s)
{
    mt_auto_free char *p = path(name);
    struct mt_err err;
    assert_int_equal(mt_file_write(p, s, strlen(s), 0600, &err), 0);
}

static void rename_to(const char *from, const char *to)
{
    mt_auto_free char *a = path(from);
    mt_auto_free char *b = path(to);
    assert_int_equal(rename(a, b), 0);
}

static struct mt_node_ca *opened(void)
{
    struct mt_node_ca *ca = NULL;
    struct mt_err err;
    int rc = mt_node_ca_open(dir, &ca, &err);
    if (rc < 0)
        fail_msg("%s", err.msg);
    return ca;
}

static void do_step(struct mt_node_ca *ca, enum mt_node_ca_step s, int want)
{
    struct mt_err err = {0};
    int rc = mt_node_ca_do(ca, s, &err);
    if (rc != want)
        fail_msg("step %d: %d (%s), not %d", (int)s, rc, err.msg, want);
}

/* What peers are checked by is what is said to be trusted, and the listener's certificate is of the one that signs. */
static void consistent(struct mt_node_ca *ca, enum mt_node_ca_phase phase)
{
    const struct mt_node_ca_about *a = mt_node_ca_about(ca);
    struct mt_x509_cert list[4], server;
    struct mt_err err;
    mt_auto_free char *trust = text("node-ca-trust.crt");
    mt_auto_free char *chain = text("node-server.crt");
    assert_int_equal(a->phase, phase);
    assert_string_equal(trust, mt_node_ca_trust(ca, NULL));
    assert_int_equal(mt_x509_read_all(trust, list, 4, &err), phase == MT_NODE_CA_STEADY ? 1 : 2);
    assert_string_equal(list[0].spki_sha256, a->pin);
    if (phase != MT_NODE_CA_STEADY)
        assert_string_equal(list[1].spki_sha256, a->other_pin);
    assert_int_equal(mt_x509_read(chain, &server, &err), 0);
    assert_string_equal(server.issuer_key_id, a->key_id);
    assert_int_equal(strlen(a->key_id), 40);
    assert_true(phase == MT_NODE_CA_STEADY || a->since_s > 1500000000);
}

static void a_whole_rotation(void **state)
{
    (void)state;
    struct mt_node_ca *ca = opened(), *other = opened(); /* two servers of one folder */
    char first[65], second[65];
    struct mt_err err;
    consistent(ca, MT_NODE_CA_STEADY);
    snprintf(first, sizeof first, "%s", mt_node_ca_pin(ca));
    assert_string_equal(first, mt_node_ca_pin(other));
    do_step(ca, MT_NODE_CA_SWITCH, -MT_E_CONFLICT);
    do_step(ca, MT_NODE_CA_PREPARE, 0);
    consistent(ca, MT_NODE_CA_PREPARED);
    assert_string_equal(mt_node_ca_pin(ca), first);
    snprintf(second, sizeof second, "%s", mt_node_ca_about(ca)->other_pin);
    do_step(ca, MT_NODE_CA_PREPARE, 0); /* again: the same one */
    assert_string_equal(mt_node_ca_about(ca)->other_pin, second);
    do_step(ca, MT_NODE_CA_RETIRE, -MT_E_CONFLICT);
    unsigned was = mt_node_ca_generation(other);
    assert_int_equal(mt_node_ca_reload(other, &err), 0);
    assert_int_equal(mt_node_ca_generation(other), was + 1);
    consistent(other, MT_NODE_CA_PREPARED);
    assert_int_equal(mt_node_ca_reload(other, &err), 0);
    assert_int_equal(mt_node_ca_generation(other), was + 1);
    do_step(other, MT_NODE_CA_SWITCH, 0);
    do_step(ca, MT_NODE_CA_SWITCH, 0); /* done by the other server already */
    consistent(ca, MT_NODE_CA_SWITCHED);
    assert_string_equal(mt_node_ca_pin(ca), second);
    assert_string_equal(mt_node_ca_about(ca)->other_pin, first);
    assert_false(there("node-ca-next.key"));
    do_step(ca, MT_NODE_CA_PREPARE, -MT_E_CONFLICT);
    do_step(ca, MT_NODE_CA_ABORT, -MT_E_CONFLICT);
    do_step(ca, MT_NODE_CA_RETIRE, 0);
    do_step(ca, MT_NODE_CA_RETIRE, 0);
    consistent(ca, MT_NODE_CA_STEADY);
    assert_string_equal(mt_node_ca_pin(ca), second);
    mt_node_ca_free(ca);
    mt_node_ca_free(other);
    ca = opened();
    consistent(ca, MT_NODE_CA_STEADY);
    assert_string_equal(mt_node_ca_pin(ca), second);
    mt_node_ca_free(ca);
}

static void an_abort_leaves_the_one_before(void **state)
{
    (void)state;
    struct mt_node_ca *ca = opened();
    char first[65];
    snprintf(first, sizeof first, "%s", mt_node_ca_pin(ca));
    do_step(ca, MT_NODE_CA_PREPARE, 0);
    do_step(ca, MT_NODE_CA_ABORT, 0);
    do_step(ca, MT_NODE_CA_ABORT, 0);
    consistent(ca, MT_NODE_CA_STEADY);
    assert_string_equal(mt_node_ca_pin(ca), first);
    mt_node_ca_free(ca);
}

/* Cut by hand, as a kill between two of its system calls does it. */
static void steps_that_were_cut(void **state)
{
    (void)state;
    struct mt_err err;
    struct mt_node_ca *ca = opened();
    char first[65], second[65];
    snprintf(first, sizeof first, "%s", mt_node_ca_pin(ca));
    do_step(ca, MT_NODE_CA_PREPARE, 0);
    snprintf(second, sizeof second, "%s", mt_node_ca_about(ca)->other_pin);
    mt_node_ca_free(ca);

    /* prepare: the certificate is there, its key is not: nothing was prepared */
    rename_to("node-ca-next.key", "aside");
    ca = opened();
    consistent(ca, MT_NODE_CA_STEADY);
    mt_node_ca_free(ca);
    rename_to("aside", "node-ca-next.key");

    /* switch, after its first step: still prepared; given up from there it is steady; begun again it ends */
    mt_auto_free char *signs = text("node-ca.crt");
    put("node-ca-old.crt", signs);
    ca = opened();
    consistent(ca, MT_NODE_CA_PREPARED);
    assert_string_equal(mt_node_ca_pin(ca), first);
    mt_node_ca_free(ca);
    rename_to("node-ca-next.key", "aside");
    ca = opened();
    consistent(ca, MT_NODE_CA_STEADY);
    mt_node_ca_free(ca);
    rename_to("aside", "node-ca-next.key");

    /* after its second: the next open ends it */
    rename_to("node-ca-next.crt", "node-ca.crt");
    ca = opened();
    consistent(ca, MT_NODE_CA_SWITCHED);
    assert_string_equal(mt_node_ca_pin(ca), second);
    assert_string_equal(mt_node_ca_about(ca)->other_pin, first);
    assert_false(there("node-ca-next.key"));
    mt_node_ca_free(ca);

    /* files that do not belong together otherwise are told, not guessed at */
    put("node-ca.crt", signs);
    assert_int_equal(mt_node_ca_open(dir, &ca, &err), -MT_E_CORRUPT);
    assert_non_null(strstr(err.msg, "node-ca.key"));
}

static void the_trust_file_is_made_again(void **state)
{
    (void)state;
    struct mt_node_ca *ca = opened();
    mt_node_ca_free(ca);
    put("node-ca-trust.crt", "cut");
    ca = opened();
    consistent(ca, MT_NODE_CA_STEADY);
    mt_node_ca_free(ca);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_whole_rotation, make_dir, drop_dir), cmocka_unit_test_setup_teardown(an_abort_leaves_the_one_before, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(steps_that_were_cut, make_dir, drop_dir), cmocka_unit_test_setup_teardown(the_trust_file_is_made_again, make_dir, drop_dir)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
