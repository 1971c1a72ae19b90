/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes as files: backends on a filesystem made for it (loop), tools in their sandbox, hostile metadata. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "agent/volume/backend.h"
#include "agent/volume/fstool.h"
#include "agent/volume/steps.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/ids.h"
#include "model/volume.h"
#include "os/file.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

static char base[64];
static const char *fs_here; /* "xfs", "btrfs", or "" for the folder as it is */

static int run(const char *const *argv)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    struct mt_spawn s = {.path = path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    if (mt_find_program(argv[0], NULL, path, sizeof path, &err) < 0)
        return -1;
    int rc = mt_run_ok(&s, NULL, 0, NULL, 60000, &err);
    if (rc < 0)
        print_message("%s\n", err.msg);
    return rc;
}

static int set_up(const char *fs)
{
    char image[128], dir[128];
    (void)snprintf(base, sizeof base, "/tmp/moat-test-vol-XXXXXX");
    if (!mkdtemp(base))
        return -1;
    fs_here = fs;
    (void)snprintf(image, sizeof image, "%s/disk", base);
    (void)snprintf(dir, sizeof dir, "%s/v", base);
    (void)mkdir(dir, 0755);
    (void)chmod(base, 0755);
    if (!*fs)
        return 0;
    mt_auto_fd int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)(512 * MIB)) < 0)
        return -1;
    const char *const mkxfs[] = {"mkfs.xfs", "-q", "-m", "reflink=1", image, NULL}, *const mkbtrfs[] = {"mkfs.btrfs", "-q", image, NULL};
    const char *const mnt[] = {"mount", "-o", "loop", image, dir, NULL};
    return run(strcmp(fs, "xfs") == 0 ? mkxfs : mkbtrfs) < 0 || run(mnt) < 0 ? -1 : 0;
}

static void tear_down(void)
{
    char dir[128];
    (void)snprintf(dir, sizeof dir, "%s/v", base);
    (void)umount2(dir, MNT_DETACH);
    (void)mt_file_remove_tree(AT_FDCWD, base, NULL);
}

static bool usable(const char *fs)
{
    if (geteuid() != 0) {
        print_message("SKIP: only root mounts a filesystem\n");
        return false;
    }
    if (set_up(fs) < 0) {
        print_message("SKIP: no %s on a loop device here\n", fs);
        tear_down();
        return false;
    }
    return true;
}

static struct mt_backend opened(const char *want)
{
    char dir[128];
    struct mt_backend b;
    struct mt_err err = {0};
    (void)snprintf(dir, sizeof dir, "%s/v/volumes", base);
    if (mt_backend_open(dir, want, true, &b, &err) < 0)
        fail_msg("%s", err.msg);
    return b;
}

static void new_volume(const struct mt_backend *b, const char *id, uint64_t bytes)
{
    mt_auto_fd int fd = -1;
    struct mt_err err = {0};
    if (mt_backend_begin(b, id, bytes, &fd, &err) < 0 || mt_backend_commit(b, id, fd, &err) < 0)
        fail_msg("%s", err.msg);
}

static void write_at(const struct mt_backend *b, const char *id, uint64_t at, size_t n, char c)
{
    char path[PATH_MAX];
    mt_auto_free char *block = malloc(n);
    assert_non_null(block);
    memset(block, c, n);
    assert_int_equal(mt_backend_path(b, id, path, NULL), 0);
    mt_auto_fd int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, block, n, (off_t)at), n);
}

enum { RANGES = 1024 };
struct ranges {
    uint64_t at[RANGES], n[RANGES];
    size_t count;
};

static int note(void *arg, uint64_t offset, uint64_t bytes)
{
    struct ranges *r = arg;
    if (r->count == RANGES)
        return -MT_E_LIMIT;
    r->at[r->count] = offset;
    r->n[r->count++] = bytes;
    return 0;
}

static bool told(const struct ranges *r, uint64_t at)
{
    for (size_t i = 0; i < r->count; i++)
        if (at >= r->at[i] && at < r->at[i] + r->n[i])
            return true;
    return false;
}

