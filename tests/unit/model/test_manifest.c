/* SPDX-License-Identifier: Apache-2.0 */
#include "model/manifest.h"
#include "model/manifest_diff.h"

#include "wire/json.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* A good manifest in pieces; a case replaces or adds lines. */
#define HEAD "schema_version = \"v1\"\n[image]\nref = \"r.example.net/a/b:1\"\n"  /* lines 1-3 */
#define WEB "[processes.web.resources]\nmemory = \"64Mi\"\n"                      /* lines 4-5 */
#define PORT "[[processes.web.ports]]\ninternal = 8443\nname = \"tls\"\n"         /* lines 6-8 */
#define GOOD HEAD WEB PORT
#define VOLUME "[[volumes]]\nname = \"data\"\nsize = \"1Gi\"\n"                   /* lines 6-8 after WEB */
#define MOUNT "[[processes.web.mounts]]\nvolume = \"data\"\npath = \"/data\"\n"   /* lines 9-11 after VOLUME */
#define RAW "[[routes]]\nenv = \"prod\"\nprocess = \"web\"\nport = \"tls\"\n"     /* lines 9-12 after GOOD */

static const struct {
    const char *text;
    enum mt_manifest_code code;
    uint32_t line, column;
    const char *path;
    const char *hint; /* part of it; NULL: not looked at */
} bad[] = {
    {GOOD "x = \n", MT_E_TOML_SYNTAX, 9, 5, "", NULL},
    {GOOD "name = 'again'\n", MT_E_TOML_SYNTAX, 9, 1, "", NULL},
    {"", MT_E_SCHEMA_VERSION, 1, 1, "schema_version", "schema_version = \"v1\""},
    {"schema_version = 1\n[image]\nref = 'a/b'\n" WEB, MT_E_SCHEMA_VERSION, 1, 18, "schema_version", "\"v1\""},
    {"schema_version = 'v2'\n[image]\nref = 'a/b'\n" WEB, MT_E_SCHEMA_VERSION, 1, 18, "schema_version", "\"v1\""},
    {"version = 1\n" GOOD, MT_E_SCHEMA_VERSION, 1, 1, "version", "schema_version"},
    {"procesess = 1\n" GOOD, MT_E_UNKNOWN_FIELD, 1, 1, "procesess", "did you mean 'processes'"},
    {GOOD "[processes.web.helth]\nport = 8443\n", MT_E_UNKNOWN_FIELD, 9, 16, "processes.web.helth", "did you mean 'health'"},
    {HEAD "[processes.web.resources]\nmemroy = \"64Mi\"\nmemory = \"64Mi\"\n", MT_E_UNKNOWN_FIELD, 5, 1,
     "processes.web.resources.memroy", "did you mean 'memory'"},
    {GOOD "[build]\ndockerfile = 'x'\n", MT_E_BUILD_UNSUPPORTED, 9, 2, "build", "ref ="},
    {GOOD "[run]\ncommand = ['x']\n", MT_E_UNKNOWN_FIELD, 9, 2, "run", "[processes.web]"},
    {GOOD "[resources]\nmemory = '1Gi'\n", MT_E_UNKNOWN_FIELD, 9, 2, "resources", "[processes.web.resources]"},
    {GOOD "[[ports]]\nport = 1\n", MT_E_UNKNOWN_FIELD, 9, 3, "ports", "[[processes.web.ports]]"},
    {"schema_version = \"v1\"\n[image]\nref = \"a/b\"\npull_policy = 'always'\n" WEB, MT_E_UNKNOWN_FIELD, 4, 1, "image.pull_policy",
     "no pull policy"},
    {"schema_version = \"v1\"\n" WEB, MT_E_REQUIRED, 1, 1, "image.ref", "--image"},
    {"schema_version = \"v1\"\n[image]\n" WEB, MT_E_REQUIRED, 2, 1, "image.ref", NULL},
    {"schema_version = \"v1\"\n[image]\nref = \"UPPER/x\"\n" WEB, MT_E_PATTERN, 3, 7, "image.ref", NULL},
    {"schema_version = \"v1\"\n[image]\nref = \"a/b@sha256:12\"\n" WEB, MT_E_DIGEST, 3, 7, "image.ref", NULL},
    {"schema_version = \"v1\"\n[image]\nref = \"a/b@md5:12\"\n" WEB, MT_E_DIGEST, 3, 7, "image.ref", NULL},
    {"schema_version = \"v1\"\n[image]\nref = 7\n" WEB, MT_E_TYPE, 3, 7, "image.ref", NULL},
    {HEAD, MT_E_NO_PROCESSES, 1, 1, "processes", "[processes.web]"},
    {HEAD "[processes]\n", MT_E_NO_PROCESSES, 4, 1, "processes", NULL},
    {HEAD "[processes]\nweb = 1\n", MT_E_TYPE, 5, 7, "processes.web", NULL},
    {HEAD "[processes.Web.resources]\nmemory = \"64Mi\"\n", MT_E_PATTERN, 4, 12, "processes.Web", NULL},
    {HEAD "[processes.web]\ncommand = ['x']\n", MT_E_REQUIRED, 4, 1, "processes.web.resources.memory", "256Mi"},
    {HEAD "[processes.web.resources]\ncpu = 1\n", MT_E_REQUIRED, 4, 1, "processes.web.resources.memory", NULL},
    {HEAD "[processes.web.resources]\nmemory = \"512mb\"\n", MT_E_PATTERN, 5, 10, "processes.web.resources.memory",
     "write \"512Mi\""},
    {HEAD "[processes.web.resources]\nmemory = \"4gb\"\n", MT_E_PATTERN, 5, 10, "processes.web.resources.memory", "write \"4Gi\""},
    {HEAD "[processes.web.resources]\nmemory = 512\n", MT_E_TYPE, 5, 10, "processes.web.resources.memory", NULL},
    {HEAD "[processes.web.resources]\nmemory = \"63Mi\"\n", MT_E_RANGE, 5, 10, "processes.web.resources.memory", NULL},
    {HEAD "[processes.web.resources]\nmemory = \"65Gi\"\n", MT_E_RANGE, 5, 10, "processes.web.resources.memory", NULL},
    {HEAD "[processes.web.resources]\nmemory = \"99999999999999999999Gi\"\n", MT_E_RANGE, 5, 10, "processes.web.resources.memory",
     NULL},
    {HEAD "[processes.web.resources]\nmemory = \"064Mi\"\n", MT_E_PATTERN, 5, 10, "processes.web.resources.memory", NULL},
    {HEAD WEB "cpu = 0.0499\n", MT_E_RANGE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "cpu = 0.1234\n", MT_E_RANGE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "cpu = 33\n", MT_E_RANGE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "cpu = -1\n", MT_E_RANGE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "cpu = inf\n", MT_E_RANGE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "cpu = 1e0\n", MT_E_RANGE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "cpu = '1'\n", MT_E_TYPE, 6, 7, "processes.web.resources.cpu", NULL},
    {HEAD WEB "disk = \"512Mi\"\n", MT_E_PATTERN, 6, 8, "processes.web.resources.disk", "Gi"},
    {HEAD WEB "disk = \"101Gi\"\n", MT_E_RANGE, 6, 8, "processes.web.resources.disk", NULL},
    {GOOD "[processes.web.vars]\nlower = 'x'\n", MT_E_PATTERN, 10, 1, "processes.web.vars.lower", NULL},
    {GOOD "[processes.web.vars]\nMOAT_X = 'x'\n", MT_E_RESERVED_VAR, 10, 1, "processes.web.vars.MOAT_X", NULL},
    {GOOD "[env.vars]\nN = 5\n", MT_E_TYPE, 10, 5, "env.vars.N", "double quotes"},
    {GOOD "[env.vars]\nN = \"a\\u0000b\"\n", MT_E_PATTERN, 10, 5, "env.vars.N", NULL},
    {GOOD "[env.vars]\nWHEN = 2026-01-01\n", MT_E_TYPE, 10, 8, "env.vars.WHEN", NULL},
    {GOOD "[env]\nworkdir = 'srv'\n", MT_E_PATTERN, 10, 11, "env.workdir", NULL},
    {GOOD "[env]\nuser = 'a b'\n", MT_E_PATTERN, 10, 8, "env.user", NULL},
    {GOOD "[env]\nuser = '1:2:3'\n", MT_E_PATTERN, 10, 8, "env.user", NULL},
    {GOOD "[env]\nuser = 1000\n", MT_E_TYPE, 10, 8, "env.user", NULL},
    {GOOD "[env]\nprestart = []\n", MT_E_RANGE, 10, 12, "env.prestart", NULL},
    {GOOD "[env]\nprestart = ['x', 1]\n", MT_E_TYPE, 10, 18, "env.prestart[1]", NULL},
    {GOOD "[env]\nprestart_timeout_seconds = 601\n", MT_E_RANGE, 10, 28, "env.prestart_timeout_seconds", NULL},
    {GOOD "[processes.web.scaling]\nmin = 3\nmax = 2\n", MT_E_SCALE_RANGE, 11, 7, "processes.web.scaling.max", NULL},
    {GOOD "[processes.web.scaling]\nmin = 101\n", MT_E_RANGE, 10, 7, "processes.web.scaling.min", NULL},
    {GOOD "[processes.web.scaling]\ntarget_cpu = 50\n", MT_E_AUTOSCALE_UNSUPPORTED, 10, 1, "processes.web.scaling.target_cpu",
     "moat scale"},
    {GOOD "[processes.web.autoscale]\nmin = 1\n", MT_E_AUTOSCALE_UNSUPPORTED, 9, 16, "processes.web.autoscale", NULL},
    {GOOD "[processes.web.restart]\npolicy = 'sometimes'\n", MT_E_ENUM, 10, 10, "processes.web.restart.policy", NULL},
    {GOOD "[processes.web.restart]\nmax_retries = 3\n", MT_E_RESTART_FIELDS, 10, 1, "processes.web.restart.max_retries", NULL},
    {GOOD "[processes.web.stop]\nsignal = 'SIGTERM'\n", MT_E_ENUM, 10, 10, "processes.web.stop.signal", "TERM"},
    {GOOD "[processes.web.stop]\ngrace_seconds = 0\n", MT_E_RANGE, 10, 17, "processes.web.stop.grace_seconds", NULL},
    {GOOD "[processes.web.secrets]\npath = '/x'\n", MT_E_SECRETS_PATH, 10, 1, "processes.web.secrets.path", "/run/secrets"},
    {GOOD "[processes.web.secrets]\nrequired = 'yes'\n", MT_E_TYPE, 10, 12, "processes.web.secrets.required", NULL},
    {HEAD WEB "[processes.web]\nprivileged = true\n", MT_E_HOST_ACCESS, 7, 1, "processes.web.privileged", NULL},
    {GOOD "protocol = 'udp'\n", MT_E_PROTOCOL_UNSUPPORTED, 9, 12, "processes.web.ports[0].protocol", NULL},
    {GOOD "[[processes.web.ports]]\ninternal = 8443\n", MT_E_DUPLICATE, 10, 12, "processes.web.ports[1].internal", NULL},
    {GOOD "[[processes.web.ports]]\ninternal = 1\nname = 'tls'\n", MT_E_DUPLICATE, 11, 8, "processes.web.ports[1].name", NULL},
    {HEAD WEB "[[processes.web.ports]]\ninternal = 1\nport = 1\n", MT_E_UNKNOWN_FIELD, 8, 1, "processes.web.ports[0].port", "internal"},
    {HEAD WEB "[[processes.web.ports]]\ninternal = 65536\n", MT_E_RANGE, 7, 12, "processes.web.ports[0].internal", NULL},
    {HEAD WEB "[[processes.web.ports]]\nname = 'x'\n", MT_E_REQUIRED, 6, 1, "processes.web.ports[0].internal", NULL},
    {GOOD "[processes.web.health]\nport = 'http'\n", MT_E_PORT_UNRESOLVED, 10, 8, "processes.web.health.port", NULL},
    {GOOD "[processes.web.health]\nport = 80\n", MT_E_PORT_UNRESOLVED, 10, 8, "processes.web.health.port", NULL},
    {GOOD "[processes.web.health]\ntype = 'tcp'\n", MT_E_REQUIRED, 9, 1, "processes.web.health.port", NULL},
    {GOOD "[processes.web.health]\nport = 8443\ntype = 'http'\n", MT_E_HEALTH_PATH, 9, 1, "processes.web.health.path", NULL},
    {GOOD "[processes.web.health]\nport = 8443\npath = '/x'\n", MT_E_HEALTH_PATH, 11, 8, "processes.web.health.path", NULL},
    {GOOD "[processes.web.health]\nport = 8443\ntype = 'http'\npath = 'x'\n", MT_E_PATTERN, 12, 8, "processes.web.health.path", NULL},
    {GOOD "[processes.web.health]\nport = 8443\ninterval_seconds = 3\ntimeout_seconds = 4\n", MT_E_RANGE, 12, 19,
     "processes.web.health.timeout_seconds", NULL},
    {GOOD "[processes.web.health]\nport = 8443\ninterval = 3\n", MT_E_UNKNOWN_FIELD, 11, 1, "processes.web.health.interval",
     "interval_seconds"},
    {HEAD WEB MOUNT, MT_E_MOUNT_VOLUME, 7, 10, "processes.web.mounts[0].volume", "[[volumes]]"},
    {HEAD WEB VOLUME "[[processes.web.mounts]]\nvolume = 'data'\npath = 'x'\n", MT_E_MOUNT_PATH, 11, 8,
     "processes.web.mounts[0].path", NULL},
    {HEAD WEB VOLUME "[[processes.web.mounts]]\nvolume = 'data'\npath = '/etc/x'\n", MT_E_MOUNT_PATH, 11, 8,
     "processes.web.mounts[0].path", NULL},
    {HEAD WEB VOLUME "[[processes.web.mounts]]\nvolume = 'data'\npath = '/a/../b'\n", MT_E_MOUNT_PATH, 11, 8,
     "processes.web.mounts[0].path", NULL},
    {HEAD WEB VOLUME "[[volumes]]\nname = \"d2\"\nsize = \"1Gi\"\n" MOUNT
                     "[[processes.web.mounts]]\nvolume = 'd2'\npath = '/data/x'\n",
     MT_E_MOUNT_PATH, 17, 8, "processes.web.mounts[1].path", NULL},
    {HEAD WEB VOLUME MOUNT "[[processes.web.mounts]]\nvolume = 'data'\npath = '/other'\n", MT_E_DUPLICATE, 13, 10,
     "processes.web.mounts[1].volume", NULL},
    {HEAD WEB VOLUME MOUNT "[processes.job.resources]\nmemory = '64Mi'\n[[processes.job.mounts]]\nvolume = 'data'\npath = '/d'\n",
     MT_E_VOLUME_SHARED, 15, 10, "processes.job.mounts[0].volume", NULL},
    {HEAD WEB VOLUME MOUNT "[processes.web.scaling]\nmax = 2\n", MT_E_VOLUME_REPLICA_LIMIT, 13, 7, "processes.web.scaling.max", NULL},
    {HEAD WEB VOLUME MOUNT "[processes.web.scaling]\nmin = 2\n", MT_E_VOLUME_REPLICA_LIMIT, 13, 7, "processes.web.scaling.min", NULL},
    {HEAD WEB VOLUME MOUNT "host = '/srv'\n", MT_E_HOST_ACCESS, 12, 1, "processes.web.mounts[0].host", NULL},
    {HEAD WEB VOLUME "filesystem = 'xfs'\n" MOUNT, MT_E_FILESYSTEM_UNSUPPORTED, 9, 14, "volumes[0].filesystem", NULL},
    {HEAD WEB VOLUME MOUNT VOLUME, MT_E_DUPLICATE, 13, 8, "volumes[1].name", NULL},
    {HEAD WEB "[[volumes]]\nname = \"data\"\nsize = \"2049Gi\"\n" MOUNT, MT_E_RANGE, 8, 8, "volumes[0].size", NULL},
    {HEAD WEB "[[volumes]]\nname = \"Data\"\nsize = \"1Gi\"\n", MT_E_PATTERN, 7, 8, "volumes[0].name", NULL},
    {GOOD RAW, MT_E_REQUIRED, 9, 1, "routes[0].hostname", NULL},
    {GOOD RAW "protocol = 'tcp_raw'\n", MT_E_REQUIRED, 9, 1, "routes[0].listen_port", NULL},
    {GOOD RAW "hostname = '*.example.net'\n", MT_E_PATTERN, 13, 12, "routes[0].hostname", NULL},
    {GOOD RAW "hostname = '10.0.0.1'\n", MT_E_PATTERN, 13, 12, "routes[0].hostname", NULL},
    {GOOD RAW "hostname = 'a.example.net'\nproxy_protocol = 'v2'\n", MT_E_PROXY_ACK, 14, 18, "routes[0].proxy_protocol",
     "backend_expects_proxy_protocol = true"},
    {GOOD RAW "hostname = 'a.example.net'\nprotocol = 'udp'\n", MT_E_ENUM, 14, 12, "routes[0].protocol", NULL},
    {GOOD RAW "hostname = 'a.example.net'\nhost = 'x'\n", MT_E_UNKNOWN_FIELD, 14, 1, "routes[0].host", "hostname"},
    {GOOD "[[routes]]\nenv = 'prod'\nprocess = 'web'\nport = 'nope'\nhostname = 'a.example.net'\n", MT_E_PORT_UNRESOLVED, 12, 8,
     "routes[0].port", NULL},
    {GOOD "[[routes]]\nenv = 'prod'\nprocess = 'job'\nport = 'tls'\nhostname = 'a.example.net'\n", MT_E_PORT_UNRESOLVED, 11, 11,
     "routes[0].process", NULL},
    {GOOD RAW "hostname = 'a.example.net'\n" RAW "hostname = 'a.example.net'\n", MT_E_DUPLICATE, 14, 1, "routes[1]", NULL},
    {GOOD RAW "hostname = 'a.example.net'\nlisten_port = 0\n", MT_E_RANGE, 14, 15, "routes[0].listen_port", NULL},
    {"schema_version = \"v1\"\napp = 5\n[image]\nref = 'a/b'\n" WEB, MT_E_TYPE, 2, 7, "app", NULL},
    {"schema_version = \"v1\"\n[app]\nname = 'No'\n[image]\nref = 'a/b'\n" WEB, MT_E_PATTERN, 3, 8, "app.name", NULL},
};

