/* SPDX-License-Identifier: Apache-2.0 */
/* The ext4 writer on trees built by hand: what scenario images do not reach. Every result must satisfy e2fsck. */
#include "unpack/ext4.h"

#include "base/cleanup.h"
#include "os/digest.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct mt_tree tree;
    struct mt_fault f;
    int image, spool;
    char path[64];
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof *x);
    if (!x)
        return -1;
    (void)snprintf(x->path, sizeof x->path, "/tmp/moat-ext4-XXXXXX");
    x->image = mkstemp(x->path);
    x->spool = memfd_create("spool", MFD_CLOEXEC);
    *state = x;
    return x->image < 0 || x->spool < 0 || mt_tree_init(&x->tree, 1, &x->f) < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;
    mt_tree_done(&x->tree);
    (void)close(x->image);
    (void)close(x->spool);
    (void)unlink(x->path);
    free(x);
    return 0;
}

static uint32_t add(struct fixture *x, uint32_t dir, const char *name, enum mt_node_type type, uint64_t size)
{
    uint32_t node = mt_tree_new_node(&x->tree, type, &x->f);
    assert_int_not_equal(node, MT_TREE_NONE);
    x->tree.nodes[node].size = size;
    x->tree.nodes[node].mode = 0644;
    assert_int_not_equal(mt_tree_link(&x->tree, dir, name, strlen(name), node, 0, &x->f), MT_TREE_NONE);
    return node;
}

static int write_disk(struct fixture *x, uint64_t bytes, uint32_t inodes, uint64_t *used)
{
    struct mt_ext4 e = {.image_fd = x->image, .spool_fd = x->spool, .bytes = bytes, .inodes = inodes, .uuid = {1, 2, 3}};
    return mt_ext4_write(&e, &x->tree, used, &x->f);
}

static void assert_clean(const struct fixture *x)
{
    const char *const argv[] = {"e2fsck", "-fn", x->path, NULL};
    const struct mt_spawn s = {.path = "/sbin/e2fsck", .argv = argv};
    struct mt_run_result r = {0};
    struct mt_err err = {0};
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(65536);
    assert_int_equal(mt_run(&s, NULL, 0, &out, NULL, 60000, &r, &err), 0);
    if (!r.exited || r.status != 0)
        fail_msg("e2fsck: %s", mt_buf_cstr(&out));
}

static void an_empty_tree_is_clean(void **state)
{
    struct fixture *x = *state;
    uint64_t bytes, used = 0;
    uint32_t inodes;
    mt_ext4_plan(&x->tree, &bytes, &inodes);
    assert_int_equal(bytes, (uint64_t)65 << 20); /* the root's own few bytes, and 64 MiB, rounded up */
    assert_int_equal(write_disk(x, bytes, inodes, &used), 0);
    assert_true(used > 0 && used < bytes);
    assert_clean(x);
}

static void a_file_of_more_than_four_extents_is_clean_and_sparse(void **state)
{
    struct fixture *x = *state;
    const uint64_t size = ((uint64_t)900 << 20) + 5; /* an extent holds 128 MiB */
    uint64_t bytes, used;
    uint32_t inodes;
    struct stat st;
    assert_int_equal(ftruncate(x->spool, (off_t)size), 0);
    (void)add(x, MT_TREE_ROOT, "big", MT_NODE_FILE, size);
    mt_ext4_plan(&x->tree, &bytes, &inodes);
    assert_int_equal(write_disk(x, bytes, inodes, &used), 0);
    assert_true(used > size);
    assert_int_equal(fstat(x->image, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 < (uint64_t)32 << 20); /* zeros cost nothing on the host */
    assert_clean(x);
}

static void no_room_is_told_apart_from_errors(void **state)
{
    struct fixture *x = *state;
    uint64_t used;
    assert_int_equal(ftruncate(x->spool, 64 << 20), 0);
    (void)add(x, MT_TREE_ROOT, "f", MT_NODE_FILE, 64 << 20);
    assert_int_equal(write_disk(x, 32 << 20, 64, &used), MT_EXT4_NO_ROOM);
    assert_null(x->f.reason);
    for (int i = 0; i < 200; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "e%d", i);
        (void)add(x, MT_TREE_ROOT, name, MT_NODE_FIFO, 0);
    }
    assert_int_equal(write_disk(x, 128 << 20, 16, &used), MT_EXT4_NO_ROOM); /* inodes */
    assert_null(x->f.reason);
    assert_int_equal(write_disk(x, 128 << 20, 300, &used), 0); /* and again, larger, with the same tree */
    assert_clean(x);
}

