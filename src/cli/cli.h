/* SPDX-License-Identifier: Apache-2.0 */
/* What every command of the CLI shares: its options, the resolved target, calls to the API, output in the mode asked for,
 * and exit codes (control-plane.md §15). Data goes to stdout, everything else to stderr. */
#pragma once

#include "wire/http_client.h"
#include "wire/json.h"

#include <stdio.h>

/** Exit codes, control-plane.md §15.4. */
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILURE = 1,
    CLI_USAGE = 2,
    CLI_AUTH = 3,
    CLI_NOT_FOUND = 4,
    CLI_CONFLICT = 5,
    CLI_TRANSIENT = 6,
    CLI_INTERNAL = 7,
    CLI_NOT_CONVERGED = 8,
    CLI_INTERRUPTED = 130
};

struct cli_option {
    const char *name; /* long name */
    char short_name;  /* 0: none */
    const char *arg;  /* placeholder of the value; NULL: a switch; in brackets: it may be left out and is "" then */
    const char *help;
};

struct cli_value {
    const char *name;
    const char *value; /* "" for a switch */
};

struct cli {
    /* parsed command line */
    struct cli_value values[64];
    size_t value_count;
    int argc; /* positional arguments */
    char **argv;
    int behind_dashes; /* how many of them stood behind --; -1: there was none */
    const struct cli_command *command;
    /* output */
    bool json, quiet, color, tty, debug;
    bool ndjson; /* lists as one object per line; implies json */
    bool wide;   /* tables as wide as they are */
    bool said;   /* the target has been named on stderr, or need not be */
    bool hush;        /* errors are not printed: the caller tells them in its own words */
    unsigned columns; /* width of the screen for tables; 0: ask the terminal, or no limit */
    /* target */
    char *api;   /* path of the Unix socket, or https://host[:port] */
    char *host;  /* of https */
    uint16_t port;
    struct mt_tls_ctx *tls; /* of https: whom to trust; NULL: a Unix socket */
    char *token; /* bearer token */
    bool anonymous; /* no token is looked for: signing in and out */
    int token_from; /* 0 none, 1 given, 2 client credentials, 3 a stored login, 4 the configured file */
    const char *org, *project, *app, *env;
    char org_id[40], project_id[40], app_id[40], env_id[40];
    char env_gate[16]; /* config_gate of the environment, "" when it was not asked for */
    bool made;         /* cli_ensure_env made the environment */
    char *config_org, *config_project, *config_app, *config_env, *config_data_dir;
    bool once;     /* no retries */
    bool in_keyring;   /* the login that was found is in the desktop's keyring */
    bool raw;          /* answers are kept as they are: they go into a file, not to a terminal */
    bool recovery_told; /* said that the platform is in recovery */
    bool replayed; /* the last answer was that of an earlier request with the same key */
    uint64_t tls_port; /* local port behind route port 443; 0: 443 itself */
    struct mt_http_client *http;
    char idempotency_key[129];
    int64_t timeout_ms; /* of one request */
    int64_t wait_ms;    /* --wait-timeout */
};

/** What people want of a command: the headings of the help. */
enum cli_group { CLI_PLATFORM = 0, CLI_APPS, CLI_LOOK, CLI_ROUTES, CLI_MORE, CLI_GROUP_MAX };

struct cli_command {
    enum cli_group group;
    const char *name; /* "deploy", or "routes create" */
    const char *args; /* as shown in the usage line */
    const char *summary;
    const struct cli_option *options; /* ends with name == NULL; may be NULL */
    int (*run)(struct cli *c);
};

/** All commands, ended by name == NULL, in the order of the help (commands.c). */
extern const struct cli_command cli_commands[];
/** Options of every command, ended by name == NULL. */
extern const struct cli_option cli_global_options[];

