/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes in one box: what the jailer does for Firecracker, done here for moat-vsock and QEMU.
 *
 * The first program becomes PID 1 of a new PID namespace, in a new mount namespace whose root is the jail folder plus a few
 * read-only bind mounts and a small /dev; the second is its child there. Both: own session, uid and gid of the slot, no
 * supplementary groups, no capabilities (bounding set empty), no_new_privs, rlimits, cgroup. Seccomp is theirs to load.
 * Both stop at a gate in front of their exec until the caller has written down who they are.
 * Knows nothing of QEMU. Source: runtime.md §7.6 (confinement).
 */
#pragma once

#include "agent/vmm/vmm.h"

enum { MT_CONFINE_BINDS = 12, MT_CONFINE_NODES = 5, MT_CONFINE_FDS = 4, MT_CONFINE_CGROUPS = 5 };

struct mt_confine_bind {
    const char *source; /* on the host */
    char target[384];   /* host path of the mount point inside the jail folder */
};

struct mt_confine_node {
    const char *name; /* below /dev, e.g. "net/tun" */
    const char *host; /* device to copy the number from */
    mode_t mode;
};

struct mt_confine_program {
    const char *path;         /* as seen inside the jail */
    char *const *argv;        /* NULL terminated */
    int fds[MT_CONFINE_FDS];  /* borrowed; become 3, 4, ... in order */
    size_t fd_count;
};

struct mt_confine {
    const char *root;     /* jail folder, absolute */
    uid_t uid;            /* and gid */
    uint64_t file_bytes;  /* RLIMIT_FSIZE; also bounds the memfd of guest RAM */
    uint32_t open_files;  /* RLIMIT_NOFILE */
    struct mt_confine_bind bind[MT_CONFINE_BINDS];
    size_t bind_count;
    struct mt_confine_node node[MT_CONFINE_NODES];
    size_t node_count;
    int cgroup_fd[MT_CONFINE_CGROUPS]; /* cgroup.procs files, borrowed */
    size_t cgroup_count;
    int stderr_fd;        /* borrowed; both programs' stderr (and stdout) */
    struct mt_confine_program program[2];
};

/** Both processes at their gates. */
struct mt_confined {
    pid_t pid[2];   /* in our PID namespace */
    int pidfd[2];   /* owned */
    int gate[2];    /* owned; private to confine.c */
};
#define MT_CONFINED_NONE ((struct mt_confined){.pidfd = {-1, -1}, .gate = {-1, -1}})

/** Make the box and both processes and bring them to their gates, within 5 s. After a failure nothing is left running. */
int mt_confine_start(const struct mt_confine *c, struct mt_confined *ret, struct mt_err *err);

/** Let both exec; waits until both have. After a failure call mt_confine_kill. */
int mt_confine_release(struct mt_confined *c, struct mt_err *err);

/** End both and reap them. */
void mt_confine_kill(struct mt_confined *c);

/** Close descriptors; ends nothing that was released. A process still at its gate ends. */
void mt_confined_done(struct mt_confined *c);

/**
 * Every thread of @pid has seccomp mode 2, no_new_privs 1, no effective, permitted, inheritable or ambient capability, and all
 * four uids equal @uid. -MT_E_DENIED names the first thread and line that does not; -MT_E_NOT_FOUND the process is gone.
 */
int mt_confine_check(pid_t pid, uid_t uid, struct mt_err *err);
