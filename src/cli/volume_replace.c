/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A volume gives name and process to another one (storage-and-secrets.md §2.5). The process has to rest meanwhile: with --drain it is scaled to
 * 0, waited for, and scaled as it was when the other volume has the place, or when it could not get it.
 */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <unistd.h>

#define LOOK_MS 300

/* How the process @process is scaled: a number that a user set, or null where its manifest says it. */
static int scale_of(struct cli *c, const char *process, json_t **ret_desired, json_int_t *ret_version)
{
    mt_auto_json json_t *now = NULL;
    mt_auto_free char *path = cli_env_path(c, "/scale");
    size_t i;
    json_t *p;
    int code = cli_call(c, "GET", path, NULL, &now);
    if (code != CLI_OK)
        return code;
    *ret_version = cli_int(now, "resource_version");
    json_decref(*ret_desired);
    *ret_desired = json_null();
    json_array_foreach(json_object_get(now, "processes"), i, p) if (MT_STREQ(cli_str(p, "process_type"), process) && MT_STREQ(cli_str(p, "source"), "user"))
        *ret_desired = json_integer((json_int_t)cli_int(p, "desired"));
    return CLI_OK;
}

/* Scale it to @desired (borrowed); @ret_before, where wanted: how it was. */
static int scale_to(struct cli *c, const char *process, json_t *desired, json_t **ret_before)
{
    mt_auto_json json_t *before = NULL, *after = NULL;
    mt_auto_free char *path = cli_env_path(c, "/scale");
    json_int_t version = 0;
    int code = scale_of(c, process, &before, &version);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:[{s:s,s:O}],s:I}", "processes", "process_type", process, "desired", desired, "expected_version", version);
    code = body ? cli_call(c, "PUT", path, body, &after) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code == CLI_OK && ret_before)
        *ret_before = json_incref(before);
    return code;
}

/* Ask for @path until its @member is @wanted; the word @failed ends it badly, with @what; @late is said at @end_ns. */
static int wait_until(struct cli *c, const char *path, const char *member, const char *wanted, const char *failed, const char *what, const char *late, int64_t end_ns)
{
    for (;;) {
        mt_auto_json json_t *now = NULL;
        int code = cli_call(c, "GET", path, NULL, &now);
        if (code != CLI_OK)
            return code;
        const char *is = cli_str(now, member);
        if (MT_STREQ(is, wanted))
            return CLI_OK;
        if (failed && MT_STREQ(is, failed)) {
            char why[160];
            (void)snprintf(why, sizeof why, "%s: %.100s", what, *cli_str(now, "failed_reason") ? cli_str(now, "failed_reason") : is);
            return cli_error(c, CLI_NOT_CONVERGED, why, NULL);
        }
        if (mt_clock_mono() >= end_ns)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", late, "moat volumes list");
        (void)usleep(LOOK_MS * 1000);
    }
}

static int swap(struct cli *c, const json_t *attachment, const char *new_id, json_t **ret)
{
    mt_auto_free char *path = cli_env_path(c, "/volume-attachments/%s/replace", cli_str(attachment, "id"));
    mt_auto_json json_t *body = json_pack("{s:s}", "new_volume_id", new_id);
    return cli_call(c, "POST", path, body, ret);
}

/* The process of @v is scaled to 0 and has stopped; *ret_before: how it was scaled. @late is said when it does not stop in time. */
static int drain(struct cli *c, const json_t *v, const char *late, int64_t end_ns, json_t **ret_before)
{
    const char *process = cli_str(json_object_get(v, "attachment"), "process_type");
    char resume[120];
    mt_auto_json json_t *none = json_integer(0);
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s", cli_str(v, "id"));
    (void)snprintf(resume, sizeof resume, "moat scale %.60s=default", process);
    cli_catch_interrupt(c, "the process is scaled to 0; it", resume);
    int code = scale_to(c, process, none, ret_before);
    if (code != CLI_OK)
        return code;
    if (!c->json && !c->quiet)
        cli_say(c, "stopping %s", process);
    return wait_until(c, path, "state", "available", "error", "the old volume", late, end_ns);
}

