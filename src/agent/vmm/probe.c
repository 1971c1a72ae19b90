/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing a driver by booting the bundle with it: see probe.h. */
#include "agent/vmm/probe.h"

#include "agent/vmm/driver.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { HELLO_PORT = 5161, PROBE_MS = 5000, PROBE_TCG_MS = 30000, HELLO_MAX_MS = 300000, PROBE_MIB = 96, CHECK_EVERY_MS = 250, CACHE_MAX = 8192, FORMAT = 1 };
enum { DISK_BYTES = 1 << 20, LINE = 512, KEY_MAX = 1024 };

/* Named after the data folder, so that probes of two agents never meet; the same at each start, so that a killed one is found. */
static void probe_name(const struct mt_vmm_probe_conf *conf, char ret[32])
{
    (void)snprintf(ret, 32, "moat-probe-%08x", mt_crc32c(0, conf->vmm.jail_base, strlen(conf->vmm.jail_base)));
}

struct candidate {
    enum mt_vmm_kind kind;
    enum mt_vmm_accel accel;
};

static const struct candidate candidates[] = {
    {MT_VMM_FIRECRACKER, MT_VMM_KVM}, {MT_VMM_QEMU, MT_VMM_KVM}, {MT_VMM_QEMU, MT_VMM_TCG}};

/* ---- cache ---- */

/* What the answer depends on besides the host's boot: the wish, the bundle, and the programs. */
static void cache_key(const struct mt_vmm_probe_conf *c, char *ret, size_t size)
{
    const char *const path[] = {c->vmm.firecracker_path ? c->vmm.firecracker_path : "/usr/lib/moat/firecracker",
        c->vmm.qemu_path ? c->vmm.qemu_path : "/usr/bin/qemu-system-x86_64"};
    long long stamp[2] = {0, 0};
    for (size_t i = 0; i < 2; i++) {
        struct stat st;
        if (stat(path[i], &st) == 0)
            stamp[i] = (long long)st.st_mtim.tv_sec;
    }
    uint32_t listed = 0;
    for (size_t i = 0; i < c->vmm.n_sha256; i++)
        listed = mt_crc32c(listed, c->vmm.sha256[i], strlen(c->vmm.sha256[i]));
    (void)snprintf(ret, size, "%s|%s|%s@%lld|%s@%lld|%08x|%s", c->want, c->bundle_version, path[0], stamp[0], path[1], stamp[1], listed,
                   c->vmm.cpu_template ? c->vmm.cpu_template : "");
}

static bool cache_read(const struct mt_vmm_probe_conf *c, const char *key, struct mt_vmm_choice *ret)
{
    char boot[37];
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *j = NULL;
    size_t len;
    uint64_t format, kind, accel, hello;
    const char *got_boot, *got_key, *version, *reason;
    bool ok;
    if (mt_host_boot_id(boot, NULL) < 0 || mt_file_read(c->cache_path, CACHE_MAX, &text, &len, NULL) < 0 ||
        mt_json_parse(text, len, CACHE_MAX, 4, &j, NULL) < 0 || mt_json_get_u64(j, "format", FORMAT, FORMAT, &format, NULL) < 0 ||
        mt_json_get_str(j, "boot_id", 36, &got_boot, NULL) < 0 || mt_json_get_str(j, "key", KEY_MAX, &got_key, NULL) < 0 ||
        mt_json_get_bool(j, "ok", &ok, NULL) < 0 || mt_json_get_u64(j, "kind", 0, MT_VMM_QEMU, &kind, NULL) < 0 ||
        mt_json_get_u64(j, "accel_index", 0, MT_VMM_ACCEL_MAX - 1, &accel, NULL) < 0 ||
        mt_json_get_u64(j, "hello_ms", 0, HELLO_MAX_MS, &hello, NULL) < 0 ||
        mt_json_get_str(j, "version", sizeof ret->version - 1, &version, NULL) < 0 ||
        mt_json_get_str(j, "reason", sizeof ret->reason - 1, &reason, NULL) < 0 || !MT_STREQ(boot, got_boot) || !MT_STREQ(key, got_key))
        return false;
    *ret = (struct mt_vmm_choice){.ok = ok, .kind = (enum mt_vmm_kind)kind, .accel = (enum mt_vmm_accel)accel, .cached = true,
        .hello_ms = (unsigned)hello};
    (void)mt_fmt(ret->version, sizeof ret->version, NULL, "%s", version);
    (void)mt_fmt(ret->reason, sizeof ret->reason, NULL, "%s", reason);
    return true;
}

