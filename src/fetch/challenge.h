/* SPDX-License-Identifier: Apache-2.0 */
/* The WWW-Authenticate header of a registry. */
#pragma once

#include <stddef.h>

enum mt_challenge_scheme { MT_CHALLENGE_NONE = 0, MT_CHALLENGE_BASIC, MT_CHALLENGE_BEARER, MT_CHALLENGE_SCHEME_MAX };

struct mt_challenge {
    enum mt_challenge_scheme scheme;
    char realm[1024], service[256], scope[512]; /* "" when absent */
};

/**
 * Parse one header value of @len bytes: scheme, then key=token or key="quoted" pairs. A parameter that is too long or holds
 * control bytes makes the whole challenge NONE, as does an unknown scheme.
 * Source: RFC 6750 3, RFC 9110 11.6.1, distribution token specification.
 */
void mt_challenge_parse(const char *value, size_t len, struct mt_challenge *ret);
