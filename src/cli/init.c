/* SPDX-License-Identifier: Apache-2.0 */
/* A manifest out of an image reference: for init, which keeps it, and for run. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "model/manifest.h"
#include "os/file.h"

#include <unistd.h>

enum { MANIFEST_MAX = 64 * 1024 };

void cli_app_name_of_image(const char *ref, char ret[64])
{
    const char *end = ref + strcspn(ref, "@"), *slash = ref;
    for (const char *p = ref; p < end; p++)
        if (*p == '/')
            slash = p + 1;
    size_t n = 0;
    for (const char *p = slash; p < end && *p != ':' && n < 40; p++) {
        char ch = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
        bool alnum = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9');
        if (n == 0 && !(ch >= 'a' && ch <= 'z'))
            continue;
        ret[n++] = alnum ? ch : '-';
    }
    while (n > 0 && ret[n - 1] == '-')
        n--;
    ret[n] = '\0';
    if (n == 0)
        (void)snprintf(ret, 64, "app");
}

char *cli_generate_manifest(struct cli *c, const char *image, int *ret_code)
{
    char name[64];
    struct mt_err err;
    uint64_t port = 0;
    if (cli_has(c, "name"))
        (void)snprintf(name, sizeof name, "%s", cli_opt(c, "name"));
    else
        cli_app_name_of_image(image, name);
    if (cli_has(c, "port") && mt_parse_u64(cli_opt(c, "port"), 1, 65535, &port, &err) < 0) {
        *ret_code = cli_usage(c, "--port: %s", err.msg);
        return NULL;
    }
    if (cli_has(c, "hostname") && port == 0) {
        *ret_code = cli_usage(c, "--hostname needs --port: the port that the process listens on");
        return NULL;
    }
    const char *env = c->env ? c->env : cli_opt(c, "env") ? cli_opt(c, "env") : "prod";
    struct mt_manifest_minimal in = {.app = name, .image = image, .env = env, .port = (uint16_t)port,
                                     .hostname = cli_opt(c, "hostname"), .memory = cli_opt(c, "memory")};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MANIFEST_MAX);
    if (mt_manifest_minimal(&in, &b, &err) < 0) {
        *ret_code = cli_fail(c, &err, NULL);
        return NULL;
    }
    *ret_code = CLI_OK;
    return mt_buf_take(&b);
}

/* Keep the manifest in its file, which must not be there yet. */
static int keep(struct cli *c, const char *file, const char *text)
{
    struct mt_err err;
    char what[300];
    if (access(file, F_OK) == 0 && !cli_has(c, "force")) {
        (void)snprintf(what, sizeof what, "'%.200s' is there already", file);
        return cli_error(c, CLI_CONFLICT, what, "--force replaces it, -f PATH writes another file");
    }
    return mt_file_write(file, text, strlen(text), 0644, &err) < 0 ? cli_fail(c, &err, NULL) : CLI_OK;
}

int cmd_init(struct cli *c)
{
    const char *file = cli_manifest_file(c);
    const char *image = cli_opt(c, "image");
    int code;
    if (!image)
        return cli_usage(c, "--image REF is missing");
    mt_auto_free char *text = cli_generate_manifest(c, image, &code);
    if (!text)
        return code;
    mt_auto_json json_t *shown = json_pack("{s:s,s:s}", "path", cli_file_name(file), "manifest", text);
    if (c->json && MT_STREQ(file, "-"))
        return cli_print_object(c, "ManifestText", shown);
    if (MT_STREQ(file, "-") || (!cli_has(c, "manifest") && !isatty(STDOUT_FILENO) && !c->json)) {
        (void)fputs(text, stdout);
        return CLI_OK;
    }
    if ((code = keep(c, file, text)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "ManifestText", shown);
    (void)printf("%s\n", text);
    cli_say(c, "wrote %s; next: moat deploy", file);
    return CLI_OK;
}

/* init, then the app and the environment it is for. */
int cmd_launch(struct cli *c)
{
    char name[64];
    int code = cli_has(c, "image") ? cli_connect(c) : cli_usage(c, "--image REF is missing");
    if (code != CLI_OK)
        return code;
    const char *file = cli_manifest_file(c);
    mt_auto_free char *text = cli_generate_manifest(c, cli_opt(c, "image"), &code);
    if (!text || (code = keep(c, file, text)) != CLI_OK)
        return code;
    cli_say(c, "wrote %s", file);
    if (cli_has(c, "name"))
        (void)snprintf(name, sizeof name, "%s", cli_opt(c, "name"));
    else
        cli_app_name_of_image(cli_opt(c, "image"), name);
    free(c->config_app);
    c->app = c->config_app = strdup(name);
    code = c->app ? cli_ensure_env(c) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *made = json_pack("{s:s,s:s,s:s,s:s}", "id", c->env_id, "name", c->env, "app_id", c->app_id, "manifest", file);
    if (c->json) {
        mt_auto_json json_t *doc = cli_receipt_json(c, "env", "launch", made);
        return cli_print_line(c, doc);
    }
    (void)printf("%s\n", c->env_id);
    cli_say(c, "next: moat deploy --env %s", c->env);
    return CLI_OK;
}