static void cache_write(const struct mt_vmm_probe_conf *c, const char *key, const struct mt_vmm_choice *choice)
{
    char boot[37];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(CACHE_MAX);
    mt_auto_json json_t *j = NULL;
    if (mt_host_boot_id(boot, NULL) < 0)
        return;
    j = json_pack("{s:i,s:s,s:s,s:b,s:s,s:s,s:i,s:i,s:i,s:s,s:s}", "format", FORMAT, "boot_id", boot, "key", key, "ok", choice->ok, "driver",
                  mt_vmm_kind_name(choice->kind), "accel", mt_vmm_accel_name(choice->accel), "kind", (int)choice->kind, "accel_index",
                  (int)choice->accel, "hello_ms", (int)choice->hello_ms, "version", choice->version, "reason", choice->reason);
    /* a cache that cannot be written costs one probe at the next start */
    if (j && mt_json_dump(j, &b, NULL) == 0)
        (void)mt_file_write(c->cache_path, b.p, b.len, 0644, NULL);
}

/* ---- one probe boot ---- */

struct probe {
    char root[MT_JAIL_PATH], scratch[MT_JAIL_PATH], console[256];
    struct mt_vmm *vmm;
    struct mt_vmm_ids ids;
    struct mt_vmm_run run;
    int listener, guest;
};

static int make_disk(const char *path, mode_t mode, struct mt_err *err)
{
    if (unlink(path) == -1 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path);
    mt_auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd == -1 || ftruncate(fd, DISK_BYTES) == -1 || fchmod(fd, mode) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make '%s'", path);
    return 0;
}

static void probe_done(struct probe *p)
{
    mt_closep(&p->listener);
    mt_closep(&p->guest);
    if (p->vmm)
        (void)mt_vmm_teardown(p->vmm, &p->ids, NULL);
    mt_vmm_run_done(&p->run);
    mt_vmm_free(p->vmm);
    (void)unlink(p->root);
    (void)unlink(p->scratch);
    (void)unlink(p->console);
}

/* Wait until the guest has sent a line with "hello" in it. The text is only looked at, nothing is taken from it. */
static int wait_hello(struct probe *p, int64_t deadline, struct mt_err *err)
{
    char line[LINE];
    size_t have = 0;
    for (;;) {
        struct pollfd pf[4] = {{.fd = p->run.pidfd[0], .events = POLLIN}, {.fd = p->run.pidfd[1], .events = POLLIN},
            {.fd = p->listener, .events = POLLIN}, {.fd = p->guest, .events = POLLIN}};
        int64_t left = (deadline - mt_clock_mono()) / MT_NS_PER_MS;
        if (left <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "no hello");
        int n = poll(pf, 4, left < CHECK_EVERY_MS ? (int)left : CHECK_EVERY_MS);
        if (n == 0 && mt_vmm_check(p->vmm, &p->run, err) < 0)
            return -(int)err->code; /* KVM that cannot run the guest shows here, long before the deadline */
        if (n <= 0)
            continue;
        if ((pf[0].revents | pf[1].revents) & POLLIN)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "the monitor ended before hello");
        if (pf[2].revents & POLLIN) {
            mt_closep(&p->guest);
            have = 0;
            p->guest = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        }
        if (!pf[3].revents)
            continue;
        ssize_t got = recv(p->guest, line + have, sizeof line - 1 - have, 0);
        if (got <= 0) {
            mt_closep(&p->guest);
            have = 0;
            continue;
        }
        have += (size_t)got;
        line[have] = '\0';
        if (strstr(line, "\"hello\""))
            return 0;
        if (have == sizeof line - 1)
            return MT_FAIL(err, MT_E_CORRUPT, "the guest said something else than hello");
    }
}

