/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one way a request changes anything: prepare a command from rows, append it, answer. Idempotency, replays, stale rows
 * and unique names are handled here, once (control-plane.md §6.3, §7).
 */
#pragma once

#include "control/api/call.h"

/** What a prepared command will answer when it is appended. */
struct mt_api_made {
    json_t *object;        /* owned; "created_at" and "updated_at" members are filled with the event's time when present */
    int status;            /* 200 or 201 */
    char location[224];    /* "" = none */
    const char *operation; /* "app.create", for the receipt */
    json_t *ids;           /* owned; resource_ids of the receipt, or NULL */
    json_t *next;          /* owned; next[] of the receipt, or NULL */
    bool version_is_event; /* resource_version of the object is the command's last event id */
    bool nothing;          /* there is nothing to append: @object is the whole answer */
    bool dry_run;          /* everything was checked; answer with the events that would come, append nothing */
    json_t *desired;       /* owned; desired{} of the receipt, or NULL */
    const char *secret_name; /* member of the answer that is shown this once, or NULL: a replay has null there */
    char secret[400];
    unsigned fill_times; /* set by mt_api_mutate: which of created_at, updated_at wait for the event's time */
};

/**
 * Load rows, check, add events to @cmd, fill @made. Runs again when a row it relied on changed meanwhile.
 * Returns 0 or -1 (problem recorded).
 */
typedef int mt_prepare_fn(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made);

/** Carry out one mutation and answer it. */
int mt_api_mutate(struct mt_api_call *c, mt_prepare_fn *prepare);

/** Add an event with the envelope ids of the call's org, app and env. @payload is taken. Returns 0 or -1. */
int mt_api_event(struct mt_api_call *c, struct mt_cmd *cmd, enum mt_ev ev, const char *aggregate_id, json_t *payload);

/** Add {label, command} to next[] of the receipt. */
void mt_api_next(struct mt_api_made *made, const char *label, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/** The answer of a DELETE: {ok, already_deleted}; with @gone nothing is appended. */
void mt_api_deleted(struct mt_api_made *made, const char *operation, const char *id_name, const char *id, bool gone);

/** True with ?dry_run=true: checks run, nothing is appended. Call before mt_api_query_done. */
int mt_api_dry_run(struct mt_api_call *c, bool *ret);
