/* SPDX-License-Identifier: Apache-2.0 */
#include "init/cmdline.h"

#include "base/num.h"
#include "base/str.h"

static bool copy_id(const char *s, size_t n, char ret[65])
{
    if (n == 0 || n > 64)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-'))
            return false;
    }
    memcpy(ret, s, n);
    ret[n] = '\0';
    return true;
}

/* the value when @word is "key=value" */
static const char *value_of(const char *word, size_t len, const char *key, size_t *ret_len)
{
    size_t k = strlen(key);
    if (len <= k || memcmp(word, key, k) != 0 || word[k] != '=')
        return NULL;
    *ret_len = len - k - 1;
    return word + k + 1;
}

int mt_cmdline_parse(const char *text, struct mt_cmdline *ret, struct mt_err *err)
{
    struct mt_cmdline c = {.proto = 1};
    const char *at = text;
    for (;;) {
        at += strspn(at, " \t\n");
        size_t len = strcspn(at, " \t\n"), n;
        if (len == 0 || (len == 2 && memcmp(at, "--", 2) == 0))
            break;
        const char *v;
        if ((v = value_of(at, len, "moat.instance", &n)) != NULL) {
            if (!copy_id(v, n, c.instance_id))
                return MT_FAIL(err, MT_E_INVALID, "moat.instance on the kernel command line is not an id");
        } else if ((v = value_of(at, len, "moat.boot", &n)) != NULL) {
            if (!copy_id(v, n, c.boot_id))
                return MT_FAIL(err, MT_E_INVALID, "moat.boot on the kernel command line is not an id");
        } else if ((v = value_of(at, len, "moat.proto", &n)) != NULL) {
            char digits[8];
            uint64_t proto;
            if (n >= sizeof digits)
                return MT_FAIL(err, MT_E_INVALID, "moat.proto on the kernel command line is not a number");
            memcpy(digits, v, n);
            digits[n] = '\0';
            int res = mt_parse_u64(digits, 1, 1000, &proto, err);
            if (res < 0)
                return mt_err_wrap(err, "moat.proto on the kernel command line");
            c.proto = (unsigned)proto;
        }
        at += len;
    }
    if (!c.instance_id[0] || !c.boot_id[0])
        return MT_FAIL(err, MT_E_INVALID, "moat.%s is missing on the kernel command line",
                       c.instance_id[0] ? "boot" : "instance");
    *ret = c;
    return 0;
}
