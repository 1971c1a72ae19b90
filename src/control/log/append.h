/* SPDX-License-Identifier: Apache-2.0 */
/* Writing the event log (control-plane.md §6.3). A worker builds a prepared command (struct mt_cmd): events without ids,
 * what it relied on, its idempotency scope and how to make its reply. The process's one appender puts the commands that
 * wait into one synchronous transaction under the append lock, with projections and idempotency records, and answers after
 * COMMIT. All or nothing per command; event ids are gap-free and in commit order.
 *
 *   mt_cmd_new(&actor, &c, err);
 *   mt_cmd_event(c, MT_EV_APP_CREATED, app_id, &(struct mt_cmd_ids){.org_id = org, .app_id = app_id},
 *                json_pack("{s:s}", "name", name), err);
 *   mt_cmd_rely(c, MT_RELY_ORG, org, NULL, org_version, err);
 *   mt_cmd_idempotency(c, org, actor_id, "POST /v1/orgs/{org}/apps org_1", key, mac, err);
 *   mt_cmd_reply(c, app_reply, arg);
 *   mt_append(appender, c, 5000, &done, err);     (c is the appender's from here on, whatever the result)
 */
#pragma once

#include "base/cleanup.h"

#include "control/log/types.h"
#include "model/quota.h"
#include "pg/pg.h"
#include "wire/metrics.h"

struct mt_cmd;
struct mt_appender;

/** Who acts; strings are copied. */
struct mt_cmd_actor {
    const char *actor_type; /* user, service_principal, node, operator, system */
    const char *actor_id;
    const char *request_id;
    const char *idempotency_key; /* or NULL; goes into the envelope */
};

/** Envelope ids of one event, each filled whenever it applies, else NULL; copied. */
struct mt_cmd_ids {
    const char *org_id, *app_id, *env_id;
};

#define MT_CMD_EVENTS_MAX 256
#define MT_CMD_RELIES_MAX 64

/** One of the five of §6.2? */
bool mt_actor_type_known(const char *type);
/** New empty command; -MT_E_NOMEM, -MT_E_INVALID for an unknown actor type. */
int mt_cmd_new(const struct mt_cmd_actor *actor, struct mt_cmd **ret_cmd, struct mt_err *err);
/** Free a command that was not given to the appender. */
void mt_cmd_free(struct mt_cmd *cmd);
void mt_cmd_freep(struct mt_cmd **cmd);
#define mt_auto_cmd mt_cleanup(mt_cmd_freep)

/** Correlation and cause of the events added after this call; NULL / 0 for none. */
int mt_cmd_cause(struct mt_cmd *cmd, const char *correlation_id, int64_t causation_id, struct mt_err *err);

/**
 * Add an event. @payload is taken (also on error; NULL stands for an empty object) and checked against its schema.
 * Events of a command get consecutive ids in the order of these calls.
 */
int mt_cmd_event(struct mt_cmd *cmd, enum mt_ev ev, const char *aggregate_id, const struct mt_cmd_ids *ids, json_t *payload,
                 struct mt_err *err);

/** An event of a prepared command as it will be written; borrowed from the command. */
struct mt_cmd_event_view {
    enum mt_ev ev;
    const char *aggregate_id, *org_id, *app_id, *env_id; /* ids NULL where they do not apply */
    const char *payload;                                  /* canonical JSON, NUL terminated */
};
/** The @i-th event of the command; false past the end. */
bool mt_cmd_event_at(const struct mt_cmd *cmd, int i, struct mt_cmd_event_view *ret);

