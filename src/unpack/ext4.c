/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata goes through libext2fs (checksums, descriptors, bitmaps, attributes), file data straight to the descriptor.
 * Folder blocks are laid out here: libext2fs adds names one by one and searches the whole folder for each.
 */
#include "unpack/ext4.h"

#include "base/assert.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK ((uint32_t)4096)
#define MIB ((uint64_t)1 << 20)
#define INODE_SIZE 256
#define OUT_SIZE ((size_t)1 << 20)
#define EXTENT_BLOCKS 32768U /* the longest initialised extent */
#define INLINE_EXTENTS 4
#define LOST_AND_FOUND_BLOCKS 4
#define DIR_TAIL 12 /* struct ext2_dir_entry_tail */
#define TIME_ONE 1

struct writer {
    ext2_filsys fs;
    struct mt_tree *tree;
    struct mt_fault *f;
    int image_fd, spool_fd;
    blk64_t cursor; /* data blocks are taken from here on */
    ext2_ino_t next_ino;
    uint8_t *out;    /* data waiting to be written */
    size_t out_len;
    uint64_t out_at; /* its place in the image */
};

/* One run of blocks of a file. */
struct run {
    blk64_t start;
    uint32_t len;
    uint32_t logical;
};

struct runs {
    struct run *v;
    size_t count, cap;
};

static int ext_fail(struct writer *w, errcode_t code, const char *what)
{
    if (code == EXT2_ET_BLOCK_ALLOC_FAIL || code == EXT2_ET_INODE_ALLOC_FAIL || code == EXT2_ET_EA_NO_SPACE)
        return MT_EXT4_NO_ROOM;
    /* Codes below 256 are errno values; others belong to the library and have no text without its error table. */
    return mt_fault_sys(w->f, "ext4", code > 0 && code < 256 ? (int)code : EIO, what);
}

static uint64_t dir_bytes(const struct mt_tree *t, uint32_t dir)
{
    uint64_t n = 24;
    for (uint32_t d = t->nodes[dir].children; d != MT_TREE_NONE; d = t->dents[d].next)
        n += (8U + t->dents[d].name_len + 3U) & ~3U;
    return n + n / 8; /* names do not fill blocks exactly */
}

