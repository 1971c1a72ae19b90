/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked list; the head is a node that holds no object. Removing twice is harmless. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct mt_list {
    struct mt_list *next, *prev;
};

#define MT_LIST_INIT(head) {&(head), &(head)}
#define MT_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
/** Iterate; the current node may be removed in the body. */
#define MT_LIST_EACH(pos, head) \
    for (struct mt_list *pos = (head)->next, *pos##_next = pos->next; pos != (head); pos = pos##_next, pos##_next = pos->next)

static inline void mt_list_init(struct mt_list *n)
{
    n->next = n->prev = n;
}

static inline bool mt_list_empty(const struct mt_list *head)
{
    return head->next == head;
}

static inline void mt_list_insert_before(struct mt_list *at, struct mt_list *n)
{
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
}

static inline void mt_list_push_back(struct mt_list *head, struct mt_list *n)
{
    mt_list_insert_before(head, n);
}

static inline void mt_list_push_front(struct mt_list *head, struct mt_list *n)
{
    mt_list_insert_before(head->next, n);
}

static inline void mt_list_remove(struct mt_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    mt_list_init(n);
}

/** First node removed from the list, NULL when empty. */
static inline struct mt_list *mt_list_pop_front(struct mt_list *head)
{
    if (mt_list_empty(head))
        return NULL;
    struct mt_list *n = head->next;
    mt_list_remove(n);
    return n;
}