static void each_bad_manifest_names_code_place_and_mend(void **state)
{
    (void)state;
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        mt_auto_manifest struct mt_manifest *m = NULL;
        struct mt_err err;
        assert_int_equal(mt_manifest_parse(bad[i].text, strlen(bad[i].text), NULL, &m, &err), 0);
        bool found = false;
        for (size_t k = 0; k < m->n_problems; k++) {
            const struct mt_manifest_problem *p = &m->problems[k];
            found = found || (p->code == bad[i].code && p->line == bad[i].line && p->column == bad[i].column &&
                              MT_STREQ(p->path, bad[i].path) && p->message[0] &&
                              (!bad[i].hint || strstr(p->hint, bad[i].hint)));
        }
        if (!found)
            for (size_t k = 0; k < m->n_problems; k++)
                print_error("case %zu wants %s %u:%u %s, has %s %u:%u %s: %s [%s]\n", i, mt_manifest_code_name(bad[i].code),
                            bad[i].line, bad[i].column, bad[i].path, mt_manifest_code_name(m->problems[k].code),
                            m->problems[k].line, m->problems[k].column, m->problems[k].path, m->problems[k].message,
                            m->problems[k].hint);
        bool refused = m->n_errors > 0 && !m->canonical && !m->canonical_text && !m->hash[0];
        /* one fault, one error: none of these cases drags a second one along, save the empty file */
        bool single = m->n_errors == 1 || bad[i].text[0] == '\0';
        if (!single)
            for (size_t k = 0; k < m->n_problems; k++)
                print_error("case %zu also: %s %u:%u %s: %s\n", i, mt_manifest_code_name(m->problems[k].code),
                            m->problems[k].line, m->problems[k].column, m->problems[k].path, m->problems[k].message);
        assert_true(found);
        assert_true(refused);
        assert_true(single);
    }
}

