/* SPDX-License-Identifier: Apache-2.0 */
/* The LVM backend without LVM: thin_delta's answers, and a stand-in of the programs for what goes wrong. The real ones are in tests/lab/test_lvm.py. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "agent/volume/backend_ops.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define BLOCK ((uint64_t)65536)

/* ---- thin_delta's answers ---------------------------------------------------------------- */

struct ranges {
    uint64_t at[64], n[64];
    size_t count, stop_at; /* stop_at: the call that refuses, 0 none */
};

static int note(void *arg, uint64_t offset, uint64_t bytes)
{
    struct ranges *r = arg;
    assert_true(r->count < 64);
    r->at[r->count] = offset;
    r->n[r->count++] = bytes;
    return r->stop_at && r->count == r->stop_at ? -MT_E_CANCELLED : 0;
}

#define HEAD "<superblock uuid=\"\" time=\"3\" transaction=\"5\" data_block_size=\"128\" nr_data_blocks=\"81920\">\n  <diff left=\"1\" right=\"4\">\n"
#define TAIL "  </diff>\n</superblock>\n"

static int read_of(const char *text, uint64_t base, uint64_t bytes, struct ranges *r)
{
    struct mt_err err = {0};
    *r = (struct ranges){.stop_at = r->stop_at};
    return mt_thin_delta_read(text, base, bytes, note, r, &err);
}

static void ranges_are_those_that_differ(void **state)
{
    (void)state;
    struct ranges r = {0};
    static const char text[] = HEAD "<same begin=\"0\" length=\"10\"/><different begin=\"10\" length=\"2\"/><right_only begin=\"12\" length=\"1\"/>\n"
                                    "<left_only begin=\"20\" length=\"1\"/><same begin=\"21\" length=\"1\"/><different begin=\"40\" length=\"100\"/>" TAIL;
    assert_int_equal(read_of(text, 100 * BLOCK, 100 * BLOCK, &r), 0);
    assert_int_equal(r.count, 3);
    assert_true(r.at[0] == 10 * BLOCK && r.n[0] == 3 * BLOCK); /* runs that touch are one */
    assert_true(r.at[1] == 20 * BLOCK && r.n[1] == BLOCK);     /* given back by the guest: reads as zeros */
    assert_true(r.at[2] == 40 * BLOCK && r.n[2] == 60 * BLOCK);
    /* grown since: all that is new, and of what is not only that */
    assert_int_equal(read_of(text, 30 * BLOCK, 100 * BLOCK, &r), 0);
    assert_true(r.count == 3 && r.at[2] == 30 * BLOCK && r.n[2] == 70 * BLOCK);
    assert_int_equal(read_of(HEAD TAIL, 30 * BLOCK, 30 * BLOCK, &r), 0);
    assert_int_equal(r.count, 0);
    assert_int_equal(read_of(HEAD "<same begin=\"0\" length=\"10\"/>" TAIL, 30 * BLOCK, 30 * BLOCK, &r), 0);
    assert_int_equal(r.count, 0);
    for (r.stop_at = 1; r.stop_at <= 3; r.stop_at++) {
        assert_int_equal(read_of(text, 100 * BLOCK, 100 * BLOCK, &r), -MT_E_CANCELLED);
        assert_int_equal(r.count, r.stop_at);
    }
}

