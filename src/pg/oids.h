/* SPDX-License-Identifier: Apache-2.0 */
/* Type numbers of PostgreSQL's built-in types (src/include/catalog/pg_type.dat; fixed for ever) and its epoch. */
#pragma once

#include <stdint.h>

enum {
    MT_OID_BOOL = 16,
    MT_OID_BYTEA = 17,
    MT_OID_NAME = 19,
    MT_OID_INT8 = 20,
    MT_OID_INT2 = 21,
    MT_OID_INT4 = 23,
    MT_OID_TEXT = 25,
    MT_OID_JSON = 114,
    MT_OID_BYTEA_ARRAY = 1001,
    MT_OID_INT4_ARRAY = 1007,
    MT_OID_TEXT_ARRAY = 1009,
    MT_OID_INT8_ARRAY = 1016,
    MT_OID_VARCHAR = 1043,
    MT_OID_TIMESTAMPTZ = 1184,
    MT_OID_TIMESTAMPTZ_ARRAY = 1185,
    MT_OID_UUID = 2950,
    MT_OID_UUID_ARRAY = 2951,
    MT_OID_JSONB = 3802,
    MT_OID_JSONB_ARRAY = 3807
};

/** 2000-01-01 UTC in microseconds since 1970: PostgreSQL's zero. */
#define MT_PG_EPOCH_US INT64_C(946684800000000)