/* One of the ways in which a guest changes its disk: whole blocks, a few bytes anywhere, a long run, or blocks that it gives back. */
static void change(const struct mt_backend *b, const char *vol, uint64_t size, unsigned *seed)
{
    static const size_t most[] = {65536, 5000, 1 << 20, 256 << 10};
    const int way = rand_r(seed) % 4;
    uint64_t at = (((uint64_t)rand_r(seed) << 16) ^ (uint64_t)rand_r(seed)) % size, n = way == 0 ? most[0] : 1 + (uint64_t)rand_r(seed) % most[way];
    if (way == 0)
        at -= at % most[0];
    n = n > size - at ? size - at : n;
    if (way < 3) {
        write_at(b, vol, at, n, (char)rand_r(seed));
        return;
    }
    char path[PATH_MAX];
    assert_int_equal(mt_backend_path(b, vol, path, NULL), 0);
    mt_auto_fd int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n), 0);
}

/* Property: whatever is written between two snapshots, every block whose bytes differ is in a range that is told: a backup by what is told has
 * the image of a full read. A thousand patterns of writes, as storage-and-secrets.md §10 has it, with MOAT_FULL=1; 12 else. */
static void deltas_never_leave_a_change_out(const char *fs)
{
    enum { BLOCKS = 8192, BLOCK = 4096 };
    static char old[BLOCKS * BLOCK], new[BLOCKS * BLOCK];
    const int rounds = getenv("MOAT_FULL") ? 1001 : 13;
    char vol[MT_ID_SIZE], snaps[2][MT_ID_SIZE];
    if (!usable(fs))
        return;
    struct mt_backend b = opened("auto");
    assert_int_equal(b.kind, MT_BACKEND_REFLINK);
    mt_id_new(MT_ID_VOLUME, vol);
    new_volume(&b, vol, (uint64_t)BLOCKS * BLOCK);
    unsigned seed = 20261129;
    uint64_t told_bytes = 0, changed = 0;
    int64_t when;
    for (int round = 0; round < rounds; round++) {
        mt_id_new(MT_ID_SNAPSHOT, snaps[round & 1]);
        assert_int_equal(mt_backend_snap_create(&b, vol, snaps[round & 1], &when, NULL), 0);
        if (round > 0) {
            struct ranges r = {0};
            mt_auto_fd int base_fd = -1, snap_fd = -1;
            assert_int_equal(mt_backend_snap_open(&b, snaps[(round + 1) & 1], &base_fd, NULL), 0);
            assert_int_equal(mt_backend_snap_open(&b, snaps[round & 1], &snap_fd, NULL), 0);
            struct mt_err err = {0};
            if (mt_backend_snap_delta(&b, snaps[(round + 1) & 1], snaps[round & 1], note, &r, &err) != 0)
                fail_msg("%s", err.msg);
            for (size_t i = 0; i < r.count; i++)
                told_bytes += r.n[i];
            assert_int_equal(pread(base_fd, old, sizeof old, 0), sizeof old);
            assert_int_equal(pread(snap_fd, new, sizeof new, 0), sizeof new);
            for (uint64_t k = 0; k < BLOCKS; k++)
                if (memcmp(old + k * BLOCK, new + k * BLOCK, BLOCK) != 0) {
                    changed += BLOCK;
                    assert_true(told(&r, k * BLOCK));
                }
            assert_int_equal(mt_backend_snap_delete(&b, snaps[(round + 1) & 1], NULL), 0);
        }
        for (int w = rand_r(&seed) % 20; w > 0; w--)
            change(&b, vol, (uint64_t)BLOCKS * BLOCK, &seed);
    }
    print_message("%s, %d patterns: %llu KiB changed, %llu KiB told\n", fs, rounds - 1, (unsigned long long)changed >> 10, (unsigned long long)told_bytes >> 10);
    assert_true(changed > 0 && told_bytes < 8 * changed);
    mt_backend_done(&b);
    tear_down();
}

static void xfs_deltas_never_leave_a_change_out(void **state)
{
    (void)state;
    deltas_never_leave_a_change_out("xfs");
}

static void btrfs_deltas_never_leave_a_change_out(void **state)
{
    (void)state;
    deltas_never_leave_a_change_out("btrfs");
}

