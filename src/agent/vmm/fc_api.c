/* SPDX-License-Identifier: Apache-2.0 */
/* Firecracker API calls: see fc_api.h. The peer runs a guest: replies are bounded and only a few fields are read. */
#include "agent/vmm/fc_api.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"
#include "os/spawn.h"
#include "wire/http_client.h"
#include "wire/json.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { SOCKET_MS = 3000, CALL_MS = 5000, ALIVE_MS = 2000, POLL_MS = 5, REPLY_MAX = 65536, TEMPLATE_MAX = 65536, FAULT_MAX = 160, GUEST_CID = 3 };
enum { ENTROPY_BYTES_PER_S = 64 * 1024, SERIAL_BURST = 64 * 1024, SERIAL_BYTES_PER_S = 16 * 1024, BURST_S = 2 };

int mt_fc_version_parse(const char *text, struct mt_fc_version *ret, struct mt_err *err)
{
    struct mt_fc_version v = {0};
    if (text[0] == 'v')
        text++;
    if (sscanf(text, "%4u.%4u.%4u", &v.major, &v.minor, &v.patch) != 3)
        return MT_FAIL(err, MT_E_INVALID, "'%.20s' is not a firecracker version", text);
    *ret = v;
    return 0;
}

static bool at_least(const struct mt_fc_version *v, unsigned major, unsigned minor)
{
    return v->major > major || (v->major == major && v->minor >= minor);
}

/* ---- one exchange ---- */

struct api {
    const struct mt_vmm *vmm;
    int node; /* O_PATH of the socket: reached without following links below run/ */
    struct mt_http_client *http;
};

static void api_done(struct api *a)
{
    mt_http_client_free(a->http);
    mt_closep(&a->node);
}

static int api_open(struct api *a, const struct mt_jail *jail, struct mt_err *err)
{
    mt_auto_fd int run = -1;
    char path[40];
    struct stat st;
    int r = mt_jail_open_run(jail, &run, err);
    if (r < 0)
        return r;
    a->node = openat(run, "api.sock", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (a->node == -1)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "firecracker's API socket");
    if (fstat(a->node, &st) == -1 || !S_ISSOCK(st.st_mode))
        return MT_FAIL(err, MT_E_CORRUPT, "firecracker's API socket is not a socket");
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", a->node);
    a->http = mt_http_client_new(path);
    return a->http ? 0 : MT_FAIL(err, MT_E_NOMEM, "http client");
}

/* Firecracker's own words out of {"fault_message": "..."}. */
static void fault(const struct mt_http_reply *reply, char *ret, size_t size)
{
    mt_auto_json json_t *j = NULL;
    const char *text = "no fault_message";
    if (mt_json_parse((const char *)reply->body.p, reply->body.len, REPLY_MAX, 8, &j, NULL) == 0)
        (void)mt_json_opt_str(j, "fault_message", REPLY_MAX, text, &text, NULL);
    (void)mt_printable(text, strlen(text), ret, size);
}

/* @body is given up. @ret_reply may be NULL. */
static int call(struct api *a, const char *method, const char *target, json_t *body, int expect, int timeout_ms, json_t **ret_reply,
                struct mt_err *err)
{
    mt_auto_json json_t *owned = body;
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(REPLY_MAX);
    mt_auto_http_reply struct mt_http_reply reply = {.status = 0};
    struct mt_http_request req = {.method = method, .target = target, .timeout_ms = mt_vmm_wait_ms(a->vmm, timeout_ms)};
    if (body) {
        if (mt_json_dump(body, &text, err) < 0)
            return mt_err_wrap(err, "%s %s", method, target);
        req.body = mt_buf_cstr(&text);
        req.body_len = text.len;
    }
    (void)owned;
    int r = mt_http_do(a->http, &req, REPLY_MAX, &reply, err);
    if (r < 0)
        return mt_err_wrap(err, "%s %s", method, target);
    if (reply.status != expect) {
        char said[FAULT_MAX];
        fault(&reply, said, sizeof said);
        return MT_FAIL(err, MT_E_UNAVAILABLE, "firecracker answered %d to %s %s: %s", reply.status, method, target, said);
    }
    if (ret_reply && mt_json_parse((const char *)reply.body.p, reply.body.len, REPLY_MAX, 8, ret_reply, err) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "firecracker's answer to %s %s is not JSON", method, target);
    return 0;
}

