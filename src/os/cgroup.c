/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v1 and v2: see cgroup.h. */
#include "os/cgroup.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

enum { MOUNTINFO_MAX = 1 << 20, SMALL_FILE = 65536, POLL_MS = 5, REMOVE_MS = 1000, KILL_ROUNDS = 10000 };

static const char *const v1_name[MT_CGROUP_CTRL_MAX] = {"memory", "cpu", "pids", "cpuacct", "freezer"};

static void pause_ms(long ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    (void)nanosleep(&t, NULL);
}

/* Undo the octal escapes of mountinfo in place. */
static void unescape(char *s)
{
    char *w = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
            *w++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *w++ = *s;
        }
    }
    *w = '\0';
}

static bool has_word(const char *list, const char *word, const char *separators)
{
    size_t n = strlen(word);
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, separators);
        if (len == n && memcmp(p, word, n) == 0)
            return true;
        p += len;
        p += strspn(p, separators);
    }
    return false;
}

/* The mount offers what we need of v2? */
static bool unified_usable(const char *mount)
{
    char path[MT_CGROUP_PATH + 32];
    mt_auto_free char *text = NULL;
    size_t len;
    if (mt_fmt(path, sizeof path, NULL, "%s/cgroup.controllers", mount) < 0 || mt_file_read(path, SMALL_FILE, &text, &len, NULL) < 0)
        return false;
    return has_word(text, "cpu", " \n") && has_word(text, "memory", " \n");
}

/* One line of mountinfo: "id parent dev root MOUNTPOINT options [tags] - FSTYPE source SUPEROPTIONS" */
static void take_line(struct mt_cgroup_host *host, char *line, char *unified, size_t unified_size)
{
    char *field[5], *save = NULL, *p = line;
    for (int i = 0; i < 5; i++, p = NULL) {
        if (!(field[i] = strtok_r(p, " ", &save)))
            return;
    }
    char *dash = save ? strstr(save, " - ") : NULL;
    if (!dash)
        return;
    char *type = strtok_r(dash + 3, " ", &save);
    char *source = type ? strtok_r(NULL, " ", &save) : NULL;
    char *super = source ? strtok_r(NULL, " ", &save) : NULL;
    if (!super)
        return;
    unescape(field[4]);
    if (MT_STREQ(type, "cgroup2")) {
        (void)mt_fmt(unified, unified_size, NULL, "%s", field[4]);
    } else if (MT_STREQ(type, "cgroup")) {
        for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
            if (has_word(super, v1_name[c], ","))
                (void)mt_fmt(host->mount[c], sizeof host->mount[c], NULL, "%s", field[4]);
        }
    }
}

int mt_cgroup_open(struct mt_cgroup_host *host, const char *mountinfo, const char *parent, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t len;
    char unified[MT_CGROUP_PATH] = "";
    *host = (struct mt_cgroup_host){.version = 1};
    if (mt_fmt(host->parent, sizeof host->parent, err, "%s", parent) < 0 ||
        mt_file_read(mountinfo ? mountinfo : "/proc/self/mountinfo", MOUNTINFO_MAX, &text, &len, err) < 0)
        return mt_err_wrap(err, "finding cgroups");
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        take_line(host, line, unified, sizeof unified);
    if (unified[0] && unified_usable(unified)) {
        host->version = 2;
        for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++)
            (void)mt_fmt(host->mount[c], sizeof host->mount[c], NULL, "%s", unified);
        return 0;
    }
    if (!host->mount[MT_CGROUP_MEMORY][0] || !host->mount[MT_CGROUP_CPU][0])
        return MT_FAIL(err, MT_E_UNAVAILABLE, "no cgroup hierarchy has both cpu and memory; mount cgroup v2 at /sys/fs/cgroup");
    return 0;
}

int mt_cgroup_path(const struct mt_cgroup_host *host, enum mt_cgroup_ctrl ctrl, const char *name, char *ret, size_t size,
                   struct mt_err *err)
{
    return mt_fmt(ret, size, err, "%s/%s%s%s", host->mount[ctrl], host->parent, name[0] ? "/" : "", name);
}