static void many_folders_and_links_are_clean(void **state)
{
    struct fixture *x = *state;
    uint64_t bytes, used;
    uint32_t inodes, file = add(x, MT_TREE_ROOT, "file", MT_NODE_FILE, 0);
    char name[256];
    for (int i = 0; i < 3000; i++) {
        (void)snprintf(name, sizeof name, "folder-%d", i);
        uint32_t dir = add(x, MT_TREE_ROOT, name, MT_NODE_DIR, 0);
        assert_int_not_equal(mt_tree_link(&x->tree, dir, "hard", 4, file, 0, &x->f), MT_TREE_NONE);
    }
    memset(name, 'n', 255);
    name[255] = 0;
    for (int i = 0; i < 40; i++) { /* names that hardly share a block */
        name[0] = (char)('A' + i);
        (void)add(x, MT_TREE_ROOT, name, MT_NODE_FIFO, 0);
    }
    mt_ext4_plan(&x->tree, &bytes, &inodes);
    assert_int_equal(write_disk(x, bytes, inodes, &used), 0);
    assert_int_equal(x->tree.nodes[file].links, 3001);
    assert_clean(x);
}

static void symbolic_links_of_all_lengths_are_clean(void **state)
{
    struct fixture *x = *state;
    static const size_t lengths[] = {1, 58, 59, 60, 61, 255, 4094, 4095};
    char text[4096], name[16];
    uint64_t bytes, used;
    uint32_t inodes;
    memset(text, 't', sizeof text);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        (void)snprintf(name, sizeof name, "l%zu", lengths[i]);
        uint32_t node = add(x, MT_TREE_ROOT, name, MT_NODE_SYMLINK, lengths[i]);
        uint32_t at = mt_tree_put_text(&x->tree, text, lengths[i], &x->f);
        x->tree.nodes[node].text = at;
    }
    mt_ext4_plan(&x->tree, &bytes, &inodes);
    assert_int_equal(write_disk(x, bytes, inodes, &used), 0);
    assert_clean(x);
}

static void attributes_in_inode_block_and_inode_of_their_own_are_clean(void **state)
{
    struct fixture *x = *state;
    static const size_t sizes[] = {0, 1, 40, 200, 3000, 3900, 5000, 65536};
    static uint8_t value[65536];
    char name[16];
    uint64_t bytes, used;
    uint32_t inodes;
    memset(value, 'v', sizeof value);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        (void)snprintf(name, sizeof name, "x%zu", sizes[i]);
        uint32_t node = add(x, MT_TREE_ROOT, name, MT_NODE_FILE, 0);
        assert_int_equal(mt_tree_add_xattr(&x->tree, node, "user.z", 6, "z", 1, &x->f), 0);
        assert_int_equal(mt_tree_add_xattr(&x->tree, node, "user.a", 6, value, sizes[i], &x->f), 0);
    }
    mt_ext4_plan(&x->tree, &bytes, &inodes);
    assert_int_equal(write_disk(x, bytes, inodes, &used), 0);
    assert_clean(x);
}

static void the_order_of_insertion_does_not_matter(void **state)
{
    struct fixture *x = *state;
    char hex[2][MT_SHA256_HEX];
    uint64_t used;
    struct mt_err err;
    for (int turn = 0; turn < 2; turn++) {
        mt_tree_done(&x->tree);
        assert_int_equal(mt_tree_init(&x->tree, (uint64_t)turn + 7, &x->f), 0);
        for (int i = 0; i < 50; i++) {
            char name[16];
            (void)snprintf(name, sizeof name, "n%d", turn ? 49 - i : i);
            (void)add(x, MT_TREE_ROOT, name, MT_NODE_FIFO, 0);
        }
        assert_int_equal(write_disk(x, 64 << 20, 1024, &used), 0);
        assert_int_equal(mt_sha256_file(x->path, hex[turn], &err), 0);
    }
    assert_string_equal(hex[0], hex[1]);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_empty_tree_is_clean),
        T(a_file_of_more_than_four_extents_is_clean_and_sparse),
        T(no_room_is_told_apart_from_errors),
        T(many_folders_and_links_are_clean),
        T(symbolic_links_of_all_lengths_are_clean),
        T(attributes_in_inode_block_and_inode_of_their_own_are_clean),
        T(the_order_of_insertion_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
