/* SPDX-License-Identifier: Apache-2.0 */
/* `moat-agent join` (networking.md §1.2): keys first, then the token and the public halves to the control plane whose authority the token
 * names, then what came back to the disk, then the first call with the new certificate. */
#include "agent/identity/files.h"

#include "agent/net/underlay.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/ids.h"
#include "model/names.h"
#include "os/file.h"
#include "os/sock.h"
#include "os/x509.h"
#include "wire/json.h"
#include "wire/node_call.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

/* "moat_en_….PIN": the token for the control plane, the pin as hex. */
static int split_token(const char *text, char ret_token[100], char ret_pin[65], struct mt_err *err)
{
    const char *dot = strchr(text, '.');
    size_t n = dot ? (size_t)(dot - text) : 0;
    uint8_t pin[36];
    if (n < 20 || n > 99 || strncmp(text, "moat_en_", 8) != 0 || mt_b64url_decode(dot + 1, strlen(dot + 1), pin, sizeof pin) != 32)
        return MT_FAIL(err, MT_E_INVALID, "that is no enrolment token: `moat node token create` prints one, beginning with moat_en_, with a dot in it");
    memcpy(ret_token, text, n);
    ret_token[n] = '\0';
    mt_hex_encode(pin, 32, ret_pin);
    return 0;
}

/* The host's name as a node name: lower case, other characters become '-'. */
static void host_name(char ret[64])
{
    char host[64] = "";
    size_t o = 0;
    (void)gethostname(host, sizeof host - 1);
    for (size_t i = 0; host[i] && host[i] != '.' && o < 62; i++) {
        unsigned char ch = (unsigned char)tolower((unsigned char)host[i]);
        ret[o++] = (char)(isalnum(ch) && ch < 0x80 ? ch : '-');
    }
    while (o && ret[o - 1] == '-')
        o--;
    ret[o] = '\0';
    if (!mt_name_valid(MT_NAME_NODE, ret, o))
        (void)snprintf(ret, 64, "node");
}

static const char *arch(void)
{
    struct utsname u;
    return uname(&u) == 0 && strcmp(u.machine, "aarch64") == 0 ? "arm64" : "amd64";
}

/* Where this host's routes lead: the cluster's prefix must not be among it, which only the control plane can say. */
static json_t *routes_of(void)
{
    struct mt_underlay_route v[MT_UNDERLAY_ROUTES];
    char addr[INET6_ADDRSTRLEN], text[INET6_ADDRSTRLEN + 8];
    struct mt_err err;
    size_t n;
    json_t *list = json_array();
    if (mt_underlay_routes(v, MT_UNDERLAY_ROUTES, &n, &err) < 0)
        n = 0; /* the agent looks again, when it runs */
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(text, sizeof text, "%s/%u", inet_ntop(AF_INET6, &v[i].dst, addr, sizeof addr), v[i].plen);
        (void)json_array_append_new(list, json_string(text));
    }
    return list;
}

static json_t *body_of(const struct mt_join *j, const char *token, const char *csr, const char *name, const char *wg)
{
    struct sysinfo si = {0};
    (void)sysinfo(&si);
    json_t *endpoints = json_array();
    for (size_t i = 0; i < j->n_endpoints; i++)
        (void)json_array_append_new(endpoints, json_string(j->endpoints[i]));
    return json_pack("{s:s,s:s,s:s,s:s,s:o,s:s,s:{s:I,s:I},s:I,s:s,s:o}", "token", token, "csr", csr, "name", name, "wireguard_public_key", wg, "endpoints",
                     endpoints, "arch", arch(), "capacity", "cpu_millis", (json_int_t)get_nprocs() * 1000, "memory_bytes",
                     (json_int_t)si.totalram * si.mem_unit, "clock_unix_ms",
                     (json_int_t)(j->clock_unix_ms ? j->clock_unix_ms : mt_clock_wall_us() / 1000), "agent_version", MOAT_VERSION, "underlay_routes", routes_of());
}

static int hint(int rc, struct mt_err *err)
{
    if (strstr(err->msg, "not yet valid") || strstr(err->msg, "has expired"))
        return mt_err_wrap(err, "is the clock of this machine right (`date`)? The control plane's certificate is new");
    return rc;
}

static int first_client(const struct mt_join *j, const char *pin, struct mt_http_client **ret, struct mt_err *err)
{
    char host[256];
    uint16_t port;
    struct mt_tls_ctx *ctx = NULL;
    const struct mt_tls_conf conf = {.min = MT_TLS_1_3, .root_pin = pin};
    int rc = mt_sock_split(j->control, host, &port, err);
    if (rc < 0 || (rc = mt_tls_ctx_new(&conf, &ctx, err)) < 0)
        return rc;
    *ret = mt_http_client_new_tls(host, port, ctx, "moat-control");
    mt_tls_ctx_unref(ctx);
    if (!*ret)
        return MT_FAIL(err, MT_E_NOMEM, "join");
    mt_node_call_says(*ret);
    return 0;
}

static int write_text(const char *data_dir, const char *name, const char *text, mode_t mode, struct mt_err *err)
{
    mt_auto_free char *path = mt_id_path(data_dir, name);
    return path ? mt_file_write(path, text, strlen(text), mode, err) : MT_FAIL(err, MT_E_NOMEM, "'%s'", name);
}

