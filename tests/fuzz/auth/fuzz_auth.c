/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as form body, Cookie header, token, user code, restriction. Properties: what is read has the form it promises, and
 * reading what was read gives the same again. */
#include "control/auth/auth.h"
#include "control/auth/form.h"

#include "base/assert.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void as_form(const char *text, size_t len)
{
    static struct mt_form f;
    struct mt_err err;
    if (mt_form_parse(text, len, &f, &err) < 0)
        return;
    MT_ASSERT(f.n <= MT_FORM_FIELDS);
    for (int i = 0; i < f.n; i++) {
        MT_ASSERT(f.field[i].name[0] && strlen(f.field[i].name) < MT_FORM_NAME && strlen(f.field[i].value) < MT_FORM_VALUE);
        MT_ASSERT(mt_utf8_valid(f.field[i].value, strlen(f.field[i].value)));
        MT_ASSERT(MT_STREQ(mt_form_get(&f, f.field[i].name), f.field[i].value));
    }
}

static void as_words(const char *text)
{
    static struct mt_auth_restrict r;
    char code[MT_USER_CODE_SIZE], again[MT_USER_CODE_SIZE], cookie[MT_TOKEN_SIZE];
    uint8_t hash[32];
    if (mt_user_code_read(text, code))
        MT_ASSERT(mt_user_code_read(code, again) && MT_STREQ(code, again));
    enum mt_token_kind kind = mt_token_kind_of(text);
    MT_ASSERT(kind == MT_TOKEN_KIND_MAX || mt_token_hash(kind, text, hash));
    if (mt_cookie_get(text, "__Host-moat", cookie, sizeof cookie))
        MT_ASSERT(!strchr(cookie, ';'));
    if (!mt_restrict_parse(text, &r))
        MT_ASSERT(r.on && r.apps_n == 0 && r.envs_n == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 1);
    MT_ASSERT(text);
    if (len)
        memcpy(text, data, len);
    text[len] = 0;
    as_form(text, len);
    as_words(text);
    free(text);
    return 0;
}
