/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State and spec of a VM that runs, once more beside its jail (<jail_dir>/<driver>/<jail id>/, a folder of root's): a state directory that is
 * lost or broken does not cost the VMs that it knew (runtime.md §5). A host that lost power has no VMs, so nothing is flushed. Both go with the jail.
 */
#pragma once

#include "agent/instance/inst.h"

/** As @in is now, when its workload has started. Failures are logged: the VM runs all the same. */
void mt_spare_write(const struct mt_inst *in);

/** Before instances are loaded: what a jail knows and the state directory does not is put back there. */
void mt_spare_restore(const struct mt_agent *a);
