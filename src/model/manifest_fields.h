/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every field of the manifest as data: type, bounds, default, words and rule. The reader takes its bounds from here, `moat
 * manifest schema`, `fmt` and docs/manifest.md are made from it: none of them can differ. Source: control-plane.md 4.2.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum mt_mf_kind {
    MT_MF_TEXT = 0, /* min..max: bytes */
    MT_MF_INT,      /* min..max: value */
    MT_MF_BOOL,
    MT_MF_CPU,      /* min..max: thousandths */
    MT_MF_SIZE,     /* min..max: bytes; Mi is a unit when min is below 1 GiB */
    MT_MF_WORD,     /* one of @words */
    MT_MF_ARGV,     /* min..max: items */
    MT_MF_PORT,     /* name or number of a declared port */
    MT_MF_VARS,     /* texts by name; max: entries */
    MT_MF_TABLE,    /* @sub */
    MT_MF_LIST,     /* of tables of @sub; max: entries */
    MT_MF_MAP,      /* tables of @sub by name; min..max: entries */
    MT_MF_KIND_MAX
};

struct mt_mf_field {
    const char *key; /* NULL ends a list of fields */
    enum mt_mf_kind kind;
    bool required;
    uint64_t min, max;
    const char *fallback;      /* default as written in TOML; NULL: none, or said in @rule */
    const char *pattern;       /* regular expression of ECMA 262 for texts; NULL: none */
    const char *const *words;  /* MT_MF_WORD, NULL terminated */
    const struct mt_mf_field *sub;
    const char *rule;          /* for people: what it is and what else must hold */
};

/** The top level. */
extern const struct mt_mf_field mt_mf_root_fields[];

/** The field of @key in the list @fields, or NULL. */
const struct mt_mf_field *mt_mf_field(const struct mt_mf_field *fields, const char *key);

/** Type in one word, for people: "string", "integer", ... */
const char *mt_mf_kind_name(enum mt_mf_kind kind);
