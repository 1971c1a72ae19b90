/* SPDX-License-Identifier: Apache-2.0 */
/* `moat help man`: the manual page moat(1) as roff, made from the table of commands, its pages of help and its topics; packaging/deb/build
 * puts it into the package. */
#include "cli/cli.h"

#include "base/str.h"

/* Text for roff: no blank of ours becomes a hyphenation, no line of ours a request. */
static void put_text(FILE *out, const char *s)
{
    for (bool start = true; *s; start = *s == '\n', s++) {
        if (start && (*s == '.' || *s == '\''))
            (void)fputs("\\&", out);
        if (*s == '\\')
            (void)fputs("\\e", out);
        else if (*s == '-')
            (void)fputs("\\-", out);
        else
            (void)fputc(*s, out);
    }
}

static void put_options(FILE *out, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        if (MT_STREQ(o->name, "token")) /* as in the help: a token on a command line is seen by all of the machine */
            continue;
        (void)fputs(".TP\n", out);
        if (o->short_name)
            (void)fprintf(out, "\\fB\\-%c\\fR, ", o->short_name);
        (void)fputs("\\fB\\-\\-", out);
        put_text(out, o->name);
        (void)fputs("\\fR", out);
        if (o->arg) {
            (void)fputs(" \\fI", out);
            put_text(out, o->arg);
            (void)fputs("\\fR", out);
        }
        (void)fputc('\n', out);
        put_text(out, o->help);
        (void)fputc('\n', out);
    }
}

static void put_verbatim(FILE *out, const char *text)
{
    (void)fputs(".nf\n", out);
    put_text(out, text);
    (void)fputs("\n.fi\n", out);
}

static void put_command(FILE *out, const struct cli_command *k)
{
    const struct cli_page *page = cli_page_of(k->name);
    (void)fputs(".SS \"moat ", out);
    put_text(out, k->name);
    if (*k->args) {
        (void)fputc(' ', out);
        for (const char *p = k->args; *p; p++) /* a double quote would end the heading */
            (void)fputs(*p == '"' ? "\\(dq" : *p == '-' ? "\\-" : *p == '\\' ? "\\e" : (char[]){*p, '\0'}, out);
    }
    (void)fputs("\"\n", out);
    put_text(out, k->summary);
    (void)fputs(".\n", out);
    if (page) {
        (void)fputs(".PP\n", out);
        put_text(out, page->text);
        (void)fputc('\n', out);
    }
    put_options(out, k->options);
    if (page && page->examples) {
        (void)fputs(".PP\nExamples:\n.PP\n", out);
        put_verbatim(out, page->examples);
    }
}

void cli_man(FILE *out)
{
    (void)fprintf(out, ".\\\" made by `moat help man` from the table of commands\n.TH MOAT 1 \"\" \"moat %s\" \"moat\"\n.SH NAME\nmoat \\- run OCI images, each replica in its own microVM\n"
                       ".SH SYNOPSIS\n.B moat\n.I COMMAND\n.RI [ options ]\n.SH DESCRIPTION\nData goes to stdout, everything else to stderr; every command takes \\fB\\-\\-json\\fR. "
                       "A noun alone lists: \\fBmoat routes\\fR stands for \\fBmoat routes list\\fR.\n.SH OPTIONS OF EVERY COMMAND\n", MOAT_VERSION);
    put_options(out, cli_global_options);
    (void)fputs(".SH COMMANDS\n", out);
    for (const struct cli_command *k = cli_commands; k->name; k++)
        put_command(out, k);
    static const char *const topic[] = {"exit-codes", "environment"}, *const title[] = {"EXIT STATUS", "ENVIRONMENT"};
    for (size_t i = 0; i < sizeof topic / sizeof topic[0]; i++) {
        const struct cli_page *page = cli_topic(topic[i]);
        if (page) {
            (void)fprintf(out, ".SH %s\n", title[i]);
            put_verbatim(out, page->text);
        }
    }
    (void)fputs(".SH FILES\n.TP\n~/.config/moat/config.toml\nthe user's configuration, MOAT_CONFIG names another\n.TP\n/etc/moat/cli.toml\nthe platform of this machine, of the package moat\\-control\n"
                ".TP\n/var/lib/moat/etc/cli.toml\nthe platform of this machine, of \\fBmoat up\\fR\n.SH SEE ALSO\n.BR moat\\-control (8),\n.BR moat\\-agent (8),\n.BR moat\\-edge (8)\n", out);
}
