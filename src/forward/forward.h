/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-forward: one receiver of log lines, served by one short-lived, confined child of the agent (docs/formats/log-forward.md).
 *
 * main.c     frames from the agent, batches that are held, answers
 * conf.c     the configuration frame
 * dial.c     a connection under the rule of addresses
 * syslog.c   RFC 5424 over TCP or TLS (RFC 5425)
 * otlp.c     OTLP/HTTP with JSON, by libcurl
 * render.c   records as receivers read them (pure)
 */
#pragma once

#include "forward/render.h"

#include <sys/socket.h>
#include <sys/types.h>

#define MT_FORWARD_STALL_MS 30000      /* a receiver that takes nothing for so long has failed */
#define MT_FORWARD_CONNECT_MS 10000
#define MT_FORWARD_REPLY_MAX (64U << 10) /* bytes of an answer; more is no answer */

struct mt_forward_conf {
    bool otlp;
    char *host;       /* syslog */
    uint16_t port;
    bool tls;
    char *url;        /* otlp */
    char *headers;    /* "Name: value" lines, NULL none */
    char *ca_file, *cert_file, *key_file; /* NULL: the system's trust, no certificate */
    char *node;
    bool any_address; /* the operator named the target: it may be anywhere */
    uint64_t message_max; /* bytes of a syslog message */
    uid_t uid;
    gid_t gid;
};
/** -MT_E_INVALID, -MT_E_NOMEM. */
int mt_forward_conf_parse(const char *text, size_t n, struct mt_forward_conf *ret, struct mt_err *err);
void mt_forward_conf_done(struct mt_forward_conf *c);

/** A batch that the agent is owed an answer for. */
struct mt_batch {
    uint64_t id;
    uint8_t *body; /* records, owned */
    size_t len;
    bool sent;
    int64_t taken_ns; /* syslog: since when the receiver's kernel has all of it; 0: not yet */
    size_t done;      /* otlp: bytes of the body whose records were taken already */
    uint32_t rejected;
    char why[MT_LOGFWD_TEXT_MAX + 1];
};

/** May a tenant's target have this address? */
bool mt_forward_may(const struct mt_forward_conf *c, const struct sockaddr *a, socklen_t n);
/** Non-blocking connection. -MT_E_UNAVAILABLE, -MT_E_TIMEOUT, -MT_E_DENIED the address rule said no. */
int mt_forward_dial(const struct mt_forward_conf *c, int *ret_fd, struct mt_err *err);

struct mt_syslog;
struct mt_syslog *mt_syslog_new(const struct mt_forward_conf *c, struct mt_err *err);
/** Send @b whole. Connects first when needed. -code: the connection is gone, everything unanswered is to be sent again. */
int mt_syslog_send(struct mt_syslog *s, struct mt_batch *b, struct mt_err *err);
/** Look at the connection: read what came, see whether the receiver's kernel has what was sent (*ret_taken). -code as above. */
int mt_syslog_look(struct mt_syslog *s, bool *ret_taken, struct mt_err *err);
/** To be polled for reading beside standard input; -1. */
int mt_syslog_fd(const struct mt_syslog *s);

struct mt_otlp_client;
struct mt_otlp_client *mt_otlp_new(const struct mt_forward_conf *c, struct mt_err *err);
/** Post what is left of @b, in requests of at most 1 MiB. 0: all was taken or refused for good (@b->rejected, @b->why). -code: try again later,
 * after *@ret_after_s when that is not 0. */
int mt_otlp_send(struct mt_otlp_client *o, struct mt_batch *b, unsigned *ret_after_s, struct mt_err *err);

/** No more privileges from here on; after the configuration is read, before the first byte goes to the network. */
int mt_forward_sandbox(uid_t uid, gid_t gid, struct mt_err *err);
