/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be done for a volume of the plan. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "agent/volume/want.h"

#define P MT_VOLUME_PROVISIONED
#define M MT_VOLUME_MISSING
#define D MT_VOLUME_REMOVED
#define F MT_VOLUME_FAULT

static void each_row_of_plan_and_host_has_its_step(void **state)
{
    (void)state;
    static const struct mt_plan_volume new = {0}, was = {.was_available = true}, gone = {.absent = true}, gone_was = {.absent = true, .was_available = true},
                                       asked = {.was_available = true, .check = 2}, asked_new = {.check = 1}, asked_gone = {.absent = true, .was_available = true, .check = 2},
                                       restored = {.from_restore = "rst"}, restored_was = {.from_restore = "rst", .was_available = true};
    static const struct {
        const struct mt_plan_volume *plan;
        struct mt_volume_seen seen;
        enum mt_volume_act act;
    } rows[] = {
        {&new, {0}, MT_VOLUME_ACT_PROVISION},
        {&new, {.found = true}, MT_VOLUME_ACT_PROVISION}, /* of an agent that was killed before it told: looked at and told */
        {&new, {.busy = true}, MT_VOLUME_ACT_NONE},
        {&new, {.retry_at_ns = 101}, MT_VOLUME_ACT_NONE},
        {&new, {.retry_at_ns = 100}, MT_VOLUME_ACT_PROVISION},
        {&new, {.told = true, .last = P, .failed = true}, MT_VOLUME_ACT_PROVISION},
        {&new, {.found = true, .told = true, .last = P, .failed = true}, MT_VOLUME_ACT_PROVISION},
        {&new, {.found = true, .told = true, .last = P}, MT_VOLUME_ACT_NONE},
        {&new, {.told = true, .last = P}, MT_VOLUME_ACT_MISSING}, /* made by us, then gone: never once more, empty */
        {&new, {.told = true, .last = M}, MT_VOLUME_ACT_NONE},
        {&was, {0}, MT_VOLUME_ACT_MISSING},
        {&was, {.retry_at_ns = 101}, MT_VOLUME_ACT_MISSING},
        {&was, {.told = true, .last = M}, MT_VOLUME_ACT_NONE},
        {&was, {.found = true}, MT_VOLUME_ACT_PRESENT},
        {&was, {.found = true, .told = true, .last = M}, MT_VOLUME_ACT_PRESENT}, /* it came back */
        {&was, {.found = true, .told = true, .last = P}, MT_VOLUME_ACT_NONE},
        {&was, {.told = true, .last = P}, MT_VOLUME_ACT_MISSING},
        {&was, {.busy = true, .found = true}, MT_VOLUME_ACT_NONE},
        {&gone, {0}, MT_VOLUME_ACT_REMOVE}, /* the one who asks wants to hear that it is gone */
        {&gone_was, {.found = true, .told = true, .last = P}, MT_VOLUME_ACT_REMOVE},
        {&gone, {.found = true, .retry_at_ns = 101}, MT_VOLUME_ACT_NONE},
        {&gone, {.found = true, .told = true, .last = F, .failed = true}, MT_VOLUME_ACT_REMOVE},
        {&gone, {.told = true, .last = D}, MT_VOLUME_ACT_NONE},
        {&gone, {.busy = true}, MT_VOLUME_ACT_NONE},
        {&asked, {.found = true}, MT_VOLUME_ACT_PRESENT}, /* what there is comes first */
        {&asked, {.found = true, .told = true, .last = P}, MT_VOLUME_ACT_CHECK},
        {&asked, {.found = true, .told = true, .last = P, .checked = 1}, MT_VOLUME_ACT_CHECK},
        {&asked, {.found = true, .told = true, .last = P, .checked = 2}, MT_VOLUME_ACT_NONE}, /* its word is on its way */
        {&asked, {.busy = true, .found = true, .told = true, .last = P}, MT_VOLUME_ACT_NONE},
        {&asked, {.told = true, .last = M}, MT_VOLUME_ACT_CHECK}, /* the one who asks wants to hear that it is not there */
        {&asked_new, {.found = true, .told = true, .last = P, .failed = true, .retry_at_ns = 101}, MT_VOLUME_ACT_CHECK},
        {&asked_gone, {.told = true, .last = D}, MT_VOLUME_ACT_NONE},
        {&restored, {0}, MT_VOLUME_ACT_NONE}, /* its restore makes it and tells of it */
        {&restored, {.found = true}, MT_VOLUME_ACT_NONE},
        {&restored_was, {0}, MT_VOLUME_ACT_MISSING},
        {&restored_was, {.found = true}, MT_VOLUME_ACT_PRESENT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (mt_volume_act(rows[i].plan, &rows[i].seen, 100) != rows[i].act)
            fail_msg("row %zu: %d", i, (int)mt_volume_act(rows[i].plan, &rows[i].seen, 100));
}

static void a_step_that_fails_is_tried_again_ever_more_rarely(void **state)
{
    (void)state;
    assert_int_equal(mt_volume_retry_ms(1), 2000);
    assert_int_equal(mt_volume_retry_ms(3), 8000);
    assert_int_equal(mt_volume_retry_ms(6), 60000);
    assert_int_equal(mt_volume_retry_ms(UINT32_MAX), 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_of_plan_and_host_has_its_step),
        cmocka_unit_test(a_step_that_fails_is_tried_again_ever_more_rarely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
