/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/node_call.h"

#include "base/assert.h"
#include "base/str.h"
#include "wire/http_client.h"

static const struct mt_http_header says[] = {{MT_NODE_VERSION_HEADER, MOAT_VERSION}, {MT_NODE_PROTOCOL_HEADER, MT_NODE_PROTOCOL}};

void mt_node_call_says(struct mt_http_client *c)
{
    mt_http_client_always(c, says, MT_ARRAY_LEN(says));
}

bool mt_node_protocol_shared(const char *list)
{
    const size_t ours = sizeof MT_NODE_PROTOCOL - 1;
    bool named = false;
    for (const char *p = list ? list : ""; *p;) {
        size_t n = strcspn(p, ", \t");
        if (n == ours && memcmp(p, MT_NODE_PROTOCOL, n) == 0)
            return true;
        named |= n >= sizeof MT_NODE_PROTOCOL_FAMILY - 1 && mt_starts_with(p, MT_NODE_PROTOCOL_FAMILY);
        p += n;
        p += strspn(p, ", \t");
    }
    return !named;
}