static void an_answer_that_is_not_whole_is_none(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "<superblock data_block_size=\"128\">",
        HEAD,
        HEAD "<different begin=\"0\" length=\"1\"/>",
        HEAD "<different begin=\"0\" length=\"1\"/>  </diff>\n",
        HEAD "<different begin=\"5\" length=\"1\"/><different begin=\"4\" length=\"1\"/>" TAIL,
        HEAD "<different begin=\"5\" length=\"0\"/>" TAIL,
        HEAD "<different begin=\"5\"/>" TAIL,
        HEAD "<different begin=\"-5\" length=\"1\"/>" TAIL,
        HEAD "<different begin=\"99999999999999999999\" length=\"1\"/>" TAIL,
        HEAD "<different begin=\"18446744073709551615\" length=\"18446744073709551615\"/>" TAIL,
        HEAD "<changed begin=\"5\" length=\"1\"/>" TAIL,
        "<superblock data_block_size=\"0\"><diff></diff></superblock>",
        "<superblock nr_data_blocks=\"5\"><diff></diff></superblock>",
        "<superblock data_block_size=\"18446744073709551615\"><diff></diff></superblock>",
    };
    struct ranges r = {0};
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        if (read_of(bad[i], 100 * BLOCK, 100 * BLOCK, &r) != -MT_E_UNAVAILABLE)
            fail_msg("answer %zu was believed", i);
    /* cut off anywhere */
    static const char whole[] = HEAD "<different begin=\"3\" length=\"1\"/><same begin=\"4\" length=\"7\"/>" TAIL;
    char part[sizeof whole];
    size_t last = (size_t)(strstr(whole, "</superblock>") - whole) + strlen("</superblock>");
    for (size_t n = 0; n < last; n++) {
        (void)snprintf(part, sizeof part, "%.*s", (int)n, whole);
        assert_int_equal(read_of(part, 100 * BLOCK, 100 * BLOCK, &r), -MT_E_UNAVAILABLE);
    }
    assert_int_equal(read_of(whole, 100 * BLOCK, 100 * BLOCK, &r), 0);
}

/* ---- programs that are not LVM's --------------------------------------------------------- */

static char base[64];

/* Keeps volumes as files below $0/../dev/moat and a line of each in lvs; what it is told to do wrong stands in the file "wrong". */
static const char stand_in[] =
    "#!/bin/sh\n"
    "at=$(dirname $0); wrong=$(cat $at/wrong 2>/dev/null); echo \"$@\" >> $at/log\n"
    "[ \"$wrong\" = \"$1\" ] && { echo \"$1: told to fail\" >&2; exit 5; }\n"
    "last() { for x in \"$@\"; do :; done; echo ${x##*/}; }\n"
    "opt() { want=$1; shift; while [ $# -gt 1 ]; do [ \"$1\" = \"$want\" ] && { echo $2; return; }; shift; done; }\n"
    "case $1 in\n"
    "lvs) case \"$*\" in\n"
    "  *segtype*) cat $at/pool;;\n"
    "  *data_percent*) cat $at/figures;;\n"
    "  *) cat $at/rows/* 2>/dev/null; true;;\n"
    "  esac;;\n"
    "lvcreate)\n"
    "  name=$(opt -n \"$@\"); [ -e $at/rows/$name ] && { echo exists >&2; exit 5; }\n"
    "  case \" $* \" in\n"
    "  *' -s '*) of=$(last \"$@\"); cp $at/dev/moat/$of $at/dev/moat/$name; size=$(stat -c %s $at/dev/moat/$name); tag=$(opt --addtag \"$@\");;\n"
    "  *) size=$(opt -V \"$@\"); size=${size%b}; truncate -s $size $at/dev/moat/$name; tag=;;\n"
    "  esac\n"
    "  n=$(cat $at/next 2>/dev/null || echo 1); echo $((n + 1)) > $at/next; echo \"  $name|$size|$n||$tag\" > $at/rows/$name;;\n"
    "lvremove) name=$(last \"$@\"); rm $at/rows/$name $at/dev/moat/$name;;\n"
    "lvrename) mv $at/dev/moat/$3 $at/dev/moat/$4; sed s/$3/$4/ $at/rows/$3 > $at/rows/$4; rm $at/rows/$3;;\n"
    "lvextend) name=$(last \"$@\"); size=$(opt -L \"$@\"); size=${size%b}; truncate -s $size $at/dev/moat/$name; awk -F'|' -v OFS='|' -v s=$size '{$2=s; print}' "
    "$at/rows/$name > $at/row; mv $at/row $at/rows/$name;;\n"
    "message|-m) [ \"$wrong\" = \"$4\" ] && exit 1; if [ $1 = -m ]; then cat $at/delta; fi;;\n"
    "vgchange) ;;\n"
    "*) exit 3;;\n"
    "esac\n";

static void put(const char *name, const char *text, mode_t mode)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", base, name);
    if (mt_file_write(path, text, strlen(text), mode, NULL) < 0)
        fail_msg("%s", path);
}

#define POOL_ROW "  thin-pool|zero|error|passdown|4194304\n"
#define FIGURES "  1073741824|25.00|4194304|10.50|\n"

