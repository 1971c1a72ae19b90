/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the manifest's fields. No code but the search: a rule that cannot be said here is in the reader. */
#include "model/manifest_fields.h"

#include "base/str.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define RATE_MAX ((UINT64_C(1) << 53) - 1)
#define SLUG32 "^[a-z][a-z0-9-]{0,31}$"
#define HOSTNAME "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$"
#define END {NULL, MT_MF_TEXT, false, 0, 0, NULL, NULL, NULL, NULL, NULL}

static const char *const v1[] = {"v1", NULL};
static const char *const policies[] = {"always", "on-failure", "never", NULL};
static const char *const signals[] = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", NULL};
static const char *const port_protocols[] = {"tcp", NULL};
static const char *const health_types[] = {"tcp", "http", NULL};
static const char *const filesystems[] = {"ext4", NULL};
static const char *const route_protocols[] = {"tls_passthrough", "tcp_raw", NULL};
static const char *const proxy_words[] = {"off", "v2", NULL};

static const struct mt_mf_field app[] = {
    {"name", MT_MF_TEXT, false, 1, 1024, NULL, "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", NULL, NULL,
     "app name: 1 to 63 of a-z, 0-9 and -, starts with a letter, does not end in -; names the target when --app is absent"},
    {"description", MT_MF_TEXT, false, 0, 1024, "\"\"", NULL, NULL, NULL, "at most 256 characters"},
    END};

static const struct mt_mf_field image[] = {
    {"ref", MT_MF_TEXT, false, 1, 512, NULL, NULL, NULL, NULL,
     "[host[:port]/]repository[:tag][@sha256:...]; required unless --image is passed"},
    END};

#define VARS                                                                                                               \
    {"vars", MT_MF_VARS, false, 0, 256, NULL, NULL, NULL, NULL,                                                            \
     "environment variables: names [A-Z_][A-Z0-9_]* of at most 128, values of at most 8192 bytes without NUL; MOAT_ is "   \
     "reserved; the process wins per name"}
#define SURROUNDINGS(timeout)                                                                                              \
    {"workdir", MT_MF_TEXT, false, 1, 512, NULL, "^/", NULL, NULL, "absolute; the image's, else /; the process wins"},     \
        {"user", MT_MF_TEXT, false, 1, 129, NULL, NULL, NULL, NULL,                                                        \
         "\"1000\", \"1000:1000\", or a name of the image's passwd file, also \"name:group\"; the image's, else 0:0; the " \
         "process wins"},                                                                                                  \
        {"prestart", MT_MF_ARGV, false, 1, 64, NULL, NULL, NULL, NULL,                                                     \
         "a command before every start of a process, the environment's first, then the process's; a non-zero exit fails "  \
         "the boot"},                                                                                                      \
    {                                                                                                                      \
        "prestart_timeout_seconds", MT_MF_INT, false, 1, 600, timeout, NULL, NULL, NULL, "time the prestart command has; " \
                                                                                         "a process inherits env's"        \
    }

static const struct mt_mf_field env[] = {SURROUNDINGS("30"), VARS, END};

static const struct mt_mf_field resources[] = {
    {"memory", MT_MF_SIZE, true, 64 * MIB, 64 * GIB, NULL, NULL, NULL, NULL, "a hard cap; the operator may set a lower maximum"},
    {"cpu", MT_MF_CPU, false, 50, 32000, "1.0", NULL, NULL, NULL, "a soft share, at most three decimals; vCPUs are the next whole number"},
    {"disk", MT_MF_SIZE, false, GIB, 100 * GIB, "\"4Gi\"", NULL, NULL, NULL, "scratch space, lost at stop"},
    END};

#define LIMIT(key, what) {key, MT_MF_INT, false, 0, RATE_MAX, "0", NULL, NULL, NULL, what "; 0: the node's default, itself off"}
static const struct mt_mf_field limits[] = {LIMIT("disk_bytes_per_second", "disk bandwidth"), LIMIT("disk_ops_per_second", "disk operations"),
                                            LIMIT("net_bytes_per_second", "network bandwidth"),
                                            LIMIT("net_packets_per_second", "network packets"), END};

static const struct mt_mf_field scaling[] = {
    {"min", MT_MF_INT, false, 0, 100, "1", NULL, NULL, NULL, "replicas until somebody sets a scale; at most 1 with mounts"},
    {"max", MT_MF_INT, false, 0, 100, NULL, NULL, NULL, NULL, "the most that may be set, at least min; default 100, with mounts 1"},
    END};

