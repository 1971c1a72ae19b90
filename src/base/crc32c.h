/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli), RFC 3720 B.4: the check of state files and of the PROXY v2 TLV. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/** Continue @crc (0 to begin) over @n bytes. mt_crc32c(0, "123456789", 9) == 0xe3069283. */
uint32_t mt_crc32c(uint32_t crc, const void *data, size_t n);
