/* SPDX-License-Identifier: Apache-2.0 */
/* Codec of the guest channel: round trips, golden bytes, must-reject table, caps. */
#include "wire/guest.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "base/err.h"
#include "wire/guest_json.h"

#define UUID_A "5f0e1a52-0000-4000-8000-00000000000a"
#define UUID_B "5f0e1a52-0000-4000-8000-00000000000b"
#define HASH "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

static char line[MT_GUEST_LINE_TO_GUEST_MAX + 64];
static uint8_t mem_bytes[MT_GUEST_MEM_TO_GUEST];

static struct mt_guest_mem mem_for(enum mt_guest_from from)
{
    return (struct mt_guest_mem){.base = mem_bytes,
                                 .cap = from == MT_GUEST_FROM_GUEST ? MT_GUEST_MEM_TO_HOST : MT_GUEST_MEM_TO_GUEST};
}

static int decode(enum mt_guest_from from, const char *text, size_t len, struct mt_guest_msg *ret, struct mt_err *err)
{
    struct mt_guest_mem mem = mem_for(from);
    return mt_guest_decode(from, text, len, &mem, ret, err);
}

static const char *argv_small[] = {"/app/server", "--flag", "a \"b\"\n\t\xe2\x82\xac", NULL};
static const char *argv_pre[] = {"/app/migrate", NULL};
static const char *dns[] = {"fd00::53", "10.0.0.1", NULL};
static const char *search[] = {"moat.internal", NULL};

static struct mt_guest_config sample_config(void)
{
    static struct mt_guest_env env[] = {{"K", "v"}, {"EMPTY", ""}};
    static struct mt_guest_prestart pre[] = {{argv_pre, 1, 30000}};
    static struct mt_guest_host hosts[] = {{"db", "fd00::9"}};
    static struct mt_guest_mount mounts[] = {{"data", "vol_1", "/dev/vdc", UUID_B, "/data", true}};
    return (struct mt_guest_config){
        .instance_id = "inst_01j8x2", .boot_id = "boot_01j8x2", .generation = 7, .hostname = "web-01j8x2",
        .process = {.argv = argv_small, .argc = 3, .cwd = "/app", .env = env, .env_count = 2, .user = "app",
                    .stop_signal = "TERM", .prestart = pre, .prestart_count = 1, .nofile = 4096},
        .root = {"/dev/vda", UUID_A, "/dev/vdb", UUID_B},
        .mounts = mounts, .mounts_count = 1,
        .network = {.ifname = "eth0", .mac = "02:fc:00:00:00:02", .address = "fd00::2", .prefix_len = 128,
                    .gateway = "fe80::1", .gateway_mac = "02:fc:00:00:00:01", .mtu = 1420, .dns = dns, .dns_count = 2,
                    .search = search, .search_count = 1, .hosts = hosts, .hosts_count = 1},
        .secrets = {.present = true, .required = true, .version_id = "ver_1", .path = "/run/secrets/platform.env",
                    .sha256 = HASH, .mode = 0400, .uid = 1, .gid = 2, .bytes = 512},
        .exec = {true, 5162, 4}, .logs = {5163, 16384, 1048576}, .tmpfs = {16777216, 0, 4096}, .time_ns = 12345};
}

static void assert_same_config(const struct mt_guest_config *a, const struct mt_guest_config *b)
{
    assert_string_equal(a->instance_id, b->instance_id);
    assert_string_equal(a->boot_id, b->boot_id);
    assert_int_equal(a->generation, b->generation);
    assert_string_equal(a->hostname, b->hostname);
    assert_int_equal(a->process.argc, b->process.argc);
    for (size_t i = 0; i < a->process.argc; i++)
        assert_string_equal(a->process.argv[i], b->process.argv[i]);
    assert_null(b->process.argv[b->process.argc]);
    assert_string_equal(a->process.cwd, b->process.cwd);
    assert_int_equal(a->process.env_count, b->process.env_count);
    for (size_t i = 0; i < a->process.env_count; i++) {
        assert_string_equal(a->process.env[i].key, b->process.env[i].key);
        assert_string_equal(a->process.env[i].value, b->process.env[i].value);
    }
    assert_string_equal(a->process.user, b->process.user);
    assert_string_equal(a->process.stop_signal, b->process.stop_signal);
    assert_int_equal(a->process.nofile, b->process.nofile);
    assert_int_equal(b->process.prestart_count, 1);
    assert_string_equal(b->process.prestart[0].argv[0], "/app/migrate");
    assert_int_equal(b->process.prestart[0].timeout_ms, 30000);
    assert_string_equal(a->root.lower_uuid, b->root.lower_uuid);
    assert_string_equal(a->root.upper, b->root.upper);
    assert_int_equal(b->mounts_count, 1);
    assert_string_equal(b->mounts[0].path, "/data");
    assert_true(b->mounts[0].ro);
    assert_string_equal(a->network.address, b->network.address);
    assert_string_equal(a->network.gateway_mac, b->network.gateway_mac);
    assert_int_equal(a->network.mtu, b->network.mtu);
    assert_int_equal(b->network.dns_count, 2);
    assert_string_equal(b->network.dns[1], "10.0.0.1");
    assert_string_equal(b->network.search[0], "moat.internal");
    assert_string_equal(b->network.hosts[0].name, "db");
    assert_true(b->secrets.present && b->secrets.required);
    assert_string_equal(b->secrets.sha256, HASH);
    assert_int_equal(b->secrets.mode, 0400);
    assert_true(b->exec.enabled);
    assert_int_equal(b->exec.max_sessions, 4);
    assert_int_equal(b->logs.ring_bytes, 1048576);
    assert_int_equal(b->tmpfs.shm_bytes, 4096);
    assert_int_equal(b->time_ns, 12345);
}