/* True when @ctrl is the first of those sharing its mount (v2: all share one; v1: cpu,cpuacct may). */
static bool first_of_mount(const struct mt_cgroup_host *host, size_t ctrl)
{
    if (!host->mount[ctrl][0])
        return false;
    for (size_t c = 0; c < ctrl; c++) {
        if (MT_STREQ(host->mount[c], host->mount[ctrl]))
            return false;
    }
    return true;
}

/* In the kernel's file system the file is there or opening it fails, whatever the flags; in a test folder it is made. */
static int put(const char *dir, const char *file, const char *text, bool required, struct mt_err *err)
{
    char path[MT_CGROUP_PATH * 2];
    if (mt_fmt(path, sizeof path, err, "%s/%s", dir, file) < 0)
        return -MT_E_LIMIT;
    mt_auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text))
        return 0;
    if (!required)
        return 0;
    return MT_FAIL_ERRNO(err, MT_E_IO, "write '%s' to %s", text, path);
}

static int put_u64(const char *dir, const char *file, uint64_t v, bool required, struct mt_err *err)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, v);
    return put(dir, file, text, required, err);
}

/* mkdir -p of the group below one mount, enabling v2 controllers at each step above it; @name "" stops at the parent. */
static int make_dirs(const struct mt_cgroup_host *host, size_t ctrl, const char *name, char *ret_dir, size_t size, struct mt_err *err)
{
    if (mt_cgroup_path(host, (enum mt_cgroup_ctrl)ctrl, name, ret_dir, size, err) < 0)
        return -MT_E_LIMIT;
    for (char *p = ret_dir + strlen(host->mount[ctrl]);; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char keep = *p;
        *p = '\0';
        if (mkdir(ret_dir, 0755) == -1 && errno != EEXIST)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make cgroup %s", ret_dir);
        if (host->version == 2 && (keep != '\0' || name[0] == '\0')) {
            static const char *const enable[] = {"+cpu", "+memory", "+pids", "+io"};
            for (size_t i = 0; i < MT_ARRAY_LEN(enable); i++) {
                if (put(ret_dir, "cgroup.subtree_control", enable[i], i < 2, err) < 0)
                    return mt_err_wrap(err, "enabling controllers");
            }
        }
        *p = keep;
        if (keep == '\0')
            return 0;
    }
}

static int set_v2(const char *dir, const struct mt_cgroup_limits *l, struct mt_err *err)
{
    if (put_u64(dir, "memory.max", l->memory_bytes, true, err) < 0 || put(dir, "memory.swap.max", "0", false, err) < 0 ||
        put(dir, "memory.oom.group", "1", false, err) < 0 || put_u64(dir, "cpu.weight", l->cpu_weight, true, err) < 0 ||
        put_u64(dir, "pids.max", l->pids_max, false, err) < 0 || put(dir, "io.weight", "100", false, err) < 0)
        return -MT_E_IO;
    return 0;
}

static int set_v1(size_t ctrl, const char *dir, const struct mt_cgroup_limits *l, struct mt_err *err)
{
    switch ((enum mt_cgroup_ctrl)ctrl) {
    case MT_CGROUP_MEMORY:
        if (put_u64(dir, "memory.limit_in_bytes", l->memory_bytes, true, err) < 0)
            return -MT_E_IO;
        return put_u64(dir, "memory.memsw.limit_in_bytes", l->memory_bytes, false, err);
    case MT_CGROUP_CPU:
        return put_u64(dir, "cpu.shares", 2 + (uint64_t)(l->cpu_weight - 1) * 262142 / 9999, true, err);
    case MT_CGROUP_PIDS:
        return put_u64(dir, "pids.max", l->pids_max, false, err);
    case MT_CGROUP_CPUACCT:
    case MT_CGROUP_FREEZER:
    case MT_CGROUP_CTRL_MAX:
        break;
    }
    return 0;
}