static const struct mt_mf_field restart[] = {
    {"policy", MT_MF_WORD, false, 0, 0, "\"always\"", NULL, policies, NULL, "what happens when the process ends"},
    {"max_retries", MT_MF_INT, false, 0, 100, "3", NULL, NULL, NULL, "only with policy \"on-failure\""},
    {"backoff_seconds", MT_MF_INT, false, 1, 60, "2", NULL, NULL, NULL, "wait before a restart; doubles per crash up to 300 s, back after 10 min ready"},
    END};

static const struct mt_mf_field stop[] = {
    {"grace_seconds", MT_MF_INT, false, 1, 300, "10", NULL, NULL, NULL, "time between the signal and the end by force"},
    {"signal", MT_MF_WORD, false, 0, 0, "\"TERM\"", NULL, signals, NULL, "sent first"},
    END};

static const struct mt_mf_field ports[] = {
    {"internal", MT_MF_INT, true, 1, 65535, NULL, NULL, NULL, NULL, "number the process listens on, once per process"},
    {"name", MT_MF_TEXT, false, 1, 256, NULL, SLUG32, NULL, NULL, "1 to 32 of a-z, 0-9 and -, starts with a letter; once per process; default p<internal>"},
    {"protocol", MT_MF_WORD, false, 0, 0, "\"tcp\"", NULL, port_protocols, NULL, "only tcp"},
    END};

static const struct mt_mf_field health[] = {
    {"type", MT_MF_WORD, false, 0, 0, "\"tcp\"", NULL, health_types, NULL, "http is plain HTTP, good with status 200 to 399"},
    {"port", MT_MF_PORT, true, 1, 65535, NULL, NULL, NULL, NULL, "a declared port of the process, by name or number"},
    {"path", MT_MF_TEXT, false, 1, 1024, NULL, "^/", NULL, NULL, "required for http, not with tcp; starts with /, no blanks"},
    {"interval_seconds", MT_MF_INT, false, 1, 300, "10", NULL, NULL, NULL, "time between two checks"},
    {"timeout_seconds", MT_MF_INT, false, 1, 60, "2", NULL, NULL, NULL, "for one check, not above the interval (nor is the default)"},
    {"grace_period_seconds", MT_MF_INT, false, 0, 900, "10", NULL, NULL, NULL, "failures do not count before, or until the first success"},
    {"success_threshold", MT_MF_INT, false, 1, 10, "1", NULL, NULL, NULL, "successes in a row that make it ready"},
    {"failure_threshold", MT_MF_INT, false, 1, 20, "3", NULL, NULL, NULL, "failures in a row that make it unhealthy"},
    END};

static const struct mt_mf_field mounts[] = {
    {"volume", MT_MF_TEXT, true, 1, 256, NULL, NULL, NULL, NULL, "name of a [[volumes]] entry; one process per volume"},
    {"path", MT_MF_TEXT, true, 2, 4096, NULL, "^/", NULL, NULL,
     "absolute, normalised, at most 255 bytes, not nested in another mount, not in /proc /sys /dev /run /tmp /etc /bin /sbin "
     "/lib /lib64 /usr /boot"},
    {"read_only", MT_MF_BOOL, false, 0, 0, "false", NULL, NULL, NULL, "mounted without writing"},
    END};

static const struct mt_mf_field secrets[] = {
    {"required", MT_MF_BOOL, false, 0, 0, "false", NULL, NULL, NULL, "true: nothing is placed before the environment has secrets"},
    END};

static const struct mt_mf_field process[] = {
    {"command", MT_MF_ARGV, false, 1, 64, NULL, NULL, NULL, NULL,
     "replaces ENTRYPOINT and CMD of the image; items of at most 4096 bytes; no shell"},
    SURROUNDINGS(NULL),
    VARS,
    {"resources", MT_MF_TABLE, true, 0, 0, NULL, NULL, NULL, resources, "what it may use"},
    {"limits", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, limits, "rate limits"},
    {"scaling", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, scaling, "how many replicas"},
    {"restart", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, restart, "when it ends"},
    {"stop", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, stop, "how it is stopped"},
    {"ports", MT_MF_LIST, false, 0, 32, NULL, NULL, NULL, ports, "what it listens on"},
    {"health", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, health, "when it counts as ready"},
    {"mounts", MT_MF_LIST, false, 0, 8, NULL, NULL, NULL, mounts, "volumes in its file system"},
    {"secrets", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, secrets, "whether it needs the secrets file"},
    END};

