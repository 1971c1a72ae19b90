/* SPDX-License-Identifier: Apache-2.0 */
/* What the help of a command says besides its options, and the topics of `moat help` that are no command. No code but the search. */
#include "cli/cli.h"

#include "base/str.h"

static const struct cli_page pages[] = {
    {"up", "Starts PostgreSQL, the control plane, an image registry, the edge and the agent, supervises them and prints how to go on. Killed at\n"
           "any moment, the next `moat up` adopts what runs. Needs root, for virtual machines and their network.",
     "  moat up --detach\n  moat up --data-dir /srv/moat --tls-port 8443"},
    {"down", "Stops all instances, then the programs. The data stays, and `moat up` goes on from there; --purge removes it.", "  moat down\n  moat down --purge"},
    {"doctor", "Looks at the kernel, the programs that are needed, the control plane, the nodes and the agent. Each finding that is not fine\n"
               "comes with the command that mends it. Exits 1 when something is missing that must be there.",
     "  moat doctor\n  moat doctor --json | jq '.data.checks[] | select(.severity != \"ok\")'"},
    {"admin upgrade check", "Before a version is replaced by the next one: how old the backup of the control plane is, whether views, audit and standby lag, whether memory\n"
                            "is left when one node is away, whether versions are no further apart than one, whether anything moves. It changes nothing. Exits 1 when\n"
                            "something fails; warnings alone are 0. Packages are what upgrades: docs/packages.md.",
     "  moat admin upgrade check\n  moat admin upgrade --check --json && apt-get install ./moat*.deb"},
    {"admin doctor", "Asks the control plane about database, log, scheduler, nodes, backups, certificates and master keys. Each finding that is not fine comes with\n"
                     "what mends it. Exits 1 when something fails; warnings alone are 0. `moat doctor` looks at one machine.",
     "  moat admin doctor\n  moat admin doctor --json | jq '.data.checks[] | select(.severity != \"ok\")'"},
    {"run", "Writes a manifest for the image, shows it, makes app and environment when they are missing, and deploys.",
     "  moat run registry.example.net/acme/web:1 --port 8443 --hostname web.example.net"},
    {"init", "Nothing is made on the server. On a pipe the manifest goes to stdout, on a terminal into moat.toml.",
     "  moat init --image registry.example.net/acme/web:1 --port 8443\n  moat init --image registry.example.net/acme/web:1 > moat.toml"},
    {"deploy", "Checks the manifest here, makes a release of it (the image is pinned by digest) and rolls it out: new instances have to become\n"
               "ready before old ones go. On a terminal it waits; Ctrl-C ends the waiting, not the deploy. Exits 8 when the rollout failed;\n"
               "the release before still serves then. --release deploys one that exists, also of another environment.",
     "  moat deploy --env staging\n  moat deploy --release v12 --env prod --wait --json | tail -n 1\n  moat deploy --dry-run --release v12"},
    {"rollback", "Deploys an earlier release again. Routes stay as they are.", "  moat rollback\n  moat rollback --to v11 --wait"},
    {"scale", "Without arguments shows what is wanted and where that comes from. PROCESS=default gives the number back to the manifest.",
     "  moat scale web=3 worker=0 --wait\n  moat scale web=default"},
    {"restart", "Replaces every instance by a new one of the same release, new ones first.", "  moat restart --process worker --wait"},
    {"manifest validate", "All problems come at once, ordered by line, each with its place and often with what to write instead. No network. The server\n"
                          "runs the same check with the same result.",
     "  moat manifest validate\n  moat manifest validate -f - --json < moat.toml"},
    {"manifest fmt", "Tables and keys get a fixed order, values one spelling; comments stay with what they stand at. What the manifest means never\n"
                     "changes. With -f - it reads stdin and writes stdout. --check exits 1 when something would change.",
     "  moat manifest fmt\n  moat manifest fmt --check || exit 1"},
    {"manifest show", "Prints every field with its default filled in, as the release will hold it.", "  moat manifest show --json | jq .data.processes.web"},
    {"manifest schema", "For editors that check TOML by JSON Schema. --markdown prints the fields as a table.", "  moat manifest schema > moat.schema.json"},
    {"status", "What is wanted, what runs, and why the two differ; routes, the last deploy, the last failure. --at tells it of a moment of the\n"
               "past, out of the event log: a time (2026-11-28T21:00:00Z), a span before now (-2h30m), or after an event (@4711). --of app and\n"
               "--of org tell everything below.",
     "  moat status --env prod\n  moat status --at -2h\n  moat status --of org --at @4711\n  watch -n 5 moat status\n  moat status --json | jq '.data.processes[] | {process_type, ready, desired}'"},
    {"diff", "Releases, replicas, instances that came and went and why, routes, the last deploy; with --of org also members, limits and apps.\n"
             "--json has them with their values, and a JSON Patch (RFC 6902) that makes the later state out of the earlier.",
     "  moat diff --from -1h\n  moat diff --from 2026-11-28T21:00:00Z --to @4711 --of app\n  moat diff --from -1d --json | jq -r '.data.changes[].text'"},
    {"describe", "KIND is one of app, env, release, deploy, instance, route, volume, snapshot, restore, migration, secret-bundle, node. Shows the whole\n"
                 "object, the ids it names and its last 20 events. A release may be v3, an app or environment a name.",
     "  moat describe deploy dep_01jd...\n  moat describe release v3\n  moat describe env prod --json"},
    {"wait", "Returns at once when it is so already. Exits 8 when it can never become so, 6 after --wait-timeout. Ctrl-C ends the waiting only\n"
             "and says how to go on.",
     "  moat wait deploy dep_01jd... --wait-timeout 5m\n  moat wait instance inst_01jd... --for stopped"},
    {"deploys wait", "The same as `moat wait deploy ID`.", "  moat deploys wait dep_01jd..."},
    {"logs", "Lines of what runs and of what ended lately, oldest first. They lie on the nodes and are read through the control plane.",
     "  moat logs -f --process web\n  moat logs --instance inst_01jd... -n 1000 --contains error"},
    {"exec", "INSTANCE is an id, or a process type: then its newest ready instance is taken and named. Without one any process will do. The exit status\n"
             "is that of the command, 128+n when signal n killed it, 255 when it could not be started or the session broke.",
     "  moat exec web -- ls -l /\n  moat exec -it web -- sh\n  moat exec inst_01jd... -- cat /data/dump > dump\n  moat exec -i web -- tar xf - -C /tmp < files.tar"},
    {"events", "The event log: who did what, and what came of it. With -f it goes on where it ended, without gap or repetition.",
     "  moat events --deploy dep_01jd...\n  moat events -f --type 'instance.*' --ndjson"},
    {"routes create", "The name leads to a port of a process by TLS passthrough: the process holds the certificate. --raw takes a port instead of a name.",
     "  moat routes create web.example.net --process web --port 8443\n  moat routes create --raw --listen 5432 --process db --port 5432"},
    {"snapshots create", "A snapshot is frozen in a moment and goes encrypted to the store for backups; it has succeeded when it is there and was checked. One of a\n"
                         "volume at a time. --wait returns when it has ended, and fails with exit 8 when it failed.",
     "  moat snapshots create data --note 'before the upgrade' --wait\n  moat volumes snapshot data"},
    {"volumes restore", "The backup becomes a new volume, never the old one again; its file system is checked before it is available. A volume that is deleted\n"
                        "is restored by --snapshot, as long as its backups are kept. Attach the new one by its name in the manifest.",
     "  moat volumes restore data --name data-july --wait\n  moat volumes restore --snapshot snap_01jd..."},
    {"backups status", "LAG is the age of the last backup that succeeded, by the server's clock; stale means older than two intervals. PROVEN is when a backup of the\n"
                       "volume was last restored and its file system checked; unknown until then.",
     "  moat backups status --all\n  moat backups status --all --stale --json | jq -e '.items == []'"},
    {"context use", "Saves organisation, app and environment in the configuration file, for commands that name none. Flags, MOAT_* variables and\n"
                    "app.name of a manifest come before it.",
     "  moat context use acme/invoices@staging\n  moat context use acme/billing/invoices@prod --profile work"},
    {"context set", "Each option given is saved, an empty value removes it. With --profile into that section of the file, which is made when it is\n"
                    "not there.",
     "  moat context set --env staging\n  moat context set --profile work --api unix:/run/moat/api.sock --org acme"},
    {"support-bundle", "Writes JSON files into a new folder: versions, configuration, state, the last 500 events. Values of variables, tokens, passwords\n"
                       "and log lines are not in it. Works as far as it can when the server does not answer.",
     "  moat support-bundle /tmp/moat-bundle"},
    {"completion", "Prints a script for the shell. It completes commands and options, and asks no server.",
     "  source <(moat completion bash)\n  source <(moat completion zsh)\n  moat completion fish > ~/.config/fish/completions/moat.fish"},
    {"version", "Without a server that answers within 5 seconds, the version of this program alone.", "  moat version --client"},
    {"launch", "As `moat init`, then app and environment are made when they are missing.", "  moat launch --image registry.example.net/acme/web:1 --port 8443 --env prod"},
};

