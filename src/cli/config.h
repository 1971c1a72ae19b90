/* SPDX-License-Identifier: Apache-2.0 */
/* The CLI's configuration file: which platform, which profile, which saved context (control-plane.md §15.2). */
#pragma once

#include "cli/cli.h"

/** Words of a context or profile; each NULL when not said. Owned; cli_conf_done. */
struct cli_conf {
    char *api, *token_file, *ca_file, *pin, *org, *project, *app, *env, *data_dir;
    uint64_t tls_port; /* 0: none given */
};

/**
 * What holds for this call: the profile named by --profile or MOAT_PROFILE, else the keys at the top of the file. The file is
 * MOAT_CONFIG, else $XDG_CONFIG_HOME/moat/config.toml, ~/.config/moat/config.toml; what that one does not say of the platform comes from
 * /etc/moat/cli.toml, of the package moat-control, else /var/lib/moat/etc/cli.toml, which `moat up` writes. Exit code; the error has been printed.
 */
int cli_conf_load(struct cli *c, struct cli_conf *ret);
void cli_conf_done(struct cli_conf *conf);

struct cli_conf_change {
    const char *key;
    const char *value; /* NULL: remove it */
};

/** Change keys of the profile in use (or the top) of the user's own file, which is made with mode 0600 when it is not there; comments and other
 * lines stay. Exit code; *ret_path is the file, malloc'ed. */
int cli_conf_change(struct cli *c, const struct cli_conf_change *changes, size_t n, char **ret_path);
/** Path of the user's own file, malloc'ed; NULL: no memory. */
char *cli_conf_path(void);