static const struct mt_mf_field volumes[] = {
    {"name", MT_MF_TEXT, true, 1, 256, NULL, SLUG32, NULL, NULL, "1 to 32 of a-z, 0-9 and -, starts with a letter; once per file"},
    {"size", MT_MF_SIZE, true, GIB, 2048 * GIB, NULL, NULL, NULL, NULL, "least size; a deploy never resizes"},
    {"filesystem", MT_MF_WORD, false, 0, 0, "\"ext4\"", NULL, filesystems, NULL, "only ext4"},
    {"backup_enabled", MT_MF_BOOL, false, 0, 0, "true", NULL, NULL, NULL, "part of the backups"},
    {"probe", MT_MF_ARGV, false, 1, 64, NULL, NULL, NULL, NULL,
     "a command that tells by its exit code whether the volume is good: run on a throwaway copy that was restored from a backup, in a microVM of its "
     "own with image, user, variables and memory of the process that mounts it, without network and secrets; no shell"},
    {"probe_timeout_seconds", MT_MF_INT, false, 1, 600, "60", NULL, NULL, NULL, "time the probe has; only with probe"},
    END};

static const struct mt_mf_field routes[] = {
    {"env", MT_MF_TEXT, true, 1, 256, NULL, SLUG32, NULL, NULL, "the environment the entry is for"},
    {"hostname", MT_MF_TEXT, false, 1, 1024, NULL, HOSTNAME, NULL, NULL,
     "required for tls_passthrough; exact lower-case name with at least two labels, A-label form, at most 253 octets"},
    {"listen_port", MT_MF_INT, false, 1, 65535, NULL, NULL, NULL, NULL, "public port; default 443 for tls_passthrough, required for tcp_raw"},
    {"process", MT_MF_TEXT, true, 1, 256, NULL, NULL, NULL, NULL, "a declared process type"},
    {"port", MT_MF_PORT, true, 1, 65535, NULL, NULL, NULL, NULL, "a declared port of that process, by name or number"},
    {"protocol", MT_MF_WORD, false, 0, 0, "\"tls_passthrough\"", NULL, route_protocols, NULL, "TLS by name, or raw TCP by port"},
    {"proxy_protocol", MT_MF_WORD, false, 0, 0, "\"off\"", NULL, proxy_words, NULL, "v2 needs the next key"},
    {"backend_expects_proxy_protocol", MT_MF_BOOL, false, 0, 0, "false", NULL, NULL, NULL, "must be true with proxy_protocol \"v2\""},
    {"ipv4", MT_MF_BOOL, false, 0, 0, "false", NULL, NULL, NULL, "needs the environment's IPv4 address"},
    END};

const struct mt_mf_field mt_mf_root_fields[] = {
    {"schema_version", MT_MF_WORD, true, 0, 0, NULL, NULL, v1, NULL, "exactly \"v1\""},
    {"app", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, app, "what it is called"},
    {"image", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, image, "what runs"},
    {"env", MT_MF_TABLE, false, 0, 0, NULL, NULL, NULL, env, "surroundings of every process"},
    {"processes", MT_MF_MAP, true, 1, 16, NULL, SLUG32, NULL, process, "process types by name"},
    {"volumes", MT_MF_LIST, false, 0, 16, NULL, NULL, NULL, volumes, "disks that outlive instances"},
    {"routes", MT_MF_LIST, false, 0, 256, NULL, NULL, NULL, routes, "what is reachable from outside"},
    END};

const struct mt_mf_field *mt_mf_field(const struct mt_mf_field *fields, const char *key)
{
    for (; fields && fields->key; fields++)
        if (MT_STREQ(fields->key, key))
            return fields;
    return NULL;
}

const char *mt_mf_kind_name(enum mt_mf_kind kind)
{
    static const char *const names[MT_MF_KIND_MAX] = {
        [MT_MF_TEXT] = "string",          [MT_MF_INT] = "integer",           [MT_MF_BOOL] = "boolean",
        [MT_MF_CPU] = "number",           [MT_MF_SIZE] = "string",           [MT_MF_WORD] = "string",
        [MT_MF_ARGV] = "array of strings", [MT_MF_PORT] = "string or integer", [MT_MF_VARS] = "table of strings",
        [MT_MF_TABLE] = "table",          [MT_MF_LIST] = "array of tables",  [MT_MF_MAP] = "table of tables"};
    return names[kind];
}
