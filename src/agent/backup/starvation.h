/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does a backup that takes only what the VMs leave over come to its end? On a machine that is never idle it would not, and what is never backed up is lost one
 * day: one that gets nothing for ten seconds, or next to nothing for thirty, is let have a share.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct mt_starvation {
    int64_t since_ns, moved_ns; /* of the window; when it was first seen as far as it is */
    uint64_t then, last;        /* bytes done at that time; when last looked at */
    bool starves;
};

void mt_starvation_begin(struct mt_starvation *p, int64_t now_ns);
/** Looked at now and then, with the bytes of its phase that are done. True once: from now on it starves. */
bool mt_starvation_look(struct mt_starvation *p, int64_t now_ns, uint64_t done);