static int put(struct api *a, const char *target, json_t *body, struct mt_err *err)
{
    if (!body)
        return MT_FAIL(err, MT_E_NOMEM, "PUT %s", target);
    return call(a, "PUT", target, body, 204, CALL_MS, NULL, err);
}

/* ---- bodies ---- */

static json_t *bucket(uint64_t per_s, uint64_t burst_s)
{
    return json_pack("{s:I,s:I}", "size", (json_int_t)(per_s * burst_s), "refill_time", (json_int_t)(burst_s * 1000));
}

/* NULL when nothing is limited: the field is left out (ruling R11). */
static json_t *limiter(uint64_t bytes_per_s, uint64_t ops_per_s)
{
    if (!bytes_per_s && !ops_per_s)
        return NULL;
    json_t *j = json_object();
    if (bytes_per_s)
        (void)json_object_set_new(j, "bandwidth", bucket(bytes_per_s, BURST_S));
    if (ops_per_s)
        (void)json_object_set_new(j, "ops", bucket(ops_per_s, BURST_S));
    return j;
}

static int put_drive(struct api *a, const char *id, const char *file, const struct mt_vmm_disk *d, const char *cache, struct mt_err *err)
{
    char target[40], path[40];
    (void)snprintf(target, sizeof target, "/drives/%s", id);
    (void)snprintf(path, sizeof path, "/%s", file);
    json_t *j = json_pack("{s:s,s:s,s:b,s:b,s:s,s:s}", "drive_id", id, "path_on_host", path, "is_root_device", 0, "is_read_only", d->read_only,
                          "cache_type", cache, "io_engine", "Sync");
    json_t *limit = limiter(d->bytes_per_s, d->ops_per_s);
    if (j && limit)
        (void)json_object_set_new(j, "rate_limiter", limit);
    return put(a, target, j, err);
}

static int put_drives(struct api *a, const struct mt_vmm_spec *spec, struct mt_err *err)
{
    char name[24];
    int r = put_drive(a, "root", "root.ext4", &spec->root, "Unsafe", err);
    if (r == 0)
        r = put_drive(a, "scratch", "scratch.ext4", &spec->scratch, "Unsafe", err);
    for (size_t i = 0; i < spec->volume_count && r == 0; i++) {
        (void)snprintf(name, sizeof name, "vol%zu", i);
        r = put_drive(a, name, name, &spec->volumes[i], "Writeback", err); /* or a guest's fsync would not be durable */
    }
    return r;
}

static int put_network(struct api *a, const struct mt_vmm_spec *spec, const struct mt_fc_version *version, struct mt_err *err)
{
    char mac[18];
    mt_vmm_mac_text(spec->guest_mac, mac);
    json_t *j = json_pack("{s:s,s:s,s:s}", "iface_id", "eth0", "host_dev_name", spec->tap, "guest_mac", mac);
    json_t *rx = limiter(spec->net_rx_bytes_per_s, spec->net_packets_per_s), *tx = limiter(spec->net_tx_bytes_per_s, spec->net_packets_per_s);
    if (j && rx)
        (void)json_object_set_new(j, "rx_rate_limiter", rx);
    if (j && tx)
        (void)json_object_set_new(j, "tx_rate_limiter", tx);
    if (j && spec->mtu && at_least(version, 1, 16))
        (void)json_object_set_new(j, "mtu", json_integer(spec->mtu));
    return put(a, "/network-interfaces/eth0", j, err);
}

static int put_serial(struct api *a, struct mt_err *err)
{
    /* 64 KiB at once, then 16 KiB a second */
    /* unlike a drive's, this limiter is one bucket */
    return put(a, "/serial", json_pack("{s:{s:i,s:i,s:i}}", "rate_limiter", "size", SERIAL_BYTES_PER_S, "one_time_burst", SERIAL_BURST,
                                       "refill_time", 1000), err);
}

int mt_fc_cpu_template(const struct mt_vmm *vmm, json_t **ret, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t len;
    struct stat st;
    *ret = NULL;
    if (!vmm->cpu_template[0])
        return 0;
    if (stat(vmm->cpu_template, &st) == -1)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "cpu_template '%s'", vmm->cpu_template);
    if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 0022))
        return MT_FAIL(err, MT_E_INVALID, "cpu_template '%s' must be a file of root that nobody else can write", vmm->cpu_template);
    int r = mt_file_read(vmm->cpu_template, TEMPLATE_MAX, &text, &len, err);
    if (r == 0)
        r = mt_json_parse(text, len, TEMPLATE_MAX, 8, ret, err);
    if (r == 0 && !json_is_object(*ret)) {
        json_decref(MT_TAKE(*ret));
        r = MT_FAIL(err, MT_E_INVALID, "no object");
    }
    return r < 0 ? mt_err_wrap(err, "cpu_template '%s'", vmm->cpu_template) : 0;
}

