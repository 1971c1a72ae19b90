/* SPDX-License-Identifier: Apache-2.0 */
#include "model/manifest.h"
#include "model/spec.h"

#include "wire/json.h"

#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ULID "01aryz6s4104hmasw9nf6yy09"
#define DIGEST "sha256:7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"

static const char text[] = "schema_version = 'v1'\n[image]\nref = 'a/b'\n[env]\nuser = '7'\nworkdir = '/env'\nprestart = ['/env/pre']\n"
                           "[env.vars]\nA = 'env'\nB = 'env'\n[processes.web]\nworkdir = '/web'\nprestart = ['/web/pre', 'x']\n"
                           "prestart_timeout_seconds = 5\nvars = {B = 'web', C = 'web'}\nresources = {memory = '64Mi', cpu = 1.5}\n"
                           "ports = [{internal = 80, name = 'http'}]\nhealth = {port = 'http'}\nrestart = {policy = 'never'}\n"
                           "stop = {signal = 'INT', grace_seconds = 33}\n"
                           "mounts = [{volume = 'a', path = '/a'}, {volume = 'b', path = '/b', read_only = true}]\n"
                           "[[volumes]]\nname = 'a'\nsize = '1Gi'\n[[volumes]]\nname = 'b'\nsize = '1Gi'\n";

static const struct mt_spec_volume volumes[] = {{"a", "vol_" ULID "2", NULL}, {"b", "vol_" ULID "1", NULL}};

static struct mt_spec_group group_of(const json_t *manifest)
{
    return (struct mt_spec_group){.org_id = "org_" ULID "0", .org_name = "acme", .app_id = "app_" ULID "0", .app_name = "shop",
        .env_id = "env_" ULID "0", .env_name = "prod", .process_type = "web", .release_id = "rel_" ULID "0", .release_number = 12,
        .manifest = manifest, .manifest_hash = DIGEST, .image_digest = DIGEST, .image_repository = "r.example.net/a/b",
        .volumes = volumes, .n_volumes = 2};
}

static struct mt_manifest *manifest(const char *t)
{
    struct mt_manifest *m = NULL;
    struct mt_err err;

    assert_int_equal(mt_manifest_parse(t, strlen(t), NULL, &m, &err), 0);
    assert_int_equal(m->n_errors, 0);
    return m;
}

static const char *var(const struct mt_workload *w, const char *key)
{
    for (size_t i = 0; i < w->n_env_vars; i++)
        if (MT_STREQ(w->env_vars[i].key, key))
            return w->env_vars[i].value;
    return NULL;
}

