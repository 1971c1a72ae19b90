/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-unpack: the verified blobs of one image become one ext4 root disk. Contract in job.h.
 *
 * Root only long enough to enter its namespaces; parses the image's documents as an ordinary user; layers are read by a
 * worker with even less (work.c). The result is checked by e2fsck before anybody may use it.
 */
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/spawn.h"
#include "unpack/job.h"
#include "unpack/sandbox.h"
#include "wire/json.h"

#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define REQUEST_MAX ((size_t)256 << 10)
#define FSCK_TIMEOUT_MS (30 * 60 * 1000)

static int answer_fault(const struct mt_fault *f)
{
    mt_auto_json json_t *root = json_pack("{s:b,s:{s:s,s:s,s:s}}", "ok", 0, "error", "reason_code", f->reason, "detail",
                                          f->detail, "message", f->message);
    if (!root || json_dumpf(root, stdout, JSON_COMPACT) < 0)
        return 3;
    (void)putchar('\n');
    return fflush(stdout) == 0 ? 1 : 3;
}

/* e2fsck runs beside the hashing: both only read the file. */
static int check_and_hash(const struct mt_unpack_request *r, int fd, char hex[MT_SHA256_HEX], struct mt_fault *f)
{
    char path[64];
    struct mt_err err = {0};
    pid_t pid;
    mt_auto_fd int pidfd = -1;
    struct mt_run_result result = {0};
    const int keep[] = {fd};
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const char *const argv[] = {"e2fsck", "-fn", path, NULL};
    struct mt_spawn s = {.path = r->e2fsck, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .keep_fds = keep,
                         .keep_count = 1, .no_new_privs = true, .parent_death_signal = SIGKILL};
    if (mt_spawn(&s, &pid, &pidfd, &err) < 0)
        return mt_fault_sys(f, "e2fsck", 0, err.msg);
    int hashed = mt_sha256_file(path, hex, &err);
    struct mt_err wait_err = {0};
    int waited = mt_pidfd_wait(pidfd, FSCK_TIMEOUT_MS, &result, &wait_err);
    if (hashed < 0)
        return mt_fault_sys(f, "hash", 0, err.msg);
    if (waited < 0)
        return mt_fault_sys(f, "e2fsck", 0, wait_err.msg);
    if (!result.exited || result.status != 0) {
        char text[120];
        (void)snprintf(text, sizeof text, "e2fsck finds the new root disk not clean (%s %d)",
                       result.exited ? "status" : "signal", result.status);
        return mt_fault_sys(f, "e2fsck", 0, text);
    }
    return 0;
}

static int make_disk(const struct mt_unpack_request *r, json_t **ret, struct mt_fault *f)
{
    static struct mt_unpack_image image;
    struct mt_unpack_result result = {0};
    uint8_t key[MT_SHA256_LEN];
    char key_hex[MT_SHA256_HEX], disk_hex[MT_SHA256_HEX], uuid[37], path[512], source[160];
    const char *version = NULL;
    (void)snprintf(source, sizeof source, "%s:%s", r->digest, r->format_version);
    mt_sha256_of(source, strlen(source), key);
    mt_hex_encode(key, sizeof key, key_hex);
    key[6] = (uint8_t)((key[6] & 0x0f) | 0x40); /* version and variant bits: a well-formed UUID */
    key[8] = (uint8_t)((key[8] & 0x3f) | 0x80);
    char h[33];
    mt_hex_encode(key, 16, h);
    (void)snprintf(uuid, sizeof uuid, "%.8s-%.4s-%.4s-%.4s-%.12s", h, h + 8, h + 12, h + 16, h + 20);

    if (mt_unpack_image_load(r, &image, f) < 0) {
        mt_unpack_image_done(&image);
        return -1;
    }
    (void)snprintf(path, sizeof path, "tmp/%s/disk.ext4", r->work_dir);
    mt_auto_fd int disk = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (disk < 0)
        return mt_fault_sys(f, "work_dir", errno, "making the root disk file");
    (void)snprintf(path, sizeof path, "tmp/%s", r->work_dir);
    mt_auto_fd int spool = open(path, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (spool < 0)
        return mt_fault_sys(f, "work_dir", errno, "making the spool file");
    int done = mt_unpack_work(r, &image, disk, spool, key, &result, f);
    json_t *config = done == 0 ? mt_oci_config_subset(&image.config) : NULL;
    mt_unpack_image_done(&image);
    mt_closep(&spool);
    if (done < 0 || check_and_hash(r, disk, disk_hex, f) < 0 ||
        ((fchmod(disk, 0444) < 0 || fsync(disk) < 0) && mt_fault_sys(f, "ext4", errno, "flushing the root disk") < 0)) {
        json_decref(config);
        return -1;
    }
    (void)ext2fs_get_library_version(&version, NULL);
    *ret = json_pack("{s:b,s:s,s:s,s:s,s:I,s:I,s:s,s:s,s:o,s:I,s:I,s:I,s:s}", "ok", 1, "key", key_hex, "digest", r->digest, "format",
                     r->format_version, "bytes", (json_int_t)result.bytes, "used_bytes", (json_int_t)result.used_bytes, "uuid",
                     uuid, "sha256", disk_hex, "config", config, "entries", (json_int_t)result.entries, "devices_skipped",
                     (json_int_t)result.devices_skipped, "unpacked_bytes", (json_int_t)result.unpacked, "tool_version",
                     version ? version : "");
    return *ret ? 0 : mt_fault_sys(f, "memory", ENOMEM, "writing the answer");
}

int main(int argc, char **argv)
{
    mt_cleanup(mt_unpack_request_done) struct mt_unpack_request r = {0};
    mt_auto_json json_t *answer = NULL;
    struct mt_fault f = {0};
    struct mt_err err = {0};
    if (argc != 1) {
        (void)fprintf(stderr, "usage: %s < request.json (started by moat-agent; see src/unpack/job.h)\n",
                      argc > 0 ? argv[0] : "moat-unpack");
        return 2;
    }
    mt_auto_free char *text = malloc(REQUEST_MAX + 1);
    size_t len = text ? fread(text, 1, REQUEST_MAX + 1, stdin) : 0;
    if (!text || mt_unpack_request_parse(text, len, &r, &err) < 0) {
        (void)mt_fault_sys(&f, "request", 0, err.msg);
        return answer_fault(&f);
    }
    if (chdir(r.images_dir) < 0) {
        (void)mt_fault_sys(&f, "images_dir", errno, "entering the image store");
        return answer_fault(&f);
    }
    if (mt_sandbox_leave_root(r.uid, r.gid, &err) < 0) {
        (void)mt_fault_sys(&f, "sandbox", 0, err.msg);
        return answer_fault(&f);
    }
    if (make_disk(&r, &answer, &f) < 0)
        return answer_fault(&f);
    if (json_dumpf(answer, stdout, JSON_COMPACT) < 0)
        return 3;
    (void)putchar('\n');
    return fflush(stdout) == 0 ? 0 : 3;
}
