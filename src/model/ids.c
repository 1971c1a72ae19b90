/* SPDX-License-Identifier: Apache-2.0 */
/* Identifiers: making, checking and taking apart. Reads the wall clock and getrandom(2) for new ids, nothing else. */
#include "model/ids.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/str.h"

#include <pthread.h>
#include <sys/random.h>

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

static const struct {
    const char *prefix;
    const char *what;
} kinds[MT_ID_KIND_MAX] = {
#define KIND_ROW(symbol, text, name) [MT_ID_##symbol] = {text, name},
    MT_ID_KINDS(KIND_ROW)
#undef KIND_ROW
};

const char *mt_id_prefix(enum mt_id_kind kind)
{
    MT_ASSERT((unsigned)kind < MT_ID_KIND_MAX);
    return kinds[kind].prefix;
}

const char *mt_id_kind_name(enum mt_id_kind kind)
{
    MT_ASSERT((unsigned)kind < MT_ID_KIND_MAX);
    return kinds[kind].what;
}

void mt_ulid_encode(uint64_t unix_ms, const uint8_t random[10], char ret_ulid[MT_ULID_SIZE])
{
    for (int i = 9; i >= 0; i--) {
        ret_ulid[i] = alphabet[unix_ms & 31];
        unix_ms >>= 5;
    }
    /* 80 bits are 16 digits of 5 bits: two runs of 40 bits */
    for (int half = 0; half < 2; half++) {
        uint64_t v = 0;
        for (int i = 0; i < 5; i++)
            v = v << 8 | random[half * 5 + i];
        for (int i = 7; i >= 0; i--) {
            ret_ulid[10 + half * 8 + i] = alphabet[v & 31];
            v >>= 5;
        }
    }
    ret_ulid[MT_ULID_LEN] = '\0';
}

bool mt_ulid_valid(const char *s, size_t len)
{
    if (len != MT_ULID_LEN || s[0] < '0' || s[0] > '7')
        return false;
    for (size_t i = 0; i < len; i++)
        if (s[i] == '\0' || !strchr(alphabet, s[i]))
            return false;
    return true;
}

void mt_ulid_gen_next(struct mt_ulid_gen *gen, uint64_t unix_ms, const uint8_t random[10], char ret_ulid[MT_ULID_SIZE])
{
    if (!gen->used || unix_ms > gen->last_ms) {
        gen->used = true;
        gen->last_ms = unix_ms;
        memcpy(gen->last, random, sizeof gen->last);
        gen->last[0] &= 0x7f; /* headroom: 2^79 steps before the increment could wrap */
    } else {
        for (int i = 9; i >= 0; i--)
            if (++gen->last[i] != 0)
                break;
    }
    mt_ulid_encode(gen->last_ms, gen->last, ret_ulid);
}

void mt_ulid_new(char ret_ulid[MT_ULID_SIZE])
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct mt_ulid_gen gen;
    uint8_t random[10];
    ssize_t n;

    do
        n = getrandom(random, sizeof random, 0);
    while (n == -1 && errno == EINTR);
    MT_ASSERT(n == (ssize_t)sizeof random); /* requests of <= 256 bytes cannot be cut short once seeded */

    MT_ASSERT(pthread_mutex_lock(&lock) == 0);
    mt_ulid_gen_next(&gen, (uint64_t)(mt_clock_wall_us() / 1000), random, ret_ulid);
    MT_ASSERT(pthread_mutex_unlock(&lock) == 0);
}

void mt_id_new(enum mt_id_kind kind, char ret_id[MT_ID_SIZE])
{
    char ulid[MT_ULID_SIZE];

    mt_ulid_new(ulid);
    mt_id_join(kind, ulid, ret_id);
}

void mt_id_join(enum mt_id_kind kind, const char *ulid, char ret_id[MT_ID_SIZE])
{
    MT_ASSERT(mt_ulid_valid(ulid, strlen(ulid)));
    int n = snprintf(ret_id, MT_ID_SIZE, "%s_%s", mt_id_prefix(kind), ulid);
    MT_ASSERT(n > 0 && n < MT_ID_SIZE);
}

bool mt_id_valid(enum mt_id_kind kind, const char *s, size_t len)
{
    const char *prefix = mt_id_prefix(kind);
    size_t prefix_len = strlen(prefix);

    return len == prefix_len + 1 + MT_ULID_LEN && memcmp(s, prefix, prefix_len) == 0 && s[prefix_len] == '_' &&
           mt_ulid_valid(s + prefix_len + 1, MT_ULID_LEN);
}

int mt_id_parse(const char *s, size_t len, enum mt_id_kind *ret_kind, struct mt_err *err)
{
    for (unsigned k = 0; k < MT_ID_KIND_MAX; k++)
        if (mt_id_valid((enum mt_id_kind)k, s, len)) {
            *ret_kind = (enum mt_id_kind)k;
            return 0;
        }
    char shown[48];
    return MT_FAIL(err, MT_E_INVALID, "'%s' is not an id", mt_printable(s, len, shown, sizeof shown));
}

int mt_id_check(enum mt_id_kind kind, const char *s, struct mt_err *err)
{
    char shown[48];

    if (!s)
        return MT_FAIL(err, MT_E_INVALID, "no %s id given (expected %s_ and 26 characters)", mt_id_kind_name(kind),
                       mt_id_prefix(kind));
    if (!mt_id_valid(kind, s, strlen(s)))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not a %s id (expected %s_ and 26 characters)",
                       mt_printable(s, strlen(s), shown, sizeof shown), mt_id_kind_name(kind), mt_id_prefix(kind));
    return 0;
}

const char *mt_id_ulid(const char *id)
{
    const char *sep = strchr(id, '_');

    MT_ASSERT(sep && mt_ulid_valid(sep + 1, strlen(sep + 1)));
    return sep + 1;
}
