/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as plan, workload, status batch, heartbeat. Property: what decodes encodes, and what was encoded decodes to the
 * same encoding again. */
#include "model/plan.h"

#include "wire/json.h"

#include "base/assert.h"
#include "base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define ROUND_TRIP(type, decode, encode, release)              \
    do {                                                       \
        struct type *first = NULL, *second = NULL;             \
        json_t *a = NULL, *b = NULL;                           \
        if (decode(json, &first, &err) == 0) {                 \
            MT_ASSERT(encode(first, &a, &err) == 0);           \
            MT_ASSERT(decode(a, &second, &err) == 0);          \
            MT_ASSERT(encode(second, &b, &err) == 0);          \
            MT_ASSERT(json_equal(a, b));                       \
        }                                                      \
        release(first);                                        \
        release(second);                                       \
        json_decref(a);                                        \
        json_decref(b);                                        \
    } while (0)

static int workload_decode(json_t *json, struct mt_workload **ret, struct mt_err *err)
{
    struct mt_workload_fault fault;
    int rc = mt_workload_decode(json, ret, &fault, err);

    MT_ASSERT((rc == -MT_E_INVALID) == (fault.field[0] != '\0'));
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mt_err err;
    json_t *json = NULL;

    if (mt_json_parse((const char *)data, len, 1U << 20, 16, &json, &err) < 0)
        return 0;
    ROUND_TRIP(mt_plan, mt_plan_decode, mt_plan_encode, mt_plan_free);
    ROUND_TRIP(mt_workload, workload_decode, mt_workload_encode, mt_workload_free);
    ROUND_TRIP(mt_status_batch, mt_status_batch_decode, mt_status_batch_encode, mt_status_batch_free);
    ROUND_TRIP(mt_heartbeat, mt_heartbeat_decode, mt_heartbeat_encode, mt_heartbeat_free);
    json_decref(json);
    return 0;
}
