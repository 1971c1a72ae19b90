/* SPDX-License-Identifier: Apache-2.0 */
#include "init/user.h"

#include <fcntl.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

enum { LINE_MAX_BYTES = 4096, FILE_MAX_BYTES = 4 * 1024 * 1024, FIELDS_MAX = 7 };
static const uint64_t ID_MAX = UINT32_MAX - 1; /* -1 means "no change" to setuid and friends */

/* lines of a colon-separated file, without stdio: it may be anything the image ships */
struct table {
    int fd;
    char buf[LINE_MAX_BYTES];
    size_t len, taken, total;
    bool too_long; /* inside a line that did not fit */
    char *field[FIELDS_MAX];
    size_t fields;
};

static void split(struct table *t, char *line)
{
    t->fields = 0;
    for (char *at = line; t->fields < FIELDS_MAX;) {
        t->field[t->fields++] = at;
        at = strchr(at, ':');
        if (!at)
            break;
        *at++ = '\0';
    }
}

static bool refill(struct table *t)
{
    memmove(t->buf, t->buf + t->taken, t->len - t->taken);
    t->len -= t->taken;
    t->taken = 0;
    if (t->len == sizeof t->buf - 1) {
        t->too_long = true;
        t->len = 0;
    }
    if (t->total >= FILE_MAX_BYTES)
        return false;
    ssize_t n;
    do {
        n = read(t->fd, t->buf + t->len, sizeof t->buf - 1 - t->len);
    } while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    t->len += (size_t)n;
    t->total += (size_t)n;
    return true;
}

static bool next_row(struct table *t)
{
    for (;;) {
        char *from = t->buf + t->taken;
        size_t left = t->len - t->taken;
        char *end = left > 0 ? memchr(from, '\n', left) : NULL;
        if (!end && refill(t))
            continue;
        from = t->buf + t->taken;
        if (!end) { /* last line without newline */
            if (t->len == t->taken)
                return false;
            end = t->buf + t->len;
            t->taken = t->len;
        } else {
            t->taken = (size_t)(end - t->buf) + 1;
        }
        *end = '\0';
        bool skip = t->too_long || memchr(from, '\0', (size_t)(end - from)) != NULL;
        t->too_long = false;
        if (skip)
            continue;
        split(t, from);
        return true;
    }
}

static bool open_table(struct table *t, const char *path)
{
    t->len = t->taken = t->total = t->fields = 0;
    t->too_long = false;
    t->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return t->fd >= 0;
}

static bool parse_id(const char *s, uint32_t *ret)
{
    uint64_t v;
    if (mt_parse_u64(s, 0, ID_MAX, &v, NULL) < 0)
        return false;
    *ret = (uint32_t)v;
    return true;
}

/* name:password:uid:gid:comment:home:shell; by name when @name is set, else by @uid */
static bool find_passwd(const char *path, const char *name, uint32_t uid, struct mt_user *ret)
{
    struct table t;
    bool found = false;
    if (!open_table(&t, path))
        return false;
    while (!found && next_row(&t)) {
        uint32_t row_uid, row_gid;
        if (t.fields < 6 || !parse_id(t.field[2], &row_uid) || !parse_id(t.field[3], &row_gid))
            continue;
        if (name ? !MT_STREQ(t.field[0], name) : row_uid != uid)
            continue;
        found = true;
        ret->uid = row_uid;
        ret->gid = row_gid;
        if (t.field[5][0] == '/' && strlen(t.field[5]) < sizeof ret->home)
            (void)mt_fmt(ret->home, sizeof ret->home, NULL, "%s", t.field[5]);
    }
    mt_closep(&t.fd);
    return found;
}

/* name:password:gid:member,member */
static bool find_group(const char *path, const char *name, gid_t *ret)
{
    struct table t;
    bool found = false;
    if (!open_table(&t, path))
        return false;
    while (!found && next_row(&t))
        found = t.fields >= 3 && MT_STREQ(t.field[0], name) && parse_id(t.field[2], ret);
    mt_closep(&t.fd);
    return found;
}

static bool lists(const char *members, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = members; *at; at += *at == ',') {
        size_t len = strcspn(at, ",");
        if (len == n && memcmp(at, name, n) == 0)
            return true;
        at += len;
    }
    return false;
}

static void add_groups(const char *path, const char *name, struct mt_user *u)
{
    struct table t;
    if (!open_table(&t, path))
        return;
    while (u->groups_count < MT_USER_GROUPS_MAX && next_row(&t)) {
        gid_t gid;
        if (t.fields >= 4 && parse_id(t.field[2], &gid) && lists(t.field[3], name))
            u->groups[u->groups_count++] = gid;
    }
    mt_closep(&t.fd);
}

int mt_user_resolve(const char *spec, const char *passwd_path, const char *group_path, struct mt_user *ret,
                    struct mt_err *err)
{
    char name[257];
    struct mt_user u = {.home = "/"};
    if (!spec || !*spec)
        spec = "0:0";
    if (mt_fmt(name, sizeof name, err, "%s", spec) < 0)
        return mt_err_wrap(err, "user");
    char *group = strchr(name, ':');
    if (group)
        *group++ = '\0';
    if (name[0] == '\0' || (group && (group[0] == '\0' || strchr(group, ':'))))
        return MT_FAIL(err, MT_E_INVALID, "user '%s' is not uid[:gid] or name[:group]", spec);

    uint32_t number;
    bool digits = name[strspn(name, "0123456789")] == '\0';
    if (digits) {
        if (!parse_id(name, &number))
            return MT_FAIL(err, MT_E_INVALID, "user '%s' is above 4294967294", name);
        (void)find_passwd(passwd_path, NULL, number, &u);
        u.uid = number;
    } else {
        if (!find_passwd(passwd_path, name, 0, &u))
            return MT_FAIL(err, MT_E_NOT_FOUND, "user '%s' is not in %s", name, passwd_path);
        if (!group)
            add_groups(group_path, name, &u);
    }
    if (group && group[strspn(group, "0123456789")] == '\0') {
        if (!parse_id(group, &u.gid))
            return MT_FAIL(err, MT_E_INVALID, "group '%s' is above 4294967294", group);
    } else if (group && !find_group(group_path, group, &u.gid)) {
        return MT_FAIL(err, MT_E_NOT_FOUND, "group '%s' is not in %s", group, group_path);
    }
    *ret = u;
    return 0;
}