static int drained_swap(struct cli *c, const json_t *v, const char *new_id, int64_t end_ns, json_t **ret)
{
    const json_t *a = json_object_get(v, "attachment");
    const char *process = cli_str(a, "process_type");
    mt_auto_json json_t *before = NULL;
    int code = drain(c, v, "gave up waiting for the process to stop; nothing is replaced", end_ns, &before);
    if (!before)
        return code;
    if (code == CLI_OK)
        code = swap(c, a, new_id, ret);
    int back = scale_to(c, process, before, NULL);
    if (back == CLI_OK && !c->json && !c->quiet)
        cli_say(c, "%s is scaled as it was", process);
    return code != CLI_OK ? code : back;
}

int cli_volume_drained_detach(struct cli *c, const json_t *v)
{
    const json_t *a = json_object_get(v, "attachment");
    const char *process = cli_str(a, "process_type");
    mt_auto_json json_t *before = NULL, *r = NULL;
    mt_auto_free char *path = cli_env_path(c, "/volume-attachments/%s", cli_str(a, "id"));
    int code = drain(c, v, "gave up waiting for the process to stop; nothing is detached", mt_clock_mono() + c->wait_ms * MT_NS_PER_MS, &before);
    if (!before)
        return code;
    if (code == CLI_OK)
        code = cli_call(c, "DELETE", path, NULL, &r);
    /* A release that mounts the volume cannot run without it: it stays at 0 until somebody decides. */
    bool back = code != CLI_OK || MT_STREQ(cli_str(a, "managed_by"), "api");
    int scaled = back ? scale_to(c, process, before, NULL) : CLI_OK;
    if (!c->json && !c->quiet)
        cli_say(c, back ? "%s is scaled as it was" : "%s stays at 0: its release mounts the volume", process);
    if (code == CLI_OK)
        code = scaled;
    return code == CLI_OK ? cli_volume_done(c, v, r, "volume.detach", "is detached; its data stays") : code;
}

int cli_volume_replace(struct cli *c, const json_t *v, const char *new_id, bool drain)
{
    mt_auto_json json_t *r = NULL;
    int64_t end_ns = mt_clock_mono() + c->wait_ms * MT_NS_PER_MS;
    const json_t *a = json_object_get(v, "attachment");
    if (!a)
        return cli_error(c, CLI_USAGE, "the volume is not attached", "moat volumes list");
    int code = drain ? drained_swap(c, v, new_id, end_ns, &r) : swap(c, a, new_id, &r);
    if (code == CLI_OK)
        (void)json_object_set(r, "id", json_object_get(v, "id")); /* the answer is the attachment's, the receipt the volume's */
    return code == CLI_OK ? cli_volume_done(c, v, r, "volume.replace", "is replaced; it stays under another name, its data too") : code;
}

int cmd_volumes_replace(struct cli *c)
{
    const json_t *v = NULL, *n = NULL;
    mt_auto_json json_t *items = NULL, *others = NULL;
    int code = cli_volume(c, c->argv[0], &items, &v);
    if (code == CLI_OK)
        code = cli_volume(c, c->argv[1], &others, &n);
    return code == CLI_OK ? cli_volume_replace(c, v, cli_str(n, "id"), cli_has(c, "drain")) : code;
}

int cli_restored_replace(struct cli *c, const char *old_id, const json_t *restore)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL;
    const char *new_id = cli_str(restore, "new_volume_id");
    char resume[160];
    mt_auto_free char *path = mt_asprintf("/v1/orgs/%s/restores/%s", c->org_id, cli_str(restore, "id"));
    if (!path)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    (void)snprintf(resume, sizeof resume, "moat volumes replace %.40s %.40s --drain", old_id, new_id);
    cli_catch_interrupt(c, "the restore", resume);
    int code = wait_until(c, path, "status", "succeeded", "failed", "the restore", "gave up waiting; the restore goes on", mt_clock_mono() + c->wait_ms * MT_NS_PER_MS);
    if (code == CLI_OK)
        code = cli_volume(c, old_id, &items, &v);
    return code == CLI_OK ? cli_volume_replace(c, v, new_id, true) : code;
}
