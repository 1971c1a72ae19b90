/* SPDX-License-Identifier: Apache-2.0 */
/* The audit log: who did what, who was refused, and whether the chain still holds. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

/* "2026-01-31T00:00:00Z" as it is, "90m" as the time so long ago. */
static int put_time(struct cli *c, struct mt_buf *q, const char *option)
{
    const char *v = cli_opt(c, option);
    char ts[MT_RFC3339_LEN];
    int64_t us, ms;
    struct mt_err err;
    if (!v)
        return CLI_OK;
    if (mt_rfc3339_parse(v, &us, &err) < 0) {
        if (cli_parse_duration(v, &ms, &err) < 0)
            return cli_usage(c, "--%s: an RFC 3339 time, or a time span such as 90m", option);
        us = mt_clock_wall_us() - ms * 1000;
    }
    mt_rfc3339(us, ts);
    mt_buf_printf(q, "&%s=%s", option, ts);
    return CLI_OK;
}

static int show(struct cli *c, const char *path, const char *chain)
{
    static const struct cli_column cols[] = {{"TIME", "ts"},           {"ACTOR", "actor_id"},   {"ACTION", "action"},
                                             {"RESOURCE", "resource_id"}, {"DECISION", "decision"}, {"RESULT", "outcome"},
                                             {"EVENT", "event_id"},    {"FROM", "source_ip"}};
    uint64_t lines = 50;
    struct mt_err err;
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(2000);
    if (cli_has(c, "lines") && mt_parse_u64(cli_opt(c, "lines"), 1, 200, &lines, &err) < 0)
        return cli_usage(c, "--lines: %s", err.msg);
    mt_buf_printf(&q, "%s?limit=%" PRIu64 "%s", path, lines, chain);
    int code = put_time(c, &q, "since");
    if (code == CLI_OK)
        code = put_time(c, &q, "until");
    if (code != CLI_OK)
        return code;
    cli_put_filter(c, &q, "actor", "actor");
    cli_put_filter(c, &q, "action", "action");
    cli_put_filter(c, &q, "resource", "resource");
    if (cli_has(c, "denied"))
        mt_buf_puts(&q, "&decision=deny");
    mt_auto_json json_t *j = NULL;
    if ((code = cli_call(c, "GET", mt_buf_cstr(&q), NULL, &j)) != CLI_OK)
        return code;
    json_t *items = json_object_get(j, "items"), *a;
    size_t i;
    if (c->json)
        return cli_print_list(c, items);
    json_array_foreach(items, i, a)
    {
        const char *failed = cli_str(a, "error_code");
        (void)json_object_set_new(a, "outcome", json_string(*failed ? failed : cli_str(a, "result")));
    }
    return cli_print_table(c, items, cols, sizeof cols / sizeof cols[0], "audit records");
}

static int verify(struct cli *c, const char *path)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    bool ok = json_is_true(json_object_get(j, "ok"));
    json_t *chains = json_object_get(j, "chains"), *v;
    size_t i;
    if (c->json) {
        code = cli_print_object(c, "AuditVerdict", j);
        return code != CLI_OK ? code : ok ? CLI_OK : CLI_FAILURE;
    }
    json_array_foreach(chains, i, v)
    {
        if (!cli_member(v, "bad")) {
            (void)printf("%s: %" PRId64 " records hold, the last is %" PRId64 ", hash %s\n", cli_str(v, "chain"), cli_int(v, "records"),
                         cli_int(v, "head_seq"), cli_str(v, "head_hash"));
            continue;
        }
        (void)printf("%s: record %" PRId64 " %s%s%s\n", cli_str(v, "chain"), cli_int(v, "bad.seq"), cli_str(v, "bad.audit_id"),
                     *cli_str(v, "bad.audit_id") ? ": " : "", cli_str(v, "bad.what"));
    }
    if (json_array_size(chains) == 0)
        cli_say(c, "no audit records");
    return ok ? CLI_OK
              : cli_error(c, CLI_FAILURE, "the audit log was altered",
                          "keep the database as it is and compare with a backup from before that record");
}

/* ---- export ---- */

struct export {
    struct cli *c;
    const char *base; /* path of the list */
    FILE *out;
    bool whole;       /* nothing is filtered out: numbers and hashes of a chain must follow each other */
    int64_t records;
    json_t *chains;   /* what was written of each */
};

/* A hash is over the bytes that were stored: nothing is made fit for a terminal on its way into the file. */
static int raw_page(struct cli *c, const char *target, json_t **ret)
{
    c->raw = true;
    int code = cli_call(c, "GET", target, NULL, ret);
    c->raw = false;
    return code;
}