/* options (args.c) */
/** Fill @c from the command line; 0: run c->command, -1: help was printed, else the exit code of an error that was printed. Reorders @argv. */
int cli_parse(struct cli *c, int argc, char **argv);
/** Command of one to three words, NULL when there is none. A noun alone stands for its list. *ret_words: words used. */
const struct cli_command *cli_find_command(const char *first, const char *second, const char *third, int *ret_words);
/** Value of an option (the last one given), NULL when it was not given; "" for a switch. */
const char *cli_opt(const struct cli *c, const char *name);
bool cli_has(const struct cli *c, const char *name);
/** The @i-th value of an option that may be repeated, NULL after the last. */
const char *cli_opt_n(const struct cli *c, const char *name, size_t i);
/** Help on @topic ("deploy", "routes", "routes create"; NULL: all commands); false when it is no command. */
bool cli_help(FILE *out, const char *topic);
/** The manual page moat(1) as roff, of the same tables (`moat help man`, man.c). */
void cli_man(FILE *out);

/** A page of help: text and examples of a command, or a topic. */
struct cli_page {
    const char *name, *text;
    const char *examples; /* NULL: none */
};
const struct cli_page *cli_page_of(const char *command);
const struct cli_page *cli_topic(const char *name);

/* errors and output (out.c); each error call returns the exit code to give back */
int cli_error(struct cli *c, int code, const char *what, const char *hint);
/** As cli_error, with a machine-readable reason: code and details.reason of the JSON form. */
int cli_error_reason(struct cli *c, int code, const char *reason, const char *what, const char *hint);
/** Name of an exit code, "not_found"; "failure" for what has none. */
const char *cli_category(int code);
/** Exit code of an HTTP status that is not 2xx. */
int cli_exit_of_status(int status);
int cli_fail(struct cli *c, const struct mt_err *err, const char *hint);
int cli_usage(struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Make all strings in @j fit for a terminal, in place: done with every answer that is shown to people, because names, log lines and reasons
 * come from tenants and guests. */
void cli_tame(json_t *j);
/** Print {"api":"v1","kind":@kind,"data":@data}; borrows. */
int cli_print_object(struct cli *c, const char *kind, const json_t *data);
int cli_print_list(struct cli *c, const json_t *list);
/** One object per line, flushed at once (streams). */
int cli_print_line(struct cli *c, const json_t *obj);
/** Ask for @name before something is removed, on a terminal and without --yes, --no-input, --json; 0 to go on, else the exit code. */
int cli_confirm(struct cli *c, const char *noun, const char *name);
/** The same, with another sentence than that @name is removed. */
/** --no-input or MOAT_NO_INPUT: nobody is asked anything. out.c */
bool cli_no_input(const struct cli *c);
int cli_confirm_text(struct cli *c, const char *text, const char *name);
/** A line for people on stderr; nothing with --quiet or --json. */
void cli_say(struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Escape sequence or "" when colour is off: "bold", "dim", "red", "green", "yellow", "reset". */
const char *cli_color(const struct cli *c, const char *name);

struct cli_column {
    const char *title;
    const char *key; /* member of each item, dots reach into objects */
};
/** A table of @items on stdout: two blanks between columns; on a terminal cut to its width, but ids never. An empty list says
 * "no @plural" on stderr. --quiet: ids only, or the first column of what has no id. */
int cli_print_table(struct cli *c, const json_t *items, const struct cli_column *cols, size_t n, const char *plural);
/** The plain members of @obj, one a line; nested ones are for --json. */
int cli_print_fields(struct cli *c, const json_t *obj);
/** GET all pages of the list at @path (freed; NULL is out of memory) and print it as JSON or as a table. */
int cli_show_list(struct cli *c, char *path, const struct cli_column *cols, size_t n, const char *plural);
/** GET the object at @path (freed; NULL is out of memory) and print it as JSON or its fields and failure. */
int cli_show_object(struct cli *c, char *path, const char *kind);
/** Member by dotted path; NULL when absent or null. Borrowed. */
const json_t *cli_member(const json_t *obj, const char *path);
/** Text of a member: strings as they are, numbers and booleans printed into @scratch, "-" when absent. */
const char *cli_text(const json_t *obj, const char *path, char *scratch, size_t size);
const char *cli_str(const json_t *obj, const char *path);
int64_t cli_int(const json_t *obj, const char *path);

/* the API (api.c) */
/** Read configuration and connect settings; an exit code. */
int cli_connect(struct cli *c);
/** Another client of the same server; NULL when memory is out. After cli_connect. */
struct mt_http_client *cli_client_new(const struct cli *c);
void cli_done(struct cli *c);
/** Call the API. On a 2xx *ret is the body (owned by the caller, may be NULL for none) and 0 comes back; otherwise the error has been printed
 * and its exit code comes back. Safe calls and calls with an idempotency key are retried (§15.2). */
int cli_call(struct cli *c, const char *method, const char *target, const json_t *body, json_t **ret);
/** GET without any retry. Exit code; the error has been printed. */
int cli_call_once(struct cli *c, const char *target, json_t **ret);
/** As cli_call, but an answer with status @allow gives 0 and *ret = NULL. */
int cli_call_allow(struct cli *c, const char *method, const char *target, const json_t *body, int allow, json_t **ret);
/** Stream NDJSON: @line is called with each object, non-zero ends it. Returns 0, or an exit code with the error printed. */
int cli_follow(struct cli *c, const char *target, int (*line)(struct cli *c, json_t *obj, void *arg), void *arg, int64_t silence_ms);
/** Append "&param=value" to the query @q when @option was given. */
void cli_put_filter(const struct cli *c, struct mt_buf *q, const char *option, const char *param);
/** Ids of the target by name (--org, --app, --env, MOAT_*, configuration, the manifest's app.name). */
int cli_need_org(struct cli *c);
/** As the others; without a name and with exactly one project that one. */
int cli_need_project(struct cli *c);
/** True when an option or MOAT_PROJECT names one; that of a context does not count. After cli_connect(). */
bool cli_project_named(struct cli *c);
/** Whether an app is named: by option, environment, moat.toml or the saved target; then it is in @c->app. */
bool cli_app_named(struct cli *c);
int cli_need_app(struct cli *c);
int cli_need_env(struct cli *c);
/** Id of the environment @name (or an id) of the app; after cli_need_app(). */
int cli_env_named(struct cli *c, const char *name, char ret[40]);
/** Target path of the environment, "/v1/orgs/…/apps/…/envs/…" plus @suffix; malloc'ed. */
char *cli_env_path(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *cli_app_path(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Release "v3" or an id, to its id; NULL @word is a usage error. Exit code. */
int cli_release_id(struct cli *c, const char *word, char ret[40]);
/** Give each of @items a member "release", "v3", beside its release_id. Silent when releases cannot be read. */
void cli_name_releases(struct cli *c, json_t *items);
/** Refuse a @word that is not an id with @prefix ("dep_"), so that nothing else gets into a path. Exit code. */
int cli_check_id(struct cli *c, const char *word, const char *prefix, const char *hint);
/** All items of a list endpoint (pages followed), one array owned by the caller. */
int cli_list(struct cli *c, const char *target, json_t **ret_items);

/** GET the state or the difference (@what: "status", "diff") of what --of names, with --at, --from and --to. Exit code; the error has
 * been printed. */
int cli_history(struct cli *c, const char *what, json_t **ret);

/** Path given with --manifest, else moat.toml. */
const char *cli_manifest_file(const struct cli *c);
/** How a path is called in messages: "stdin" for "-". */
const char *cli_file_name(const char *path);
/** Read a manifest file (or stdin for "-"); NULL with the error printed. *ret_code is the exit code. */
char *cli_read_manifest(struct cli *c, const char *path, size_t *ret_len, int *ret_code);
/** Validate offline; prints every problem with line and column. Sets c->app from app.name unless --app was given. Exit code. */
int cli_check_manifest(struct cli *c, const char *text, size_t len, const char *name);
/** Set c->app from app.name of ./moat.toml when there is a readable one. */
void cli_app_of_manifest(struct cli *c);
/** Make app and environment when they are missing, and say so. */
int cli_ensure_env(struct cli *c);
/**
 * The gate before a release (control-plane.md §5.2): goes on when secrets are set or somebody said that none are needed; says so itself
 * when @confirm; else an error with the commands that mend it.
 */
int cli_pass_gate(struct cli *c, bool confirm);
/** True when the command should wait for convergence. */
bool cli_wants_wait(const struct cli *c);
/** Ctrl-C from now on ends the waiting only: says that @what goes on, and @resume as the hint; exit 130. */
void cli_catch_interrupt(const struct cli *c, const char *what, const char *resume);
/** Follow a deploy to its end, printing steps; exit code as §15.4. @after is the event id that created it. */
int cli_wait_deploy(struct cli *c, const char *deploy_id, uint64_t after);
/** Print the object that the API gives under "failure" (reason, exit code, last lines); NULL prints nothing. */
void cli_print_failure(struct cli *c, FILE *out, const json_t *failure);
/** Attempts that failed, newest first, of what @filter (release_id, instance_id) names by @id; NULL: of the whole environment. @ret owned. */
int cli_autopsies(struct cli *c, const char *filter, const char *id, int limit, json_t **ret);
void cli_print_autopsies(struct cli *c, const json_t *items);
/** Print the receipt of a mutation: for people one line and the next commands, or the JSON document. */
int cli_receipt(struct cli *c, const char *type, const json_t *body);
/** The JSON receipt (§15.5) of an answer @body about a @type; @operation when the answer names none. Owned by the caller. */
json_t *cli_receipt_json(struct cli *c, const char *type, const char *operation, const json_t *body);
/** "https://host:port/" of a TLS route as this machine reaches it, or "host:port"; into @ret. */
const char *cli_route_url(const struct cli *c, const json_t *route, char *ret, size_t size);

/** App name out of an image reference: the last path part made a slug of at most 40 characters, "app" when nothing is left. */
void cli_app_name_of_image(const char *ref, char ret[64]);
/** The generated manifest of init and run, malloc'ed; NULL with the error printed and *ret_code set. */
char *cli_generate_manifest(struct cli *c, const char *image, int *ret_code);

/** Words of an option that may be repeated or hold a list with commas; NULL when it was not given. Owned by the caller. */
json_t *cli_words(struct cli *c, const char *option);
/** {app_ids, env_ids} of --restrict-app and --restrict-env, NULL when neither was given. Owned by the caller. */
json_t *cli_restrict(struct cli *c);
/** Print what is shown once: @member of @made alone on stdout, words about it on stderr; the whole object with --json. */
int cli_show_secret(struct cli *c, const char *kind, const char *type, const json_t *made, const char *member);
/** Parse "500ms", "30s", "5m", "1h" to milliseconds. */
int cli_parse_duration(const char *s, int64_t *ret_ms, struct mt_err *err);

/** Say on stderr, once, what a mutation is about: "deploying org/app@env". Done by cli_call for mutations that have not. */
void cli_say_target(struct cli *c, const char *doing);
/** The object behind KIND and ID for describe, wait and others: its API path, malloc'ed; NULL with the error printed. */
struct cli_kind {
    const char *name;   /* "deploy" */
    const char *prefix; /* of its ids, "dep_" */
    const char *type;   /* "Deploy" */
    const char *list;   /* command that lists the ids */
};
/** The kind of a word, or NULL. */
const struct cli_kind *cli_kind_of(const char *word);
/** All kinds, for messages: "app, env, ...". */
const char *cli_kind_names(void);
/** Read one object by kind and id. Exit code; *ret owned by the caller. */
int cli_get_kind(struct cli *c, const struct cli_kind *k, const char *id, json_t **ret);
/** Wait until the object is @want, telling each change, for at most --wait-timeout. Exit code; what it says at the end was printed. */
int cli_wait_kind(struct cli *c, const struct cli_kind *k, const char *id, const char *want);

/* commands, one file per noun */
int cmd_auth_login(struct cli *c);
int cmd_auth_logout(struct cli *c);
int cmd_auth_status(struct cli *c);
int cmd_tokens_list(struct cli *c);
int cmd_tokens_create(struct cli *c);
int cmd_tokens_revoke(struct cli *c);
int cmd_members_list(struct cli *c);
int cmd_members_add(struct cli *c);
int cmd_members_set_role(struct cli *c);
int cmd_members_remove(struct cli *c);
int cmd_drains_list(struct cli *c);
int cmd_drains_set(struct cli *c);
int cmd_drains_delete(struct cli *c);
int cmd_registries_list(struct cli *c);
int cmd_registries_set(struct cli *c);
int cmd_registries_delete(struct cli *c);
int cmd_releases_create(struct cli *c);
int cmd_secrets_confirm(struct cli *c);
int cmd_ipv4_enable(struct cli *c);
int cmd_ipv4_disable(struct cli *c);
int cmd_ipv4_show(struct cli *c);
int cmd_ipam_status(struct cli *c);
int cmd_ipam_leaks(struct cli *c);
int cmd_ipv4_pool_list(struct cli *c);
int cmd_ipv4_pool_add(struct cli *c);
int cmd_ipv4_pool_remove(struct cli *c);
int cmd_quarantine_list(struct cli *c);
int cmd_quarantine_add(struct cli *c);
int cmd_quarantine_remove(struct cli *c);
int cmd_admin_routes_disable(struct cli *c);
int cmd_admin_routes_enable(struct cli *c);
int cmd_scheduler_status(struct cli *c);
int cmd_scheduler_pause(struct cli *c);
int cmd_scheduler_resume(struct cli *c);
int cmd_groups_hold(struct cli *c);
int cmd_groups_resume(struct cli *c);
int cmd_projections_list(struct cli *c);
int cmd_projections_rebuild(struct cli *c);
int cmd_admin_explain(struct cli *c);
int cmd_images_list(struct cli *c);
int cmd_images_block(struct cli *c);
int cmd_images_unblock(struct cli *c);
struct mt_lockmem;
/** A secret from stdin (@from_stdin) or typed unseen on the terminal, at most @max bytes. Without a terminal it says to use @flag. secrets.c */
int cli_read_hidden(struct cli *c, bool from_stdin, const char *what, const char *flag, size_t max, struct mt_lockmem *ret);
int cmd_sps_list(struct cli *c);
int cmd_sps_create(struct cli *c);
int cmd_sps_update(struct cli *c);
int cmd_sps_rotate(struct cli *c);
int cmd_sps_delete(struct cli *c);
int cmd_users_list(struct cli *c);
int cmd_users_create(struct cli *c);
int cmd_users_disable(struct cli *c);
int cmd_users_enable(struct cli *c);
int cmd_users_setup_link(struct cli *c);
int cmd_break_glass(struct cli *c);
int cmd_context_show(struct cli *c);
int cmd_context_set(struct cli *c);
int cmd_context_clear(struct cli *c);
int cmd_context_use(struct cli *c);
int cmd_describe(struct cli *c);
int cmd_instances_describe(struct cli *c);
int cmd_releases_autopsy(struct cli *c);
int cmd_wait(struct cli *c);
int cmd_support_bundle(struct cli *c);
int cmd_launch(struct cli *c);
int cmd_up(struct cli *c);
int cmd_down(struct cli *c);
int cmd_doctor(struct cli *c);
int cmd_init(struct cli *c);
int cmd_run(struct cli *c);
int cmd_deploy(struct cli *c);
int cmd_deploys_list(struct cli *c);
int cmd_deploys_get(struct cli *c);
int cmd_deploys_wait(struct cli *c);
int cmd_rollback(struct cli *c);
int cmd_scale(struct cli *c);
int cmd_scale_reset(struct cli *c);
int cmd_restart(struct cli *c);
int cmd_status(struct cli *c);
int cmd_instances_list(struct cli *c);
int cmd_instances_get(struct cli *c);
int cmd_exec(struct cli *c);
int cmd_instances_restart(struct cli *c);
int cmd_why(struct cli *c);
int cmd_logs(struct cli *c);
int cmd_events(struct cli *c);
int cmd_orgs_quotas(struct cli *c);
int cmd_usage(struct cli *c);
int cmd_admin_quotas_set(struct cli *c);
int cmd_admin_orgs_suspend(struct cli *c);
int cmd_admin_orgs_resume(struct cli *c);
int cmd_admin_maintenance(struct cli *c);
int cmd_admin_maintenance_on(struct cli *c);
int cmd_admin_maintenance_off(struct cli *c);
/** On a machine of the control plane: the verb of moat-control with @more arguments (NULL: none, else ends with NULL), its standard streams @in and @out, -1: none. What it
 * tells, in one line of JSON on the stream that is free, into @ret. An exit code. */
int cli_control(struct cli *c, const char *verb, const char *const *more, int in, int out, json_t **ret);
int cmd_admin_db_check(struct cli *c);
int cmd_admin_audit_checkpoint(struct cli *c);
int cmd_admin_audit_check(struct cli *c);
int cmd_admin_backup(struct cli *c);
int cmd_admin_backup_check(struct cli *c);
int cmd_admin_backup_send(struct cli *c);
int cmd_admin_backup_stored(struct cli *c);
int cmd_admin_backup_fetch(struct cli *c);
int cmd_admin_backups_scan(struct cli *c);
int cmd_admin_backups_list(struct cli *c);
int cmd_admin_backups_verify(struct cli *c);
int cmd_admin_backups_rekey(struct cli *c);
int cmd_edges_list(struct cli *c);
int cmd_edges_drain(struct cli *c);
int cmd_edges_undrain(struct cli *c);
int cmd_admin_restore(struct cli *c);
int cmd_admin_recovery_plan(struct cli *c);
int cmd_admin_recovery_apply(struct cli *c);
int cmd_admin_recovery_finish(struct cli *c);
int cmd_audit(struct cli *c);
int cmd_audit_verify(struct cli *c);
int cmd_audit_export(struct cli *c);
int cmd_admin_audit(struct cli *c);
int cmd_admin_audit_verify(struct cli *c);
int cmd_admin_audit_export(struct cli *c);
int cmd_admin_status(struct cli *c);
int cmd_admin_doctor(struct cli *c);
int cmd_admin_upgrade(struct cli *c);
int cmd_admin_tokens_revoke(struct cli *c);
int cmd_releases_list(struct cli *c);
int cmd_releases_get(struct cli *c);
int cmd_releases_diff(struct cli *c);
int cmd_diff(struct cli *c);
int cmd_plan(struct cli *c);
int cmd_edge_explain(struct cli *c);
int cmd_secrets_list(struct cli *c);
int cmd_secrets_set(struct cli *c);
int cmd_secrets_unset(struct cli *c);
int cmd_secrets_import(struct cli *c);
int cmd_secrets_history(struct cli *c);
int cmd_secrets_rollback(struct cli *c);
int cmd_secrets_render(struct cli *c);
int cmd_secrets_confirm_none(struct cli *c);
int cmd_secrets_status(struct cli *c);
int cmd_admin_keys_generate(struct cli *c);
int cmd_admin_keys_status(struct cli *c);
int cmd_admin_keys_rewrap(struct cli *c);
int cmd_admin_keys_verify(struct cli *c);
int cmd_admin_keys_retire(struct cli *c);
int cmd_admin_node_ca_show(struct cli *c);
int cmd_admin_node_ca_prepare(struct cli *c);
int cmd_admin_node_ca_switch(struct cli *c);
int cmd_admin_node_ca_retire(struct cli *c);
int cmd_admin_node_ca_abort(struct cli *c);
int cmd_volumes_list(struct cli *c);
int cmd_admin_volumes_list(struct cli *c);
int cmd_admin_volumes_fsck(struct cli *c);
int cmd_admin_volumes_repair(struct cli *c);
int cmd_volumes_create(struct cli *c);
int cmd_volumes_get(struct cli *c);
int cmd_volumes_update(struct cli *c);
int cmd_volumes_resize(struct cli *c);
int cmd_volumes_attach(struct cli *c);
int cmd_volumes_detach(struct cli *c);
int cmd_volumes_replace(struct cli *c);
int cmd_volumes_delete(struct cli *c);
/** The volume called @word, by name or id: *ret is borrowed from *ret_items (owned by the caller). Exit code. volumes.c */
int cli_volume(struct cli *c, const char *word, json_t **ret_items, const json_t **ret);
/** Tell what became of volume @v, with what the answer @r adds to it. Exit code. volumes.c */
int cli_volume_done(struct cli *c, const json_t *v, json_t *r, const char *operation, const char *text);
/** Give name and process of volume @v to the one with @new_id; @drain: its process is stopped for it, then scaled as before. volume_replace.c */
int cli_volume_replace(struct cli *c, const json_t *v, const char *new_id, bool drain);
/** Take volume @v from its process, which is stopped for it; scaled as before where the volume was given to it by hand. volume_replace.c */
int cli_volume_drained_detach(struct cli *c, const json_t *v);
/** Wait for the end of @restore, then cli_volume_replace() of the volume @old_id, drained. volume_replace.c */
int cli_restored_replace(struct cli *c, const char *old_id, const json_t *restore);
/** Give @volume the members "last", "lag" and "proven" of a table: what is not known says so. snapshots.c */
void cli_put_backup(json_t *volume);
int cmd_snapshots_list(struct cli *c);
int cmd_snapshots_create(struct cli *c);
int cmd_snapshots_get(struct cli *c);
int cmd_snapshots_delete(struct cli *c);
int cmd_backups_status(struct cli *c);
/** --size as bytes: "20Gi" or a number. volumes.c */
int cli_volume_size(struct cli *c, uint64_t *ret);
int cmd_volumes_restore(struct cli *c);
int cmd_volumes_verify(struct cli *c);
int cmd_volumes_recover(struct cli *c);
int cmd_volumes_migrate(struct cli *c);
int cmd_migrations_list(struct cli *c);
int cmd_migrations_get(struct cli *c);
int cmd_migrations_cancel(struct cli *c);
int cmd_restores_list(struct cli *c);
int cmd_restores_get(struct cli *c);
int cmd_routes_list(struct cli *c);
int cmd_routes_create(struct cli *c);
int cmd_routes_delete(struct cli *c);
int cmd_routes_get(struct cli *c);
int cmd_routes_records(struct cli *c);
int cmd_routes_update(struct cli *c);
int cmd_apps_list(struct cli *c);
int cmd_apps_create(struct cli *c);
int cmd_envs_list(struct cli *c);
int cmd_envs_create(struct cli *c);
int cmd_orgs_list(struct cli *c);
/** PATCH @path (freed) with @fields (taken) over the version that is there now, and tell of it. Exit code. resources.c */
int cli_change(struct cli *c, char *path_taken, const char *type, json_t *fields_taken);
/** Text option @option, where given, as member @field; empty as null. resources.c */
void cli_put_text(const struct cli *c, json_t *fields, const char *option, const char *field);
/** Option @option, "on" or "off" where given, as member @field. Exit code. resources.c */
int cli_put_switch(struct cli *c, json_t *fields, const char *option, const char *field);
int cmd_orgs_create(struct cli *c);
int cmd_orgs_get(struct cli *c);
int cmd_orgs_rename(struct cli *c);
int cmd_orgs_delete(struct cli *c);
int cmd_projects_list(struct cli *c);
int cmd_projects_create(struct cli *c);
int cmd_projects_get(struct cli *c);
int cmd_projects_rename(struct cli *c);
int cmd_projects_update(struct cli *c);
int cmd_projects_delete(struct cli *c);
int cmd_apps_get(struct cli *c);
int cmd_apps_update(struct cli *c);
int cmd_apps_delete(struct cli *c);
int cmd_envs_get(struct cli *c);
int cmd_envs_update(struct cli *c);
int cmd_envs_delete(struct cli *c);
int cmd_envs_rebalance(struct cli *c);
int cmd_nodes_list(struct cli *c);
/* nodes.c */
int cmd_node_label(struct cli *c);
int cmd_node_config_set(struct cli *c);
int cmd_node_describe(struct cli *c);
int cmd_node_activate(struct cli *c);
int cmd_node_cordon(struct cli *c);
int cmd_node_confirm_offline(struct cli *c);
int cmd_node_mark_lost(struct cli *c);
int cmd_node_drain(struct cli *c);
int cmd_node_disable(struct cli *c);
int cmd_node_remove(struct cli *c);
int cmd_node_add(struct cli *c);
int cmd_node_token_create(struct cli *c);
int cmd_node_token_list(struct cli *c);
int cmd_node_token_revoke(struct cli *c);
/** The node called @word, or with that id; *ret owned by the caller. */
int cli_find_node(struct cli *c, const char *word, json_t **ret);
int cmd_net_status(struct cli *c);
int cmd_net_verify(struct cli *c);
int cmd_net_rotate_keys(struct cli *c);
int cmd_net_allow_removal(struct cli *c);
/* cluster.c */
int cmd_capacity(struct cli *c);
int cmd_simulate_loss(struct cli *c);
int cmd_simulate_drain(struct cli *c);
int cmd_whoami(struct cli *c);
int cmd_manifest_validate(struct cli *c);
int cmd_manifest_show(struct cli *c);
int cmd_manifest_fmt(struct cli *c);
int cmd_manifest_schema(struct cli *c);
int cmd_version(struct cli *c);
int cmd_help(struct cli *c);
int cmd_completion(struct cli *c);