static void count(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    (void)made_ms;
    (void)id;
    (void)bytes;
    ((size_t *)arg)[snapshot]++;
}

static void same_suite(const char *fs, const char *want)
{
    char vol[MT_ID_SIZE], other[MT_ID_SIZE], snap[MT_ID_SIZE], path[PATH_MAX], buf[4096];
    uint64_t size;
    int64_t when, again;
    mt_auto_fd int fd = -1;
    if (*fs ? !usable(fs) : set_up(fs) < 0)
        return;
    struct mt_backend b = opened(want);
    mt_id_new(MT_ID_VOLUME, vol);
    mt_id_new(MT_ID_VOLUME, other);
    mt_id_new(MT_ID_SNAPSHOT, snap);
    assert_int_equal(mt_backend_size(&b, vol, &size, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_backend_path(&b, "../../etc/passwd", path, NULL), -MT_E_INVALID);
    new_volume(&b, vol, 8 * MIB);
    write_at(&b, vol, 3 * MIB, 4096, 'x');
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &when, NULL), 0);
    write_at(&b, vol, 3 * MIB, 4096, 'y');
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &again, NULL), 0);
    assert_int_equal(when, again);
    assert_int_equal(mt_backend_snap_open(&b, snap, &fd, NULL), 0);
    assert_int_equal(pread(fd, buf, 4096, (off_t)(3 * MIB)), 4096);
    assert_int_equal(buf[0], 'x');
    assert_int_equal(buf[4095], 'x');
    mt_closep(&fd);
    assert_int_equal(mt_backend_extend(&b, vol, 12 * MIB, NULL), 0);
    assert_int_equal(mt_backend_extend(&b, vol, 4 * MIB, NULL), 0);
    assert_int_equal(mt_backend_size(&b, vol, &size, NULL), 0);
    assert_int_equal(size, 12 * MIB);
    /* what a former tenant wrote is not in a new volume */
    assert_int_equal(mt_backend_delete(&b, vol, NULL), 0);
    assert_int_equal(mt_backend_delete(&b, vol, NULL), 0);
    new_volume(&b, other, 8 * MIB);
    assert_int_equal(mt_backend_path(&b, other, path, NULL), 0);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    for (uint64_t at = 0; at < 8 * MIB; at += sizeof buf) {
        assert_int_equal(pread(fd, buf, sizeof buf, (off_t)at), sizeof buf);
        for (size_t i = 0; i < sizeof buf; i++)
            assert_int_equal(buf[i], 0);
    }
    mt_closep(&fd);
    /* an agent that died in the middle leaves a name that is not a volume, and the next one removes it */
    assert_int_equal(mt_backend_begin(&b, vol, MIB, &fd, NULL), 0);
    size_t n[2] = {0, 0};
    assert_int_equal(mt_backend_enumerate(&b, count, n, NULL), 0);
    assert_int_equal(n[0], 1);
    assert_int_equal(n[1], 1);
    mt_closep(&fd);
    mt_backend_done(&b);
    b = opened(want);
    (void)snprintf(buf, sizeof buf, "%s/vol-%s.img.tmp", b.dir, vol);
    assert_int_equal(access(buf, F_OK), -1);
    /* refused by what is free, before a byte is reserved: not by a reservation that has taken all of it */
    struct mt_err err = {0};
    assert_int_equal(mt_backend_begin(&b, vol, UINT64_C(1) << 40, &fd, &err), -MT_E_LIMIT);
    assert_non_null(strstr(err.msg, " free"));
    assert_int_equal(access(buf, F_OK), -1);
    err = (struct mt_err){0};
    assert_int_equal(mt_backend_extend(&b, other, UINT64_C(1) << 40, &err), -MT_E_LIMIT);
    assert_non_null(strstr(err.msg, " free"));
    mt_backend_done(&b);
    tear_down();
}

static void the_same_holds_on_xfs(void **state)
{
    (void)state;
    same_suite("xfs", "reflink");
}

static void the_same_holds_on_btrfs(void **state)
{
    (void)state;
    same_suite("btrfs", "reflink");
}

static void the_same_holds_for_copies(void **state)
{
    (void)state;
    same_suite("", "copy");
}

