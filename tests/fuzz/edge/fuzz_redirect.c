/* SPDX-License-Identifier: Apache-2.0 */
/* Plain HTTP under any bytes: what is answered is one head without a line more than ours, to a name that has a route, and the same however
 * the bytes are cut. */
#include "edge/redirect.h"
#include "edge/snapshot.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mt_edge_table *table(void)
{
    static const char text[] =
        "{\"format\":1,\"cluster_id\":\"c\",\"epoch\":1,\"revision\":1,\"listeners\":[{\"protocol\":\"tls_passthrough\",\"port\":443}],\"routes\":["
        "{\"route_id\":\"r\",\"env_id\":\"e\",\"protocol\":\"tls_passthrough\",\"hostname\":\"a.b\",\"listen_port\":443}],\"backends\":{}}";
    static struct mt_edge_table *t;
    struct mt_err err;
    if (!t && mt_edge_snapshot_parse(text, sizeof text - 1, &t, &err) < 0)
        abort();
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char out[MT_REDIRECT_ANSWER], again[MT_REDIRECT_ANSWER];
    size_t n = 0, m = 0, from = 0;
    enum mt_redirect r = mt_edge_redirect(table(), data, size, out, &n), early = MT_REDIRECT_MORE;
    if (r == MT_REDIRECT_MORE && size >= MT_REDIRECT_REQUEST)
        abort();
    if (r == MT_REDIRECT_ANSWERED) {
        static const char start[] = "HTTP/1.1 308 Permanent Redirect\r\nLocation: https://a.b/";
        unsigned lines = 0;
        if (n < sizeof start || memcmp(out, start, sizeof start - 1) != 0 || memcmp(out + n - 4, "\r\n\r\n", 4) != 0)
            abort();
        for (size_t i = 0; i < n; i++)
            lines += out[i] == '\n';
        if (lines != 5)
            abort();
    }
    while (early == MT_REDIRECT_MORE && from < size)
        early = mt_edge_redirect(table(), data, ++from, again, &m);
    if (size && size <= MT_REDIRECT_REQUEST && early != r)
        abort();
    return 0;
}
