/* SPDX-License-Identifier: Apache-2.0 */
/* The objects of organisation, project, app and environment as SQL renders them, one form for list, get and change. */
#pragma once

#include "control/api/sql.h"

#define MT_SQL_DELETED "'deleted',CASE WHEN deleted THEN true END,"

#define MT_ORG_OBJECT                                                                                     \
    "json_strip_nulls(json_build_object('id',org_id,'name',name,'billing_email',billing_email,"           \
    "'developer_exec',developer_exec,'suspended',suspended,'suspended_reason',suspended_reason," MT_SQL_DELETED \
    "'resource_version',resource_version," MT_SQL_TIMES "))::text"
#define MT_PROJECT_OBJECT                                                                           \
    "json_strip_nulls(json_build_object('id',project_id,'org_id',org_id,'name',name," MT_SQL_DELETED \
    "'resource_version',resource_version," MT_SQL_TIMES "))::text"
#define MT_APP_OBJECT                                                                                          \
    "json_strip_nulls(json_build_object('id',app_id,'org_id',org_id,'name',name,'description',description,"   \
    "'project_id',project_id," MT_SQL_DELETED "'resource_version',resource_version," MT_SQL_TIMES "))::text"
#define MT_ENV_BUNDLE "FROM secret_bundles_view b WHERE b.env_id = envs_view.env_id AND NOT b.deleted"
#define MT_ENV_OBJECT                                                                                           \
    "json_strip_nulls(json_build_object('id',env_id,'org_id',org_id,'app_id',app_id,'name',name,"              \
    "'private_network',private_network,'protected',protected,'label_selector',label_selector,"                  \
    "'backup_interval_seconds',backup_interval_seconds,'config_gate',coalesce((SELECT CASE WHEN b.confirmed_none"    \
    " THEN 'confirmed_none' ELSE 'set' END " MT_ENV_BUNDLE "), 'unset'),'secrets',(SELECT"                      \
    " json_build_object('bundle_id',b.bundle_id,'version_id',b.current_version_id) " MT_ENV_BUNDLE "),"         \
    "'ipv4',(SELECT json_build_object('address',a.ipv4_address,'allocation_id',a.allocation_id) FROM ipv4_allocations_view a" \
    " WHERE a.env_id = envs_view.env_id AND a.ended_at IS NULL),"                                               \
    MT_SQL_DELETED "'resource_version',resource_version,"                                                       \
    MT_SQL_TIMES "))::text"

#define MT_DESCRIPTION_MAX 1024 /* bytes; 256 characters in the manifest */

/* (object text, resource_version) of a live one; $1 its id, for a project also $2 its organisation. */
extern const struct mt_pg_stmt mt_org_get, mt_project_get, mt_app_get, mt_env_get;
