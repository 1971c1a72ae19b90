/* SPDX-License-Identifier: Apache-2.0 */
/* Who a machine is that has joined nothing: none yet, or beside its control plane one with an id of its own making. */
#include "agent/local.h"

#include "agent/config.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"
#include "wire/stop_all.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/mtlocal-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    struct mt_err err;
    (void)state;
    return mt_file_remove_tree(AT_FDCWD, dir, &err);
}

static void load(const char *more, struct mt_agent_conf *conf)
{
    struct mt_err err;
    char path[96], text[256];
    (void)snprintf(path, sizeof path, "%s/agent.toml", dir);
    int n = snprintf(text, sizeof text, "data_dir = \"%s\"\n%s", dir, more);
    assert_int_equal(mt_file_write(path, text, (size_t)n, 0600, &err), 0);
    assert_int_equal(mt_agent_conf_load(path, conf, &err), 0);
}

static void a_machine_that_joined_nothing_is_no_node(void **state)
{
    (void)state;
    struct mt_agent_conf conf;
    struct mt_identity *identity = NULL;
    struct mt_err err = {0};
    load("", &conf);
    assert_int_equal(mt_local_is_node(&conf, &err), -MT_E_INVALID);
    assert_int_equal(mt_local_identity(&conf, &identity, &err), -MT_E_INVALID);
    assert_non_null(strstr(err.msg, "moat-agent join"));
    mt_agent_conf_done(&conf);
}

static void beside_its_control_plane_it_keeps_an_id(void **state)
{
    (void)state;
    struct mt_agent_conf conf;
    struct mt_identity *identity = NULL;
    struct mt_err err = {0};
    char id[MT_ID_SIZE];
    load("control_socket = \"/run/moat-control/internal.sock\"\n", &conf);
    assert_int_equal(mt_local_is_node(&conf, &err), 0);
    assert_int_equal(mt_local_identity(&conf, &identity, &err), 0);
    assert_null(identity);
    assert_int_equal(mt_id_check(MT_ID_NODE, conf.node_id, &err), 0);
    (void)snprintf(id, sizeof id, "%s", conf.node_id);
    mt_agent_conf_done(&conf);
    load("control_socket = \"/run/moat-control/internal.sock\"\n", &conf);
    assert_int_equal(mt_local_identity(&conf, &identity, &err), 0);
    assert_string_equal(conf.node_id, id);
    mt_agent_conf_done(&conf);
    /* what stands there and is no id is not replaced: it may be the name that the control plane knows, damaged */
    char path[96];
    (void)snprintf(path, sizeof path, "%s/agent/node-id", dir);
    assert_int_equal(mt_file_write(path, "node_x\n", 7, 0600, &err), 0);
    load("control_socket = \"/run/moat-control/internal.sock\"\n", &conf);
    assert_true(mt_local_identity(&conf, &identity, &err) < 0);
    assert_non_null(strstr(err.msg, "node-id"));
    mt_agent_conf_done(&conf);
}

static void a_node_id_of_the_configuration_is_taken(void **state)
{
    (void)state;
    struct mt_agent_conf conf;
    struct mt_identity *identity = NULL;
    struct mt_err err = {0};
    char path[96];
    load("node_id = \"node_01hz0000000000000000000001\"\ncontrol_socket = \"/run/x.sock\"\n", &conf);
    assert_int_equal(mt_local_is_node(&conf, &err), 0);
    assert_int_equal(mt_local_identity(&conf, &identity, &err), 0);
    assert_string_equal(conf.node_id, "node_01hz0000000000000000000001");
    (void)snprintf(path, sizeof path, "%s/agent/node-id", dir);
    assert_int_equal(access(path, F_OK), -1);
    mt_agent_conf_done(&conf);
}

/* What the agent answers to stop-all, from a child that plays it. */
static int answer(const char *text, struct mt_err *err)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    (void)snprintf(at.sun_path, sizeof at.sun_path, "%s/s%zu", dir, strlen(text));
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s, 1), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char ask[256];
        int fd = accept4(s, NULL, NULL, SOCK_CLOEXEC);
        ssize_t n = read(fd, ask, sizeof ask - 1);
        _exit(n > 0 && memmem(ask, (size_t)n, "\"stop-all\"", 10) && write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : 1);
    }
    (void)close(s);
    int rc = mt_stop_all(at.sun_path, 1000, err);
    (void)waitpid(pid, NULL, 0);
    return rc;
}

static void stop_all_waits_for_the_agents_word(void **state)
{
    (void)state;
    struct mt_err err = {0};
    char path[96];
    assert_int_equal(answer("{\"stopped\":2}\n{\"done\":true}\n", &err), 0);
    assert_int_equal(answer("{\"error\":\"one is stuck\"}\n", &err), -MT_E_IO);
    assert_non_null(strstr(err.msg, "one is stuck"));
    (void)snprintf(path, sizeof path, "%s/nobody", dir);
    assert_int_equal(mt_stop_all(path, 1000, &err), -MT_E_UNAVAILABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_machine_that_joined_nothing_is_no_node, setup, teardown),
        cmocka_unit_test_setup_teardown(beside_its_control_plane_it_keeps_an_id, setup, teardown),
        cmocka_unit_test_setup_teardown(a_node_id_of_the_configuration_is_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(stop_all_waits_for_the_agents_word, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
