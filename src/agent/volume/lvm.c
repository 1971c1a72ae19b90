/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thin logical volumes of one pool. See backend_ops.h.
 *
 * LVM's own metadata is the only record: a name is there or not, changed by one commit of its own, and the time of a snapshot is a tag that is
 * written with it. Every question is one `lvs` of the pool, whose answer is short; programs are run as argument lists, never by a shell.
 * Source: storage-and-secrets.md 3.1, 3.2, 3.4.
 */
#include "agent/volume/backend_ops.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"
#include "os/spawn.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define TMP ".tmp"
#define PART ".part"
#define NAME_SIZE 64
#define TIMEOUT_MS 60000
#define LIST_MAX (4U << 20)   /* some 40 000 volumes and snapshots */
#define DELTA_MAX (16U << 20) /* beyond this it is cheaper to read all */
#define TAG "moat-captured-"
#define STEP ((uint64_t)4 << 20) /* of the sizes of volumes */
#define OPEN_TRIES 5             /* udev looks into a new device for a moment */

static int name_of(bool snapshot, const char *id, const char *tail, char ret[NAME_SIZE], struct mt_err *err)
{
    int rc = mt_id_check(snapshot ? MT_ID_SNAPSHOT : MT_ID_VOLUME, id, err);
    return rc < 0 ? rc : mt_fmt(ret, NAME_SIZE, err, "%s-%s%s", snapshot ? "snap" : "vol", id, tail);
}

/* @argv: argv[0] is "lvm" or the program's name. Its standard output goes to @out; what it says when it fails is in the error. */
static int call(const char *path, const char *const *argv, struct mt_buf *out, struct mt_err *err)
{
    const struct mt_spawn s = {.path = path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    return mt_run_ok(&s, NULL, 0, out, TIMEOUT_MS, err);
}

static int lv(const struct mt_backend *b, const char *name, char ret[160], struct mt_err *err)
{
    return mt_fmt(ret, 160, err, "%s/%s", b->lvm.vg, name);
}

/* ---- what is there ----------------------------------------------------------------------- */

struct row {
    const char *name;
    uint64_t bytes, thin_id;
    bool open;
    int64_t made_ms;
};

static char *text_of(struct mt_buf *out)
{
    return *mt_buf_cstr(out) ? (char *)out->p : NULL; /* a NUL is behind it now */
}

static const char *field(char **at)
{
    char *s = *at, *end = s ? strpbrk(s, "|\n") : NULL;
    if (!s)
        return "";
    if (end) {
        *at = *end == '|' ? end + 1 : NULL;
        *end = '\0';
    } else {
        *at = NULL;
    }
    return s + strspn(s, " ");
}

/* Walks the lines of the answer @text, which it takes apart. false: the end. */
static bool next_row(char **text, struct row *ret)
{
    while (*text && **text) {
        char *line = *text, *end = strchr(line, '\n');
        *text = end ? end + 1 : line + strlen(line);
        if (end)
            *end = '\0';
        char *at = line;
        *ret = (struct row){.name = field(&at)};
        const char *bytes = field(&at), *id = field(&at), *open = field(&at), *tags = field(&at), *when = strstr(tags, TAG);
        if (mt_parse_u64(bytes, 1, UINT64_MAX, &ret->bytes, NULL) < 0 || mt_parse_u64(id, 0, UINT32_MAX, &ret->thin_id, NULL) < 0)
            continue;
        ret->open = strncmp(open, "open", 4) == 0;
        if (when)
            ret->made_ms = strtoll(when + strlen(TAG), NULL, 10);
        return true;
    }
    return false;
}

/* Every thin volume of the pool, a line each. */
static int list(const struct mt_backend *b, struct mt_buf *out, struct mt_err *err)
{
    char select[96];
    int rc = mt_fmt(select, sizeof select, err, "pool_lv=%s", b->lvm.pool);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvs", "--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o",
                                "lv_name,lv_size,thin_id,lv_device_open,lv_tags", "-S", select, b->lvm.vg, NULL};
    if ((rc = call(b->lvm.lvm, argv, out, err)) < 0)
        return mt_err_wrap(err, "volumes of the pool '%s/%s'", b->lvm.vg, b->lvm.pool);
    if (out->failed || out->len >= LIST_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "the pool '%s/%s' has more volumes than can be listed", b->lvm.vg, b->lvm.pool);
    return 0;
}

