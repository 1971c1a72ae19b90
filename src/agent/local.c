/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/local.h"

#include "agent/config.h"
#include "agent/identity/identity.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"
#include "os/sock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char not_yet[] = "this machine is no node yet: run `moat-agent join`, or set control_socket on the control plane's own machine";

/* The id that a machine beside its control plane keeps for itself. Into conf->node_id; @make: write one when there is none. */
static int own_id(struct mt_agent_conf *conf, bool make, struct mt_err *err)
{
    mt_auto_free char *path = mt_asprintf("%s/node-id", conf->agent_dir), *text = NULL;
    char id[MT_ID_SIZE];
    size_t n = 0;
    if (!path)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    int rc = mt_file_read(path, 64, &text, &n, err);
    if (rc == 0) {
        text[strcspn(text, "\n")] = '\0';
        if (mt_id_check(MT_ID_NODE, text, err) < 0)
            return mt_err_wrap(err, "'%s'", path);
        conf->node_id = MT_TAKE(text);
        return 0;
    }
    if (rc != -MT_E_NOT_FOUND || !make)
        return rc;
    char line[MT_ID_SIZE + 1];
    mt_id_new(MT_ID_NODE, id);
    (void)snprintf(line, sizeof line, "%s\n", id);
    if ((rc = mt_file_mkdirs(conf->agent_dir, 0700, err)) < 0 || (rc = mt_file_write(path, line, strlen(line), 0644, err)) < 0)
        return rc;
    conf->node_id = mt_strndup(id, strlen(id));
    return conf->node_id ? 0 : MT_FAIL(err, MT_E_NOMEM, "out of memory");
}

int mt_local_identity(struct mt_agent_conf *conf, struct mt_identity **ret, struct mt_err *err)
{
    int rc = mt_identity_load(conf->data_dir, conf->control_address, ret, err);
    if (rc == -MT_E_NOT_FOUND) {
        if (conf->node_id)
            return 0;
        return conf->beside_control ? own_id(conf, true, err) : MT_FAIL(err, MT_E_INVALID, not_yet);
    }
    if (rc < 0)
        return rc;
    if (conf->node_id && strcmp(conf->node_id, mt_identity_node_id(*ret)) != 0)
        return MT_FAIL(err, MT_E_INVALID, "node_id is '%s', but this machine has joined as %s: take node_id out of the configuration", conf->node_id,
                       mt_identity_node_id(*ret));
    if (!conf->node_id && !(conf->node_id = strdup(mt_identity_node_id(*ret))))
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    return 0;
}

int mt_local_is_node(const struct mt_agent_conf *conf, struct mt_err *err)
{
    struct mt_identity *identity = NULL;
    if (conf->node_id || conf->beside_control)
        return 0;
    int rc = mt_identity_load(conf->data_dir, conf->control_address, &identity, err);
    mt_identity_free(identity);
    return rc == -MT_E_NOT_FOUND ? MT_FAIL(err, MT_E_INVALID, not_yet) : rc;
}

int mt_local_stop_all(const char *socket, int64_t deadline_ms, struct mt_err *err)
{
    char line[128], reply[8192];
    mt_auto_fd int fd = -1;
    int rc = mt_sock_unix_connect(socket, &fd, err);
    if (rc == 0)
        rc = mt_sock_timeout(fd, deadline_ms + 5000, err);
    if (rc < 0)
        return rc;
    int64_t end = mt_clock_mono() + (deadline_ms + 5000) * MT_NS_PER_MS;
    int n = snprintf(line, sizeof line, "{\"op\":\"stop-all\",\"deadline_ms\":%lld}\n", (long long)deadline_ms);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "ask the agent to stop all instances");
    for (size_t got = 0;; got = got == sizeof reply - 1 ? 0 : got) { /* lines of progress, then the end of the stream */
        ssize_t k = recv(fd, reply + got, sizeof reply - 1 - got, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return MT_FAIL_ERRNO(err, errno == EAGAIN ? MT_E_TIMEOUT : MT_E_UNAVAILABLE, "wait for the agent to stop all instances");
        if (mt_clock_mono() > end)
            return MT_FAIL(err, MT_E_TIMEOUT, "the agent did not stop all instances within %lld ms", (long long)deadline_ms);
        got += (size_t)k;
        reply[got] = '\0';
        if (k == 0)
            return strstr(reply, "\"error\"") ? MT_FAIL(err, MT_E_IO, "the agent could not stop everything: %.160s", reply) : 0;
    }
}
