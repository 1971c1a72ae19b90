/* SPDX-License-Identifier: Apache-2.0 */
/* Log segments. See logstore.h; byte layout in docs/formats/log-segments.md. */
#include "agent/logstore.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/num.h"
#include "base/rd.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/stat.h>

#define MAGIC "MTLOG1\r\n"
#define MAGIC_LEN 8
#define HEAD_LEN 16  /* magic, first sequence number */
#define FRAME_LEN 8  /* length, crc32c */
#define FIXED_LEN 32 /* of a record, before its line */
#define REST_MAX (FIXED_LEN + MT_LOG_LINE_MAX)
#define RATE_BYTES_PER_S (1LL << 20)
#define BURST_BYTES (8LL << 20)
#define SEGMENT_WHOLE (MT_LOG_SEGMENT_BYTES + FRAME_LEN + REST_MAX) /* the last record may begin at its last byte */
#define ANY_AGE_DAYS 36500
#define BOOTS_FILE "attempts"
#define BOOT_LEN 16    /* boot, crc32c, first sequence number */
#define BOOTS_MAX 4096 /* entries that are looked at, the newest */

struct mt_log_store {
    char dir[PATH_MAX];
    int fd;
    uint64_t next_seq;
    off_t size; /* of the open segment */
    uint64_t max_bytes; /* of all segments; 0: none is said */
    uint32_t last_boot;
    uint64_t last_guest_seq;
    uint32_t noted_boot; /* the newest attempt in the file of attempts; 0 none */
    int64_t tokens, tokens_at_ns; /* bytes that may be written now */
    uint64_t dropped;             /* bytes refused since the last stored record */
};

struct mt_log_reader {
    char dir[PATH_MAX];
    int fd;
    uint64_t segment; /* first sequence number of the open segment */
    uint64_t since;
    off_t at;
    uint8_t buf[FRAME_LEN + REST_MAX];
};

const char *mt_log_stream_name(uint8_t stream)
{
    return stream == MT_LOG_STDOUT ? "stdout" : stream == MT_LOG_STDERR ? "stderr" : "system";
}

/* First sequence number of a segment file's name; false for anything else in the folder. */
static bool segment_of(const char *name, uint64_t *ret)
{
    char digits[24];
    const char *dot = strchr(name, '.');
    if (!dot || dot - name != 20 || strcmp(dot, ".log") != 0)
        return false;
    memcpy(digits, name, 20);
    digits[20] = '\0';
    return mt_parse_u64(digits, 1, UINT64_MAX, ret, NULL) == 0;
}

static int segment_path(char ret[PATH_MAX], const char *dir, uint64_t first, struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/%020" PRIu64 ".log", dir, first);
}

/*
 * The segment to use: the largest first number <= @want, or the smallest at all when none is.
 * 0 in *@ret when there is no segment.
 */
static int pick_segment(const char *dir, uint64_t want, uint64_t *ret, struct mt_err *err)
{
    uint64_t best = 0, least = 0, v;
    mt_auto_dir DIR *d = opendir(dir);
    if (!d) {
        if (errno == ENOENT)
            return MT_FAIL(err, MT_E_NOT_FOUND, "no logs in '%s'", dir);
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (!segment_of(e->d_name, &v))
            continue;
        if (v <= want && v > best)
            best = v;
        if (least == 0 || v < least)
            least = v;
    }
    *ret = best ? best : least;
    return 0;
}

/* Smallest first number > @after; 0 when there is none. */
static uint64_t segment_after(const char *dir, uint64_t after)
{
    uint64_t best = 0, v;
    mt_auto_dir DIR *d = opendir(dir);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (segment_of(e->d_name, &v) && v > after && (best == 0 || v < best))
            best = v;
    }
    return best;
}

/*
 * One record at @at. 1 and the record; 0 nothing whole there; -MT_E_CORRUPT its check fails.
 */
