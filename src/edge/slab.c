/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/slab.h"

#include "base/err.h"

#define BLOCK_OBJECTS 16U
#define HEAD 16U /* link of the block list, keeps objects aligned */

void mt_edge_slab_init(struct mt_edge_slab *s, size_t size)
{
    *s = (struct mt_edge_slab){.size = (size + 15U) & ~(size_t)15U};
}

static void push(struct mt_edge_slab *s, void *p)
{
    memcpy(p, &s->free_list, sizeof s->free_list);
    s->free_list = p;
}

void *mt_edge_slab_get(struct mt_edge_slab *s)
{
    if (!s->free_list) {
        char *block = malloc(HEAD + s->size * BLOCK_OBJECTS);
        if (!block)
            return NULL;
        memcpy(block, &s->blocks, sizeof s->blocks);
        s->blocks = block;
        for (size_t i = BLOCK_OBJECTS; i > 0; i--)
            push(s, block + HEAD + (i - 1) * s->size);
    }
    void *p = s->free_list;
    memcpy(&s->free_list, p, sizeof s->free_list);
    memset(p, 0, s->size);
    s->in_use++;
    return p;
}

void mt_edge_slab_put(struct mt_edge_slab *s, void *p)
{
    push(s, p);
    s->in_use--;
}

void mt_edge_slab_done(struct mt_edge_slab *s)
{
    while (s->blocks) {
        void *b = s->blocks;
        memcpy(&s->blocks, b, sizeof s->blocks);
        free(b);
    }
    s->free_list = NULL;
}
