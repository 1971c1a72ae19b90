/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host side of the control channel of one VM (runtime.md §9): one connection at a time, lines in and out.
 *
 * Knows the codec and the rules of the transport: peer uid, line bound, sequence, 20 messages/s, silence.
 * What a message means is the instance's business; it is told by one callback. Everything from the guest is
 * untrusted: a breach closes the connection, and the door (door.h) for a second, and is counted.
 */
#pragma once

#include "os/loop.h"
#include "wire/guest.h"

#include <sys/types.h>

struct mt_channel;

enum mt_breach { MT_BREACH_RATE = 0, MT_BREACH_MESSAGE, MT_BREACH_SEQUENCE, MT_BREACH_LINE, MT_BREACH_PEER, MT_BREACH_UNREAD, MT_BREACH_IDENTITY, MT_BREACH_CONNECTS, MT_BREACH_MAX };

struct mt_channel_events {
    /** A well-formed message of the guest; @msg lives during the call. mt_channel_drop and mt_channel_free inside are fine. */
    void (*message)(void *arg, const struct mt_guest_msg *msg);
    /** The connection is gone; the listener goes on, the guest may come back. */
    void (*closed)(void *arg, const char *why);
    /** A rule was broken (before `closed`); NULL: nobody asks. IDENTITY is not of the transport: who reads the messages finds it. */
    void (*breach)(void *arg, enum mt_breach kind);
};

/**
 * Serve @listen_fd (ownership passes in, also on failure). Only peers with uid @vm_uid are let in.
 * NULL and @err on failure.
 */
struct mt_channel *mt_channel_new(struct mt_loop *loop, int listen_fd, uid_t vm_uid, const struct mt_channel_events *ev,
                                  void *arg, struct mt_err *err);
/** Close everything; no callback follows. NULL is fine. */
void mt_channel_free(struct mt_channel *c);

bool mt_channel_connected(const struct mt_channel *c);
/** Whether the guest has said something valid on this very connection. */
bool mt_channel_greeted(const struct mt_channel *c);
/** Send one message; its seq is filled in. -MT_E_UNAVAILABLE without a connection, -MT_E_LIMIT the guest does not read. */
int mt_channel_send(struct mt_channel *c, struct mt_guest_msg *msg, char ret_sha256[65], struct mt_err *err);
/** Close the connection, not the listener. `closed` is called. */
void mt_channel_drop(struct mt_channel *c, const char *why);
/** Monotonic time of the last message, 0 before the first. */
int64_t mt_channel_heard_ns(const struct mt_channel *c);
/** Breaches since the start: for describe. */
uint64_t mt_channel_breaches(const struct mt_channel *c);
/** Its word in metrics and lines. */
const char *mt_breach_word(enum mt_breach kind);
