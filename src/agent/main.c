/* SPDX-License-Identifier: Apache-2.0 */
/* moat-agent: arguments, configuration, then the loop. See agent.h. */
#include "agent/agent.h"
#include "agent/ctl.h"

#include "agent/flowscmd.h"
#include "agent/identity/identity.h"
#include "agent/instance/steps.h"
#include "agent/local.h"
#include "base/log.h"
#include "os/lockmem.h"
#include "wire/stop_all.h"

#include <getopt.h>

#define STOP_ALL_MS 60000

static const char usage[] =
    "usage: moat-agent --config FILE [--check-config]\n"
    "       moat-agent --config FILE join --control HOST:PORT --token -|@FILE [--name NAME] [--endpoint ADDRESS:PORT]...\n"
    "                   make this machine a node: the token of `moat node token create` from stdin or a file\n"
    "       moat-agent --config FILE is-node    ends with 0 when this machine is a node\n"
    "       moat-agent --config FILE flows [--since TIME] [--until TIME] [--address IPV6] [--port N]\n"
    "                   which VM here sent what to whom, with the source that the world saw; each reading is recorded\n"
    "       moat-agent --config FILE stop-all   the agent that runs here stops every instance and gives the host back\n"
    "       moat-agent --config FILE ctl list | describe ID | console ID | initlog ID | logs ID | state [ID] | verify-image DIGEST | gc | drain [REASON] | doctor\n"
    "                   what the agent of this machine knows, a JSON object a line; describe, console and logs of an instance, state and\n"
    "                   disks as they lie on this machine, gc: look at once for what nothing needs any more\n"
    "       moat-agent --config-help   print every configuration key as a commented file\n"
    "       moat-agent --list-steps    print the recorded steps at which MT_TEST_KILL_STEP can end the agent\n"
    "       moat-agent --version\n";

enum { OPT_CONFIG = 1, OPT_CHECK, OPT_KEYS, OPT_STEPS, OPT_VERSION, OPT_HELP, OPT_CONTROL, OPT_TOKEN, OPT_NAME, OPT_ENDPOINT };

static const struct option options[] = {
    {"config", required_argument, NULL, OPT_CONFIG}, {"check-config", no_argument, NULL, OPT_CHECK},
    {"config-help", no_argument, NULL, OPT_KEYS},    {"list-steps", no_argument, NULL, OPT_STEPS},
    {"version", no_argument, NULL, OPT_VERSION},     {"help", no_argument, NULL, OPT_HELP},
    {"control", required_argument, NULL, OPT_CONTROL}, {"token", required_argument, NULL, OPT_TOKEN},
    {"name", required_argument, NULL, OPT_NAME},     {"endpoint", required_argument, NULL, OPT_ENDPOINT},
    {NULL, 0, NULL, 0},
};

/* The token, from stdin ("-") or a file ("@FILE"): on a command line everybody on the machine could read it. */
static int read_token(const char *from, char ret[512], struct mt_err *err)
{
    FILE *f = strcmp(from, "-") == 0 ? stdin : *from == '@' ? fopen(from + 1, "re") : NULL;
    if (!f)
        return *from == '@' ? MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", from + 1)
                            : MT_FAIL(err, MT_E_INVALID, "a token on the command line can be read by everybody on this machine: give it by stdin (--token -)"
                                      " or in a file (--token @FILE)");
    size_t n = fread(ret, 1, 511, f);
    if (f != stdin)
        (void)fclose(f);
    ret[n] = '\0';
    ret[strcspn(ret, " \r\n")] = '\0';
    return *ret ? 0 : MT_FAIL(err, MT_E_INVALID, "there is no token in what was given");
}

