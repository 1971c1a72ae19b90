/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plugin for QEMU's TCG: counts the instructions that a guest executes, into a file that others may read at any time: u64 in the byte order of
 * this machine. The few declarations of QEMU's plugin interface that it needs (version 1) are here, because Debian does not package the header.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum { ADD_U64 = 0 }; /* QEMU_PLUGIN_INLINE_ADD_U64 */
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *to, uint64_t add);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv);
extern int qemu_plugin_version;
int qemu_plugin_version = 1;

static uint64_t *executed;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, executed, qemu_plugin_tb_n_insns(tb));
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    const char *path = argc == 1 ? strchr(argv[0], '=') : NULL;
    int fd = path ? open(path + 1, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    (void)info;
    if (fd < 0 || ftruncate(fd, sizeof *executed) != 0)
        return -1;
    executed = mmap(NULL, sizeof *executed, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (executed == MAP_FAILED)
        return -1;
    (void)close(fd);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
