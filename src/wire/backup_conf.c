/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/backup_conf.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define AT(member) offsetof(struct mt_backup_conf, member)
#define FILE_MAX 65536

/* clang-format off */
static const struct mt_conf_key keys[] = {
    {"endpoint", MT_CONF_STRING, AT(endpoint), 8, 255, NULL, "url", "https://host[:port] of the S3 store; http:// only to this host or with allow_insecure"},
    {"region", MT_CONF_STRING, AT(region), 1, 63, "us-east-1", "", "region in the signature"},
    {"bucket", MT_CONF_STRING, AT(bucket), 3, 63, NULL, "", "bucket; it has to exist"},
    {"prefix", MT_CONF_STRING, AT(prefix), 0, 200, "", "", "what object names begin with"},
    {"style", MT_CONF_STRING, AT(style), 4, 7, "path", "", "path or virtual"},
    {"access_key", MT_CONF_STRING, AT(access_key), 1, 128, NULL, "", "may put, get and list below the prefix; must not delete"},
    {"secret_key", MT_CONF_STRING, AT(secret_key), 1, 128, NULL, "", "secret of access_key"},
    {"session_token", MT_CONF_STRING, AT(session_token), 1, 2048, MT_CONF_NONE, "", "of temporary credentials"},
    {"ca_file", MT_CONF_STRING, AT(ca_file), 1, 255, MT_CONF_NONE, "path", "trust anchors for TLS; absent: the system's"},
    {"allow_insecure", MT_CONF_BOOL, AT(allow_insecure), 0, 1, "false", "", "plain HTTP to another host"},
    {"parallel", MT_CONF_U64, AT(parallel), 1, 16, "4", "requests", "at once, of one backup"},
    {"upload_limit_bytes", MT_CONF_U64, AT(upload_limit_bytes), 0, UINT64_C(1) << 40, "26214400", "bytes/s", "of one backup, of which two may run; 0: none"},
    {"tries", MT_CONF_U64, AT(tries), 1, 10, "6", "", "per request"},
    {"request_timeout_s", MT_CONF_U64, AT(request_timeout_s), 1, 600, "60", "s", "per try"},
};
/* clang-format on */

const struct mt_conf_key *mt_backup_conf_keys(size_t *ret_n)
{
    *ret_n = MT_ARRAY_LEN(keys);
    return keys;
}

int mt_backup_conf_load(const char *path, struct mt_backup_conf *ret, struct mt_err *err)
{
    struct stat st;
    struct mt_backup_conf c = {0};
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "open '%s'", path);
    if (fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look at '%s'", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return MT_FAIL(err, MT_E_INVALID, "'%s' holds credentials: it must be a file of ours with mode 0600", path);
    char *text = malloc(FILE_MAX);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    ssize_t n = read(fd, text, FILE_MAX);
    int rc = n < 0              ? MT_FAIL_ERRNO(err, MT_E_IO, "read '%s'", path)
             : n == FILE_MAX    ? MT_FAIL(err, MT_E_LIMIT, "'%s' is too long", path)
                                : mt_conf_parse(text, (size_t)n, path, keys, MT_ARRAY_LEN(keys), &c, NULL, err);
    explicit_bzero(text, FILE_MAX);
    free(text);
    if (rc == 0)
        *ret = c;
    return rc;
}

void mt_backup_conf_done(struct mt_backup_conf *c)
{
    char *const secret[] = {c->access_key, c->secret_key, c->session_token};
    for (size_t i = 0; i < MT_ARRAY_LEN(secret); i++)
        if (secret[i])
            explicit_bzero(secret[i], strlen(secret[i]));
    mt_conf_done(keys, MT_ARRAY_LEN(keys), c);
}

static void put(struct mt_buf *b, const char *name, const char *value)
{
    if (!value)
        return;
    mt_buf_printf(b, "\"%s\":", name);
    mt_buf_put_json_str(b, value, strlen(value));
    mt_buf_putc(b, ',');
}

void mt_backup_conf_put(const struct mt_backup_conf *c, struct mt_buf *b)
{
    mt_buf_putc(b, '{');
    put(b, "endpoint", c->endpoint);
    put(b, "region", c->region);
    put(b, "bucket", c->bucket);
    put(b, "prefix", c->prefix);
    put(b, "style", c->style);
    put(b, "access_key", c->access_key);
    put(b, "secret_key", c->secret_key);
    put(b, "session_token", c->session_token);
    put(b, "ca_file", c->ca_file);
    mt_buf_printf(b, "\"allow_insecure\":%s,\"parallel\":%" PRIu64 ",\"upload_limit_bytes\":%" PRIu64 ",\"tries\":%" PRIu64 ",\"request_timeout_s\":%" PRIu64 "}",
                  c->allow_insecure ? "true" : "false", c->parallel, c->upload_limit_bytes, c->tries, c->request_timeout_s);
}