void mt_ext4_plan(const struct mt_tree *tree, uint64_t *ret_bytes, uint32_t *ret_inodes)
{
    uint64_t data = 0, entries = 1;
    for (uint32_t i = 0; i < tree->node_count; i++) {
        const struct mt_node *n = &tree->nodes[i];
        if (n->links == 0)
            continue;
        entries++;
        uint64_t size = n->type == MT_NODE_DIR ? dir_bytes(tree, i) : n->type == MT_NODE_FIFO ? 0 : n->size;
        data += (size + BLOCK - 1) / BLOCK * BLOCK;
        struct mt_xattr x;
        for (uint32_t pos = n->xattrs; mt_tree_next_xattr(tree, &pos, &x);)
            data += x.value_len > 2048 ? 2 * (uint64_t)x.value_len + BLOCK : 0;
    }
    uint64_t inodes = entries + entries / 10 + 1024, table = inodes * INODE_SIZE;
    uint64_t bytes = data + data / 10 + 64 * MIB;
    if (table > 32 * MIB) /* very many small files: the inode tables alone would fill the room for metadata */
        bytes += table - 32 * MIB;
    *ret_bytes = (bytes + MIB - 1) / MIB * MIB;
    *ret_inodes = (uint32_t)inodes;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static int flush_out(struct writer *w)
{
    const uint8_t *p = w->out;
    size_t left = w->out_len;
    uint64_t at = w->out_at;
    w->out_len = 0;
    if (all_zero(p, left))
        return 0; /* the file starts empty: a hole reads the same and costs nothing */
    while (left) {
        ssize_t n = pwrite(w->image_fd, p, left, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return mt_fault_sys(w->f, "ext4", n < 0 ? errno : EIO, "writing file data to the root disk");
        p += n;
        left -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

/* Room for one block at image offset @at, directly behind what waits or after writing that out. */
static uint8_t *out_block(struct writer *w, uint64_t at)
{
    if ((w->out_len && w->out_at + w->out_len != at) || w->out_len == OUT_SIZE)
        if (flush_out(w) < 0)
            return NULL;
    if (w->out_len == 0)
        w->out_at = at;
    uint8_t *p = w->out + w->out_len;
    w->out_len += BLOCK;
    return p;
}

/* Take @blocks blocks as few runs as the free space allows. */
static int take_blocks(struct writer *w, uint64_t blocks, struct runs *ret)
{
    blk64_t last = ext2fs_blocks_count(w->fs->super) - 1;
    uint32_t logical = 0;
    ret->count = 0;
    while (blocks) {
        blk64_t start, next;
        if (w->cursor > last || ext2fs_find_first_zero_block_bitmap2(w->fs->block_map, w->cursor, last, &start) != 0)
            return MT_EXT4_NO_ROOM;
        if (ext2fs_find_first_set_block_bitmap2(w->fs->block_map, start, last, &next) != 0)
            next = last + 1;
        uint64_t n = next - start;
        n = n < blocks ? n : blocks;
        n = n < EXTENT_BLOCKS ? n : EXTENT_BLOCKS;
        ext2fs_block_alloc_stats_range(w->fs, start, (blk_t)n, +1);
        w->cursor = start + n;
        struct run *prev = ret->count ? &ret->v[ret->count - 1] : NULL;
        if (prev && prev->start + prev->len == start && prev->len + n <= EXTENT_BLOCKS) {
            prev->len += (uint32_t)n;
        } else {
            if (ret->count == ret->cap) {
                size_t cap = ret->cap ? ret->cap * 2 : 8;
                struct run *v = reallocarray(ret->v, cap, sizeof *v);
                if (!v)
                    return mt_fault_sys(w->f, "memory", ENOMEM, "placing file data");
                ret->v = v;
                ret->cap = cap;
            }
            ret->v[ret->count++] = (struct run){.start = start, .len = (uint32_t)n, .logical = logical};
        }
        logical += (uint32_t)n;
        blocks -= n;
    }
    return 0;
}

static uint32_t time_extra(int64_t sec, uint32_t nsec)
{
    uint32_t epoch = (uint32_t)(((sec - (int32_t)(uint32_t)sec) >> 32) & 3);
    return nsec << 2 | epoch;
}

static void fill_inode(const struct mt_node *n, uint16_t kind, struct ext2_inode_large *in)
{
    *in = (struct ext2_inode_large){
        .i_mode = (uint16_t)(kind | n->mode),
        .i_uid = (uint16_t)n->uid,
        .i_gid = (uint16_t)n->gid,
        .i_links_count = (uint16_t)n->links,
        .i_atime = (uint32_t)n->mtime,
        .i_ctime = (uint32_t)n->mtime,
        .i_mtime = (uint32_t)n->mtime,
        .i_crtime = TIME_ONE,
        .i_extra_isize = sizeof(struct ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE,
    };
    in->i_atime_extra = in->i_ctime_extra = in->i_mtime_extra = time_extra(n->mtime, n->mtime_nsec);
    in->osd2.linux2.l_i_uid_high = (uint16_t)(n->uid >> 16);
    in->osd2.linux2.l_i_gid_high = (uint16_t)(n->gid >> 16);
}

static int write_inode(struct writer *w, ext2_ino_t ino, struct ext2_inode_large *in)
{
    errcode_t r = ext2fs_write_inode_full(w->fs, ino, (struct ext2_inode *)in, sizeof *in);
    return r ? ext_fail(w, r, "writing an inode") : 0;
}

/* Point the inode at its runs: in the inode itself up to four, else through an extent tree. */
static int set_extents(struct writer *w, ext2_ino_t ino, struct ext2_inode_large *in, const struct runs *runs)
{
    struct ext3_extent_header head = {.eh_magic = EXT3_EXT_MAGIC, .eh_max = INLINE_EXTENTS};
    struct ext3_extent ext[INLINE_EXTENTS] = {0};
    uint64_t blocks = 0;
    for (size_t i = 0; i < runs->count; i++)
        blocks += runs->v[i].len;
    in->i_flags |= EXT4_EXTENTS_FL;
    (void)ext2fs_iblk_set(w->fs, (struct ext2_inode *)in, blocks);
    bool inline_fits = runs->count <= INLINE_EXTENTS;
    for (size_t i = 0; inline_fits && i < runs->count; i++) {
        ext[i].ee_block = runs->v[i].logical;
        ext[i].ee_len = (uint16_t)runs->v[i].len;
        ext[i].ee_start = (uint32_t)runs->v[i].start;
        ext[i].ee_start_hi = (uint16_t)(runs->v[i].start >> 32);
        head.eh_entries++;
    }
    memcpy(in->i_block, &head, sizeof head);
    memcpy((uint8_t *)in->i_block + sizeof head, ext, sizeof ext);
    if (inline_fits)
        return 0;
    int done = write_inode(w, ino, in);
    if (done != 0)
        return done;
    ext2_extent_handle_t handle;
    errcode_t r = ext2fs_extent_open2(w->fs, ino, (struct ext2_inode *)in, &handle);
    if (r)
        return ext_fail(w, r, "opening an extent tree");
    for (size_t i = 0; i < runs->count && !r; i++) {
        struct ext2fs_extent e = {.e_pblk = runs->v[i].start, .e_lblk = runs->v[i].logical, .e_len = runs->v[i].len};
        r = ext2fs_extent_insert(handle, EXT2_EXTENT_INSERT_AFTER, &e);
        if (!r)
            r = ext2fs_extent_fix_parents(handle);
    }
    ext2fs_extent_free(handle);
    return r ? ext_fail(w, r, "writing an extent tree") : 0;
}

static int write_xattrs(struct writer *w, ext2_ino_t ino, const struct mt_node *n)
{
    struct ext2_xattr_handle *h;
    struct mt_xattr x;
    struct ext2_inode in;
    if (n->xattrs == MT_TREE_NONE)
        return 0;
    blk64_t free_before = ext2fs_free_blocks_count(w->fs->super);
    errcode_t r = ext2fs_read_inode(w->fs, ino, &in);
    blk64_t own = r ? 0 : ext2fs_inode_i_blocks(w->fs, &in);
    if (!r)
        r = ext2fs_xattrs_open(w->fs, ino, &h);
    if (r)
        return ext_fail(w, r, "opening extended attributes");
    for (uint32_t pos = n->xattrs; !r && mt_tree_next_xattr(w->tree, &pos, &x);) {
        char name[256 + 16];
        MT_ASSERT(x.name_len < sizeof name);
        memcpy(name, x.name, x.name_len);
        name[x.name_len] = 0;
        r = ext2fs_xattr_set(h, name, x.value, x.value_len);
    }
    errcode_t closed = ext2fs_xattrs_close(&h);
    if (r == EXT2_ET_EA_NO_SPACE) /* more room on the disk would not help */
        return mt_fault_rule(w->f, "U10", x.name, x.name_len, "the extended attributes of a file do not fit into ext4");
    if (!r)
        r = closed;
    /* Blocks of attribute inodes count for the file too (e2fsck insists); the library counts only the attribute block. */
    if (!r)
        r = ext2fs_read_inode(w->fs, ino, &in);
    if (!r) {
        blk64_t added = (free_before - ext2fs_free_blocks_count(w->fs->super)) * (BLOCK / 512);
        in.i_blocks = (uint32_t)(own + added);
        r = ext2fs_write_inode(w->fs, ino, &in);
    }
    return r ? ext_fail(w, r, "writing extended attributes") : 0;
}

static int copy_data(struct writer *w, const struct mt_node *n, const struct runs *runs)
{
    uint64_t at = 0;
    for (size_t i = 0; i < runs->count; i++) {
        for (uint32_t b = 0; b < runs->v[i].len;) {
            uint8_t *p = out_block(w, (runs->v[i].start + b) * BLOCK);
            if (!p)
                return -1;
            /* As many further blocks as fit behind it, read with one call. */
            size_t room = (OUT_SIZE - w->out_len) / BLOCK, more = runs->v[i].len - b - 1;
            more = more < room ? more : room;
            w->out_len += more * BLOCK;
            size_t span = (more + 1) * BLOCK, got = 0;
            size_t want = n->size - at < span ? (size_t)(n->size - at) : span;
            while (got < want) {
                ssize_t r = pread(w->spool_fd, p + got, want - got, (off_t)(n->data_at + at + got));
                if (r < 0 && errno == EINTR)
                    continue;
                if (r <= 0)
                    return mt_fault_sys(w->f, "spool", r < 0 ? errno : EIO, "reading file data back");
                got += (size_t)r;
            }
            memset(p + want, 0, span - want);
            at += want;
            b += (uint32_t)more + 1;
        }
    }
    return 0;
}

static int write_file(struct writer *w, const struct mt_node *n)
{
    struct ext2_inode_large in;
    struct runs runs = {0};
    fill_inode(n, LINUX_S_IFREG, &in);
    (void)ext2fs_inode_size_set(w->fs, (struct ext2_inode *)&in, (ext2_off64_t)n->size);
    int r = take_blocks(w, (n->size + BLOCK - 1) / BLOCK, &runs);
    if (r == 0)
        r = copy_data(w, n, &runs);
    if (r == 0)
        r = set_extents(w, n->disk_ino, &in, &runs);
    free(runs.v);
    if (r == 0)
        r = write_inode(w, n->disk_ino, &in);
    return r == 0 ? write_xattrs(w, n->disk_ino, n) : r;
}

static int write_symlink(struct writer *w, const struct mt_node *n)
{
    struct ext2_inode_large in;
    const uint8_t *target = mt_tree_text(w->tree, n->text);
    fill_inode(n, LINUX_S_IFLNK, &in);
    in.i_size = (uint32_t)n->size;
    if (n->size < sizeof in.i_block) { /* 59 bytes and a NUL live in the inode */
        memcpy(in.i_block, target, (size_t)n->size);
        return write_inode(w, n->disk_ino, &in);
    }
    struct runs runs = {0};
    int r = take_blocks(w, 1, &runs);
    if (r == 0) {
        uint8_t *p = out_block(w, runs.v[0].start * BLOCK);
        if (p) {
            memset(p, 0, BLOCK);
            memcpy(p, target, (size_t)n->size);
        }
        r = p ? set_extents(w, n->disk_ino, &in, &runs) : -1;
    }
    free(runs.v);
    return r == 0 ? write_inode(w, n->disk_ino, &in) : r;
}

/* --- folders --------------------------------------------------------------------------------------------------- */

struct names {
    uint8_t *p;    /* whole blocks */
    size_t blocks, cap;
    size_t at;     /* next byte in the last block */
    size_t last;   /* offset of the last entry, whose rec_len reaches to the end of its block */
};

static int add_name(struct names *d, ext2_ino_t ino, uint8_t type, const char *name, size_t len)
{
    size_t need = (8 + len + 3) & ~(size_t)3, usable = BLOCK - DIR_TAIL;
    if (d->blocks == 0 || d->at + need > (d->blocks - 1) * BLOCK + usable) {
        if (d->blocks == d->cap) {
            size_t cap = d->cap ? d->cap * 2 : 4;
            uint8_t *p = reallocarray(d->p, cap, BLOCK);
            if (!p)
                return -1;
            d->p = p;
            d->cap = cap;
        }
        memset(d->p + d->blocks * BLOCK, 0, BLOCK);
        d->at = d->blocks++ * BLOCK;
    } else {
        struct ext2_dir_entry *prev = (void *)(d->p + d->last);
        prev->rec_len = (uint16_t)(d->at - d->last);
    }
    struct ext2_dir_entry *e = (void *)(d->p + d->at);
    e->inode = ino;
    e->rec_len = (uint16_t)((d->blocks - 1) * BLOCK + usable - d->at);
    e->name_len = (uint16_t)(len | (size_t)type << 8);
    memcpy(e->name, name, len);
    d->last = d->at;
    d->at += need;
    return 0;
}

static int write_names(struct writer *w, ext2_ino_t ino, struct ext2_inode_large *in, struct names *d)
{
    struct runs runs = {0};
    int r = take_blocks(w, d->blocks, &runs);
    in->i_size = (uint32_t)(d->blocks * BLOCK);
    in->i_size_high = (uint32_t)((uint64_t)d->blocks * BLOCK >> 32);
    if (r == 0)
        r = set_extents(w, ino, in, &runs);
    if (r == 0)
        r = write_inode(w, ino, in); /* before the blocks: their checksum takes the generation from it */
    size_t at = 0;
    for (size_t i = 0; r == 0 && i < runs.count; i++) {
        for (uint32_t b = 0; r == 0 && b < runs.v[i].len; b++, at++) {
            uint8_t *block = d->p + at * BLOCK;
            ext2fs_initialize_dirent_tail(w->fs, (void *)(block + BLOCK - DIR_TAIL));
            errcode_t e = ext2fs_write_dir_block4(w->fs, runs.v[i].start + b, block, 0, ino);
            if (e)
                r = ext_fail(w, e, "writing a folder");
        }
    }
    free(runs.v);
    return r;
}

static const struct mt_tree *sort_tree; /* qsort has no argument for its comparison; one writer per process */

static int by_name(const void *a, const void *b)
{
    const struct mt_dent *x = &sort_tree->dents[*(const uint32_t *)a], *y = &sort_tree->dents[*(const uint32_t *)b];
    size_t n = x->name_len < y->name_len ? x->name_len : y->name_len;
    int r = memcmp(mt_tree_text(sort_tree, x->name), mt_tree_text(sort_tree, y->name), n);
    return r ? r : (int)x->name_len - (int)y->name_len;
}

static const uint8_t dirent_type[MT_NODE_TYPE_MAX] = {
    [MT_NODE_FILE] = EXT2_FT_REG_FILE,
    [MT_NODE_DIR] = EXT2_FT_DIR,
    [MT_NODE_SYMLINK] = EXT2_FT_SYMLINK,
    [MT_NODE_FIFO] = EXT2_FT_FIFO,
};

static int new_ino(struct writer *w, bool dir, ext2_ino_t *ret)
{
    while (w->next_ino <= w->fs->super->s_inodes_count && ext2fs_test_inode_bitmap2(w->fs->inode_map, w->next_ino))
        w->next_ino++; /* large attributes take inodes of their own */
    if (w->next_ino > w->fs->super->s_inodes_count)
        return MT_EXT4_NO_ROOM;
    *ret = w->next_ino++;
    ext2fs_inode_alloc_stats2(w->fs, *ret, +1, dir);
    return 0;
}

static int write_leaf(struct writer *w, const struct mt_node *n)
{
    if (n->type == MT_NODE_FILE)
        return write_file(w, n);
    if (n->type == MT_NODE_SYMLINK)
        return write_symlink(w, n);
    struct ext2_inode_large in;
    fill_inode(n, LINUX_S_IFIFO, &in);
    return write_inode(w, n->disk_ino, &in);
}

/* Sorted children of @dir; *ret_sub counts the folders among them. */
static uint32_t *children_of(struct writer *w, uint32_t dir, size_t *ret_n, uint32_t *ret_sub)
{
    const struct mt_tree *t = w->tree;
    size_t n = 0;
    *ret_sub = 0;
    for (uint32_t d = t->nodes[dir].children; d != MT_TREE_NONE; d = t->dents[d].next)
        n++;
    uint32_t *v = reallocarray(NULL, n ? n : 1, sizeof *v);
    if (!v) {
        (void)mt_fault_sys(w->f, "memory", ENOMEM, "writing a folder");
        return NULL;
    }
    n = 0;
    for (uint32_t d = t->nodes[dir].children; d != MT_TREE_NONE; d = t->dents[d].next) {
        v[n++] = d;
        *ret_sub += t->nodes[t->dents[d].node].type == MT_NODE_DIR;
    }
    sort_tree = t;
    qsort(v, n, sizeof *v, by_name);
    *ret_n = n;
    return v;
}

/* Number the children, write the folder, then what is in it; as deep as folders nest: 255. */
static int write_dir(struct writer *w, uint32_t dir, ext2_ino_t parent)
{
    struct mt_tree *t = w->tree;
    struct mt_node *n = &t->nodes[dir];
    struct names names = {0};
    uint32_t sub;
    size_t count;
    uint32_t *v = children_of(w, dir, &count, &sub);
    if (!v)
        return -1;
    bool lost_and_found = dir == MT_TREE_ROOT && mt_tree_find(t, dir, "lost+found", 10) == MT_TREE_NONE;
    int r = add_name(&names, n->disk_ino, EXT2_FT_DIR, ".", 1) < 0 || add_name(&names, parent, EXT2_FT_DIR, "..", 2) < 0 ? -1 : 0;
    if (r == 0 && lost_and_found)
        r = add_name(&names, w->fs->super->s_first_ino, EXT2_FT_DIR, "lost+found", 10);
    size_t fresh = 0; /* v[0..fresh) become the children that are written from here: not those met before by another name */
    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct mt_dent *d = &t->dents[v[i]];
        struct mt_node *child = &t->nodes[d->node];
        bool first = child->disk_ino == 0;
        if (first)
            r = new_ino(w, child->type == MT_NODE_DIR, &child->disk_ino);
        if (r == 0)
            r = add_name(&names, child->disk_ino, dirent_type[child->type], (const char *)mt_tree_text(t, d->name), d->name_len);
        if (first)
            v[fresh++] = d->node;
    }
    if (r == -1)
        (void)mt_fault_sys(w->f, "memory", ENOMEM, "writing a folder");
    struct ext2_inode_large in;
    fill_inode(n, LINUX_S_IFDIR, &in);
    uint32_t links = 2 + sub + (lost_and_found ? 1 : 0);
    in.i_links_count = links >= EXT2_LINK_MAX ? 1 : (uint16_t)links; /* 1: more than can be counted (dir_nlink) */
    if (r == 0)
        r = write_names(w, n->disk_ino, &in, &names);
    free(names.p);
    if (r == 0)
        r = write_xattrs(w, n->disk_ino, n);
    for (size_t i = 0; r == 0 && i < fresh; i++)
        r = t->nodes[v[i]].type == MT_NODE_DIR ? write_dir(w, v[i], n->disk_ino) : write_leaf(w, &t->nodes[v[i]]);
    free(v);
    return r;
}

/* e2fsck wants the folder to exist; empty, as mke2fs makes it. */
static int write_lost_and_found(struct writer *w)
{
    struct mt_node node = {.type = MT_NODE_DIR, .mode = 0700, .links = 2, .mtime = TIME_ONE};
    struct ext2_inode_large in;
    struct names names = {0};
    ext2_ino_t ino;
    if (mt_tree_find(w->tree, MT_TREE_ROOT, "lost+found", 10) != MT_TREE_NONE)
        return 0;
    int r = new_ino(w, true, &ino);
    if (r != 0)
        return r;
    MT_ASSERT(ino == w->fs->super->s_first_ino);
    fill_inode(&node, LINUX_S_IFDIR, &in);
    r = add_name(&names, ino, EXT2_FT_DIR, ".", 1) < 0 || add_name(&names, EXT2_ROOT_INO, EXT2_FT_DIR, "..", 2) < 0
            ? mt_fault_sys(w->f, "memory", ENOMEM, "writing a folder")
            : write_names(w, ino, &in, &names);
    free(names.p);
    return r;
}

/* --- the file system itself ------------------------------------------------------------------------------------- */

static bool large_attributes(const struct mt_tree *t)
{
    for (uint32_t i = 0; i < t->node_count; i++) {
        struct mt_xattr x;
        size_t total = 0;
        for (uint32_t pos = t->nodes[i].links ? t->nodes[i].xattrs : MT_TREE_NONE; mt_tree_next_xattr(t, &pos, &x);)
            total += x.name_len + x.value_len + 24;
        if (total > 3500)
            return true;
    }
    return false;
}

static int make_fs(struct writer *w, const struct mt_ext4 *x)
{
    struct ext2_super_block p = {0};
    char name[16];
    p.s_rev_level = EXT2_DYNAMIC_REV;
    p.s_log_block_size = p.s_log_cluster_size = 2;
    p.s_inode_size = INODE_SIZE;
    p.s_inodes_count = x->inodes;
    p.s_log_groups_per_flex = 4;
    p.s_checksum_type = EXT2_CRC32C_CHKSUM;
    p.s_errors = EXT2_ERRORS_CONTINUE;
    p.s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_DIR_INDEX;
    p.s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_FLEX_BG |
                           EXT4_FEATURE_INCOMPAT_64BIT;
    p.s_feature_ro_compat = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
                            EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
                            EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;
    if (large_attributes(w->tree))
        p.s_feature_incompat |= EXT4_FEATURE_INCOMPAT_EA_INODE;
    ext2fs_blocks_count_set(&p, x->bytes / BLOCK);
    int fd = fcntl(x->image_fd, F_DUPFD_CLOEXEC, 3); /* the library's channel closes the number it is given */
    if (fd < 0)
        return mt_fault_sys(w->f, "ext4", errno, "starting the root disk");
    (void)snprintf(name, sizeof name, "%d", fd);
    errcode_t r = ext2fs_initialize(name, EXT2_FLAG_64BITS | EXT2_FLAG_RW, &p, unixfd_io_manager, &w->fs);
    if (r)
        return ext_fail(w, r, "starting the root disk");
    struct ext2_super_block *s = w->fs->super;
    w->fs->now = TIME_ONE;
    s->s_checksum_type = EXT2_CRC32C_CHKSUM;
    s->s_mkfs_time = s->s_wtime = s->s_lastcheck = TIME_ONE;
    s->s_mkfs_time_hi = s->s_wtime_hi = s->s_lastcheck_hi = 0;
    s->s_max_mnt_count = -1;
    s->s_checkinterval = 0;
    s->s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
    s->s_def_hash_version = EXT2_HASH_HALF_MD4;
    s->s_flags |= EXT2_FLAGS_SIGNED_HASH;
    memcpy(s->s_uuid, x->uuid, sizeof x->uuid);
    memcpy(s->s_hash_seed, x->uuid, sizeof x->uuid);
    ext2fs_init_csum_seed(w->fs);
    r = ext2fs_allocate_tables(w->fs);
    if (r)
        return ext_fail(w, r, "placing the tables of the root disk");
    for (dgrp_t g = 0; g < w->fs->group_desc_count; g++) { /* the file is fresh: its inode tables are zero already */
        ext2fs_bg_flags_set(w->fs, g, EXT2_BG_INODE_ZEROED);
        ext2fs_group_desc_csum_set(w->fs, g);
    }
    for (ext2_ino_t i = 1; i < EXT2_FIRST_INODE(s); i++)
        ext2fs_inode_alloc_stats2(w->fs, i, +1, i == EXT2_ROOT_INO);
    struct ext2_inode_large bad = {.i_atime = TIME_ONE, .i_ctime = TIME_ONE, .i_mtime = TIME_ONE, .i_crtime = TIME_ONE,
                                   .i_extra_isize = sizeof(struct ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE};
    w->next_ino = EXT2_FIRST_INODE(s);
    return write_inode(w, EXT2_BAD_INO, &bad);
}

int mt_ext4_write(const struct mt_ext4 *x, struct mt_tree *tree, uint64_t *ret_used, struct mt_fault *f)
{
    struct writer w = {.tree = tree, .f = f, .image_fd = x->image_fd, .spool_fd = x->spool_fd, .out = malloc(OUT_SIZE)};
    if (!w.out)
        return mt_fault_sys(f, "memory", ENOMEM, "writing the root disk");
    if (ftruncate(x->image_fd, 0) < 0 || ftruncate(x->image_fd, (off_t)x->bytes) < 0) {
        free(w.out);
        return mt_fault_sys(f, "ext4", errno, "sizing the root disk");
    }
    for (uint32_t i = 0; i < tree->node_count; i++)
        tree->nodes[i].disk_ino = 0;
    tree->nodes[MT_TREE_ROOT].disk_ino = EXT2_ROOT_INO;
    int r = make_fs(&w, x);
    if (r == 0)
        r = write_lost_and_found(&w);
    if (r == 0)
        r = write_dir(&w, MT_TREE_ROOT, EXT2_ROOT_INO);
    if (r == 0)
        r = flush_out(&w);
    if (r == 0) {
        uint64_t free_blocks = ext2fs_free_blocks_count(w.fs->super);
        *ret_used = (ext2fs_blocks_count(w.fs->super) - free_blocks) * BLOCK;
        errcode_t e = ext2fs_close2(w.fs, 0);
        if (e)
            r = ext_fail(&w, e, "finishing the root disk");
        else
            w.fs = NULL;
    }
    if (w.fs) {
        w.fs->flags &= ~(EXT2_FLAG_DIRTY | EXT2_FLAG_BB_DIRTY | EXT2_FLAG_IB_DIRTY); /* given up: nothing to write back */
        ext2fs_free(w.fs);
    }
    free(w.out);
    return r;
}
