/* SPDX-License-Identifier: Apache-2.0 */
/* The files behind backups of a node: the store's configuration, records of volumes, what is swept and given up. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "wire/backup_conf.h"
#include "agent/backup/starvation.h"
#include "agent/backup/record.h"
#include "agent/backup/restore.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char top[64], dir[96];
static struct mt_backend backend;

static int set_up(void **state)
{
    (void)state;
    char volumes[96];
    (void)snprintf(top, sizeof top, "/tmp/moat-test-backup-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    (void)snprintf(dir, sizeof dir, "%s/backup", top);
    (void)snprintf(volumes, sizeof volumes, "%s/volumes", top);
    return mkdir(dir, 0700) < 0 || mt_backend_open(volumes, "copy", true, &backend, NULL) < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    mt_backend_done(&backend);
    return mt_file_remove_tree(AT_FDCWD, top, NULL);
}

static const char *put(const char *name, const char *text, mode_t mode)
{
    static char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", top, name);
    (void)unlink(path);
    mt_auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0);
    return path;
}

#define GOOD "endpoint = \"https://s3.test\"\nbucket = \"b-1\"\naccess_key = \"AK\"\nsecret_key = \"S\\\"K\"\n"

static void a_store_is_read_and_put_into_a_request(void **state)
{
    (void)state;
    struct mt_backup_conf c = {0};
    struct mt_err err = {0};
    if (mt_backup_conf_load(put("b.toml", GOOD, 0600), &c, &err) < 0)
        fail_msg("%s", err.msg);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(4096);
    mt_backup_conf_put(&c, &b);
    assert_string_equal(mt_buf_cstr(&b), "{\"endpoint\":\"https://s3.test\",\"region\":\"us-east-1\",\"bucket\":\"b-1\",\"prefix\":\"\",\"style\":\"path\",\"access_key\":\"AK\","
                                         "\"secret_key\":\"S\\\"K\",\"allow_insecure\":false,\"parallel\":4,\"upload_limit_bytes\":26214400,\"tries\":6,\"request_timeout_s\":60}");
    mt_backup_conf_done(&c);
    assert_null(c.secret_key);
}

static void credentials_that_others_may_read_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        mode_t mode;
        const char *says;
    } rows[] = {{GOOD, 0640, "mode 0600"}, {GOOD, 0604, "mode 0600"}, {GOOD "more = 1\n", 0600, "more"}, {"bucket = \"abc\"\n", 0600, "endpoint"},
                {GOOD "parallel = 17\n", 0600, "parallel"}};
    struct mt_backup_conf c = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct mt_err err = {0};
        assert_int_equal(mt_backup_conf_load(put("b.toml", rows[i].text, rows[i].mode), &c, &err), -MT_E_INVALID);
        if (!strstr(err.msg, rows[i].says))
            fail_msg("row %zu: %s", i, err.msg);
    }
    char link[160];
    (void)snprintf(link, sizeof link, "%s/link", top);
    assert_int_equal(symlink(put("b.toml", GOOD, 0600), link), 0);
    assert_int_equal(mt_backup_conf_load(link, &c, NULL), -MT_E_IO);
    (void)snprintf(link, sizeof link, "%s/none", top);
    assert_int_equal(mt_backup_conf_load(link, &c, NULL), -MT_E_NOT_FOUND);
}

static void image(const char *snapshot_id, const char *volume_id)
{
    int64_t ms;
    uint64_t have;
    mt_auto_fd int fd = -1;
    if (mt_backend_size(&backend, volume_id, &have, NULL) < 0)
        assert_true(mt_backend_begin(&backend, volume_id, 1 << 20, &fd, NULL) == 0 && mt_backend_commit(&backend, volume_id, fd, NULL) == 0);
    assert_int_equal(mt_backend_snap_create(&backend, volume_id, snapshot_id, &ms, NULL), 0);
}

static bool there(const char *snapshot_id)
{
    mt_auto_fd int fd = -1;
    return mt_backend_snap_open(&backend, snapshot_id, &fd, NULL) == 0;
}

static struct mt_backup_record recorded(const char *base, const char *job)
{
    struct mt_backup_record r = {.captured_ms = 7, .filesystem = true};
    mt_id_new(MT_ID_VOLUME, r.volume_id);
    (void)snprintf(r.base, sizeof r.base, "%s", base);
    (void)snprintf(r.job, sizeof r.job, "%s", job);
    assert_int_equal(mt_backup_record_save(dir, &r, NULL), 0);
    return r;
}

static void a_record_comes_back_and_a_broken_one_is_none(void **state)
{
    (void)state;
    char a[MT_ID_SIZE], b[MT_ID_SIZE], path[PATH_MAX];
    mt_id_new(MT_ID_SNAPSHOT, a);
    mt_id_new(MT_ID_SNAPSHOT, b);
    struct mt_backup_record r = recorded(a, b), got;
    assert_int_equal(mt_backup_record_load(dir, r.volume_id, &got, NULL), 0);
    assert_memory_equal(&r, &got, sizeof r);
    (void)snprintf(path, sizeof path, "%s/%s.json", dir, r.volume_id);
    assert_int_equal(truncate(path, 20), 0);
    assert_int_equal(mt_backup_record_load(dir, r.volume_id, &got, NULL), -MT_E_NOT_FOUND);
    assert_string_equal(got.volume_id, r.volume_id);
    assert_string_equal(got.base, "");
    assert_int_equal(mt_backup_record_load(dir, "vol_../../etc", &got, NULL), -MT_E_INVALID);
}

static void images_of_nobody_go_when_they_are_old(void **state)
{
    (void)state;
    char id[4][MT_ID_SIZE], path[PATH_MAX];
    char volume[MT_ID_SIZE];
    mt_id_new(MT_ID_VOLUME, volume);
    for (int i = 0; i < 4; i++) {
        mt_id_new(MT_ID_SNAPSHOT, id[i]);
        image(id[i], volume);
    }
    struct mt_backup_record r = recorded(id[0], id[1]);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(mt_backup_journal(dir, id[i], path, NULL), 0);
        mt_auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
    }
    int64_t now = (int64_t)time(NULL) * 1000;
    assert_int_equal(mt_backup_sweep(dir, &backend, now, 3600000), 0); /* young: perhaps of a record that was lost a moment ago */
    assert_int_equal(mt_backup_sweep(dir, &backend, now + 7200000, 3600000), 2);
    assert_true(there(id[0]) && there(id[1]) && !there(id[2]) && !there(id[3]));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(mt_backup_journal(dir, id[1], path, NULL), 0);
    assert_int_equal(access(path, F_OK), 0);
    /* the pool is full: the base goes, what is under way stays */
    assert_int_equal(mt_backup_drop_bases(dir, &backend), 1);
    assert_true(!there(id[0]) && there(id[1]));
    struct mt_backup_record got;
    assert_int_equal(mt_backup_record_load(dir, r.volume_id, &got, NULL), 0);
    assert_string_equal(got.base, "");
    assert_string_equal(got.job, id[1]);
    /* the volume is removed */
    for (int i = 0; i < 2; i++)
        assert_int_equal(mt_backup_forget(dir, &backend, r.volume_id, NULL), 0);
    assert_true(!there(id[1]) && access(path, F_OK) < 0);
    assert_int_equal(mt_backup_record_load(dir, r.volume_id, &got, NULL), -MT_E_NOT_FOUND);
}

