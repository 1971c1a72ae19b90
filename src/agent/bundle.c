/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles. See bundle.h. */
#include "agent/bundle.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/ed25519.h"
#include "os/file.h"
#include "wire/guest.h"
#include "wire/json.h"

#include <dirent.h>
#include <sys/stat.h>

#define MANIFEST_MAX 65536
#define DAY_NS (24 * 3600 * MT_NS_PER_S)
#define BEFORE_MAX 8

static int check_file(const char *path, const char *want, struct mt_err *err)
{
    char have[MT_SHA256_HEX];
    int rc = mt_sha256_file(path, have, err);
    if (rc == 0 && strcmp(have, want) != 0)
        rc = MT_FAIL(err, MT_E_CORRUPT, "'%s' is not what its manifest says; build the bundle again", path);
    return rc;
}

/* When it was made, ns; 0 no bundle is there. */
static int64_t made_ns(const char *boot_dir, const char *version)
{
    char path[PATH_MAX];
    struct stat st;
    if (mt_fmt(path, sizeof path, NULL, "%s/%s/manifest.json", boot_dir, version) < 0 || stat(path, &st) < 0)
        return 0;
    return (int64_t)st.st_mtim.tv_sec * MT_NS_PER_S + st.st_mtim.tv_nsec;
}

/* The last one that was made before @until_ns. */
static int64_t last_before(const char *boot_dir, int64_t until_ns, char ret[64])
{
    int64_t best = 0;
    DIR *d = opendir(boot_dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char name[64];
        if (e->d_name[0] == '.' || e->d_type == DT_LNK || mt_fmt(name, sizeof name, NULL, "%s", e->d_name) < 0)
            continue; /* `current` names one that comes by its own name too */
        int64_t at = made_ns(boot_dir, name);
        if (at > best && at < until_ns) {
            best = at;
            memcpy(ret, name, sizeof name);
        }
    }
    if (d)
        (void)closedir(d);
    return best;
}

int mt_bundle_before(const char *boot_dir, const char *version, bool young, const struct mt_bundle_trust *trust, struct mt_bundle *ret, struct mt_err *err)
{
    char name[64];
    int64_t at = made_ns(boot_dir, version);
    if (young && mt_clock_wall_us() * 1000 - at > DAY_NS)
        return MT_FAIL(err, MT_E_NOT_FOUND, "bundle '%s' has been in use for a day", version);
    for (int i = 0; i < BEFORE_MAX && (at = last_before(boot_dir, at, name)) > 0; i++)
        if (mt_bundle_find(boot_dir, name, trust, ret, err) == 0)
            return 0; /* one that is not whole is as good as none */
    return MT_FAIL(err, MT_E_NOT_FOUND, "no bundle from before '%s' in '%s'", version, boot_dir);
}

void mt_boot_count_note(struct mt_boot_count *c, const char *version, bool hello)
{
    if (!MT_STREQ(c->version, version)) {
        *c = (struct mt_boot_count){.n = 0};
        (void)snprintf(c->version, sizeof c->version, "%s", version);
    }
    c->failed = (c->failed << 1 | !hello) & ((UINT32_C(1) << MT_BOOTS_LOOKED_AT) - 1);
    c->n += c->n < MT_BOOTS_LOOKED_AT;
}

bool mt_boot_count_bad(const struct mt_boot_count *c)
{
    unsigned failed = (unsigned)__builtin_popcount(c->failed);
    return failed >= 3 && failed * 5 >= c->n;
}

int mt_bundle_key(const char *text, uint8_t ret[32], struct mt_err *err)
{
    uint8_t key[MT_B64_SIZE(MT_ED25519_KEY)];
    size_t n = strlen(text);
    if (n != MT_B64_SIZE(MT_ED25519_KEY) - 1 || mt_b64_decode(text, n, key, sizeof key) != MT_ED25519_KEY)
        return MT_FAIL(err, MT_E_INVALID, "'%.80s' is no Ed25519 public key: base64 of its 32 bytes, as `openssl pkey -in KEY -pubout -outform DER | tail -c 32 | base64` says", text);
    memcpy(ret, key, MT_ED25519_KEY);
    return 0;
}

