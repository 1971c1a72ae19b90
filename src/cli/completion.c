/* SPDX-License-Identifier: Apache-2.0 */
/* completion: scripts for bash and zsh, made from the table of commands. They complete words and options, and ask no server. */
#include "cli/cli.h"

#include "base/str.h"

/* First words, each once. */
static void put_nouns(void)
{
    const struct cli_command *k, *before;
    for (k = cli_commands; k->name; k++) {
        size_t n = strcspn(k->name, " ");
        for (before = cli_commands; before < k; before++)
            if (strncmp(before->name, k->name, n) == 0 && (before->name[n] == ' ' || !before->name[n]))
                break;
        if (before == k)
            (void)printf("%s%.*s", k == cli_commands ? "" : " ", (int)n, k->name);
    }
}

/* One `NOUN) ...` for each noun that has verbs: the second words, each once. */
static void put_verbs(void)
{
    const char *noun = "", *last = "";
    size_t n = 0, m = 0;
    for (const struct cli_command *k = cli_commands; k->name; k++) {
        const char *verb = strchr(k->name, ' ');
        bool more = verb && n == (size_t)(verb - k->name) && strncmp(k->name, noun, n) == 0;
        size_t len = verb ? strcspn(verb + 1, " ") : 0;
        if (more && len == m && strncmp(verb + 1, last, m) == 0)
            continue;
        if (more) {
            (void)printf(" %.*s", (int)len, verb + 1);
        } else {
            if (n)
                (void)printf("' ;;\n");
            noun = k->name;
            n = verb ? (size_t)(verb - k->name) : 0;
            if (n)
                (void)printf("    %.*s) verbs='%.*s", (int)n, k->name, (int)len, verb + 1);
        }
        last = verb ? verb + 1 : "";
        m = len;
    }
    if (n)
        (void)printf("' ;;\n");
}

/* Length of the first two words of a command of three, 0 for others. */
static size_t two_words(const char *name)
{
    const char *a = strchr(name, ' '), *b = a ? strchr(a + 1, ' ') : NULL;
    return b ? (size_t)(b - name) : 0;
}

/* One `'NOUN VERB') ...` for each pair of words that has third ones; the table keeps them together. */
static void put_thirds(void)
{
    for (const struct cli_command *k = cli_commands; k->name; k++) {
        size_t n = two_words(k->name);
        if (!n)
            continue;
        bool first = k == cli_commands || two_words(k[-1].name) != n || strncmp(k[-1].name, k->name, n) != 0;
        bool last = !k[1].name || two_words(k[1].name) != n || strncmp(k[1].name, k->name, n) != 0;
        if (first)
            (void)printf("    '%.*s') thirds='", (int)n, k->name);
        (void)printf("%s%s%s", first ? "" : " ", k->name + n + 1, last ? "' ;;\n" : "");
    }
}

static void put_options(const struct cli_option *o)
{
    for (; o && o->name; o++)
        (void)printf(" --%s", o->name);
}

int cmd_completion(struct cli *c)
{
    bool zsh = MT_STREQ(c->argv[0], "zsh");
    if (!zsh && !MT_STREQ(c->argv[0], "bash"))
        return cli_usage(c, "'%.40s' is not bash or zsh", c->argv[0]);
    if (c->json)
        return cli_usage(c, "a completion script is no JSON");
    if (zsh)
        (void)printf("autoload -U +X bashcompinit && bashcompinit\n");
    (void)printf("_moat() {\n  local word=${COMP_WORDS[COMP_CWORD]} one=${COMP_WORDS[1]} two=${COMP_WORDS[2]} verbs='' thirds='' options=''\n"
                 "  case ${COMP_WORDS[COMP_CWORD-1]} in\n    -f|--manifest|--data-dir) compopt -o default 2>/dev/null; COMPREPLY=(); return ;;\n  esac\n"
                 "  case $one in\n");
    put_verbs();
    (void)printf("  esac\n  if [ \"$COMP_CWORD\" -eq 1 ]; then COMPREPLY=($(compgen -W '");
    put_nouns();
    (void)printf("' -- \"$word\")); return; fi\n"
                 "  if [ \"$COMP_CWORD\" -eq 2 ] && [ -n \"$verbs\" ] && [ \"${word#-}\" = \"$word\" ]; then COMPREPLY=($(compgen -W \"$verbs\" -- \"$word\")); return; fi\n"
                 "  [ -n \"$verbs\" ] && one=\"$one $two\"\n  case $one in\n");
    put_thirds();
    (void)printf("  esac\n"
                 "  if [ \"$COMP_CWORD\" -eq 3 ] && [ -n \"$thirds\" ] && [ \"${word#-}\" = \"$word\" ]; then COMPREPLY=($(compgen -W \"$thirds\" -- \"$word\")); return; fi\n"
                 "  [ -n \"$thirds\" ] && one=\"$one ${COMP_WORDS[3]}\"\n  case $one in\n");
    for (const struct cli_command *k = cli_commands; k->name; k++)
        if (k->options) {
            (void)printf("    '%s') options='", k->name);
            put_options(k->options);
            (void)printf("' ;;\n");
        }
    (void)printf("  esac\n  COMPREPLY=($(compgen -W \"$options");
    put_options(cli_global_options);
    (void)printf("\" -- \"$word\"))\n}\ncomplete -F _moat moat\n");
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
