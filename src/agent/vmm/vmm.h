/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one interface between the agent and a virtual machine monitor.
 *
 * Drivers: `firecracker` (+ jailer), `qemu` (+ moat-vsock), `fake` (simulation only). The agent's instance
 * code knows this header and nothing below it; a driver knows processes, jails, cgroups and sockets and
 * nothing about instances, plans or the guest protocol.
 *
 * Life of one VM, one boot attempt, named by its jail id:
 *
 *   prepare -> listen (per vsock port) -> launch -> [check]* -> kill -> teardown
 *                                           |
 *                   record() is called with pid and start time of every process while each of them is still
 *                   held at a gate in front of its exec: write them down, return 0, only then they run.
 *   after an agent crash:  adopt (alive) or kill + teardown (dead, or never recorded)
 *
 * Everything `teardown` and `kill` need is in struct mt_vmm_ids, and of that only `jail_id` is required: every
 * path and cgroup is derived from the configuration and that name, so a state file written before `prepare`
 * is enough to undo whatever part of it happened. All undo steps are idempotent.
 *
 * All calls block, up to seconds (the bound stands at each call); run them in the worker pool. Calls for
 * different jail ids may run at the same time; calls for one jail id may not. A struct mt_vmm is read-only
 * after mt_vmm_open and may be shared by threads.
 *
 * Outliving the agent. VM processes run in their own session and PID namespace, ask for no parent-death
 * signal, and hold no pipe whose other end only the agent has:
 *   qemu         serial goes over a socket pair to moat-vsock, which keeps the last 64 KiB in `console_path`
 *                (a ring file, os/ringfile.h) whether or not an agent lives. moat-vsock is PID 1 of the namespace
 *                QEMU runs in: the kernel ends QEMU when moat-vsock dies, and moat-vsock ends itself when QEMU's
 *                vhost-user socket closes. One unit, with or without an agent.
 *   firecracker  serial (stdout) is a FIFO that Firecracker itself holds open for both directions, non-blocking:
 *                64 KiB, then new bytes are dropped. The driver moves it into the ring file at each `check`,
 *                `console` and `teardown`, and an agent may poll mt_vmm_run.console_fd to move it sooner.
 *
 * Source: runtime.md §1, §5, §7; rulings R2 to R5.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mt_err;
struct mt_vmm; /* one driver with one accelerator, bound to its configuration */

enum { MT_VMM_JAIL_ID_MAX = 64 };    /* characters: letters, digits and '-' only */
enum { MT_VMM_VOLUMES_MAX = 8 };     /* runtime.md §20 */
enum { MT_VMM_BOOT_ARGS_MAX = 2048 };/* bytes of the whole kernel command line, driver's own part included */
enum { MT_VMM_UID_BASE = 200000 };   /* uid = gid = base + slot */
enum { MT_VMM_SLOT_MAX = 65535 };
enum { MT_VMM_PROCS_MAX = 2 };
enum { MT_VMM_CONSOLE_BYTES = 64 * 1024 };

enum mt_vmm_kind { MT_VMM_FIRECRACKER = 0, MT_VMM_QEMU, MT_VMM_FAKE, MT_VMM_KIND_MAX };
enum mt_vmm_accel { MT_VMM_KVM = 0, MT_VMM_TCG, MT_VMM_ACCEL_MAX };

/** Names as they stand in config, reports and doctor: "firecracker", "qemu", "fake"; "kvm", "tcg". */
const char *mt_vmm_kind_name(enum mt_vmm_kind kind);
const char *mt_vmm_accel_name(enum mt_vmm_accel accel);