static const struct cli_page topics[] = {
    {"exit-codes",
     "  0  ok              done, or accepted with --no-wait\n"
     "  1  failure         something else\n"
     "  2  usage           wrong options, no target, a bad manifest, refused by the API as wrong\n"
     "  3  auth            not signed in, or not allowed\n"
     "  4  not_found       there is no such thing\n"
     "  5  conflict        it is not in a state for that; a quota, a version, a name that is taken\n"
     "  6  transient       network, rate limit, unavailable, waited too long: try again\n"
     "  7  internal        a fault of the server or of this program\n"
     "  8  not_converged   what was waited for has failed\n"
     "130  interrupted     Ctrl-C; what was started goes on\n\n"
     "With --json an error is one document on stdout: {\"error\":{\"category\",\"code\",\"message\",\"hint\",\"retryable\",...}}.",
     NULL},
    {"environment",
     "MOAT_ORG, MOAT_PROJECT, MOAT_APP, MOAT_ENV   target, as the options\n"
     "MOAT_API                                     server\n"
     "MOAT_CA_FILE, MOAT_PIN                       whom to trust as that server, with https\n"
     "MOAT_PROFILE                                 section of the configuration file\n"
     "MOAT_TOKEN                                   bearer token, wins over stored credentials\n"
     "MOAT_OUTPUT                                  table, wide or json\n"
     "MOAT_NO_INPUT                                never ask\n"
     "MOAT_CONFIG                                  configuration file, else $XDG_CONFIG_HOME/moat/config.toml\n"
     "MOAT_KEYRING                                 off: logins are kept in a file, not in the desktop's keyring\n"
     "NO_COLOR                                     no colours\n\n"
     "A target is looked for in this order: option, variable, app.name of ./moat.toml, saved context (`moat help context`); an organisation or\n"
     "project may be left out when there is exactly one. App and environment are never guessed.",
     NULL},
};

static const struct cli_page *search(const struct cli_page *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (MT_STREQ(list[i].name, name))
            return &list[i];
    return NULL;
}

const struct cli_page *cli_page_of(const char *command)
{
    return search(pages, sizeof pages / sizeof pages[0], command);
}

const struct cli_page *cli_topic(const char *name)
{
    return search(topics, sizeof topics / sizeof topics[0], name);
}