static void a_release_becomes_a_workload(void **state)
{
    (void)state;
    struct mt_manifest *m = manifest(text);
    struct mt_spec_group g = group_of(m->canonical);
    struct mt_spec_instance i = {.instance_id = "inst_" ULID "3", .generation = 1, .overlay_ipv6 = "fd00:1:2:1::5", .arch = "amd64",
                                 .resolved_digest = DIGEST};
    struct mt_workload *w = NULL;
    struct mt_err err;
    assert_int_equal(mt_spec_build(&g, &i, &w, &err), 0);
    assert_string_equal(w->user, "7");
    assert_string_equal(w->workdir, "/web");
    assert_string_equal(var(w, "A"), "env");
    assert_string_equal(var(w, "B"), "web");
    assert_string_equal(var(w, "C"), "web");
    assert_string_equal(var(w, "MOAT_ORG"), "acme");
    assert_string_equal(var(w, "MOAT_APP"), "shop");
    assert_string_equal(var(w, "MOAT_ENV"), "prod");
    assert_string_equal(var(w, "MOAT_PROCESS"), "web");
    assert_string_equal(var(w, "MOAT_INSTANCE_ID"), i.instance_id);
    assert_string_equal(var(w, "MOAT_RELEASE_ID"), g.release_id);
    assert_string_equal(var(w, "MOAT_RELEASE_NUMBER"), "12");
    assert_string_equal(var(w, "MOAT_IPV6"), "fd00:1:2:1::5");
    assert_null(var(w, "MOAT_SECRETS_FILE"));
    assert_null(var(w, "PORT"));
    assert_int_equal(w->n_prestart, 2);
    assert_string_equal(w->prestart[0].argv.v[0], "/env/pre");
    assert_int_equal(w->prestart[0].timeout_seconds, 30);
    assert_string_equal(w->prestart[1].argv.v[1], "x");
    assert_int_equal(w->prestart[1].timeout_seconds, 5);
    assert_int_equal(w->resources.vcpu_count, 2);
    assert_int_equal(w->resources.cpu_weight, 150);
    assert_int_equal(w->n_mounts, 2);
    assert_string_equal(w->mounts[0].name, "b"); /* ascending volume id, not path */
    assert_true(w->mounts[0].read_only);
    assert_int_equal(w->lifecycle.restart_policy, MT_RESTART_NEVER);
    assert_string_equal(w->lifecycle.stop_signal, "INT");
    assert_int_equal(w->lifecycle.stop_grace_seconds, 33);
    assert_int_equal(w->health.port, 80);
    assert_false(w->secrets.present);
    assert_null(w->image.index_digest);
    char hash[MT_SPEC_HASH_SIZE];
    assert_int_equal(mt_spec_hash(&g, hash, &err), 0);
    assert_string_equal(w->spec_hash, hash);
    mt_workload_free(w);

    g.secret_version_id = "sv_" ULID "0";
    g.secrets_file = true;
    g.image_is_index = true;
    i.health_proxy_protocol = true;
    assert_int_equal(mt_spec_build(&g, &i, &w, &err), 0);
    assert_string_equal(var(w, "MOAT_SECRETS_FILE"), "/run/secrets/platform.env");
    assert_string_equal(w->secrets.version_id, g.secret_version_id);
    assert_int_equal(w->secrets.mode, 0400);
    assert_string_equal(w->image.index_digest, DIGEST);
    assert_true(w->health.proxy_protocol);
    mt_workload_free(w);
    mt_manifest_free(m);
}

static void the_hash_changes_with_its_inputs_and_with_nothing_else(void **state)
{
    (void)state;
    struct mt_manifest *m = manifest(text);
    struct mt_spec_group g = group_of(m->canonical), h;
    char base[MT_SPEC_HASH_SIZE], other[MT_SPEC_HASH_SIZE];
    struct mt_err err;
    assert_int_equal(mt_spec_hash(&g, base, &err), 0);
    assert_int_equal(mt_spec_hash(&g, other, &err), 0);
    assert_string_equal(base, other);

#define CHANGED(field, value, equal)                        \
    do {                                                    \
        h = g;                                              \
        h.field = value;                                    \
        assert_int_equal(mt_spec_hash(&h, other, &err), 0); \
        assert_int_equal(MT_STREQ(base, other), equal);     \
    } while (0)
    CHANGED(release_id, "rel_" ULID "1", false);
    CHANGED(image_digest, "sha256:8d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a", false);
    CHANGED(secret_version_id, "sv_" ULID "1", false);
    CHANGED(restart_generation, 1, false);
    CHANGED(rebalance_generation, 1, false);
    const struct mt_spec_volume swapped[] = {{"a", "vol_" ULID "9", NULL}, {"b", "vol_" ULID "1", NULL}};
    CHANGED(volumes, swapped, false);
    CHANGED(org_name, "other", true);
    CHANGED(app_name, "other", true);
    CHANGED(env_name, "other", true);
    CHANGED(release_number, 99, true);
    CHANGED(image_repository, "mirror.example.net/a/b", true);
    CHANGED(pull_credential_ref, "reg", true);

    static const struct {
        const char *from, *to;
        bool equal;
    } edits[] = {
        {"A = 'env'", "A = 'new'", false},         {"memory = '64Mi'", "memory = '65Mi'", false},
        {"cpu = 1.5", "cpu = 1.25", false},        {"user = '7'", "user = '8'", false},
        {"internal = 80", "internal = 81", false}, {"grace_seconds = 33", "grace_seconds = 34", false},
        {"[env]", "[processes.web.scaling]\nmin = 0\n[env]", true},
        {"[env]", "[processes.job.resources]\nmemory = '64Mi'\n[env]", true},
        {"[env]", "[[routes]]\nenv = 'prod'\nprocess = 'web'\nport = 80\nhostname = 'a.b'\n[env]", true},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(edits); i++) {
        char changed[2048];
        const char *at = strstr(text, edits[i].from);
        assert_non_null(at);
        (void)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, edits[i].to, at + strlen(edits[i].from));
        struct mt_manifest *c = manifest(changed);
        CHANGED(manifest, c->canonical, edits[i].equal);
        mt_manifest_free(c);
    }
    mt_manifest_free(m);
}

