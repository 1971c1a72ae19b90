/* SPDX-License-Identifier: Apache-2.0 */
#include "forward/forward.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "wire/json.h"

#include <fcntl.h>
#include <sys/mman.h>

#define TEXT_MAX ((size_t)256 << 10)
#define PEM_MAX ((size_t)64 << 10)

void mt_forward_conf_done(struct mt_forward_conf *c)
{
    if (c->headers)
        explicit_bzero(c->headers, strlen(c->headers));
    free(c->host);
    free(c->url);
    free(c->headers);
    free(c->ca_file);
    free(c->cert_file);
    free(c->key_file);
    free(c->node);
    *c = (struct mt_forward_conf){0};
}

static int text(const json_t *o, const char *key, bool required, size_t max, char **ret, struct mt_err *err)
{
    const char *s = NULL;
    int rc = required ? mt_json_get_str(o, key, max, &s, err) : mt_json_opt_str(o, key, max, NULL, &s, err);
    if (rc < 0 || !s)
        return rc;
    *ret = mt_strndup(s, strlen(s));
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "configuration: out of memory");
}

/* Certificates and keys come as text and are read by name: a file of memory that ends with us. */
static int pem(const json_t *o, const char *key, char **ret, struct mt_err *err)
{
    const char *s = NULL;
    int rc = mt_json_opt_str(o, key, PEM_MAX, NULL, &s, err);
    if (rc < 0 || !s)
        return rc;
    int fd = memfd_create(key, MFD_CLOEXEC);
    if (fd < 0 || write(fd, s, strlen(s)) != (ssize_t)strlen(s))
        return MT_FAIL_ERRNO(err, MT_E_IO, "keep '%s'", key);
    *ret = mt_asprintf("/proc/self/fd/%d", fd);
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "configuration: out of memory");
}

int mt_forward_conf_parse(const char *p, size_t n, struct mt_forward_conf *c, struct mt_err *err)
{
    mt_auto_json json_t *o = NULL;
    const char *kind;
    uint64_t port = 0, uid = 0, gid = 0;
    *c = (struct mt_forward_conf){0};
    int rc = mt_json_parse(p, n, TEXT_MAX, 4, &o, err);
    if (rc == 0)
        rc = mt_json_get_str(o, "kind", 16, &kind, err);
    if (rc < 0)
        return rc;
    c->otlp = MT_STREQ(kind, "otlp");
    if (!c->otlp && !MT_STREQ(kind, "syslog"))
        return MT_FAIL(err, MT_E_INVALID, "kind is neither syslog nor otlp");
    rc = c->otlp ? text(o, "url", true, 2048, &c->url, err) : text(o, "host", true, 255, &c->host, err);
    if (rc == 0 && !c->otlp && (rc = mt_json_get_u64(o, "port", 1, 65535, &port, err)) == 0)
        rc = mt_json_get_bool(o, "tls", &c->tls, err);
    if (rc == 0)
        rc = text(o, "headers", false, 16384, &c->headers, err);
    if (rc == 0)
        rc = text(o, "node", true, 64, &c->node, err);
    if (rc == 0)
        rc = pem(o, "ca", &c->ca_file, err);
    if (rc == 0)
        rc = pem(o, "cert", &c->cert_file, err);
    if (rc == 0)
        rc = pem(o, "key", &c->key_file, err);
    if (rc == 0)
        rc = mt_json_opt_bool(o, "any_address", false, &c->any_address, err);
    if (rc == 0)
        rc = mt_json_opt_u64(o, "message_max", MT_SYSLOG_MAX_LEAST, 65536, 8192, &c->message_max, err);
    if (rc == 0)
        rc = mt_json_opt_u64(o, "uid", 0, UINT32_MAX - 1, 0, &uid, err);
    if (rc == 0)
        rc = mt_json_opt_u64(o, "gid", 0, UINT32_MAX - 1, 0, &gid, err);
    c->port = (uint16_t)port;
    c->uid = (uid_t)uid;
    c->gid = (gid_t)gid;
    if (rc < 0)
        mt_forward_conf_done(c);
    return rc;
}
