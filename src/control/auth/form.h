/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of HTML forms: application/x-www-form-urlencoded, bounded, strict (WHATWG URL, section 5). Pure. */
#pragma once

#include "base/err.h"

#define MT_FORM_BODY 8192  /* bytes of a body */
#define MT_FORM_FIELDS 16
#define MT_FORM_NAME 32    /* with NUL */
#define MT_FORM_VALUE 1025 /* with NUL */

struct mt_form {
    int n;
    struct {
        char name[MT_FORM_NAME];
        char value[MT_FORM_VALUE];
    } field[MT_FORM_FIELDS];
};

/**
 * Read a form. Refused (-MT_E_INVALID): too long, too many fields, a name twice, a name that is not [a-z_]+, a bad escape, NUL,
 * text that is not UTF-8, control characters.
 */
int mt_form_parse(const char *body, size_t len, struct mt_form *ret, struct mt_err *err);
/** Value of a field, "" when it is absent. */
const char *mt_form_get(const struct mt_form *f, const char *name);
/** Overwrite the values: a form holds passwords. */
void mt_form_wipe(struct mt_form *f);

/**
 * Value of cookie @name in a Cookie header (RFC 6265 4.2.1) into @ret; false when it is absent, twice there, or too long.
 */
bool mt_cookie_get(const char *header, const char *name, char *ret, size_t size);
