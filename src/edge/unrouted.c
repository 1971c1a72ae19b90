/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/unrouted.h"

static unsigned bucket(const void *of)
{
    /* addresses of sources come from the allocator, not from who connects: any spreading does */
    return (unsigned)(((uint64_t)(uintptr_t)of * UINT64_C(0x9e3779b97f4a7c15)) >> 32) % MT_EDGE_UNROUTED_BUCKETS;
}

void mt_edge_unrouted_init(struct mt_edge_unrouted *u)
{
    mt_list_init(&u->all);
    for (unsigned i = 0; i < MT_EDGE_UNROUTED_BUCKETS; i++)
        mt_list_init(&u->buckets[i]);
    u->n = 0;
}

void mt_edge_waiting_init(struct mt_edge_waiting *c)
{
    mt_list_init(&c->all);
    mt_list_init(&c->near);
    c->of = NULL;
}

void mt_edge_unrouted_add(struct mt_edge_unrouted *u, struct mt_edge_waiting *c, const void *of)
{
    c->of = of;
    mt_list_push_back(&u->all, &c->all);
    if (of)
        mt_list_push_back(&u->buckets[bucket(of)], &c->near);
    u->n++;
}

void mt_edge_unrouted_remove(struct mt_edge_unrouted *u, struct mt_edge_waiting *c)
{
    if (mt_list_empty(&c->all))
        return;
    mt_list_remove(&c->all);
    mt_list_remove(&c->near);
    u->n--;
}

struct mt_edge_waiting *mt_edge_unrouted_oldest(const struct mt_edge_unrouted *u)
{
    return mt_list_empty(&u->all) ? NULL : MT_CONTAINER(u->all.next, struct mt_edge_waiting, all);
}

struct mt_edge_waiting *mt_edge_unrouted_oldest_of(const struct mt_edge_unrouted *u, const void *of)
{
    const struct mt_list *head = &u->buckets[bucket(of)];
    for (struct mt_list *n = head->next; n != head; n = n->next) {
        struct mt_edge_waiting *c = MT_CONTAINER(n, struct mt_edge_waiting, near);
        if (c->of == of) /* none with NULL is in a bucket */
            return c;
    }
    return NULL;
}
