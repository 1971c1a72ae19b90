/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/ctl.h"

#include "agent/instance/state.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/sock.h"
#include "wire/json.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/socket.h>

#define ANSWER_MS 60000
#define FILE_MAX (2U << 20)

static int fail(const struct mt_err *err)
{
    (void)fprintf(stderr, "moat-agent: %s\n", err->msg);
    return 1;
}

/* Its lines as they come; a first one with an error is the answer of a request that failed. */
static int ask(const struct mt_agent_conf *conf, const char *op, const char *key, const char *value)
{
    char part[16384];
    struct mt_err err = {0};
    mt_auto_buf struct mt_buf line = MT_BUF_INIT(4096);
    mt_auto_fd int fd = -1;
    bool first = true, bad = false;
    int rc = mt_sock_unix_connect(conf->admin_socket, &fd, &err);
    if (rc == 0)
        rc = mt_sock_timeout(fd, ANSWER_MS, &err);
    mt_buf_printf(&line, "{\"op\":\"%s\"", op);
    if (value) {
        mt_buf_printf(&line, ",\"%s\":", key);
        mt_buf_put_json_str(&line, value, strlen(value));
    }
    mt_buf_puts(&line, "}\n");
    if (rc == 0)
        rc = mt_buf_check(&line, &err);
    if (rc < 0)
        return fail(&err);
    ssize_t n = send(fd, line.p, line.len, MSG_NOSIGNAL);
    while (n > 0 && (n = recv(fd, part, sizeof part, 0)) > 0) {
        bad |= first && (size_t)n > 9 && strncmp(part, "{\"error\":", 9) == 0;
        first = false;
        (void)fwrite(part, 1, (size_t)n, bad ? stderr : stdout);
    }
    if (n < 0) {
        (void)MT_FAIL_ERRNO(&err, MT_E_UNAVAILABLE, "the agent behind '%s' does not answer", conf->admin_socket);
        return fail(&err);
    }
    return bad;
}

/* The root disk of @digest against the sum that was taken when it was made. */
static int verify_image(const struct mt_agent_conf *conf, const char *digest)
{
    char dir[PATH_MAX], path[PATH_MAX], sum[MT_SHA256_HEX];
    struct mt_err err = {0};
    if (mt_fmt(dir, sizeof dir, &err, "%s/rootdisks", conf->images_dir) < 0)
        return fail(&err);
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        mt_auto_json json_t *doc = NULL;
        mt_auto_free char *text = NULL;
        size_t n = strlen(e->d_name), len = 0;
        const char *is, *want;
        if (n < 6 || !MT_STREQ(e->d_name + n - 5, ".json") || mt_fmt(path, sizeof path, NULL, "%s/%s", dir, e->d_name) < 0 ||
            mt_file_read(path, FILE_MAX, &text, &len, NULL) < 0 || mt_json_parse(text, len, FILE_MAX, 16, &doc, NULL) < 0 || mt_json_get_str(doc, "digest", 128, &is, NULL) < 0 || !MT_STREQ(is, digest))
            continue;
        if (mt_json_get_str(doc, "sha256", 64, &want, &err) < 0 || mt_fmt(path, sizeof path, &err, "%s/%.*s.ext4", dir, (int)(n - 5), e->d_name) < 0 ||
            mt_sha256_file(path, sum, &err) < 0)
            return fail(&err);
        bool same = MT_STREQ(sum, want);
        (void)printf("{\"digest\":\"%s\",\"disk\":\"%s\",\"sha256\":\"%s\",\"intact\":%s}\n", digest, path, sum, same ? "true" : "false");
        return !same;
    }
    (void)MT_FAIL(&err, MT_E_NOT_FOUND, "no root disk of '%.80s' below '%s'", digest, dir);
    return fail(&err);
}

/* state.json of one instance or all, as it is on the disk, its seal checked. */
static int dump(const struct mt_agent_conf *conf, const char *only)
{
    char dir[PATH_MAX], path[PATH_MAX];
    struct mt_err err = {0};
    unsigned seen = 0;
    if (mt_fmt(dir, sizeof dir, &err, "%s/instances", conf->agent_dir) < 0)
        return fail(&err);
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct mt_state st;
        mt_auto_free char *text = NULL, *raw = NULL;
        size_t n = 0;
        if (!mt_id_valid(MT_ID_INSTANCE, e->d_name, strlen(e->d_name)) || (only && !MT_STREQ(only, e->d_name)))
            continue;
        if (mt_fmt(path, sizeof path, &err, "%s/%s/state.json", dir, e->d_name) < 0 || mt_file_read(path, FILE_MAX, &raw, &n, &err) < 0 ||
            mt_state_decode(raw, n, &st, &err) < 0 || mt_state_encode(&st, &text, &err) < 0)
            return fail(&err);
        (void)printf("%s%s", text, text[strlen(text) - 1] == '\n' ? "" : "\n");
        seen++;
    }
    if (only && seen == 0) {
        (void)MT_FAIL(&err, MT_E_NOT_FOUND, "no state of '%.64s' below '%s'", only, dir);
        return fail(&err);
    }
    return 0;
}

int mt_ctl(const struct mt_agent_conf *conf, int argc, char *const *argv)
{
    static const struct {
        const char *verb;
        int least, most; /* words behind it */
        bool instance;   /* the first one is an instance's id */
    } verbs[] = {{"list", 0, 0, false}, {"doctor", 0, 0, false}, {"gc", 0, 0, false}, {"drain", 0, 1, false}, {"describe", 1, 1, true}, {"console", 1, 1, true}, {"initlog", 1, 1, true}, {"logs", 1, 1, true},
                 {"verify-image", 1, 1, false}, {"state", 0, 1, true}};
    const char *word = argc > 1 ? argv[1] : NULL;
    struct mt_err err = {0};
    for (size_t i = 0; argc > 0 && i < MT_ARRAY_LEN(verbs); i++) {
        if (!MT_STREQ(argv[0], verbs[i].verb) || argc - 1 < verbs[i].least || argc - 1 > verbs[i].most)
            continue;
        if (word && verbs[i].instance && mt_id_check(MT_ID_INSTANCE, word, &err) < 0)
            return fail(&err);
        return MT_STREQ(argv[0], "verify-image") ? verify_image(conf, word ? word : "") : MT_STREQ(argv[0], "state") ? dump(conf, word) : ask(conf, argv[0], verbs[i].instance ? "instance_id" : "reason", word);
    }
    (void)fputs("moat-agent: ctl list | describe ID | console ID | initlog ID | logs ID | state [ID] | verify-image DIGEST | gc | drain [REASON] | doctor\n", stderr);
    return 2;
}
