/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One cgroup per VM, on v2 or, where only v1 controllers exist, in the same place below each v1 hierarchy (ruling R5).
 * Knows files, not VMs. Names are single path components chosen by us; limits come from the caller.
 * Everything hangs on the mount table that mt_cgroup_open reads, so tests give it a table that points into a scratch folder.
 */
#pragma once

#include "base/err.h"

enum mt_cgroup_ctrl {
    MT_CGROUP_MEMORY = 0,
    MT_CGROUP_CPU,
    MT_CGROUP_PIDS,
    MT_CGROUP_CPUACCT, /* v1 only */
    MT_CGROUP_FREEZER, /* v1 only */
    MT_CGROUP_CTRL_MAX
};
enum { MT_CGROUP_PATH = 384, MT_CGROUP_NAME_MAX = 64, MT_CGROUP_JOIN_MAX = MT_CGROUP_CTRL_MAX };

struct mt_cgroup_host {
    int version;                                      /* 1 or 2 */
    char parent[128];                                 /* "moat.slice/instances" */
    char mount[MT_CGROUP_CTRL_MAX][MT_CGROUP_PATH];   /* v2: all the same; v1: "" where the controller is missing */
};

struct mt_cgroup_limits {
    uint64_t memory_bytes;
    uint32_t cpu_weight; /* v2 scale 1..10000; v1 gets cpu.shares = 2 + (weight - 1) * 262142 / 9999 */
    uint32_t pids_max;
};

struct mt_cgroup_usage {
    uint64_t cpu_ns, memory_bytes, memory_peak_bytes, oom_kills;
    uint64_t read_bytes, write_bytes; /* of disks, v2 only */
};

/**
 * Find the hierarchies. v2 when the unified mount offers cpu and memory, else v1.
 *
 * @mountinfo  NULL: /proc/self/mountinfo
 * @parent     path below each mount that holds the groups; made when the first group is
 * Returns 0; -MT_E_UNAVAILABLE neither version has both cpu and memory.
 */
int mt_cgroup_open(struct mt_cgroup_host *host, const char *mountinfo, const char *parent, struct mt_err *err);

/** Make the parents and, on v2, enable the controllers in them (the jailer makes only its own group). */
int mt_cgroup_setup(const struct mt_cgroup_host *host, struct mt_err *err);

/** Make group @name with its limits; on v2 enable the controllers from the mount down. An existing group gets the limits anew. */
int mt_cgroup_create(const struct mt_cgroup_host *host, const char *name, const struct mt_cgroup_limits *limits, struct mt_err *err);

/**
 * Give the group @name its limits anew when they are gone, as they are after a controller was taken from the parent and given back: no limit of memory or
 * processes, another weight. On v1 nobody can, and nothing is done.
 * Returns 1 they were gone; 0; -MT_E_NOT_FOUND no such group; -MT_E_IO.
 */
int mt_cgroup_limit(const struct mt_cgroup_host *host, const char *name, const struct mt_cgroup_limits *limits, struct mt_err *err);

/**
 * See to what a service manager may have rewritten, on v2: the controllers in each folder down to the parent, and the parent's own limit of memory, a
 * backstop that the groups in it never reach together. Makes no group: without the parent there is nothing to see to.
 * Returns 1 a controller was missing and is there again; 0; -MT_E_IO.
 */
int mt_cgroup_mend(const struct mt_cgroup_host *host, uint64_t backstop_bytes, struct mt_err *err);

/**
 * Open the cgroup.procs files a child writes "0" to before its exec.
 * @ret_fd  filled up to *ret_count, the rest -1; owned by the caller, close-on-exec
 */
int mt_cgroup_join_fds(const struct mt_cgroup_host *host, const char *name, int ret_fd[MT_CGROUP_JOIN_MAX], size_t *ret_count,
                       struct mt_err *err);

/** How much work that nobody waits for gets beside the VMs. */
enum mt_cgroup_yield {
    MT_CGROUP_YIELD_WHOLLY = 0, /* idle policy: only what is left over */
    MT_CGROUP_YIELD_MOSTLY      /* a tenth of one CPU: on a machine that is always full it still comes to its end */
};

/**
 * Make or change the group "<what>.<last part of the parent>" beside the VMs' parent, of the cpu controller alone. Idle policy within one group says nothing
 * to another one: that is why processes of low priority need a group that is.
 *
 * @what      one word: what works there
 * @one_cpu   at most one CPU's worth of time; else as many as are idle
 * @ret_procs file that a child writes "0" to before its exec; MT_CGROUP_PATH * 2 bytes
 * -MT_E_IO: it cannot be made (cgroups that are read-only).
 */
int mt_cgroup_work(const struct mt_cgroup_host *host, const char *what, enum mt_cgroup_yield yield, bool one_cpu, char ret_procs[MT_CGROUP_PATH * 2], struct mt_err *err);

/** Remove that group when no process is in it any more (up to 1 s is waited for that), and its parents as far as they are empty. */
void mt_cgroup_work_remove(const struct mt_cgroup_host *host, const char *what);

/** Add a running process. */
int mt_cgroup_join(const struct mt_cgroup_host *host, const char *name, int pid, struct mt_err *err);

/** Processes in the group now (0 when it does not exist). */
int mt_cgroup_count(const struct mt_cgroup_host *host, const char *name, size_t *ret, struct mt_err *err);

/** Kill all of it and wait until it is empty: cgroup.kill on v2; freeze, SIGKILL each, thaw on v1. -MT_E_TIMEOUT. */
int mt_cgroup_kill(const struct mt_cgroup_host *host, const char *name, int64_t timeout_ms, struct mt_err *err);

/** Remove the empty group; a missing one is success. Waits up to 1 s for dying processes to leave it. */
int mt_cgroup_remove(const struct mt_cgroup_host *host, const char *name, struct mt_err *err);

/** Remove the parents as far as they are empty (end of the platform on this machine). */
void mt_cgroup_remove_parents(const struct mt_cgroup_host *host);

/** Figures of the group; what cannot be read is 0. -MT_E_NOT_FOUND when there is no such group. */
int mt_cgroup_usage(const struct mt_cgroup_host *host, const char *name, struct mt_cgroup_usage *ret, struct mt_err *err);

/** Folder of @name in the memory hierarchy, for listing and messages. @name "" is the parent itself. -MT_E_LIMIT too long. */
int mt_cgroup_path(const struct mt_cgroup_host *host, enum mt_cgroup_ctrl ctrl, const char *name, char *ret, size_t size,
                   struct mt_err *err);
