/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files: TOML read by a table that also prints the help, so that parser and documentation cannot differ.
 *
 *     struct edge_conf { char *data_dir; uint64_t max_conns; bool verbose; struct mt_conf_list listen; };
 *     static const struct mt_conf_key keys[] = {
 *         {"data_dir", MT_CONF_STRING, offsetof(struct edge_conf, data_dir), 1, 255, NULL, "path", "where files are kept"},
 *         {"limits.max_conns", MT_CONF_U64, offsetof(struct edge_conf, max_conns), 1, 1000000, "20000", "connections",
 *          "above this, accepting stops until one closes"},
 *     };
 *
 * A key with a dot lives in a table: `[limits]` / `max_conns = 1`. Unknown keys are errors with line, column and the
 * nearest key. Source: style.md 8.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct mt_err;

enum mt_conf_type {
    MT_CONF_STRING = 0, /* char *, owned; min..max = length in bytes; NULL only when MT_CONF_NONE and absent */
    MT_CONF_U64,        /* uint64_t; min..max = value */
    MT_CONF_BOOL,       /* bool */
    MT_CONF_STRINGS,    /* struct mt_conf_list; min..max = number of items */
    MT_CONF_MAP_STRING, /* struct mt_conf_map, .text set; min..max = number of entries */
    MT_CONF_MAP_U64,    /* struct mt_conf_map, .number set; min..max = number of entries */
    MT_CONF_TYPE_MAX
};

struct mt_conf_list {
    char **v; /* owned; each NUL-terminated, never NULL */
    size_t n;
};

struct mt_conf_pair {
    char *key;
    char *text;      /* MAP_STRING */
    uint64_t number; /* MAP_U64 */
};

struct mt_conf_map {
    struct mt_conf_pair *v; /* owned, in the order written */
    size_t n;
};

/* Default that means "absent stays NULL" for strings. */
#define MT_CONF_NONE "\x01"

struct mt_conf_key {
    const char *key; /* "name" or "table.name" (up to 4 parts) */
    enum mt_conf_type type;
    size_t offset;
    uint64_t min, max;
    const char *def;  /* NULL: the key is required. Lists: items separated by spaces. Maps: "" only */
    const char *unit; /* "ms", "bytes", "path"; "" when none */
    const char *help;
};

/**
 * Read a configuration text into @conf, which must be zeroed. On failure @conf is left zeroed again.
 *
 * @name       file name for messages
 * @problems   every problem as a line "name:line:column: message"; NULL to drop them
 * Returns 0; -MT_E_INVALID with the first problem and their number in the message; -MT_E_LIMIT; -MT_E_NOMEM.
 */
int mt_conf_parse(const char *text, size_t len, const char *name, const struct mt_conf_key *keys, size_t n_keys,
                  void *conf, FILE *problems, struct mt_err *err);

/** mt_conf_parse of a file (at most 256 KiB). Also -MT_E_NOT_FOUND and -MT_E_IO. */
int mt_conf_load(const char *path, const struct mt_conf_key *keys, size_t n_keys, void *conf, FILE *problems,
                 struct mt_err *err);

/** Free what the keys own and zero the fields; safe on a zeroed struct. */
void mt_conf_done(const struct mt_conf_key *keys, size_t n_keys, void *conf);

/** Print the documentation of the keys as a commented TOML file: every key with unit, range, default and help. */
void mt_conf_help(const struct mt_conf_key *keys, size_t n_keys, FILE *out);

/** The number of a MAP_U64 entry, or @absent. The text of a MAP_STRING entry, or NULL. */
uint64_t mt_conf_map_u64(const struct mt_conf_map *map, const char *key, uint64_t absent);
const char *mt_conf_map_text(const struct mt_conf_map *map, const char *key);
