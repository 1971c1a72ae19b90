/* SPDX-License-Identifier: Apache-2.0 */
/* The receipt of a mutation (control-plane.md §15.5). */
#include "cli/cli.h"

#include "base/str.h"

static bool flag(const json_t *body, const char *key)
{
    return json_is_true(json_object_get(body, key));
}

/* The member, or an empty list. */
static json_t *list_of(const json_t *obj, const char *key)
{
    json_t *v = json_object_get(obj, key);
    return json_is_array(v) ? json_incref(v) : json_array();
}

json_t *cli_receipt_json(struct cli *c, const char *type, const char *operation, const json_t *body)
{
    const json_t *r = json_object_get(body, "receipt");
    const char *id = cli_str(body, "id"), *name = *cli_str(body, "name") ? cli_str(body, "name") : cli_str(body, "hostname");
    const char *op = *cli_str(r, "operation") ? cli_str(r, "operation") : operation;
    bool changed = !flag(body, "deduplicated") && !flag(body, "already_deleted") && !flag(body, "dry_run");
    json_t *data = json_is_object(body) ? json_copy((json_t *)(uintptr_t)body) : json_object();
    (void)json_object_del(data, "receipt");
    return json_pack("{s:s,s:s,s:s,s:{s:s?,s:s*,s:s?,s:s?},s:{s:s,s:s,s:s?},s:b,s:b,s:O?,s:O?,s:o,s:o,s:o}", "api", "v1", "kind", "Receipt", "operation",
                     op && *op ? op : type, "target", "org", c->org, "project", c->project, "app", c->app, "env", c->env, "resource", "type", type, "id", id,
                     "name", *name ? name : NULL, "changed", changed, "replayed", c->replayed || flag(r, "replayed"), "event_id",
                     json_object_get(r, "event_id"), "desired", json_object_get(r, "desired"), "observed", data, "warnings", list_of(body, "warnings"),
                     "next", list_of(r, "next"));
}

int cli_receipt(struct cli *c, const char *type, const json_t *body)
{
    const json_t *r = json_object_get(body, "receipt");
    size_t i;
    json_t *item;
    if (c->json) {
        mt_auto_json json_t *doc = cli_receipt_json(c, type, NULL, body);
        return doc ? cli_print_line(c, doc) : cli_error(c, CLI_INTERNAL, "the server's answer has no id", NULL);
    }
    if (c->quiet) {
        (void)printf("%s\n", cli_str(body, "id"));
        return CLI_OK;
    }
    json_array_foreach(json_object_get(body, "warnings"), i, item)
        cli_say(c, "%swarning:%s %s", cli_color(c, "yellow"), cli_color(c, "reset"), json_is_string(item) ? json_string_value(item) : cli_str(item, "message"));
    (void)printf("%s %s%s%s\n", type, cli_str(body, "id"), *cli_str(body, "status") ? " " : "", cli_str(body, "status"));
    json_array_foreach(json_object_get(r, "next"), i, item) cli_say(c, "next: %s", cli_str(item, "command"));
    return CLI_OK;
}
