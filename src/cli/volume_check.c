/* SPDX-License-Identifier: Apache-2.0 */
/* The filesystem of a volume looked at and mended on its node, for operators (storage-and-secrets.md §2.2). By id: it may be anybody's. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <unistd.h>

#define ASK_FIRST_MS 200
#define ASK_MAX_MS 2000

/* What its node has told, by the words of the tool. */
static int verdict(struct cli *c, const json_t *v)
{
    const char *result = cli_str(v, "check.result"), *detail = cli_str(v, "check.detail"), *id = cli_str(v, "id");
    char what[320], mend[120];
    if (MT_STREQ(result, "clean") || MT_STREQ(result, "repaired")) {
        if (c->json)
            return cli_print_object(c, "Volume", v);
        cli_say(c, "%s✓%s volume %s is %s%s%s", cli_color(c, "green"), cli_color(c, "reset"), id, result, *detail ? ": " : "", detail);
        return CLI_OK;
    }
    bool damaged = MT_STREQ(result, "damaged"), mended = json_is_true(json_object_get(json_object_get(v, "check"), "repair"));
    (void)snprintf(what, sizeof what, "the filesystem of volume %.40s %s%s%.200s", id, damaged ? "is damaged" : MT_STREQ(result, "in_use") ? "is in use" : "could not be looked at",
                   *detail ? ": " : "", detail);
    (void)snprintf(mend, sizeof mend, damaged && !mended ? "moat admin volumes repair %.40s" : damaged ? "restore a backup of it: moat volumes restore %.40s" : "moat admin volumes fsck %.40s", id);
    return cli_error_reason(c, CLI_FAILURE, damaged ? "filesystem_damaged" : "not_checked", what, mend);
}

static int wait_for_it(struct cli *c, const char *id)
{
    int64_t end = mt_clock_mono() + c->wait_ms * MT_NS_PER_MS, pause_ms = ASK_FIRST_MS;
    char path[160];
    (void)snprintf(path, sizeof path, "/v1/admin/volumes?volume_id=%.40s", id);
    cli_catch_interrupt(c, "it", "moat admin volumes list");
    for (;;) {
        mt_auto_json json_t *page = NULL;
        int code = cli_call(c, "GET", path, NULL, &page);
        const json_t *v = code == CLI_OK ? json_array_get(json_object_get(page, "items"), 0) : NULL;
        if (code != CLI_OK)
            return code;
        if (!v)
            return cli_error(c, CLI_NOT_FOUND, "the volume was deleted meanwhile", "moat admin volumes list");
        if (!json_is_true(json_object_get(json_object_get(v, "check"), "pending")))
            return verdict(c, v);
        int64_t left_ms = (end - mt_clock_mono()) / MT_NS_PER_MS;
        if (left_ms <= 0)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; it goes on", "moat admin volumes list");
        (void)usleep((useconds_t)(pause_ms < left_ms ? pause_ms : left_ms) * 1000);
        pause_ms = pause_ms * 2 < ASK_MAX_MS ? pause_ms * 2 : ASK_MAX_MS;
    }
}

static int ask(struct cli *c, const char *verb)
{
    const char *id = c->argv[0];
    mt_auto_json json_t *body = json_object(), *r = NULL;
    int code = cli_check_id(c, id, "vol_", "moat admin volumes list");
    if (code == CLI_OK && MT_STREQ(verb, "repair"))
        code = cli_confirm_text(c, "this changes what is on the volume; what cannot be saved of a damaged filesystem goes to its lost+found or is gone", id);
    if (code == CLI_OK)
        code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = mt_asprintf("/v1/admin/volumes/%s/%s", id, verb);
    code = path ? cli_call(c, "POST", path, body, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    return cli_wants_wait(c) ? wait_for_it(c, id) : cli_receipt(c, "volume", r);
}

int cmd_admin_volumes_fsck(struct cli *c)
{
    return ask(c, "fsck");
}

int cmd_admin_volumes_repair(struct cli *c)
{
    return ask(c, "repair");
}
