/* SPDX-License-Identifier: Apache-2.0 */
/* completion: scripts for bash, zsh and fish, made from the table of commands. They complete words and options, and ask no server. */
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

/* Options of every command of @words words, as branches of a case. */
static void put_cases(int words)
{
    for (const struct cli_command *k = cli_commands; k->name; k++)
        if (k->options && 1 + (strchr(k->name, ' ') != NULL) + (strchr(k->name, ' ') != strrchr(k->name, ' ')) == words) {
            (void)printf("    '%s') options='", k->name);
            put_options(k->options);
            (void)printf("' ;;\n");
        }
}

static void put_bash(void)
{
    (void)printf("_moat() {\n  local word=${COMP_WORDS[COMP_CWORD]} one=${COMP_WORDS[1]} two=${COMP_WORDS[2]} verbs='' thirds='' options=''\n"
                 "  case ${COMP_WORDS[COMP_CWORD-1]} in\n    -f|--manifest|--data-dir) compopt -o default 2>/dev/null; COMPREPLY=(); return ;;\n"
                 "    -o|--output) COMPREPLY=($(compgen -W 'table wide json' -- \"$word\")); return ;;\n  esac\n"
                 "  case $one in\n");
    put_verbs();
    (void)printf("  esac\n  if [ \"$COMP_CWORD\" -eq 1 ]; then COMPREPLY=($(compgen -W '");
    put_nouns();
    (void)printf("' -- \"$word\")); return; fi\n"
                 "  if [ \"$COMP_CWORD\" -eq 2 ] && [ -n \"$verbs\" ] && [ \"${word#-}\" = \"$word\" ]; then COMPREPLY=($(compgen -W \"$verbs\" -- \"$word\")); return; fi\n"
                 "  case \"$one\" in\n    describe|wait) if [ \"$COMP_CWORD\" -eq 2 ]; then COMPREPLY=($(compgen -W '");
    for (const char *p = cli_kind_names(); *p; p++)
        (void)putchar(*p == ',' ? ' ' : *p);
    (void)printf("' -- \"$word\")); return; fi ;;\n  esac\n  case \"$one $two\" in\n");
    put_thirds();
    (void)printf("  esac\n"
                 "  if [ \"$COMP_CWORD\" -eq 3 ] && [ -n \"$thirds\" ] && [ \"${word#-}\" = \"$word\" ]; then COMPREPLY=($(compgen -W \"$thirds\" -- \"$word\")); return; fi\n"
                 "  case $one in\n");
    put_cases(1);
    (void)printf("  esac\n  case \"$one $two\" in\n");
    put_cases(2);
    (void)printf("  esac\n  case \"$one $two ${COMP_WORDS[3]}\" in\n");
    put_cases(3);
    (void)printf("  esac\n  COMPREPLY=($(compgen -W \"$options");
    put_options(cli_global_options);
    (void)printf("\" -- \"$word\"))\n}\ncomplete -F _moat moat\n");
}

/* Text between single quotes of fish. */
static void put_quoted(const char *s)
{
    (void)putchar('\'');
    for (; *s; s++) {
        if (*s == '\'' || *s == '\\')
            (void)putchar('\\');
        (void)putchar(*s);
    }
    (void)putchar('\'');
}

static void put_fish_options(const char *when, const struct cli_option *o)
{
    for (; o && o->name; o++) {
        (void)printf("complete -c moat%s%s%s -l %s", *when ? " -n \"" : "", when, *when ? "\"" : "", o->name);
        if (o->short_name)
            (void)printf(" -s %c", o->short_name);
        if (o->arg)
            (void)printf(" %s", MT_STREQ(o->arg, "PATH") || MT_STREQ(o->arg, "DIR") ? "-rF" : "-x");
        (void)printf(" -d ");
        put_quoted(o->help);
        (void)putchar('\n');
    }
}

static void put_fish(void)
{
    (void)printf("function __moat_words\n  set -l words (commandline -opc | string match -v -- '-*')\n  test \"$words[2..]\" = \"$argv\"\nend\n"
                 "function __moat_in\n  string match -q -- \"$argv*\" (string join ' ' (commandline -opc | string match -v -- '-*')[2..])\nend\n"
                 "complete -c moat -f\n");
    for (const struct cli_command *k = cli_commands; k->name; k++) {
        const char *last = strrchr(k->name, ' ');
        (void)printf("complete -c moat -n \"__moat_words%s%.*s\" -a %s -d ", last ? " " : "", last ? (int)(last - k->name) : 0, k->name, last ? last + 1 : k->name);
        put_quoted(k->summary);
        (void)putchar('\n');
        if (last && strncmp(k[1].name ? k[1].name : "", k->name, (size_t)(last - k->name) + 1) != 0) /* the noun, once */
            (void)printf("complete -c moat -n __moat_words -a %.*s\n", (int)strcspn(k->name, " "), k->name);
        char when[120];
        (void)snprintf(when, sizeof when, "__moat_in %s", k->name);
        put_fish_options(when, k->options);
    }
    put_fish_options("", cli_global_options);
}

int cmd_completion(struct cli *c)
{
    const char *shell = c->argv[0];
    if (!MT_STREQ(shell, "bash") && !MT_STREQ(shell, "zsh") && !MT_STREQ(shell, "fish"))
        return cli_usage(c, "'%.40s' is not bash, zsh or fish", shell);
    if (c->json)
        return cli_usage(c, "a completion script is no JSON");
    if (MT_STREQ(shell, "fish")) {
        put_fish();
    } else {
        if (MT_STREQ(shell, "zsh"))
            (void)printf("autoload -U +X bashcompinit && bashcompinit\n");
        put_bash();
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
