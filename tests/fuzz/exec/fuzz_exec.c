/* SPDX-License-Identifier: Apache-2.0 */
/* Exec frames of either side: the first byte says whose, the rest is a stream. Every body that decodes must encode to what decodes again. */
#include <stdint.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/err.h"
#include "wire/exec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t mem_bytes[MT_EXEC_MEM], mem_again[MT_EXEC_MEM], body[8 * MT_EXEC_PAYLOAD_MAX];

static void one_body(const struct mt_exec_frame *f)
{
    struct mt_guest_mem mem = {.base = mem_bytes, .cap = sizeof mem_bytes}, again = {.base = mem_again, .cap = sizeof mem_again};
    struct mt_err err = {0};
    size_t n;
    if (f->type == MT_EXEC_OPEN) {
        struct mt_exec_open o, p;
        if (mt_exec_open_decode(f->payload, f->len, &mem, &o, &err) < 0)
            return;
        MT_ASSERT(o.argc >= 1 && o.argc <= MT_EXEC_ARGV_MAX && !o.argv[o.argc] && o.env_count <= MT_EXEC_ENV_MAX);
        MT_ASSERT(mt_exec_open_encode(&o, body, sizeof body, &n, &err) == 0);
        MT_ASSERT(mt_exec_open_decode(body, n, &again, &p, &err) == 0 && p.argc == o.argc && p.env_count == o.env_count);
    } else if (f->type == MT_EXEC_CONTROL) {
        struct mt_exec_control c, d;
        if (mt_exec_control_decode(f->payload, f->len, &mem, &c, &err) < 0 || c.kind == MT_EXEC_UNKNOWN)
            return;
        MT_ASSERT(mt_exec_control_encode(&c, body, sizeof body, &n, &err) == 0);
        MT_ASSERT(mt_exec_control_decode(body, n, &again, &d, &err) == 0 && d.kind == c.kind && d.t == c.t && d.cols == c.cols);
    } else if (f->type == MT_EXEC_EXIT) {
        struct mt_exec_exit e, g;
        if (mt_exec_exit_decode(f->payload, f->len, &mem, &e, &err) < 0)
            return;
        MT_ASSERT(mt_exec_exit_encode(&e, body, sizeof body, &n, &err) == 0);
        MT_ASSERT(mt_exec_exit_decode(body, n, &again, &g, &err) == 0 && g.exit_code == e.exit_code);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum mt_exec_from from = data[0] & 1 ? MT_EXEC_FROM_GUEST : MT_EXEC_FROM_CLIENT;
    size_t left = size - 1;
    uint8_t *exact = malloc(left ? left : 1); /* reads past the end become visible */
    MT_ASSERT(exact);
    memcpy(exact, data + 1, left);
    for (size_t at = 0;;) {
        struct mt_exec_frame f;
        struct mt_err err = {0};
        size_t used;
        int rc = mt_exec_decode(from, exact + at, left - at, &f, &used, &err);
        if (rc != 0) {
            MT_ASSERT(rc == 1 || err.msg[0]);
            break;
        }
        MT_ASSERT(used == MT_EXEC_HEAD + f.len && used <= left - at && mt_exec_allowed(from, f.type, f.len));
        one_body(&f);
        at += used;
    }
    free(exact);
    return 0;
}
