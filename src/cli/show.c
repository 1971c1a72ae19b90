/* SPDX-License-Identifier: Apache-2.0 */
/* Answers as tables and fields: aligned, within the terminal, ids whole; text of tenants never reaches the terminal raw. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <sys/ioctl.h>
#include <unistd.h>

enum { COLUMNS_MAX = 16, CELL_MAX = 512, GAP = 2, NARROWEST = 8 };

const json_t *cli_member(const json_t *obj, const char *path)
{
    char part[64];
    while (obj && *path) {
        size_t n = strcspn(path, ".");
        if (n >= sizeof part)
            return NULL;
        memcpy(part, path, n);
        part[n] = '\0';
        obj = json_object_get(obj, part);
        path += n + (path[n] == '.');
    }
    return json_is_null(obj) ? NULL : obj;
}

const char *cli_str(const json_t *obj, const char *path)
{
    const char *s = json_string_value(cli_member(obj, path));
    return s ? s : "";
}

int64_t cli_int(const json_t *obj, const char *path)
{
    return json_integer_value(cli_member(obj, path));
}

const char *cli_text(const json_t *obj, const char *path, char *scratch, size_t size)
{
    const json_t *v = cli_member(obj, path);
    if (json_is_string(v))
        return json_string_value(v);
    if (json_is_integer(v))
        (void)snprintf(scratch, size, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        (void)snprintf(scratch, size, "%.2f", json_real_value(v));
    else if (json_is_boolean(v))
        (void)snprintf(scratch, size, "%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_array(v) && json_array_size(v) > 0) {
        size_t used = 0, i;
        json_t *item;
        json_array_foreach(v, i, item)
        {
            int n = snprintf(scratch + used, size - used, "%s%s", i ? "," : "", json_is_string(item) ? json_string_value(item) : "?");
            if (n < 0 || (size_t)n >= size - used)
                break;
            used += (size_t)n;
        }
    } else
        (void)snprintf(scratch, size, "-");
    return scratch;
}

/* Columns on the screen: one per UTF-8 character. */
static size_t shown_width(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && MT_STREQ(s + n - m, end);
}

/* Text of one cell: printable, times without their fraction. */
static const char *cell(const json_t *item, const char *key, char safe[CELL_MAX])
{
    char scratch[CELL_MAX];
    const char *t = cli_text(item, key, scratch, sizeof scratch);
    size_t n = strlen(t);
    const char *fraction = ends_with(key, "_at") ? strchr(t, '.') : NULL;
    (void)mt_printable(t, fraction ? (size_t)(fraction - t) : n, safe, CELL_MAX - 1);
    if (fraction)
        memcpy(safe + strlen(safe), "Z", 2);
    return safe;
}

/* Text and blanks up to @width; what is longer is cut and ends in an ellipsis. */
static void put_cell(const char *s, size_t width, bool pad)
{
    size_t have = shown_width(s), n = 0;
    const char *p = s;
    if (have <= width) {
        (void)printf("%s%*s", s, pad ? (int)(width - have) + GAP : 0, "");
        return;
    }
    for (; *p; p++)
        if (((unsigned char)*p & 0xc0) != 0x80 && n++ == width - 1)
            break;
    (void)printf("%.*s\xe2\x80\xa6%*s", (int)(p - s), s, pad ? GAP : 0, "");
}

/* Take from the last columns what the screen has not; ids, addresses and the first column stay whole. */
static void fit(size_t width[], const struct cli_column *cols, size_t n, size_t screen)
{
    size_t total = 0;
    for (size_t k = 0; k < n; k++)
        total += width[k] + (k + 1 < n ? GAP : 0);
    for (size_t k = n; total > screen && k-- > 1;) {
        size_t least = strlen(cols[k].title) > NARROWEST ? strlen(cols[k].title) : NARROWEST;
        if (MT_STREQ(cols[k].key, "id") || ends_with(cols[k].key, "_id") || ends_with(cols[k].key, "ipv6") || width[k] <= least)
            continue;
        size_t cut = total - screen < width[k] - least ? total - screen : width[k] - least;
        width[k] -= cut;
        total -= cut;
    }
}

int cli_print_table(struct cli *c, const json_t *items, const struct cli_column *cols, size_t n, const char *plural)
{
    size_t i, width[COLUMNS_MAX] = {0};
    const json_t *item;
    char safe[CELL_MAX];
    MT_ASSERT(n > 0 && n <= COLUMNS_MAX);
    if (json_array_size(items) == 0)
        cli_say(c, "no %s", plural);
    if (c->quiet)
        json_array_foreach(items, i, item) (void)printf("%s\n", cell(item, cli_member(item, "id") ? "id" : cols[0].key, safe));
    if (c->quiet || json_array_size(items) == 0)
        return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
    for (size_t k = 0; k < n; k++) {
        width[k] = strlen(cols[k].title);
        json_array_foreach(items, i, item)
        {
            size_t w = shown_width(cell(item, cols[k].key, safe));
            width[k] = w > width[k] ? w : width[k];
        }
    }
    struct winsize ws;
    if (!c->wide && (c->columns || (c->tty && ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col)))
        fit(width, cols, n, c->columns ? c->columns : ws.ws_col);
    (void)printf("%s", cli_color(c, "dim"));
    for (size_t k = 0; k < n; k++)
        put_cell(cols[k].title, width[k], k + 1 < n);
    (void)printf("%s\n", cli_color(c, "reset"));
    json_array_foreach(items, i, item)
    {
        for (size_t k = 0; k < n; k++)
            put_cell(cell(item, cols[k].key, safe), width[k], k + 1 < n);
        (void)putchar('\n');
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}

int cli_print_fields(struct cli *c, const json_t *obj)
{
    const char *key;
    json_t *v;
    char safe[CELL_MAX];
    size_t width = 22;
    if (c->quiet) {
        (void)printf("%s\n", cell(obj, "id", safe));
        return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
    }
    json_object_foreach((json_t *)(uintptr_t)obj, key, v) width = strlen(key) > width ? strlen(key) : width;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        bool plain = json_is_array(v) ? json_is_string(json_array_get(v, 0)) : !json_is_object(v) && !json_is_null(v);
        if (plain && !MT_STREQ(cell(obj, key, safe), ""))
            (void)printf("%s%-*s%s %s\n", cli_color(c, "dim"), (int)width, key, cli_color(c, "reset"), safe);
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}

int cli_show_list(struct cli *c, char *path, const struct cli_column *cols, size_t n, const char *plural)
{
    mt_auto_json json_t *items = NULL;
    int code = cli_list(c, path, &items);
    free(path);
    if (code != CLI_OK)
        return code;
    return c->json ? cli_print_list(c, items) : cli_print_table(c, items, cols, n, plural);
}

int cli_show_object(struct cli *c, char *path, const char *kind)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", path, NULL, &j);
    free(path);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, kind, j);
    code = cli_print_fields(c, j);
    cli_print_failure(c, stdout, cli_member(j, "failure"));
    return code;
}
