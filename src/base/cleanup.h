/* SPDX-License-Identifier: Apache-2.0 */
/* Ownership of locals: mt_auto_* give them up at scope end, MT_TAKE* let ownership leave, visibly. */
#pragma once

#include "base/err.h"

#include <dirent.h>
#include <unistd.h>

static inline void mt_closep(int *fd)
{
    if (*fd < 0)
        return;
    int keep = errno;
    (void)close(*fd); /* never retried: Linux has freed the number even on EINTR */
    *fd = -1;
    errno = keep;
}

static inline void mt_freep(void *p)
{
    void *v;
    memcpy(&v, p, sizeof v);
    int keep = errno;
    free(v);
    errno = keep;
}

static inline void mt_fclosep(FILE **f)
{
    if (*f)
        (void)fclose(*f);
}

static inline void mt_closedirp(DIR **d)
{
    if (*d)
        (void)closedir(*d);
}

/** The function is called with the variable's address at scope end. */
#ifndef __CPPCHECK__
#define mt_cleanup(fn) __attribute__((cleanup(fn)))
#else /* tests/analyze: cppcheck does not know the attribute, and takes what is static for nobody's to free */
#define mt_cleanup(fn) static
#endif
/** An int descriptor closed at scope end; initialise to -1 or an open descriptor. */
#define mt_auto_fd mt_cleanup(mt_closep)
/** A malloc'ed pointer freed at scope end; initialise it. */
#define mt_auto_free mt_cleanup(mt_freep)
#define mt_auto_file mt_cleanup(mt_fclosep)
#define mt_auto_dir mt_cleanup(mt_closedirp)

/** Move a descriptor out of its owner. */
#define MT_TAKE_FD(fd) ({ int take_ = (fd); (fd) = -1; take_; })
/** Move a pointer out of its owner. */
#define MT_TAKE(p) ({ __typeof__(p) take_ = (p); (p) = NULL; take_; })