static void every_error_code_is_reached_by_a_case(void **state)
{
    (void)state;
    for (unsigned code = 0; code < MT_MANIFEST_CODE_MAX; code++) {
        bool reached = mt_manifest_code_is_warning((enum mt_manifest_code)code) || code == MT_E_TOO_LARGE; /* own tests below */
        for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
            reached = reached || bad[i].code == (enum mt_manifest_code)code;
        if (!reached)
            print_error("no case for %s\n", mt_manifest_code_name((enum mt_manifest_code)code));
        assert_true(reached);
    }
}

static const char *const good[] = {
    GOOD,
    HEAD WEB,
    HEAD WEB VOLUME MOUNT,
    HEAD WEB VOLUME MOUNT "[processes.web.scaling]\nmin = 0\nmax = 1\n",
    GOOD RAW "hostname = 'a.example.net'\n",
    GOOD RAW "hostname = 'a.example.net'\nlisten_port = 8443\n" RAW "hostname = 'a.example.net'\n",
    GOOD RAW "protocol = 'tcp_raw'\nlisten_port = 5671\n",
    GOOD RAW "protocol = 'tcp_raw'\nlisten_port = 5671\nipv4 = true\n"
         "[[routes]]\nenv = 'stage'\nprocess = 'web'\nport = 8443\nprotocol = 'tcp_raw'\nlisten_port = 5671\nipv4 = true\n",
    GOOD RAW "hostname = 'a.example.net'\nproxy_protocol = 'v2'\nbackend_expects_proxy_protocol = true\n",
    HEAD WEB "cpu = 0.05\ndisk = '100Gi'\n",
    HEAD WEB "cpu = 32.000\n",
    GOOD "[processes.web.restart]\npolicy = 'on-failure'\nmax_retries = 0\nbackoff_seconds = 60\n",
    GOOD "[processes.web.health]\nport = 'tls'\ninterval_seconds = 1\n",
    GOOD "[processes.web.health]\ntype = 'http'\nport = 8443\npath = '/healthz?x=1'\n",
    GOOD "[env]\nuser = 'www-data:adm'\nprestart = ['/bin/true']\n",
    GOOD "[env.vars]\nA = ''\n_B = '\xc3\xa9'\n",
    "\xEF\xBB\xBF" GOOD,
    "schema_version = 'v1'\nimage = {ref = 'localhost:5000/x@sha256:"
    "7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a'}\nprocesses.web.resources.memory = '64Gi'\n",
};