static bool tools(struct mt_fstool *t)
{
    const struct passwd *pw = getpwnam("nobody");
    *t = (struct mt_fstool){.mkfs = "/usr/sbin/mkfs.ext4", .e2fsck = "/usr/sbin/e2fsck", .resize2fs = "/usr/sbin/resize2fs",
                            .uid = pw ? pw->pw_uid : 65534, .gid = pw ? pw->pw_gid : 65534};
    struct mt_err err = {0};
    if (geteuid() != 0 || access(t->mkfs, X_OK) < 0) {
        print_message("SKIP: needs root and e2fsprogs\n");
        return false;
    }
    if (mt_fstool_init(t, &err) < 0)
        fail_msg("%s", err.msg);
    return true;
}

static int blank(uint64_t bytes)
{
    char path[] = "/tmp/moat-test-fs-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd > 2);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static void a_volume_is_formatted_checked_and_grown_in_the_sandbox(void **state)
{
    (void)state;
    struct mt_fstool t;
    char id[MT_ID_SIZE], want[MT_VOLUME_UUID_SIZE], uuid[37];
    struct mt_err err = {0};
    struct stat st;
    if (!tools(&t))
        return;
    mt_auto_fd int fd = blank(64 * MIB);
    assert_int_equal(mt_fstool_uuid(fd, uuid, NULL), -MT_E_INVALID);
    mt_id_new(MT_ID_VOLUME, id);
    mt_volume_fs_uuid(id, want);
    if (mt_fstool_format(&t, fd, want, "a-name-longer-than-sixteen", &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(mt_fstool_uuid(fd, uuid, NULL), 0);
    assert_string_equal(uuid, want);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_uid, 0); /* lent, and back */
    assert_int_equal(mt_fstool_format(&t, fd, want, "n", &err), -MT_E_CONFLICT); /* never over something */
    assert_int_equal(ftruncate(fd, (off_t)(128 * MIB)), 0);
    if (mt_fstool_grow(&t, fd, &err) < 0)
        fail_msg("%s", err.msg);
    uint32_t blocks, log_size;
    assert_int_equal(pread(fd, &blocks, 4, 1024 + 4), 4);
    assert_int_equal(pread(fd, &log_size, 4, 1024 + 24), 4);
    assert_int_equal((uint64_t)blocks * (1024U << log_size), 128 * MIB);
    mt_fstool_done(&t);
}

static void what_an_operator_asks_of_a_filesystem_is_judged_and_mended(void **state)
{
    (void)state;
    struct mt_fstool t;
    char id[MT_ID_SIZE], want[MT_VOLUME_UUID_SIZE], uuid[37], detail[MT_CHECK_DETAIL_MAX + 1];
    struct mt_err err = {0};
    enum mt_volume_verdict v;
    if (!tools(&t))
        return;
    mt_auto_fd int fd = blank(64 * MIB);
    mt_id_new(MT_ID_VOLUME, id);
    mt_volume_fs_uuid(id, want);
    if (mt_fstool_format(&t, fd, want, "n", &err) < 0 || mt_fstool_judge(&t, fd, false, &v, detail, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(v, MT_VOLUME_CLEAN);
    assert_non_null(strstr(detail, " files ("));
    assert_null(strstr(detail, "/proc/")); /* nobody is told of our paths */
    uint32_t free_blocks, wrong;
    for (int repair = 0; repair < 2; repair++) {
        assert_int_equal(pread(fd, &free_blocks, 4, 1024 + 0x0c), 4);
        wrong = free_blocks ^ 0x55;
        assert_int_equal(pwrite(fd, &wrong, 4, 1024 + 0x0c), 4);
        assert_int_equal(mt_fstool_judge(&t, fd, false, &v, detail, &err), 0);
        assert_int_equal(v, MT_VOLUME_DAMAGED);
        assert_true(detail[0] && strlen(detail) <= MT_CHECK_DETAIL_MAX);
        uint32_t still;
        assert_int_equal(pread(fd, &still, 4, 1024 + 0x0c), 4);
        assert_int_equal(still, wrong); /* it was looked at only */
        assert_int_equal(mt_fstool_judge(&t, fd, true, &v, detail, &err), 0);
        assert_int_equal(v, MT_VOLUME_REPAIRED);
        assert_true(detail[0]);
        assert_int_equal(mt_fstool_judge(&t, fd, repair, &v, detail, &err), 0);
        assert_int_equal(v, MT_VOLUME_CLEAN);
    }
    assert_int_equal(mt_fstool_uuid(fd, uuid, NULL), 0);
    assert_string_equal(uuid, want);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(ftruncate(fd, (off_t)(64 * MIB)), 0);
    assert_true(mt_fstool_judge(&t, fd, true, &v, detail, &err) < 0); /* nothing to mend: not judged, not called clean */
    mt_fstool_done(&t);
}

static void hostile_metadata_harms_the_tool_only(void **state)
{
    (void)state;
    struct mt_fstool t;
    struct mt_err err = {0};
    unsigned seed = 7;
    size_t refused = 0;
    if (!tools(&t))
        return;
    for (int i = 0; i < 12; i++) {
        mt_auto_fd int fd = blank(16 * MIB);
        if (mt_fstool_format(&t, fd, "00000000-0000-4000-8000-000000000001", "x", &err) < 0)
            fail_msg("%s", err.msg);
        for (int k = 0; k < 40; k++) { /* superblock, group descriptors, inodes of the first group */
            uint8_t byte = (uint8_t)rand_r(&seed);
            assert_int_equal(pwrite(fd, &byte, 1, 1024 + rand_r(&seed) % (i < 6 ? 1024 : 65536)), 1);
        }
        int rc = mt_fstool_check(&t, fd, &err);
        assert_true(rc == 0 || rc == -MT_E_CORRUPT || rc == -MT_E_TIMEOUT);
        refused += rc != 0;
        struct stat st;
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_uid, 0);
        assert_int_equal(st.st_size, (off_t)(16 * MIB));
    }
    assert_true(refused > 0);
    mt_fstool_done(&t);
}

/* A tool that a crafted filesystem took over, played by a script. */
static void a_tool_taken_over_reaches_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *script, *end;
    } rows[] = {{"#!/usr/bin/perl\nexit 80 if $> == 0; exit 0 if open(F, '<', '/etc/shadow'); exit 77;\n", "exit 77"},
                {"#!/usr/bin/perl\nsocket(S, 2, 1, 0); exit 0;\n", "signal 31"}, /* SIGSYS */
                {"#!/usr/bin/perl\nexit(defined(fork) ? 0 : 78);\n", "exit 78"}};
    struct mt_fstool t;
    struct mt_err err = {0};
    char path[] = "/tmp/moat-test-tool-XXXXXX";
    if (!tools(&t))
        return;
    int made = mkstemp(path);
    assert_true(made >= 0);
    (void)close(made);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(mt_file_write(path, rows[i].script, strlen(rows[i].script), 0755, NULL), 0);
        t.e2fsck = path;
        mt_auto_fd int fd = blank(MIB);
        assert_int_equal(mt_fstool_check(&t, fd, &err), -MT_E_CORRUPT);
        if (!strstr(err.msg, rows[i].end))
            fail_msg("row %zu: %s", i, err.msg);
    }
    (void)unlink(path);
    mt_fstool_done(&t);
}