static void config_survives_a_round_trip(void **state)
{
    (void)state;
    struct mt_guest_msg in = {.type = MT_GUEST_CONFIG, .seq = 1, .u.config = sample_config()}, out;
    struct mt_err err = {0};
    size_t len;
    assert_int_equal(mt_guest_encode(&in, line, sizeof line, &len, &err), 0);
    assert_int_equal(line[len - 1], '\n');
    assert_int_equal(decode(MT_GUEST_FROM_HOST, line, len - 1, &out, &err), 0);
    assert_int_equal(out.type, MT_GUEST_CONFIG);
    assert_int_equal(out.seq, 1);
    assert_same_config(&in.u.config, &out.u.config);
}

static void small_messages_have_these_bytes(void **state)
{
    (void)state;
    static const struct {
        struct mt_guest_msg msg;
        enum mt_guest_from from;
        const char *text;
    } rows[] = {
        {{.type = MT_GUEST_HELLO, .seq = 1,
          .u.hello = {1, 1, "0.1.0", "amd64", "6.12", "inst_a", "boot_b", MT_GUEST_PHASE_RUNNING, 1234}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"hello\",\"seq\":1,\"proto_min\":1,\"proto_max\":1,\"init_version\":\"0.1.0\",\"arch\":\"amd64\","
         "\"kernel\":\"6.12\",\"instance_id\":\"inst_a\",\"boot_id\":\"boot_b\",\"phase\":\"running\",\"uptime_ms\":1234}\n"},
        {{.type = MT_GUEST_ACK, .seq = 2, .u.ack = {7, HASH}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"ack\",\"seq\":2,\"generation\":7,\"config_sha256\":\"" HASH "\"}\n"},
        {{.type = MT_GUEST_STATUS, .seq = 3,
          .u.status = {.state = MT_GUEST_STATE_EXITED, .reason = "oom_killed", .detail = "guest", .exit_code = -1,
                       .signal = "KILL", .oom_kills = 1, .clean_umount = true, .uptime_ms = 5, .ts_ns = 9}},
         MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"status\",\"seq\":3,\"state\":\"exited\",\"reason\":\"oom_killed\",\"detail\":\"guest\","
         "\"signal\":\"KILL\",\"core\":false,\"oom_kills\":1,\"clean_umount\":true,\"uptime_ms\":5,\"ts_ns\":9}\n"},
        {{.type = MT_GUEST_STATUS, .seq = 4, .u.status = {.state = MT_GUEST_STATE_STARTED, .exit_code = -1, .pid = 42}},
         MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"status\",\"seq\":4,\"state\":\"started\",\"pid\":42,\"core\":false,\"oom_kills\":0,"
         "\"clean_umount\":false,\"uptime_ms\":0,\"ts_ns\":0}\n"},
        {{.type = MT_GUEST_PONG, .seq = 5, .u.pong = {-1, 2, 3, 4, 5, 6, 7, 8}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"pong\",\"seq\":5,\"ts_ns\":-1,\"mem_total\":2,\"mem_available\":3,\"oom_kills\":4,\"procs\":5,"
         "\"load1\":6,\"rootfs_used\":7,\"fs_errors\":8}\n"},
        {{.type = MT_GUEST_PONG, .seq = 5, .u.pong = {.ts_ns = 1, .volumes = {{"data", 10, 20}, {"more", 0, 9}}, .volumes_count = 2}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"pong\",\"seq\":5,\"ts_ns\":1,\"mem_total\":0,\"mem_available\":0,\"oom_kills\":0,\"procs\":0,\"load1\":0,\"rootfs_used\":0,"
         "\"fs_errors\":0,\"volumes\":[{\"name\":\"data\",\"used\":10,\"size\":20},{\"name\":\"more\",\"used\":0,\"size\":9}]}\n"},
        {{.type = MT_GUEST_BYE, .seq = 6}, MT_GUEST_FROM_HOST, "{\"v\":1,\"type\":\"bye\",\"seq\":6}\n"},
        {{.type = MT_GUEST_RESUME, .seq = 6}, MT_GUEST_FROM_HOST, "{\"v\":1,\"type\":\"resume\",\"seq\":6}\n"},
        {{.type = MT_GUEST_REJECT, .seq = 6, .u.reject = {"guest_protocol_mismatch"}}, MT_GUEST_FROM_HOST,
         "{\"v\":1,\"type\":\"reject\",\"seq\":6,\"reason\":\"guest_protocol_mismatch\"}\n"},
        {{.type = MT_GUEST_PING, .seq = 6, .u.ping = {77}}, MT_GUEST_FROM_HOST,
         "{\"v\":1,\"type\":\"ping\",\"seq\":6,\"ts_ns\":77}\n"},
        {{.type = MT_GUEST_SHUTDOWN, .seq = 6, .u.shutdown = {10000, "replaced"}}, MT_GUEST_FROM_HOST,
         "{\"v\":1,\"type\":\"shutdown\",\"seq\":6,\"grace_ms\":10000,\"reason\":\"replaced\"}\n"},
        {{.type = MT_GUEST_FREEZE, .seq = 7, .u.freeze = {"vol_1"}}, MT_GUEST_FROM_HOST,
         "{\"v\":1,\"type\":\"freeze\",\"seq\":7,\"volume_id\":\"vol_1\"}\n"},
        {{.type = MT_GUEST_THAW, .seq = 8, .u.freeze = {"vol_1"}}, MT_GUEST_FROM_HOST,
         "{\"v\":1,\"type\":\"thaw\",\"seq\":8,\"volume_id\":\"vol_1\"}\n"},
        {{.type = MT_GUEST_QUIESCED, .seq = 9, .u.quiesced = {"vol_1", MT_GUEST_QUIESCE_THAWED, NULL}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"quiesced\",\"seq\":9,\"volume_id\":\"vol_1\",\"state\":\"thawed\"}\n"},
        {{.type = MT_GUEST_QUIESCED, .seq = 9, .u.quiesced = {"vol_1", MT_GUEST_QUIESCE_FAILED, "busy"}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"quiesced\",\"seq\":9,\"volume_id\":\"vol_1\",\"state\":\"failed\",\"detail\":\"busy\"}\n"},
        {{.type = MT_GUEST_FETCH_LOG, .seq = 10, .u.fetch_log = {8192}}, MT_GUEST_FROM_HOST,
         "{\"v\":1,\"type\":\"fetch_log\",\"seq\":10,\"offset\":8192}\n"},
        {{.type = MT_GUEST_LOG_CHUNK, .seq = 11, .u.log_chunk = {8192, "aGk=", true}}, MT_GUEST_FROM_GUEST,
         "{\"v\":1,\"type\":\"log_chunk\",\"seq\":11,\"offset\":8192,\"data\":\"aGk=\",\"last\":true}\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mt_guest_msg back;
        struct mt_err err = {0};
        static char again[4096];
        size_t len, len2;
        assert_int_equal(mt_guest_encode(&rows[i].msg, line, sizeof line, &len, &err), 0);
        line[len] = '\0';
        assert_string_equal(line, rows[i].text);
        assert_int_equal(decode(rows[i].from, line, len - 1, &back, &err), 0);
        assert_int_equal(mt_guest_encode(&back, again, sizeof again, &len2, &err), 0);
        assert_int_equal(len, len2);
        assert_memory_equal(line, again, len);
        /* the other side must not say it */
        enum mt_guest_from other = rows[i].from == MT_GUEST_FROM_HOST ? MT_GUEST_FROM_GUEST : MT_GUEST_FROM_HOST;
        assert_int_equal(decode(other, line, len - 1, &back, &err), -MT_E_INVALID);
    }
}

static void bad_lines_are_rejected(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "", " ", "null", "[]", "1", "\"x\"", "{", "}", "{}", "{]", "{\"v\":1}", "{\"v\":1,}",
        "{\"v\":1,\"type\":\"bye\"}",                              /* no seq */
        "{\"v\":2,\"type\":\"bye\",\"seq\":1}",                    /* version */
        "{\"v\":1,\"type\":7,\"seq\":1}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1} x",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1}{}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"v\":1}",            /* duplicate key */
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":{\"b\":1,\"b\":2}}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":1,\"\\u0061\":2}", /* the same key, spelled twice */
        "{\"v\":1,\"type\":\"bye\",\"seq\":1.0}", "{\"v\":1,\"type\":\"bye\",\"seq\":1e0}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"x\":0.5}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":01}", "{\"v\":1,\"type\":\"bye\",\"seq\":+1}", "{\"v\":1,\"type\":\"bye\",\"seq\":-}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":-1}", "{\"v\":1,\"type\":\"bye\",\"seq\":4294967296}",
        "{\"v\":1,\"type\":\"ping\",\"seq\":1,\"ts_ns\":9223372036854775808}",
        "{\"v\":1,\"type\":\"ping\",\"seq\":1,\"ts_ns\":-9223372036854775809}",
        "{\"v\":1,\"type\":\"ping\",\"seq\":1,\"ts_ns\":\"1\"}", "{\"v\":1,\"type\":\"ping\",\"seq\":1}",
        "{\"v\":1,\"type\":\"ping\",\"seq\":1,\"ts_ns\":null}",
        "{'v':1,'type':'bye','seq':1}", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":tru}", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":NaN}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\t\"}",        /* raw control character */
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\x41\"}", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\u00\"}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\u0000\"}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\ud800\"}", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\udc00x\"}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\ud800\\u0041\"}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\xff\"}", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\xc0\xaf\"}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\xed\xa0\x80\"}", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\xe2\x82\"}",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\", "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\"",
        "{\"v\":1,\"type\":\"bye\",\"seq\":1,\"a\":\"\\\"}", "{\"v\" 1}", "{\"v\":1 \"type\":2}", "{1:1}",
        "{\"v\":1,\"type\":\"freeze\",\"seq\":1}", "{\"v\":1,\"type\":\"thaw\",\"seq\":1,\"volume_id\":1}",
        "{\"v\":1,\"type\":\"shutdown\",\"seq\":1,\"grace_ms\":3600001}", "{\"v\":1,\"type\":\"shutdown\",\"seq\":1}",
        "{\"v\":1,\"type\":\"reject\",\"seq\":1}", "{\"v\":1,\"type\":\"config\",\"seq\":1}",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mt_guest_msg msg = {.seq = 999};
        struct mt_err err = {0};
        int res = decode(MT_GUEST_FROM_HOST, rows[i], strlen(rows[i]), &msg, &err);
        if (res != -MT_E_INVALID)
            fail_msg("accepted or wrong code %d: %s", res, rows[i]);
        assert_int_equal(msg.seq, 999); /* written only on success */
        assert_true(err.msg[0] != '\0');
    }
}

static void a_pong_names_at_most_eight_volumes_each_whole(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "7", "{}", "[1]", "[{}]", "[{\"name\":\"a\",\"used\":1}]", "[{\"name\":\"a\",\"used\":-1,\"size\":2}]", "[{\"name\":1,\"used\":1,\"size\":2}]",
        "[{\"name\":\"0123456789012345678901234567890123456789012345678901234567890123\",\"used\":1,\"size\":2}]",
    };
    struct mt_guest_msg msg;
    struct mt_err err = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int n = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"pong\",\"seq\":1,\"ts_ns\":1,\"volumes\":%s}", rows[i]);
        if (decode(MT_GUEST_FROM_GUEST, line, (size_t)n, &msg, &err) != -MT_E_INVALID)
            fail_msg("accepted: %s", rows[i]);
    }
    for (int count = 8; count <= 9; count++) {
        int n = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"pong\",\"seq\":1,\"ts_ns\":1,\"volumes\":[");
        for (int i = 0; i < count; i++)
            n += snprintf(line + n, sizeof line - (size_t)n, "%s{\"name\":\"v%d\",\"used\":%d,\"size\":9}", i ? "," : "", i, i);
        n += snprintf(line + n, sizeof line - (size_t)n, "]}");
        assert_int_equal(decode(MT_GUEST_FROM_GUEST, line, (size_t)n, &msg, &err), count == 8 ? 0 : -MT_E_INVALID);
    }
    assert_int_equal(msg.u.pong.volumes_count, 8);
    assert_string_equal(msg.u.pong.volumes[7].name, "v7");
}

static void every_cut_of_a_good_line_is_rejected(void **state)
{
    (void)state;
    struct mt_guest_msg in = {.type = MT_GUEST_CONFIG, .seq = 1, .u.config = sample_config()}, out;
    struct mt_err err;
    size_t len;
    assert_int_equal(mt_guest_encode(&in, line, sizeof line, &len, &err), 0);
    for (size_t cut = 0; cut < len - 1; cut++) {
        char *exact = malloc(cut ? cut : 1); /* so that the sanitizer sees a read past the end */
        assert_non_null(exact);
        memcpy(exact, line, cut);
        int res = decode(MT_GUEST_FROM_HOST, exact, cut, &out, &err);
        free(exact);
        if (res >= 0)
            fail_msg("accepted after %zu bytes", cut);
    }
}

static void odd_but_legal_lines_are_accepted(void **state)
{
    (void)state;
    static const char *const rows[] = {
        " { \"seq\" : 4294967295 , \"type\":\"bye\",\t\"v\":1 } \r",
        "{\"v\":1,\"type\":\"bye\",\"seq\":0,\"x\":[{\"a\":[1,-0,null,true,false,\"\\ud83d\\ude00\\/\"]}]}",
        "{\"v\":1,\"type\":\"never-heard-of\",\"seq\":1,\"y\":{}}",
        "{\"v\":1,\"type\":\"ping\",\"seq\":1,\"ts_ns\":-9223372036854775808}",
        "{\"v\":1,\"type\":\"shutdown\",\"seq\":1,\"grace_ms\":0,\"reason\":null}",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mt_guest_msg msg;
        struct mt_err err = {0};
        if (decode(MT_GUEST_FROM_HOST, rows[i], strlen(rows[i]), &msg, &err) != 0)
            fail_msg("%s: %s", rows[i], err.msg);
    }
}

static void caps_hold(void **state)
{
    (void)state;
    struct mt_guest_msg msg;
    struct mt_err err;
    /* length of the line, both directions */
    memset(line, ' ', sizeof line);
    memcpy(line, "{\"v\":1,\"type\":\"hm\",\"seq\":1}", 27);
    assert_int_equal(decode(MT_GUEST_FROM_GUEST, line, MT_GUEST_LINE_TO_HOST_MAX, &msg, &err), 0);
    assert_int_equal(decode(MT_GUEST_FROM_GUEST, line, MT_GUEST_LINE_TO_HOST_MAX + 1, &msg, &err), -MT_E_LIMIT);
    assert_int_equal(decode(MT_GUEST_FROM_HOST, line, MT_GUEST_LINE_TO_GUEST_MAX, &msg, &err), 0);
    assert_int_equal(decode(MT_GUEST_FROM_HOST, line, MT_GUEST_LINE_TO_GUEST_MAX + 1, &msg, &err), -MT_E_LIMIT);
    /* depth: the envelope is 1 */
    for (int depth = 7; depth <= 8; depth++) {
        int n = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"hm\",\"seq\":1,\"x\":");
        for (int i = 0; i < depth; i++)
            line[n++] = '[';
        for (int i = 0; i < depth; i++)
            line[n++] = ']';
        line[n++] = '}';
        assert_int_equal(decode(MT_GUEST_FROM_HOST, line, (size_t)n, &msg, &err), depth == 7 ? 0 : -MT_E_LIMIT);
    }
    /* members of one object, values in one line */
    int n = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"hm\",\"seq\":1");
    for (int i = 0; i < 1022; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, ",\"k%d\":1", i);
    line[n++] = '}';
    assert_int_equal(decode(MT_GUEST_FROM_HOST, line, (size_t)n, &msg, &err), -MT_E_LIMIT);
    n = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"hm\",\"seq\":1,\"x\":[1");
    for (int i = 0; i < 300; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, ",1");
    n += snprintf(line + n, sizeof line - (size_t)n, "]}");
    assert_int_equal(decode(MT_GUEST_FROM_GUEST, line, (size_t)n, &msg, &err), -MT_E_LIMIT);
    assert_int_equal(decode(MT_GUEST_FROM_HOST, line, (size_t)n, &msg, &err), 0);
    /* decode memory smaller than the line needs */
    uint8_t few[256];
    struct mt_guest_mem small = {.base = few, .cap = sizeof few};
    assert_int_equal(mt_guest_decode(MT_GUEST_FROM_HOST, line, (size_t)n, &small, &msg, &err), -MT_E_LIMIT);
    /* encode into too little room */
    struct mt_guest_msg bye = {.type = MT_GUEST_BYE, .seq = 1};
    size_t len;
    for (size_t cap = 0; cap < 29; cap++)
        assert_int_equal(mt_guest_encode(&bye, line, cap, &len, &err), -MT_E_LIMIT);
    assert_int_equal(mt_guest_encode(&bye, line, 29, &len, &err), 0);
    assert_int_equal(len, 29);
}