/** From agent.toml; every string is copied by mt_vmm_open. NULL or 0 takes the default in brackets. */
struct mt_vmm_conf {
    const char *jail_base;        /* absolute, required; jails are <jail_base>/<driver>/<jail id>/root */
    const char *qemu_path;        /* [/usr/bin/qemu-system-x86_64] */
    const char *vsock_path;       /* moat-vsock, absolute; required by the qemu driver */
    const char *firecracker_path; /* [/usr/lib/moat/firecracker] */
    const char *jailer_path;      /* [/usr/lib/moat/jailer] */
    const char *cgroup_parent;    /* below each controller's root ["moat.slice/instances"] */
    const char *cgroup_mountinfo; /* only tests: another file instead of /proc/self/mountinfo */
    char *const *sha256;          /* of monitors that may run VMs, hex; the array stays valid as long as the driver */
    size_t n_sha256;              /* 0: whatever root has installed */
    const char *cpu_template;     /* file with a CPU template for Firecracker, root's; NULL: none */
    bool serial_off;              /* adds 8250.nr_uarts=0: no console at all */
    uint32_t patience;            /* 1..30 [1]: every wait for a monitor or a guest is this many times as long (slow, nested hosts) */
};

/** A disk with its limits; 0 means no limit (ruling R11). */
struct mt_vmm_disk {
    const char *path;      /* regular file (hard-linked into the jail: same filesystem as jail_base) or block node */
    bool read_only;
    uint64_t bytes_per_s;
    uint64_t ops_per_s;
};

/** One VM. All strings borrowed for the length of the call. */
struct mt_vmm_spec {
    const char *jail_id;          /* ULID of the instance, '-', boot sequence; unique for ever */
    uint32_t slot;                /* 0..65535; uid = gid = MT_VMM_UID_BASE + slot */
    uint32_t vcpu_count;          /* 1..32 */
    uint32_t mem_mib;             /* guest memory */
    uint32_t overhead_mib;        /* cgroup memory.max = (mem + overhead) MiB; 16..256 */
    uint32_t cpu_weight;          /* cgroup v2 weight, 1..10000 */
    const char *kernel_path;      /* ELF vmlinux, root-owned 0444 */
    const char *initramfs_path;   /* same */
    const char *boot_args;        /* runtime.md §7.2 including moat.instance=, moat.boot=; the driver adds its own */
    struct mt_vmm_disk root;      /* vda; read_only must be true; may be shared by many VMs */
    struct mt_vmm_disk scratch;   /* vdb; owned by this VM; prepare gives it to the uid, 0600 */
    struct mt_vmm_disk volumes[MT_VMM_VOLUMES_MAX]; /* vdc.. in ascending volume_id */
    size_t volume_count;
    const char *tap;              /* existing persistent tap OWNED BY THE UID (TUNSETOWNER); NULL = no network */
    uint8_t guest_mac[6];
    uint32_t mtu;                 /* told to the guest where the driver can; 0 = not told */
    uint64_t net_rx_bytes_per_s;  /* firecracker only; with qemu the tap has limits (net/limit.h) */
    uint64_t net_tx_bytes_per_s;
    uint64_t net_packets_per_s;   /* each way, likewise */
    const char *console_path;     /* ring file to create, root 0600; required; lives beside the instance state */
    const char *identity_json;    /* text of moat.json in the jail (0400 root), or NULL */
};

/** One process, named in a way that survives a restart of the agent and a reuse of its number. */
struct mt_vmm_proc {
    pid_t pid;
    uint64_t start_ticks; /* field 22 of /proc/PID/stat, clock ticks since boot */
};

/** What the agent writes to state.json. proc[0] is the one whose exit ends the unit. */
struct mt_vmm_ids {
    char jail_id[MT_VMM_JAIL_ID_MAX + 1];
    uint32_t slot;
    size_t proc_count;                         /* 0: nothing recorded yet */
    struct mt_vmm_proc proc[MT_VMM_PROCS_MAX]; /* qemu: moat-vsock, qemu. firecracker: firecracker */
};

/** A running VM as the agent holds it. Start from MT_VMM_RUN_NONE; the fds belong to the holder. */
struct mt_vmm_run {
    struct mt_vmm_ids ids;
    int pidfd[MT_VMM_PROCS_MAX]; /* readable = that process ended; -1 unused. If ANY is readable the VM is over:
                                    call kill, then teardown. proc[0] is the agent's child after launch (reap it
                                    with waitid(P_PIDFD); ECHILD after adopt is fine) */
    int console_fd;              /* readable = call mt_vmm_console to move bytes; -1 when nothing is to be done */
    char console_path[256];
};
#define MT_VMM_RUN_NONE ((struct mt_vmm_run){.pidfd = {-1, -1}, .console_fd = -1})