static void what_is_missing_is_an_error_not_a_guess(void **state)
{
    (void)state;
    struct mt_manifest *m = manifest(text);
    struct mt_spec_group g = group_of(m->canonical);
    struct mt_spec_instance i = {.instance_id = "inst_" ULID "3", .generation = 1, .overlay_ipv6 = "fd00::1", .arch = "amd64",
                                 .resolved_digest = DIGEST};
    struct mt_workload *w = NULL;
    char hash[MT_SPEC_HASH_SIZE];
    struct mt_err err;
    g.n_volumes = 1;
    assert_int_equal(mt_spec_hash(&g, hash, &err), -MT_E_INVALID);
    assert_int_equal(mt_spec_build(&g, &i, &w, &err), -MT_E_INVALID);
    g.n_volumes = 2;
    g.process_type = "none";
    assert_int_equal(mt_spec_hash(&g, hash, &err), -MT_E_NOT_FOUND);
    g.process_type = "web";
    i.overlay_ipv6 = "10.0.0.1";
    assert_int_equal(mt_spec_build(&g, &i, &w, &err), -MT_E_INVALID);
    i.overlay_ipv6 = "fd00::1";
    json_t *broken = json_pack("{s:{s:{}}}", "processes", "web");
    g.manifest = broken;
    assert_int_equal(mt_spec_hash(&g, hash, &err), -MT_E_CORRUPT);
    json_decref(broken);
    mt_manifest_free(m);
}

static void a_probe_is_the_process_with_another_command_and_nothing_around_it(void **state)
{
    (void)state;
    char *t = mt_asprintf("%sprobe = ['/check', '/b']\nprobe_timeout_seconds = 7\n", text); /* of volume b, which is mounted to be read only */
    struct mt_manifest *m = manifest(t);
    struct mt_spec_group g = group_of(m->canonical);
    struct mt_spec_instance i = {.instance_id = "inst_" ULID "3", .generation = 1, .arch = "amd64", .resolved_digest = DIGEST};
    struct mt_workload *w = NULL;
    struct mt_err err;
    uint32_t seconds = 0;
    g.secret_version_id = "sv_" ULID "0";
    g.secrets_file = true;
    assert_int_equal(mt_spec_probe(&g, &i, "b", "vol_" ULID "9", &w, &seconds, &err), 0);
    assert_int_equal(seconds, 7);
    assert_int_equal(w->command.n, 2);
    assert_string_equal(w->command.v[0], "/check");
    assert_string_equal(w->user, "7");
    assert_string_equal(w->workdir, "/web");
    assert_string_equal(var(w, "B"), "web");
    assert_string_equal(w->image.resolved_digest, DIGEST);
    assert_int_equal(w->resources.memory_bytes, 64 << 20);
    assert_int_equal(w->n_mounts, 1);
    assert_string_equal(w->mounts[0].volume_id, "vol_" ULID "9");
    assert_string_equal(w->mounts[0].path, "/b");
    assert_false(w->mounts[0].read_only);
    assert_true(w->n_prestart == 0 && w->network.n_ports == 0 && w->health.type == MT_HEALTH_NONE);
    assert_true(!w->secrets.version_id && !w->secrets.required && !var(w, "MOAT_SECRETS_FILE"));
    mt_workload_free(w);
    w = NULL;
    assert_int_equal(mt_spec_probe(&g, &i, "a", "vol_" ULID "9", &w, &seconds, &err), -MT_E_NOT_FOUND); /* it names none */
    assert_int_equal(mt_spec_probe(&g, &i, "c", "vol_" ULID "9", &w, &seconds, &err), -MT_E_NOT_FOUND);
    mt_manifest_free(m);
    free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_release_becomes_a_workload),
        cmocka_unit_test(the_hash_changes_with_its_inputs_and_with_nothing_else),
        cmocka_unit_test(what_is_missing_is_an_error_not_a_guess),
        cmocka_unit_test(a_probe_is_the_process_with_another_command_and_nothing_around_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