/** Rows and natural keys whose state a command relied on. Keys in parentheses. */
enum mt_rely {
    MT_RELY_USER = 0,  /* (user_id) */
    MT_RELY_ORG,       /* (org_id) */
    MT_RELY_PROJECT,   /* (project_id) */
    MT_RELY_APP,       /* (app_id) */
    MT_RELY_ENV,       /* (env_id) */
    MT_RELY_DEPLOY,    /* (deploy_id) */
    MT_RELY_DESIRED,   /* (env_id, process_type) */
    MT_RELY_ROUTE,     /* (route_id) */
    MT_RELY_INSTANCE,  /* (instance_id) */
    MT_RELY_NODE,      /* (node_id) */
    MT_RELY_CLUSTER,   /* (key) of cluster_view */
    MT_RELY_MEMBER,    /* (member_id) */
    MT_RELY_SP,        /* (sp_id) of a service principal */
    MT_RELY_EXEC_SESSION, /* (session_id) */
    MT_RELY_BUNDLE,    /* (bundle_id) of an environment's secrets */
    MT_RELY_VOLUME,    /* (volume_id) */
    MT_RELY_VOLUME_ATTACHMENT, /* (attachment_id) */
    MT_RELY_REGISTRY,  /* (reg_id) of a registry credential */
    MT_RELY_DRAIN,     /* (drain_id) of a log drain */
    MT_RELY_IMAGE_BLOCK, /* (digest) */
    MT_RELY_SNAPSHOT,  /* (snapshot_id) */
    MT_RELY_QUARANTINE, /* (target_id) */
    MT_RELY_RESTORE,   /* (restore_id) of a restore job */
    MT_RELY_MIGRATION, /* (migration_id) of volumes */
    MT_RELY_ENV_IPV4,  /* (env_id): its allocation of an IPv4 address; who relies on none makes one */
    MT_RELY_IPV4_POOL, /* (address) */
    MT_RELY_IPV4_TAKEN, /* (address): the allocation that has it */
    MT_RELY_LEASE,     /* (name); version = epoch of the lease: fences a former leader */
    MT_RELY_ENV_BUNDLE, /* (env_id): only with version 0 = the environment has no secrets; as the names below */
    MT_RELY_KEY_ROTATION, /* ("mesh"): only with version 0 = no node's WireGuard key is being rotated */
    MT_RELY_ORG_NAME,  /* (name): only with version 0 = free among live rows; the same for the next four */
    MT_RELY_PROJECT_NAME, /* (org_id, name) */
    MT_RELY_APP_NAME,     /* (org_id, name) */
    MT_RELY_ENV_NAME,     /* (app_id, name) */
    MT_RELY_RELEASE_CONTENT, /* (app_id, image_digest || ' ' || manifest_hash) */
    /* An owner that is live, version 1: for what is made below it. It does not go stale when the owner is only changed. */
    MT_RELY_ORG_LIVE,     /* (org_id) */
    MT_RELY_PROJECT_LIVE, /* (project_id) */
    MT_RELY_APP_LIVE,     /* (app_id) */
    MT_RELY_ENV_LIVE,     /* (env_id) */
    MT_RELY_VOLUME_LIVE,  /* (volume_id) */
    /* What is live below an owner: version = sum of last_event_id, 0 = nothing. For who takes the owner away. */
    MT_RELY_ORG_APPS,     /* (org_id) */
    MT_RELY_PROJECT_APPS, /* (project_id) */
    MT_RELY_APP_ENVS,     /* (app_id) */
    MT_RELY_ENV_ROUTES,   /* (env_id) */
    MT_RELY_ENV_PROXIED,  /* (env_id): of its routes those whose backends are sent the PROXY header */
    MT_RELY_ENV_VOLUMES,  /* (env_id) */
    MT_RELY_VOLUME_ATTACHMENTS, /* (volume_id) */
    MT_RELY_MAX
};

/**
 * The command holds only if row @key (@key2 where the kind has two) still has resource_version @version.
 * 0 = there is no live row. A soft-deleted row counts as none.
 */
int mt_cmd_rely(struct mt_cmd *cmd, enum mt_rely what, const char *key, const char *key2, int64_t version, struct mt_err *err);

/** Events so far: [{event_type, aggregate_type, aggregate_id, payload}], for a dry run. NULL when memory is out. */
json_t *mt_cmd_events_json(const struct mt_cmd *cmd);
int mt_cmd_n_events(const struct mt_cmd *cmd);

