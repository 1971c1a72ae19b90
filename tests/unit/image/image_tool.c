/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-tool: the agent's image store on the command line, for the scenario tests and the bench. Prints one JSON line per
 * result. Not installed.
 *
 *   image-tool DIR FETCH UNPACK [--local HOST:PORT] [--cgroup PARENT] [--limits LAYER_S TOTAL_S] COMMAND...
 *     ensure REPOSITORY DIGEST ARCH [CALLERS [CANCEL_AFTER_MS]]   CALLERS threads ask at once, all are cancelled after a while
 *     gc NOW_S BUDGET                                             open, collect garbage, print what went
 *     verify                                                      hash one disk
 */
#include "agent/image/image.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "wire/json.h"

#include <poll.h>
#include <pthread.h>

#define CALLERS_MAX 32

struct caller {
    pthread_t thread;
    struct mt_image_store *store;
    struct mt_image_request request;
    char owner[32];
    char phases[64];
    struct mt_rootdisk disk;
    struct mt_image_failure failure;
    struct mt_err err;
    int result;
};

static void on_phase(void *arg, enum mt_image_phase phase)
{
    struct caller *c = arg;
    size_t n = strlen(c->phases);
    (void)snprintf(c->phases + n, sizeof c->phases - n, "%s%s", n ? " " : "", mt_image_phase_name(phase));
}

static void *call(void *arg)
{
    struct caller *c = arg;
    c->result = mt_image_ensure(c->store, &c->request, &c->disk, &c->failure, &c->err);
    return NULL;
}

static void print_caller(struct caller *c)
{
    json_t *j = c->result == 0
                    ? json_pack("{s:b,s:s,s:s,s:s,s:I,s:b,s:s,s:i}", "ok", 1, "path", c->disk.path, "key", c->disk.key, "uuid",
                                c->disk.uuid, "bytes", (json_int_t)c->disk.bytes, "cached", (int)c->disk.cached, "phases", c->phases,
                                "exposed", c->disk.config.exposed_ports[0] ? 1 : 0)
                    : json_pack("{s:b,s:s,s:s,s:s,s:s,s:s}", "ok", 0, "code", mt_code_name((enum mt_code) - c->result), "reason",
                                mt_reason_code(c->failure.reason), "detail", c->failure.detail, "message", c->err.msg, "phases",
                                c->phases);
    (void)json_dumpf(j, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(j);
}

static int ensure(struct mt_image_store *s, int argc, char **argv)
{
    static struct caller callers[CALLERS_MAX];
    atomic_bool cancelled = false;
    uint64_t n = 1, cancel_ms = 0;
    if (argc < 3 || (argc > 3 && mt_parse_u64(argv[3], 1, CALLERS_MAX, &n, NULL) < 0) ||
        (argc > 4 && mt_parse_u64(argv[4], 1, 100000, &cancel_ms, NULL) < 0))
        return 2;
    for (size_t i = 0; i < n; i++) {
        struct caller *c = &callers[i];
        (void)snprintf(c->owner, sizeof c->owner, "owner-%zu", i);
        c->store = s;
        c->request = (struct mt_image_request){.repository = argv[0], .digest = argv[1], .arch = argv[2], .owner = c->owner,
                                               .on_phase = on_phase, .arg = c, .cancelled = &cancelled};
        if (pthread_create(&c->thread, NULL, call, c) != 0)
            return 3;
    }
    if (cancel_ms) {
        (void)poll(NULL, 0, (int)cancel_ms);
        mt_image_cancel(s, &cancelled);
    }
    for (size_t i = 0; i < n; i++) {
        (void)pthread_join(callers[i].thread, NULL);
        print_caller(&callers[i]);
        mt_rootdisk_done(&callers[i].disk);
    }
    return 0;
}

static int collect(struct mt_image_store *s, const char *now, struct mt_err *err)
{
    struct mt_image_gc_report r;
    int64_t now_s;
    if (mt_parse_i64(now, 0, INT64_MAX, &now_s, err) < 0 || mt_image_gc(s, now_s, &r, err) < 0)
        return -1;
    (void)printf("{\"tmp\":%u,\"blobs\":%u,\"rootdisks\":%u,\"left\":%u,\"freed\":%ju}\n", r.tmp_removed, r.blobs_removed,
                 r.rootdisks_removed, r.after.rootdisks, (uintmax_t)r.bytes_freed);
    return 0;
}

int main(int argc, char **argv)
{
    struct mt_err err = {0};
    struct mt_image_store *s = NULL;
    const char *local[2] = {NULL, NULL};
    struct mt_image_conf conf = {.min_age_s = UINT32_MAX, .local_registries = local, .insecure_registries = local};
    if (argc < 5)
        return 2;
    conf.images_dir = argv[1];
    conf.fetch_path = argv[2];
    conf.unpack_path = argv[3];
    argv += 4;
    argc -= 4;
    if (argc > 2 && MT_STREQ(argv[0], "--local")) {
        local[0] = argv[1];
        argv += 2;
        argc -= 2;
    }
    uint64_t layer_s = 0, total_s = 0; /* --limits LAYER TOTAL, seconds */
    if (argc > 3 && MT_STREQ(argv[0], "--limits") && mt_parse_u64(argv[1], 1, 3600, &layer_s, NULL) == 0 && mt_parse_u64(argv[2], 1, 14400, &total_s, NULL) == 0) {
        conf.layer_timeout_s = (uint32_t)layer_s;
        conf.total_timeout_s = (uint32_t)total_s;
        argv += 3;
        argc -= 3;
    }
    if (argc > 2 && MT_STREQ(argv[0], "--cgroup")) {
        conf.cgroup_parent = argv[1];
        argv += 2;
        argc -= 2;
    }
    mt_log_init("image-tool", MT_WARN, false);
    if (argc == 3 && MT_STREQ(argv[0], "gc") && mt_parse_u64(argv[2], 0, UINT64_MAX, &conf.cache_budget_bytes, &err) < 0)
        return 2;
    int r = mt_image_store_open(&conf, &s, &err);
    if (r == 0 && MT_STREQ(argv[0], "ensure")) {
        r = ensure(s, argc - 1, argv + 1);
    } else if (r == 0 && argc == 3 && MT_STREQ(argv[0], "gc")) {
        r = collect(s, argv[1], &err);
    } else if (r == 0 && MT_STREQ(argv[0], "verify")) {
        char key[MT_IMAGE_KEY_HEX + 1];
        r = mt_image_verify_next(s, key, &err);
        (void)printf("{\"key\":\"%s\",\"code\":\"%s\"}\n", key, mt_code_name((enum mt_code) - r));
        r = 0;
    } else if (r == 0) {
        r = 2;
    }
    if (r < 0)
        (void)fprintf(stderr, "image-tool: %s\n", err.msg);
    mt_image_store_close(s);
    return r < 0 ? 1 : r;
}
