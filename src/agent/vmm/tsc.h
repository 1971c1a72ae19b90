/* SPDX-License-Identifier: Apache-2.0 */
/* Rate of the host's time stamp counter. Under TCG the guest's TSC is the host's, and telling the guest its rate keeps it from
 * calibrating against an emulated timer, which now and then hangs the boot for ever (notes: qemu-microvm). */
#pragma once

#include "base/err.h"

/** kHz, measured over 50 ms against CLOCK_MONOTONIC_RAW. 0 on machines without a TSC. */
uint64_t mt_tsc_khz(void);