static void good_manifests_pass_and_are_stable(void **state)
{
    (void)state;
    for (size_t i = 0; i < MT_ARRAY_LEN(good); i++) {
        mt_auto_manifest struct mt_manifest *m = NULL;
        struct mt_err err;
        assert_int_equal(mt_manifest_parse(good[i], strlen(good[i]), NULL, &m, &err), 0);
        for (size_t k = 0; k < m->n_problems; k++)
            print_error("case %zu: %s %u:%u %s\n", i, mt_manifest_code_name(m->problems[k].code), m->problems[k].line,
                        m->problems[k].column, m->problems[k].message);
        assert_int_equal(m->n_errors, 0);
        assert_int_equal(strlen(m->hash), 71);
        /* canonical text read back and written again is the same bytes */
        mt_auto_json json_t *back = NULL;
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(1U << 20);
        assert_int_equal(mt_json_parse(m->canonical_text, m->canonical_len, 1U << 20, 32, &back, &err), 0);
        assert_int_equal(mt_json_dump_canonical(back, &b, &err), 0);
        assert_string_equal(mt_buf_cstr(&b), m->canonical_text);
    }
}

static struct mt_manifest *parse_ok(const char *text)
{
    struct mt_manifest *m = NULL;
    struct mt_err err;

    assert_int_equal(mt_manifest_parse(text, strlen(text), NULL, &m, &err), 0);
    assert_int_equal(m->n_errors, 0);
    return m;
}

