/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one object of a running moat-control: configuration, the appender, the head of the log, the server. Everything in
 * it is set before the first request and then only read, except where a member says it has its own lock.
 */
#pragma once

#include "control/commands/port_policy.h"
#include "control/conf.h"
#include "control/log/append.h"
#include "control/log/read.h"
#include "control/measure.h"
#include "model/quota.h"
#include "pg/pg.h"
#include "wire/http_server.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

/* Tags of the listeners. */
enum mt_listener { MT_LISTEN_API = 0, MT_LISTEN_INTERNAL, MT_LISTEN_ADMIN, MT_LISTEN_NODES, MT_LISTEN_MAX };

/* Topics of parked requests (wire/http_server.h). Woken whenever the head of the log moves. */
#define MT_TOPIC_HEAD (1u << 0)

struct mt_agents;  /* streams/agent.h */
struct mt_edges;   /* plans/edge_acks.h */
struct mt_fanout;  /* streams/logs.h */
struct mt_feed;    /* streams/feed.h */
struct mt_gateway; /* exec/gateway.h */
struct mt_plans;   /* plans/sent.h */
struct mt_plan_news; /* plans/news.h */
struct mt_roles;   /* roles.h */
struct mt_keeper;  /* keeper.h */
struct mt_collector; /* volumes/collector.h */
struct mt_audit;   /* audit/seal.h */
struct mt_keys;    /* secrets/keys.h */
struct mt_limits;  /* limits/limits.h */
struct mt_history; /* log/history.h */
struct mt_node_ca; /* nodes/ca.h */
struct mt_names;   /* names/names.h */
struct mt_proxy_watch; /* names/proxy_watch.h */
struct mt_publisher; /* names/publish.h */

struct mt_control {
    struct mt_control_conf conf;
    struct mt_port_policy ports;     /* of conf */
    struct mt_pg_conf pg_conf;       /* for controllers, who see all organisations; workers of the API begin with none */
    struct mt_log_head *head;
    struct mt_appender *appender;
    struct mt_history *history;      /* own lock; NULL in what runs without the API */
    _Atomic int64_t epoch;           /* of the log, as this process has adjusted to it; 0: not looked yet */
    atomic_int recovery;             /* enum mt_recovery, as last told (recovery/recovery.h) */
    struct mt_http_server *http;
    _Atomic int64_t api_cert_not_after_s; /* of listen_https, Unix seconds; 0: none */
    struct mt_agents *agents;        /* own lock */
    struct mt_edges *edges;          /* own lock */
    struct mt_names *names;          /* own lock */
    struct mt_proxy_watch *proxies;  /* own lock */
    struct mt_plans *plans;          /* own lock */
    struct mt_plan_news *plan_news;  /* own lock */
    struct mt_fanout *fanout;        /* own lock */
    struct mt_gateway *gateway;      /* own lock */
    struct mt_feed *feed;            /* own lock */
    struct mt_roles *roles;          /* own lock */
    struct mt_keeper *keeper;        /* own lock */
    struct mt_publisher *publisher;  /* own thread; NULL: nothing is put into the DNS */
    struct mt_collector *collector;  /* own thread; NULL: nothing is taken out of the store of backups */
    struct mt_limits *limits;        /* own lock; NULL before ready */
    struct mt_keys *keys;            /* own lock */
    struct mt_node_ca *node_ca;      /* never changes; NULL: no node listener, so nobody can join */
    _Atomic uint64_t deliveries[6];  /* of secrets, by how they ended (api/delivery.c) */
    struct mt_measure measure;       /* own lock */
    struct mt_append_measure append_measure;
    _Atomic uint64_t quota_rejections[MT_QUOTA_MAX];
    struct mt_audit *audit;          /* own lock; NULL before ready */
    uint8_t mac_key[32];             /* HMAC of request bodies for idempotency records */
    uid_t agent_uid, edge_uid;       /* peers allowed on the internal socket */
    gid_t internal_gid;
    int64_t started_us;              /* wall clock */
    atomic_bool ready;               /* schema checked, bootstrap done: requests may be served */
    atomic_bool making_views;         /* before ready: views are made from the log for this version, */
    _Atomic int64_t views_at, views_of; /* this event of so many; of 0 while nothing is known */
    atomic_bool stopping;
    _Atomic int64_t db_seen_ns;      /* monotonic time of the controller's last good answer of the database */
    char cluster_id[64];             /* set before ready */
    char prefix[64];                 /* P as text with length, set before ready */
};

/** The database answered within the last three seconds, as the controller's loop sees it. */
bool mt_control_database_up(struct mt_control *ctl);

/** Make the controller look now, without an event (an edge acknowledged). Any thread. */
void mt_control_poke(struct mt_control *ctl);
