/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The volumes of this node: what the plan wants of them, what is there, and what the control plane is told.
 *
 * Loop thread, but for what says "worker". Steps run as jobs, one at a time for one volume; the folder is looked through after each
 * plan and every half minute. Knows the library of agent/volume and no instance: those ask for a volume when they boot.
 * Contract with the control plane: docs/formats/volume-plan.md.
 */
#pragma once

#include "base/err.h"
#include "model/volume.h"

#include <limits.h>

struct mt_agent;
struct mt_backend;
struct mt_fstool;
struct mt_volumes;
struct mt_workload;

/** One mount of a boot attempt. Plain value; the lock belongs to who holds the struct. */
struct mt_attachment {
    char volume_id[MT_ID_SIZE];
    char fs_uuid[MT_VOLUME_UUID_SIZE]; /* "" any */
    uint64_t resize_to_bytes;          /* 0 none */
    bool read_only;
    bool check;                        /* the guest could not mount it the last time */
    char path[PATH_MAX]; /* set by attach, for the VMM */
    int lock;            /* -1 none */
    uint64_t grown_to;   /* set by attach: the size it was grown to, 0 not */
    bool grow_failed;
};

/**
 * Open the storage of `[storage]`. A node without any, or whose storage does not open, runs all the same: the reason is logged and told
 * in the heartbeat, and what needs a volume fails. Returns NULL with @err on lack of memory only.
 */
struct mt_volumes *mt_volumes_new(struct mt_agent *a, struct mt_err *err);
/** After the pools have ended. Volumes stay. */
void mt_volumes_free(struct mt_volumes *v);

/** The agent's plan is another one, or what is there may have changed: look soon. */
void mt_volumes_look_soon(struct mt_volumes *v);
/** Nothing is about to be done for a volume that @w mounts: an attempt may begin (and fail, if the volume is not there). */
bool mt_volumes_settled(const struct mt_volumes *v, const struct mt_workload *w);
/** What the plan of now says about mount @i of @w, for an attempt. */
void mt_volumes_attachment(const struct mt_volumes *v, const struct mt_workload *w, size_t i, struct mt_attachment *ret);
/** Worker. See mt_volume_attach(). @ret_detail static text. */
int mt_volumes_attach(const struct mt_volumes *v, struct mt_attachment *at, const char **ret_detail, struct mt_err *err);
/** Loop or worker. The lock of a volume whose VM is adopted; -MT_E_CONFLICT another has it. */
int mt_volumes_retake(const struct mt_volumes *v, const char *volume_id, int *ret_lock, struct mt_err *err);
/** The lock of @volume_id was given back. */
void mt_volumes_released(struct mt_volumes *v, const char *volume_id);
/** What an attach did to the size, to be told. */
void mt_volumes_grown(struct mt_volumes *v, const struct mt_attachment *at);

/** Up to @max items for a batch, at most one of each volume; strings are borrowed until the loop turns. */
size_t mt_volumes_reports(struct mt_volumes *v, struct mt_volume_report *ret, size_t max);
bool mt_volumes_due(const struct mt_volumes *v);
/** The control plane has item @seq of the volume. */
void mt_volumes_told(struct mt_volumes *v, const char *volume_id, uint64_t seq);
/** It may have lost what it knew: everything is due again. */
void mt_volumes_resync(struct mt_volumes *v);
/** The next number of a report of this node's storage. */
uint64_t mt_volumes_seq(struct mt_volumes *v);
/** Where they are; NULL: no storage is open. */
/** The pool is so full that snapshots are given up for it (storage-and-secrets.md §3.4). */
bool mt_volumes_pool_full(const struct mt_volumes *v);
const struct mt_backend *mt_volumes_backend(const struct mt_volumes *v);
/** A volume got its name otherwise than by a step here (a restore): a look that began before is not believed. */
void mt_volumes_appeared(struct mt_volumes *v);
/** The tools for filesystems, while storage is open. */
const struct mt_fstool *mt_volumes_tools(const struct mt_volumes *v);
/** For the heartbeat; strings are borrowed until the loop turns. */
void mt_volumes_figures(struct mt_volumes *v, struct mt_storage_figures *ret);
/** One line for `moat doctor`: 0 fine, 1 warn. @ret_text and @ret_mend borrowed. */
int mt_volumes_doctor(const struct mt_volumes *v, const char **ret_text, const char **ret_mend);