static void order_and_spelling_do_not_change_the_hash(void **state)
{
    (void)state;
    struct mt_manifest *a = parse_ok(GOOD "[[processes.web.ports]]\ninternal = 80\n" RAW "hostname = 'a.example.net'\n");
    struct mt_manifest *b = parse_ok(
        "schema_version = 'v1'\n# order, defaults and number forms differ\n"
        "[[routes]]\nhostname = 'a.example.net'\nport = 8443\nlisten_port = 443\nprocess = 'web'\nenv = 'prod'\n"
        "protocol = 'tls_passthrough'\n[processes.web]\nports = [{internal = 80, name = 'p80'}, {internal = 0x20FB, name = 'tls'}]\n"
        "resources = {memory = '64Mi', cpu = 1.000, disk = '4Gi'}\n[image]\nref = 'other/image:2'\n[app]\nname = 'x'\n");
    assert_string_equal(a->canonical_text, b->canonical_text);
    assert_string_equal(a->hash, b->hash);
    assert_string_equal(b->app_name, "x");
    assert_string_equal(b->image_ref, "other/image:2");
    mt_manifest_free(a);
    mt_manifest_free(b);
}

/* Golden bytes: a change here changes every stored hash. */
static void canonical_form_is_golden(void **state)
{
    (void)state;
    struct mt_manifest *m = parse_ok(GOOD);
    assert_string_equal(
        m->canonical_text,
        "{\"env\":{\"prestart_timeout_seconds\":30,\"vars\":{}},\"processes\":{\"web\":{\"limits\":{\"disk_bytes_per_second\":0,"
        "\"disk_ops_per_second\":0,\"net_bytes_per_second\":0,\"net_packets_per_second\":0},\"mounts\":[],\"ports\":[{\"internal\":"
        "8443,\"name\":\"tls\",\"protocol\":\"tcp\"}],\"prestart_timeout_seconds\":30,\"resources\":{\"cpu_millis\":1000,"
        "\"disk_bytes\":4294967296,\"memory_bytes\":67108864},\"restart\":{\"backoff_seconds\":2,\"max_retries\":3,\"policy\":"
        "\"always\"},\"scaling\":{\"max\":100,\"min\":1},\"secrets\":{\"required\":false},\"stop\":{\"grace_seconds\":10,\"signal\":"
        "\"TERM\"},\"vars\":{}}},\"routes\":[],\"schema_version\":\"v1\",\"volumes\":[]}");
    assert_string_equal(m->hash, "sha256:f5e4aad141268cc216b17fb83ad09506cc4150675f3d9ed67ded6b1d6f52d533");
    mt_manifest_free(m);
}

