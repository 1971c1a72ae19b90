/* SPDX-License-Identifier: Apache-2.0 */
/* Header by header over a source of chunks; holds one extended header (<= 1 MiB) and the long names, nothing of the data. */
#include "unpack/tar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 512
#define NAME_MAX_BYTES 4096           /* U1 and U5 judge exactly; longer never reaches them */
#define TRAILING_MAX ((uint64_t)1 << 20)
#define ID_MAX INT32_MAX
#define MTIME_MAX ((int64_t)1 << 33)

/* Values an extended header or a GNU long name sets for the next entry. */
struct overrides {
    bool has_path, has_target, has_size, has_uid, has_gid, has_mtime;
    char path[NAME_MAX_BYTES + 1], target[NAME_MAX_BYTES + 1];
    size_t path_len, target_len;
    uint64_t size;
    uint32_t uid, gid;
    int64_t mtime;
    uint32_t mtime_nsec;
    bool has_pax;
    uint8_t *pax; /* bytes of the extended header: xattr names and values point into it */
    struct mt_tar_xattr xattrs[MT_TAR_XATTRS_MAX];
    size_t xattr_count;
};

struct mt_tar {
    struct mt_tar_source source;
    const uint8_t *chunk;
    size_t chunk_left;
    uint64_t data_left, pad_left; /* of the current entry */
    bool done;
    uint8_t header[BLOCK];
    char name[NAME_MAX_BYTES + 1];
    struct overrides over;
};

struct mt_tar *mt_tar_new(const struct mt_tar_source *source)
{
    struct mt_tar *t = calloc(1, sizeof *t);
    if (t)
        t->source = *source;
    return t;
}

void mt_tar_free(struct mt_tar *t)
{
    if (!t)
        return;
    free(t->over.pax);
    free(t);
}

/* Up to @max of the next bytes, without copying. 0 at the end of the source. */
static int take(struct mt_tar *t, uint64_t max, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f)
{
    if (t->chunk_left == 0) {
        int r = t->source.read(t->source.arg, &t->chunk, &t->chunk_left, f);
        if (r <= 0) {
            t->chunk_left = 0;
            return r;
        }
    }
    size_t n = max < t->chunk_left ? (size_t)max : t->chunk_left;
    *ret_p = t->chunk;
    *ret_n = n;
    t->chunk += n;
    t->chunk_left -= n;
    return 1;
}

/* Exactly @n bytes into @dst (NULL: thrown away). 1; 0 when the source ended before the first; -1 (also: ended inside). */
static int take_all(struct mt_tar *t, void *dst, uint64_t n, struct mt_fault *f)
{
    uint64_t at = 0;
    while (at < n) {
        const uint8_t *p;
        size_t got;
        int r = take(t, n - at, &p, &got, f);
        if (r < 0)
            return -1;
        if (r == 0)
            return at == 0 ? 0 : mt_fault_rule(f, "U11", NULL, 0, "the archive ends inside an entry");
        if (dst)
            memcpy((uint8_t *)dst + at, p, got);
        at += got;
    }
    return 1;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

/* Octal with blanks or NUL around, or base-256 with the high bit (GNU). false: malformed, negative or above 2^63-1. */
static bool number(const uint8_t *p, size_t n, uint64_t *ret)
{
    uint64_t v = 0;
    if (p[0] & 0x80) {
        if (p[0] & 0x40)
            return false; /* negative */
        for (size_t i = 0; i < n; i++) {
            if (v >> 55)
                return false;
            v = v << 8 | (i ? p[i] : p[0] & 0x3fU);
        }
        *ret = v;
        return true;
    }
    size_t i = 0;
    while (i < n && p[i] == ' ')
        i++;
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
        if (v >> 60)
            return false;
        v = v << 3 | (uint64_t)(p[i] - '0');
    }
    for (; i < n; i++)
        if (p[i] != ' ' && p[i] != 0)
            return false;
    *ret = v;
    return true;
}

static bool checksum_ok(const uint8_t *h)
{
    uint64_t want;
    uint32_t plain = 0;
    int32_t sign = 0; /* some old writers summed signed chars */
    if (!number(h + 148, 8, &want))
        return false;
    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t c = i >= 148 && i < 156 ? ' ' : h[i];
        plain += c;
        sign += (int8_t)c;
    }
    return want == plain || (sign >= 0 && want == (uint32_t)sign);
}

static int clamp_mtime(bool negative, uint64_t v, int64_t *ret)
{
    *ret = negative ? 0 : v > (uint64_t)MTIME_MAX ? MTIME_MAX : (int64_t)v;
    return 0;
}