static int read_record(int fd, off_t at, uint8_t *buf, struct mt_log_record *ret, size_t *ret_size, struct mt_err *err)
{
    ssize_t n = pread(fd, buf, FRAME_LEN + FIXED_LEN, at);
    if (n < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read log");
    if (n < FRAME_LEN + FIXED_LEN)
        return 0;
    struct mt_rd r = mt_rd_of(buf, (size_t)n);
    uint32_t rest = mt_rd_be32(&r), crc = mt_rd_be32(&r);
    if (rest < FIXED_LEN || rest > REST_MAX)
        return MT_FAIL(err, MT_E_CORRUPT, "log record of %u bytes", rest);
    size_t line = rest - FIXED_LEN;
    if (line > 0) {
        n = pread(fd, buf + FRAME_LEN + FIXED_LEN, line, at + FRAME_LEN + FIXED_LEN);
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read log");
        if ((size_t)n < line)
            return 0;
    }
    if (mt_crc32c(0, buf + FRAME_LEN, rest) != crc)
        return MT_FAIL(err, MT_E_CORRUPT, "log record fails its check");
    *ret = (struct mt_log_record){.seq = mt_rd_be64(&r)};
    ret->ts_us = (int64_t)mt_rd_be64(&r);
    ret->boot = mt_rd_be32(&r);
    ret->guest_seq = mt_rd_be64(&r);
    ret->stream = mt_rd_u8(&r);
    ret->flags = mt_rd_u8(&r);
    ret->line = buf + FRAME_LEN + FIXED_LEN;
    ret->len = line;
    *ret_size = FRAME_LEN + rest;
    return 1;
}

/* ---- where each attempt begins ----------------------------------------------------------- */

struct attempt {
    uint32_t boot;
    uint64_t first;
};

/* The entries of the file of attempts, oldest first, malloc'ed; an entry that fails its check ends the list. */
static size_t read_attempts(const char *dir, struct attempt **ret)
{
    char path[PATH_MAX];
    struct stat st;
    *ret = NULL;
    if (mt_fmt(path, sizeof path, NULL, "%s/" BOOTS_FILE, dir) < 0)
        return 0;
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return 0;
    size_t all = (size_t)st.st_size / BOOT_LEN, n = all < BOOTS_MAX ? all : BOOTS_MAX;
    mt_auto_free uint8_t *raw = malloc(n * BOOT_LEN + 1);
    struct attempt *a = malloc((n + 1) * sizeof *a);
    if (!raw || !a || pread(fd, raw, n * BOOT_LEN, (off_t)((all - n) * BOOT_LEN)) != (ssize_t)(n * BOOT_LEN)) {
        free(a);
        return 0;
    }
    size_t good = 0;
    for (; good < n; good++) {
        struct mt_rd r = mt_rd_of(raw + good * BOOT_LEN, BOOT_LEN);
        uint32_t boot = mt_rd_be32(&r), crc = mt_rd_be32(&r);
        uint8_t check[12];
        memcpy(check, raw + good * BOOT_LEN, 4);
        memcpy(check + 4, raw + good * BOOT_LEN + 8, 8);
        if (mt_crc32c(0, check, sizeof check) != crc)
            break;
        a[good] = (struct attempt){.boot = boot, .first = mt_rd_be64(&r)};
    }
    *ret = a;
    return good;
}

/* The next record is the first of @boot. Written before it, so that a record of an attempt is never before its entry. */
static int note_attempt(struct mt_log_store *s, uint32_t boot, struct mt_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    uint8_t check[12];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(BOOT_LEN), c = MT_BUF_INIT(sizeof check);
    mt_buf_put_be32(&c, boot);
    mt_buf_put_be64(&c, s->next_seq);
    mt_buf_put_be32(&b, boot);
    mt_buf_put_be32(&b, mt_crc32c(0, c.p, c.len));
    mt_buf_put_be64(&b, s->next_seq);
    if (mt_buf_check(&b, err) < 0 || mt_fmt(path, sizeof path, err, "%s/" BOOTS_FILE, s->dir) < 0)
        return -MT_E_LIMIT;
    mt_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fstat(fd, &st) < 0 || pwrite(fd, b.p, b.len, st.st_size / BOOT_LEN * BOOT_LEN) != (ssize_t)b.len)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write '%s'", path);
    s->noted_boot = boot;
    return 0;
}

/* ---- appending --------------------------------------------------------------------------- */

static void retain_instance(const char *dir, uint64_t days, uint64_t max_bytes, int64_t now_us);

