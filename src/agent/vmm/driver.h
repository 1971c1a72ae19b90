/* SPDX-License-Identifier: Apache-2.0 */
/* What a driver gives to vmm.c, and what vmm.c does for all of them. Internal to this folder. */
#pragma once

#include "agent/vmm/jail.h"
#include "agent/vmm/vmm.h"
#include "os/cgroup.h"

struct mt_vmm_driver {
    size_t proc_count;
    uint32_t overhead_mib;
    /** Check binaries and fill the version. */
    int (*open)(struct mt_vmm *vmm, struct mt_err *err);
    /** Build the jail folder (the cgroup exists already). */
    int (*prepare)(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, struct mt_err *err);
    int (*launch)(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, mt_vmm_record_fn *record, void *user,
                  struct mt_vmm_run *ret_run, struct mt_err *err);
    int (*check)(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_run *run, struct mt_err *err);
    /** Open what `console` needs (console_fd); may be NULL. */
    void (*attach_console)(struct mt_vmm *vmm, const struct mt_jail *jail, struct mt_vmm_run *run);
    /** Move waiting console bytes into the ring file; may be NULL. */
    void (*drain_console)(const struct mt_vmm_run *run);
};

extern const struct mt_vmm_driver mt_qemu_driver;
extern const struct mt_vmm_driver mt_firecracker_driver;

struct mt_vmm {
    const struct mt_vmm_driver *driver;
    enum mt_vmm_kind kind;
    enum mt_vmm_accel accel;
    char jail_base[MT_JAIL_PATH / 2];
    char jail_driver[64]; /* folder below jail_base; for firecracker the file name of its binary, as the jailer wants it */
    char qemu_path[MT_JAIL_PATH], vsock_path[MT_JAIL_PATH], firecracker_path[MT_JAIL_PATH], jailer_path[MT_JAIL_PATH];
    struct mt_cgroup_host cgroup;
    char *const *sha256; /* of programs that may be monitors; borrowed */
    size_t n_sha256;
    char cpu_template[MT_JAIL_PATH]; /* "": none */
    bool serial_off;
    int patience; /* 1..30 */
    uint64_t tsc_khz;
    char version[64];
};

/** uid = gid of a slot. */
static inline uid_t mt_vmm_uid(uint32_t slot)
{
    return (uid_t)(MT_VMM_UID_BASE + slot);
}

/** A time limit of the specification, stretched for this host. */
static inline int mt_vmm_wait_ms(const struct mt_vmm *vmm, int ms)
{
    return ms * vmm->patience;
}

/** A regular file root owns, executable, writable by nobody else. -MT_E_NOT_FOUND, -MT_E_INVALID. */
int mt_vmm_check_binary(const char *path, const char *mend, struct mt_err *err);

/** The program is one of those that the operator lists, if he lists any (runtime.md §22). -MT_E_INVALID with its sum, -MT_E_IO. */
int mt_vmm_check_listed(const struct mt_vmm *vmm, const char *path, struct mt_err *err);

/** "02:fc:00:01:23:42" into @ret[18]. */
void mt_vmm_mac_text(const uint8_t mac[6], char ret[18]);
