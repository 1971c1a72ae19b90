/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM may have of disk and network: the smaller of what its process and what the node says (ruling R11). See inst.h. */
#include "agent/instance/inst.h"
#include "agent/net/tap.h"

/* 0 means no limit on that side. */
static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

struct mt_limits mt_inst_limits(const struct mt_inst *in)
{
    struct mt_limits own = in->spec ? in->spec->limits : (struct mt_limits){0};
    struct mt_limits node = in->a->plan ? in->a->plan->node_config.limits : (struct mt_limits){0};
    return (struct mt_limits){
        .disk_bytes_per_second = smaller(own.disk_bytes_per_second, node.disk_bytes_per_second),
        .disk_ops_per_second = smaller(own.disk_ops_per_second, node.disk_ops_per_second),
        .net_bytes_per_second = smaller(own.net_bytes_per_second, node.net_bytes_per_second),
        .net_packets_per_second = smaller(own.net_packets_per_second, node.net_packets_per_second),
    };
}

void mt_inst_limit_tap(struct mt_tap *t, const struct mt_agent *a, const struct mt_vmm *vmm, const struct mt_limits *l)
{
    if (!vmm || mt_vmm_kind(vmm) != MT_VMM_QEMU)
        return;
    t->bytes_per_s = l->net_bytes_per_second;
    t->packets_per_s = l->net_packets_per_second;
    t->nft_path = a->conf.nft_path;
}