/* Decimal of @n bytes, all of them. */
static bool decimal(const char *s, size_t n, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;
    if (n == 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(v, 10U, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
            return false;
    }
    *ret = v;
    return v <= max;
}

/* "[-]seconds[.fraction]" */
static bool pax_time(const char *s, size_t n, int64_t *ret, uint32_t *ret_nsec)
{
    bool negative = n && s[0] == '-';
    if (negative) {
        s++;
        n--;
    }
    const char *dot = memchr(s, '.', n);
    size_t whole = dot ? (size_t)(dot - s) : n;
    uint64_t sec;
    uint32_t nsec = 0, scale = 100000000;
    if (!decimal(s, whole, UINT64_MAX, &sec))
        return false;
    for (size_t i = whole + 1; i < n; i++, scale /= 10) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        nsec += scale * (uint32_t)(s[i] - '0');
    }
    (void)clamp_mtime(negative, sec, ret);
    *ret_nsec = negative || *ret == MTIME_MAX ? 0 : nsec;
    return true;
}

static bool key_is(const char *key, size_t n, const char *want)
{
    return n == strlen(want) && memcmp(key, want, n) == 0;
}

static int set_name(char *dst, size_t *ret_len, bool *ret_has, const char *value, size_t n, struct mt_fault *f)
{
    if (n > NAME_MAX_BYTES)
        return mt_fault_rule(f, "U1", value, n, "a name is longer than 4096 bytes");
    if (n == 0 || memchr(value, 0, n))
        return mt_fault_rule(f, "U1", value, n, "a name is empty or holds a NUL");
    memcpy(dst, value, n);
    dst[n] = 0;
    *ret_len = n;
    *ret_has = true;
    return 0;
}

static int pax_record(struct mt_tar *t, const char *key, size_t kn, const char *value, size_t vn, struct mt_fault *f)
{
    static const char xattr[] = "SCHILY.xattr.";
    struct overrides *o = &t->over;
    uint64_t v;
    if (key_is(key, kn, "path"))
        return set_name(o->path, &o->path_len, &o->has_path, value, vn, f);
    if (key_is(key, kn, "linkpath"))
        return set_name(o->target, &o->target_len, &o->has_target, value, vn, f);
    if (key_is(key, kn, "size")) {
        if (!decimal(value, vn, INT64_MAX, &o->size))
            return mt_fault_rule(f, "U11", key, kn, "a PAX size is not a number");
        o->has_size = true;
    } else if (key_is(key, kn, "uid") || key_is(key, kn, "gid")) {
        if (!decimal(value, vn, ID_MAX, &v))
            return mt_fault_rule(f, "U8", value, vn, "an owner is not a number of 0 to 2147483647");
        if (key[0] == 'u') {
            o->uid = (uint32_t)v;
            o->has_uid = true;
        } else {
            o->gid = (uint32_t)v;
            o->has_gid = true;
        }
    } else if (key_is(key, kn, "mtime")) {
        if (!pax_time(value, vn, &o->mtime, &o->mtime_nsec))
            return mt_fault_rule(f, "U11", key, kn, "a PAX time is not a number");
        o->has_mtime = true;
    } else if (kn > 10 && memcmp(key, "GNU.sparse", 10) == 0) {
        return mt_fault_rule(f, "U4", key, kn, "sparse files are not accepted");
    } else if (kn > sizeof xattr - 1 && memcmp(key, xattr, sizeof xattr - 1) == 0) {
        if (o->xattr_count == MT_TAR_XATTRS_MAX)
            return mt_fault_rule(f, "U10", key, kn, "an entry has more than 64 extended attributes");
        o->xattrs[o->xattr_count++] = (struct mt_tar_xattr){.name = key + sizeof xattr - 1,
                                                            .name_len = kn - (sizeof xattr - 1),
                                                            .value = (const uint8_t *)value,
                                                            .value_len = vn};
    }
    return 0; /* other records (atime, comment, charset) describe nothing that is kept */
}

/* "LEN KEY=VALUE\n" records, LEN counting all of it. */
static int pax_parse(struct mt_tar *t, const char *p, size_t left, bool apply, struct mt_fault *f)
{
    while (left) {
        size_t digits = 0, len = 0;
        while (digits < left && digits < 8 && p[digits] >= '0' && p[digits] <= '9')
            len = len * 10 + (size_t)(p[digits++] - '0');
        if (digits == 0 || digits == left || p[digits] != ' ' || len > left || len < digits + 4 || p[len - 1] != '\n')
            return mt_fault_rule(f, "U11", NULL, 0, "a PAX header is malformed");
        const char *key = p + digits + 1;
        size_t body = len - digits - 2; /* without the blank and the newline */
        const char *eq = memchr(key, '=', body);
        if (!eq || eq == key || memchr(key, 0, (size_t)(eq - key)))
            return mt_fault_rule(f, "U11", NULL, 0, "a PAX record has no key");
        size_t kn = (size_t)(eq - key);
        if (apply && pax_record(t, key, kn, eq + 1, body - kn - 1, f) < 0)
            return -1;
        p += len;
        left -= len;
    }
    return 0;
}

