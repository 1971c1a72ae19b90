/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration files of the daemons of one machine, written anew at each start from the layout. */
#include "cli/up/layout.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "model/masterkey.h"
#include "os/addr.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <unistd.h>

static int put(const struct up_layout *l, const char *name, mode_t mode, struct mt_buf *b, struct mt_err *err)
{
    char path[UP_PATH];
    int r = mt_buf_check(b, err);
    if (r == 0)
        r = mt_file_write(up_path(l, path, name), b->p, b->len, mode, err);
    mt_buf_reset(b);
    return r;
}

static void registries(const struct up_layout *l, struct mt_buf *b, const char *indent_key)
{
    /* the own registry lives on loopback and speaks plain HTTP: exactly this host:port is excepted (runtime.md §13) */
    if (l->registry_port)
        mt_buf_printf(b, "%slocal_registries = [\"%s\"]\n%sinsecure_registries = [\"%s\"]\n", indent_key, l->registry, indent_key, l->registry);
}

void up_name_servers(const char *const *files, size_t n_files, struct mt_buf *b)
{
    int n = 0;
    for (size_t i = 0; n == 0 && i < n_files; i++) {
        mt_auto_free char *text = NULL;
        size_t len;
        char *save = NULL;
        if (mt_file_read(files[i], 65536, &text, &len, NULL) < 0)
            continue;
        for (char *line = strtok_r(text, "\n", &save); line && n < 3; line = strtok_r(NULL, "\n", &save)) {
            struct sockaddr_in6 at = {.sin6_family = AF_INET6};
            char addr[INET6_ADDRSTRLEN];
            if (sscanf(line, " nameserver %45[0-9a-fA-F:.]", addr) != 1 || inet_pton(AF_INET6, addr, &at.sin6_addr) != 1 || (at.sin6_addr.s6_addr[0] & 0xe0) != 0x20 ||
                (at.sin6_addr.s6_addr[0] == 0x20 && at.sin6_addr.s6_addr[1] == 2) || !mt_addr_public((const struct sockaddr *)&at, sizeof at))
                continue;
            mt_buf_printf(b, "%s\"%s\"", n++ ? ", " : "vm_dns = [", addr);
        }
    }
    if (n)
        mt_buf_puts(b, "]\n");
}

static void control(const struct up_layout *l, struct mt_buf *b)
{
    mt_buf_printf(b,
                  "# written by moat up\n"
                  "listen_api = \"%s/run/control/api.sock\"\nlisten_internal = \"%s/run/control/internal.sock\"\n"
                  "database_url = \"host=%s/run/pg dbname=moat user=moat_control\"\ndatabase_disk = \"%s\"\n"
                  "data_dir = \"%s/control\"\noperator_token_file = \"%s/control/operator.token\"\n"
                  "master_keys_file = \"%s/etc/master-keys\"\n"
                  "agent_socket = \"%s/run/agent.sock\"\nagent_user = \"root\"\nedge_user = \"moat-edge\"\n"
                  "internal_group = \"moat\"\nfetch_program = \"%s/moat-fetch\"\n"
                  "backup_program = \"%s/moat-backup\"\nbackup_gc_file = \"%s/etc/backup-gc.toml\"\n"
                  "vmm_allowed = [\"firecracker\", \"qemu-kvm\", \"qemu-tcg\"]\nbootstrap_org = \"local\"\n",
                  l->dir, l->dir, l->dir, l->dir, l->dir, l->dir, l->dir, l->dir, l->bin, l->bin, l->dir);
    registries(l, b, "");
    static const char *const resolvers[] = {"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"};
    up_name_servers(resolvers, MT_ARRAY_LEN(resolvers), b);
}

