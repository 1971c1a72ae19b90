/* SPDX-License-Identifier: Apache-2.0 */
#include "control/api_tls.h"

#include "base/clock.h"
#include "base/log.h"
#include "os/tls.h"

#define WARN_S (INT64_C(14) * 86400)

int mt_api_tls_load(const struct mt_control_conf *conf, struct mt_tls_ctx **ret, struct mt_err *err)
{
    enum mt_tls_version min;
    *ret = NULL;
    int rc = mt_tls_version_parse(conf->tls_min_version, &min, err);
    if (rc < 0)
        return mt_err_wrap(err, "tls_min_version");
    if (!conf->listen_https)
        return conf->tls_cert || conf->tls_key ? MT_FAIL(err, MT_E_INVALID, "tls_cert and tls_key are for listen_https, which is not set") : 0;
    if (!conf->tls_cert || !conf->tls_key)
        return MT_FAIL(err, MT_E_INVALID, "listen_https needs tls_cert and tls_key");
    const struct mt_tls_conf tc = {.server = true, .min = min, .cert_file = conf->tls_cert, .key_file = conf->tls_key};
    return mt_tls_ctx_new(&tc, ret, err);
}

void mt_api_tls_reload(struct mt_control *ctl)
{
    struct mt_tls_ctx *ctx = NULL;
    struct mt_err err;
    int rc = mt_api_tls_load(&ctl->conf, &ctx, &err);
    if (rc < 0) {
        mt_log(MT_ERROR, "api.certificate_not_loaded", KV_ERR(&err));
        return;
    }
    if (!ctx)
        return;
    int64_t end = mt_tls_ctx_not_after(ctx), left = end - mt_clock_wall_us() / 1000000;
    atomic_store(&ctl->api_cert_not_after_s, end);
    if (ctl->http)
        mt_http_server_set_tls(ctl->http, MT_LISTEN_API, ctx);
    mt_log(left < WARN_S ? MT_WARN : MT_INFO, "api.certificate_loaded", KV("file", (const char *)ctl->conf.tls_cert), KV("key_sha256", mt_tls_ctx_spki(ctx)),
           KV("days_left", left / 86400));
    mt_tls_ctx_unref(ctx);
}
