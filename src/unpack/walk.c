/* SPDX-License-Identifier: Apache-2.0 */
/* Path resolution as a chroot would do it, but a way out of the root is a fault instead of being bent back inside. */
#include "unpack/walk.h"

#include <string.h>

#define FOLLOW_MAX 40
#define REST_MAX 8192

int mt_path_split(const char *text, size_t len, const char *rule, struct mt_path *ret, struct mt_fault *f)
{
    ret->text = text;
    ret->len = len;
    ret->count = 0;
    if (len == 0 || memchr(text, 0, len))
        return mt_fault_rule(f, rule, text, len, "the path is empty or holds a NUL");
    if (len > 4096)
        return mt_fault_rule(f, rule, text, len, "the path is longer than 4096 bytes");
    for (size_t at = 0; at < len;) {
        const char *slash = memchr(text + at, '/', len - at);
        size_t n = slash ? (size_t)(slash - text) - at : len - at;
        const char *part = text + at;
        at += n + 1;
        if (n == 0 || (n == 1 && part[0] == '.'))
            continue;
        if (n == 2 && part[0] == '.' && part[1] == '.')
            return mt_fault_rule(f, rule, text, len, "the path leads upwards with '..'");
        if (n > 255)
            return mt_fault_rule(f, rule, text, len, "a part of the path is longer than 255 bytes");
        if (ret->count == MT_PATH_PARTS_MAX)
            return mt_fault_rule(f, rule, text, len, "the path has too many parts");
        ret->part[ret->count].name = part;
        ret->part[ret->count++].len = n;
    }
    return 0;
}

enum found { IS_DIR, NOT_DIR, OUTSIDE };

/* Where the link with @target, lying in folder @at, leads. */
static enum found follow(const struct mt_tree *t, uint32_t at, const uint8_t *target, size_t len, uint32_t *ret)
{
    char rest[REST_MAX];
    unsigned follows = 1;
    if (len > sizeof rest)
        return NOT_DIR;
    memcpy(rest, target, len);
    size_t from = 0, end = len;
    if (len && rest[0] == '/')
        at = MT_TREE_ROOT;
    while (from < end) {
        const char *slash = memchr(rest + from, '/', end - from);
        size_t n = slash ? (size_t)(slash - rest) - from : end - from;
        const char *part = rest + from;
        from += n + (slash ? 1 : 0);
        if (n == 0 || (n == 1 && part[0] == '.'))
            continue;
        if (n == 2 && part[0] == '.' && part[1] == '.') {
            if (at == MT_TREE_ROOT)
                return OUTSIDE;
            at = mt_tree_parent(t, at);
            continue;
        }
        uint32_t dent = n <= 255 ? mt_tree_find(t, at, part, n) : MT_TREE_NONE;
        if (dent == MT_TREE_NONE)
            return NOT_DIR;
        const struct mt_node *node = &t->nodes[t->dents[dent].node];
        if (node->type == MT_NODE_DIR) {
            at = t->dents[dent].node;
            continue;
        }
        if (node->type != MT_NODE_SYMLINK || ++follows > FOLLOW_MAX)
            return NOT_DIR;
        /* The new target, a slash, and what was left of the old one. */
        size_t left = end - from, link = (size_t)node->size;
        if (link + 1 + left > sizeof rest)
            return NOT_DIR;
        memmove(rest + link + 1, rest + from, left);
        memcpy(rest, mt_tree_text(t, node->text), link);
        rest[link] = '/';
        from = 0;
        end = link + 1 + left;
        if (rest[0] == '/')
            at = MT_TREE_ROOT;
    }
    *ret = at;
    return IS_DIR;
}

int mt_walk_parent(struct mt_tree *t, const struct mt_path *path, uint8_t layer, bool create, uint32_t *ret, struct mt_fault *f)
{
    uint32_t at = MT_TREE_ROOT;
    for (size_t i = 0; i + 1 < path->count; i++) {
        const char *name = path->part[i].name;
        size_t n = path->part[i].len;
        uint32_t dent = mt_tree_find(t, at, name, n);
        if (dent != MT_TREE_NONE) {
            const struct mt_dent *d = &t->dents[dent];
            const struct mt_node *node = &t->nodes[d->node];
            if (node->type == MT_NODE_DIR) {
                at = d->node;
                continue;
            }
            if (node->type == MT_NODE_SYMLINK) {
                enum found found = follow(t, at, mt_tree_text(t, node->text), (size_t)node->size, &at);
                if (found == OUTSIDE)
                    return mt_fault_rule(f, "U2", path->text, path->len, "a link on the way leads outside the root");
                if (found == IS_DIR)
                    continue;
            }
            if (create && d->layer == layer)
                return mt_fault_rule(f, "U2", path->text, path->len, "a parent is not a folder, and this layer made it so");
        }
        if (!create) {
            *ret = MT_TREE_NONE;
            return 0;
        }
        if (dent != MT_TREE_NONE)
            mt_tree_remove(t, dent);
        uint32_t node = mt_tree_new_node(t, MT_NODE_DIR, f);
        if (node == MT_TREE_NONE)
            return -1;
        t->nodes[node].mode = 0755;
        dent = mt_tree_link(t, at, name, n, node, layer, f);
        if (dent == MT_TREE_NONE)
            return -1;
        t->dents[dent].implied = true;
        at = node;
    }
    *ret = at;
    return 0;
}