/**
 * A write to an operational table in the same transaction (personal_tokens, ipam_counters...), after the projections.
 * @affected  rows it must touch, -1 for any; another count is a conflict (use it for compare-and-swap).
 * Parameters are copied.
 */
int mt_cmd_side(struct mt_cmd *cmd, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, int64_t affected,
                struct mt_err *err);

/** Scope and request MAC of §7. @org_id "-" when none. */
int mt_cmd_idempotency(struct mt_cmd *cmd, const char *org_id, const char *actor_id, const char *route, const char *key,
                       const uint8_t mac[32], struct mt_err *err);

/**
 * What an idempotency record is found by: 16 bytes of SHA-256 over the whole scope (docs/formats/event-log.md). Ids of at most 200
 * bytes, a route of 400, a key of 128.
 */
#define MT_IDEM_SCOPE_LEN 16
void mt_idempotency_scope(const char *org_id, const char *actor_id, const char *route, const char *key,
                          uint8_t ret[MT_IDEM_SCOPE_LEN]);

/**
 * The audit record of this command: the JSON object of mt_audit_put(), copied. It is written in the command's transaction
 * with the command's first event id and time; replays and refusals leave none.
 */
int mt_cmd_audit(struct mt_cmd *cmd, const char *json, size_t len, struct mt_err *err);

/**
 * The command adds @delta to a quota of @org_id: it holds only if the sum, with that, stays within the organisation's limit at the
 * moment of appending. @scope narrows the sum (the environment of deploys per hour) or is NULL; @unless_set is the limit where no
 * override is set, MT_QUOTA_UNLIMITED for none. What takes away (@delta <= 0) is no claim and always passes.
 */
int mt_cmd_quota(struct mt_cmd *cmd, enum mt_quota dim, const char *org_id, const char *scope, int64_t delta, int64_t unless_set,
                 struct mt_err *err);

/** Why a quota refused: @current is used, @requested more were asked for. */
struct mt_cmd_refused_quota {
    enum mt_quota dimension;
    int64_t limit, current, requested;
};
/** The same check now, on the caller's connection, so that what cannot pass does not get as far as the appender. 0 passes,
 * 1 refused with *ret filled, -code. */
int mt_cmd_quota_check(struct mt_cmd *cmd, struct mt_pg *pg, struct mt_cmd_refused_quota *ret, struct mt_err *err);
/** Sums and limits of an organisation as the command check sees them: for instances, memory and processor the replicas wanted.
 * Limits below 0 are none. */
int mt_quota_used(struct mt_pg *pg, const char *org_id, enum mt_quota_tier tier, int64_t used[MT_QUOTA_MAX],
                  int64_t limit[MT_QUOTA_MAX], struct mt_err *err);

/** The command may be appended while the platform is in recovery (history.h): it is part of getting out of it. */
void mt_cmd_in_recovery(struct mt_cmd *cmd);

/** What the ids turned out to be; given to the reply builder. */
struct mt_cmd_ids_given {
    int64_t first_event_id; /* event i has first_event_id + i */
    int n_events;
    int64_t occurred_us; /* of all events of the command */
};
/**
 * Builds the reply that is stored with the idempotency record and handed to the worker. Runs on the appender's thread under
 * the append lock: quick, no I/O; may be called more than once, the last call counts. Writes the body (JSON text) and the HTTP status (2xx).
 */
typedef int mt_cmd_reply_fn(void *arg, const struct mt_cmd_ids_given *given, struct mt_buf *body, int *ret_status,
                            struct mt_err *err);
/** Set the builder; @arg stays valid until the command is answered. Without one: status 200, body "{}". */
void mt_cmd_reply(struct mt_cmd *cmd, mt_cmd_reply_fn *fn, void *arg);

