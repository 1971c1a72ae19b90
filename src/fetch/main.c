/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-fetch: the registry client, a short-lived child of control (resolve) and agent (pull).
 *
 * Root is left before the first byte goes to the network. Requests and answers: docs/formats/fetch.md.
 */
#include "base/cleanup.h"
#include "base/str.h"
#include "fetch/fetch.h"
#include "fetch/sandbox.h"
#include "wire/json.h"

#include <unistd.h>

#define REQUEST_MAX ((size_t)256 << 10)

static int usage(void)
{
    (void)fputs("usage: moat-fetch resolve REF --json < options.json\n"
                "       moat-fetch pull < request.json\n"
                "see docs/formats/fetch.md\n",
                stderr);
    return 2;
}

static json_t *run(bool pull, const char *ref_text, const char *text, size_t len, struct mt_fetch_options *o,
                   struct mt_fetch_fault *f)
{
    struct mt_imageref ref;
    struct mt_err err = {0};
    if (mt_fetch_options_parse(text, len, pull, o, &err) < 0) {
        (void)mt_fetch_fail(f, MT_FETCH_INVALID_ARGUMENT, "request", "%s", err.msg);
        return NULL;
    }
    if ((pull ? mt_imageref_parse_repository(o->repository, &ref, &err) : mt_imageref_parse(ref_text, &ref, &err)) < 0) {
        (void)mt_fetch_fail(f, MT_FETCH_INVALID_ARGUMENT, "reference", "%s", err.msg);
        return NULL;
    }
    if (pull && chdir(o->images_dir) < 0) {
        (void)mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "cannot enter the image store: %s", strerrordesc_np(errno));
        return NULL;
    }
    if (mt_fetch_sandbox(o->uid, o->gid, &err) < 0) {
        (void)mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "%s", err.msg);
        return NULL;
    }
    return pull ? mt_fetch_pull(o, &ref, f) : mt_fetch_resolve(o, &ref, f);
}

int main(int argc, char **argv)
{
    mt_cleanup(mt_fetch_options_done) struct mt_fetch_options o = {0};
    struct mt_fetch_fault f = {0};
    bool pull = argc == 2 && MT_STREQ(argv[1], "pull");
    bool resolve = (argc == 3 || (argc == 4 && MT_STREQ(argv[3], "--json"))) && MT_STREQ(argv[1], "resolve");
    if (!pull && !resolve)
        return usage();
    mt_auto_free char *text = calloc(1, REQUEST_MAX + 2);
    if (!text)
        return 3;
    size_t len = isatty(STDIN_FILENO) ? 0 : fread(text, 1, REQUEST_MAX + 1, stdin);
    mt_auto_json json_t *answer = run(pull, resolve ? argv[2] : NULL, text, len, &o, &f);
    explicit_bzero(text, len);
    int status = answer ? 0 : 1;
    if (!answer) {
        answer = json_pack("{s:b,s:{s:s,s:s,s:s,s:b,s:s}}", "ok", 0, "error", "code", mt_fetch_code(f.kind), "reason_code",
                           mt_fetch_reason(f.kind), "detail", f.detail, "retryable", (int)mt_fetch_retryable(f.kind), "message",
                           f.message);
    }
    if (!answer || json_dumpf(answer, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF || fflush(stdout) != 0)
        return 3;
    return status;
}