int mt_cgroup_setup(const struct mt_cgroup_host *host, struct mt_err *err)
{
    char dir[MT_CGROUP_PATH * 2];
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
        if (first_of_mount(host, c) && make_dirs(host, c, "", dir, sizeof dir, err) < 0)
            return -(int)(err ? err->code : MT_E_IO);
    }
    return 0;
}

int mt_cgroup_create(const struct mt_cgroup_host *host, const char *name, const struct mt_cgroup_limits *limits, struct mt_err *err)
{
    char dir[MT_CGROUP_PATH * 2];
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
        if (!host->mount[c][0])
            continue;
        if (first_of_mount(host, c)) {
            if (make_dirs(host, c, name, dir, sizeof dir, err) < 0)
                return -(int)(err ? err->code : MT_E_IO);
        } else if (mt_cgroup_path(host, (enum mt_cgroup_ctrl)c, name, dir, sizeof dir, err) < 0) {
            return -MT_E_LIMIT;
        }
        if (host->version == 2)
            return set_v2(dir, limits, err);
        if (set_v1(c, dir, limits, err) < 0)
            return -MT_E_IO;
    }
    return 0;
}

int mt_cgroup_join_fds(const struct mt_cgroup_host *host, const char *name, int ret_fd[MT_CGROUP_JOIN_MAX], size_t *ret_count,
                       struct mt_err *err)
{
    char path[MT_CGROUP_PATH * 2];
    size_t n = 0;
    for (size_t i = 0; i < MT_CGROUP_JOIN_MAX; i++)
        ret_fd[i] = -1;
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
        if (!first_of_mount(host, c))
            continue;
        if (mt_fmt(path, sizeof path, err, "%s/%s/%s/cgroup.procs", host->mount[c], host->parent, name) < 0 ||
            (ret_fd[n] = open(path, O_WRONLY | O_CLOEXEC)) == -1) {
            (void)MT_FAIL_ERRNO(err, MT_E_IO, "open %s", path);
            for (size_t i = 0; i < n; i++)
                mt_closep(&ret_fd[i]);
            return -MT_E_IO;
        }
        n++;
    }
    *ret_count = n;
    return 0;
}

/* The group of work as a group of the parent's parent. */
static int work_group(const struct mt_cgroup_host *host, const char *what, struct mt_cgroup_host *ret, char name[MT_CGROUP_NAME_MAX + 8], struct mt_err *err)
{
    *ret = *host;
    char *slash = strrchr(ret->parent, '/');
    int r = mt_fmt(name, MT_CGROUP_NAME_MAX + 8, err, "%s.%s", what, slash ? slash + 1 : ret->parent);
    *(slash ? slash : ret->parent) = '\0';
    return r < 0 ? -MT_E_LIMIT : 0;
}

int mt_cgroup_work(const struct mt_cgroup_host *host, const char *what, enum mt_cgroup_yield yield, bool one_cpu, char ret_procs[MT_CGROUP_PATH * 2], struct mt_err *err)
{
    static const struct {
        const char *weight, *most;
    } file[2] = {{"cpu.shares", "cpu.cfs_quota_us"}, {"cpu.weight", "cpu.max"}};
    struct mt_cgroup_host above;
    char name[MT_CGROUP_NAME_MAX + 8], dir[MT_CGROUP_PATH * 2];
    bool v2 = host->version == 2, idle = yield == MT_CGROUP_YIELD_WHOLLY;
    if (work_group(host, what, &above, name, err) < 0 || make_dirs(&above, MT_CGROUP_CPU, name, dir, sizeof dir, err) < 0)
        return -(int)(err && err->code ? err->code : MT_E_IO);
    /* an idle group refuses a weight, and kernels before 5.15 know no idle group: the smallest weight stands for it there */
    (void)put(dir, "cpu.idle", idle ? "1" : "0", false, NULL);
    (void)put(dir, file[v2].weight, v2 ? (idle ? "1" : "10") : (idle ? "2" : "100"), false, NULL);
    (void)put(dir, file[v2].most, v2 ? (one_cpu ? "100000 100000" : "max 100000") : (one_cpu ? "100000" : "-1"), false, NULL);
    if (v2)
        (void)put(dir, "io.weight", "1", false, NULL);
    return mt_fmt(ret_procs, MT_CGROUP_PATH * 2, err, "%s/cgroup.procs", dir);
}

