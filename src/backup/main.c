/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-backup: the backup engine, a short-lived child of agent and control plane.
 *
 * Root is left and system calls are filtered before the first byte goes to the network. Contract: docs/formats/backup.md.
 */
#include "backup/out.h"
#include "backup/sandbox.h"
#include "backup/store.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>

#define REQUEST_MAX ((size_t)256 << 10)

static int usage(void)
{
    (void)fputs("usage: moat-backup backup|restore|verify|scan|gc|put-key|get-key|put-file|get-file|list-files < request.json\n"
                "see docs/formats/backup.md\n",
                stderr);
    return 2;
}

/* The parsed request holds keys as text: jansson's memory is wiped as it is given back. */
static void wipe_free(void *p)
{
    if (p)
        explicit_bzero(p, malloc_usable_size(p));
    free(p);
}

static int check_fds(const struct mt_bk_request *q, struct mt_bk_fault *f)
{
    const struct {
        const char *name;
        int fd, mode; /* O_RDWR: both wanted */
    } all[] = {{"image_fd", q->image_fd, q->verb == MT_BK_RESTORE ? O_WRONLY : q->verb == MT_BK_GET_FILE ? O_RDWR : O_RDONLY},
               {"ranges_fd", q->ranges_fd, O_RDONLY},
               {"journal_fd", q->journal_fd, O_RDWR},
               {"step_fd", q->step_fd, O_RDONLY}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i].fd < 0)
            continue;
        int flags = fcntl(all[i].fd, F_GETFL);
        if (flags < 0)
            return mt_bk_fail(f, MT_BK_INVALID, "descriptor", "%s %d is not open", all[i].name, all[i].fd);
        flags &= O_ACCMODE;
        if (flags != O_RDWR && flags != all[i].mode)
            return mt_bk_fail(f, MT_BK_INVALID, "descriptor", "%s %d is not open for what it is for", all[i].name, all[i].fd);
    }
    return 0;
}

static json_t *run(enum mt_bk_verb verb, char *text, size_t len, struct mt_bk_request *q, struct mt_bk_run *r)
{
    static json_t *(*const verbs[MT_BK_VERB_MAX])(struct mt_bk_run *) = {mt_bk_save, mt_bk_restore, mt_bk_verify, mt_bk_scan,
                                                                         mt_bk_gc,   mt_bk_put_key, mt_bk_get_key,
                                                                         mt_bk_put_file, mt_bk_get_file, mt_bk_list_files};
    struct mt_err err = {0};
    int rc = mt_bk_request_parse(text, len, verb, q, &err);
    explicit_bzero(text, len);
    if (rc < 0) {
        (void)mt_bk_fail(r->f, MT_BK_INVALID, "request", "%s", err.msg);
        return NULL;
    }
    mt_bk_out_steps(q->step_fd);
    /* the first use of a digest sets OpenSSL up, which wants calls that are gone later */
    uint8_t digest[32];
    mt_sha256_of("", 0, digest);
    int64_t deadline = mt_clock_mono() + (int64_t)q->total_timeout_s * MT_NS_PER_S;
    if (check_fds(q, r->f) < 0 || !(r->s3 = mt_s3_new(q, deadline, r->f)))
        return NULL;
    if (mt_bk_leave_root(q->uid, q->gid, &err) < 0 || mt_bk_sandbox(&err) < 0) {
        (void)mt_bk_fail(r->f, MT_BK_INTERNAL, "internal", "%s", err.msg);
        return NULL;
    }
    json_t *answer = verbs[verb](r);
    if (!answer && r->f->kind == MT_BK_OK)
        (void)mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for an answer");
    return answer;
}

int main(int argc, char **argv)
{
    enum mt_bk_verb verb;
    struct mt_bk_request q = {0};
    struct mt_bk_fault f = {0};
    struct mt_bk_run r = {.q = &q, .f = &f, .began_ns = mt_clock_mono()};
    mt_auto_lockmem struct mt_lockmem text = {0};
    struct mt_err err = {0};
    size_t len = 0;
    if (argc != 2 || !mt_bk_verb_of(argv[1], &verb))
        return usage();
    mt_process_hide();
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20); /* big blocks go back to the system when they are given up */
    (void)mallopt(M_ARENA_MAX, 1);
    (void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    json_set_alloc_funcs(malloc, wipe_free);
    r.damage.list = json_array();
    json_t *answer = NULL;
    if (!r.damage.list || mt_lockmem_new(&text, REQUEST_MAX + 2, &err) < 0) {
        (void)mt_bk_fail(&f, MT_BK_INTERNAL, "memory", "%s", err.msg[0] ? err.msg : "no memory");
    } else {
        ssize_t n;
        while (len <= REQUEST_MAX && (n = read(STDIN_FILENO, text.p + len, REQUEST_MAX + 1 - len)) != 0) {
            if (n > 0)
                len += (size_t)n;
            else if (errno != EINTR)
                break;
        }
        answer = run(verb, (char *)text.p, len, &q, &r);
    }
    int status = answer ? 0 : 1;
    if (!answer)
        answer = json_pack("{s:b,s:{s:s,s:s,s:b,s:s,s:O,s:I}}", "ok", 0, "error", "failed_reason", mt_bk_reason(f.kind), "detail", f.detail, "retryable",
                           (int)mt_bk_retryable(f.kind), "message", f.message, "damaged", r.damage.list, "damaged_count",
                           (json_int_t)r.damage.count);
    if (!mt_bk_line(answer))
        status = 3;
    mt_lockmem_done(&q.locked);
    mt_lockmem_done(&text);
    if (status == 0) {
        mt_s3_free(r.s3);
        mt_bk_request_done(&q);
        json_decref(r.damage.list);
    }
    _exit(status); /* after a failure threads may still be at work */
}
