/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshot jobs of the plan: quiesce through the guest, image, backup by moat-backup, and what the control plane is told.
 *
 * Loop thread. Two jobs at once; one is a row of stages (docs/formats/volume-plan.md, storage-and-secrets.md 4.2, 4.3, 4.8). An image outlives
 * kills of the agent: its job goes on from there, by the journal, for a day. The image of the newest success stays, the next builds on it.
 */
#pragma once

#include "model/volume.h"
#include "wire/guest.h"

struct mt_agent;
struct mt_backend;
struct mt_backups;

/** @backend: of the agent's volumes, open until after mt_backups_free; NULL: no storage, no jobs. NULL and @err without memory. */
struct mt_backups *mt_backups_new(struct mt_agent *a, const struct mt_backend *backend, struct mt_err *err);
/** Break off what runs (the next agent goes on with it). Before the loop ends. */
void mt_backups_free(struct mt_backups *b);

/** The plan is another one. */
void mt_backups_look_soon(struct mt_backups *b);
/** The guest of @instance_id says how it stands with a volume. */
void mt_backups_quiesced(struct mt_backups *b, const char *instance_id, const struct mt_guest_quiesced *q);
/** A job works on the volume: it is told to end, and the caller asks again. False: nothing does. */
bool mt_backups_in_the_way(struct mt_backups *b, const char *volume_id);
/** Worker: what is kept of a volume that is being removed. Not while a job works on it. */
int mt_backups_forget(const struct mt_backups *b, const char *volume_id, struct mt_err *err);
/** How full the pool is, in percent: what waits, and what is given up (storage-and-secrets.md 3.4). */
void mt_backups_pressure(struct mt_backups *b, unsigned percent);
/** A store is set up and may be used. */
bool mt_backups_ready(struct mt_backups *b);

/** As those of volumes.h, for the list `snapshots` of a batch. */
size_t mt_backups_reports(struct mt_backups *b, struct mt_snapshot_report *ret, size_t max);
bool mt_backups_due(const struct mt_backups *b);
void mt_backups_told(struct mt_backups *b, const char *snapshot_id, uint64_t seq);
void mt_backups_resync(struct mt_backups *b);
