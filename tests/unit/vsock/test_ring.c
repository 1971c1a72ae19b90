/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptor chains, right and wrong; packet headers. */
#include "kit.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static uint8_t mem_bytes[KIT_MEM] __attribute__((aligned(4096)));

struct box {
    struct kit kit;
    struct mt_vs_mem mem;
    struct mt_vs_ring tx;
};

static void box_init(struct box *b)
{
    *b = (struct box){.kit = {.mem = NULL}};
    kit_init(&b->kit, mem_bytes);
    assert_int_equal(kit_map(&b->tx, &b->mem, &b->kit, 1, eventfd(0, EFD_CLOEXEC)), 0);
}

static void a_chain_is_taken_and_given_back(void **state)
{
    struct box b;
    struct mt_vs_chain c;
    uint32_t len;
    (void)state;
    box_init(&b);
    assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), 0);
    kit_desc(&b.kit, 1, 5, kit_buf(1, 5), 100, 1, 9);
    kit_desc(&b.kit, 1, 9, kit_buf(1, 9), 50, 0, 0);
    kit_offer(&b.kit, 1, 5);
    assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), 1);
    assert_int_equal(c.count, 2);
    assert_int_equal(c.bytes, 150);
    assert_ptr_equal(c.iov[1].iov_base, mem_bytes + KIT_TX_BUFS + 9 * KIT_BUF);
    assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), 1); /* peeking takes nothing */
    mt_vs_ring_use(&b.tx, &c, 7);
    assert_int_equal(kit_used(&b.kit, 1, &len), 5);
    assert_int_equal(len, 7);
    assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), 0);
    mt_vs_ring_done(&b.tx);
}

static void indices_wrap_around(void **state)
{
    struct box b;
    struct mt_vs_chain c;
    uint32_t len;
    (void)state;
    box_init(&b);
    for (unsigned i = 0; i < 70000; i++) { /* past 2^16 */
        uint16_t d = (uint16_t)(i % KIT_NUM);
        kit_desc(&b.kit, 1, d, kit_buf(1, d), 1, 0, 0);
        kit_offer(&b.kit, 1, d);
        assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), 1);
        mt_vs_ring_use(&b.tx, &c, i);
        assert_int_equal(kit_used(&b.kit, 1, &len), d);
        assert_int_equal(len, i);
    }
    mt_vs_ring_done(&b.tx);
}

static void broken_chains_break_only_the_ring(void **state)
{
    static const struct {
        const char *what;
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next, head;
    } bad[] = {
        {"loop", KIT_GPA, 16, 1, 3, 3},
        {"next out of range", KIT_GPA, 16, 1, KIT_NUM, 3},
        {"head out of range", KIT_GPA, 16, 0, 0, KIT_NUM},
        {"below memory", KIT_GPA - 1, 16, 0, 0, 3},
        {"past the end", KIT_GPA + KIT_MEM - 8, 16, 0, 0, 3},
        {"address overflow", UINT64_MAX - 4, 16, 0, 0, 3},
        {"length overflow", KIT_GPA, UINT32_MAX, 0, 0, 3},
        {"device-writable in the tx ring", KIT_GPA, 16, 2, 0, 3},
        {"indirect", KIT_GPA, 16, 4, 0, 3},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct box b;
        struct mt_vs_chain c;
        box_init(&b);
        kit_desc(&b.kit, 1, 3, bad[i].addr, bad[i].len, bad[i].flags, bad[i].next);
        kit_offer(&b.kit, 1, bad[i].head);
        if (mt_vs_ring_peek(&b.tx, &b.mem, false, &c) != -1)
            fail_msg("%s was accepted", bad[i].what);
        assert_true(b.tx.broken);
        kit_desc(&b.kit, 1, 3, KIT_GPA, 16, 0, 0); /* mending it later does not help */
        assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), -1);
        mt_vs_ring_done(&b.tx);
    }
}