static void the_largest_config_fits(void **state)
{
    (void)state;
    static const char *argv[MT_GUEST_ARGV_MAX + 1];
    static struct mt_guest_env env[MT_GUEST_ENV_MAX];
    static char keys[MT_GUEST_ENV_MAX][8];
    static struct mt_guest_prestart pre[MT_GUEST_PRESTART_MAX];
    static char big[64 * 1024 - 254], value[MT_GUEST_ENV_BYTES_MAX / MT_GUEST_ENV_MAX - 8];
    struct mt_guest_config c = sample_config();
    memset(big, 'a', sizeof big - 1);
    memset(value, 1, sizeof value - 1); /* \u0001: six bytes for one, the worst case */
    argv[0] = argv[1] = big;
    for (size_t i = 2; i < MT_GUEST_ARGV_MAX; i++)
        argv[i] = "x";
    for (size_t i = 0; i < MT_GUEST_ENV_MAX; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "K%zu", i);
        env[i] = (struct mt_guest_env){keys[i], value};
    }
    for (size_t i = 0; i < MT_GUEST_PRESTART_MAX; i++)
        pre[i] = (struct mt_guest_prestart){argv + 2, MT_GUEST_ARGV_MAX - 2, 1000};
    c.process.argv = argv;
    c.process.argc = MT_GUEST_ARGV_MAX;
    c.process.env = env;
    c.process.env_count = MT_GUEST_ENV_MAX;
    c.process.prestart = pre;
    c.process.prestart_count = MT_GUEST_PRESTART_MAX;
    struct mt_guest_msg in = {.type = MT_GUEST_CONFIG, .seq = 1, .u.config = c}, out;
    struct mt_err err = {0};
    size_t len;
    if (mt_guest_encode(&in, line, sizeof line, &len, &err) != 0)
        fail_msg("%s", err.msg);
    if (decode(MT_GUEST_FROM_HOST, line, len - 1, &out, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(out.u.config.process.prestart[7].argc, MT_GUEST_ARGV_MAX - 2);
    assert_string_equal(out.u.config.process.env[511].value, value);
}

static void broken_configs_are_refused_with_the_field(void **state)
{
    (void)state;
    static const char *empty[] = {"", NULL};
    static struct mt_guest_env bad_env[] = {{"1A", "x"}};
    static struct mt_guest_prestart short_pre[] = {{argv_pre, 1, 999}};
    static struct mt_guest_mount twice[] = {{"data", "vol_1", "/dev/vda", UUID_B, "/data", false}};
    static const char *bad_dns[] = {"resolver", NULL};
    static const char *bad_search[] = {"a b", NULL};
    static struct mt_guest_host bad_host[] = {{"x\n127.0.0.1 y", "::1"}};
#define ROW(field, ...) do { \
        struct mt_guest_config c = sample_config(); \
        __VA_ARGS__; \
        struct mt_err err = {0}; \
        if (mt_guest_config_check(&c, &err) != -MT_E_INVALID || !strstr(err.msg, "config." field)) \
            fail_msg("%s, %s: '%s'", field, #__VA_ARGS__, err.msg); \
    } while (0)
    ROW("instance_id", c.instance_id = NULL);
    ROW("instance_id", c.boot_id = "../x");
    ROW("generation", c.generation = 0);
    ROW("hostname", c.hostname = "a b");
    ROW("hostname", c.hostname = "");
    ROW("process.argv", c.process.argc = 0);
    ROW("process.argv", c.process.argc = 257);
    ROW("process.argv", c.process.argv = empty; c.process.argc = 1);
    ROW("process.cwd", c.process.cwd = "app");
    ROW("process.env", c.process.env = bad_env; c.process.env_count = 1);
    ROW("process.env", c.process.env_count = 513);
    ROW("process.user", c.process.user = "a\nb");
    ROW("process.stop_signal", c.process.stop_signal = "KILL");
    ROW("process.nofile", c.process.nofile = 1048577);
    ROW("process.prestart.timeout_ms", c.process.prestart = short_pre);
    ROW("process.prestart", c.process.prestart_count = 9);
    ROW("root", c.root.lower = "/dev/sda");
    ROW("root", c.root.lower = c.root.upper);
    ROW("root", c.root.lower_uuid = "5F0E1A52-0000-4000-8000-00000000000A");
    ROW("mounts.device", c.mounts = twice);
    ROW("network.ifname", c.network.ifname = "../eth0");
    ROW("network.mac", c.network.mac = "02:FC:00:00:00:02");
    ROW("network", c.network.address = "10.0.0.1");
    ROW("network", c.network.gateway = NULL);
    ROW("network.prefix_len", c.network.prefix_len = 64);
    ROW("network.mtu", c.network.mtu = 1279);
    ROW("network.mtu", c.network.mtu = 9001);
    ROW("network.dns", c.network.dns = bad_dns; c.network.dns_count = 1);
    ROW("network.search", c.network.search = bad_search);
    ROW("network.hosts", c.network.hosts = bad_host);
    ROW("secrets.path", c.secrets.path = "/etc/passwd");
    ROW("secrets.mode", c.secrets.mode = 0444);
    ROW("secrets.bytes", c.secrets.bytes = 262145);
    ROW("secrets.sha256", c.secrets.sha256 = "x");
    ROW("exec", c.exec.max_sessions = 0);
    ROW("logs.line_max", c.logs.line_max = 16385);
    ROW("logs.ring_bytes", c.logs.ring_bytes = 1);
    ROW("tmpfs", c.tmpfs.tmp_bytes = 1);
    ROW("time_ns", c.time_ns = -1);
#undef ROW
}

static void encode_refuses_what_decode_would(void **state)
{
    (void)state;
    struct mt_err err;
    size_t len;
    struct mt_guest_msg rows[] = {
        {.type = MT_GUEST_UNKNOWN}, {.type = MT_GUEST_TYPE_MAX}, {.type = MT_GUEST_HELLO}, {.type = MT_GUEST_REJECT},
        {.type = MT_GUEST_ACK, .u.ack = {1, "xyz"}},
        {.type = MT_GUEST_STATUS, .u.status = {.state = MT_GUEST_STATE_FAILED, .exit_code = -1}},
        {.type = MT_GUEST_STATUS, .u.status = {.state = MT_GUEST_STATE_EXITED, .exit_code = -1}},
        {.type = MT_GUEST_STATUS, .u.status = {.state = MT_GUEST_STATE_EXITED, .exit_code = 1, .signal = "KILL"}},
        {.type = MT_GUEST_SHUTDOWN, .u.shutdown = {3600001, NULL}},
        {.type = MT_GUEST_REJECT, .u.reject = {"\xff"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (mt_guest_encode(&rows[i], line, sizeof line, &len, &err) != -MT_E_INVALID)
            fail_msg("row %zu was encoded", i);
}

static void long_detail_is_cut_at_a_character(void **state)
{
    (void)state;
    static char text[3 * 700 + 1];
    for (size_t i = 0; i < 700; i++)
        memcpy(text + 3 * i, "\xe2\x82\xac", 3);
    struct mt_guest_msg in = {.type = MT_GUEST_STATUS, .seq = 1,
                              .u.status = {.state = MT_GUEST_STATE_FAILED, .reason = "x", .detail = text, .exit_code = -1}};
    struct mt_guest_msg out;
    struct mt_err err = {0};
    size_t len;
    assert_int_equal(mt_guest_encode(&in, line, sizeof line, &len, &err), 0);
    assert_int_equal(decode(MT_GUEST_FROM_GUEST, line, len - 1, &out, &err), 0);
    assert_int_equal(strlen(out.u.status.detail), 1023);
}

static void lines_come_out_whole(void **state)
{
    (void)state;
    char buf[9], *at;
    const char *got;
    size_t len;
    struct mt_guest_lines l = {.buf = buf, .cap = sizeof buf};
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), 0);
    assert_int_equal(mt_guest_lines_room(&l, &at), 9);
    memcpy(at, "ab\n\ncdef\n", 9);
    mt_guest_lines_fed(&l, 9);
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), 1);
    assert_int_equal(len, 2);
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), 1);
    assert_int_equal(len, 0);
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), 1);
    assert_memory_equal(got, "cdef", 4);
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), 0);
    assert_int_equal(mt_guest_lines_room(&l, &at), 9);
    memcpy(at, "12345678\n", 9);
    mt_guest_lines_fed(&l, 9);
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), 1); /* cap - 1 bytes still fit */
    assert_int_equal(len, 8);
    assert_int_equal(mt_guest_lines_room(&l, &at), 9);
    memcpy(at, "123456789", 9);
    mt_guest_lines_fed(&l, 9);
    assert_int_equal(mt_guest_lines_next(&l, &got, &len), -MT_E_LIMIT);
}