static int join(const char *path, struct mt_join *j, const char *token_from)
{
    struct mt_agent_conf conf;
    struct mt_err err = {0};
    char token[512] = "";
    char *text = NULL;
    int rc = mt_agent_conf_load(path, &conf, &err);

    if (rc == 0) {
        j->data_dir = conf.data_dir;
        j->control = j->control ? j->control : conf.control_address;
        j->token = token;
        if (j->n_endpoints == 0) {
            j->endpoints = (const char *const *)conf.mesh_endpoints.v;
            j->n_endpoints = conf.mesh_endpoints.n;
        }
        if (!j->control)
            rc = MT_FAIL(&err, MT_E_INVALID, "which control plane? --control HOST:PORT, as `moat node token create` says");
        else if (!token_from)
            rc = MT_FAIL(&err, MT_E_INVALID, "--token - or --token @FILE is missing");
        else if ((rc = read_token(token_from, token, &err)) == 0)
            rc = mt_identity_join(j, &text, &err);
        mt_agent_conf_done(&conf);
    }
    explicit_bzero(token, sizeof token);
    j->token = NULL;
    if (rc < 0)
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
    else
        (void)puts(text);
    free(text);
    return rc == 0 ? 0 : err.code == MT_E_INVALID ? 2 : 1;
}

/* Is it a node, for the service's condition: one that is none yet has nothing to do and no failure to report. */
static int is_node(const char *path)
{
    struct mt_agent_conf conf;
    struct mt_err err = {0};
    int rc = mt_agent_conf_load(path, &conf, &err);
    if (rc == 0) {
        rc = mt_local_is_node(&conf, &err);
        mt_agent_conf_done(&conf);
    }
    if (rc < 0)
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
    return rc < 0;
}

static int stop_all(const char *path)
{
    struct mt_agent_conf conf;
    struct mt_err err = {0};
    int rc = mt_agent_conf_load(path, &conf, &err);
    if (rc == 0) {
        rc = mt_stop_all(conf.admin_socket, STOP_ALL_MS, &err);
        mt_agent_conf_done(&conf);
    }
    if (rc < 0)
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
    return rc < 0;
}

static int ctl(const char *path, int argc, char *const *argv)
{
    struct mt_agent_conf conf;
    struct mt_err err = {0};
    if (mt_agent_conf_load(path, &conf, &err) < 0) {
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
        return 2;
    }
    int code = mt_ctl(&conf, argc, argv);
    mt_agent_conf_done(&conf);
    return code;
}

static int run(const char *path, bool check)
{
    struct mt_agent_conf conf;
    struct mt_identity *identity = NULL;
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
    if (mt_local_identity(&conf, &identity, &err) < 0) {
        (void)fprintf(stderr, "moat-agent: %s\n", err.msg);
        return 2;
    }
    if (!mt_kill_init(getenv("MT_TEST_KILL_STEP"))) {
        (void)fprintf(stderr, "moat-agent: MT_TEST_KILL_STEP names no step; --list-steps prints them\n");
        return 2;
    }
    mt_process_hide(); /* it holds secrets of its instances */
    int rc = mt_agent_run(&conf, identity, &err);
    if (rc < 0) {
        mt_log(MT_ERROR, "agent.failed", KV_ERR(&err));
        return 1;
    }
    return rc;
}

int main(int argc, char **argv)
{
    const char *config = NULL, *token = NULL;
    const char *endpoints[4];
    struct mt_join how = {.endpoints = endpoints};
    bool check = false;
    size_t n;

    if (argc > 3 && strcmp(argv[1], "--config") == 0 && strcmp(argv[3], "flows") == 0)
        return mt_flows_command(argv[2], argc - 4, argv + 4);
    for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (opt) {
        case OPT_CONFIG:
            config = optarg;
            break;
        case OPT_CONTROL:
            how.control = optarg;
            break;
        case OPT_TOKEN:
            token = optarg;
            break;
        case OPT_NAME:
            how.name = optarg;
            break;
        case OPT_ENDPOINT:
            if (how.n_endpoints == 4) {
                (void)fputs("moat-agent: at most 4 endpoints\n", stderr);
                return 2;
            }
            endpoints[how.n_endpoints++] = optarg;
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
    if (config && optind + 1 == argc && strcmp(argv[optind], "join") == 0)
        return join(config, &how, token);
    if (config && optind + 1 == argc && strcmp(argv[optind], "is-node") == 0)
        return is_node(config);
    if (config && optind + 1 == argc && strcmp(argv[optind], "stop-all") == 0)
        return stop_all(config);
    if (config && optind < argc && strcmp(argv[optind], "ctl") == 0)
        return ctl(config, argc - optind - 1, argv + optind + 1);
    if (!config || optind != argc) {
        (void)fputs(usage, stderr);
        return 2;
    }
    return run(config, check);
}
