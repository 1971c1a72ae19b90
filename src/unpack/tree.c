/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers instead of pointers: two million entries fit well below the address-space limit, and freed slots are used again. */
#include "unpack/tree.h"

#include "base/assert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BLOCK ((uint32_t)1 << 20)

/* Text layout of an attribute: this head, then name, then value. */
struct xattr_head {
    uint32_t next;
    uint32_t value_len;
    uint32_t name_len;
};

static int no_memory(struct mt_fault *f)
{
    return mt_fault_sys(f, "memory", ENOMEM, "building the file tree");
}

static uint32_t hash_of(const struct mt_tree *t, uint32_t dir, const char *name, size_t len)
{
    uint64_t h = t->seed ^ (dir * UINT64_C(0x9e3779b97f4a7c15));
    for (size_t i = 0; i < len; i++) {
        h = (h ^ (uint8_t)name[i]) * UINT64_C(0xff51afd7ed558ccd);
        h ^= h >> 29;
    }
    h = (h ^ t->seed) * UINT64_C(0xc4ceb9fe1a85ec53);
    return (uint32_t)(h >> 32);
}

static int grow(void **array, uint32_t *cap, size_t size)
{
    uint32_t bigger = *cap ? *cap * 2 : 1024;
    void *p = bigger > *cap ? reallocarray(*array, bigger, size) : NULL;
    if (!p)
        return -1;
    *array = p;
    *cap = bigger;
    return 0;
}

const uint8_t *mt_tree_text(const struct mt_tree *t, uint32_t at)
{
    MT_ASSERT(at < t->text_used);
    return t->text[at / TEXT_BLOCK] + at % TEXT_BLOCK;
}

uint32_t mt_tree_put_text(struct mt_tree *t, const void *p, size_t n, struct mt_fault *f)
{
    MT_ASSERT(n <= TEXT_BLOCK / 8);
    uint32_t need = (uint32_t)((n + 4) & ~(size_t)3); /* keeps attribute heads aligned; at least one byte is ours */
    uint32_t at = t->text_used;
    if (at % TEXT_BLOCK + need > TEXT_BLOCK || at == (uint32_t)(t->text_blocks * TEXT_BLOCK)) {
        if ((size_t)(t->text_blocks + 1) * TEXT_BLOCK > MT_TREE_TEXT_MAX) {
            (void)mt_fault_limit(f, "metadata_bytes", MT_TREE_TEXT_MAX);
            return MT_TREE_NONE;
        }
        uint8_t **blocks = reallocarray(t->text, t->text_blocks + 1, sizeof *blocks);
        uint8_t *block = malloc(TEXT_BLOCK);
        if (blocks)
            t->text = blocks;
        if (!blocks || !block) {
            free(block);
            (void)no_memory(f);
            return MT_TREE_NONE;
        }
        t->text[t->text_blocks] = block;
        at = t->text_blocks++ * TEXT_BLOCK;
    }
    t->text_used = at + need;
    if (n)
        memcpy(t->text[at / TEXT_BLOCK] + at % TEXT_BLOCK, p, n);
    return at;
}

int mt_tree_init(struct mt_tree *t, uint64_t seed, struct mt_fault *f)
{
    *t = (struct mt_tree){.seed = seed, .node_free = MT_TREE_NONE, .dent_free = MT_TREE_NONE, .bucket_count = 1024};
    t->buckets = malloc(t->bucket_count * sizeof *t->buckets);
    if (!t->buckets)
        return no_memory(f);
    memset(t->buckets, 0xff, t->bucket_count * sizeof *t->buckets);
    uint32_t root = mt_tree_new_node(t, MT_NODE_DIR, f);
    if (root == MT_TREE_NONE || grow((void **)&t->dents, &t->dent_cap, sizeof *t->dents) < 0)
        return no_memory(f);
    t->dents[0] = (struct mt_dent){.next = MT_TREE_NONE, .prev = MT_TREE_NONE, .chain = MT_TREE_NONE};
    t->dent_count = 1;
    t->nodes[root].mode = 0755;
    t->nodes[root].links = 1;
    return 0;
}

void mt_tree_done(struct mt_tree *t)
{
    for (uint32_t i = 0; i < t->text_blocks; i++)
        free(t->text[i]);
    free(t->text);
    free(t->buckets);
    free(t->nodes);
    free(t->dents);
    *t = (struct mt_tree){0};
}

uint32_t mt_tree_find(const struct mt_tree *t, uint32_t dir, const char *name, size_t len)
{
    uint32_t at = t->buckets[hash_of(t, dir, name, len) & (t->bucket_count - 1)];
    for (; at != MT_TREE_NONE; at = t->dents[at].chain) {
        const struct mt_dent *d = &t->dents[at];
        if (d->parent == dir && d->name_len == len && memcmp(mt_tree_text(t, d->name), name, len) == 0)
            return at;
    }
    return MT_TREE_NONE;
}

uint32_t mt_tree_new_node(struct mt_tree *t, enum mt_node_type type, struct mt_fault *f)
{
    uint32_t n = t->node_free;
    if (n != MT_TREE_NONE) {
        t->node_free = t->nodes[n].children;
    } else {
        if (t->node_count == t->node_cap && grow((void **)&t->nodes, &t->node_cap, sizeof *t->nodes) < 0) {
            (void)no_memory(f);
            return MT_TREE_NONE;
        }
        n = t->node_count++;
    }
    t->nodes[n] = (struct mt_node){.type = (uint8_t)type, .xattrs = MT_TREE_NONE, .text = MT_TREE_NONE, .children = MT_TREE_NONE};
    return n;
}

