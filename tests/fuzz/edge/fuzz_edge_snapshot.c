/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshot and static routes file under any bytes; what is taken must be usable and come apart again. */
#include "edge/pack.h"
#include "edge/snapshot.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every route of a tls listener is found under its own name. */
static void use(struct mt_edge_table *t)
{
    uint32_t n = 0;
    for (size_t at = 0; at < t->mem_len; n++) {
        struct mt_edge_rec *rec = mt_edge_table_at(t, at);
        const struct mt_edge_route *r = mt_edge_table_live(t, rec);
        if (!r || !mt_edge_table_listener(t, r->key))
            abort();
        if (mt_edge_key_proto(r->key) == MT_EDGE_TLS && mt_edge_table_find(t, r->key, r->hostname, strlen(r->hostname)) != r)
            abort();
        at += mt_edge_rec_size(rec, &t->opts[rec->opts]);
    }
    if (n != t->n_routes)
        abort();
    mt_edge_table_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_edge_table *t = NULL;
    struct mt_err err = {0};
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    if (mt_edge_snapshot_parse(text, size, &t, &err) == 0)
        use(t);
    const mt_edge_key key = mt_edge_key_of(MT_EDGE_TLS, MT_EDGE_SHARED6, (struct in_addr){0}, 443);
    if (mt_edge_routes_parse(text, size, key, size & 1, &t, &err) == 0)
        use(t);
    free(text);
    return 0;
}
