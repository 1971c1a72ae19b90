/* SPDX-License-Identifier: Apache-2.0 */
/* Verbs of moat-control that look at what is kept and change nothing: check-database, audit-checkpoint, check-audit-checkpoint. */
#pragma once

#include "control/control.h"

/**
 * What the weekly drill asks of a database that was put back (scheduling-and-operations.md §11.1): its schema is one that this program works with, the log is whole and
 * without gaps in any aggregate, a rebuild of the views from it is what is in use, the audit chains hold, and the secrets open. One line of JSON on @out.
 */
int mt_check_database(struct mt_control *ctl, FILE *out, struct mt_err *err);
/** A checkpoint of the audit log, signed with the private key in the file @key, on standard output; what it holds in one line of JSON on @report. */
int mt_make_audit_checkpoint(struct mt_control *ctl, const char *key, FILE *report, struct mt_err *err);
/** The one on standard input against the audit log as it is, with the public key in the file @key. */
int mt_check_audit_checkpoint(struct mt_control *ctl, const char *key, FILE *report, struct mt_err *err);
/** Root becomes the owner of @data_dir, by whose name PostgreSQL knows it. */
int mt_offline_become_owner(const char *data_dir, struct mt_err *err);