static int rehash(struct mt_tree *t)
{
    uint32_t count = t->bucket_count * 2;
    uint32_t *buckets = malloc(count * sizeof *buckets);
    if (!buckets)
        return -1;
    memset(buckets, 0xff, count * sizeof *buckets);
    for (uint32_t i = 1; i < t->dent_count; i++) {
        struct mt_dent *d = &t->dents[i];
        if (d->node == MT_TREE_NONE)
            continue;
        uint32_t b = hash_of(t, d->parent, (const char *)mt_tree_text(t, d->name), d->name_len) & (count - 1);
        d->chain = buckets[b];
        buckets[b] = i;
    }
    free(t->buckets);
    t->buckets = buckets;
    t->bucket_count = count;
    return 0;
}

uint32_t mt_tree_link(struct mt_tree *t, uint32_t dir, const char *name, size_t len, uint32_t node, uint8_t layer,
                      struct mt_fault *f)
{
    MT_ASSERT(len >= 1 && len <= 255 && t->nodes[dir].type == MT_NODE_DIR);
    if (t->nodes[node].type == MT_NODE_DIR && t->nodes[dir].depth + 1 > MT_TREE_DEPTH_MAX) {
        (void)mt_fault_rule(f, "U12", name, len, "folders are nested deeper than 255");
        return MT_TREE_NONE;
    }
    if (t->live_dents >= t->bucket_count && t->bucket_count < UINT32_C(1) << 24 && rehash(t) < 0) {
        (void)no_memory(f);
        return MT_TREE_NONE;
    }
    uint32_t text = mt_tree_put_text(t, name, len, f);
    if (text == MT_TREE_NONE)
        return MT_TREE_NONE;
    uint32_t n = t->dent_free;
    if (n != MT_TREE_NONE) {
        t->dent_free = t->dents[n].next;
    } else {
        if (t->dent_count == t->dent_cap && grow((void **)&t->dents, &t->dent_cap, sizeof *t->dents) < 0) {
            (void)no_memory(f);
            return MT_TREE_NONE;
        }
        n = t->dent_count++;
    }
    uint32_t *bucket = &t->buckets[hash_of(t, dir, name, len) & (t->bucket_count - 1)];
    uint32_t first = t->nodes[dir].children;
    t->dents[n] = (struct mt_dent){.parent = dir,
                                   .node = node,
                                   .next = first,
                                   .prev = MT_TREE_NONE,
                                   .chain = *bucket,
                                   .name = text,
                                   .name_len = (uint8_t)len,
                                   .layer = layer};
    *bucket = n;
    if (first != MT_TREE_NONE)
        t->dents[first].prev = n;
    t->nodes[dir].children = n;
    t->nodes[node].links++;
    if (t->nodes[node].type == MT_NODE_DIR) {
        t->nodes[node].dent = n;
        t->nodes[node].depth = (uint8_t)(t->nodes[dir].depth + 1);
    }
    t->live_dents++;
    return n;
}

void mt_tree_remove(struct mt_tree *t, uint32_t dent)
{
    MT_ASSERT(dent != MT_TREE_ROOT);
    struct mt_dent *d = &t->dents[dent];
    struct mt_node *node = &t->nodes[d->node];
    while (node->type == MT_NODE_DIR && node->children != MT_TREE_NONE)
        mt_tree_remove(t, node->children); /* as deep as folders nest: 255 */

    uint32_t *at = &t->buckets[hash_of(t, d->parent, (const char *)mt_tree_text(t, d->name), d->name_len) & (t->bucket_count - 1)];
    while (*at != dent)
        at = &t->dents[*at].chain;
    *at = d->chain;
    if (d->prev != MT_TREE_NONE)
        t->dents[d->prev].next = d->next;
    else
        t->nodes[d->parent].children = d->next;
    if (d->next != MT_TREE_NONE)
        t->dents[d->next].prev = d->prev;
    if (--node->links == 0) {
        node->children = t->node_free;
        t->node_free = d->node;
    }
    d->node = MT_TREE_NONE;
    d->next = t->dent_free;
    t->dent_free = dent;
    t->live_dents--;
}

uint32_t mt_tree_parent(const struct mt_tree *t, uint32_t dir)
{
    return dir == MT_TREE_ROOT ? MT_TREE_ROOT : t->dents[t->nodes[dir].dent].parent;
}

int mt_tree_add_xattr(struct mt_tree *t, uint32_t node, const char *name, size_t name_len, const void *value, size_t value_len,
                      struct mt_fault *f)
{
    struct xattr_head head = {.next = t->nodes[node].xattrs, .value_len = (uint32_t)value_len, .name_len = (uint32_t)name_len};
    size_t total = sizeof head + name_len + value_len;
    uint8_t *both = malloc(total);
    if (!both)
        return no_memory(f);
    memcpy(both, &head, sizeof head);
    memcpy(both + sizeof head, name, name_len);
    if (value_len)
        memcpy(both + sizeof head + name_len, value, value_len);
    uint32_t at = mt_tree_put_text(t, both, total, f);
    free(both);
    if (at == MT_TREE_NONE)
        return -1;
    t->nodes[node].xattrs = at;
    return 0;
}

bool mt_tree_next_xattr(const struct mt_tree *t, uint32_t *pos, struct mt_xattr *ret)
{
    struct xattr_head head;
    if (*pos == MT_TREE_NONE)
        return false;
    const uint8_t *p = mt_tree_text(t, *pos);
    memcpy(&head, p, sizeof head);
    *ret = (struct mt_xattr){.name = (const char *)p + sizeof head,
                             .name_len = head.name_len,
                             .value = p + sizeof head + head.name_len,
                             .value_len = head.value_len};
    *pos = head.next;
    return true;
}
