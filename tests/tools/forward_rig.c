/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's forwarding of log lines without an agent: real store, real sinks, the real moat-forward; lines and faults come from a test
 * (tests/scenario/test_log_forward.py). Commands on standard input, one answer line each.
 *
 *   inst ID ORG APP ENV PROCESS    an instance that writes lines here
 *   put ID N WORD                  N lines "WORD K"
 *   raw ID HEX                     one line of these bytes
 *   sink ID ORG|- CONF PROGRAM     start a sink; CONF is moat-forward's configuration in a file
 *   end ID keep|forget             end it
 *   state ID                       {"up":..,"waiting":..,"why":..}
 *   totals                         {"lines":..,"lost":..,"refused":..}
 *   sweep                          look at the folders
 */
#include "agent/forward/sink.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MANY = 256, WORDS = 7 };

static struct inst {
    char id[64];
    struct mt_log_store *store;
    struct mt_log_source *source;
} insts[MANY];
static struct named {
    char id[64];
    struct mt_sink *sink;
} sinks[MANY];
static size_t n_insts, n_sinks;
static struct mt_log_sources sources;
static struct mt_sink_totals totals;
static const char *logs_dir, *state_dir;

static struct inst *inst_of(const char *id)
{
    for (size_t i = 0; i < n_insts; i++)
        if (MT_STREQ(insts[i].id, id))
            return &insts[i];
    return NULL;
}

static struct named *sink_of(const char *id)
{
    for (size_t i = 0; i < n_sinks; i++)
        if (MT_STREQ(sinks[i].id, id) && sinks[i].sink)
            return &sinks[i];
    return NULL;
}

static int put(struct inst *in, const void *p, size_t n, struct mt_err *err)
{
    static int64_t now; /* the store's limit of a MiB in a second is not what is tested */
    uint64_t seq;
    now += MT_NS_PER_S;
    const struct mt_log_record r = {.boot = 1, .stream = MT_LOG_STDOUT, .line = p, .len = n};
    int rc = mt_log_append(in->store, &r, now, &seq, err);
    atomic_store(&in->source->last, mt_log_next_seq(in->store) - 1);
    return rc;
}

static int do_one(char **w, size_t n, struct mt_err *err)
{
    struct inst *in;
    if (n == 6 && MT_STREQ(w[0], "inst") && n_insts < MANY) {
        in = &insts[n_insts++];
        (void)snprintf(in->id, sizeof in->id, "%s", w[1]);
        int rc = mt_log_store_open(logs_dir, w[4], w[1], &in->store, err);
        const char *const ids[MT_LOGFWD_IDS] = {w[2], w[3], w[4], w[5], w[1]};
        if (rc == 0)
            in->source = mt_log_source_hold(&sources, ids, mt_log_next_seq(in->store) - 1);
        return rc;
    }
    if (n == 4 && MT_STREQ(w[0], "put") && (in = inst_of(w[1]))) {
        char line[256];
        int rc = 0;
        for (long i = 0, k = strtol(w[2], NULL, 10); rc == 0 && i < k; i++)
            rc = put(in, line, (size_t)snprintf(line, sizeof line, "%s %ld", w[3], i), err);
        return rc;
    }
    if (n == 3 && MT_STREQ(w[0], "raw") && (in = inst_of(w[1]))) {
        size_t k = strlen(w[2]) / 2;
        char *raw = malloc(k + 1);
        int rc = raw ? mt_hex_decode(w[2], k, raw) : -MT_E_NOMEM;
        if (rc == 0)
            rc = put(in, raw, k, err);
        free(raw);
        return rc;
    }
    if (n == 5 && MT_STREQ(w[0], "sink") && n_sinks < MANY) {
        char *conf = NULL;
        size_t len;
        int rc = mt_file_read(w[3], 1 << 20, &conf, &len, err);
        const struct mt_sink_conf c = {.id = w[1], .org_id = MT_STREQ(w[2], "-") ? NULL : w[2], .child = conf, .program = strdup(w[4]), .state_dir = state_dir,
                                       .sources = &sources, .totals = &totals};
        (void)snprintf(sinks[n_sinks].id, sizeof sinks[n_sinks].id, "%s", w[1]);
        if (rc == 0 && (rc = mt_sink_new(&c, &sinks[n_sinks].sink, err)) == 0)
            n_sinks++;
        free(conf);
        return rc;
    }
    struct named *s = n >= 2 ? sink_of(w[1]) : NULL;
    if (n == 3 && s && MT_STREQ(w[0], "end")) {
        mt_sink_free(s->sink, MT_STREQ(w[2], "forget"));
        s->sink = NULL;
        return 0;
    }
    if (n == 2 && s && MT_STREQ(w[0], "state")) {
        struct mt_sink_state st;
        mt_sink_state(s->sink, &st);
        printf("{\"up\":%s,\"waiting\":%" PRIu64 ",\"why\":\"%s\"}\n", st.up ? "true" : "false", st.waiting, st.why);
        return 1;
    }
    if (n == 1 && MT_STREQ(w[0], "totals")) {
        printf("{\"lines\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"refused\":%" PRIu64 "}\n", atomic_load(&totals.lines), atomic_load(&totals.lost), atomic_load(&totals.refused));
        return 1;
    }
    if (n == 1 && MT_STREQ(w[0], "sweep")) {
        mt_log_sources_sweep(&sources);
        return 0;
    }
    return MT_FAIL(err, MT_E_INVALID, "no such command, instance or sink");
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    if (argc != 3)
        return 2;
    logs_dir = argv[1];
    state_dir = argv[2];
    (void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    if (mt_log_sources_init(&sources, logs_dir) < 0)
        return 3;
    mt_log_sources_keep(&sources, true);
    while ((len = getline(&line, &cap, stdin)) > 0) {
        char *w[WORDS] = {0}, *rest = NULL;
        size_t n = 0;
        struct mt_err err = {0};
        for (char *p = strtok_r(line, " \n", &rest); p && n < WORDS; p = strtok_r(NULL, " \n", &rest))
            w[n++] = p;
        int rc = n ? do_one(w, n, &err) : -1;
        if (rc <= 0)
            printf("%s\n", rc == 0 ? "ok" : err.msg);
        (void)fflush(stdout);
    }
    for (size_t i = 0; i < n_sinks; i++)
        mt_sink_free(sinks[i].sink, false);
    free(line);
    return 0;
}
