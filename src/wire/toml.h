/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict TOML 1.0 reader: text to a tree that keeps the line and column of every key and value.
 *
 * All problems are collected in one pass: after one, reading goes on at the next line. Nothing here knows a schema.
 * Bounds: text <= 256 KiB, nesting (arrays, inline tables) <= 16, dotted keys and table headers <= 16 parts. Recursion is
 * depth-counted. Dates are parsed and typed; schemas that have none refuse them.
 *
 * Source: https://toml.io/en/v1.0.0
 */
#pragma once

#include "base/cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_err;

#define MT_TOML_BYTES_MAX (256U * 1024U)
#define MT_TOML_DEPTH_MAX 16
#define MT_TOML_KEY_PARTS_MAX 16
#define MT_TOML_PROBLEMS_MAX 100

enum mt_toml_type {
    MT_TOML_STRING = 0,
    MT_TOML_INTEGER,
    MT_TOML_FLOAT,
    MT_TOML_BOOL,
    MT_TOML_OFFSET_DATETIME,
    MT_TOML_LOCAL_DATETIME,
    MT_TOML_LOCAL_DATE,
    MT_TOML_LOCAL_TIME,
    MT_TOML_ARRAY,
    MT_TOML_TABLE,
    MT_TOML_TYPE_MAX
};

/** "string", "integer", ... for messages. */
const char *mt_toml_type_name(enum mt_toml_type type);

struct mt_toml_pos {
    uint32_t line;   /* from 1 */
    uint32_t column; /* from 1, in characters (code points) */
};

struct mt_toml_date {
    uint16_t year;
    uint8_t month, day, hour, minute, second;
    uint32_t nanosecond;  /* digits past nine are cut */
    int16_t offset_minutes; /* offset date-times only */
};

struct mt_toml_value;

struct mt_toml_entry {
    const char *key; /* NUL-terminated, may hold NUL inside: see key_len */
    size_t key_len;
    struct mt_toml_pos pos; /* of this part of the key, where it was first written */
    struct mt_toml_value *value;
};

struct mt_toml_value {
    enum mt_toml_type type;
    struct mt_toml_pos pos; /* of the value; for a table of its header or brace */
    union {
        struct {
            const char *s; /* valid UTF-8, NUL-terminated, may hold NUL inside */
            size_t len;
        } string;
        int64_t integer;
        double number;
        bool boolean;
        struct mt_toml_date date;
        struct {
            struct mt_toml_value **v;
            size_t n;
        } array;
        struct {
            struct mt_toml_entry *v; /* in the order written */
            size_t n;
        } table;
    };
    const char *text; /* numbers: as written, without underscores, NUL-terminated; else NULL */
    unsigned state;   /* private to the parser */
    size_t room;      /* private to the parser */
};

struct mt_toml_problem {
    struct mt_toml_pos pos;
    char message[160]; /* lower case, no full stop; says what was found and what is expected */
};

/* A comment, so that a formatter can carry it along. */
struct mt_toml_comment {
    struct mt_toml_pos pos;            /* of the '#' */
    const char *s;                     /* from the '#' to the end of its line, borrowed from the text that was parsed */
    size_t len;
    bool alone;                        /* nothing but blanks before it on its line */
    const struct mt_toml_value *array; /* innermost array whose brackets enclose it; NULL: none */
};

struct mt_toml {
    struct mt_toml_value *root; /* a table; holds what could be read even when there are problems */
    struct mt_toml_problem *problems; /* ordered by line and column; at most MT_TOML_PROBLEMS_MAX */
    size_t n_problems;
    struct mt_toml_comment *comments; /* in the order of the text */
    size_t n_comments;
    void *memory; /* private */
};

/**
 * Parse @text, @len (need not end in NUL). A syntax problem is not an error of this call: look at ret->n_problems.
 *
 * @ret   the document, freed by mt_toml_free
 * Returns 0; -MT_E_LIMIT when the text is above MT_TOML_BYTES_MAX; -MT_E_NOMEM.
 */
int mt_toml_parse(const char *text, size_t len, struct mt_toml **ret, struct mt_err *err);

/**
 * The same tree from JSON (RFC 8259) with the schema's names: objects are tables, numbers keep their text, null is a problem, nesting at
 * most MT_TOML_DEPTH_MAX. Text that is no JSON is one problem at its start that names the place. Comments: none.
 */
int mt_toml_from_json(const char *text, size_t len, struct mt_toml **ret, struct mt_err *err);

void mt_toml_free(struct mt_toml *toml);
static inline void mt_toml_freep(struct mt_toml **toml)
{
    mt_toml_free(*toml);
    *toml = NULL;
}
#define mt_auto_toml mt_cleanup(mt_toml_freep)

/** True for a table with a header or braces of its own, false for one that only exists because of a longer name. */
bool mt_toml_written(const struct mt_toml_value *table);

/** The entry of a table by key, or NULL. */
const struct mt_toml_entry *mt_toml_find(const struct mt_toml_value *table, const char *key);
