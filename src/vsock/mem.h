/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory as the vhost-user front end describes it: a few regions, each one mapping of a shared descriptor.
 * The only place that turns a number from the guest into a pointer. Knows nothing of rings or packets.
 */
#pragma once

#include "base/err.h"

enum { MT_VS_REGIONS_MAX = 8 }; /* vhost-user without CONFIGURE_MEM_SLOTS */

struct mt_vs_region {
    uint64_t gpa;  /* guest physical address of the first byte */
    uint64_t uva;  /* address of the same byte in the front end; ring addresses are given in this space */
    uint64_t size; /* bytes */
    uint8_t *base; /* the same byte here */
    void *map;     /* what to unmap, NULL when the memory is not ours (tests) */
    size_t map_len;
};

struct mt_vs_mem {
    struct mt_vs_region region[MT_VS_REGIONS_MAX];
    size_t count;
};

/**
 * Map one region and add it. @fd is borrowed.
 *
 * @offset  place of the first byte in @fd; @offset + @size must lie inside the file
 * Returns 0; -MT_E_LIMIT more than MT_VS_REGIONS_MAX; -MT_E_INVALID empty, overflowing or larger than the file; -MT_E_IO.
 */
int mt_vs_mem_add(struct mt_vs_mem *mem, uint64_t gpa, uint64_t uva, uint64_t size, uint64_t offset, int fd,
                  struct mt_err *err);

/** Unmap everything; @mem is empty afterwards. Pointers handed out before are dead. */
void mt_vs_mem_done(struct mt_vs_mem *mem);

/** Pointer to @len bytes at guest physical @gpa, or NULL when they are not all inside one region. @len may be 0. */
uint8_t *mt_vs_mem_gpa(const struct mt_vs_mem *mem, uint64_t gpa, uint64_t len);

/** The same for an address of the front end. */
uint8_t *mt_vs_mem_uva(const struct mt_vs_mem *mem, uint64_t uva, uint64_t len);
