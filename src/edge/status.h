/* SPDX-License-Identifier: Apache-2.0 */
/* What the edge says of itself: the acknowledgement for the control plane and the metrics text. Reads the hub, changes nothing. */
#pragma once

#include "base/buf.h"
#include "edge/hub.h"

/* The newest offered snapshot that was refused; error "" when none. */
struct mt_edge_rejected {
    char error[240];
};

/** Body of POST /internal/v1/edge/status (docs/formats/edge-config.md 3) at the end of @b. */
int mt_edge_status_json(struct mt_edge_hub *h, const struct mt_edge_rejected *rejected, struct mt_buf *b, struct mt_err *err);
/** Prometheus text (scheduling-and-operations.md 8, rows moat_edge_*) at the end of @b. */
int mt_edge_status_metrics(struct mt_edge_hub *h, struct mt_buf *b, struct mt_err *err);
