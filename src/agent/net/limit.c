/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/net/limit.h"

#include "agent/net/nfset.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/spawn.h"

#define NFT_MS 10000
#define BURST_S 2
#define BURST_LEAST (256U << 10) /* a packet may be one of 64 KiB, cut up later: with less in the bucket none would ever pass */

static void table_of(const char *tap, char ret[32])
{
    (void)snprintf(ret, 32, "moat-%.15s", tap);
}

static uint64_t burst(uint64_t per_s, uint64_t least)
{
    uint64_t n = per_s > UINT32_MAX / BURST_S ? UINT32_MAX : per_s * BURST_S; /* 32 bits in the kernel */
    return mt_max_u64(n, least);
}

static void put_chain(const char *name, const char *hook, const char *tap, uint64_t bytes, uint64_t packets, struct mt_buf *o)
{
    mt_buf_printf(o, "  chain %s {\n    type filter hook %s device \"%s\" priority 0; policy accept;\n", name, hook, tap);
    if (bytes)
        mt_buf_printf(o, "    limit rate over %llu bytes/second burst %llu bytes counter drop\n", (unsigned long long)bytes, (unsigned long long)burst(bytes, BURST_LEAST));
    if (packets)
        mt_buf_printf(o, "    limit rate over %llu/second burst %llu packets counter drop\n", (unsigned long long)packets, (unsigned long long)burst(packets, BURST_S));
    mt_buf_puts(o, "  }\n");
}

void mt_limit_text(const char *tap, uint64_t bytes_per_s, uint64_t packets_per_s, struct mt_buf *out)
{
    char table[32];
    table_of(tap, table);
    /* naming the table first makes the delete succeed when there was none */
    mt_buf_printf(out, "table netdev %s\ndelete table netdev %s\ntable netdev %s {\n", table, table, table);
    put_chain("from_guest", "ingress", tap, bytes_per_s, packets_per_s, out);
    put_chain("to_guest", "egress", tap, bytes_per_s, packets_per_s, out);
    mt_buf_puts(out, "}\n");
}

int mt_limit_set(const char *nft_path, const char *tap, uint64_t bytes_per_s, uint64_t packets_per_s, bool only_missing, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(4096);
    struct mt_nfset *n = NULL;
    char table[32];
    bool there = false;
    table_of(tap, table);
    int rc = only_missing ? mt_nfset_open(&n, err) : 0;
    if (rc == 0 && n)
        rc = mt_nfset_link_table(n, table, &there, err);
    mt_nfset_close(n);
    if (rc < 0 || there)
        return rc;
    mt_limit_text(tap, bytes_per_s, packets_per_s, &text);
    rc = mt_buf_check(&text, err);
    const char *const argv[] = {"nft", "-f", "-", NULL};
    struct mt_spawn s = {.path = nft_path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .netns_fd = -1};
    if (rc == 0)
        rc = mt_run_ok(&s, text.p, text.len, NULL, NFT_MS, err);
    return rc < 0 ? mt_err_wrap(err, "limits of '%s'", tap) : 0;
}

int mt_limit_clear(const char *tap, struct mt_err *err)
{
    struct mt_nfset *n = NULL;
    char table[32];
    bool there = false;
    table_of(tap, table);
    int rc = mt_nfset_open(&n, err);
    if (rc == 0)
        rc = mt_nfset_link_table(n, table, &there, err);
    if (rc == 0 && there)
        rc = mt_nfset_drop_link_table(n, table, err);
    mt_nfset_close(n);
    return rc < 0 ? mt_err_wrap(err, "limits of '%s'", tap) : 0;
}