/* What came back, checked: it is about our key and signed by the authority that the token names. */
static int keep(const struct mt_join *j, const json_t *doc, const char *key, const char *pin, struct mt_err *err)
{
    const char *node, *cluster, *cert, *ca, *name;
    struct mt_x509_cert about, root;
    mt_auto_free char *pem = mt_id_path(j->data_dir, "node.pem");
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *me = NULL;
    json_t *roles, *v;
    bool edge = false;
    size_t i;
    int rc;
    if (!pem)
        return MT_FAIL(err, MT_E_NOMEM, "join");
    if ((rc = mt_json_get_str(doc, "node_id", MT_ID_SIZE, &node, err)) < 0 || (rc = mt_id_check(MT_ID_NODE, node, err)) < 0 ||
        (rc = mt_json_get_str(doc, "cluster_id", 63, &cluster, err)) < 0 || (rc = mt_json_get_str(doc, "name", 63, &name, err)) < 0 ||
        (rc = mt_json_get_str(doc, "certificate", MT_X509_PEM_MAX, &cert, err)) < 0 || (rc = mt_json_get_str(doc, "ca", MT_X509_PEM_MAX, &ca, err)) < 0 ||
        (rc = mt_json_get_array(doc, "roles", 8, &roles, err)) < 0 || (rc = mt_x509_read(cert, &about, err)) < 0 || (rc = mt_x509_read(ca, &root, err)) < 0)
        return mt_err_wrap(err, "the control plane's answer");
    if (!MT_STREQ(root.spki_sha256, pin) || !mt_x509_belongs(key, cert) || !MT_STREQ(about.cn, node))
        return MT_FAIL(err, MT_E_CORRUPT, "the control plane's answer does not belong to what was asked");
    json_array_foreach (roles, i, v)
        edge = edge || (json_is_string(v) && MT_STREQ(json_string_value(v), "edge"));
    me = json_pack("{s:s,s:s,s:s,s:s,s:b}", "node_id", node, "cluster_id", cluster, "name", name, "control", j->control, "edge", edge);
    text = me ? json_dumps(me, JSON_INDENT(2)) : NULL;
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "join");
    if ((rc = write_text(j->data_dir, "ca.crt", ca, 0644, err)) < 0 || (rc = mt_id_write_pem(pem, cert, key, (gid_t)-1, err)) < 0)
        return rc;
    return write_text(j->data_dir, "identity.json", text, 0600, err);
}

/* The first call with the certificate: without it the control plane gives the node up after an hour. */
static int confirm(const struct mt_join *j, char **ret_text, struct mt_err *err)
{
    struct mt_identity *id = NULL;
    mt_auto_json json_t *doc = NULL;
    unsigned generation;
    int rc = mt_identity_load(j->data_dir, NULL, &id, err);
    struct mt_http_client *c = rc == 0 ? mt_identity_client(id, &generation) : NULL;
    if (rc == 0 && !c)
        rc = MT_FAIL(err, MT_E_NOMEM, "join");
    if (rc == 0 && (rc = mt_id_post(c, "/internal/v1/nodes/self/confirm", json_object(), &doc, err)) == 0) {
        const char *state = json_string_value(json_object_get(doc, "admin_state"));
        bool waits = state && MT_STREQ(state, "pending_approval");
        *ret_text = mt_asprintf("node %s is %s%s", mt_identity_node_id(id), state ? state : "?", waits ? ": an operator lets it in with `moat node activate`" : "");
        if (!*ret_text)
            rc = MT_FAIL(err, MT_E_NOMEM, "join");
    }
    mt_http_client_free(c);
    mt_identity_free(id);
    return rc;
}

int mt_identity_join(const struct mt_join *j, char **ret_text, struct mt_err *err)
{
    char token[100], pin[65], wg[48], own_name[64];
    mt_auto_free char *dir = mt_asprintf("%s/keys", j->data_dir);
    mt_auto_free char *key_path = mt_id_path(j->data_dir, "node.key");
    mt_auto_free char *wg_path = mt_id_path(j->data_dir, "wg.key");
    mt_auto_free char *me = mt_id_path(j->data_dir, "identity.json");
    mt_auto_free char *key = NULL;
    mt_auto_free char *csr = NULL;
    mt_auto_json json_t *doc = NULL;
    struct mt_http_client *c = NULL;
    const char *name = j->name;
    int rc = split_token(j->token, token, pin, err);
    if (rc < 0)
        return rc;
    if (!dir || !key_path || !wg_path || !me)
        return MT_FAIL(err, MT_E_NOMEM, "join");
    if (access(me, F_OK) == 0)
        return MT_FAIL(err, MT_E_CONFLICT, "this machine is a node already ('%s'): to join anew, have the node removed, then remove '%s'", me, dir);
    if (!name) {
        host_name(own_name);
        name = own_name;
    }
    if ((rc = mt_file_mkdirs(dir, 0700, err)) < 0 || (rc = mt_id_node_key(key_path, &key, err)) < 0 || (rc = mt_id_wg_key(wg_path, wg, err)) < 0 ||
        (rc = mt_x509_csr_new(key, name, &csr, err)) < 0 || (rc = first_client(j, pin, &c, err)) < 0)
        goto out;
    rc = hint(mt_id_post(c, "/internal/v1/enroll", body_of(j, token, csr, name, wg), &doc, err), err);
    if (rc == 0 && (rc = keep(j, doc, key, pin, err)) == 0) {
        (void)unlink(key_path); /* it is in node.pem now */
        rc = confirm(j, ret_text, err);
    }
out:
    mt_http_client_free(c);
    explicit_bzero(token, sizeof token);
    if (key)
        explicit_bzero(key, strlen(key));
    return rc;
}
