/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the manifest: the state of one check, and typed reading of TOML with problems recorded instead of returned. */
#pragma once

#include "model/jsonout.h"
#include "model/manifest.h"
#include "model/manifest_fields.h"
#include "wire/toml.h"

#define MT_MF_PATH 192

struct mt_mf {
    struct mt_manifest *out;
    const struct mt_toml *toml;
    uint64_t max_memory_bytes;
    bool image_given;
    bool partial; /* TOML problems: what is missing may only be unread, so nothing is called missing */
    bool nomem;
};

/* A table of the file and its path; a NULL table stands for one that is absent: every read gives the default. */
struct mt_mf_at {
    const struct mt_toml_value *table;
    const struct mt_mf_field *fields; /* what may stand in it; bounds and defaults of the reads below come from here */
    char path[MT_MF_PATH];
};

struct mt_mf_hint {
    const char *key;
    enum mt_manifest_code code;
    const char *hint;
};

void mt_mf_problem(struct mt_mf *c, enum mt_manifest_code code, struct mt_toml_pos pos, const char *path, const char *hint,
                   const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/** parent.key, parent[index] into @ret; cut when too long. */
void mt_mf_path(char ret[MT_MF_PATH], const char *parent, const char *key);
void mt_mf_path_index(char ret[MT_MF_PATH], const char *parent, const char *key, size_t index);

/** The table under @key; a wrong type is a problem and reads as absent. */
struct mt_mf_at mt_mf_table(struct mt_mf *c, const struct mt_mf_at *parent, const char *key);

/** Every key must be a field of the table; @hints (ended by a NULL key, or NULL) give special codes and hints for others. */
void mt_mf_known(struct mt_mf *c, const struct mt_mf_at *at, const struct mt_mf_hint *hints);

/** The value under @key when present and of the type, else NULL. A wrong type, or absence when @required, is a problem. */
const struct mt_toml_value *mt_mf_value(struct mt_mf *c, const struct mt_mf_at *at, const char *key, enum mt_toml_type type,
                                        bool required);
/** A text without NUL, or NULL. */
const char *mt_mf_text(struct mt_mf *c, const struct mt_mf_at *at, const char *key, struct mt_toml_pos *ret_pos);
/** As mt_mf_text, of a field that is required only when @required. */
const char *mt_mf_text_if(struct mt_mf *c, const struct mt_mf_at *at, const char *key, bool required, struct mt_toml_pos *ret_pos);
/** The number, or the default of the field. */
uint64_t mt_mf_int(struct mt_mf *c, const struct mt_mf_at *at, const char *key);
/** As mt_mf_int, with a default that depends on other fields. */
uint64_t mt_mf_int_or(struct mt_mf *c, const struct mt_mf_at *at, const char *key, uint64_t fallback);
bool mt_mf_bool(struct mt_mf *c, const struct mt_mf_at *at, const char *key);
/** The word, or the default; a word that is none of the field's is a problem of @code and reads as the default. */
const char *mt_mf_word(struct mt_mf *c, const struct mt_mf_at *at, const char *key, enum mt_manifest_code code);
/** Array of texts as JSON (owned by the caller), or NULL when absent or wrong. */
json_t *mt_mf_argv(struct mt_mf *c, const struct mt_mf_at *at, const char *key);
/** `<int>` and a unit, Mi or Gi: bytes; the default of the field when absent. */
uint64_t mt_mf_size(struct mt_mf *c, const struct mt_mf_at *at, const char *key);
/** Thousandths of a vCPU. */
uint32_t mt_mf_cpu(struct mt_mf *c, const struct mt_mf_at *at, const char *key);
/** cpu as written, exactly: at most three decimals, no binary rounding. Thousandths, or 0 when it is no such number. */
uint32_t mt_mf_cpu_millis(const char *text);
/** Array of tables; NULL when absent. The i-th is read with mt_mf_item. */
const struct mt_toml_value *mt_mf_list(struct mt_mf *c, const struct mt_mf_at *at, const char *key);
bool mt_mf_item(struct mt_mf *c, const struct mt_mf_at *at, const char *key, const struct mt_toml_value *list, size_t i,
                struct mt_mf_at *ret);
struct mt_toml_pos mt_mf_pos(const struct mt_mf_at *at, const char *key);

/* manifest_env.c: vars, workdir, user, prestart: the keys env.* and processes.<name>.* share */
void mt_mf_surroundings(struct mt_mf *c, const struct mt_mf_at *at, struct mt_jout *o, uint64_t prestart_timeout_default);

/* manifest_process.c */
void mt_mf_processes(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o, uint64_t prestart_timeout_default);
/** The number of a process's port by name or number, as text or integer value; 0 and a problem when there is none. */
uint16_t mt_mf_port_ref(struct mt_mf *c, const struct mt_mf_at *at, const char *key, const json_t *ports, const char *of);

/* manifest_rest.c; run after the processes, whose JSON they look at */
void mt_mf_volumes(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o);
void mt_mf_routes(struct mt_mf *c, const struct mt_mf_at *root, struct mt_jout *o);