static void all_problems_come_in_one_pass_ordered_by_line(void **state)
{
    (void)state;
    static const char text[] = "schema_version = 1\nbuild = {}\n[image]\nref = 'X'\n[processes.web.resources]\nmemory = '1mb'\n"
                               "cpu = 99\n[processes.web.scaling]\nmin = 5\nmax = 1\n[[routes]]\nenv = 'p'\nprocess = 'nope'\nport = 1\n";
    mt_auto_manifest struct mt_manifest *m = NULL;
    struct mt_err err;
    assert_int_equal(mt_manifest_parse(text, strlen(text), NULL, &m, &err), 0);
    static const enum mt_manifest_code want[] = {MT_E_SCHEMA_VERSION, MT_E_BUILD_UNSUPPORTED, MT_E_PATTERN, MT_E_PATTERN,
                                                 MT_E_RANGE, MT_E_SCALE_RANGE, MT_E_REQUIRED, MT_E_PORT_UNRESOLVED};
    assert_int_equal(m->n_problems, MT_ARRAY_LEN(want));
    for (size_t i = 0; i < m->n_problems; i++) {
        assert_int_equal(m->problems[i].code, want[i]);
        assert_true(i == 0 || m->problems[i].line >= m->problems[i - 1].line);
    }
    mt_auto_json json_t *list = mt_manifest_problems_json(m, true);
    assert_int_equal(json_array_size(list), MT_ARRAY_LEN(want));
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 1), "code")), "E_BUILD_UNSUPPORTED");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "line")), 2);
}

static void a_syntax_error_does_not_make_other_things_missing(void **state)
{
    (void)state;
    static const char text[] = "schema_version = \"v1\n[image]\nref = 'a/b'\n[processes.web.resources\nmemory = '64Mi'\n";
    mt_auto_manifest struct mt_manifest *m = NULL;
    struct mt_err err;
    assert_int_equal(mt_manifest_parse(text, strlen(text), NULL, &m, &err), 0);
    assert_int_equal(m->n_errors, 2);
    assert_int_equal(m->problems[0].code, MT_E_TOML_SYNTAX);
    assert_int_equal(m->problems[1].code, MT_E_TOML_SYNTAX);
    assert_int_equal(m->problems[1].line, 4);
}

