/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueue, device side: see ring.h. */
#include "vsock/ring.h"

#include "base/cleanup.h"

#include <endian.h>
#include <unistd.h>

/* virtio 1.2, 2.7.5; all fields little endian */
struct vdesc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };
/* byte offsets in the avail and used rings: flags u16, idx u16, entries */
enum { OFF_FLAGS = 0, OFF_IDX = 2, OFF_RING = 4, AVAIL_ENTRY = 2, USED_ENTRY = 8 };

static uint16_t load16(const uint8_t *p, int order)
{
    /* p is 2-aligned: the ring addresses are checked in mt_vs_ring_map, the offsets are even */
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, order));
}

static void store16(uint8_t *p, uint16_t v, int order)
{
    __atomic_store_n((uint16_t *)(void *)p, htole16(v), order);
}

void mt_vs_ring_init(struct mt_vs_ring *ring)
{
    *ring = (struct mt_vs_ring){.kick_fd = -1, .call_fd = -1};
}

void mt_vs_ring_done(struct mt_vs_ring *ring)
{
    mt_closep(&ring->kick_fd);
    mt_closep(&ring->call_fd);
    mt_vs_ring_init(ring);
}

int mt_vs_ring_map(struct mt_vs_ring *ring, const struct mt_vs_mem *mem, struct mt_err *err)
{
    uint64_t num = ring->num;
    ring->desc = ring->avail = ring->used = NULL;
    if (num == 0 || num > MT_VS_RING_MAX || (num & (num - 1)) != 0)
        return MT_FAIL(err, MT_E_INVALID, "ring of %u entries, expected a power of two up to %d", ring->num, MT_VS_RING_MAX);
    uint8_t *desc = mt_vs_mem_uva(mem, ring->desc_uva, num * sizeof(struct vdesc));
    uint8_t *avail = mt_vs_mem_uva(mem, ring->avail_uva, OFF_RING + num * AVAIL_ENTRY);
    uint8_t *used = mt_vs_mem_uva(mem, ring->used_uva, OFF_RING + num * USED_ENTRY);
    if (!desc || !avail || !used)
        return MT_FAIL(err, MT_E_INVALID, "ring of %u entries is not inside guest memory", ring->num);
    if ((uintptr_t)desc % 16 != 0 || (uintptr_t)avail % 2 != 0 || (uintptr_t)used % 4 != 0)
        return MT_FAIL(err, MT_E_INVALID, "ring is not aligned");
    ring->desc = desc;
    ring->avail = avail;
    ring->used = used;
    ring->used_idx = load16(used + OFF_IDX, __ATOMIC_ACQUIRE);
    ring->broken = false;
    return 0;
}

bool mt_vs_ring_ready(const struct mt_vs_ring *ring)
{
    return ring->desc && ring->kick_fd >= 0 && ring->enabled && !ring->broken;
}

static int broken(struct mt_vs_ring *ring)
{
    ring->broken = true;
    return -1;
}

int mt_vs_ring_peek(struct mt_vs_ring *ring, const struct mt_vs_mem *mem, bool writable, struct mt_vs_chain *ret_chain)
{
    if (!mt_vs_ring_ready(ring))
        return -1;
    uint16_t waiting = (uint16_t)(load16(ring->avail + OFF_IDX, __ATOMIC_ACQUIRE) - ring->last_avail);
    if (waiting == 0)
        return 0;
    if (waiting > ring->num)
        return broken(ring);
    size_t slot = ring->last_avail & (ring->num - 1);
    uint16_t i = load16(ring->avail + OFF_RING + slot * AVAIL_ENTRY, __ATOMIC_RELAXED);
    ret_chain->head = i;
    ret_chain->count = 0;
    ret_chain->bytes = 0;
    for (;;) {
        struct vdesc d;
        if (i >= ring->num || ret_chain->count == MT_VS_CHAIN_MAX) /* a loop ends here too */
            return broken(ring);
        memcpy(&d, ring->desc + (size_t)i * sizeof d, sizeof d);
        /* the copy is ours from here; without this the compiler might read guest memory twice */
        __asm__ volatile("" ::: "memory");
        uint16_t flags = le16toh(d.flags);
        uint32_t len = le32toh(d.len);
        uint8_t *p = mt_vs_mem_gpa(mem, le64toh(d.addr), len);
        if (!p || (flags & DESC_INDIRECT) || ((flags & DESC_WRITE) != 0) != writable)
            return broken(ring);
        ret_chain->iov[ret_chain->count++] = (struct iovec){.iov_base = p, .iov_len = len};
        ret_chain->bytes += len; /* <= 64 * 4 GiB: fits in 64 bits */
        if (!(flags & DESC_NEXT))
            return 1;
        i = le16toh(d.next);
    }
}

void mt_vs_ring_use(struct mt_vs_ring *ring, const struct mt_vs_chain *chain, uint32_t written)
{
    uint32_t entry[2] = {htole32(chain->head), htole32(written)};
    size_t slot = ring->used_idx & (ring->num - 1);
    memcpy(ring->used + OFF_RING + slot * USED_ENTRY, entry, sizeof entry);
    ring->used_idx++;
    ring->last_avail++;
    store16(ring->used + OFF_IDX, ring->used_idx, __ATOMIC_RELEASE);
    ring->used_any = true;
}

void mt_vs_ring_notify(struct mt_vs_ring *ring)
{
    if (!ring->used_any || !ring->avail)
        return;
    ring->used_any = false;
    /* used.idx must be visible before we look whether an interrupt is wanted (virtio 1.2, 2.7.7.2) */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (ring->call_fd < 0 || (load16(ring->avail + OFF_FLAGS, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT))
        return;
    uint64_t one = 1;
    ssize_t n = write(ring->call_fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so an interrupt is pending anyway */
}