static int boot(const struct mt_vmm_probe_conf *c, const struct candidate *cand, struct mt_vmm_choice *ret, struct mt_err *err)
{
    char probe_id[32];
    probe_name(c, probe_id);
    mt_cleanup(probe_done) struct probe p = {.listener = -1, .guest = -1, .run = MT_VMM_RUN_NONE, .ids.slot = MT_VMM_SLOT_MAX};
    int limit_ms;
    (void)mt_fmt(p.ids.jail_id, sizeof p.ids.jail_id, NULL, "%s", probe_id);
    if (mt_fmt(p.root, sizeof p.root, err, "%s/probe-root.img", c->scratch_dir) < 0 ||
        mt_fmt(p.scratch, sizeof p.scratch, err, "%s/probe-scratch.img", c->scratch_dir) < 0 ||
        mt_fmt(p.console, sizeof p.console, err, "%s/probe-console.ring", c->scratch_dir) < 0)
        return -MT_E_LIMIT;
    if (mt_vmm_open(&c->vmm, cand->kind, cand->accel, &p.vmm, err) < 0)
        return -(int)err->code;
    limit_ms = mt_vmm_wait_ms(p.vmm, cand->accel == MT_VMM_TCG ? PROBE_TCG_MS : PROBE_MS);
    (void)mt_fmt(ret->version, sizeof ret->version, NULL, "%s", mt_vmm_version(p.vmm));
    if (mt_file_mkdirs(c->scratch_dir, 0711, err) < 0 || make_disk(p.root, 0444, err) < 0 || make_disk(p.scratch, 0600, err) < 0)
        return -(int)err->code;
    const struct mt_vmm_spec spec = {.jail_id = probe_id, .slot = MT_VMM_SLOT_MAX, .vcpu_count = 1, .mem_mib = PROBE_MIB,
        .overhead_mib = mt_vmm_default_overhead_mib(p.vmm), .cpu_weight = 100, .kernel_path = c->kernel_path,
        .initramfs_path = c->initramfs_path,
        .boot_args = "console=ttyS0 quiet loglevel=4 reboot=k panic=1 random.trust_cpu=on i8042.noaux i8042.nomux i8042.dumbkbd "
                     "swiotlb=noforce initcall_blacklist=slab_late_init moat.instance=inst_00000000000000000000000000 moat.boot=boot_00000000000000000000000000 moat.proto=1",
        .root = {.path = p.root, .read_only = true}, .scratch = {.path = p.scratch}, .console_path = p.console};
    int64_t t0 = mt_clock_mono();
    if (mt_vmm_prepare(p.vmm, &spec, err) < 0 || mt_vmm_listen(p.vmm, &p.ids, HELLO_PORT, &p.listener, err) < 0)
        return -(int)err->code;
    t0 = mt_clock_mono();
    if (mt_vmm_launch(p.vmm, &spec, NULL, NULL, &p.run, err) < 0)
        return -(int)err->code;
    p.ids = p.run.ids;
    if (wait_hello(&p, t0 + limit_ms * MT_NS_PER_MS, err) < 0)
        return mt_err_wrap(err, "probe boot of at most %d s", limit_ms / 1000);
    ret->hello_ms = (unsigned)((mt_clock_mono() - t0) / MT_NS_PER_MS);
    return 0;
}

/* ---- choosing ---- */

__attribute__((format(printf, 2, 3))) static void say(struct mt_vmm_choice *c, const char *fmt, ...)
{
    char text[300];
    size_t used = strlen(c->reason);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)snprintf(c->reason + used, sizeof c->reason - used, "%s%s", used ? "; " : "", text);
}

static bool wanted(const char *want, const struct candidate *c)
{
    return MT_STREQ(want, "auto") || MT_STREQ(want, mt_vmm_kind_name(c->kind));
}

int mt_vmm_probe(const struct mt_vmm_probe_conf *conf, struct mt_vmm_choice *ret_choice, struct mt_err *err)
{
    char key[KEY_MAX];
    struct mt_vmm_choice choice = {.ok = false};
    if (!MT_STREQ(conf->want, "auto") && !MT_STREQ(conf->want, "firecracker") && !MT_STREQ(conf->want, "qemu"))
        return MT_FAIL(err, MT_E_INVALID, "vmm must be auto, firecracker or qemu, not '%s'", conf->want);
    cache_key(conf, key, sizeof key);
    if (cache_read(conf, key, ret_choice))
        return 0;
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0] && !choice.ok; i++) {
        const struct candidate *c = &candidates[i];
        struct mt_err why = {.code = MT_OK};
        if (!wanted(conf->want, c))
            continue;
        choice.kind = c->kind;
        choice.accel = c->accel;
        choice.version[0] = '\0';
        if (boot(conf, c, &choice, &why) == 0) {
            choice.ok = true;
            say(&choice, "%s+%s taken: %s booted the bundle to hello in %u ms", mt_vmm_kind_name(c->kind), mt_vmm_accel_name(c->accel),
                choice.version, choice.hello_ms);
        } else {
            say(&choice, "%s+%s not taken: %s", mt_vmm_kind_name(c->kind), mt_vmm_accel_name(c->accel), why.msg);
        }
    }
    if (choice.ok) /* a failure may mend itself: it is asked again */
        cache_write(conf, key, &choice);
    *ret_choice = choice;
    return 0;
}
