/* SPDX-License-Identifier: Apache-2.0 */
/* Advisory locks of the database, each its name as a number. */
#pragma once

#define MT_LOCK_LOG "7885628624171986791"     /* "moat.log": who appends; held by the transaction */
#define MT_LOCK_MIGRATE "7885628624172050791" /* "moat.mig": who migrates; held by the transaction */
#define MT_LOCK_REBUILD "7885628624172377442" /* "moat.reb": who rebuilds views; held by the session */
#define MT_LOCK_VERIFY "7885628624172639602"  /* "moat.ver": who verifies views; held by the session */
#define MT_LOCK_SCHEDULER "7885628624172442472" /* "moat.sch": roles (control/roles.h); held by the session */
#define MT_LOCK_GC "7885628624171656056"        /* "moat.gcx" */
#define MT_LOCK_PROJECTOR "7885628624172249706" /* "moat.prj" */
#define MT_LOCK_BACKUPS "7885628624171327851"   /* "moat.bak" */
