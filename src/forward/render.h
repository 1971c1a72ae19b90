/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records as receivers read them: syslog messages (RFC 5424) with octet counts (RFC 5425, RFC 6587), and OTLP/HTTP requests in JSON
 * (ExportLogsServiceRequest). Pure. Lines are bytes of a tenant: what is no UTF-8 becomes U+FFFD, here and nowhere else.
 */
#pragma once

#include "wire/logfwd.h"

#define MT_SYSLOG_MAX_LEAST 1024 /* of the largest message that a receiver takes; structured data alone has some 400 bytes */

/**
 * @r as one message, or as several with part="1/3" when it would be longer than @max bytes. Each is preceded by its octet count.
 * Facility user; stdout is info, stderr err, system notice. HOSTNAME is @node, APP-NAME the process, PROCID the instance, MSGID the stream.
 */
void mt_syslog_put(struct mt_buf *b, const struct mt_logfwd_record *r, const char *node, size_t max);

/** A request that is being made. Zero it; records of one instance in a row share a resource. */
struct mt_otlp {
    struct mt_buf *b;
    const char *node;
    struct mt_logfwd_text instance, process; /* of the resource that is open */
    size_t records;
};
void mt_otlp_begin(struct mt_otlp *o, struct mt_buf *b, const char *node);
void mt_otlp_put(struct mt_otlp *o, const struct mt_logfwd_record *r);
void mt_otlp_end(struct mt_otlp *o);
