/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exec sessions on the wire: frames and their JSON bodies, for moat-init, moat-agent, moat-control and the CLI.
 *
 * Guest and agent legs carry frames with a header; the WebSocket leg carries the type byte and the payload, its message gives the
 * length. No I/O, no allocation, libc only, so that it links with musl. Knows nothing of processes, terminals or sockets.
 * Source: runtime.md 11.2; docs/formats/guest-channel.md.
 */
#pragma once

#include "wire/guest.h"

#define MT_EXEC_HEAD 8U
#define MT_EXEC_PAYLOAD_MAX ((size_t)65536)
#define MT_EXEC_FRAME_MAX (MT_EXEC_HEAD + MT_EXEC_PAYLOAD_MAX)
#define MT_EXEC_WINDOW 65536U     /**< most STDIN bytes on their way at any time */
#define MT_EXEC_SESSIONS_MAX 4U   /**< in one guest */
#define MT_EXEC_JSON_MAX ((size_t)1024) /**< CONTROL, EXIT, OPENED bodies */
#define MT_EXEC_ARGV_MAX 64
#define MT_EXEC_ENV_MAX 64
#define MT_EXEC_SIZE_MAX 1000U /**< columns and rows */
/** Decode memory that is enough for any accepted body, bytes. */
#define MT_EXEC_MEM ((size_t)256 * 1024)

enum mt_exec_type {
    MT_EXEC_STDIN = 0x01,   /**< client to guest; empty: end of input */
    MT_EXEC_STDOUT = 0x02,  /**< guest to client */
    MT_EXEC_STDERR = 0x03,  /**< guest to client */
    MT_EXEC_CONTROL = 0x10, /**< both */
    MT_EXEC_EXIT = 0x11,    /**< guest to client, the last one */
    MT_EXEC_WINDOW_MORE = 0x12, /**< guest to client: u32be more STDIN bytes */
    MT_EXEC_OPEN = 0x20,    /**< to the guest, the first one */
    MT_EXEC_OPENED = 0x21,  /**< guest to client */
};

/** Who wrote a frame: decides which types are allowed. */
enum mt_exec_from {
    MT_EXEC_FROM_CLIENT = 0,
    MT_EXEC_FROM_GUEST,
};

struct mt_exec_frame {
    uint8_t type; /**< enum mt_exec_type */
    const uint8_t *payload;
    size_t len;
};

/** True when @from may send a frame of @type with @len bytes. */
bool mt_exec_allowed(enum mt_exec_from from, uint8_t type, size_t len);

/** Write the header of a frame. */
void mt_exec_head(uint8_t out[MT_EXEC_HEAD], uint8_t type, size_t len);

/**
 * Read the first frame of @data.
 * @ret_frame  payload points into @data
 * @ret_used   bytes the frame took
 * Returns 0; 1 need more bytes; -MT_E_INVALID or -MT_E_LIMIT: end the session with protocol_error.
 */
int mt_exec_decode(enum mt_exec_from from, const uint8_t *data, size_t len, struct mt_exec_frame *ret_frame, size_t *ret_used,
                   struct mt_err *err);

/* --- bodies; strings of decoded ones live in the decode memory --- */

struct mt_exec_open {
    const char **argv; /**< decoded: argv[argc] == NULL */
    size_t argc;       /**< 1..MT_EXEC_ARGV_MAX */
    struct mt_guest_env *env;
    size_t env_count;
    const char *cwd;  /**< NULL: the workload's */
    const char *user; /**< NULL: the workload's */
    const char *term; /**< NULL: xterm-256color */
    bool tty, stdin_open;
    uint32_t cols, rows; /**< 0: 80 x 24 */
};

enum mt_exec_control_kind {
    MT_EXEC_UNKNOWN = 0, /**< well-formed, of a later version: ignored */
    MT_EXEC_RESIZE,
    MT_EXEC_SIGNAL,
    MT_EXEC_CLOSE,
    MT_EXEC_PING,
    MT_EXEC_PONG,
    MT_EXEC_CONTROL_MAX,
};

struct mt_exec_control {
    enum mt_exec_control_kind kind;
    uint32_t cols, rows;
    const char *signal; /**< INT, TERM, KILL, HUP or QUIT */
    const char *reason; /**< of close: an end reason, or NULL */
    int64_t t;
};

struct mt_exec_exit {
    int exit_code;      /**< 0..255, -1: none */
    const char *signal; /**< name without SIG, or NULL */
    const char *reason; /**< one of runtime.md 11.3 */
    const char *detail; /**< for people, or NULL */
};

/** True for an end reason of runtime.md 11.3. */
bool mt_exec_reason_known(const char *reason);

/**
 * Write a body. @cap MT_EXEC_PAYLOAD_MAX for open, MT_EXEC_JSON_MAX for the others is enough; a detail that does not fit is left out.
 * Returns 0 and @ret_len; -MT_E_INVALID what the decoder would refuse; -MT_E_LIMIT.
 */
int mt_exec_open_encode(const struct mt_exec_open *open, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err);
int mt_exec_control_encode(const struct mt_exec_control *control, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err);
int mt_exec_exit_encode(const struct mt_exec_exit *end, uint8_t *out, size_t cap, size_t *ret_len, struct mt_err *err);

/**
 * Read a body. @mem is reset. Hostile input: never reads past @len, never allocates.
 * Returns 0; -MT_E_INVALID; -MT_E_LIMIT.
 */
int mt_exec_open_decode(const uint8_t *data, size_t len, struct mt_guest_mem *mem, struct mt_exec_open *ret, struct mt_err *err);
int mt_exec_control_decode(const uint8_t *data, size_t len, struct mt_guest_mem *mem, struct mt_exec_control *ret, struct mt_err *err);
int mt_exec_exit_decode(const uint8_t *data, size_t len, struct mt_guest_mem *mem, struct mt_exec_exit *ret, struct mt_err *err);

/** The number of a WINDOW_MORE body (4 bytes). */
uint32_t mt_exec_window(const uint8_t *payload);