/** Close the descriptors of @run and make it MT_VMM_RUN_NONE. Ends no process. */
void mt_vmm_run_done(struct mt_vmm_run *run);

/**
 * Called once by launch with every process held before its exec. Make @ids durable, then return 0.
 * Any other result (with @err filled) ends the processes and makes launch fail with it.
 */
typedef int mt_vmm_record_fn(void *user, const struct mt_vmm_ids *ids, struct mt_err *err);

/**
 * Open a driver. Checks binaries and path lengths, finds the cgroup hierarchies, measures the TSC rate once (TCG).
 * It does not prove that a guest runs: that is mt_vmm_probe (probe.h).
 *
 * @ret_vmm  owned by the caller, free with mt_vmm_free
 * Returns 0; -MT_E_NOT_FOUND a binary is missing; -MT_E_UNAVAILABLE /dev/kvm does not open or cgroups are unusable;
 *         -MT_E_INVALID configuration; MT_VMM_FAKE is refused here, only tests can make one.
 */
int mt_vmm_open(const struct mt_vmm_conf *conf, enum mt_vmm_kind kind, enum mt_vmm_accel accel, struct mt_vmm **ret_vmm,
                struct mt_err *err);
void mt_vmm_free(struct mt_vmm *vmm);

/** At the end of the platform on this machine (`moat down`): remove the parent cgroups as far as they are empty. */
void mt_vmm_release(struct mt_vmm *vmm);

enum mt_vmm_kind mt_vmm_kind(const struct mt_vmm *vmm);
enum mt_vmm_accel mt_vmm_accel(const struct mt_vmm *vmm);

/** Version text of the VMM binary, e.g. "7.2.22"; "" when unknown. Borrowed from @vmm. */
const char *mt_vmm_version(const struct mt_vmm *vmm);

/** 1 or 2: which cgroup version holds the VMs (doctor says so, ruling R5). */
int mt_vmm_cgroup_version(const struct mt_vmm *vmm);

/** MiB to add to guest memory for this driver when the operator said nothing: 64 firecracker, 96 qemu. */
uint32_t mt_vmm_default_overhead_mib(const struct mt_vmm *vmm);

/** Longest wait for `hello`, ms: 10000, on TCG 30000 (runtime.md §20), times the patience. */
uint32_t mt_vmm_hello_timeout_ms(const struct mt_vmm *vmm);

/**
 * Build jail folder and cgroup of @spec->jail_id. A leftover of the same name is torn down first, so a repeat is
 * safe. Needs nothing of the VM's network. Blocks <= 1 s.
 *
 * Returns 0; -MT_E_INVALID the spec breaks a rule (named in the message); -MT_E_IO. After a failure call teardown.
 */
int mt_vmm_prepare(struct mt_vmm *vmm, const struct mt_vmm_spec *spec, struct mt_err *err);

/**
 * Make the Unix listener the guest reaches as vsock port @port: <jail>/root/run/v.sock_<port>, 0600, owned by the VM.
 * Between prepare and launch, and again after an agent restart (the old socket file is replaced). Never follows links
 * that the VM's processes may have planted. Check SO_PEERCRED uid = VM uid on each accepted connection.
 *
 * @ret_fd  listening, non-blocking, close-on-exec; owned by the caller
 */
int mt_vmm_listen(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, uint32_t port, int *ret_fd, struct mt_err *err);

/**
 * Connect to vsock @port of the guest (CONNECT handshake of Firecracker's host contract) within @timeout_ms.
 *
 * @ret_fd  connected stream, non-blocking, close-on-exec; owned by the caller
 * Returns 0; -MT_E_UNAVAILABLE nobody listens in the guest; -MT_E_TIMEOUT.
 */
int mt_vmm_connect(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, uint32_t port, int timeout_ms, int *ret_fd,
                   struct mt_err *err);