int mt_fc_api_start(const struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec,
                    const struct mt_fc_version *version, struct mt_err *err)
{
    mt_cleanup(api_done) struct api a = {.vmm = vmm, .node = -1};
    char boot[MT_VMM_BOOT_ARGS_MAX];
    if (mt_fmt(boot, sizeof boot, err, "%s%s", spec->boot_args, vmm->serial_off ? " 8250.nr_uarts=0" : "") < 0)
        return MT_FAIL(err, MT_E_LIMIT, "boot arguments pass %d bytes", MT_VMM_BOOT_ARGS_MAX - 1);
    int r = api_open(&a, jail, err);
    if (r == 0)
        r = put(&a, "/machine-config", json_pack("{s:I,s:I,s:b,s:b}", "vcpu_count", (json_int_t)spec->vcpu_count, "mem_size_mib",
                                                 (json_int_t)spec->mem_mib, "smt", 0, "track_dirty_pages", 0), err);
    json_t *template = NULL;
    if (r == 0)
        r = mt_fc_cpu_template(vmm, &template, err);
    if (r == 0 && template)
        r = put(&a, "/cpu-config", template, err);
    if (r == 0)
        r = put(&a, "/boot-source", json_pack("{s:s,s:s,s:s}", "kernel_image_path", "/vmlinux", "initrd_path", "/initramfs", "boot_args",
                                              boot), err);
    if (r == 0)
        r = put_drives(&a, spec, err);
    if (r == 0 && spec->tap)
        r = put_network(&a, spec, version, err);
    if (r == 0)
        r = put(&a, "/vsock", json_pack("{s:i,s:s}", "guest_cid", GUEST_CID, "uds_path", "/run/v.sock"), err);
    if (r == 0)
        r = put(&a, "/entropy", json_pack("{s:{s:{s:i,s:i}}}", "rate_limiter", "bandwidth", "size", ENTROPY_BYTES_PER_S, "refill_time",
                                          1000), err);
    if (r == 0 && at_least(version, 1, 17))
        r = put_serial(&a, err);
    if (r == 0)
        r = put(&a, "/actions", json_pack("{s:s}", "action_type", "InstanceStart"), err);
    return r;
}

int mt_fc_api_version(const struct mt_vmm *vmm, const struct mt_jail *jail, int pidfd, struct mt_fc_version *ret, struct mt_err *err)
{
    const int limit_ms = mt_vmm_wait_ms(vmm, SOCKET_MS);
    int64_t deadline = mt_clock_mono() + limit_ms * MT_NS_PER_MS;
    for (;;) {
        mt_cleanup(api_done) struct api a = {.vmm = vmm, .node = -1};
        mt_auto_json json_t *j = NULL;
        const char *text;
        int r = api_open(&a, jail, err);
        if (r == 0)
            r = call(&a, "GET", "/version", NULL, 200, CALL_MS, &j, err);
        if (r == 0)
            return mt_json_get_str(j, "firecracker_version", 64, &text, err) < 0 ? -MT_E_CORRUPT : mt_fc_version_parse(text, ret, err);
        if (a.http && r != -MT_E_UNAVAILABLE)
            return r;
        if (mt_pidfd_wait(pidfd, 0, NULL, NULL) == 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "firecracker ended before its API answered");
        if (mt_clock_mono() >= deadline)
            return mt_err_wrap(err, "firecracker's API did not answer in %d ms", limit_ms);
        const struct timespec t = {.tv_nsec = POLL_MS * 1000000};
        (void)nanosleep(&t, NULL);
    }
}

int mt_fc_api_alive(const struct mt_vmm *vmm, const struct mt_jail *jail, struct mt_err *err)
{
    mt_cleanup(api_done) struct api a = {.vmm = vmm, .node = -1};
    mt_auto_json json_t *j = NULL;
    const char *state;
    int r = api_open(&a, jail, err);
    if (r == 0)
        r = call(&a, "GET", "/", NULL, 200, ALIVE_MS, &j, err);
    if (r == 0)
        r = mt_json_get_str(j, "state", 32, &state, err);
    if (r == 0 && !MT_STREQ(state, "Running"))
        r = MT_FAIL(err, MT_E_UNAVAILABLE, "firecracker says the vm is '%s'", state);
    return r;
}