static void agent(const struct up_layout *l, struct mt_buf *b)
{
    mt_buf_printf(b,
                  "# written by moat up\n"
                  "node_id = \"%s\"\ndata_dir = \"%s\"\nbin_dir = \"%s\"\nvmm = \"%s\"\n"
                  "control_socket = \"%s/run/control/internal.sock\"\n"
                  "# ruling R28: on somebody's machine only our own taps are filtered\n"
                  "host_firewall = \"taps\"\n"
                  "edge_user = \"moat-edge\"\ncontrol_user = \"moat-control\"\nworker_user = \"moat-fetch\"\n",
                  l->node_id, l->dir, l->bin, l->vmm, l->dir);
    /* clones where the data folder's filesystem has them (XFS, btrfs), else copies: on one machine that is fair */
    mt_buf_puts(b, "fsck_user = \"moat-fsck\"\n\n[storage]\nbackend = \"auto\"\nallow_copy_snapshots = true\n");
    mt_buf_printf(b, "backup_file = \"%s/etc/backup.toml\"\n", l->dir);
    if (l->registry_port) {
        mt_buf_puts(b, "\n[image]\n");
        registries(l, b, "");
    }
}

static void edge(const struct up_layout *l, struct mt_buf *b)
{
    mt_buf_printf(b,
                  "# written by moat up\n"
                  "data_dir = \"%s/edge\"\ncontrol_socket = \"%s/run/control/internal.sock\"\n"
                  "public_addresses = [\"%s\"]\nadmin_socket = \"%s/run/edge/edge.sock\"\nhandover_socket = \"%s/run/edge/handover.sock\"\n",
                  l->dir, l->dir, l->listen, l->dir, l->dir);
    if (l->tls_port != 443)
        mt_buf_printf(b, "\n[port_map]\n443 = %u\n", l->tls_port);
}

static void cli(const struct up_layout *l, struct mt_buf *b)
{
    mt_buf_printf(b,
                  "# written by moat up: how the CLI finds this platform\n"
                  "api = \"unix:%s/run/control/api.sock\"\ntoken_file = \"%s/control/operator.token\"\n"
                  "org = \"local\"\nenv = \"prod\"\ndata_dir = \"%s\"\ntls_port = %u\n",
                  l->dir, l->dir, l->dir, l->tls_port);
}

static void registry(const struct up_layout *l, struct mt_buf *b)
{
    mt_buf_printf(b,
                  "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s/registry\n"
                  "  delete:\n    enabled: true\n"
                  "http:\n  addr: %s\n  headers:\n    X-Content-Type-Options: [nosniff]\n",
                  l->dir, l->registry);
}

/* The platform's first master key, made once. Without this file the secrets in the database are lost: it is part of a backup. */
static int master_key(const struct up_layout *l, struct mt_err *err)
{
    char path[UP_PATH], line[MT_MASTERKEY_LINE];
    struct mt_masterkey k = {.active = true};
    int r = 0;
    if (access(up_path(l, path, "etc/master-keys"), F_OK) != 0) {
        mt_random(k.key, sizeof k.key);
        mt_masterkey_id(k.key, k.id);
        mt_masterkey_line(&k, line);
        r = mt_file_write(path, line, strlen(line), 0400, err);
        explicit_bzero(&k, sizeof k);
        explicit_bzero(line, sizeof line);
    }
    if (r == 0 && lchown(path, l->users.control, l->users.moat) < 0)
        r = MT_FAIL_ERRNO(err, MT_E_IO, "give '%s' to the control plane", path);
    return r;
}

int up_config_write(const struct up_layout *l, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(16384);
    control(l, &b);
    int r = put(l, "etc/control.toml", 0644, &b, err);
    agent(l, &b);
    r = r == 0 ? put(l, "etc/agent.toml", 0644, &b, err) : r;
    edge(l, &b);
    r = r == 0 ? put(l, "etc/edge.toml", 0644, &b, err) : r;
    cli(l, &b);
    r = r == 0 ? put(l, "etc/cli.toml", 0644, &b, err) : r;
    registry(l, &b);
    r = r == 0 ? master_key(l, err) : r;
    return r == 0 ? put(l, "etc/registry.yml", 0644, &b, err) : r;
}
