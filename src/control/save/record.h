/* SPDX-License-Identifier: Apache-2.0 */
/* What a sealed file holds: members with a name, each in parts. Format: docs/formats/control-backup.md. */
#pragma once

#include "control/save/sealed.h"

#define MT_RECORD_MAX ((uint32_t)1 << 20)
#define MT_RECORD_NAME_MAX 128
#define MT_RECORD_MANIFEST "manifest"
#define MT_RECORD_DATABASE "database"
#define MT_RECORD_FILE "file/"

enum mt_record { MT_RECORD_MEMBER = 'M', MT_RECORD_DATA = 'D', MT_RECORD_END = 'Z' };

int mt_record_write(struct mt_sealed *s, enum mt_record type, const void *data, size_t n, struct mt_err *err);
/** The next one; its content into @buf (MT_RECORD_MAX + 1 bytes, a NUL is put behind it). -MT_E_CORRUPT. */
int mt_record_read(struct mt_sealed *s, enum mt_record *ret, uint8_t *buf, uint32_t *ret_n, struct mt_err *err);