static int read_pax(struct mt_tar *t, uint64_t size, bool global, struct mt_fault *f)
{
    if (size > MT_TAR_PAX_MAX)
        return mt_fault_rule(f, "U11", NULL, 0, "a PAX header is larger than 1 MiB");
    if (!global && t->over.has_pax)
        return mt_fault_rule(f, "U11", NULL, 0, "two PAX headers stand before one entry");
    uint8_t *buf = malloc(size ? (size_t)size : 1);
    if (!buf)
        return mt_fault_sys(f, "memory", ENOMEM, "reading a PAX header");
    int r = take_all(t, buf, size, f);
    if (r == 0 && size)
        r = mt_fault_rule(f, "U11", NULL, 0, "the archive ends inside a PAX header");
    if (r >= 0) /* a global header (a comment, as a rule) is checked but sets nothing, as in other image tools */
        r = pax_parse(t, (const char *)buf, (size_t)size, !global, f);
    if (global || r < 0) {
        free(buf);
        return r < 0 ? -1 : 0;
    }
    t->over.pax = buf;
    t->over.has_pax = true;
    return 0;
}

/* GNU 'L' and 'K': the name is the entry's data, usually with a NUL at its end. */
static int read_long(struct mt_tar *t, uint64_t size, bool link, struct mt_fault *f)
{
    struct overrides *o = &t->over;
    char *name = t->name;
    if (size == 0 || size > NAME_MAX_BYTES + 1)
        return mt_fault_rule(f, "U1", NULL, 0, "a GNU long name is empty or longer than 4096 bytes");
    if (take_all(t, name, size, f) <= 0)
        return mt_fault_rule(f, "U11", NULL, 0, "the archive ends inside a long name");
    size_t n = (size_t)size;
    while (n && name[n - 1] == 0)
        n--;
    /* A PAX name of the same entry wins, whichever came first: that is what other readers do. */
    if (link ? o->has_target : o->has_path)
        return 0;
    return link ? set_name(o->target, &o->target_len, &o->has_target, name, n, f)
                : set_name(o->path, &o->path_len, &o->has_path, name, n, f);
}

static void reset_overrides(struct overrides *o)
{
    free(o->pax);
    o->pax = NULL;
    o->has_path = o->has_target = o->has_size = o->has_uid = o->has_gid = o->has_mtime = o->has_pax = false;
    o->xattr_count = 0;
    o->mtime_nsec = 0;
}

static size_t field_len(const uint8_t *p, size_t n)
{
    const uint8_t *end = memchr(p, 0, n);
    return end ? (size_t)(end - p) : n;
}

static int entry_type(uint8_t flag, struct mt_tar_entry *e, struct mt_fault *f)
{
    switch (flag) {
    case 0:
        e->type = e->path_len && e->path[e->path_len - 1] == '/' ? MT_TAR_DIR : MT_TAR_FILE; /* v7 marks folders so */
        return 0;
    case '0':
        e->type = MT_TAR_FILE;
        return 0;
    case '1':
        e->type = MT_TAR_HARDLINK;
        return 0;
    case '2':
        e->type = MT_TAR_SYMLINK;
        return 0;
    case '3':
    case '4':
        e->type = MT_TAR_DEVICE;
        return 0;
    case '5':
        e->type = MT_TAR_DIR;
        return 0;
    case '6':
        e->type = MT_TAR_FIFO;
        return 0;
    default:
        return mt_fault_rule(f, "U4", e->path, e->path_len,
                             flag == 'S'   ? "sparse files are not accepted"
                             : flag == '7' ? "contiguous files are not accepted"
                                           : "the entry type is not accepted");
    }
}

