/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restore jobs of the plan: a backup becomes a new volume, and the control plane is told how that goes.
 *
 * Loop thread. One job at once; the work is agent/backup/restore.h, which goes on where a killed agent was. What fails or is not wanted any
 * more is removed before that is told. docs/formats/volume-plan.md, storage-and-secrets.md 5.1.
 */
#pragma once

#include "model/volume.h"

struct mt_agent;
struct mt_backend;
struct mt_restores;

/** @backend: of the agent's volumes, open until after mt_restores_free. NULL and @err without memory. */
struct mt_restores *mt_restores_new(struct mt_agent *a, const struct mt_backend *backend, struct mt_err *err);
/** Break off what runs (the next agent goes on with it). Before the loop ends. */
void mt_restores_free(struct mt_restores *r);

/** The plan is another one. */
void mt_restores_look_soon(struct mt_restores *r);
/** A job fills this volume: it is told to end, and the caller asks again. False: nothing does. */
bool mt_restores_in_the_way(struct mt_restores *r, const char *volume_id);

/** The platform ends here: break a probe off. True while its VM may be there. */
bool mt_restores_end_probe(struct mt_restores *r);
/** Jail or scratch disk @name is of a probe that runs, or that nobody has looked at yet. */
bool mt_restores_explain(const struct mt_restores *r, const char *name);
/** Bytes that a probe's VM has now, without what the monitor adds; 0 none runs. */
uint64_t mt_restores_memory(const struct mt_restores *r);

/** As those of volumes.h, for the list `restores` of a batch. */
size_t mt_restores_reports(struct mt_restores *r, struct mt_restore_report *ret, size_t max);
bool mt_restores_due(const struct mt_restores *r);
void mt_restores_told(struct mt_restores *r, const char *restore_id, uint64_t seq);
void mt_restores_resync(struct mt_restores *r);