static void warnings_do_not_refuse(void **state)
{
    (void)state;
    struct mt_manifest *m = parse_ok(GOOD VOLUME "[env.vars]\nDB_PASSWORD = 'x'\n");
    assert_int_equal(m->n_problems, 2);
    assert_int_equal(m->problems[0].code, MT_W_UNUSED_VOLUME);
    assert_int_equal(m->problems[0].line, 10);
    assert_int_equal(m->problems[1].code, MT_W_SECRET_LIKE_VAR);
    assert_int_equal(m->problems[1].line, 13);
    mt_auto_json json_t *errors = mt_manifest_problems_json(m, false);
    assert_int_equal(json_array_size(errors), 0);
    assert_non_null(m->canonical);
    mt_manifest_free(m);
}

static void too_much_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *unit;
        size_t n;
        const char *head;
    } rows[] = {
        {"# a comment line\n", 4000, GOOD},
        {"[[routes]]\n", 257, GOOD},
        {"[[volumes]]\n", 17, GOOD},
        {"[[processes.web.ports]]\n", 33, HEAD WEB},
        {"[[processes.web.mounts]]\n", 9, HEAD WEB},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(1U << 20);
        mt_auto_manifest struct mt_manifest *m = NULL;
        struct mt_err err;
        mt_buf_puts(&b, rows[i].head);
        for (size_t k = 0; k < rows[i].n; k++)
            mt_buf_puts(&b, rows[i].unit);
        assert_int_equal(mt_manifest_parse((const char *)b.p, b.len, NULL, &m, &err), 0);
        bool found = false;
        for (size_t k = 0; k < m->n_problems; k++)
            found = found || m->problems[k].code == MT_E_TOO_LARGE;
        assert_true(found);
    }
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1U << 20);
    mt_auto_manifest struct mt_manifest *m = NULL;
    struct mt_err err;
    mt_buf_puts(&b, GOOD);
    for (unsigned k = 0; k < 300; k++)
        mt_buf_printf(&b, "bad%u = 1\n", k);
    assert_int_equal(mt_manifest_parse((const char *)b.p, b.len, NULL, &m, &err), 0);
    assert_int_equal(m->n_problems, MT_MANIFEST_PROBLEMS_MAX);
}

static void options_change_what_is_needed(void **state)
{
    (void)state;
    struct mt_manifest_options options = {.image_given = true, .max_memory_bytes = 128U << 20};
    static const char text[] = "schema_version = \"v1\"\n" WEB;
    static const char large[] = "schema_version = \"v1\"\n[processes.web.resources]\nmemory = '129Mi'\n";
    struct mt_manifest *m = NULL;
    struct mt_err err;
    assert_int_equal(mt_manifest_parse(text, strlen(text), &options, &m, &err), 0);
    assert_int_equal(m->n_errors, 0);
    mt_manifest_free(m);
    assert_int_equal(mt_manifest_parse(large, strlen(large), &options, &m, &err), 0);
    assert_int_equal(m->n_errors, 1);
    assert_int_equal(m->problems[0].code, MT_E_RANGE);
    mt_manifest_free(m);
}

