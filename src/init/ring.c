/* SPDX-License-Identifier: Apache-2.0 */
#include "init/ring.h"

#include "base/assert.h"
#include "base/rd.h"

void mt_ring_init(struct mt_ring *ring, uint8_t *buf, size_t cap)
{
    MT_ASSERT(cap >= 64 * 1024);
    *ring = (struct mt_ring){.buf = buf, .cap = cap, .next_seq = 1};
}

static void copy_in(struct mt_ring *ring, const uint8_t *from, size_t n)
{
    size_t at = (ring->head + ring->used) % ring->cap;
    size_t first = n < ring->cap - at ? n : ring->cap - at;
    memcpy(ring->buf + at, from, first);
    memcpy(ring->buf, from + first, n - first);
    ring->used += n;
}

static void peek(const struct mt_ring *ring, uint8_t *to, size_t n)
{
    size_t first = n < ring->cap - ring->head ? n : ring->cap - ring->head;
    memcpy(to, ring->buf + ring->head, first);
    memcpy(to + first, ring->buf, n - first);
}

static void skip(struct mt_ring *ring, size_t n)
{
    ring->head = (ring->head + n) % ring->cap;
    ring->used -= n;
}

static size_t oldest_size(const struct mt_ring *ring)
{
    uint8_t head[4];
    peek(ring, head, sizeof head);
    struct mt_rd r = mt_rd_of(head, sizeof head);
    return 4 + (size_t)mt_rd_be32(&r);
}

static void drop_oldest(struct mt_ring *ring)
{
    uint8_t head[MT_GUEST_LOG_HEAD];
    size_t size = oldest_size(ring);
    peek(ring, head, sizeof head);
    struct mt_rd r = mt_rd_of(head + 6, 16);
    ring->lost_seq = mt_rd_be64(&r);
    ring->lost_ns = mt_rd_be64(&r);
    /* an empty line is a loss too: its newline counts */
    ring->lost_bytes += size - MT_GUEST_LOG_HEAD + 1;
    skip(ring, size);
}

void mt_ring_put(struct mt_ring *ring, enum mt_guest_stream stream, uint8_t flags, uint64_t unix_ns,
                 const void *payload, size_t len)
{
    struct mt_guest_log_record record = {.stream = (uint8_t)stream, .flags = flags, .seq = ring->next_seq++,
                                         .unix_ns = unix_ns, .payload = payload, .payload_len = len};
    uint8_t out[MT_GUEST_LOG_HEAD + MT_GUEST_LOG_PAYLOAD_MAX];
    size_t size;
    int res = mt_guest_log_encode(&record, out, sizeof out, &size, NULL);
    MT_ASSERT(res == 0);
    while (size > ring->cap - ring->used)
        drop_oldest(ring);
    copy_in(ring, out, size);
}

static size_t take_gap(struct mt_ring *ring, uint8_t *out, size_t cap)
{
    uint8_t count[8];
    for (int i = 0; i < 8; i++)
        count[i] = (uint8_t)(ring->lost_bytes >> (56 - 8 * i));
    struct mt_guest_log_record gap = {.stream = MT_GUEST_STREAM_SYSTEM, .flags = MT_GUEST_LOG_GAP,
                                      .seq = ring->lost_seq, .unix_ns = ring->lost_ns,
                                      .payload = count, .payload_len = sizeof count};
    size_t size = 0;
    if (mt_guest_log_encode(&gap, out, cap, &size, NULL) < 0)
        return 0;
    ring->lost_bytes = 0;
    return size;
}

size_t mt_ring_take(struct mt_ring *ring, uint8_t *out, size_t cap)
{
    size_t done = 0;
    if (ring->lost_bytes > 0) {
        done = take_gap(ring, out, cap);
        if (done == 0)
            return 0;
    }
    while (ring->used > 0) {
        size_t size = oldest_size(ring);
        if (size > cap - done)
            break;
        peek(ring, out + done, size);
        skip(ring, size);
        done += size;
    }
    return done;
}