static void log_records_round_trip(void **state)
{
    (void)state;
    static uint8_t payload[MT_GUEST_LOG_PAYLOAD_MAX], out[MT_GUEST_LOG_HEAD + MT_GUEST_LOG_PAYLOAD_MAX];
    static const size_t sizes[] = {0, 1, 8, MT_GUEST_LOG_PAYLOAD_MAX};
    for (size_t i = 0; i < 4; i++) {
        struct mt_guest_log_record in = {.stream = 2, .flags = 1, .seq = UINT64_MAX - i, .unix_ns = 5, .payload = payload,
                                         .payload_len = sizes[i]}, back;
        struct mt_err err = {0};
        size_t len, used = 0;
        assert_int_equal(mt_guest_log_encode(&in, out, sizeof out, &len, &err), 0);
        assert_int_equal(len, MT_GUEST_LOG_HEAD + sizes[i]);
        for (size_t cut = 0; cut < len; cut += 1 + cut / 3)
            assert_int_equal(mt_guest_log_decode(out, cut, &back, &used, &err), 1);
        assert_int_equal(mt_guest_log_decode(out, len, &back, &used, &err), 0);
        assert_int_equal(used, len);
        assert_int_equal(back.seq, in.seq);
        assert_int_equal(back.flags, 1);
        assert_int_equal(back.payload_len, sizes[i]);
        assert_int_equal(mt_guest_log_encode(&in, out, len - 1, &len, &err), -MT_E_LIMIT);
    }
    static const uint8_t golden[] = {0, 0, 0, 20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2, 'h', 'i'};
    struct mt_guest_log_record hi = {.stream = 1, .seq = 3, .unix_ns = 258, .payload = (const uint8_t *)"hi", .payload_len = 2};
    size_t len;
    assert_int_equal(mt_guest_log_encode(&hi, out, sizeof out, &len, NULL), 0);
    assert_int_equal(len, sizeof golden);
    assert_memory_equal(out, golden, sizeof golden);
}

