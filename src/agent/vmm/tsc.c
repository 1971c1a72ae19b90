/* SPDX-License-Identifier: Apache-2.0 */
/* TSC rate: see tsc.h. */
#include "agent/vmm/tsc.h"

#if defined(__x86_64__)
#include <x86intrin.h>

static int64_t raw_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t mt_tsc_khz(void)
{
    const struct timespec wait = {.tv_nsec = 50000000};
    int64_t t0 = raw_ns();
    uint64_t c0 = __rdtsc();
    (void)nanosleep(&wait, NULL);
    int64_t t1 = raw_ns();
    uint64_t c1 = __rdtsc();
    return (c1 - c0) * 1000000 / (uint64_t)(t1 - t0); /* ticks per ns * 10^6; 2^64 / 10^6 ticks is hours */
}
#else
uint64_t mt_tsc_khz(void)
{
    return 0;
}
#endif
