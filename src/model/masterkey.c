/* SPDX-License-Identifier: Apache-2.0 */
#include "model/masterkey.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/str.h"
#include "os/digest.h"

#include <string.h>

#define ID_LEN (MT_MASTERKEY_ID - 1)
#define KEY_TEXT (MT_B64_SIZE(MT_MASTERKEY_LEN) - 1)

void mt_masterkey_id(const uint8_t key[MT_MASTERKEY_LEN], char ret[MT_MASTERKEY_ID])
{
    static const char label[] = "moat-master-key-v1"; /* with its NUL */
    uint8_t in[sizeof label + MT_MASTERKEY_LEN], digest[MT_SHA256_LEN];
    memcpy(in, label, sizeof label);
    memcpy(in + sizeof label, key, MT_MASTERKEY_LEN);
    mt_sha256_of(in, sizeof in, digest);
    explicit_bzero(in, sizeof in);
    mt_hex_encode(digest, ID_LEN / 2, ret);
}

void mt_masterkey_line(const struct mt_masterkey *k, char ret[MT_MASTERKEY_LINE])
{
    char text[MT_B64_SIZE(MT_MASTERKEY_LEN)];
    mt_b64_encode(k->key, sizeof k->key, text);
    MT_ASSERT(mt_fmt(ret, MT_MASTERKEY_LINE, NULL, "%s %s %s\n", k->id, k->active ? "active" : "retired", text) == 0);
    explicit_bzero(text, sizeof text);
}

static int read_line(const char *s, size_t n, unsigned line, struct mt_masterkey *k, struct mt_err *err)
{
    static const char active[] = " active ", retired[] = " retired ";
    uint8_t key[KEY_TEXT / 4 * 3 + 2];
    char id[MT_MASTERKEY_ID];
    const char *at = s + ID_LEN, *end = s + n;
    if (n < ID_LEN || strspn(s, "0123456789abcdef") != ID_LEN)
        return MT_FAIL(err, MT_E_INVALID, "line %u: does not begin with a key id of 16 hex digits", line);
    k->active = (size_t)(end - at) > sizeof active - 1 && memcmp(at, active, sizeof active - 1) == 0;
    bool old = (size_t)(end - at) > sizeof retired - 1 && memcmp(at, retired, sizeof retired - 1) == 0;
    if (!k->active && !old)
        return MT_FAIL(err, MT_E_INVALID, "line %u: after the id comes active or retired, each with one blank", line);
    at += k->active ? sizeof active - 1 : sizeof retired - 1;
    if ((size_t)(end - at) != KEY_TEXT || mt_b64_decode(at, KEY_TEXT, key, sizeof key) != MT_MASTERKEY_LEN)
        return MT_FAIL(err, MT_E_INVALID, "line %u: the key is not base64 of %d bytes", line, MT_MASTERKEY_LEN);
    memcpy(k->key, key, MT_MASTERKEY_LEN);
    explicit_bzero(key, sizeof key);
    mt_masterkey_id(k->key, id);
    memcpy(k->id, id, sizeof id);
    if (memcmp(s, id, ID_LEN) != 0)
        return MT_FAIL(err, MT_E_INVALID, "line %u: the id is not that of the key", line);
    return 0;
}

int mt_masterkeys_read(const char *text, size_t len, struct mt_masterkey *keys, size_t *ret_n, struct mt_err *err)
{
    const char *end = text + len;
    size_t n = 0, active = 0;
    unsigned line = 0;
    if (len > MT_MASTERKEYS_FILE)
        return MT_FAIL(err, MT_E_INVALID, "the file has more than %zu bytes", MT_MASTERKEYS_FILE);
    while (text < end) {
        const char *nl = memchr(text, '\n', (size_t)(end - text)), *stop = nl ? nl : end;
        line++;
        if (stop > text && *text != '#') {
            if (n == MT_MASTERKEYS_MAX)
                return MT_FAIL(err, MT_E_INVALID, "more than %d keys", MT_MASTERKEYS_MAX);
            char buf[MT_MASTERKEY_LINE + 32] = "";
            int rc = (size_t)(stop - text) < sizeof buf ? 0 : MT_FAIL(err, MT_E_INVALID, "line %u: too long", line);
            if (rc == 0) {
                memcpy(buf, text, (size_t)(stop - text));
                rc = read_line(buf, (size_t)(stop - text), line, &keys[n], err);
            }
            explicit_bzero(buf, sizeof buf);
            if (rc < 0)
                return rc;
            for (size_t i = 0; i < n; i++)
                if (MT_STREQ(keys[i].id, keys[n].id))
                    return MT_FAIL(err, MT_E_INVALID, "line %u: key %s is there already", line, keys[n].id);
            active += keys[n++].active;
        }
        text = nl ? nl + 1 : end;
    }
    if (active != 1)
        return MT_FAIL(err, MT_E_INVALID, "%zu keys are active; exactly one must be", active);
    *ret_n = n;
    return 0;
}