/**
 * Start the prepared VM. Calls @record while every process is still held, releases them, waits until the monitor
 * answers, and checks that every thread has seccomp mode 2, no_new_privs and no capabilities; if not, the VM is
 * killed. Returns with the guest booting. Blocks <= 10 s (Firecracker: the API calls of runtime.md §7.4), usually < 200 ms.
 *
 * @ret_run  filled on success only, owned by the caller (mt_vmm_run_done)
 * Returns 0; -MT_E_UNAVAILABLE the monitor failed (its own words in the message); -MT_E_TIMEOUT; -MT_E_IO; or what
 *         @record returned. After any failure no process of this VM is left; call teardown.
 */
int mt_vmm_launch(struct mt_vmm *vmm, const struct mt_vmm_spec *spec, mt_vmm_record_fn *record, void *user,
                  struct mt_vmm_run *ret_run, struct mt_err *err);

/**
 * Take over a VM after a restart of the agent: every recorded process must be alive with the recorded start time and
 * the right executable, and all of them: one missing ends the rest. Blocks <= 1 s when it is alive.
 *
 * @console_path  as in the spec, for mt_vmm_console
 * Returns 0 alive, @ret_run filled; -MT_E_NOT_FOUND it is over (nothing is left running; call teardown).
 */
int mt_vmm_adopt(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, const char *console_path, struct mt_vmm_run *ret_run,
                 struct mt_err *err);

/**
 * Is the monitor itself well? QMP query-status or GET /, 2 s. Call every 10 s; guest health is not its business.
 * Returns 0; -MT_E_TIMEOUT it does not answer; -MT_E_UNAVAILABLE it is gone or says the VM is not running.
 */
int mt_vmm_check(struct mt_vmm *vmm, const struct mt_vmm_run *run, struct mt_err *err);

/**
 * End every process of the VM by SIGKILL (cgroup.kill on v2; freeze, signal, thaw on v1; recorded pids first when their
 * start time still fits) and wait until all are gone, at most 5 s. Works from names alone and when nothing runs.
 * Returns 0 nothing is left; -MT_E_TIMEOUT something cannot be ended (`vm_stuck`): keep the resources, try again later.
 */
int mt_vmm_kill(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, struct mt_err *err);

/**
 * Remove jail folder, sockets and cgroup. Kills first if something still runs. Idempotent; needs only jail_id.
 * Leaves the disks themselves, the tap and the console file: they are the caller's.
 */
int mt_vmm_teardown(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, struct mt_err *err);

/** Last bytes of serial output, oldest first. @ret_len <= @size. An absent file gives 0 bytes and no error. */
int mt_vmm_console(struct mt_vmm *vmm, const char *console_path, const struct mt_vmm_run *run, char *buf, size_t size,
                   size_t *ret_len, struct mt_err *err);

/** mt_cgroup_mend on the parent of all VMs. */
int mt_vmm_mend_cgroups(struct mt_vmm *vmm, uint64_t backstop_bytes, struct mt_err *err);
/** The limits of a VM that runs, as launch had them, when they are gone: 1 they were. -MT_E_NOT_FOUND it has no cgroup any more. */
int mt_vmm_limit(struct mt_vmm *vmm, const char *jail_id, uint64_t memory_bytes, uint32_t cpu_weight, struct mt_err *err);

/** Resource use of one VM, from its cgroup; absent figures are 0. */
struct mt_vmm_usage {
    uint64_t cpu_ns;
    uint64_t mem_bytes;
    uint64_t mem_peak_bytes;
    uint64_t read_bytes, write_bytes; /* of the host's disks; 0 with cgroups v1 */
    uint64_t oom_kills; /* > 0 after an end by the host's OOM killer: reason oom_killed/host */
};
int mt_vmm_usage(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, struct mt_vmm_usage *ret_usage, struct mt_err *err);

/**
 * Jail ids this driver still has a folder or a cgroup for: the drift pass compares them with its state (§3).
 * @ret_ids  array of C strings in one allocation, free(*ret_ids); NULL when none
 */
int mt_vmm_list(struct mt_vmm *vmm, char ***ret_ids, size_t *ret_count, struct mt_err *err);