void mt_cgroup_work_remove(const struct mt_cgroup_host *host, const char *what)
{
    struct mt_cgroup_host above;
    char name[MT_CGROUP_NAME_MAX + 8];
    if (work_group(host, what, &above, name, NULL) < 0)
        return;
    (void)mt_cgroup_remove(&above, name, NULL);
    mt_cgroup_remove_parents(&above);
}

int mt_cgroup_join(const struct mt_cgroup_host *host, const char *name, int pid, struct mt_err *err)
{
    int fd[MT_CGROUP_JOIN_MAX];
    size_t n;
    int r = mt_cgroup_join_fds(host, name, fd, &n, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        if (r == 0 && dprintf(fd[i], "%d", pid) < 0)
            r = MT_FAIL_ERRNO(err, MT_E_IO, "add process %d to cgroup '%s'", pid, name);
        mt_closep(&fd[i]);
    }
    return r;
}

/* Each pid of the group to @fn; number of pids in *ret. */
static int each_pid(const struct mt_cgroup_host *host, const char *name, int signo, size_t *ret, struct mt_err *err)
{
    char path[MT_CGROUP_PATH * 2];
    *ret = 0;
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
        if (!first_of_mount(host, c))
            continue;
        if (mt_fmt(path, sizeof path, err, "%s/%s/%s/cgroup.procs", host->mount[c], host->parent, name) < 0)
            return -MT_E_LIMIT;
        mt_auto_file FILE *f = fopen(path, "re");
        if (!f)
            continue; /* not there: nothing in it */
        char line[32];
        while (fgets(line, sizeof line, f)) {
            uint64_t pid;
            line[strcspn(line, "\n")] = '\0';
            if (mt_parse_u64(line, 1, INT32_MAX, &pid, NULL) < 0)
                continue;
            (*ret)++;
            if (signo)
                (void)kill((pid_t)pid, signo);
        }
    }
    return 0;
}

int mt_cgroup_count(const struct mt_cgroup_host *host, const char *name, size_t *ret, struct mt_err *err)
{
    return each_pid(host, name, 0, ret, err);
}

static void kill_once(const struct mt_cgroup_host *host, const char *name)
{
    char dir[MT_CGROUP_PATH * 2];
    size_t n;
    if (host->version == 2) {
        if (mt_cgroup_path(host, MT_CGROUP_MEMORY, name, dir, sizeof dir, NULL) == 0 && put(dir, "cgroup.kill", "1", true, NULL) == 0)
            return;
        /* kernels before 5.14 have no cgroup.kill */
        (void)each_pid(host, name, SIGKILL, &n, NULL);
        return;
    }
    bool frozen = host->mount[MT_CGROUP_FREEZER][0] &&
                  mt_cgroup_path(host, MT_CGROUP_FREEZER, name, dir, sizeof dir, NULL) == 0 &&
                  put(dir, "freezer.state", "FROZEN", true, NULL) == 0; /* no fork can run away from us */
    (void)each_pid(host, name, SIGKILL, &n, NULL);
    if (frozen)
        (void)put(dir, "freezer.state", "THAWED", true, NULL);
}

int mt_cgroup_kill(const struct mt_cgroup_host *host, const char *name, int64_t timeout_ms, struct mt_err *err)
{
    int64_t end = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    for (int round = 0; round < KILL_ROUNDS; round++) {
        size_t n;
        int r = each_pid(host, name, 0, &n, err);
        if (r < 0 || n == 0)
            return r;
        if (mt_clock_mono() >= end)
            return MT_FAIL(err, MT_E_TIMEOUT, "cgroup '%s' still has %zu processes after SIGKILL", name, n);
        kill_once(host, name);
        pause_ms(POLL_MS);
    }
    return MT_FAIL(err, MT_E_TIMEOUT, "cgroup '%s' does not become empty", name);
}

