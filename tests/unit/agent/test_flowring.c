/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of flow records: bounds, age, cut tails, filters; and what the kernel's messages mean. */
#include "agent/net/flowring.h"
#include "agent/net/flows.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **s)
{
    (void)s;
    (void)snprintf(dir, sizeof dir, "/tmp/moat-flows-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int each_file(uint64_t *bytes, char name[400])
{
    mt_auto_dir DIR *d = opendir(dir);
    int n = 0;
    *bytes = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        char path[400];
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] == '.' || stat(path, &st) < 0)
            continue;
        *bytes += (uint64_t)st.st_size;
        (void)snprintf(name, 400, "%s", path);
        n++;
    }
    return n;
}

static int drop_dir(void **s)
{
    (void)s;
    char path[400];
    uint64_t bytes;
    while (each_file(&bytes, path))
        (void)unlink(path);
    return rmdir(dir);
}

struct seen {
    size_t n;
    struct mt_flow_rec first, last;
};

static bool see(void *arg, const struct mt_flow_rec *r)
{
    struct seen *s = arg;
    if (s->n++ == 0)
        s->first = *r;
    s->last = *r;
    return true;
}

static struct seen read_all(const struct mt_flow_filter *f)
{
    struct seen s = {0};
    struct mt_err err = {0};
    const struct mt_flow_filter any = {0};
    assert_int_equal(mt_flowring_read(dir, f ? f : &any, see, &s, &err), 0);
    return s;
}

static struct mt_flow_rec flow(int64_t ts, unsigned i)
{
    struct mt_flow_rec r = {.ts_us = ts, .kind = MT_FLOW_NEW, .proto = IPPROTO_TCP, .sport = (uint16_t)i, .dport = 443, .nat_port = (uint16_t)(i + 1)};
    (void)inet_pton(AF_INET6, "fd00:1:2:1:1::1", &r.src);
    r.src.s6_addr[15] = (uint8_t)i;
    (void)inet_pton(AF_INET6, "2a00::1", &r.dst);
    (void)inet_pton(AF_INET6, "2a00::2", &r.nat);
    return r;
}

static void it_never_takes_more_than_its_bytes_and_the_newest_are_there(void **s)
{
    (void)s;
    struct mt_flowring *r = mt_flowring_open(dir, 1 << 20, 7, NULL);
    char name[400];
    uint64_t bytes = 0;
    const int64_t t0 = mt_clock_wall_us();
    for (unsigned i = 0; i < 40000; i++) {
        struct mt_flow_rec rec = flow(t0 + i, i);
        mt_flowring_add(r, &rec);
        if (i % 4000 == 0) {
            (void)each_file(&bytes, name);
            assert_true(bytes <= 1 << 20);
        }
    }
    mt_flowring_close(r);
    struct seen all = read_all(NULL);
    int files = each_file(&bytes, name);
    assert_true(bytes <= 1 << 20 && bytes > 3 << 18 && files > 20);
    assert_int_equal(all.n * 64, bytes);
    assert_int_equal(all.last.ts_us, t0 + 39999);
    assert_int_equal(all.first.ts_us, t0 + 40000 - (int64_t)all.n);
}

static void what_is_older_than_its_days_goes(void **s)
{
    (void)s;
    struct mt_flowring *r = mt_flowring_open(dir, 1 << 20, 2, NULL);
    char name[400];
    uint64_t bytes;
    struct mt_flow_rec rec = flow(1000, 1);
    mt_flowring_add(r, &rec);
    mt_flowring_close(r);
    assert_int_equal(each_file(&bytes, name), 1);
    const struct timespec old[2] = {{.tv_sec = mt_clock_wall_us() / 1000000 - 3 * 86400}, {.tv_sec = mt_clock_wall_us() / 1000000 - 3 * 86400}};
    assert_int_equal(utimensat(AT_FDCWD, name, old, 0), 0);
    r = mt_flowring_open(dir, 1 << 20, 4, NULL);
    assert_int_equal(mt_flowring_flush(r, NULL), 0);
    mt_flowring_close(r);
    assert_int_equal(read_all(NULL).n, 1);
    r = mt_flowring_open(dir, 1 << 20, 2, NULL);
    assert_int_equal(mt_flowring_flush(r, NULL), 0);
    assert_int_equal(read_all(NULL).n, 0);
    rec = flow(2000, 2);
    mt_flowring_add(r, &rec);
    mt_flowring_close(r);
    struct seen all = read_all(NULL);
    assert_int_equal(all.n, 1);
    assert_int_equal(all.first.ts_us, 2000);
}

static void a_cut_tail_and_rubbish_are_not_read(void **s)
{
    (void)s;
    struct mt_flowring *r = mt_flowring_open(dir, 1 << 20, 7, NULL);
    char name[400];
    uint64_t bytes;
    struct mt_flow_rec rec = flow(1000, 1);
    mt_flowring_add(r, &rec);
    mt_flowring_close(r);
    (void)each_file(&bytes, name);
    mt_auto_fd int fd = open(name, O_WRONLY | O_APPEND);
    struct mt_flow_rec bad = {.ts_us = 1001, .kind = 200};
    assert_int_equal(write(fd, &bad, sizeof bad), sizeof bad);
    assert_int_equal(write(fd, &rec, 40), 40);
    r = mt_flowring_open(dir, 1 << 20, 7, NULL);
    rec = flow(1000, 3); /* the same moment: another file all the same */
    mt_flowring_add(r, &rec);
    mt_flowring_close(r);
    struct seen all = read_all(NULL);
    assert_int_equal(all.n, 2);
    assert_int_equal(all.last.sport, 3);
}

static void it_is_asked_by_time_address_and_port(void **s)
{
    (void)s;
    struct mt_flowring *r = mt_flowring_open(dir, 1 << 20, 7, NULL);
    for (unsigned i = 0; i < 100; i++) {
        struct mt_flow_rec rec = flow(1000 + i, i);
        mt_flowring_add(r, &rec);
    }
    mt_flowring_close(r);
    struct mt_flow_filter f = {.since_us = 1010, .until_us = 1019};
    assert_int_equal(read_all(&f).n, 10);
    f = (struct mt_flow_filter){.port = 50}; /* of the VM and, of the one before, as the world saw it */
    assert_int_equal(read_all(&f).n, 2);
    f = (struct mt_flow_filter){.has_address = true, .address = flow(0, 7).src};
    assert_int_equal(read_all(&f).n, 1);
    f.address = flow(0, 0).nat;
    assert_int_equal(read_all(&f).n, 100);
    f.address.s6_addr[0] = 1;
    assert_int_equal(read_all(&f).n, 0);
    assert_int_equal(mt_flowring_read("/nowhere/at/all", &f, see, NULL, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_never_takes_more_than_its_bytes_and_the_newest_are_there, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(what_is_older_than_its_days_goes, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(a_cut_tail_and_rubbish_are_not_read, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(it_is_asked_by_time_address_and_port, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
