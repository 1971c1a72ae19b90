/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tar reader and the unpack rules: the input is applied as two layers, cut into chunks of odd sizes. Header checksums are
 * repaired first, or hardly any input would get past them; the scenario tests cover the check itself.
 */
#include "base/assert.h"
#include "unpack/apply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct feed {
    const uint8_t *p;
    size_t left, turn;
};

static int feed_read(void *arg, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f)
{
    static const size_t sizes[] = {1, 511, 512, 513, 4096, 7};
    struct feed *d = arg;
    (void)f;
    if (d->left == 0)
        return 0;
    size_t n = sizes[d->turn++ % MT_ARRAY_LEN(sizes)];
    n = n < d->left ? n : d->left;
    *ret_p = d->p;
    *ret_n = n;
    d->p += n;
    d->left -= n;
    return 1;
}

static void repair(uint8_t *p, size_t len)
{
    for (size_t at = 0; at + 512 <= len; at += 512) {
        uint8_t *h = p + at;
        unsigned sum = 8 * ' ';
        char text[9];
        if (h[0] == 0 || memcmp(h + 257, "ustar", 5) != 0)
            continue;
        for (size_t i = 0; i < 512; i++)
            sum += i >= 148 && i < 156 ? 0 : h[i];
        (void)snprintf(text, sizeof text, "%06o", sum & 0777777U);
        memcpy(h + 148, text, 6);
        h[154] = 0;
        h[155] = ' ';
    }
}

/* Every live name leads to a live node, every folder's child names its parent: the tree is whole. */
static void check_tree(const struct mt_tree *t)
{
    uint32_t live = 0;
    for (uint32_t i = 1; i < t->dent_count; i++) {
        const struct mt_dent *d = &t->dents[i];
        if (d->node == MT_TREE_NONE)
            continue;
        live++;
        MT_ASSERT(t->nodes[d->node].links > 0 && t->nodes[d->parent].type == MT_NODE_DIR && t->nodes[d->parent].links > 0);
        MT_ASSERT(mt_tree_find(t, d->parent, (const char *)mt_tree_text(t, d->name), d->name_len) == i);
        MT_ASSERT(!memchr(mt_tree_text(t, d->name), '/', d->name_len) && !memchr(mt_tree_text(t, d->name), 0, d->name_len));
        MT_ASSERT(!(d->name_len == 2 && memcmp(mt_tree_text(t, d->name), "..", 2) == 0));
    }
    MT_ASSERT(live == t->live_dents);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct mt_apply_limits limits = {.unpacked_bytes = 1 << 20, .file_bytes = 1 << 20, .entries = 10000};
    struct mt_tree tree;
    struct mt_apply apply;
    struct mt_fault f = {0};
    int spool = memfd_create("spool", MFD_CLOEXEC);
    uint8_t *copy = malloc(len ? len : 1);
    MT_ASSERT(spool >= 0 && copy);
    if (len)
        memcpy(copy, data, len);
    repair(copy, len);
    MT_ASSERT(mt_tree_init(&tree, 42, &f) == 0 && mt_apply_init(&apply, &tree, spool, &limits, &f) == 0);
    for (uint8_t layer = 0; layer < 2; layer++) {
        struct feed feed = {.p = copy, .left = len, .turn = layer};
        const struct mt_tar_source source = {.read = feed_read, .arg = &feed};
        struct mt_tar *tar = mt_tar_new(&source);
        MT_ASSERT(tar);
        int r = mt_apply_layer(&apply, tar, layer, &f);
        mt_tar_free(tar);
        MT_ASSERT((r == 0) == (f.reason == NULL));
        check_tree(&tree);
        if (r < 0)
            break;
    }
    MT_ASSERT(apply.unpacked <= limits.unpacked_bytes || f.reason);
    mt_apply_done(&apply);
    mt_tree_done(&tree);
    free(copy);
    (void)close(spool);
    return 0;
}