/* make-bundle's word that it made this manifest on this machine: a copy of the folder brings the file along, and it does not hold there. */
static bool built_here(const char *dir, const struct mt_bundle_trust *trust, const char *manifest, size_t len)
{
    char path[PATH_MAX], sum[MT_SHA256_HEX];
    mt_auto_free char *said = NULL, *id = NULL;
    uint8_t digest[MT_SHA256_LEN];
    size_t said_len, id_len;
    if (mt_fmt(path, sizeof path, NULL, "%s/built-here", dir) < 0 || mt_file_read_plain(path, 0, 256, &said, &said_len, NULL) < 0 ||
        mt_file_read(trust->machine_id, 256, &id, &id_len, NULL) < 0 || id_len < 16 || mt_sha256_two(id, id_len, manifest, len, digest, NULL) < 0)
        return false;
    for (size_t i = 0; i < MT_SHA256_LEN; i++)
        (void)snprintf(sum + 2 * i, 3, "%02x", digest[i]);
    return said_len == MT_SHA256_HEX && strncmp(said, sum, MT_SHA256_HEX - 1) == 0; /* and a line end */
}

/* Before anything of the manifest is believed. */
static int check_origin(const char *dir, const struct mt_bundle_trust *trust, const char *manifest, size_t len, struct mt_bundle *b, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_free char *sig = NULL;
    size_t n;
    struct mt_err why = {0};
    int rc = mt_fmt(path, sizeof path, err, "%s/manifest.sig", dir);
    if (rc < 0)
        return rc;
    rc = mt_file_read_plain(path, 0, 4096, &sig, &n, &why);
    if (rc == -MT_E_NOT_FOUND) {
        bool ours = built_here(dir, trust, manifest, len);
        if (ours)
            (void)snprintf(b->origin, sizeof b->origin, "built here");
        if (!ours && trust->n_keys > 0)
            return MT_FAIL(err, MT_E_DENIED, "bundle '%s' was not built on this machine and is not signed, and bundle_keys asks for that: build one here (systemctl restart moat-bundle), "
                           "or sign it (docs/formats/bundle.md)", dir);
        return 0;
    }
    if (rc < 0)
        return MT_FAIL(err, why.code, "%s", why.msg);
    if (n != MT_ED25519_SIGNATURE)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' has %zu bytes; an Ed25519 signature has 64", path, n);
    if (trust->n_keys == 0)
        return MT_FAIL(err, MT_E_DENIED, "bundle '%s' is signed, and bundle_keys of agent.toml has no key to check it by", dir);
    for (size_t i = 0; i < trust->n_keys; i++) {
        uint8_t key[MT_ED25519_KEY];
        if (mt_bundle_key(trust->keys[i], key, err) < 0)
            return -MT_E_INVALID;
        if (mt_ed25519_verify(key, manifest, len, (const uint8_t *)sig)) {
            (void)snprintf(b->origin, sizeof b->origin, "signed by %.12s...", trust->keys[i]);
            return 0;
        }
    }
    return MT_FAIL(err, MT_E_CORRUPT, "'%s' is not a signature of this manifest by a key of bundle_keys", path);
}

/* "1.10.3" against ours, by numbers; what is no such text is not older. */
static bool agent_too_old(const char *least)
{
    unsigned a[3] = {0}, b[3] = {0};
    if (sscanf(least, "%u.%u.%u", &a[0], &a[1], &a[2]) < 2 || sscanf(MOAT_VERSION, "%u.%u.%u", &b[0], &b[1], &b[2]) < 2)
        return false;
    for (size_t i = 0; i < 3; i++)
        if (a[i] != b[i])
            return b[i] < a[i];
    return false;
}

