/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat admin doctor: what was seen of the cluster becomes findings, each with its severity and the command that mends it
 * (scheduling-and-operations.md §11.4). Pure: facts in, findings out, the same limits as the alerts of §8.2 where both know one.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define MT_DOCTOR_NAMES 200 /* bytes of a list of names, the rest counted */

/* Conditions of nodes that are checks of their own; the last takes all other words. */
enum mt_doctor_node { MT_DOCTOR_VMM = 0, MT_DOCTOR_BUNDLE, MT_DOCTOR_DISK, MT_DOCTOR_POOL, MT_DOCTOR_CLOCK, MT_DOCTOR_NET, MT_DOCTOR_OTHER, MT_DOCTOR_NODE_MAX };

struct mt_doctor_facts {
    /* database and log */
    int schema_have, schema_known;
    int schema_least;               /* lowest version whose programs may use a database of schema_have */
    double clock_off_s;             /* of the database against this machine, either way */
    int64_t connections, connections_max;
    int64_t audit_waits_s;          /* age of the oldest audit record outside of its chain, 0: none waits */
    bool history_split;             /* recovery mode */
    const char *views_bad;          /* views that are not live, or whose rebuild failed: "a, b"; "" none */
    int64_t disk_used_percent;      /* of the filesystem of this server's data folder; -1 unknown */
    /* scheduler */
    int64_t lease_age_s;            /* since the leader's last renewal; -1: nobody ever led */
    const char *roles_lost;         /* other singleton roles that nobody renews; "" none */
    bool paused, maintenance, guard;
    int64_t blocked_groups, held_groups;
    /* nodes; lists of names, "" when none */
    int64_t nodes, nodes_ready;
    const char *offline, *degraded, *waiting, *lost;
    const char *condition[MT_DOCTOR_NODE_MAX];
    int64_t versions;               /* different agent versions, this server's counted too */
    const char *version_list;
    int64_t headroom_bytes;         /* memory left after the loss of the worst node */
    /* backups */
    const char *retired; /* volumes that another one replaced longer ago than volume.retired_grace, still there */
    const char *orphans; /* volumes on the disks of nodes that no plan of theirs has, each with its node */
    int64_t volumes_kept, stale, unproven; /* volumes with backups; of them without a recent backup, without a recent proof */
    int64_t proven_age_s;           /* since any backup was last restored whole; -1 never */
    /* certificates: seconds left, INT64_MAX where there is none */
    int64_t api_left_s, ca_left_s;
    const char *certs_ending;       /* nodes whose newest certificate ends within MT_DOCTOR_CERT_S */
    /* master keys */
    bool keys_configured;
    const char *keys_problem;       /* "" none */
    int64_t keys_active, rows_missing, rows_retired; /* wrapped keys under keys that are not in the file, or no longer active */
};

#define MT_DOCTOR_CERT_S (14 * 86400)

/** {"ok":bool,"checks":[{check,severity,finding,mend?}]}; ok: no check has the severity fail. NULL without memory. Owned by the caller. */
json_t *mt_doctor(const struct mt_doctor_facts *f);

/* moat admin upgrade check: what has to hold before a program is replaced by one of the next version (§11.2), and the way back. */
struct mt_upgrade_facts {
    int64_t backup_age_s;           /* of the control plane itself; -1: none is known */
    int64_t archived_age_s;         /* since PostgreSQL archived WAL; -1: it archives none */
    int64_t standbys;               /* that stream from this PostgreSQL */
    int64_t standby_lag_ms;         /* of the one that is most behind; -1: this role may not see it */
    int64_t edges;
    const char *edges_silent;       /* edges in service that have not been heard for 30 s */
    int64_t rollouts;               /* deploys that have not ended */
    int64_t moving;                 /* snapshots and restores under way */
    const char *draining;           /* nodes */
    int64_t versions;               /* different ones of agents, edges and this server */
    const char *version_list;
    bool far;                       /* two of them are further apart than one version */
};

/** Whether "1.2.3" and "1.4.0" are further apart than a version and the next one (their second numbers; or another first number than the next). */
bool mt_versions_far(const char *a, const char *b);
/** The form of mt_doctor; what has no bearing on an upgrade is not in it. */
json_t *mt_upgrade_check(const struct mt_doctor_facts *f, const struct mt_upgrade_facts *u);
