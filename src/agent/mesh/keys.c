/* SPDX-License-Identifier: Apache-2.0 */
/* WireGuard keys on disk. See keys.h. */
#include "agent/mesh/keys.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"

#include <openssl/evp.h>

#define KEY_FILE_MAX 256

int mt_wg_public(const uint8_t private_key[MT_WG_KEY_LEN], uint8_t ret[MT_WG_KEY_LEN], struct mt_err *err)
{
    size_t len = MT_WG_KEY_LEN;
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private_key, MT_WG_KEY_LEN);
    int ok = k && EVP_PKEY_get_raw_public_key(k, ret, &len) == 1 && len == MT_WG_KEY_LEN;
    EVP_PKEY_free(k);
    return ok ? 0 : MT_FAIL(err, MT_E_INVALID, "not an X25519 private key");
}

static int load_one(const char *dir, const char *name, uint8_t ret[MT_WG_KEY_LEN], bool *ret_there, struct mt_err *err)
{
    char path[PATH_MAX];
    char *text = NULL;
    size_t len;
    uint8_t key[MT_WG_KEY_LEN + 3];
    int rc = mt_fmt(path, sizeof path, err, "%s/%s", dir, name);

    *ret_there = false;
    if (rc == 0)
        rc = mt_file_read_plain(path, geteuid(), KEY_FILE_MAX, &text, &len, err);
    if (rc < 0)
        return rc == -MT_E_NOT_FOUND ? 0 : rc;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' '))
        len--;
    if (len != 44 || mt_b64_decode(text, len, key, sizeof key) != MT_WG_KEY_LEN)
        rc = MT_FAIL(err, MT_E_CORRUPT, "'%s' is not a WireGuard key", path);
    else
        rc = mt_wg_public(key, ret, err);
    explicit_bzero(key, sizeof key);
    explicit_bzero(text, len);
    free(text);
    *ret_there = rc == 0;
    return rc;
}

int mt_wg_keys_load(const char *dir, struct mt_wg_keys *ret, struct mt_err *err)
{
    struct mt_wg_keys k = {0};
    int rc = load_one(dir, "wg.key", k.now, &k.has_now, err);
    if (rc == 0)
        rc = load_one(dir, "wg.key.next", k.next, &k.has_next, err);
    if (rc == 0)
        *ret = k;
    return rc;
}

int mt_wg_key_make(const char *dir, const char *name, uint8_t ret[MT_WG_KEY_LEN], struct mt_err *err)
{
    char path[PATH_MAX], text[MT_B64_SIZE(MT_WG_KEY_LEN) + 1];
    uint8_t key[MT_WG_KEY_LEN];
    int rc = mt_fmt(path, sizeof path, err, "%s/%s", dir, name);

    if (rc == 0)
        rc = mt_file_mkdirs(dir, 0700, err);
    if (rc < 0)
        return rc;
    mt_random(key, sizeof key);
    key[0] &= 248; /* as `wg genkey` writes it */
    key[31] = (uint8_t)((key[31] & 127) | 64);
    rc = mt_wg_public(key, ret, err);
    size_t n = mt_b64_encode(key, sizeof key, text);
    text[n++] = '\n';
    if (rc == 0)
        rc = mt_file_write(path, text, n, 0600, err);
    explicit_bzero(key, sizeof key);
    explicit_bzero(text, sizeof text);
    return rc;
}

int mt_wg_keys_promote(const char *dir, struct mt_err *err)
{
    char from[PATH_MAX], to[PATH_MAX];
    if (mt_fmt(from, sizeof from, err, "%s/wg.key.next", dir) < 0 || mt_fmt(to, sizeof to, err, "%s/wg.key", dir) < 0)
        return -MT_E_LIMIT;
    if (rename(from, to) < 0 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make '%s' the present key", from);
    return mt_file_sync_dir(dir, err);
}

int mt_wg_keys_choose(const struct mt_wg_keys *k, const struct mt_mesh_key *plan, int64_t now_ms, const char **ret_name, bool *ret_promote,
                      struct mt_err *err)
{
    const uint8_t *want = mt_mesh_key_at(plan, now_ms);
    bool now = k->has_now && memcmp(k->now, want, MT_WG_KEY_LEN) == 0;
    bool next = k->has_next && memcmp(k->next, want, MT_WG_KEY_LEN) == 0;

    if (!now && !next)
        return MT_FAIL(err, MT_E_CONFLICT, "%s", k->has_now ? "the plan names another WireGuard key as this node's"
                                                            : "this node has no WireGuard key; `moat-agent join` makes one");
    *ret_name = now ? "wg.key" : "wg.key.next";
    *ret_promote = !now && memcmp(k->next, plan->now, MT_WG_KEY_LEN) == 0;
    return 0;
}
