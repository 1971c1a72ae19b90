/* SPDX-License-Identifier: Apache-2.0 */
/* Says where a connection would go, and why, by the same decision that connections get (decide.h). */
#pragma once

#include "edge/hub.h"

#include "base/buf.h"

struct mt_edge_question {
    const char *name;     /* as a client would send it; NULL with a hello */
    const uint8_t *hello; /* first bytes of a connection; NULL with a name */
    size_t hello_len;
    uint16_t port; /* logical listen port */
    const char *address; /* dedicated IPv4 address; NULL: the shared listener */
};

/** JSON, docs/formats/edge-config.md 5. -MT_E_INVALID for a question that makes no sense. */
int mt_edge_explain(struct mt_edge_hub *h, const struct mt_edge_question *q, struct mt_buf *b, struct mt_err *err);