static bool there_in(const char *folder, const char *head, const char *id, const char *tail)
{
    char path[2 * PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s%s%s", folder, head, id, tail);
    return access(path, F_OK) == 0;
}

/* A part is nobody's volume, outlives a start, and has one writer, also one that has lost its agent. */
static void a_part_is_kept_until_it_is_whole_or_not_wanted(void **state)
{
    (void)state;
    enum { BYTES = 8 << 20 };
    char volume[MT_ID_SIZE], folder[PATH_MAX];
    uint64_t bytes;
    int fd = -1, again = -1;
    mt_id_new(MT_ID_VOLUME, volume);
    (void)snprintf(folder, sizeof folder, "%s", backend.dir);
    assert_int_equal(mt_backend_part_open(&backend, volume, BYTES, &fd, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_backend_part_begin(&backend, volume, BYTES, &fd, NULL), 0);
    assert_int_equal(pwrite(fd, "x", 1, 5), 1);
    assert_int_equal(mt_backend_part_open(&backend, volume, BYTES, &again, NULL), -MT_E_CONFLICT);
    int child = dup(fd); /* as a program has it that was started with it */
    mt_closep(&fd);
    assert_int_equal(mt_backend_part_open(&backend, volume, BYTES, &again, NULL), -MT_E_CONFLICT);
    mt_closep(&child);
    mt_backend_done(&backend);
    assert_int_equal(mt_backend_open(folder, "copy", true, &backend, NULL), 0);
    assert_int_equal(mt_backend_size(&backend, volume, &bytes, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_backend_part_open(&backend, volume, 2 * BYTES, &fd, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_backend_part_open(&backend, volume, BYTES, &fd, NULL), 0);
    char c = 0;
    assert_true(pread(fd, &c, 1, 5) == 1 && c == 'x');
    assert_int_equal(mt_backend_part_commit(&backend, volume, fd, NULL), 0);
    mt_closep(&fd);
    assert_true(mt_backend_size(&backend, volume, &bytes, NULL) == 0 && bytes == BYTES && !there_in(folder, "vol-", volume, ".img.part"));
    assert_int_equal(mt_backend_part_begin(&backend, volume, UINT64_C(1) << 60, &fd, NULL), -MT_E_LIMIT);
    /* the end of the volume is also that of what was begun of it */
    assert_int_equal(mt_backend_part_begin(&backend, volume, BYTES, &fd, NULL), 0);
    mt_closep(&fd);
    assert_int_equal(mt_backend_delete(&backend, volume, NULL), 0);
    assert_false(there_in(folder, "vol-", volume, ".img.part"));
}

static void restores_of_nobody_go(void **state)
{
    (void)state;
    char restores[3][MT_ID_SIZE], volumes[3][MT_ID_SIZE], path[2 * PATH_MAX];
    for (int i = 0; i < 3; i++) {
        int fd = -1, lock = -1;
        mt_id_new(MT_ID_RESTORE, restores[i]);
        mt_id_new(MT_ID_VOLUME, volumes[i]);
        (void)snprintf(path, sizeof path, "%s/%s.lock", backend.dir, volumes[i]);
        assert_true((lock = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) >= 0);
        assert_int_equal(mt_backend_part_begin(&backend, volumes[i], 4 << 20, &fd, NULL), 0);
        mt_closep(&fd);
        mt_closep(&lock);
        (void)snprintf(path, sizeof path, "%s/%s.rjl", dir, restores[i]);
        assert_true((fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) >= 0);
        mt_closep(&fd);
    }
    assert_int_equal(mt_restore_sweep(dir, &backend, restores, volumes, 2), 1);
    for (int i = 0; i < 3; i++) {
        bool kept = i < 2;
        assert_int_equal(there_in(dir, "", restores[i], ".rjl"), kept);
        assert_int_equal(there_in(backend.dir, "vol-", volumes[i], ".img.part"), kept);
        assert_int_equal(there_in(backend.dir, "", volumes[i], ".lock"), kept);
    }
    for (int i = 0; i < 2; i++) /* doing it again is harmless */
        assert_int_equal(mt_restore_remove(dir, &backend, restores[0], volumes[0], NULL), 0);
    assert_true(!there_in(dir, "", restores[0], ".rjl") && !there_in(backend.dir, "vol-", volumes[0], ".img.part") && !there_in(backend.dir, "", volumes[0], ".lock"));
    assert_int_equal(mt_restore_remove(dir, &backend, "rst_../../etc", volumes[1], NULL), -MT_E_INVALID);
    assert_int_equal(mt_restore_sweep(dir, &backend, NULL, NULL, 0), 1);
}

static void a_backup_that_gets_nothing_starves(void **state)
{
    (void)state;
    const uint64_t mib = 1 << 20;
    struct mt_starvation p;
    mt_starvation_begin(&p, 5 * MT_NS_PER_S);
    assert_false(mt_starvation_look(&p, 14 * MT_NS_PER_S, 0)); /* not ten seconds yet */
    assert_false(mt_starvation_look(&p, 15 * MT_NS_PER_S, 100 * mib));
    assert_false(mt_starvation_look(&p, 24 * MT_NS_PER_S, 100 * mib)); /* nor here */
    assert_false(mt_starvation_look(&p, 35 * MT_NS_PER_S, 150 * mib));
    assert_false(mt_starvation_look(&p, 55 * MT_NS_PER_S, 160 * mib)); /* little, but no window has ended */
    assert_false(mt_starvation_look(&p, 65 * MT_NS_PER_S, 270 * mib)); /* 4 MiB/s */
    assert_false(mt_starvation_look(&p, 95 * MT_NS_PER_S, 130 * mib)); /* another phase */
    assert_true(mt_starvation_look(&p, 125 * MT_NS_PER_S, 240 * mib));
    assert_true(p.starves);
    assert_false(mt_starvation_look(&p, 400 * MT_NS_PER_S, 240 * mib)); /* told once */
    mt_starvation_begin(&p, 500 * MT_NS_PER_S);
    assert_false(p.starves);
    assert_false(mt_starvation_look(&p, 505 * MT_NS_PER_S, 400 * mib));
    assert_false(mt_starvation_look(&p, 514 * MT_NS_PER_S, 400 * mib));
    assert_true(mt_starvation_look(&p, 515 * MT_NS_PER_S, 400 * mib)); /* nothing at all is seen sooner, however much there was before */
    mt_starvation_begin(&p, 600 * MT_NS_PER_S);
    assert_true(mt_starvation_look(&p, 610 * MT_NS_PER_S, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_is_read_and_put_into_a_request),
        cmocka_unit_test(credentials_that_others_may_read_are_refused),
        cmocka_unit_test(a_record_comes_back_and_a_broken_one_is_none),
        cmocka_unit_test(images_of_nobody_go_when_they_are_old),
        cmocka_unit_test(a_part_is_kept_until_it_is_whole_or_not_wanted),
        cmocka_unit_test(restores_of_nobody_go),
        cmocka_unit_test(a_backup_that_gets_nothing_starves),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
