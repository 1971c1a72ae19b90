/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/local.h"

#include "agent/config.h"
#include "agent/identity/identity.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"

#include <stdlib.h>

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
