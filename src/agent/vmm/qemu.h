/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of QEMU, apart so that a test can look at it. Internal to this folder. */
#pragma once

#include "agent/vmm/argv.h"
#include "agent/vmm/driver.h"

enum { MT_QEMU_FD_VHOST = 3, MT_QEMU_FD_CONSOLE = 4 }; /* descriptors QEMU inherits */

/** Fill @ret for @spec. -MT_E_LIMIT when the kernel command line or the whole passes its bound. */
int mt_qemu_args(const struct mt_vmm *vmm, const struct mt_vmm_spec *spec, struct mt_argv *ret, struct mt_err *err);