static struct mt_plan_volume planned(char id[MT_ID_SIZE], char uuid[MT_VOLUME_UUID_SIZE])
{
    mt_id_new(MT_ID_VOLUME, id);
    mt_volume_fs_uuid(id, uuid);
    return (struct mt_plan_volume){.volume_id = id, .name = "data", .size_bytes = 32 * MIB, .fs_uuid = uuid};
}

static void steps_are_whole_and_repeatable(void **state)
{
    (void)state;
    struct mt_fstool t;
    char id[MT_ID_SIZE], uuid[MT_VOLUME_UUID_SIZE], path[PATH_MAX];
    const char *detail;
    uint64_t bytes = 0;
    enum mt_volume_fault fault;
    struct mt_err err = {0};
    mt_auto_fd int one = -1, two = -1;
    if (!tools(&t))
        return;
    assert_int_equal(set_up(""), 0);
    struct mt_backend b = opened("auto");
    struct mt_plan_volume v = planned(id, uuid);
    assert_int_equal(mt_volume_attach(&b, &t, id, uuid, 0, false, path, &one, &detail, &err), -MT_E_NOT_FOUND);
    assert_string_equal(detail, "volume_not_present_on_node");
    for (int i = 0; i < 2; i++) {
        if (mt_volume_provision(&b, &t, &v, &bytes, &fault, &err) < 0)
            fail_msg("%s", err.msg);
        assert_int_equal(bytes, 32 * MIB);
        assert_int_equal(fault, MT_VOLUME_FAULT_NONE);
    }
    /* two VMs on one volume, and a maintenance step under a VM: impossible */
    assert_int_equal(mt_volume_attach(&b, &t, id, uuid, 0, false, path, &one, &detail, &err), 0);
    assert_int_equal(mt_volume_attach(&b, &t, id, uuid, 0, false, path, &two, &detail, &err), -MT_E_CONFLICT);
    assert_string_equal(detail, "busy_or_already_attached");
    assert_int_equal(mt_volume_remove(&b, id, &fault, &err), -MT_E_CONFLICT);
    assert_int_equal(mt_volume_lock(&b, id, &two, &err), -MT_E_CONFLICT);
    assert_int_equal(mt_volume_provision(&b, &t, &v, &bytes, &fault, &err), -MT_E_CONFLICT);
    mt_closep(&one);
    assert_int_equal(mt_volume_attach(&b, &t, id, "00000000-0000-4000-8000-000000000001", 0, false, path, &one, &detail, &err), -MT_E_INVALID);
    assert_string_equal(detail, "filesystem_mismatch");
    if (mt_volume_attach(&b, &t, id, uuid, 64 * MIB, false, path, &one, &detail, &err) < 0)
        fail_msg("%s: %s", detail, err.msg);
    assert_int_equal(mt_backend_size(&b, id, &bytes, NULL), 0);
    assert_int_equal(bytes, 64 * MIB);
    mt_closep(&one);
    /* a VM that nobody knows of has it open for writing, and no lock; what only reads is no writer */
    mt_auto_fd int stray = open(path, O_RDWR | O_CLOEXEC);
    assert_true(stray >= 0);
    assert_int_equal(mt_volume_attach(&b, &t, id, uuid, 0, false, path, &one, &detail, &err), -MT_E_CONFLICT);
    assert_string_equal(detail, "busy_or_already_attached");
    mt_closep(&stray);
    stray = open(path, O_RDONLY | O_CLOEXEC);
    /* mounted for reading by the VM before, whose uid had it */
    assert_int_equal(fchown(stray, 65534, 65534) + fchmod(stray, 0400), 0);
    assert_int_equal(mt_volume_attach(&b, &t, id, uuid, 0, true, path, &one, &detail, &err), 0);
    mt_closep(&one);
    /* what was there once and is missing is not made again empty */
    assert_int_equal(mt_volume_remove(&b, id, &fault, &err), 0);
    assert_int_equal(mt_volume_remove(&b, id, &fault, &err), 0);
    v.was_available = true;
    assert_int_equal(mt_volume_provision(&b, &t, &v, &bytes, &fault, &err), -MT_E_NOT_FOUND);
    assert_int_equal(fault, MT_VOLUME_FAULT_NOT_PRESENT);
    assert_int_equal(mt_backend_size(&b, id, &bytes, NULL), -MT_E_NOT_FOUND);
    mt_backend_done(&b);
    mt_fstool_done(&t);
    tear_down();
}

