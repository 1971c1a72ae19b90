/* SPDX-License-Identifier: Apache-2.0 */
/* What an instance's guest is sent before its process runs: the config line (runtime.md §9.3) and the secrets. See inst.h. */
#include "agent/instance/inst.h"

#include "agent/instance/guest_config.h"
#include "agent/net/tap.h"
#include "agent/secrets.h"
#include "base/arena.h"
#include "os/digest.h"
#include "wire/exec.h"

int mt_inst_send_config(struct mt_inst *in, enum mt_reason *ret_reason, struct mt_err *err)
{
    const struct mt_workload *w = in->spec;
    const struct mt_agent *a = in->a;
    mt_auto_arena struct mt_arena ar;
    mt_arena_init(&ar, MT_GUEST_CONFIG_ARENA);

    uint8_t host_mac[6], mac[6];
    mt_tap_macs(in->st.slot, host_mac, mac);
    const char *mac_text = mt_arena_printf(&ar, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    const char *gw_text = mt_arena_printf(&ar, "%02x:%02x:%02x:%02x:%02x:%02x", host_mac[0], host_mac[1], host_mac[2],
                                          host_mac[3], host_mac[4], host_mac[5]);
    struct mt_guest_msg msg = {.type = MT_GUEST_CONFIG};
    struct mt_guest_config *c = &msg.u.config;
    const struct mt_guest_make make = {.spec = w, .image = in->have_disk ? &in->disk.config : NULL, .instance_id = in->st.instance_id, .boot_id = in->st.boot_id,
                                       .generation = in->st.generation, .root_uuid = in->st.root_uuid, .scratch_uuid = in->st.scratch_uuid};
    int rc = mt_guest_config_make(&make, &ar, c, ret_reason, err);
    if (rc < 0)
        return rc;
    if (!mac_text || !gw_text)
        return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
    c->network = (struct mt_guest_network){.ifname = "eth0",
                                           .mac = mac_text,
                                           .address = in->st.address,
                                           .prefix_len = 128,
                                           .gateway = "fe80::1",
                                           .gateway_mac = gw_text,
                                           .mtu = w->network.mtu ? w->network.mtu : a->net.mtu};
    const char *resolver[1] = {a->conf.resolver};
    if (w->network.dns.n > 0) {
        c->network.dns = w->network.dns.v;
        c->network.dns_count = w->network.dns.n;
    } else if (a->conf.resolver[0]) {
        c->network.dns = resolver;
        c->network.dns_count = 1;
    } else if (a->plan) {
        c->network.dns = a->plan->network.dns.v;
        c->network.dns_count = a->plan->network.dns.n;
    }
    c->exec = (struct mt_guest_exec){.enabled = true, .port = MT_GUEST_PORT_EXEC, .max_sessions = MT_EXEC_SESSIONS_MAX};
    if (w->secrets.version_id) {
        size_t bytes = 0;
        char *sha = mt_arena_alloc(&ar, MT_SHA256_HEX);
        if (!sha)
            return MT_FAIL(err, MT_E_NOMEM, "guest configuration: out of memory");
        rc = mt_secret_store_info(a->secrets, w->secrets.version_id, &bytes, sha, err);
        if (rc < 0) {
            *ret_reason = MT_REASON_SECRETS_INJECTION_FAILED;
            return MT_FAIL(err, MT_E_UNAVAILABLE, "unavailable: %s", w->secrets.version_id);
        }
        c->secrets = (struct mt_guest_secrets){.present = true,
                                               .required = w->secrets.required,
                                               .version_id = w->secrets.version_id,
                                               .path = MT_SECRETS_PATH,
                                               .sha256 = sha,
                                               .mode = w->secrets.mode,
                                               .uid = w->secrets.has_uid ? w->secrets.uid : UINT32_MAX,
                                               .gid = w->secrets.has_gid ? w->secrets.gid : UINT32_MAX,
                                               .bytes = bytes};
    }
    return mt_channel_send(in->chan, &msg, in->config_sha256, err);
}

int mt_inst_send_secrets(struct mt_inst *in, struct mt_err *err)
{
    const char *version = in->spec->secrets.version_id;
    mt_auto_lockmem struct mt_lockmem text = {0};
    char sha[MT_SHA256_HEX];
    if (!version)
        return 0;
    int rc = mt_secret_store_text(in->a->secrets, version, &text, sha, err);
    if (rc < 0)
        return rc;
    struct mt_guest_msg msg = {.type = MT_GUEST_SECRETS,
                               .u.secrets = {.version_id = version, .data = (const char *)text.p, .sha256 = sha}};
    return mt_channel_send(in->chan, &msg, NULL, err);
}