static int new_segment(struct mt_log_store *s, struct mt_err *err)
{
    char path[PATH_MAX];
    uint8_t head[HEAD_LEN];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(HEAD_LEN);

    if (segment_path(path, s->dir, s->next_seq, err) < 0)
        return -MT_E_LIMIT;
    mt_closep(&s->fd);
    s->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make log segment '%s'", path);
    mt_buf_put(&b, MAGIC, MAGIC_LEN);
    mt_buf_put_be64(&b, s->next_seq);
    memcpy(head, b.p, HEAD_LEN);
    if (write(s->fd, head, HEAD_LEN) != HEAD_LEN)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write log segment '%s'", path);
    s->size = HEAD_LEN;
    /* a flood fills a segment in seconds, and retention looks once an hour: room for this one is made now */
    if (s->max_bytes)
        retain_instance(s->dir, ANY_AGE_DAYS, s->max_bytes - SEGMENT_WHOLE, mt_clock_wall_us());
    return 0;
}

/* Walk the last segment: find the end, the next number and the guest's last number; cut what is torn. */
static int recover(struct mt_log_store *s, uint64_t first, struct mt_err *err)
{
    char path[PATH_MAX];
    uint8_t head[HEAD_LEN];
    struct mt_log_record rec;
    size_t size;
    mt_auto_free uint8_t *buf = malloc(FRAME_LEN + REST_MAX);

    if (!buf)
        return MT_FAIL(err, MT_E_NOMEM, "open logs: out of memory");
    if (segment_path(path, s->dir, first, err) < 0)
        return -MT_E_LIMIT;
    s->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open log segment '%s'", path);
    s->next_seq = first;
    if (pread(s->fd, head, HEAD_LEN, 0) != HEAD_LEN || memcmp(head, MAGIC, MAGIC_LEN) != 0)
        return new_segment(s, err); /* torn at its birth: begin it again */
    s->size = HEAD_LEN;
    while (read_record(s->fd, s->size, buf, &rec, &size, NULL) == 1) {
        s->size += (off_t)size;
        s->next_seq = rec.seq + 1;
        if (rec.guest_seq) {
            s->last_boot = rec.boot;
            s->last_guest_seq = rec.guest_seq;
        }
    }
    if (ftruncate(s->fd, s->size) < 0 || lseek(s->fd, s->size, SEEK_SET) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "cut log segment '%s'", path);
    return 0;
}