/* One of them; -MT_E_NOT_FOUND. @ret->name is @name. */
static int find(const struct mt_backend *b, const char *name, struct row *ret, struct mt_err *err)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(LIST_MAX);
    int rc = list(b, &out, err);
    char *text = text_of(&out);
    while (rc == 0 && next_row(&text, ret)) {
        if (MT_STREQ(ret->name, name)) {
            ret->name = name;
            return 0;
        }
    }
    return rc < 0 ? rc : MT_FAIL(err, MT_E_NOT_FOUND, "'%s' is not in the pool '%s/%s'", name, b->lvm.vg, b->lvm.pool);
}

static int device_path(const struct mt_backend *b, const char *name, char ret[PATH_MAX], struct mt_err *err)
{
    char link[PATH_MAX];
    int rc = mt_fmt(link, sizeof link, err, "%s/%s/%s", b->lvm.dev, b->lvm.vg, name);
    if (rc == 0 && !realpath(link, ret)) /* /dev/VG/LV is a link to the node, which alone enters a jail */
        rc = mt_fmt(ret, PATH_MAX, err, "%s", link);
    return rc;
}

static int open_device(const struct mt_backend *b, const char *name, int flags, int *ret_fd, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = device_path(b, name, path, err);
    if (rc < 0)
        return rc;
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "device of '%s'", name);
    *ret_fd = fd;
    return 0;
}

/* A device that was gone before its process looked is gone: what counts is that it is not there. */
static int remove_lv(const struct mt_backend *b, const char *name, struct mt_err *err)
{
    char full[160];
    struct row r;
    struct mt_err why = {0};
    int rc = find(b, name, &r, err);
    if (rc == -MT_E_NOT_FOUND)
        return 0;
    if (rc == 0)
        rc = lv(b, name, full, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvremove", "-y", full, NULL};
    for (int i = 0; i < OPEN_TRIES && (rc = call(b->lvm.lvm, argv, NULL, &why)) < 0; i++)
        (void)usleep(100000); /* udev has it open */
    if (rc < 0 && find(b, name, &r, NULL) == -MT_E_NOT_FOUND)
        return 0;
    return rc < 0 ? MT_FAIL(err, MT_E_IO, "remove '%s': %s", full, why.msg) : 0;
}

/* ---- opening ----------------------------------------------------------------------------- */

static int find_tool(const char *name, const char *package, char *ret, size_t size, struct mt_err *err)
{
    return ret[0] ? 0 : mt_find_program(name, package, ret, size, err);
}

/* A pool in which a partly written block shows what another tenant had there is none; one that waits when it is full stops every guest. */
static int check_pool(const struct mt_backend *b, struct mt_err *err)
{
    char full[160];
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(4096);
    int rc = lv(b, b->lvm.pool, full, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvs", "--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o",
                                "segtype,zero,lv_when_full,discards,vg_extent_size", full, NULL};
    if ((rc = call(b->lvm.lvm, argv, &out, err)) < 0)
        return mt_err_wrap(err, "thin pool '%s' (make it: lvcreate --type thin-pool --zero y --discards passdown -c 128k -L SIZE -n %s %s; lvchange --errorwhenfull y %s)", full,
                           b->lvm.pool, b->lvm.vg, full);
    char *at = text_of(&out);
    const char *type = field(&at), *zero = field(&at), *full_is = field(&at), *discards = field(&at), *extent = field(&at);
    uint64_t extent_bytes;
    if (!MT_STREQ(type, "thin-pool"))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not a thin pool but '%.32s'", full, type);
    if (!MT_STREQ(zero, "zero"))
        return MT_FAIL(err, MT_E_INVALID, "the thin pool '%s' does not zero blocks, so a volume would show what another had there: lvchange --zero y %s", full, full);
    if (!MT_STREQ(full_is, "error"))
        return MT_FAIL(err, MT_E_INVALID, "the thin pool '%s' makes writers wait when it is full instead of failing: lvchange --errorwhenfull y %s", full, full);
    if (!MT_STREQ(discards, "passdown") && !MT_STREQ(discards, "nopassdown"))
        return MT_FAIL(err, MT_E_INVALID, "the thin pool '%s' ignores discards, so nothing that is deleted frees it: lvchange --discards passdown %s", full, full);
    if (mt_parse_u64(extent, 1, UINT64_MAX, &extent_bytes, NULL) < 0 || STEP % extent_bytes != 0)
        return MT_FAIL(err, MT_E_INVALID, "the extents of the group '%s' have %.20s bytes; 4 MiB has to be a multiple of it: vgchange -s 4m %s", b->lvm.vg, extent, b->lvm.vg);
    return 0;
}

/* What an agent that was killed held of the pool's metadata; there mostly is nothing, which is an error to the pool. */
static void release_metadata(const struct mt_backend *b, const char *tpool)
{
    const char *const argv[] = {"dmsetup", "message", tpool, "0", "release_metadata_snap", NULL};
    (void)call(b->lvm.dmsetup, argv, NULL, NULL);
}

/* A name of the device mapper has each hyphen of LVM's names twice. */
static int dm_name(const struct mt_backend *b, const char *tail, char ret[320], struct mt_err *err)
{
    char part[2][130];
    const char *const names[2] = {b->lvm.vg, b->lvm.pool};
    for (int i = 0; i < 2; i++) {
        size_t n = 0;
        for (const char *p = names[i]; *p; p++) {
            if (*p == '-')
                part[i][n++] = '-';
            part[i][n++] = *p;
        }
        part[i][n] = '\0';
    }
    return mt_fmt(ret, 320, err, "%s-%s%s", part[0], part[1], tail);
}

/* Whether each disk below the block device @name of /sys/block is reached by way of dm-crypt only. */
static bool all_encrypted(const char *name, int depth)
{
    char path[320], uuid[8] = "";
    bool any = false, all = true;
    if (depth > 8 || mt_fmt(path, sizeof path, NULL, "/sys/block/%.64s/dm/uuid", name) < 0)
        return false;
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, uuid, 6) == 6 && strncmp(uuid, "CRYPT-", 6) == 0)
        return true;
    if (mt_fmt(path, sizeof path, NULL, "/sys/block/%.64s/slaves", name) < 0)
        return false;
    mt_auto_dir DIR *d = opendir(path);
    for (struct dirent *e; d && all && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        any = true;
        all = all_encrypted(e->d_name, depth + 1);
    }
    return any && all;
}

