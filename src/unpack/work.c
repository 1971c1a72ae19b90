/* SPDX-License-Identifier: Apache-2.0 */
/* The worker: the only code that sees layer bytes, in a process that can do nothing but compute and write two files. */
#include "unpack/job.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/confine.h"
#include "os/file.h"
#include "unpack/ext4.h"
#include "unpack/sandbox.h"
#include "unpack/stream.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* What travels through the pipe. Fixed size, no pointers. */
struct verdict {
    int32_t ok;
    char reason[32];
    char detail[160];
    char message[400];
    struct mt_unpack_result result;
};

static int read_stream(void *arg, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f)
{
    return mt_stream_read(arg, ret_p, ret_n, f);
}

static int apply_layer(struct mt_apply *a, struct mt_stream *stream, const struct mt_unpack_image *image, size_t i,
                       struct mt_fault *f)
{
    const struct mt_oci_blob *layer = &image->manifest.layers[i];
    const struct mt_tar_source source = {.read = read_stream, .arg = stream};
    char hex[65];
    struct mt_tar *tar = mt_tar_new(&source);
    if (!tar)
        return mt_fault_sys(f, "memory", ENOMEM, "reading a layer");
    mt_stream_begin(stream, image->layer_fd[i], layer->size, layer->compression);
    int r = mt_apply_layer(a, tar, (uint8_t)i, f);
    mt_stream_end(stream, hex);
    mt_tar_free(tar);
    if (r == 0 && strcmp(hex, image->config.diff_ids[i] + strlen("sha256:")) != 0)
        r = mt_fault_rule(f, "diff_id", NULL, 0, "the layer's uncompressed bytes do not have the digest that the config names");
    if (r < 0)
        mt_fault_in_layer(f, i + 1, image->manifest.layer_count);
    return r;
}

static int write_disk(struct mt_tree *tree, int image_fd, int spool_fd, const uint8_t uuid[16], struct mt_unpack_result *ret,
                      struct mt_fault *f)
{
    struct mt_ext4 x = {.image_fd = image_fd, .spool_fd = spool_fd};
    memcpy(x.uuid, uuid, sizeof x.uuid);
    mt_ext4_plan(tree, &x.bytes, &x.inodes);
    for (int attempt = 0;; attempt++) {
        int r = mt_ext4_write(&x, tree, &ret->used_bytes, f);
        if (r != MT_EXT4_NO_ROOM) {
            ret->bytes = x.bytes;
            return r;
        }
        if (attempt == 1)
            return mt_fault_sys(f, "enospc", 0, "the tree does not fit into a root disk of half again its planned size");
        x.bytes = (x.bytes + x.bytes / 2 + ((uint64_t)1 << 20) - 1) & ~(((uint64_t)1 << 20) - 1);
        x.inodes += x.inodes / 2;
    }
}

static int work(const struct mt_unpack_request *r, const struct mt_unpack_image *image, int image_fd, int spool_fd,
                const uint8_t uuid[16], struct mt_unpack_result *ret, struct mt_fault *f)
{
    struct mt_tree tree;
    struct mt_apply apply;
    struct mt_err err = {0};
    uint64_t seed;
    mt_random(&seed, sizeof seed);
    struct mt_stream *stream = mt_stream_new();
    if (!stream)
        return mt_fault_sys(f, "memory", ENOMEM, "starting the worker");
    if (mt_sandbox_lock(r->cpu_seconds, r->limits.unpacked_bytes * 2 + ((uint64_t)1 << 30), &err) < 0)
        return mt_fault_sys(f, "sandbox", 0, err.msg);
    if (mt_tree_init(&tree, seed, f) < 0 || mt_apply_init(&apply, &tree, spool_fd, &r->limits, f) < 0)
        return -1;
    for (size_t i = 0; i < image->manifest.layer_count; i++)
        if (apply_layer(&apply, stream, image, i, f) < 0)
            return -1;
    if (mt_apply_flush(&apply, f) < 0 || write_disk(&tree, image_fd, spool_fd, uuid, ret, f) < 0)
        return -1;
    ret->entries = apply.entries;
    ret->devices_skipped = apply.devices_skipped;
    ret->unpacked = apply.unpacked;
    return 0; /* memory goes with the process */
}

__attribute__((noreturn)) static void worker_main(const struct mt_unpack_request *r, const struct mt_unpack_image *image,
                                                  int image_fd, int spool_fd, const uint8_t uuid[16], int pipe_fd, pid_t parent)
{
    struct mt_fault f = {0};
    struct mt_err err = {0};
    static struct verdict v;
    if (mt_confine_die_with_parent(parent, &err) < 0)
        _exit(3);
    (void)prctl(PR_SET_NAME, "moat-unpack:w");
    v.ok = work(r, image, image_fd, spool_fd, uuid, &v.result, &f) == 0;
    if (!v.ok) {
        (void)snprintf(v.reason, sizeof v.reason, "%s", f.reason ? f.reason : "rootfs_build_failed");
        memcpy(v.detail, f.detail, sizeof v.detail);
        memcpy(v.message, f.message, sizeof v.message);
    }
    _exit(write(pipe_fd, &v, sizeof v) == (ssize_t)sizeof v ? 0 : 3);
}

static const char *known_reason(const char *s)
{
    static const char *const names[] = {"image_layer_invalid", "image_too_large", "disk_full", "rootfs_build_failed", NULL};
    for (size_t i = 0; names[i]; i++)
        if (strcmp(s, names[i]) == 0)
            return names[i];
    return "rootfs_build_failed";
}

static int judge(const struct verdict *v, size_t got, int status, struct mt_unpack_result *ret, struct mt_fault *f)
{
    char text[160];
    if (got != sizeof *v) {
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
            return mt_fault_limit(f, "cpu_seconds", 0);
        if (WIFSIGNALED(status))
            (void)snprintf(text, sizeof text, "the unpack worker was killed by signal %d", WTERMSIG(status));
        else
            (void)snprintf(text, sizeof text, "the unpack worker ended with status %d", WEXITSTATUS(status));
        return mt_fault_sys(f, "worker", 0, text);
    }
    if (v->ok) {
        *ret = v->result;
        return 0;
    }
    f->reason = known_reason(v->reason[sizeof v->reason - 1] ? "" : v->reason);
    (void)mt_printable(v->detail, strnlen(v->detail, sizeof v->detail), f->detail, sizeof f->detail);
    (void)mt_printable(v->message, strnlen(v->message, sizeof v->message), f->message, sizeof f->message);
    return -1;
}

int mt_unpack_work(const struct mt_unpack_request *r, const struct mt_unpack_image *image, int image_fd, int spool_fd,
                   const uint8_t uuid[16], struct mt_unpack_result *ret, struct mt_fault *f)
{
    int p[2];
    static struct verdict v;
    if (pipe2(p, O_CLOEXEC) < 0)
        return mt_fault_sys(f, "worker", errno, "making a pipe");
    mt_auto_fd int in = p[0];
    mt_auto_fd int out = p[1];
    pid_t self = getpid();
    pid_t pid = fork();
    if (pid < 0)
        return mt_fault_sys(f, "worker", errno, "starting the unpack worker");
    if (pid == 0)
        worker_main(r, image, image_fd, spool_fd, uuid, out, self);
    mt_closep(&out);
    size_t got = 0;
    while (got < sizeof v) {
        ssize_t n = read(in, (uint8_t *)&v + got, sizeof v - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return judge(&v, got, status, ret, f);
}
