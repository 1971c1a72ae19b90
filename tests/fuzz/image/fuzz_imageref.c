/* SPDX-License-Identifier: Apache-2.0 */
/* Image references and WWW-Authenticate challenges: what parses must parse again to the same, within its bounds. */
#include "base/assert.h"
#include "base/str.h"
#include "fetch/challenge.h"
#include "wire/imageref.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mt_imageref ref, again;
    struct mt_challenge c;
    struct mt_err err;
    char text[1024];
    char *s = mt_strndup((const char *)data, len);
    if (!s)
        return 0;
    if (mt_imageref_parse(s, &ref, &err) == 0) {
        int n = snprintf(text, sizeof text, "%s/%s%s%s%s%s", ref.host, ref.path, ref.tag[0] ? ":" : "", ref.tag,
                         ref.digest[0] ? "@" : "", ref.digest);
        MT_ASSERT(n > 0 && (size_t)n < sizeof text);
        /* The canonical form may pass the length limit only because "docker.io/library/" was added. */
        if (n <= MT_IMAGEREF_MAX)
            MT_ASSERT(mt_imageref_parse(text, &again, &err) == 0 && strcmp(again.path, ref.path) == 0 &&
                      strcmp(again.host, ref.host) == 0 && strcmp(again.tag, ref.tag) == 0);
        MT_ASSERT(!strstr(ref.path, "..") && !strstr(ref.path, "//") && ref.path[0] != '/');
    }
    free(s);
    mt_challenge_parse((const char *)data, len, &c);
    MT_ASSERT(strlen(c.realm) < sizeof c.realm && (c.scheme != MT_CHALLENGE_NONE || !c.realm[0]));
    return 0;
}