static bool on_encrypted(const struct mt_backend *b)
{
    char data[320], link[PATH_MAX], node[PATH_MAX];
    struct stat st;
    if (dm_name(b, "_tdata", data, NULL) < 0 || mt_fmt(link, sizeof link, NULL, "%s/mapper/%s", b->lvm.dev, data) < 0 || stat(link, &st) < 0 || !S_ISBLK(st.st_mode))
        return false;
    if (mt_fmt(link, sizeof link, NULL, "/sys/dev/block/%u:%u", major(st.st_rdev), minor(st.st_rdev)) < 0 || !realpath(link, node))
        return false;
    return all_encrypted(strrchr(node, '/') + 1, 0);
}

static void sweep(const struct mt_backend *b)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(LIST_MAX);
    struct row r;
    if (list(b, &out, NULL) < 0)
        return;
    for (char *text = text_of(&out); next_row(&text, &r);) {
        size_t n = strlen(r.name), tail = sizeof TMP - 1;
        if (strncmp(r.name, "vol-", 4) == 0 && n > tail && MT_STREQ(r.name + n - tail, TMP))
            (void)remove_lv(b, r.name, NULL);
    }
}

/* Files of volumes in the folder: this node has had another kind of storage. */
static void count_volume(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    (void)id;
    (void)bytes;
    (void)made_ms;
    *(size_t *)arg += !snapshot;
}