/* One chain, oldest record first. @v: what the server says of it. */
static int export_chain(struct export *x, const json_t *v, bool named)
{
    struct cli *c = x->c;
    const char *chain = cli_str(v, "chain");
    char hash[65] = "";
    int64_t first = 0, last = cli_int(v, "anchor_seq"), n = 0;
    mt_auto_free char *cursor = NULL;
    do {
        mt_auto_buf struct mt_buf q = MT_BUF_INIT(4096);
        mt_auto_json json_t *page = NULL;
        json_t *r;
        size_t i;
        mt_buf_printf(&q, "%s?limit=200&order=asc", x->base);
        if (named) {
            mt_buf_puts(&q, "&chain=");
            mt_http_put_query(&q, chain);
        }
        int code = put_time(c, &q, "since");
        if (code == CLI_OK)
            code = put_time(c, &q, "until");
        if (cursor) {
            mt_buf_puts(&q, "&cursor=");
            mt_http_put_query(&q, cursor);
        }
        if (code != CLI_OK || (code = raw_page(c, mt_buf_cstr(&q), &page)) != CLI_OK)
            return code;
        json_array_foreach(json_object_get(page, "items"), i, r)
        {
            int64_t seq = cli_int(r, "seq");
            if (x->whole && (seq != last + 1 || (*hash && !MT_STREQ(cli_str(r, "prev_hash"), hash)))) {
                mt_auto_free char *what = mt_asprintf("chain %s: record %" PRId64 " does not follow record %" PRId64, chain, seq, last);
                return cli_error(c, CLI_FAILURE, what ? what : "out of memory", "moat admin audit verify names what was altered");
            }
            if (json_dumpf(r, x->out, JSON_COMPACT) < 0 || fputc('\n', x->out) == EOF)
                return cli_error(c, CLI_FAILURE, "the file cannot be written", NULL);
            first = first ? first : seq;
            last = seq;
            (void)snprintf(hash, sizeof hash, "%s", cli_str(r, "hash"));
            n++;
        }
        free(cursor);
        const char *next = cli_str(page, "next_cursor");
        cursor = *next ? strdup(next) : NULL;
    } while (cursor);
    x->records += n;
    if (n > 0)
        (void)json_array_append_new(x->chains, json_pack("{s:s,s:I,s:I,s:I,s:s}", "chain", chain, "records", (json_int_t)n, "first_seq",
                                                         (json_int_t)first, "last_seq", (json_int_t)last, "last_hash", hash));
    return CLI_OK;
}

static int export_all(struct export *x, const json_t *verdict, bool named)
{
    const json_t *v;
    size_t i;
    int code = CLI_OK;
    bool ok = json_is_true(json_object_get(verdict, "ok"));
    x->whole = ok && !cli_has(x->c, "since") && !cli_has(x->c, "until"); /* of an altered log all that is there is wanted */
    json_array_foreach(json_object_get(verdict, "chains"), i, v)
        if (code == CLI_OK)
            code = export_chain(x, v, named);
    if (code != CLI_OK)
        return code;
    return fflush(x->out) == 0 && fsync(fileno(x->out)) == 0 ? CLI_OK : cli_error(x->c, CLI_FAILURE, "the file cannot be written", NULL);
}

/* Records as lines of JSON into a new file, which only its owner reads; a file that is not whole does not stay. */
static int export(struct cli *c, const char *base, bool named)
{
    const char *path = c->argv[0];
    char target[240];
    mt_auto_json json_t *verdict = NULL, *made = NULL;
    struct export x = {.c = c, .base = base, .chains = json_array()};
    made = x.chains ? json_pack("{s:s,s:o}", "path", path, "chains", x.chains) : NULL;
    if (!made)
        return cli_usage(c, "FILE is not UTF-8");
    (void)snprintf(target, sizeof target, "%s/verify", base);
    int code = cli_call(c, "GET", target, NULL, &verdict);
    if (code != CLI_OK)
        return code;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    x.out = fd < 0 ? NULL : fdopen(fd, "w");
    if (!x.out) {
        mt_auto_free char *what = mt_asprintf("'%s' cannot be made: %s", path, strerror(errno));
        return cli_error(c, CLI_USAGE, what ? what : "out of memory", errno == EEXIST ? "name a file that is not there yet" : NULL);
    }
    code = export_all(&x, verdict, named);
    if (fclose(x.out) != 0 && code == CLI_OK)
        code = cli_error(c, CLI_FAILURE, "the file cannot be written", NULL);
    if (code != CLI_OK) {
        (void)unlink(path);
        return code;
    }
    bool ok = json_is_true(json_object_get(verdict, "ok"));
    (void)json_object_set_new(made, "records", json_integer(x.records));
    (void)json_object_set_new(made, "ok", json_boolean(ok));
    if (c->json) {
        code = cli_print_object(c, "AuditExport", made);
        return code != CLI_OK || ok ? code : CLI_FAILURE;
    }
    const json_t *v;
    size_t i;
    cli_tame(x.chains);
    json_array_foreach(x.chains, i, v)
        (void)printf("%s: %" PRId64 " records, %" PRId64 " to %" PRId64 ", hash %s\n", cli_str(v, "chain"), cli_int(v, "records"),
                     cli_int(v, "first_seq"), cli_int(v, "last_seq"), cli_str(v, "last_hash"));
    cli_say(c, "%" PRId64 " records are in %s", x.records, path);
    return ok ? CLI_OK : cli_error(c, CLI_FAILURE, "the audit log was altered; the file holds what there is", "moat admin audit verify names the record");
}

int cmd_audit_export(struct cli *c)
{
    char path[200];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/audit", c->org_id);
    return export(c, path, false);
}

int cmd_admin_audit_export(struct cli *c)
{
    return export(c, "/v1/admin/audit", true);
}

int cmd_audit(struct cli *c)
{
    char path[200];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/audit", c->org_id);
    return show(c, path, "");
}

int cmd_audit_verify(struct cli *c)
{
    char path[200];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/audit/verify", c->org_id);
    return verify(c, path);
}

int cmd_admin_audit(struct cli *c)
{
    return show(c, "/v1/admin/audit", cli_has(c, "all") ? "" : "&chain=platform");
}

int cmd_admin_audit_verify(struct cli *c)
{
    return verify(c, "/v1/admin/audit/verify");
}
