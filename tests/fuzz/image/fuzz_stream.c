/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the blob to the tar reader, as moat-unpack joins them: the input is a layer blob, the first byte says how it is compressed. It is
 * read twice, with a break-off in the middle before, so that the decompressor's state must begin anew each time.
 */
#include "base/assert.h"
#include "unpack/apply.h"
#include "unpack/stream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_stream(void *arg, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f)
{
    return mt_stream_read(arg, ret_p, ret_n, f);
}

static int once(struct mt_stream *s, int blob, uint64_t size, enum mt_oci_compression how, int spool, char hex[65], struct mt_fault *f)
{
    const struct mt_apply_limits limits = {.unpacked_bytes = 1 << 20, .file_bytes = 1 << 20, .entries = 1000};
    const struct mt_tar_source source = {.read = read_stream, .arg = s};
    struct mt_tree tree;
    struct mt_apply apply;
    MT_ASSERT(mt_tree_init(&tree, 7, f) == 0 && mt_apply_init(&apply, &tree, spool, &limits, f) == 0);
    mt_stream_begin(s, blob, size, how);
    struct mt_tar *tar = mt_tar_new(&source);
    MT_ASSERT(tar);
    int r = mt_apply_layer(&apply, tar, 0, f);
    mt_stream_end(s, hex);
    mt_tar_free(tar);
    mt_apply_done(&apply);
    mt_tree_done(&tree);
    MT_ASSERT((r == 0) == (f->reason == NULL));
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum mt_oci_compression hows[] = {MT_OCI_GZIP, MT_OCI_ZSTD, MT_OCI_PLAIN};
    struct mt_fault one = {0}, two = {0}, cut = {0};
    char hex1[65], hex2[65], ignored[65];
    if (size < 1)
        return 0;
    int blob = memfd_create("blob", MFD_CLOEXEC), spool = memfd_create("spool", MFD_CLOEXEC);
    struct mt_stream *s = mt_stream_new();
    enum mt_oci_compression how = hows[data[0] % 3];
    MT_ASSERT(blob >= 0 && spool >= 0 && s && write(blob, data + 1, size - 1) == (ssize_t)(size - 1));
    int r1 = once(s, blob, size - 1, how, spool, hex1, &one);
    (void)once(s, blob, (size - 1) / 2, how, spool, ignored, &cut);
    int r2 = once(s, blob, size - 1, how, spool, hex2, &two);
    MT_ASSERT(r1 == r2 && strcmp(one.detail, two.detail) == 0);
    MT_ASSERT(r1 < 0 || strcmp(hex1, hex2) == 0);
    mt_stream_free(s);
    (void)close(blob);
    (void)close(spool);
    return 0;
}