static int take_folder(struct mt_backend *b, const char *dir, struct mt_err *err)
{
    char mark[PATH_MAX], text[160];
    size_t files = 0;
    int rc = mt_fmt(b->dir, sizeof b->dir, err, "%s", dir);
    if (rc == 0)
        rc = mt_file_mkdirs(dir, 0711, err);
    if (rc < 0)
        return rc;
    b->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (b->dir_fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open folder of volumes '%s'", dir);
    if ((rc = mt_backend_files.enumerate(b, false, count_volume, &files, err)) < 0)
        return rc;
    if (files > 0)
        return MT_FAIL(err, MT_E_CONFLICT, "'%s' has %zu volumes as files: one kind of storage per node; restore them on another node, or set storage.backend back", dir, files);
    if ((rc = mt_fmt(mark, sizeof mark, err, "%s/" MT_BACKEND_LVM_MARK, dir)) < 0 || (rc = mt_fmt(text, sizeof text, err, "%s/%s\n", b->lvm.vg, b->lvm.pool)) < 0)
        return rc;
    return mt_file_write(mark, text, strlen(text), 0600, err);
}

int mt_backend_open_lvm(const char *dir, const struct mt_lvm *l, struct mt_backend *ret, struct mt_err *err)
{
    struct mt_backend b = {.kind = MT_BACKEND_LVM, .ops = &mt_backend_lvm, .lvm = *l, .dir_fd = -1};
    char tpool[320];
    if (!b.lvm.dev[0])
        (void)snprintf(b.lvm.dev, sizeof b.lvm.dev, "/dev");
    int rc = find_tool("lvm", "lvm2", b.lvm.lvm, sizeof b.lvm.lvm, err);
    if (rc == 0)
        rc = find_tool("dmsetup", "dmsetup", b.lvm.dmsetup, sizeof b.lvm.dmsetup, err);
    if (rc == 0)
        rc = find_tool("thin_delta", "thin-provisioning-tools", b.lvm.thin_delta, sizeof b.lvm.thin_delta, err);
    if (rc == 0)
        rc = check_pool(&b, err);
    if (rc == 0) {
        const char *const argv[] = {"lvm", "vgchange", "-ay", b.lvm.vg, NULL}; /* after a boot of the host without udev nobody has */
        rc = call(b.lvm.lvm, argv, NULL, err);
    }
    if (rc == 0)
        rc = dm_name(&b, "-tpool", tpool, err);
    if (rc == 0)
        rc = take_folder(&b, dir, err);
    if (rc < 0) {
        mt_backend_done(&b);
        return rc;
    }
    release_metadata(&b, tpool);
    sweep(&b);
    b.encrypted = on_encrypted(&b);
    *ret = b;
    return 0;
}

/* ---- volumes ----------------------------------------------------------------------------- */

static int lvm_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    char name[NAME_SIZE];
    int rc = name_of(false, volume_id, "", name, err);
    return rc < 0 ? rc : device_path(b, name, ret, err);
}

static int lvm_size(const struct mt_backend *b, const char *volume_id, uint64_t *ret, struct mt_err *err)
{
    char name[NAME_SIZE];
    struct row r;
    int rc = name_of(false, volume_id, "", name, err);
    if (rc == 0 && (rc = find(b, name, &r, err)) == 0)
        *ret = r.bytes;
    return rc;
}

static int pool_figures(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err);

/* Sizes of volumes are promises: together they stay below the pool, so that no write of a volume itself can find it full. */
static int has_room(const struct mt_backend *b, uint64_t more, const char *volume_id, struct mt_err *err)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(LIST_MAX);
    struct mt_pool_stat pool;
    struct row r;
    uint64_t promised = 0;
    int rc = pool_figures(b, &pool, err);
    if (rc == 0)
        rc = list(b, &out, err);
    for (char *text = text_of(&out); rc == 0 && next_row(&text, &r);)
        promised += strncmp(r.name, "snap-", 5) == 0 ? 0 : r.bytes;
    if (rc == 0 && (promised > pool.total_bytes || more > pool.total_bytes - promised))
        rc = MT_FAIL(err, MT_E_LIMIT, "no space for %llu bytes of volume '%s': the pool '%s/%s' has %llu free of %llu", (unsigned long long)more, volume_id, b->lvm.vg,
                     b->lvm.pool, (unsigned long long)(promised > pool.total_bytes ? 0 : pool.total_bytes - promised), (unsigned long long)pool.total_bytes);
    return rc;
}

static int begin(const struct mt_backend *b, const char *volume_id, const char *tail, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    char name[NAME_SIZE], size[32], pool[160];
    int rc = name_of(false, volume_id, tail, name, err);
    if (rc == 0)
        rc = remove_lv(b, name, err);
    if (rc == 0)
        rc = has_room(b, bytes, volume_id, err);
    if (rc == 0)
        rc = mt_fmt(size, sizeof size, err, "%llub", (unsigned long long)bytes);
    if (rc == 0)
        rc = lv(b, b->lvm.pool, pool, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvcreate", "-y", "-kn", "-Wn", "-n", name, "-V", size, "--thinpool", pool, NULL};
    if ((rc = call(b->lvm.lvm, argv, NULL, err)) < 0)
        return mt_err_wrap(err, "make volume '%s'", volume_id);
    if ((rc = open_device(b, name, O_RDWR, ret_fd, err)) < 0)
        (void)remove_lv(b, name, NULL);
    return rc;
}

static int commit(const struct mt_backend *b, const char *volume_id, const char *tail, int fd, struct mt_err *err)
{
    char from[NAME_SIZE], to[NAME_SIZE];
    int rc = name_of(false, volume_id, tail, from, err);
    if (rc == 0)
        rc = name_of(false, volume_id, "", to, err);
    if (rc < 0)
        return rc;
    if (fsync(fd) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "keep '%s'", from);
    const char *const argv[] = {"lvm", "lvrename", b->lvm.vg, from, to, NULL};
    return call(b->lvm.lvm, argv, NULL, err);
}

static int lvm_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    return begin(b, volume_id, TMP, bytes, ret_fd, err);
}