static int check_fit(const json_t *doc, const char *path, struct mt_err *err)
{
    uint64_t least, most;
    const char *agent;
    int rc = mt_json_opt_u64(doc, "proto_min", 0, UINT32_MAX, MT_GUEST_PROTO_MIN, &least, err);
    if (rc == 0)
        rc = mt_json_opt_u64(doc, "proto_max", 0, UINT32_MAX, MT_GUEST_PROTO_MAX, &most, err);
    if (rc == 0)
        rc = mt_json_opt_str(doc, "min_agent_version", 64, "", &agent, err);
    if (rc < 0)
        return rc;
    if (least > MT_GUEST_PROTO_MAX || most < MT_GUEST_PROTO_MIN)
        return MT_FAIL(err, MT_E_INVALID, "'%s': its init speaks protocol %llu to %llu, this agent %d to %d: upgrade the older one", path, (unsigned long long)least,
                       (unsigned long long)most, MT_GUEST_PROTO_MIN, MT_GUEST_PROTO_MAX);
    if (agent_too_old(agent))
        return MT_FAIL(err, MT_E_INVALID, "'%s' needs an agent of %.32s at least, this one is " MOAT_VERSION ": upgrade moat-agent", path, agent);
    return 0;
}

int mt_bundle_find(const char *boot_dir, const char *version, const struct mt_bundle_trust *trust, struct mt_bundle *ret, struct mt_err *err)
{
    char dir[PATH_MAX], real[PATH_MAX], path[PATH_MAX];
    const char *name, *kind, *kernel_sum, *init_sum;
    uint64_t min_memory = 0;
    struct mt_bundle b = {0};
    struct stat st;
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *doc = NULL;
    size_t len;

    if (version && (strchr(version, '/') || version[0] == '.'))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no name of a bundle", version);
    if (mt_fmt(dir, sizeof dir, err, "%s/%s", boot_dir, version ? version : "current") < 0)
        return -MT_E_LIMIT;
    /* the real folder, not the link: a bundle made later must not slip under one that is being checked, or under a VM that is being built */
    if (!realpath(dir, real))
        return MT_FAIL(err, MT_E_NOT_FOUND, "no kernel bundle in '%s'; packaging/bundle/make-bundle makes one", dir);
    if (mt_fmt(path, sizeof path, err, "%s/manifest.json", real) < 0)
        return -MT_E_LIMIT;
    if (stat(path, &st) < 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no kernel bundle in '%s'; packaging/bundle/make-bundle makes one", dir);
    if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is not root's alone", path);
    int rc = mt_file_read(path, MANIFEST_MAX, &text, &len, err);
    if (rc == 0 && (rc = check_origin(real, trust, text, len, &b, err)) < 0)
        return rc;
    if (rc == 0)
        rc = mt_json_parse(text, len, MANIFEST_MAX, 8, &doc, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "version", sizeof b.version - 1, &name, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "kind", 16, &kind, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "vmlinux_sha256", 64, &kernel_sum, err);
    if (rc == 0)
        rc = mt_json_get_str(doc, "initramfs_sha256", 64, &init_sum, err);
    if (rc == 0)
        rc = mt_json_opt_u64(doc, "min_memory_mib", 0, 65536, 0, &min_memory, err);
    if (rc == 0)
        rc = check_fit(doc, path, err);
    if (rc < 0)
        return mt_err_wrap(err, "'%s'", path);
    (void)snprintf(b.version, sizeof b.version, "%s", name);
    b.builtin = strcmp(kind, "builtin") == 0;
    b.min_memory_mib = (uint32_t)min_memory;
    if (strncmp(b.origin, "signed", 6) == 0 && !MT_STREQ(strrchr(real, '/') + 1, b.version)) /* an old one under a new name */
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is the signed manifest of version '%s'; the folder has to have that name", path, b.version);
    if (mt_fmt(b.kernel_path, sizeof b.kernel_path, err, "%s/vmlinux", real) < 0 ||
        mt_fmt(b.initramfs_path, sizeof b.initramfs_path, err, "%s/initramfs.cpio", real) < 0)
        return -MT_E_LIMIT;
    rc = check_file(b.kernel_path, kernel_sum, err);
    if (rc == 0)
        rc = check_file(b.initramfs_path, init_sum, err);
    if (rc == 0)
        *ret = b;
    return rc;
}
