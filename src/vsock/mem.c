/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory regions: see mem.h. */
#include "vsock/mem.h"

#include <sys/mman.h>
#include <sys/stat.h>

int mt_vs_mem_add(struct mt_vs_mem *mem, uint64_t gpa, uint64_t uva, uint64_t size, uint64_t offset, int fd,
                  struct mt_err *err)
{
    struct stat st;
    uint64_t end;
    if (mem->count == MT_VS_REGIONS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %d memory regions", MT_VS_REGIONS_MAX);
    if (size == 0 || __builtin_add_overflow(gpa, size, &end) || __builtin_add_overflow(uva, size, &end) ||
        __builtin_add_overflow(offset, size, &end) || end > SIZE_MAX)
        return MT_FAIL(err, MT_E_INVALID, "memory region of %llu bytes overflows", (unsigned long long)size);
    if (fstat(fd, &st) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "stat of memory region");
    if (st.st_size < 0 || (uint64_t)st.st_size < end)
        return MT_FAIL(err, MT_E_INVALID, "memory region ends at %llu, its file at %lld", (unsigned long long)end,
                       (long long)st.st_size);
    void *map = mmap(NULL, (size_t)end, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return MT_FAIL_ERRNO(err, MT_E_IO, "map of %llu bytes of guest memory", (unsigned long long)end);
    mem->region[mem->count++] = (struct mt_vs_region){.gpa = gpa, .uva = uva, .size = size,
        .base = (uint8_t *)map + offset, .map = map, .map_len = (size_t)end};
    return 0;
}

void mt_vs_mem_done(struct mt_vs_mem *mem)
{
    for (size_t i = 0; i < mem->count; i++) {
        if (mem->region[i].map)
            (void)munmap(mem->region[i].map, mem->region[i].map_len);
    }
    *mem = (struct mt_vs_mem){.count = 0};
}

uint8_t *mt_vs_mem_gpa(const struct mt_vs_mem *mem, uint64_t gpa, uint64_t len)
{
    for (size_t i = 0; i < mem->count; i++) {
        const struct mt_vs_region *r = &mem->region[i];
        if (gpa >= r->gpa && gpa - r->gpa <= r->size && len <= r->size - (gpa - r->gpa))
            return r->base + (gpa - r->gpa);
    }
    return NULL;
}

uint8_t *mt_vs_mem_uva(const struct mt_vs_mem *mem, uint64_t uva, uint64_t len)
{
    for (size_t i = 0; i < mem->count; i++) {
        const struct mt_vs_region *r = &mem->region[i];
        if (uva >= r->uva && uva - r->uva <= r->size && len <= r->size - (uva - r->uva))
            return r->base + (uva - r->uva);
    }
    return NULL;
}
