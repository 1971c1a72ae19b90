/* SPDX-License-Identifier: Apache-2.0 */
/* A name server's answer under any bytes: bounded, its texts end, and of the same bytes the same is read. First byte: what was asked for. */
#include "os/dns.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mt_dns_answer a, b;
    struct mt_err err;
    if (size < 1)
        return 0;
    enum mt_dns_type type = data[0] % MT_DNS_TYPE_MAX;
    uint8_t *reply = malloc(size); /* of its exact size: what reads past it is seen */
    if (!reply)
        return 0;
    memcpy(reply, data + 1, size - 1);
    int rc = mt_dns_read(reply, size - 1, "a.example.com", type, &a, &err);
    if (rc != mt_dns_read(reply, size - 1, "a.example.com", type, &b, &err) || (rc == 0 && memcmp(&a, &b, sizeof a) != 0))
        abort();
    if (rc == 0 && (a.n_addrs > MT_DNS_ADDRS || a.n_texts > MT_DNS_TEXTS || (type == MT_DNS_TXT ? a.n_addrs : a.n_texts)))
        abort();
    for (size_t i = 0; rc == 0 && i < a.n_texts; i++)
        if (!memchr(a.texts[i], '\0', MT_DNS_TEXT))
            abort();
    free(reply);
    return 0;
}
