/* SPDX-License-Identifier: Apache-2.0 */
/* moat-agent: arguments, configuration, then the loop. See agent.h. */
#include "agent/agent.h"

#include "agent/instance/steps.h"
#include "base/log.h"
#include "os/lockmem.h"

#include <getopt.h>

static const char usage[] =
    "usage: moat-agent --config FILE [--check-config]\n"
    "       moat-agent --config-help   print every configuration key as a commented file\n"
    "       moat-agent --list-steps    print the recorded steps at which MT_TEST_KILL_STEP can end the agent\n"
    "       moat-agent --version\n";

enum { OPT_CONFIG = 1, OPT_CHECK, OPT_KEYS, OPT_STEPS, OPT_VERSION, OPT_HELP };

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG}, {"check-config", no_argument, NULL, OPT_CHECK},
    {"config-help", no_argument, NULL, OPT_KEYS},    {"list-steps", no_argument, NULL, OPT_STEPS},
    {"version", no_argument, NULL, OPT_VERSION},     {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int run(const char *path, bool check)
{
    struct mt_agent_conf conf;
    struct mt_err err = {0};
    enum mt_level level;

    if (mt_agent_conf_load(path, &conf, &err) < 0 || mt_level_parse(conf.log_level, &level, &err) < 0) {
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
        return 2;
    }
    if (check) {
        mt_agent_conf_done(&conf);
        (void)puts("configuration is fine");
        return 0;
    }
    mt_log_init("agent", level, true);
    if (!mt_kill_init(getenv("MT_TEST_KILL_STEP"))) {
        (void)fprintf(stderr, "moat-agent: MT_TEST_KILL_STEP names no step; --list-steps prints them\n");
        return 2;
    }
    mt_process_hide(); /* it holds secrets of its instances */
    int rc = mt_agent_run(&conf, &err);
    if (rc < 0) {
        mt_log(MT_ERROR, "agent.failed", KV_ERR(&err));
        return 1;
    }
    return rc;
}

int main(int argc, char **argv)
{
    const char *config = NULL;
    bool check = false;
    size_t n;

    for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (opt) {
        case OPT_CONFIG:
            config = optarg;
            break;
        case OPT_CHECK:
            check = true;
            break;
        case OPT_KEYS: {
            const struct mt_conf_key *keys = mt_agent_conf_keys(&n);
            mt_conf_help(keys, n, stdout);
            return 0;
        }
        case OPT_STEPS:
            for (size_t i = 0; i < mt_kill_count(); i++)
                (void)puts(mt_kill_name(i));
            return 0;
        case OPT_VERSION:
            (void)puts("moat-agent " MOAT_VERSION);
            return 0;
        case OPT_HELP:
            (void)fputs(usage, stdout);
            return 0;
        default:
            (void)fputs(usage, stderr);
            return 2;
        }
    }
    if (!config || optind != argc) {
        (void)fputs(usage, stderr);
        return 2;
    }
    return run(config, check);
}