/* The fields of t->header and the overrides as an entry. */
static int finish_entry(struct mt_tar *t, uint64_t size, struct mt_tar_entry *e, struct mt_fault *f)
{
    const uint8_t *h = t->header;
    struct overrides *o = &t->over;
    bool ustar = memcmp(h + 257, "ustar\0", 6) == 0;
    if (o->has_path) {
        e->path = o->path;
        e->path_len = o->path_len;
    } else {
        size_t pn = ustar ? field_len(h + 345, 155) : 0, n = field_len(h, 100), at = 0;
        memcpy(t->name, h + 345, pn);
        at = pn;
        if (pn)
            t->name[at++] = '/';
        memcpy(t->name + at, h, n);
        e->path = t->name;
        e->path_len = at + n;
    }
    e->target = o->has_target ? o->target : (const char *)h + 157;
    e->target_len = o->has_target ? o->target_len : field_len(h + 157, 100);
    if (entry_type(h[156], e, f) < 0)
        return -1;

    uint64_t v;
    if (!number(h + 100, 8, &v))
        return mt_fault_rule(f, "U11", e->path, e->path_len, "the mode is malformed");
    e->mode = (uint16_t)(v & 07777);
    uint64_t uid = o->uid, gid = o->gid;
    if ((!o->has_uid && !number(h + 108, 8, &uid)) || (!o->has_gid && !number(h + 116, 8, &gid)) || uid > ID_MAX ||
        gid > ID_MAX)
        return mt_fault_rule(f, "U8", e->path, e->path_len, "an owner is not a number of 0 to 2147483647");
    e->uid = (uint32_t)uid;
    e->gid = (uint32_t)gid;
    if (o->has_mtime) {
        e->mtime = o->mtime;
        e->mtime_nsec = o->mtime_nsec;
    } else {
        bool negative = (h[136] & 0xc0) == 0xc0;
        v = 0;
        if (!negative && !number(h + 136, 12, &v))
            return mt_fault_rule(f, "U11", e->path, e->path_len, "the time is malformed");
        (void)clamp_mtime(negative, v, &e->mtime);
        e->mtime_nsec = 0;
    }
    if (o->has_size)
        size = o->size;
    if (e->type != MT_TAR_FILE && size != 0)
        return mt_fault_rule(f, "U11", e->path, e->path_len, "an entry that has no data declares a size");
    e->size = size;
    memcpy(e->xattrs, o->xattrs, o->xattr_count * sizeof e->xattrs[0]);
    e->xattr_count = o->xattr_count;
    t->data_left = size;
    t->pad_left = (BLOCK - size % BLOCK) % BLOCK;
    return 1;
}

/* A zero block was read: a second one must follow, then at most 1 MiB that nobody reads. */
static int read_end(struct mt_tar *t, struct mt_fault *f)
{
    int r = take_all(t, t->header, BLOCK, f);
    if (r < 0)
        return -1;
    if (r > 0 && !all_zero(t->header, BLOCK))
        return mt_fault_rule(f, "U11", NULL, 0, "a single zero block stands between entries");
    for (uint64_t trailing = 0; r > 0;) {
        const uint8_t *p;
        size_t n;
        r = take(t, UINT64_MAX, &p, &n, f);
        if (r < 0)
            return -1;
        if (r > 0 && (trailing += n) > TRAILING_MAX)
            return mt_fault_rule(f, "U11", NULL, 0, "more than 1 MiB follows the end of the archive");
    }
    t->done = true;
    return 0;
}

int mt_tar_data(struct mt_tar *t, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f)
{
    if (t->data_left == 0)
        return 0;
    int r = take(t, t->data_left, ret_p, ret_n, f);
    if (r == 0)
        return mt_fault_rule(f, "U11", NULL, 0, "the archive ends inside an entry");
    if (r > 0)
        t->data_left -= *ret_n;
    return r;
}

int mt_tar_next(struct mt_tar *t, struct mt_tar_entry *ret, struct mt_fault *f)
{
    reset_overrides(&t->over);
    for (bool prefixed = false;;) {
        if (t->done)
            return 0;
        uint64_t skip = t->data_left + t->pad_left; /* data_left <= 2^63-1 and pad_left < 512 */
        t->data_left = t->pad_left = 0;
        if (skip && take_all(t, NULL, skip, f) <= 0)
            return mt_fault_rule(f, "U11", NULL, 0, "the archive ends inside an entry");
        int r = take_all(t, t->header, BLOCK, f);
        if (r < 0)
            return -1;
        if (r == 0 || all_zero(t->header, BLOCK)) {
            if (prefixed)
                return mt_fault_rule(f, "U11", NULL, 0, "the archive ends after an extended header");
            t->done = r == 0;
            return r == 0 ? 0 : read_end(t, f);
        }
        uint64_t size;
        uint8_t flag = t->header[156];
        if (!checksum_ok(t->header))
            return mt_fault_rule(f, "U11", (const char *)t->header, field_len(t->header, 100), "the header checksum is wrong");
        if (!number(t->header + 124, 12, &size))
            return mt_fault_rule(f, "U11", (const char *)t->header, field_len(t->header, 100), "the size is malformed");
        if (flag != 'x' && flag != 'g' && flag != 'L' && flag != 'K')
            return finish_entry(t, size, ret, f);
        uint64_t pad = (BLOCK - size % BLOCK) % BLOCK;
        r = flag == 'x' || flag == 'g' ? read_pax(t, size, flag == 'g', f) : read_long(t, size, flag == 'K', f);
        if (r < 0)
            return -1;
        t->pad_left = pad;
        prefixed = prefixed || flag != 'g'; /* a global header on its own may end the archive */
    }
}