int mt_cgroup_remove(const struct mt_cgroup_host *host, const char *name, struct mt_err *err)
{
    int64_t end = mt_clock_mono() + REMOVE_MS * MT_NS_PER_MS;
    char dir[MT_CGROUP_PATH * 2];
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
        if (!first_of_mount(host, c))
            continue;
        if (mt_cgroup_path(host, (enum mt_cgroup_ctrl)c, name, dir, sizeof dir, err) < 0)
            return -MT_E_LIMIT;
        while (rmdir(dir) == -1 && errno != ENOENT) {
            if (errno != EBUSY || mt_clock_mono() >= end)
                return MT_FAIL_ERRNO(err, MT_E_IO, "remove cgroup %s", dir);
            pause_ms(POLL_MS);
        }
    }
    return 0;
}

void mt_cgroup_remove_parents(const struct mt_cgroup_host *host)
{
    char dir[MT_CGROUP_PATH * 2];
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) {
        if (!first_of_mount(host, c) || mt_cgroup_path(host, (enum mt_cgroup_ctrl)c, "", dir, sizeof dir, NULL) < 0)
            continue;
        size_t stop = strlen(host->mount[c]);
        while (strlen(dir) > stop && rmdir(dir) == 0) {
            char *slash = strrchr(dir, '/');
            *slash = '\0';
        }
    }
}

/* A number in a file: all of it (@key NULL), or behind "key " on its line. 0 when absent. */
static uint64_t number(const struct mt_cgroup_host *host, enum mt_cgroup_ctrl ctrl, const char *name, const char *file, const char *key)
{
    char path[MT_CGROUP_PATH * 2];
    mt_auto_free char *text = NULL;
    size_t len;
    uint64_t v = 0;
    if (!host->mount[ctrl][0] ||
        mt_fmt(path, sizeof path, NULL, "%s/%s/%s/%s", host->mount[ctrl], host->parent, name, file) < 0 ||
        mt_file_read(path, SMALL_FILE, &text, &len, NULL) < 0)
        return 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (key) {
            size_t n = strlen(key);
            if (strncmp(line, key, n) != 0 || line[n] != ' ')
                continue;
            line += n + 1;
        }
        return mt_parse_u64(line, 0, UINT64_MAX, &v, NULL) == 0 ? v : 0;
    }
    return 0;
}

/* Is @word one of the words of a small file? */
static bool says(const char *dir, const char *file, const char *word)
{
    char path[MT_CGROUP_PATH * 2];
    mt_auto_free char *text = NULL;
    size_t len;
    char *save = NULL;
    if (mt_fmt(path, sizeof path, NULL, "%s/%s", dir, file) < 0 || mt_file_read(path, SMALL_FILE, &text, &len, NULL) < 0)
        return false;
    for (char *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
        if (MT_STREQ(w, word))
            return true;
    return false;
}

int mt_cgroup_limit(const struct mt_cgroup_host *host, const char *name, const struct mt_cgroup_limits *limits, struct mt_err *err)
{
    char dir[MT_CGROUP_PATH * 2];
    if (host->version != 2)
        return 0;
    if (mt_cgroup_path(host, MT_CGROUP_MEMORY, name, dir, sizeof dir, err) < 0)
        return -MT_E_LIMIT;
    if (access(dir, F_OK) < 0)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "cgroup '%s'", name);
    if (!says(dir, "memory.max", "max") && !says(dir, "pids.max", "max") && number(host, MT_CGROUP_CPU, name, "cpu.weight", NULL) == limits->cpu_weight)
        return 0;
    int rc = set_v2(dir, limits, err);
    return rc < 0 ? rc : 1;
}

