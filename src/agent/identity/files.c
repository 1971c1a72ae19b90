/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/identity/files.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/x509.h"
#include "wire/json.h"

#include <sys/stat.h>
#include <unistd.h>

#define POST_MS 15000
#define ANSWER_MAX 65536

char *mt_id_path(const char *data_dir, const char *name)
{
    return mt_asprintf("%s/keys/%s", data_dir, name);
}

int mt_id_read(const char *path, char **ret, struct mt_err *err)
{
    size_t n = 0;
    int rc = mt_file_read(path, ID_TEXT_MAX, ret, &n, err);
    return rc < 0 ? rc : strlen(*ret) == n ? 0 : MT_FAIL(err, MT_E_CORRUPT, "'%s' holds a NUL byte", path);
}

int mt_id_node_key(const char *path, char **ret_pem, struct mt_err *err)
{
    int rc = mt_id_read(path, ret_pem, err);
    if (rc != -MT_E_NOT_FOUND)
        return rc;
    rc = mt_x509_key_new(ret_pem, err);
    return rc < 0 ? rc : mt_file_write(path, *ret_pem, strlen(*ret_pem), 0600, err);
}

int mt_id_wg_key(const char *path, char ret_public[48], struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    uint8_t key[36], public[32];
    char line[MT_B64_SIZE(32) + 2];
    int rc = mt_id_read(path, &text, err);
    if (rc == 0) {
        text[strcspn(text, "\r\n")] = '\0';
        if (strlen(text) != 44 || mt_b64_decode(text, 44, key, sizeof key) != 32)
            rc = MT_FAIL(err, MT_E_CORRUPT, "'%s' holds no WireGuard key", path);
        else
            rc = mt_x25519_public(key, public, err);
        explicit_bzero(text, strlen(text));
    } else if (rc == -MT_E_NOT_FOUND && (rc = mt_x25519_new(key, public, err)) == 0) {
        size_t n = mt_b64_encode(key, 32, line);
        line[n++] = '\n';
        rc = mt_file_write(path, line, n, 0600, err);
        explicit_bzero(line, sizeof line);
    }
    explicit_bzero(key, sizeof key);
    if (rc == 0)
        (void)mt_b64_encode(public, sizeof public, ret_public);
    return rc;
}

int mt_id_write_pem(const char *path, const char *cert_pem, const char *key_pem, gid_t gid, struct mt_err *err)
{
    mt_auto_free char *all = mt_asprintf("%s%s", cert_pem, key_pem);
    if (!all)
        return MT_FAIL(err, MT_E_NOMEM, "certificate");
    int rc = mt_file_write(path, all, strlen(all), 0600, err);
    explicit_bzero(all, strlen(all));
    if (rc == 0 && gid != (gid_t)-1 && (chown(path, (uid_t)-1, gid) < 0 || chmod(path, 0640) < 0))
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "give '%s' to its group", path);
    return rc;
}

static int refused(int status, const json_t *doc, struct mt_err *err)
{
    const char *detail = json_string_value(json_object_get(doc, "detail")), *code = json_string_value(json_object_get(doc, "code"));
    char clean[200];
    (void)mt_printable(detail ? detail : "", detail ? strlen(detail) : 0, clean, sizeof clean);
    enum mt_code kind = status == 401 || status == 403 ? MT_E_DENIED : status == 409 ? MT_E_CONFLICT : status >= 400 && status < 500 ? MT_E_INVALID : MT_E_UNAVAILABLE;
    return MT_FAIL(err, kind, "%s (%s)", *clean ? clean : "the control plane refuses", code ? code : "no code");
}

int mt_id_post(struct mt_http_client *c, const char *target, json_t *body, json_t **ret, struct mt_err *err)
{
    mt_auto_free char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    mt_auto_json json_t *doc = NULL;
    struct mt_http_reply reply;
    json_decref(body);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "request");
    struct mt_http_request rq = {.method = "POST", .target = target, .body = text, .body_len = strlen(text), .timeout_ms = POST_MS};
    int rc = mt_http_do(c, &rq, ANSWER_MAX, &reply, err);
    if (rc == 0) {
        (void)mt_json_parse((const char *)reply.body.p, reply.body.len, ANSWER_MAX, 8, &doc, NULL);
        if (reply.status / 100 != 2)
            rc = refused(reply.status, doc, err);
        else if (!json_is_object(doc))
            rc = MT_FAIL(err, MT_E_CORRUPT, "the control plane's answer is not JSON");
        mt_http_reply_done(&reply);
    }
    explicit_bzero(text, strlen(text));
    if (rc == 0 && ret)
        *ret = json_incref(doc);
    return rc;
}
