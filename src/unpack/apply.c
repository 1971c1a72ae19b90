/* SPDX-License-Identifier: Apache-2.0 */
/* What one entry may do to the tree. Every refusal names its rule. */
#include "unpack/apply.h"

#include "unpack/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPOOL_BUFFER ((size_t)1 << 20)
#define LINKS_MAX 65000 /* ext4 */

int mt_apply_init(struct mt_apply *a, struct mt_tree *tree, int spool_fd, const struct mt_apply_limits *limits, struct mt_fault *f)
{
    *a = (struct mt_apply){.tree = tree, .spool_fd = spool_fd, .limits = *limits, .buffer = malloc(SPOOL_BUFFER)};
    return a->buffer ? 0 : mt_fault_sys(f, "memory", ENOMEM, "applying layers");
}

void mt_apply_done(struct mt_apply *a)
{
    free(a->buffer);
    a->buffer = NULL;
}

static int spool_write(struct mt_apply *a, const uint8_t *p, size_t n, uint64_t at, struct mt_fault *f)
{
    while (n) {
        ssize_t w = pwrite(a->spool_fd, p, n, (off_t)at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return mt_fault_sys(f, "spool", w < 0 ? errno : EIO, "writing file data");
        p += w;
        n -= (size_t)w;
        at += (uint64_t)w;
    }
    return 0;
}

int mt_apply_flush(struct mt_apply *a, struct mt_fault *f)
{
    int r = spool_write(a, a->buffer, a->buffered, a->spool_at - a->buffered, f);
    a->buffered = 0;
    return r;
}

static int spool_put(struct mt_apply *a, const uint8_t *p, size_t n, struct mt_fault *f)
{
    if (a->buffered + n > SPOOL_BUFFER && mt_apply_flush(a, f) < 0)
        return -1;
    if (n > SPOOL_BUFFER / 2) {
        if (mt_apply_flush(a, f) < 0 || spool_write(a, p, n, a->spool_at, f) < 0)
            return -1;
    } else {
        memcpy(a->buffer + a->buffered, p, n);
        a->buffered += n;
    }
    a->spool_at += n;
    return 0;
}

static bool name_is(const struct mt_tar_xattr *x, const char *name)
{
    return x->name_len == strlen(name) && memcmp(x->name, name, x->name_len) == 0;
}

static bool name_under(const struct mt_tar_xattr *x, const char *prefix)
{
    return x->name_len > strlen(prefix) && memcmp(x->name, prefix, strlen(prefix)) == 0;
}

/* U10. Attributes that steer overlayfs or a host's security modules never reach the disk. */
static bool keep_xattr(const struct mt_tar_xattr *x, enum mt_node_type type)
{
    if (name_is(x, "security.capability"))
        return type == MT_NODE_FILE;
    return (type == MT_NODE_FILE || type == MT_NODE_DIR) && name_under(x, "user.") && !name_under(x, "user.overlay.") &&
           x->name_len <= 255;
}

static int by_name(const void *a, const void *b)
{
    const struct mt_tar_xattr *x = *(const struct mt_tar_xattr *const *)a, *y = *(const struct mt_tar_xattr *const *)b;
    size_t n = x->name_len < y->name_len ? x->name_len : y->name_len;
    int r = memcmp(x->name, y->name, n);
    return r ? r : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

/* U8, U9, U10: owner, mode, time and attributes of the entry onto the node. */
static int set_metadata(struct mt_apply *a, uint32_t n, const struct mt_tar_entry *e, struct mt_fault *f)
{
    struct mt_node *node = &a->tree->nodes[n];
    const struct mt_tar_xattr *kept[MT_TAR_XATTRS_MAX] = {NULL};
    size_t count = 0;
    node->uid = e->uid;
    node->gid = e->gid;
    node->mode = e->mode;
    node->mtime = e->mtime;
    node->mtime_nsec = e->mtime_nsec;
    node->xattrs = MT_TREE_NONE;
    for (size_t i = 0; i < e->xattr_count; i++) {
        const struct mt_tar_xattr *x = &e->xattrs[i];
        if (!keep_xattr(x, (enum mt_node_type)node->type))
            continue;
        if (x->value_len > MT_TAR_XATTR_MAX || memchr(x->name, 0, x->name_len))
            return mt_fault_rule(f, "U10", e->path, e->path_len, "an extended attribute is larger than 64 KiB");
        kept[count++] = x;
    }
    qsort(kept, count, sizeof kept[0], by_name); /* ext4.c sees them in one order whatever the archive's was */
    for (size_t i = count; i-- > 0;) {
        if (i + 1 < count && by_name(&kept[i], &kept[i + 1]) == 0)
            return mt_fault_rule(f, "U10", e->path, e->path_len, "an extended attribute is named twice");
        if (mt_tree_add_xattr(a->tree, n, kept[i]->name, kept[i]->name_len, kept[i]->value, kept[i]->value_len, f) < 0)
            return -1;
    }
    return 0;
}

/*
 * U7: take away what lower layers left at and below @dent; paths this layer wrote stay, and the folders that lead to them.
 * Such a folder, unless this layer wrote it itself, is as if just made for them.
 */
static void remove_lower(struct mt_tree *t, uint32_t dent, uint8_t layer)
{
    uint32_t n = t->dents[dent].node;
    if (t->nodes[n].type == MT_NODE_DIR) {
        for (uint32_t child = t->nodes[n].children; child != MT_TREE_NONE;) {
            uint32_t next = t->dents[child].next;
            remove_lower(t, child, layer); /* as deep as folders nest: 255 */
            child = next;
        }
    }
    if (t->dents[dent].layer == layer)
        return;
    struct mt_node *node = &t->nodes[n];
    if (node->type != MT_NODE_DIR || node->children == MT_TREE_NONE) {
        mt_tree_remove(t, dent);
        return;
    }
    node->mode = 0755;
    node->uid = node->gid = 0;
    node->mtime = 0;
    node->mtime_nsec = 0;
    node->xattrs = MT_TREE_NONE;
    t->dents[dent].layer = layer;
    t->dents[dent].implied = true;
}

/* Returns 1 when the entry was a whiteout (or ignored name), 0 when not. */
static int apply_whiteout(struct mt_apply *a, const struct mt_path *path, uint8_t layer, struct mt_fault *f)
{
    static const char mark[] = ".wh.", opaque[] = ".wh..wh..opq", reserved[] = ".wh..wh.";
    struct mt_tree *t = a->tree;
    const char *name = path->part[path->count - 1].name;
    size_t n = path->part[path->count - 1].len;
    uint32_t dir;
    if (n < sizeof mark - 1 || memcmp(name, mark, sizeof mark - 1) != 0)
        return 0;
    const char *victim = name + (sizeof mark - 1);
    size_t victim_len = n - (sizeof mark - 1);
    bool is_opaque = n == sizeof opaque - 1 && memcmp(name, opaque, n) == 0;
    if (!is_opaque && n >= sizeof reserved - 1 && memcmp(name, reserved, sizeof reserved - 1) == 0)
        return 1;
    if (victim_len == 0 || (victim_len == 1 && victim[0] == '.') || (victim_len == 2 && victim[0] == '.' && victim[1] == '.'))
        return mt_fault_rule(f, "U7", path->text, path->len, "a whiteout names nothing that can be removed");
    if (mt_walk_parent(t, path, layer, false, &dir, f) < 0)
        return -1;
    if (dir == MT_TREE_NONE)
        return 1;
    if (is_opaque) {
        for (uint32_t child = t->nodes[dir].children; child != MT_TREE_NONE;) {
            uint32_t next = t->dents[child].next;
            remove_lower(t, child, layer);
            child = next;
        }
        return 1;
    }
    uint32_t dent = mt_tree_find(t, dir, victim, victim_len);
    if (dent != MT_TREE_NONE)
        remove_lower(t, dent, layer);
    return 1;
}

/* U6. */
static int apply_hardlink(struct mt_apply *a, const struct mt_tar_entry *e, uint32_t dir, const char *name, size_t len,
                          uint8_t layer, struct mt_fault *f)
{
    static _Thread_local struct mt_path target; /* 32 KiB: not for the stack */
    struct mt_tree *t = a->tree;
    uint32_t target_dir, dent = MT_TREE_NONE;
    if (mt_path_split(e->target, e->target_len, "U6", &target, f) < 0)
        return -1;
    if (target.count > 0) {
        if (mt_walk_parent(t, &target, layer, false, &target_dir, f) < 0)
            return -1;
        if (target_dir != MT_TREE_NONE)
            dent = mt_tree_find(t, target_dir, target.part[target.count - 1].name, target.part[target.count - 1].len);
    }
    if (dent == MT_TREE_NONE)
        return mt_fault_rule(f, "U6", e->path, e->path_len, "the target of a hard link does not exist in the image");
    uint32_t node = t->dents[dent].node;
    if (t->nodes[node].type != MT_NODE_FILE && t->nodes[node].type != MT_NODE_SYMLINK)
        return mt_fault_rule(f, "U6", e->path, e->path_len, "the target of a hard link is neither a file nor a symbolic link");
    uint32_t existing = mt_tree_find(t, dir, name, len);
    if (existing == dent) { /* a link to itself changes nothing */
        t->dents[dent].layer = layer;
        return 0;
    }
    if (t->nodes[node].links >= LINKS_MAX)
        return mt_fault_limit(f, "links", LINKS_MAX);
    t->nodes[node].links++; /* held while the place is cleared: the target may lie in it */
    if (existing != MT_TREE_NONE)
        mt_tree_remove(t, existing);
    dent = mt_tree_link(t, dir, name, len, node, layer, f);
    t->nodes[node].links--;
    return dent == MT_TREE_NONE ? -1 : 0;
}

static int apply_file(struct mt_apply *a, struct mt_tar *tar, const struct mt_tar_entry *e, uint32_t node, struct mt_fault *f)
{
    a->tree->nodes[node].size = e->size;
    a->tree->nodes[node].data_at = a->spool_at;
    for (;;) {
        const uint8_t *p;
        size_t n;
        int r = mt_tar_data(tar, &p, &n, f);
        if (r <= 0)
            return r;
        if (spool_put(a, p, n, f) < 0)
            return -1;
    }
}

static int apply_dir(struct mt_apply *a, const struct mt_tar_entry *e, uint32_t dir, const char *name, size_t len, uint8_t layer,
                     struct mt_fault *f)
{
    struct mt_tree *t = a->tree;
    uint32_t dent = mt_tree_find(t, dir, name, len);
    if (dent != MT_TREE_NONE && t->nodes[t->dents[dent].node].type != MT_NODE_DIR) {
        mt_tree_remove(t, dent);
        dent = MT_TREE_NONE;
    }
    if (dent == MT_TREE_NONE) {
        uint32_t node = mt_tree_new_node(t, MT_NODE_DIR, f);
        dent = node == MT_TREE_NONE ? MT_TREE_NONE : mt_tree_link(t, dir, name, len, node, layer, f);
        if (dent == MT_TREE_NONE)
            return -1;
    }
    t->dents[dent].layer = layer;
    t->dents[dent].implied = false;
    return set_metadata(a, t->dents[dent].node, e, f);
}

static int apply_other(struct mt_apply *a, struct mt_tar *tar, const struct mt_tar_entry *e, uint32_t dir, const char *name,
                       size_t len, uint8_t layer, struct mt_fault *f)
{
    struct mt_tree *t = a->tree;
    enum mt_node_type type = e->type == MT_TAR_FILE ? MT_NODE_FILE : e->type == MT_TAR_SYMLINK ? MT_NODE_SYMLINK : MT_NODE_FIFO;
    uint32_t text = MT_TREE_NONE;
    if (type == MT_NODE_SYMLINK) {
        if (e->target_len == 0 || e->target_len > 4095)
            return mt_fault_rule(f, "U5", e->path, e->path_len, "the target of a symbolic link is empty or longer than 4095 bytes");
        text = mt_tree_put_text(t, e->target, e->target_len, f);
        if (text == MT_TREE_NONE)
            return -1;
    }
    uint32_t existing = mt_tree_find(t, dir, name, len);
    if (existing != MT_TREE_NONE)
        mt_tree_remove(t, existing);
    uint32_t node = mt_tree_new_node(t, type, f);
    if (node == MT_TREE_NONE || mt_tree_link(t, dir, name, len, node, layer, f) == MT_TREE_NONE)
        return -1;
    if (type == MT_NODE_SYMLINK) {
        t->nodes[node].text = text;
        t->nodes[node].size = e->target_len;
    }
    if (set_metadata(a, node, e, f) < 0)
        return -1;
    return type == MT_NODE_FILE ? apply_file(a, tar, e, node, f) : 0;
}

static int apply_entry(struct mt_apply *a, struct mt_tar *tar, const struct mt_tar_entry *e, uint8_t layer, struct mt_fault *f)
{
    static _Thread_local struct mt_path path; /* 32 KiB: not for the stack */
    uint32_t dir;
    if (++a->entries > a->limits.entries)
        return mt_fault_limit(f, "entries", a->limits.entries);
    if (e->size > a->limits.file_bytes)
        return mt_fault_limit(f, "file_bytes", a->limits.file_bytes);
    if (__builtin_add_overflow(a->unpacked, e->size, &a->unpacked) || a->unpacked > a->limits.unpacked_bytes)
        return mt_fault_limit(f, "unpacked_bytes", a->limits.unpacked_bytes);
    if (mt_path_split(e->path, e->path_len, "U1", &path, f) < 0)
        return -1;
    if (path.count == 0) {
        if (e->type != MT_TAR_DIR)
            return mt_fault_rule(f, "U1", e->path, e->path_len, "only a folder can stand for the root");
        return set_metadata(a, MT_TREE_ROOT, e, f);
    }
    int whiteout = apply_whiteout(a, &path, layer, f);
    if (whiteout != 0)
        return whiteout < 0 ? -1 : 0;
    if (e->type == MT_TAR_DEVICE) { /* R21: devtmpfs supplies /dev, and nothing may be made from a layer */
        a->devices_skipped++;
        return 0;
    }
    if (mt_walk_parent(a->tree, &path, layer, true, &dir, f) < 0)
        return -1;
    const char *name = path.part[path.count - 1].name;
    size_t len = path.part[path.count - 1].len;
    if (e->type == MT_TAR_DIR)
        return apply_dir(a, e, dir, name, len, layer, f);
    if (e->type == MT_TAR_HARDLINK)
        return apply_hardlink(a, e, dir, name, len, layer, f);
    return apply_other(a, tar, e, dir, name, len, layer, f);
}

int mt_apply_layer(struct mt_apply *a, struct mt_tar *tar, uint8_t layer, struct mt_fault *f)
{
    struct mt_tar_entry e = {0};
    for (;;) {
        int r = mt_tar_next(tar, &e, f);
        if (r <= 0)
            return r;
        if (apply_entry(a, tar, &e, layer, f) < 0)
            return -1;
    }
}