static int set_up(void **state)
{
    char path[128];
    static const char *const folders[] = {"dev", "dev/moat", "rows"};
    (void)state;
    (void)snprintf(base, sizeof base, "/tmp/moat-test-lvm-XXXXXX");
    if (!mkdtemp(base))
        return -1;
    for (size_t i = 0; i < MT_ARRAY_LEN(folders); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", base, folders[i]);
        (void)mkdir(path, 0755);
    }
    put("program", stand_in, 0755);
    put("pool", POOL_ROW, 0644);
    put("figures", FIGURES, 0644);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return mt_file_remove_tree(AT_FDCWD, base, NULL);
}

static int open_it(struct mt_backend *ret, struct mt_err *err)
{
    struct mt_lvm l = {.vg = "moat", .pool = "vols"};
    char dir[128];
    (void)snprintf(l.lvm, sizeof l.lvm, "%s/program", base);
    (void)snprintf(l.dmsetup, sizeof l.dmsetup, "%s/program", base);
    (void)snprintf(l.thin_delta, sizeof l.thin_delta, "%s/program", base);
    (void)snprintf(l.dev, sizeof l.dev, "%s/dev", base);
    (void)snprintf(dir, sizeof dir, "%s/volumes", base);
    return mt_backend_open_lvm(dir, &l, ret, err);
}

static struct mt_backend opened(void)
{
    struct mt_backend b;
    struct mt_err err = {0};
    if (open_it(&b, &err) < 0)
        fail_msg("%s", err.msg);
    return b;
}

static bool logged(const char *text)
{
    char path[128];
    mt_auto_free char *all = NULL;
    size_t n;
    (void)snprintf(path, sizeof path, "%s/log", base);
    return mt_file_read(path, 1 << 20, &all, &n, NULL) == 0 && strstr(all, text);
}

static void count(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    (void)id;
    (void)bytes;
    (void)made_ms;
    ((size_t *)arg)[snapshot]++;
}

static void new_volume(const struct mt_backend *b, const char *id, uint64_t bytes)
{
    mt_auto_fd int fd = -1;
    struct mt_err err = {0};
    if (mt_backend_begin(b, id, bytes, &fd, &err) < 0 || mt_backend_commit(b, id, fd, &err) < 0)
        fail_msg("%s", err.msg);
}

