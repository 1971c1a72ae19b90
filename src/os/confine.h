/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program takes from itself before it reads hostile bytes: its user, its privileges, its system calls. Privileges only ever
 * shrink here. A library of its own, so that only programs that confine themselves link libseccomp.
 * Sources: prctl(2), seccomp(2), seccomp_rule_add(3); scheduling-and-operations.md 10.6.
 */
#pragma once

#include "base/err.h"

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** Become @uid:@gid without groups when root and @uid is not 0. Always: no_new_privs, no core dumps, SIGKILL when the parent dies.
 * -MT_E_IO; -MT_E_CANCELLED the parent was gone already. */
int mt_confine_user(uid_t uid, gid_t gid, struct mt_err *err);
/** SIGKILL when @parent (0: whoever it is) dies. Is forgotten by every change of user and fork, so to be asked for again. Errors as above. */
int mt_confine_die_with_parent(pid_t parent, struct mt_err *err);

/* A call that is allowed when `arg & mask == value`. Several of one call: any of them. */
struct mt_confine_rule {
    int nr; /* SCMP_SYS(...) */
    unsigned arg;
    uint64_t mask, value;
};

struct mt_confine_calls {
    const int *allowed; /* SCMP_SYS(...) */
    size_t n_allowed;
    const int *deadly; /* end the process whatever `otherwise_kill` is */
    size_t n_deadly;
    const struct mt_confine_rule *rules;
    size_t n_rules;
    bool otherwise_kill; /* what is not named ends the process; false: it fails with ENOSYS, as on a kernel that does not know it */
    const struct mt_confine_calls *also; /* NULL or lists that count too; its `otherwise_kill` and `also` do not. No call in both */
};

/** Put the filter on all threads of this process, which must have no_new_privs. -MT_E_IO, -MT_E_NOMEM: none is in force. */
int mt_confine_calls(const struct mt_confine_calls *c, struct mt_err *err);

/** The filter of a helper that reads files that it has open, resolves names, runs threads and dials out, and of what @own (may be NULL) allows
 * besides: opening and writing files is always the helper's own. Nothing of it starts a program, mounts, traces or listens. In builds with a
 * sanitizer nothing happens: its runtime makes calls of its own. Errors of mt_confine_calls. */
int mt_confine_client(const struct mt_confine_calls *own, struct mt_err *err);

struct mt_confine_filter {
    struct sock_fprog prog;
    struct sock_filter code[];
};

/** The same filter as a program for a child (struct mt_spawn_sandbox); to be freed with free(). -MT_E_IO, -MT_E_NOMEM. */
int mt_confine_export(const struct mt_confine_calls *c, struct mt_confine_filter **ret, struct mt_err *err);
