/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as id, name, host name, mount path: the checks agree with each other. */
#include "model/ids.h"
#include "model/mountpath.h"
#include "model/names.h"
#include "model/reason.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *s = (const char *)data;
    char host[MT_HOSTNAME_SIZE];
    enum mt_id_kind kind;
    struct mt_err err;

    if (mt_id_parse(s, len, &kind, &err) == 0) {
        char *copy = mt_strndup(s, len), again[MT_ID_SIZE];
        MT_ASSERT(copy && strlen(copy) == len && !strchr(copy, '/') && mt_id_check(kind, copy, &err) == 0);
        mt_id_join(kind, mt_id_ulid(copy), again);
        MT_ASSERT(MT_STREQ(copy, again));
        free(copy);
    }
    for (unsigned k = 0; k < MT_NAME_KIND_MAX; k++)
        if (mt_name_valid((enum mt_name_kind)k, s, len))
            MT_ASSERT(len < MT_NAME_SIZE && !memchr(s, '\0', len) && !memchr(s, '/', len) && !memchr(s, '.', len));
    if (mt_hostname_normalise(s, len, host, &err) == 0)
        MT_ASSERT(mt_hostname_fault(host, strlen(host)) == NULL);
    if (s && !mt_hostname_fault(s, len)) {
        MT_ASSERT(mt_hostname_normalise(s, len, host, &err) == 0);
        MT_ASSERT(strlen(host) == len && memcmp(host, s, len) == 0);
    }
    if (s && !mt_mountpath_fault(s, len)) {
        MT_ASSERT(len > 1 && s[0] == '/' && s[len - 1] != '/' && !memmem(s, len, "/../", 4) && !memmem(s, len, "//", 2));
        MT_ASSERT(mt_mountpath_nested(s, len, s, len));
    }
    (void)mt_email_valid(s, len);
    (void)mt_var_key_valid(s, len);
    (void)mt_idempotency_key_valid(s, len);
    return 0;
}
