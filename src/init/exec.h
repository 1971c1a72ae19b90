/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exec sessions in the guest: frames in from the host, a process with a terminal or three pipes, frames out (runtime.md 11).
 * Bounded: MT_EXEC_SESSIONS_MAX sessions, one frame each way and one window of input for each. When the host does not read, the
 * process's output is not read either. Knows nothing of grants: the host has checked them.
 */
#pragma once

#include <poll.h>
#include <sys/ioctl.h>

#include "init/workload.h"
#include "wire/exec.h"

enum { MT_EXEC_POLLS = 4, MT_EXEC_SLACK = 8192, MT_EXEC_INPUT = 262144 /**< bytes of a command's pipe for input */ };
/** Bytes of each pipe for output. Under TCG a MiB costs 7 % fewer instructions than with 256 KiB; what nobody reads stays in it. */
enum { MT_EXEC_BULK = 1048576 };
/** Frames of much output that are filled or on their way (a window of vsock's is four), and sends that may be on their way. */
enum { MT_EXEC_SLOTS = 16, MT_EXEC_SENDS = 64 };
/** Head and payload of such a frame: one packet of vsock, for only whole packets go without a copy. */
#define MT_EXEC_SLOT ((size_t)65536)

enum mt_exec_state {
    MT_EXEC_FREE = 0,
    MT_EXEC_OPENING, /**< connected, no OPEN yet */
    MT_EXEC_RUNNING, /**< the process lives, or its output is being drained */
    MT_EXEC_LAST,    /**< EXIT is queued; close when it is out */
    MT_EXEC_GONE,    /**< nobody listens any more: the process group is being ended */
};

struct mt_exec_session {
    enum mt_exec_state state;
    int fd; /**< to the host; -1 gone */
    pid_t pid;
    bool dead, tty;
    int status;                      /**< of waitpid, when dead */
    int stdin_fd, out_fds[2];        /**< -1 closed; with a terminal out_fds[0] and stdin_fd are its master */
    uint8_t *bulk;                   /**< MT_EXEC_SLOTS frames that the kernel sends out of this memory; NULL not made */
    bool pins;                       /**< the socket does so; else it copies */
    size_t slot, frames;             /**< the frame that is sent next, and how many there are from it on */
    size_t bulk_at;                  /**< what of it is sent */
    uint32_t frame_len[MT_EXEC_SLOTS];
    uint32_t sends, sends_done;      /**< sends out of that memory, and those that the kernel is done with */
    uint8_t slot_of[MT_EXEC_SENDS];  /**< of each of these, by its number */
    uint8_t slot_uses[MT_EXEC_SLOTS]; /**< sends that still need it */
    int cgroup_fd;                   /**< its folder, -1: none */
    const char *cgroup_root;         /**< that of struct mt_exec */
    unsigned cgroup_number;
    const char *reason;              /**< an end reason that was decided already, static text, or NULL */
    bool stdin_ended;                /**< end of input was sent; close when the rest is written */
    uint32_t credit, owed;           /**< STDIN bytes the client may send; bytes consumed and not granted again */
    struct winsize size;
    bool resize_due;
    int64_t open_until, resize_at, term_at, kill_at, drain_until, ticked_at;
    size_t in_len, stdin_at, stdin_len, out_at, out_len;
    uint8_t in[MT_EXEC_FRAME_MAX];
    uint8_t stdin_buf[MT_EXEC_WINDOW];
    uint8_t out[MT_EXEC_FRAME_MAX + MT_EXEC_SLACK];
};

struct mt_exec {
    int listen_fd; /**< -1: off */
    size_t max_sessions;
    const char *cgroup_root; /**< a folder of its own is made in here for each session; static text */
    unsigned cgroups; /**< numbers given so far */
    bool ending;      /**< the instance stops: nothing is started any more */
    const struct mt_guest_process *process;
    const struct mt_user *user; /**< of the workload */
    struct mt_exec_session sessions[MT_EXEC_SESSIONS_MAX];
    struct mt_workload_env env; /**< scratch for one spawn */
    uint8_t mem[MT_EXEC_MEM];   /**< scratch for one body */
};

/** Off; sessions free. */
void mt_exec_init(struct mt_exec *x);
/** What is run runs like this @process, as this @user unless the OPEN names another; both borrowed for ever. */
void mt_exec_setup(struct mt_exec *x, const struct mt_guest_process *process, const struct mt_user *user, size_t max_sessions);
/** Listen on vsock @port. -MT_E_UNAVAILABLE. */
int mt_exec_listen(struct mt_exec *x, uint32_t port, struct mt_err *err);
/** Take a connection of the host; one too many is told so and closed. */
void mt_exec_take(struct mt_exec *x, int fd, int64_t now);
/** The instance stops: no new session, and those that end from now on end by `instance_stopped`. */
void mt_exec_stopping(struct mt_exec *x);
/** A child was reaped; false when it is none of a session. */
bool mt_exec_reaped(struct mt_exec *x, pid_t pid, int status, int64_t now);

enum { MT_EXEC_POLLFDS = 1 + MT_EXEC_POLLS * MT_EXEC_SESSIONS_MAX };
/** Fill @fds for poll(). */
void mt_exec_poll(const struct mt_exec *x, struct pollfd fds[MT_EXEC_POLLFDS]);
/** Do what poll() found, and what is due. */
void mt_exec_turn(struct mt_exec *x, const struct pollfd fds[MT_EXEC_POLLFDS], int64_t now);
/** Next deadline, or INT64_MAX. */
int64_t mt_exec_deadline(const struct mt_exec *x);