static int lvm_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err)
{
    return commit(b, volume_id, TMP, fd, err);
}

static void lvm_abandon(const struct mt_backend *b, const char *volume_id)
{
    char name[NAME_SIZE];
    if (name_of(false, volume_id, TMP, name, NULL) == 0)
        (void)remove_lv(b, name, NULL);
}

static int lock_part(int fd, const char *volume_id, struct mt_err *err)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return MT_FAIL_ERRNO(err, MT_E_CONFLICT, "part of volume '%s' is still written to", volume_id);
    if (fchown(fd, geteuid(), getegid()) < 0) /* a tool had it when the agent before ended */
        return MT_FAIL_ERRNO(err, MT_E_IO, "take back the part of volume '%s'", volume_id);
    return 0;
}

static int lvm_part_open(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    char name[NAME_SIZE];
    struct row r;
    mt_auto_fd int fd = -1;
    int rc = name_of(false, volume_id, PART, name, err);
    if (rc == 0)
        rc = find(b, name, &r, err);
    if (rc == 0 && r.bytes != bytes)
        rc = MT_FAIL(err, MT_E_NOT_FOUND, "part of volume '%s' has another size", volume_id);
    if (rc == 0)
        rc = open_device(b, name, O_RDWR, &fd, err);
    if (rc == 0)
        rc = lock_part(fd, volume_id, err);
    if (rc == 0)
        *ret_fd = MT_TAKE_FD(fd);
    return rc;
}

static int lvm_part_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    int rc = begin(b, volume_id, PART, bytes, ret_fd, err);
    if (rc == 0 && (rc = lock_part(*ret_fd, volume_id, err)) < 0)
        mt_closep(ret_fd);
    return rc;
}

static int lvm_part_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err)
{
    return commit(b, volume_id, PART, fd, err);
}

static int lvm_part_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    char name[NAME_SIZE];
    int rc = name_of(false, volume_id, PART, name, err);
    return rc < 0 ? rc : device_path(b, name, ret, err);
}

static int lvm_part_drop(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    char name[NAME_SIZE];
    int rc = name_of(false, volume_id, PART, name, err);
    return rc < 0 ? rc : remove_lv(b, name, err);
}