static void the_contract_of_the_files_holds(void **state)
{
    (void)state;
    char vol[MT_ID_SIZE], other[MT_ID_SIZE], snap[MT_ID_SIZE], path[PATH_MAX], word[8] = {0};
    uint64_t size;
    int64_t when, again;
    mt_auto_fd int fd = -1;
    struct mt_backend b = opened();
    mt_id_new(MT_ID_VOLUME, vol);
    mt_id_new(MT_ID_VOLUME, other);
    mt_id_new(MT_ID_SNAPSHOT, snap);
    assert_int_equal(mt_backend_size(&b, vol, &size, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_backend_path(&b, "../../etc/passwd", path, NULL), -MT_E_INVALID);
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &when, NULL), -MT_E_NOT_FOUND);
    new_volume(&b, vol, 8 * MIB);
    assert_true(logged("-kn -Wn"));
    assert_int_equal(mt_backend_path(&b, vol, path, NULL), 0);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "before", 6, (off_t)(3 * MIB)), 6);
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &when, NULL), 0);
    assert_int_equal(pwrite(fd, "after!", 6, (off_t)(3 * MIB)), 6);
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &again, NULL), 0); /* it is there: its own time */
    assert_int_equal(when, again);
    mt_closep(&fd);
    assert_int_equal(mt_backend_snap_open(&b, snap, &fd, NULL), 0);
    assert_int_equal(pread(fd, word, 6, (off_t)(3 * MIB)), 6);
    assert_string_equal(word, "before");
    mt_closep(&fd);
    assert_int_equal(mt_backend_extend(&b, vol, 12 * MIB, NULL), 0);
    assert_int_equal(mt_backend_extend(&b, vol, 4 * MIB, NULL), 0);
    assert_int_equal(mt_backend_size(&b, vol, &size, NULL), 0);
    assert_int_equal(size, 12 * MIB);
    /* promises stay below the pool */
    struct mt_err err = {0};
    assert_int_equal(mt_backend_begin(&b, other, 1024 * MIB, &fd, &err), -MT_E_LIMIT);
    assert_non_null(strstr(err.msg, " free"));
    assert_int_equal(mt_backend_extend(&b, vol, 1028 * MIB, &err), -MT_E_LIMIT);
    /* what an agent that died was making is removed by the next one, a part is not */
    assert_int_equal(mt_backend_begin(&b, other, 4 * MIB, &fd, NULL), 0);
    mt_closep(&fd);
    assert_int_equal(mt_backend_part_begin(&b, other, 4 * MIB, &fd, NULL), 0);
    int two = -1;
    assert_int_equal(mt_backend_part_open(&b, other, 4 * MIB, &two, NULL), -MT_E_CONFLICT);
    mt_closep(&fd);
    assert_int_equal(mt_backend_part_open(&b, other, 8 * MIB, &two, NULL), -MT_E_NOT_FOUND);
    mt_backend_done(&b);
    b = opened();
    (void)snprintf(path, sizeof path, "%s/dev/moat/vol-%s.tmp", base, other);
    assert_int_equal(access(path, F_OK), -1);
    size_t n[2] = {0, 0}, parts[2] = {0, 0};
    assert_int_equal(mt_backend_enumerate(&b, count, n, NULL), 0);
    assert_int_equal(mt_backend_parts(&b, count, parts, NULL), 0);
    assert_true(n[0] == 1 && n[1] == 1 && parts[0] == 1 && parts[1] == 0);
    assert_int_equal(mt_backend_part_open(&b, other, 4 * MIB, &fd, NULL), 0);
    assert_int_equal(mt_backend_part_commit(&b, other, fd, NULL), 0);
    mt_closep(&fd);
    assert_int_equal(mt_backend_size(&b, other, &size, NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mt_backend_snap_delete(&b, snap, NULL), 0);
        assert_int_equal(mt_backend_delete(&b, vol, NULL), 0);
    }
    assert_int_equal(mt_backend_size(&b, vol, &size, NULL), -MT_E_NOT_FOUND);
    mt_backend_done(&b);
}

static void a_pool_of_the_wrong_kind_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *row, *said;
    } all[] = {{"  linear||||4194304\n", "not a thin pool"},
               {"  thin-pool||error|passdown|4194304\n", "lvchange --zero y moat/vols"},
               {"  thin-pool|zero|queue|passdown|4194304\n", "lvchange --errorwhenfull y moat/vols"},
               {"  thin-pool|zero|error|ignore|4194304\n", "lvchange --discards passdown moat/vols"},
               {"  thin-pool|zero|error|passdown|33554432\n", "vgchange -s 4m moat"},
               {"", "not a thin pool"}};
    struct mt_backend b;
    for (size_t i = 0; i < MT_ARRAY_LEN(all); i++) {
        struct mt_err err = {0};
        put("pool", all[i].row, 0644);
        assert_int_equal(open_it(&b, &err), -MT_E_INVALID);
        if (!strstr(err.msg, all[i].said))
            fail_msg("%s", err.msg);
    }
    put("pool", POOL_ROW, 0644);
    put("wrong", "lvs", 0644);
    struct mt_err err = {0};
    assert_true(open_it(&b, &err) < 0 && strstr(err.msg, "lvcreate --type thin-pool") && strstr(err.msg, "told to fail"));
    put("wrong", "", 0644);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/volumes", base);
    (void)mkdir(path, 0755);
    char id[MT_ID_SIZE];
    mt_id_new(MT_ID_VOLUME, id);
    (void)snprintf(path, sizeof path, "volumes/vol-%s.img", id);
    put(path, "x", 0600);
    assert_int_equal(open_it(&b, &err), -MT_E_CONFLICT);
}