static void bad_log_records_are_rejected(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[6];
        int want;
    } rows[] = {
        {{0, 0, 0, 17, 1, 0}, -MT_E_INVALID},    /* shorter than the fixed part */
        {{0, 0, 0x50, 1, 1, 0}, -MT_E_LIMIT},    /* 20 KiB + 1 */
        {{0xff, 0xff, 0xff, 0xff, 1, 0}, -MT_E_LIMIT},
        {{0, 0, 0, 26, 0, 0}, -MT_E_INVALID},    /* stream 0 */
        {{0, 0, 0, 26, 4, 0}, -MT_E_INVALID},
        {{0, 0, 0, 26, 1, 4}, -MT_E_INVALID},    /* unknown flag */
        {{0, 0, 0, 25, 3, 2}, -MT_E_INVALID},    /* gap with 7 bytes */
        {{0, 0, 0, 26, 3, 2}, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t data[64] = {0};
        struct mt_guest_log_record r;
        struct mt_err err = {0};
        size_t used;
        memcpy(data, rows[i].bytes, 6);
        data[29] = 9;
        assert_int_equal(mt_guest_log_decode(data, sizeof data, &r, &used, &err), rows[i].want);
        if (rows[i].want == 0)
            assert_int_equal(mt_guest_log_gap_bytes(&r), 9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_survives_a_round_trip),
        cmocka_unit_test(small_messages_have_these_bytes),
        cmocka_unit_test(bad_lines_are_rejected),
        cmocka_unit_test(a_pong_names_at_most_eight_volumes_each_whole),
        cmocka_unit_test(every_cut_of_a_good_line_is_rejected),
        cmocka_unit_test(odd_but_legal_lines_are_accepted),
        cmocka_unit_test(caps_hold),
        cmocka_unit_test(the_largest_config_fits),
        cmocka_unit_test(broken_configs_are_refused_with_the_field),
        cmocka_unit_test(encode_refuses_what_decode_would),
        cmocka_unit_test(long_detail_is_cut_at_a_character),
        cmocka_unit_test(lines_come_out_whole),
        cmocka_unit_test(log_records_round_trip),
        cmocka_unit_test(bad_log_records_are_rejected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