int mt_log_store_open(const char *logs_dir, const char *env_id, const char *instance_id, struct mt_log_store **ret,
                      struct mt_err *err)
{
    struct mt_log_store *s = calloc(1, sizeof *s);
    uint64_t first = 0;
    if (!s)
        return MT_FAIL(err, MT_E_NOMEM, "open logs: out of memory");
    s->fd = -1;
    s->next_seq = 1;
    s->tokens = BURST_BYTES;
    int rc = mt_fmt(s->dir, sizeof s->dir, err, "%s/%s/%s", logs_dir, env_id, instance_id);
    if (rc == 0)
        rc = mt_file_mkdirs(s->dir, 0700, err);
    if (rc == 0)
        rc = pick_segment(s->dir, UINT64_MAX, &first, err);
    if (rc == 0 && first)
        rc = recover(s, first, err);
    if (rc == 0) {
        struct attempt *a;
        size_t n = read_attempts(s->dir, &a);
        s->noted_boot = n ? a[n - 1].boot : 0;
        free(a);
    }
    if (rc < 0) {
        mt_log_store_close(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void mt_log_store_close(struct mt_log_store *s)
{
    if (!s)
        return;
    mt_closep(&s->fd);
    free(s);
}

void mt_log_store_bound(struct mt_log_store *s, uint64_t bytes)
{
    s->max_bytes = bytes > 2 * (uint64_t)SEGMENT_WHOLE ? bytes : 2 * (uint64_t)SEGMENT_WHOLE;
}

uint64_t mt_log_next_seq(const struct mt_log_store *s)
{
    return s->next_seq;
}

static int write_record(struct mt_log_store *s, const struct mt_log_record *r, uint64_t *ret_seq, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(FRAME_LEN + REST_MAX);
    size_t len = r->len > MT_LOG_LINE_MAX ? MT_LOG_LINE_MAX : r->len;

    struct stat st; /* retention may have removed a segment that was quiet for days */
    bool gone = s->fd >= 0 && (fstat(s->fd, &st) < 0 || st.st_nlink == 0);
    if (s->fd < 0 || gone || s->size >= (off_t)MT_LOG_SEGMENT_BYTES) {
        /* retention also removes a folder that is empty, which a new instance's is */
        if (gone)
            s->noted_boot = 0;
        if (mt_file_mkdirs(s->dir, 0700, err) < 0 || new_segment(s, err) < 0)
            return -MT_E_IO;
    }
    if (r->boot != s->noted_boot && note_attempt(s, r->boot, err) < 0)
        return -MT_E_IO;
    mt_buf_put_be32(&b, (uint32_t)(FIXED_LEN + len));
    mt_buf_put_be32(&b, 0);
    mt_buf_put_be64(&b, s->next_seq);
    mt_buf_put_be64(&b, (uint64_t)(r->ts_us ? r->ts_us : mt_clock_wall_us()));
    mt_buf_put_be32(&b, r->boot);
    mt_buf_put_be64(&b, r->guest_seq);
    uint8_t flags = (uint8_t)(r->flags | (len < r->len ? MT_LOG_TRUNCATED : 0));
    mt_buf_put(&b, &r->stream, 1);
    mt_buf_put(&b, &flags, 1);
    mt_buf_put_be16(&b, 0);
    mt_buf_put(&b, r->line, len);
    if (mt_buf_check(&b, err) < 0)
        return mt_err_wrap(err, "write log");
    uint32_t crc = mt_crc32c(0, b.p + FRAME_LEN, b.len - FRAME_LEN);
    for (int i = 0; i < 4; i++)
        b.p[4 + i] = (uint8_t)(crc >> (24 - 8 * i));
    ssize_t n = write(s->fd, b.p, b.len);
    if (n != (ssize_t)b.len) {
        int rc = MT_FAIL_ERRNO(err, MT_E_IO, "write log in '%s'", s->dir);
        if (n > 0 && ftruncate(s->fd, s->size) == 0) /* a half record would stop every reader */
            (void)lseek(s->fd, s->size, SEEK_SET);
        return rc;
    }
    s->size += (off_t)b.len;
    *ret_seq = s->next_seq++;
    return 0;
}

static void refill(struct mt_log_store *s, int64_t now_ns)
{
    if (s->tokens_at_ns && now_ns > s->tokens_at_ns) {
        int64_t ms = (now_ns - s->tokens_at_ns) / MT_NS_PER_MS;
        if (ms > 10000)
            ms = 10000;
        s->tokens += RATE_BYTES_PER_S * ms / 1000;
        if (s->tokens > BURST_BYTES)
            s->tokens = BURST_BYTES;
        s->tokens_at_ns += ms * MT_NS_PER_MS;
        if (ms == 10000)
            s->tokens_at_ns = now_ns;
    } else if (!s->tokens_at_ns) {
        s->tokens_at_ns = now_ns;
    }
}

static int write_dropped(struct mt_log_store *s, uint64_t bytes, uint32_t boot, uint64_t guest_seq, struct mt_err *err)
{
    char text[40];
    uint64_t seq;
    int n = snprintf(text, sizeof text, "dropped=%" PRIu64, bytes);
    struct mt_log_record r = {.boot = boot,
                              .guest_seq = guest_seq,
                              .stream = MT_LOG_SYSTEM,
                              .flags = MT_LOG_GAP,
                              .line = (const uint8_t *)text,
                              .len = (size_t)n};
    return write_record(s, &r, &seq, err);
}

static void count_dropped(struct mt_log_store *s, uint64_t bytes)
{
    s->dropped = bytes > UINT64_MAX - s->dropped ? UINT64_MAX : s->dropped + bytes;
}

/* False when the guest's record was stored before. */
static bool is_new(struct mt_log_store *s, uint32_t boot, uint64_t guest_seq)
{
    if (guest_seq == 0)
        return true;
    if (boot == s->last_boot && guest_seq <= s->last_guest_seq)
        return false;
    s->last_boot = boot;
    s->last_guest_seq = guest_seq;
    return true;
}

int mt_log_append(struct mt_log_store *s, const struct mt_log_record *r, int64_t now_ns, uint64_t *ret_seq,
                  struct mt_err *err)
{
    *ret_seq = 0;
    if (!is_new(s, r->boot, r->guest_seq))
        return 0;
    refill(s, now_ns);
    int64_t cost = (int64_t)(FRAME_LEN + FIXED_LEN + r->len);
    if (s->tokens < cost) {
        count_dropped(s, r->len);
        return 0;
    }
    s->tokens -= cost;
    int rc = s->dropped ? write_dropped(s, s->dropped, r->boot, 0, err) : 0;
    if (rc == 0)
        s->dropped = 0;
    if (rc == 0)
        rc = write_record(s, r, ret_seq, err);
    if (rc < 0) /* a disk that is full: told with the rest when there is room */
        count_dropped(s, r->len);
    return rc;
}

void mt_log_skip(struct mt_log_store *s, uint64_t bytes, uint32_t boot, uint64_t guest_seq)
{
    if (is_new(s, boot, guest_seq))
        count_dropped(s, bytes);
}

int mt_log_append_gap(struct mt_log_store *s, uint64_t bytes, uint32_t boot, uint64_t guest_seq, int64_t now_ns,
                      struct mt_err *err)
{
    if (!is_new(s, boot, guest_seq))
        return 0;
    refill(s, now_ns);
    if (s->tokens < FRAME_LEN + FIXED_LEN) { /* a guest can make up gaps as fast as lines */
        count_dropped(s, bytes);
        return 0;
    }
    s->tokens -= FRAME_LEN + FIXED_LEN;
    int rc = write_dropped(s, bytes, boot, guest_seq, err);
    if (rc < 0)
        count_dropped(s, bytes);
    return rc;
}

/* ---- reading ----------------------------------------------------------------------------- */

/* The instance's folder under any environment: the caller need not know which. */
static int find_dir(const char *logs_dir, const char *instance_id, char ret[PATH_MAX], struct mt_err *err)
{
    struct stat st;
    if (mt_id_check(MT_ID_INSTANCE, instance_id, err) < 0)
        return -MT_E_INVALID;
    mt_auto_dir DIR *d = opendir(logs_dir);
    if (d) {
        for (struct dirent *e; (e = readdir(d));) {
            if (e->d_name[0] == '.')
                continue;
            if (mt_fmt(ret, PATH_MAX, err, "%s/%s/%s", logs_dir, e->d_name, instance_id) == 0 &&
                stat(ret, &st) == 0 && S_ISDIR(st.st_mode))
                return 0;
        }
    }
    return MT_FAIL(err, MT_E_NOT_FOUND, "this node has no logs of '%s'", instance_id);
}

static int open_segment(struct mt_log_reader *r, uint64_t first, struct mt_err *err)
{
    char path[PATH_MAX];
    if (segment_path(path, r->dir, first, err) < 0)
        return -MT_E_LIMIT;
    mt_closep(&r->fd);
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (r->fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open log segment '%s'", path);
    r->segment = first;
    r->at = HEAD_LEN;
    return 0;
}

int mt_log_reader_open(const char *logs_dir, const char *instance_id, uint64_t since_seq, struct mt_log_reader **ret,
                       struct mt_err *err)
{
    char dir[PATH_MAX];
    uint64_t last;
    int rc = find_dir(logs_dir, instance_id, dir, err);
    if (rc < 0)
        return rc;
    if (since_seq == UINT64_MAX) {
        rc = mt_log_last_seq(logs_dir, instance_id, &last, err);
        if (rc < 0)
            return rc;
        since_seq = last;
    }
    struct mt_log_reader *r = calloc(1, sizeof *r);
    if (!r)
        return MT_FAIL(err, MT_E_NOMEM, "read logs: out of memory");
    r->fd = -1;
    r->since = since_seq;
    memcpy(r->dir, dir, sizeof dir);
    *ret = r;
    return 0;
}

int mt_log_reader_next(struct mt_log_reader *r, struct mt_log_record *ret, struct mt_err *err)
{
    size_t size;

    if (r->fd < 0) {
        uint64_t first = 0;
        int rc = pick_segment(r->dir, r->since + 1, &first, err);
        if (rc < 0 || first == 0)
            return rc == -MT_E_NOT_FOUND ? 0 : rc;
        rc = open_segment(r, first, err);
        if (rc < 0)
            return rc;
    }
    for (;;) {
        int rc = read_record(r->fd, r->at, r->buf, ret, &size, err);
        if (rc == 1) {
            r->at += (off_t)size;
            if (ret->seq <= r->since)
                continue;
            r->since = ret->seq;
            return 1;
        }
        /* the end of this segment, or a record that fails its check: go on with the next segment if there is one */
        uint64_t next = segment_after(r->dir, r->segment);
        if (next == 0)
            return rc;
        rc = open_segment(r, next, err);
        if (rc < 0)
            return rc;
    }
}

void mt_log_reader_close(struct mt_log_reader *r)
{
    if (!r)
        return;
    mt_closep(&r->fd);
    free(r);
}

int mt_log_boot_range(const char *logs_dir, const char *instance_id, uint32_t boot, uint64_t *ret_first, uint64_t *ret_last,
                      struct mt_err *err)
{
    char dir[PATH_MAX];
    struct attempt *a;
    uint64_t last = 0;
    int rc = find_dir(logs_dir, instance_id, dir, err);
    if (rc == 0)
        rc = mt_log_last_seq(logs_dir, instance_id, &last, err);
    if (rc < 0)
        return rc;
    size_t n = read_attempts(dir, &a), i = 0;
    if (n && boot == 0)
        boot = a[n - 1].boot;
    while (i < n && a[i].boot != boot)
        i++;
    bool found = i < n;
    if (found) {
        *ret_first = a[i].first;
        while (i < n && a[i].boot == boot) /* told twice after a crash */
            i++;
        *ret_last = i < n ? a[i].first - 1 : last;
    }
    free(a);
    return found ? 0 : MT_FAIL(err, MT_E_NOT_FOUND, "attempt %u of '%s' has no lines here", boot, instance_id);
}

int mt_log_last_seq(const char *logs_dir, const char *instance_id, uint64_t *ret, struct mt_err *err)
{
    char dir[PATH_MAX];
    uint64_t first = 0;
    struct mt_log_record rec;
    *ret = 0;
    int rc = find_dir(logs_dir, instance_id, dir, err);
    if (rc == 0)
        rc = pick_segment(dir, UINT64_MAX, &first, err);
    if (rc < 0 || first == 0)
        return rc;
    struct mt_log_reader *r = calloc(1, sizeof *r);
    if (!r)
        return MT_FAIL(err, MT_E_NOMEM, "read logs: out of memory");
    r->fd = -1;
    memcpy(r->dir, dir, sizeof dir);
    *ret = first - 1;
    rc = open_segment(r, first, err);
    while (rc == 0 && (rc = mt_log_reader_next(r, &rec, err)) == 1) {
        *ret = rec.seq;
        rc = 0;
    }
    mt_log_reader_close(r);
    return rc < 0 ? rc : 0;
}

/* ---- retention --------------------------------------------------------------------------- */

static void retain_instance(const char *dir, uint64_t days, uint64_t max_bytes, int64_t now_us)
{
    for (;;) {
        uint64_t least = 0, most = 0, v, bytes = 0;
        struct stat st;
        char path[PATH_MAX];
        mt_auto_dir DIR *d = opendir(dir);
        if (!d)
            return;
        for (struct dirent *e; (e = readdir(d));) {
            if (!segment_of(e->d_name, &v) || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                continue;
            bytes += (uint64_t)st.st_size;
            least = least == 0 || v < least ? v : least;
            most = v > most ? v : most;
        }
        if (least == 0) {
            (void)unlinkat(dirfd(d), BOOTS_FILE, 0);
            (void)unlinkat(dirfd(d), MT_LOG_ABOUT_FILE, 0);
            (void)rmdir(dir);
            return;
        }
        if (segment_path(path, dir, least, NULL) < 0 || stat(path, &st) < 0)
            return;
        int64_t age_s = now_us / 1000000 - (int64_t)st.st_mtime;
        bool old = age_s > (int64_t)(days * 86400);
        if (!old && (bytes <= max_bytes || least == most))
            return;
        if (unlink(path) < 0)
            return;
    }
}

void mt_log_retain(const char *logs_dir, uint64_t days, uint64_t max_bytes, int64_t now_us)
{
    char env[PATH_MAX], inst[PATH_MAX];
    mt_auto_dir DIR *d = opendir(logs_dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || mt_fmt(env, sizeof env, NULL, "%s/%s", logs_dir, e->d_name) < 0)
            continue;
        mt_auto_dir DIR *sub = opendir(env);
        if (!sub)
            continue;
        for (struct dirent *i; (i = readdir(sub));) {
            if (mt_id_valid(MT_ID_INSTANCE, i->d_name, strlen(i->d_name)) &&
                mt_fmt(inst, sizeof inst, NULL, "%s/%s", env, i->d_name) == 0)
                retain_instance(inst, days, max_bytes, now_us);
        }
        (void)rmdir(env); /* only when it is empty */
    }
}