/** How a command ended; all but DONE and REPLAY come with -MT_E_CONFLICT or another error. */
enum mt_cmd_end {
    MT_END_ERROR = 0, /* see the error: -MT_E_UNAVAILABLE (database away), -MT_E_TIMEOUT, -MT_E_INVALID, ... */
    MT_END_DONE,      /* appended and flushed */
    MT_END_REPLAY,    /* same key, same body: status and body are the stored ones, no event */
    MT_END_KEY_REUSE, /* same key, other body: 409 idempotency_key_reuse */
    MT_END_STALE,     /* a relied-on row changed: load again and prepare again, or 409 version_conflict; see rely_* */
    MT_END_TAKEN,     /* a unique index or check refused: see constraint */
    MT_END_QUOTA      /* a quota refused: see quota */
};

struct mt_cmd_done {
    enum mt_cmd_end end;
    struct mt_cmd_ids_given given; /* DONE; for REPLAY first_event_id is the stored event id (the command's last) */
    int64_t event_id;              /* the command's last event id: X-Event-Id */
    int status;
    char *body;                    /* malloc'ed; release with mt_cmd_done_free */
    enum mt_rely rely;             /* STALE: which reliance, */
    char rely_key[80];             /*   its key, */
    int64_t rely_version;          /*   and the current version, 0 = no live row */
    char constraint[64];           /* TAKEN: name as in schema.sql */
    struct mt_cmd_refused_quota quota; /* QUOTA */
};
void mt_cmd_done_free(struct mt_cmd_done *done);

/**
 * Hand @cmd (taken) to the appender and wait for the answer. Returns 0 for DONE and REPLAY, else -code; @ret_done is always
 * filled and must be released. -MT_E_TIMEOUT or -MT_E_UNAVAILABLE can mean "outcome unknown": only a retry with the same
 * idempotency key tells. Thread-safe. -MT_E_LIMIT when 1024 commands wait already.
 */
int mt_append(struct mt_appender *ap, struct mt_cmd *cmd, int timeout_ms, struct mt_cmd_done *ret_done, struct mt_err *err);

/** As mt_append without waiting: @fn runs on the appender's thread when the command is answered (not when this call itself
 * fails); it owns @done->body (mt_cmd_done_free). @err->code is 0 for DONE and REPLAY. */
typedef void mt_append_fn(void *arg, struct mt_cmd_done *done, const struct mt_err *err);
int mt_append_async(struct mt_appender *ap, struct mt_cmd *cmd, mt_append_fn *fn, void *arg, struct mt_err *err);

struct mt_log_head;
struct mt_history; /* history.h */

/** What became of commands and how long it took; only grows, written by the appender's thread. */
struct mt_append_measure {
    struct mt_hist took;  /* from handing over until the answer */
    struct mt_hist lock;  /* until a batch had the lock of the log */
    struct mt_hist flush; /* from COMMIT on its way until it is known to be on disk */
    _Atomic uint64_t ends[MT_END_QUOTA + 1];
};

struct mt_appender_conf {
    struct mt_pg_conf pg;     /* role moat_projector */
    struct mt_log_head *head; /* told the new head after each commit (read.h); or NULL */
    struct mt_history *history; /* looked at on each new connection: on a restored database nothing is appended; or NULL */
    int batch_max;            /* commands in one transaction; 0 = 64, at most 64 */
    int lane_events;          /* so many waiting events are worth a batch beside the one in the air; 0 = 32; tests only */
    struct mt_append_measure *measure; /* or NULL */
    const char *session_sql;  /* run on each new connection after the appender's own settings; tests only; or NULL */
};

/** Start the appender's thread. It connects by itself, and again with back-off when the database goes away. */
int mt_appender_new(const struct mt_appender_conf *conf, struct mt_appender **ret_ap, struct mt_err *err);
/** Answer what waits with -MT_E_CANCELLED after finishing the running batch, stop the thread, free. */
void mt_appender_free(struct mt_appender *ap);

/** Counters, for metrics and the bench; each only grows. */
struct mt_appender_stats {
    uint64_t batches, commands, events, replays, stale, taken, deferred, single_runs, reconnects, lock_takes;
    uint64_t overlapped; /* batches written while another one was on its way */
    uint64_t yielded;    /* of these, rolled back and run again because the older one waited for them */
};
void mt_appender_stats(struct mt_appender *ap, struct mt_appender_stats *ret);