static bool has_lock(const struct mt_backend *b, const char *id)
{
    char name[PATH_MAX];
    (void)snprintf(name, sizeof name, "%s.lock", id);
    return faccessat(b->dir_fd, name, F_OK, 0) == 0;
}

static void a_lock_without_a_volume_goes_at_the_start(void **state)
{
    (void)state;
    char whole[MT_ID_SIZE], begun[MT_ID_SIZE], gone[MT_ID_SIZE], held[MT_ID_SIZE];
    mt_auto_fd int fd = -1, lock = -1, part = -1;
    assert_int_equal(set_up(""), 0);
    struct mt_backend b = opened("copy");
    const struct {
        char *id;
        int *keep;
    } all[] = {{whole, NULL}, {begun, NULL}, {gone, NULL}, {held, &lock}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        mt_auto_fd int mine = -1;
        mt_id_new(MT_ID_VOLUME, all[i].id);
        assert_int_equal(mt_volume_lock(&b, all[i].id, all[i].keep ? all[i].keep : &mine, NULL), 0);
    }
    assert_int_equal(mt_backend_begin(&b, whole, 4 * MIB, &fd, NULL), 0);
    assert_int_equal(mt_backend_commit(&b, whole, fd, NULL), 0);
    assert_int_equal(mt_backend_part_begin(&b, begun, 4 * MIB, &part, NULL), 0);
    mt_volume_sweep_locks(&b);
    assert_true(has_lock(&b, whole));
    assert_true(has_lock(&b, begun));
    assert_false(has_lock(&b, gone));
    assert_true(has_lock(&b, held)); /* somebody is at work on it */
    mt_closep(&lock);
    mt_volume_sweep_locks(&b);
    assert_false(has_lock(&b, held));
    mt_backend_done(&b);
    tear_down();
}