static int lvm_extend(const struct mt_backend *b, const char *volume_id, uint64_t bytes, struct mt_err *err)
{
    char name[NAME_SIZE], full[160], size[32];
    uint64_t have;
    int rc = lvm_size(b, volume_id, &have, err);
    if (rc < 0 || bytes <= have)
        return rc;
    if ((rc = has_room(b, bytes - have, volume_id, err)) < 0 || (rc = name_of(false, volume_id, "", name, err)) < 0 || (rc = lv(b, name, full, err)) < 0 ||
        (rc = mt_fmt(size, sizeof size, err, "%llub", (unsigned long long)bytes)) < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvextend", "-L", size, full, NULL};
    return call(b->lvm.lvm, argv, NULL, err);
}

static int lvm_delete(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    static const char *const tails[] = {TMP, PART, ""};
    char name[NAME_SIZE];
    for (size_t i = 0; i < MT_ARRAY_LEN(tails); i++) {
        int rc = name_of(false, volume_id, tails[i], name, err);
        if (rc < 0 || (rc = remove_lv(b, name, err)) < 0)
            return rc;
    }
    return 0;
}

static int lvm_unused(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    char name[NAME_SIZE];
    struct row r;
    int rc = name_of(false, volume_id, "", name, err);
    for (int i = 0; rc == 0 && i < OPEN_TRIES; i++) {
        if ((rc = find(b, name, &r, err)) == 0 && !r.open)
            return 0;
        (void)usleep(100000); /* udev has it open for a moment */
    }
    return rc < 0 ? rc : MT_FAIL(err, MT_E_CONFLICT, "volume '%s' is open somewhere", volume_id);
}

/* ---- snapshots --------------------------------------------------------------------------- */

/* A guest may hold still for it: one program, and questions only when that fails. */
static int lvm_snap_create(const struct mt_backend *b, const char *volume_id, const char *snapshot_id, int64_t *ret_captured_ms, struct mt_err *err)
{
    char vol[NAME_SIZE], name[NAME_SIZE], full[160], tag[48];
    struct row r;
    struct mt_err why = {0};
    mt_auto_fd int fd = -1;
    int rc = name_of(false, volume_id, "", vol, err);
    if (rc == 0)
        rc = name_of(true, snapshot_id, "", name, err);
    if (rc == 0)
        rc = lv(b, vol, full, err);
    if (rc == 0)
        rc = open_device(b, vol, O_RDWR, &fd, err);
    if (rc < 0)
        return rc;
    if (fsync(fd) < 0) /* what the monitor was told and has in this machine's cache */
        return MT_FAIL_ERRNO(err, MT_E_IO, "write out volume '%s'", volume_id);
    mt_closep(&fd);
    int64_t now_ms = mt_clock_wall_us() / 1000;
    if ((rc = mt_fmt(tag, sizeof tag, err, TAG "%lld", (long long)now_ms)) < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvcreate", "-y", "-s", "-kn", "-pr", "--addtag", tag, "-n", name, full, NULL};
    if (call(b->lvm.lvm, argv, NULL, &why) == 0) {
        *ret_captured_ms = now_ms;
        return 0;
    }
    if (find(b, name, &r, NULL) == 0) { /* it was there already */
        *ret_captured_ms = r.made_ms;
        return 0;
    }
    return MT_FAIL(err, MT_E_IO, "snapshot of volume '%s': %s", volume_id, why.msg);
}

static int lvm_snap_open(const struct mt_backend *b, const char *snapshot_id, int *ret_fd, struct mt_err *err)
{
    char name[NAME_SIZE];
    int rc = name_of(true, snapshot_id, "", name, err);
    return rc < 0 ? rc : open_device(b, name, O_RDONLY, ret_fd, err);
}

static int lvm_snap_delete(const struct mt_backend *b, const char *snapshot_id, struct mt_err *err)
{
    char name[NAME_SIZE];
    int rc = name_of(true, snapshot_id, "", name, err);
    return rc < 0 ? rc : remove_lv(b, name, err);
}

/* One at a time: a pool has one frozen copy of its metadata. */
static int lock_delta(const struct mt_backend *b, int *ret_fd, struct mt_err *err)
{
    int fd = openat(b->dir_fd, "delta.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) {
        int rc = MT_FAIL_ERRNO(err, MT_E_IO, "lock for the pool's metadata");
        mt_closep(&fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

static int lvm_snap_delta(const struct mt_backend *b, const char *base_id, const char *snapshot_id, mt_delta_fn fn, void *arg, struct mt_err *err)
{
    char base[NAME_SIZE], snap[NAME_SIZE], tpool[320], meta[320], device[PATH_MAX], one[24], two[24];
    struct row base_row, snap_row;
    mt_auto_fd int lock = -1;
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(DELTA_MAX);
    int rc = name_of(true, base_id, "", base, err);
    if (rc == 0)
        rc = name_of(true, snapshot_id, "", snap, err);
    if (rc == 0)
        rc = find(b, base, &base_row, err);
    if (rc == 0)
        rc = find(b, snap, &snap_row, err);
    if (rc == 0)
        rc = dm_name(b, "-tpool", tpool, err);
    if (rc == 0)
        rc = dm_name(b, "_tmeta", meta, err);
    if (rc == 0)
        rc = mt_fmt(device, sizeof device, err, "%s/mapper/%s", b->lvm.dev, meta);
    if (rc == 0)
        rc = lock_delta(b, &lock, err);
    if (rc < 0)
        return rc;
    (void)snprintf(one, sizeof one, "%llu", (unsigned long long)base_row.thin_id);
    (void)snprintf(two, sizeof two, "%llu", (unsigned long long)snap_row.thin_id);
    const char *const freeze[] = {"dmsetup", "message", tpool, "0", "reserve_metadata_snap", NULL};
    const char *const compare[] = {"thin_delta", "-m", "--thin1", one, "--thin2", two, device, NULL};
    release_metadata(b, tpool);
    if ((rc = call(b->lvm.dmsetup, freeze, NULL, err)) == 0) {
        rc = call(b->lvm.thin_delta, compare, &out, err);
        release_metadata(b, tpool);
    }
    if (rc < 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "what changed between '%s' and '%s' is not to be told: %s", base, snap, err ? err->msg : "");
    return mt_thin_delta_read(mt_buf_cstr(&out) /* one that was too long lacks its end */, base_row.bytes, snap_row.bytes, fn, arg, err);
}

/* ---- the pool ---------------------------------------------------------------------------- */

static int lvm_enumerate(const struct mt_backend *b, bool parts, mt_backend_fn fn, void *arg, struct mt_err *err)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(LIST_MAX);
    struct row r;
    int rc = list(b, &out, err);
    for (char *text = text_of(&out); rc == 0 && next_row(&text, &r);) {
        char id[MT_ID_SIZE];
        bool snapshot = strncmp(r.name, "snap-", 5) == 0;
        size_t n = strlen(r.name), head = snapshot ? 5 : 4, end = parts ? sizeof PART - 1 : 0;
        if ((!snapshot && strncmp(r.name, "vol-", 4) != 0) || n < head + end || (parts && !MT_STREQ(r.name + n - end, PART)) || n - head - end >= sizeof id)
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(n - head - end), r.name + head);
        if (mt_id_check(snapshot ? MT_ID_SNAPSHOT : MT_ID_VOLUME, id, NULL) == 0)
            fn(arg, snapshot, id, r.bytes, r.made_ms);
    }
    return rc;
}

/* "12.34" of @whole. */
static uint64_t share(const char *percent, uint64_t whole)
{
    double p = strtod(percent, NULL);
    return p <= 0 ? 0 : p >= 100 ? whole : (uint64_t)((double)whole * p / 100);
}

static int pool_figures(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err)
{
    char full[160];
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(4096);
    int rc = lv(b, b->lvm.pool, full, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"lvm", "lvs", "--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o",
                                "lv_size,data_percent,lv_metadata_size,metadata_percent,lv_health_status", full, NULL};
    if ((rc = call(b->lvm.lvm, argv, &out, err)) < 0)
        return mt_err_wrap(err, "figures of the pool '%s'", full);
    char *at = text_of(&out);
    const char *size = field(&at), *data = field(&at), *meta_size = field(&at), *meta = field(&at), *health = field(&at);
    *ret = (struct mt_pool_stat){0};
    if (mt_parse_u64(size, 1, UINT64_MAX, &ret->total_bytes, NULL) < 0 || mt_parse_u64(meta_size, 1, UINT64_MAX, &ret->meta_bytes, NULL) < 0 || !*data || !*meta)
        return MT_FAIL(err, MT_E_IO, "the pool '%s' is not active: lvchange -ay %s", full, full);
    ret->used_bytes = share(data, ret->total_bytes);
    ret->meta_used_bytes = share(meta, ret->meta_bytes);
    if (*health || ret->used_bytes >= ret->total_bytes)
        return mt_fmt(ret->why, sizeof ret->why, err, "the thin pool '%s' takes no writes (%.32s): extend it (lvextend), or delete volumes", full, *health ? health : "full");
    return 0;
}

static void count_snapshot(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    (void)id;
    (void)bytes;
    (void)made_ms;
    *(size_t *)arg += snapshot;
}

static int lvm_stat(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err)
{
    int rc = pool_figures(b, ret, err);
    return rc < 0 ? rc : lvm_enumerate(b, false, count_snapshot, &ret->snapshots, err);
}

const struct mt_backend_ops mt_backend_lvm = {
    .path = lvm_path, .size = lvm_size, .begin = lvm_begin, .commit = lvm_commit, .abandon = lvm_abandon, .part_open = lvm_part_open,
    .part_begin = lvm_part_begin, .part_commit = lvm_part_commit, .part_path = lvm_part_path, .part_drop = lvm_part_drop, .extend = lvm_extend, .delete = lvm_delete,
    .unused = lvm_unused, .snap_create = lvm_snap_create, .snap_open = lvm_snap_open, .snap_delete = lvm_snap_delete,
    .snap_delta = lvm_snap_delta, .enumerate = lvm_enumerate, .stat = lvm_stat,
};
