/* SPDX-License-Identifier: Apache-2.0 */
/* Where a platform on one machine keeps things, and the numbers it keeps from one start to the next. */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <sys/types.h>

#define UP_PATH 256

struct up_users {
    uid_t pg, control, edge, registry, fetch, fsck;
    gid_t moat, pg_gid, registry_gid;
};

struct up_layout {
    char dir[128];      /* absolute; short enough for the sockets below */
    char source[UP_PATH]; /* folder of the running program, where the others lie too */
    char bin[UP_PATH];  /* DIR/bin: our copies, so that unprivileged users reach them wherever the clone is, and a rebuild disturbs nothing */
    char share[UP_PATH]; /* folder of packaging/ (bundle builder) */
    char node_id[40];
    unsigned tls_port;
    unsigned registry_port; /* 0: an outside registry is used */
    char registry[UP_PATH]; /* host:port that images are pushed to and pulled from */
    char listen[64];        /* address of the edge */
    char vmm[16];
    struct up_users users;
};

/** Resolve folders from @data_dir (NULL: /var/lib/moat) and the running program; no files are touched. */
int up_layout_init(struct up_layout *l, const char *data_dir, struct mt_err *err);
/** Read what an earlier start settled (node id, ports); fields stay as they are when there was none. */
int up_layout_load(struct up_layout *l, struct mt_err *err);
int up_layout_save(const struct up_layout *l, struct mt_err *err);
/** Path below the data folder into @ret[UP_PATH]; asserts on overflow (the data folder's length was checked). Returns @ret. */
const char *up_path(const struct up_layout *l, char ret[UP_PATH], const char *below);
/** Make the folders with their owners. */
int up_layout_make(const struct up_layout *l, struct mt_err *err);
/** Copy the programs into l->bin, each replaced by rename when it differs; -MT_E_NOT_FOUND names the one that is missing. */
int up_programs_install(const struct up_layout *l, struct mt_err *err);
/** Make the system users that are missing and look up their ids (ruling R30). */
int up_users_make(struct up_users *ret, struct mt_err *err);
/**
 * A line vm_dns with the name servers of this machine that its VMs can ask as well, those with a public IPv6 address, of the first of @files that names
 * one: the second is what stands behind the stub of systemd-resolved. At most three; none: no line.
 */
void up_name_servers(const char *const *files, size_t n_files, struct mt_buf *b);
/** Write etc/{control,agent,edge,cli}.toml and registry.yml. */
int up_config_write(const struct up_layout *l, struct mt_err *err);
/** Settle ports that are not settled yet: the edge's TLS port and the registry's (free ones). */
int up_choose_ports(struct up_layout *l, bool own_registry, struct mt_err *err);
