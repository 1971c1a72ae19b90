/* SPDX-License-Identifier: Apache-2.0 */
#include "os/lockmem.h"

#include "base/assert.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static size_t pages(size_t n)
{
    return (n + 4095) & ~(size_t)4095;
}

int mt_lockmem_new(struct mt_lockmem *m, size_t cap, struct mt_err *err)
{
    *m = (struct mt_lockmem){0};
    MT_ASSERT(cap > 0 && cap < SIZE_MAX / 2);
    void *p = mmap(NULL, pages(cap), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return MT_FAIL_ERRNO(err, MT_E_NOMEM, "map %zu bytes", cap);
    (void)madvise(p, pages(cap), MADV_DONTDUMP);
    (void)madvise(p, pages(cap), MADV_WIPEONFORK);
    if (mlock2(p, pages(cap), 0) != 0) { /* as mlock(), which AddressSanitizer turns into nothing */
        int rc = MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "lock %zu bytes of memory (raise RLIMIT_MEMLOCK)", cap);
        (void)munmap(p, pages(cap));
        return rc;
    }
    m->p = p;
    m->cap = cap;
    return 0;
}

void mt_lockmem_done(struct mt_lockmem *m)
{
    if (m->p) {
        explicit_bzero(m->p, pages(m->cap));
        (void)munmap(m->p, pages(m->cap)); /* gives the lock back too */
    }
    *m = (struct mt_lockmem){0};
}

void mt_process_hide(void)
{
    struct rlimit none = {0}, lock;
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (getrlimit(RLIMIT_MEMLOCK, &lock) == 0 && lock.rlim_cur < lock.rlim_max) {
        lock.rlim_cur = lock.rlim_max;
        (void)setrlimit(RLIMIT_MEMLOCK, &lock);
    }
}