static void a_program_that_fails_leaves_nothing(void **state)
{
    (void)state;
    char vol[MT_ID_SIZE], snap[MT_ID_SIZE], next[MT_ID_SIZE], path[PATH_MAX];
    int64_t when;
    size_t n[2] = {0, 0};
    mt_auto_fd int fd = -1;
    struct ranges r = {0};
    struct mt_err err = {0};
    struct mt_backend b = opened();
    mt_id_new(MT_ID_VOLUME, vol);
    mt_id_new(MT_ID_SNAPSHOT, snap);
    mt_id_new(MT_ID_SNAPSHOT, next);
    put("wrong", "lvcreate", 0644);
    assert_int_equal(mt_backend_begin(&b, vol, 8 * MIB, &fd, &err), -MT_E_IO);
    assert_true(fd < 0 && strstr(err.msg, "told to fail"));
    put("wrong", "", 0644);
    new_volume(&b, vol, 8 * MIB);
    put("wrong", "lvcreate", 0644);
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &when, &err), -MT_E_IO);
    put("wrong", "lvremove", 0644);
    assert_int_equal(mt_backend_delete(&b, vol, &err), -MT_E_IO);
    put("wrong", "lvextend", 0644);
    assert_int_equal(mt_backend_extend(&b, vol, 12 * MIB, &err), -MT_E_IO);
    put("wrong", "", 0644);
    assert_int_equal(mt_backend_enumerate(&b, count, n, NULL), 0);
    assert_true(n[0] == 1 && n[1] == 0);
    assert_int_equal(mt_backend_snap_create(&b, vol, snap, &when, NULL), 0);
    assert_int_equal(mt_backend_snap_create(&b, vol, next, &when, NULL), 0);
    /* what changed is not to be told: all is read; what was frozen is released in each case */
    put("delta", HEAD "<different begin=\"3\" length=\"1\"/>", 0644);
    assert_int_equal(mt_backend_snap_delta(&b, snap, next, note, &r, &err), -MT_E_UNAVAILABLE);
    put("wrong", "reserve_metadata_snap", 0644);
    assert_int_equal(mt_backend_snap_delta(&b, snap, next, note, &r, &err), -MT_E_UNAVAILABLE);
    put("wrong", "-m", 0644);
    assert_int_equal(mt_backend_snap_delta(&b, snap, next, note, &r, &err), -MT_E_UNAVAILABLE);
    put("wrong", "", 0644);
    put("delta", HEAD "<different begin=\"3\" length=\"1\"/>" TAIL, 0644);
    err = (struct mt_err){0};
    if (mt_backend_snap_delta(&b, snap, next, note, &r, &err) != 0)
        fail_msg("%s", err.msg);
    assert_true(r.count == 1 && r.at[0] == 3 * BLOCK);
    assert_true(logged("-m --thin1 2 --thin2 3") && logged("moat-vols-tpool 0 release_metadata_snap"));
    mt_backend_done(&b);
    /* and the files' kind does not open over it */
    (void)snprintf(path, sizeof path, "%s/volumes", base);
    assert_int_equal(mt_backend_open(path, "copy", true, &b, &err), -MT_E_CONFLICT);
}

static void the_pool_is_measured(void **state)
{
    (void)state;
    struct mt_pool_stat s;
    struct mt_err err = {0};
    struct mt_backend b = opened();
    assert_int_equal(mt_backend_stat(&b, &s, NULL), 0);
    assert_true(s.total_bytes == 1024 * MIB && s.used_bytes == 256 * MIB && s.meta_bytes == 4 * MIB && s.meta_used_bytes == 440401 && !s.why[0]);
    put("figures", "  1073741824|100.00|4194304|10.50|out_of_data\n", 0644);
    assert_int_equal(mt_backend_stat(&b, &s, NULL), 0);
    assert_true(s.used_bytes == s.total_bytes && strstr(s.why, "takes no writes (out_of_data)"));
    put("figures", "  1073741824|50.00|4194304|99.00|metadata_read_only\n", 0644);
    assert_int_equal(mt_backend_stat(&b, &s, NULL), 0);
    assert_non_null(strstr(s.why, "metadata_read_only"));
    put("figures", "  1073741824||4194304||\n", 0644);
    assert_int_equal(mt_backend_stat(&b, &s, &err), -MT_E_IO);
    assert_non_null(strstr(err.msg, "not active"));
    mt_backend_done(&b);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(ranges_are_those_that_differ),
        cmocka_unit_test(an_answer_that_is_not_whole_is_none),
        cmocka_unit_test_setup_teardown(the_contract_of_the_files_holds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_pool_of_the_wrong_kind_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_program_that_fails_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_pool_is_measured, set_up, tear_down),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