static int mend_controllers(const char *dir, struct mt_err *err)
{
    static const char *const enable[] = {"+cpu", "+memory", "+pids", "+io"};
    int mended = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(enable); i++) {
        if (!says(dir, "cgroup.controllers", enable[i] + 1) || says(dir, "cgroup.subtree_control", enable[i] + 1))
            continue; /* one that this kernel does not offer is none that was taken away */
        if (put(dir, "cgroup.subtree_control", enable[i], true, err) < 0)
            return -MT_E_IO;
        mended = 1;
    }
    return mended;
}

int mt_cgroup_mend(const struct mt_cgroup_host *host, uint64_t backstop_bytes, struct mt_err *err)
{
    char dir[MT_CGROUP_PATH * 2];
    int mended = 0;
    if (host->version != 2 || mt_cgroup_path(host, MT_CGROUP_MEMORY, "", dir, sizeof dir, err) < 0 || access(dir, F_OK) < 0)
        return 0;
    for (char *p = dir + strlen(host->mount[MT_CGROUP_MEMORY]);; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char keep = *p;
        *p = '\0';
        int rc = mend_controllers(dir, err);
        *p = keep;
        if (rc < 0)
            return rc;
        mended |= rc;
        if (keep == '\0')
            break;
    }
    if (backstop_bytes && put_u64(dir, "memory.max", backstop_bytes, true, err) < 0)
        return -MT_E_IO;
    return mended;
}

/* "8:0 rbytes=1 wbytes=2 rios=..." for each disk. */
static void disks(const struct mt_cgroup_host *host, const char *name, struct mt_cgroup_usage *u)
{
    char path[MT_CGROUP_PATH * 2];
    mt_auto_free char *text = NULL;
    size_t len;
    if (mt_fmt(path, sizeof path, NULL, "%s/%s/%s/io.stat", host->mount[MT_CGROUP_MEMORY], host->parent, name) < 0 || mt_file_read(path, SMALL_FILE, &text, &len, NULL) < 0)
        return;
    char *save = NULL;
    for (char *word = strtok_r(text, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
        uint64_t v;
        uint64_t *sum = strncmp(word, "rbytes=", 7) == 0 ? &u->read_bytes : strncmp(word, "wbytes=", 7) == 0 ? &u->write_bytes : NULL;
        if (sum && mt_parse_u64(word + 7, 0, UINT64_MAX / 2, &v, NULL) == 0)
            *sum += v;
    }
}

int mt_cgroup_usage(const struct mt_cgroup_host *host, const char *name, struct mt_cgroup_usage *ret, struct mt_err *err)
{
    char dir[MT_CGROUP_PATH * 2];
    struct stat st;
    if (mt_cgroup_path(host, MT_CGROUP_MEMORY, name, dir, sizeof dir, err) < 0)
        return -MT_E_LIMIT;
    if (stat(dir, &st) == -1)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "cgroup '%s'", name);
    if (host->version == 2) {
        *ret = (struct mt_cgroup_usage){
            .cpu_ns = number(host, MT_CGROUP_CPU, name, "cpu.stat", "usage_usec") * 1000,
            .memory_bytes = number(host, MT_CGROUP_MEMORY, name, "memory.current", NULL),
            .memory_peak_bytes = number(host, MT_CGROUP_MEMORY, name, "memory.peak", NULL),
            .oom_kills = number(host, MT_CGROUP_MEMORY, name, "memory.events", "oom_kill")};
        disks(host, name, ret);
    } else {
        *ret = (struct mt_cgroup_usage){
            .cpu_ns = number(host, MT_CGROUP_CPUACCT, name, "cpuacct.usage", NULL),
            .memory_bytes = number(host, MT_CGROUP_MEMORY, name, "memory.usage_in_bytes", NULL),
            .memory_peak_bytes = number(host, MT_CGROUP_MEMORY, name, "memory.max_usage_in_bytes", NULL),
            .oom_kills = number(host, MT_CGROUP_MEMORY, name, "memory.oom_control", "oom_kill")};
    }
    return 0;
}