static void avail_index_cannot_run_ahead(void **state)
{
    struct box b;
    struct mt_vs_chain c;
    (void)state;
    box_init(&b);
    kit_put16(kit_ring(&b.kit, 1) + KIT_AVAIL + 2, KIT_NUM + 1);
    assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), -1);
    assert_true(b.tx.broken);
    mt_vs_ring_done(&b.tx);
}

static void rings_must_lie_aligned_inside_memory(void **state)
{
    static const struct {
        uint32_t num;
        uint64_t desc, avail, used;
        int want;
    } t[] = {
        {64, 0, 0x1000, 0x2000, 0},
        {0, 0, 0x1000, 0x2000, -MT_E_INVALID},
        {48, 0, 0x1000, 0x2000, -MT_E_INVALID},
        {2048, 0, 0x9000, 0xa000, -MT_E_INVALID},
        {64, 8, 0x1000, 0x2000, -MT_E_INVALID},
        {64, 0, 0x1001, 0x2000, -MT_E_INVALID},
        {64, 0, 0x1000, 0x2002, -MT_E_INVALID},
        {64, KIT_MEM - 16, 0x1000, 0x2000, -MT_E_INVALID},
        {64, 0, 0x1000, KIT_MEM - 8, -MT_E_INVALID},
        {64, (uint64_t)-64, 0x1000, 0x2000, -MT_E_INVALID},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct box b;
        box_init(&b);
        b.tx.num = t[i].num;
        b.tx.desc_uva = KIT_UVA + t[i].desc;
        b.tx.avail_uva = KIT_UVA + t[i].avail;
        b.tx.used_uva = KIT_UVA + t[i].used;
        assert_int_equal(mt_vs_ring_map(&b.tx, &b.mem, NULL), t[i].want);
        assert_int_equal(mt_vs_ring_ready(&b.tx), t[i].want == 0);
        mt_vs_ring_done(&b.tx);
    }
}

static void interrupts_are_sent_once_and_only_when_wanted(void **state)
{
    struct box b;
    struct mt_vs_chain c;
    uint64_t n;
    (void)state;
    box_init(&b);
    b.tx.call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    mt_vs_ring_notify(&b.tx);
    assert_int_equal(read(b.tx.call_fd, &n, 8), -1);
    for (int quiet = 0; quiet < 2; quiet++) {
        kit_put16(kit_ring(&b.kit, 1) + KIT_AVAIL, (uint16_t)quiet);
        kit_desc(&b.kit, 1, 0, kit_buf(1, 0), 1, 0, 0);
        kit_offer(&b.kit, 1, 0);
        assert_int_equal(mt_vs_ring_peek(&b.tx, &b.mem, false, &c), 1);
        mt_vs_ring_use(&b.tx, &c, 0);
        mt_vs_ring_notify(&b.tx);
        mt_vs_ring_notify(&b.tx);
        assert_int_equal(read(b.tx.call_fd, &n, 8), quiet ? -1 : 8);
        if (!quiet)
            assert_int_equal(n, 1);
    }
    mt_vs_ring_done(&b.tx);
}