static void a_kill_at_any_moment_leaves_a_volume_or_none(void **state)
{
    (void)state;
    struct mt_fstool t;
    char id[MT_ID_SIZE], uuid[MT_VOLUME_UUID_SIZE], got[37], path[PATH_MAX];
    uint64_t bytes;
    enum mt_volume_fault fault;
    struct mt_err err = {0};
    unsigned whole = 0, none = 0;
    if (!tools(&t))
        return;
    assert_int_equal(set_up(""), 0);
    for (int i = 0; i < 24; i++) {
        struct mt_backend b = opened("auto");
        struct mt_plan_volume v = planned(id, uuid);
        pid_t pid = fork();
        if (pid == 0) {
            (void)mt_volume_provision(&b, &t, &v, &bytes, &fault, NULL);
            _exit(0);
        }
        (void)usleep((useconds_t)(i * 1500)); /* the moment, not a wait for something */
        (void)kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        mt_backend_done(&b);
        b = opened("auto"); /* as the next agent does */
        if (mt_backend_size(&b, id, &bytes, NULL) == 0) {
            whole++;
            assert_int_equal(mt_backend_path(&b, id, path, NULL), 0);
            mt_auto_fd int fd = open(path, O_RDWR | O_CLOEXEC);
            assert_int_equal(mt_fstool_uuid(fd, got, NULL), 0);
            assert_string_equal(got, uuid);
            assert_int_equal(mt_fstool_check(&t, fd, &err), 0);
        } else {
            none++;
        }
        while (mt_volume_provision(&b, &t, &v, &bytes, &fault, &err) < 0) {
            if (err.code != MT_E_CONFLICT) /* the killed one's mkfs may hold the inherited lock for a moment */
                fail_msg("%s", err.msg);
            (void)usleep(1000);
        }
        assert_int_equal(mt_volume_remove(&b, id, &fault, &err), 0);
        mt_backend_done(&b);
    }
    print_message("killed: %u whole, %u not there\n", whole, none);
    assert_true(none > 0);
    mt_fstool_done(&t);
    tear_down();
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(the_same_holds_on_xfs),
        cmocka_unit_test(the_same_holds_on_btrfs),
        cmocka_unit_test(the_same_holds_for_copies),
        cmocka_unit_test(xfs_deltas_never_leave_a_change_out),
        cmocka_unit_test(btrfs_deltas_never_leave_a_change_out),
        cmocka_unit_test(a_volume_is_formatted_checked_and_grown_in_the_sandbox),
        cmocka_unit_test(what_an_operator_asks_of_a_filesystem_is_judged_and_mended),
        cmocka_unit_test(hostile_metadata_harms_the_tool_only),
        cmocka_unit_test(a_tool_taken_over_reaches_nothing),
        cmocka_unit_test(steps_are_whole_and_repeatable),
        cmocka_unit_test(a_lock_without_a_volume_goes_at_the_start),
        cmocka_unit_test(a_kill_at_any_moment_leaves_a_volume_or_none),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
