/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

struct mt_map_slot {
    char *key; /* NULL: never used, or deleted when value is &tomb */
    void *value;
    uint64_t hash;
};

static char tomb;

static uint64_t hash_of(const struct mt_map *m, const char *s)
{
    uint64_t h = m->seed ^ 0xcbf29ce484222325ULL;
    for (; *s; s++) {
        h ^= (unsigned char)*s;
        h *= 0x100000001b3ULL;
        h ^= h >> 29;
    }
    h ^= m->seed >> 7;
    h *= 0x9e3779b97f4a7c15ULL;
    return h ^ h >> 32;
}

void mt_map_init(struct mt_map *m, uint64_t seed)
{
    *m = (struct mt_map){.seed = seed};
}

void mt_map_done(struct mt_map *m)
{
    for (size_t i = 0; i < m->cap; i++)
        free(m->slots[i].key);
    free(m->slots);
    *m = (struct mt_map){.seed = m->seed};
}

/* Slot of @key, or the slot where it would go. */
static struct mt_map_slot *probe(const struct mt_map *m, const char *key, uint64_t h)
{
    struct mt_map_slot *grave = NULL;
    for (size_t i = (size_t)h & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct mt_map_slot *s = &m->slots[i];
        if (!s->key) {
            if (s->value != &tomb)
                return grave ? grave : s;
            if (!grave)
                grave = s;
        } else if (s->hash == h && strcmp(s->key, key) == 0) {
            return s;
        }
    }
}

static int grow(struct mt_map *m)
{
    size_t cap = m->cap == 0 ? 16 : m->count * 2 >= m->cap ? m->cap * 2 : m->cap;
    struct mt_map_slot *slots = calloc(cap, sizeof *slots);
    if (!slots)
        return -MT_E_NOMEM;
    struct mt_map next = {.slots = slots, .cap = cap, .count = m->count, .used = m->count, .seed = m->seed};
    for (size_t i = 0; i < m->cap; i++)
        if (m->slots[i].key)
            *probe(&next, m->slots[i].key, m->slots[i].hash) = m->slots[i];
    free(m->slots);
    *m = next;
    return 0;
}

void *mt_map_get(const struct mt_map *m, const char *key)
{
    if (m->cap == 0)
        return NULL;
    const struct mt_map_slot *s = probe(m, key, hash_of(m, key));
    return s->key ? s->value : NULL;
}

int mt_map_put(struct mt_map *m, const char *key, void *value)
{
    if ((m->used + 1) * 4 > m->cap * 3 && grow(m) < 0)
        return -MT_E_NOMEM;
    uint64_t h = hash_of(m, key);
    struct mt_map_slot *s = probe(m, key, h);
    if (s->key) {
        s->value = value;
        return 0;
    }
    char *copy = strdup(key);
    if (!copy)
        return -MT_E_NOMEM;
    if (s->value != &tomb)
        m->used++;
    *s = (struct mt_map_slot){.key = copy, .value = value, .hash = h};
    m->count++;
    return 0;
}

void *mt_map_remove(struct mt_map *m, const char *key)
{
    if (m->cap == 0)
        return NULL;
    struct mt_map_slot *s = probe(m, key, hash_of(m, key));
    if (!s->key)
        return NULL;
    void *value = s->value;
    free(s->key);
    s->key = NULL;
    s->value = &tomb;
    m->count--;
    return value;
}

bool mt_map_next(const struct mt_map *m, size_t *pos, const char **ret_key, void **ret_value)
{
    while (*pos < m->cap) {
        const struct mt_map_slot *s = &m->slots[(*pos)++];
        if (s->key) {
            if (ret_key)
                *ret_key = s->key;
            if (ret_value)
                *ret_value = s->value;
            return true;
        }
    }
    return false;
}