static void regions_are_checked_against_their_file(void **state)
{
    struct mt_vs_mem m = {.count = 0};
    int fd = memfd_create("guest", MFD_CLOEXEC);
    (void)state;
    assert_int_equal(ftruncate(fd, 8192), 0);
    assert_int_equal(mt_vs_mem_add(&m, 0, 0, 0, 0, fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_vs_mem_add(&m, 0, 0, 8193, 0, fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_vs_mem_add(&m, 0, 0, 4097, 4096, fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_vs_mem_add(&m, UINT64_MAX, 0, 4096, 0, fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_vs_mem_add(&m, 0, UINT64_MAX - 4095, 4097, 0, fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_vs_mem_add(&m, 0, 0, 4096, UINT64_MAX - 100, fd, NULL), -MT_E_INVALID);
    for (int i = 0; i < MT_VS_REGIONS_MAX; i++)
        assert_int_equal(mt_vs_mem_add(&m, (uint64_t)i * 0x10000, 0, 4096, 4096, fd, NULL), 0);
    assert_int_equal(mt_vs_mem_add(&m, 0, 0, 4096, 0, fd, NULL), -MT_E_LIMIT);
    assert_null(mt_vs_mem_gpa(&m, 4096, 1)); /* a region's end is not the next one's start */
    assert_non_null(mt_vs_mem_gpa(&m, 4095, 1));
    assert_null(mt_vs_mem_gpa(&m, 4095, 2));
    assert_non_null(mt_vs_mem_gpa(&m, 0x10000, 4096));
    mt_vs_mem_done(&m);
    assert_null(mt_vs_mem_gpa(&m, 0, 1));
    (void)close(fd);
}

static const uint8_t golden[MT_VS_HDR_LEN] = {
    3, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,  0x29, 0x14, 0, 0,  0x01, 0, 0, 0x40,  4, 0, 0, 0,
    1, 0,  5, 0,  0, 0, 0, 0,  0, 0, 4, 0,  0x78, 0x56, 0x34, 0x12};
static const struct mt_vs_hdr golden_hdr = {.src_cid = 3, .dst_cid = 2, .src_port = 0x1429, .dst_port = 0x40000001, .len = 4, .type = 1,
    .op = 5, .buf_alloc = 0x40000, .fwd_cnt = 0x12345678};

static void header_bytes_are_those_of_the_standard(void **state)
{
    uint8_t out[MT_VS_HDR_LEN];
    struct mt_vs_chain c = {.count = 1, .bytes = sizeof out, .iov = {{.iov_base = out, .iov_len = sizeof out}}};
    (void)state;
    mt_vs_packet_put(&c, &golden_hdr);
    assert_memory_equal(out, golden, sizeof out);
}

static void header_may_be_cut_anywhere(void **state)
{
    (void)state;
    for (size_t cut = 0; cut <= MT_VS_HDR_LEN; cut++) {
        uint8_t in[MT_VS_HDR_LEN + 4];
        struct mt_vs_hdr h;
        memcpy(in, golden, sizeof golden);
        memcpy(in + sizeof golden, "data", 4);
        struct mt_vs_chain c = {.count = 3, .bytes = sizeof in, .iov = {{.iov_base = in, .iov_len = cut},
            {.iov_base = in, .iov_len = 0}, {.iov_base = in + cut, .iov_len = sizeof in - cut}}};
        assert_int_equal(mt_vs_packet_parse(&c, &h), 0);
        assert_memory_equal(&h, &golden_hdr, sizeof h);
        assert_int_equal(c.bytes, 4);
        assert_memory_equal(c.iov[c.count - 1].iov_base, "data", 4);
    }
}

static void payload_cannot_outgrow_its_chain(void **state)
{
    uint8_t in[MT_VS_HDR_LEN + 4];
    struct mt_vs_hdr h;
    (void)state;
    memcpy(in, golden, sizeof golden);
    for (size_t n = 0; n < sizeof in; n++) {
        struct mt_vs_chain c = {.count = 1, .bytes = n, .iov = {{.iov_base = in, .iov_len = n}}};
        assert_int_equal(mt_vs_packet_parse(&c, &h), -1);
    }
    in[26] = 1; /* 64 KiB + 4 */
    static uint8_t large[MT_VS_HDR_LEN + MT_VS_PAYLOAD_MAX + 4];
    memcpy(large, in, MT_VS_HDR_LEN);
    struct mt_vs_chain c = {.count = 1, .bytes = sizeof large, .iov = {{.iov_base = large, .iov_len = sizeof large}}};
    assert_int_equal(mt_vs_packet_parse(&c, &h), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_is_taken_and_given_back),
        cmocka_unit_test(indices_wrap_around),
        cmocka_unit_test(broken_chains_break_only_the_ring),
        cmocka_unit_test(avail_index_cannot_run_ahead),
        cmocka_unit_test(rings_must_lie_aligned_inside_memory),
        cmocka_unit_test(interrupts_are_sent_once_and_only_when_wanted),
        cmocka_unit_test(regions_are_checked_against_their_file),
        cmocka_unit_test(header_bytes_are_those_of_the_standard),
        cmocka_unit_test(header_may_be_cut_anywhere),
        cmocka_unit_test(payload_cannot_outgrow_its_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