static void a_process_is_read_back_from_the_canonical_form(void **state)
{
    (void)state;
    struct mt_manifest *m = parse_ok(HEAD WEB PORT VOLUME MOUNT "[processes.web.health]\ntype='http'\nport='tls'\npath='/'\n"
                                     "[processes.web.secrets]\nrequired = true\n[env]\nprestart = ['x']\n[processes.job.resources]\n"
                                     "memory='64Mi'\n" RAW "hostname = 'a.example.net'\n");
    struct mt_manifest_process p;
    struct mt_manifest_route r;
    struct mt_manifest_volume v;
    struct mt_strings types;
    struct mt_err err;
    assert_int_equal(mt_manifest_process_read(m->canonical, "web", &p, &err), 0);
    assert_int_equal(p.cpu_millis, 1000);
    assert_int_equal(p.memory_bytes, 64 << 20);
    assert_int_equal(p.scaling_max, 1);
    assert_int_equal(p.n_ports, 1);
    assert_int_equal(p.ports[0].internal, 8443);
    assert_string_equal(p.mounts[0].path, "/data");
    assert_int_equal(p.health.type, MT_HEALTH_HTTP);
    assert_int_equal(mt_health_startup_timeout(&p.health), 130);
    assert_int_equal(p.prestart_seconds, 30);
    assert_true(p.secrets_required);
    mt_manifest_process_done(&p);
    assert_int_equal(mt_manifest_process_read(m->canonical, "none", &p, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_manifest_process_types(m->canonical, &types, &err), 0);
    assert_int_equal(types.n, 2);
    assert_string_equal(types.v[0], "job");
    free(types.v);
    assert_int_equal(mt_manifest_n_routes(m->canonical), 1);
    assert_int_equal(mt_manifest_route_read(m->canonical, 0, &r, &err), 0);
    assert_int_equal(r.port, 8443);
    assert_int_equal(r.listen_port, 443);
    assert_int_equal(mt_manifest_route_read(m->canonical, 1, &r, &err), -MT_E_CORRUPT);
    assert_int_equal(mt_manifest_n_volumes(m->canonical), 1);
    assert_int_equal(mt_manifest_volume_read(m->canonical, 0, &v, &err), 0);
    assert_int_equal(v.size_bytes, 1 << 30);
    mt_manifest_free(m);
}

static void the_minimal_manifest_passes_its_own_check(void **state)
{
    (void)state;
    static const struct mt_manifest_minimal rows[] = {
        {.image = "nginx"},
        {.image = "127.0.0.1:5000/hello:1", .app = "hello", .port = 8443, .hostname = "hello.example.net"},
        {.image = "a/b", .process = "job", .memory = "1Gi", .port = 80, .env = "prod"},
    };
    static const struct mt_manifest_minimal wrong[] = {
        {.image = "Bad Image"},
        {.image = "a/b\"\n[x]"},
        {.image = "a", .app = "x\"y"},
        {.image = "a", .hostname = "a.example.net"},
        {.image = "a", .port = 1, .hostname = "a b.c"},
        {.image = "a", .memory = "1Gi\"\nx=\"1Gi"},
        {.image = "a", .process = "a]b"},
        {.image = "a", .env = "A"},
    };
    struct mt_err err;
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(65536);
        assert_int_equal(mt_manifest_minimal(&rows[i], &b, &err), 0);
        struct mt_manifest *m = parse_ok(mt_buf_cstr(&b));
        assert_string_equal(m->image_ref, rows[i].image);
        assert_int_equal(mt_manifest_n_routes(m->canonical), rows[i].hostname ? 1 : 0);
        mt_manifest_free(m);
    }
    for (size_t i = 0; i < MT_ARRAY_LEN(wrong); i++) {
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(65536);
        assert_int_equal(mt_manifest_minimal(&wrong[i], &b, &err), -MT_E_INVALID);
        assert_int_equal(b.len, 0);
    }
}

static void diff_is(const char *a, const char *b, const char *want)
{
    json_error_t je;
    json_t *x = json_loads(a, 0, &je), *y = json_loads(b, 0, &je), *d = mt_manifest_diff(x, y), *back = mt_manifest_diff(y, x);
    char *t = json_dumps(d, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(t, want);
    assert_int_equal(json_array_size(d), json_array_size(back));
    free(t);
    json_decref(x);
    json_decref(y);
    json_decref(d);
    json_decref(back);
}

static void a_diff_names_each_field_once(void **state)
{
    (void)state;
    diff_is("{}", "{}", "[]");
    diff_is("{\"a\":{\"b\":1,\"c\":[1,2]}}", "{\"a\":{\"b\":2,\"c\":[2,1]}}",
            "[{\"from\":1,\"op\":\"replace\",\"path\":\"a.b\",\"to\":2},"
            "{\"from\":[1,2],\"op\":\"replace\",\"path\":\"a.c\",\"to\":[2,1]}]");
    diff_is("{\"ports\":[{\"internal\":1,\"name\":\"x\"},{\"internal\":2}]}", "{\"ports\":[{\"internal\":2},{\"internal\":1,\"name\":\"y\"}]}",
            "[{\"from\":\"x\",\"op\":\"replace\",\"path\":\"ports[1].name\",\"to\":\"y\"}]");
    diff_is("{\"routes\":[{\"env\":\"p\",\"listen_port\":443,\"hostname\":\"a\"}]}", "{\"routes\":[]}",
            "[{\"from\":{\"env\":\"p\",\"hostname\":\"a\",\"listen_port\":443},\"op\":\"remove\",\"path\":\"routes[p:443:a]\"}]");
    diff_is("{}", "{\"volumes\":[{\"name\":\"d\"}]}", "[{\"op\":\"add\",\"path\":\"volumes\",\"to\":[{\"name\":\"d\"}]}]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_bad_manifest_names_code_place_and_mend),
        cmocka_unit_test(every_error_code_is_reached_by_a_case),
        cmocka_unit_test(good_manifests_pass_and_are_stable),
        cmocka_unit_test(order_and_spelling_do_not_change_the_hash),
        cmocka_unit_test(canonical_form_is_golden),
        cmocka_unit_test(all_problems_come_in_one_pass_ordered_by_line),
        cmocka_unit_test(a_syntax_error_does_not_make_other_things_missing),
        cmocka_unit_test(warnings_do_not_refuse),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(options_change_what_is_needed),
        cmocka_unit_test(a_process_is_read_back_from_the_canonical_form),
        cmocka_unit_test(the_minimal_manifest_passes_its_own_check),
        cmocka_unit_test(a_diff_names_each_field_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
