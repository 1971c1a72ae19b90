/* SPDX-License-Identifier: Apache-2.0 */
/* state.json: round trip, golden text, refusal of every damaged byte. */
#include "agent/instance/state.h"

#include "base/cleanup.h"
#include "os/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cmocka.h>

#define GOLDEN_CRC "5ea19ac6"

#define ID "inst_01hzzzzzzzzzzzzzzzzzzzzzzz"

static struct mt_state sample(void)
{
    struct mt_state s;
    mt_state_init(&s, ID, 1700000000000000);
    s.phase = MT_PH_READY;
    s.undo = MT_STEP_BIT(MT_STEP_SLOT) | MT_STEP_BIT(MT_STEP_LAUNCH);
    s.slot = 0x12345 & 0xffff;
    s.boot_seq = 3;
    s.generation = 9;
    s.vmm = (struct mt_vmm_ids){.jail_id = "01hzzzzzzzzzzzzzzzzzzzzzzz-3", .slot = s.slot, .proc_count = 2,
                                .proc = {{10, 111}, {11, 222}}};
    s.end = (struct mt_end){.reason = "workload_exited", .detail = "line \"quoted\"", .has_exit_code = true, .exit_code = 137,
                            .signal = "SIGKILL", .from_guest = true};
    s.t.ready = 1700000000000001;
    s.planned = true;
    return s;
}

static void round_trip_keeps_everything(void **st)
{
    (void)st;
    struct mt_state a = sample(), b;
    struct mt_err err = {0};
    char *text = NULL, *again = NULL;
    assert_int_equal(mt_state_encode(&a, &text, &err), 0);
    assert_int_equal(mt_state_decode(text, strlen(text), &b, &err), 0);
    assert_int_equal(mt_state_encode(&b, &again, &err), 0);
    assert_string_equal(text, again);
    assert_int_equal(b.phase, MT_PH_READY);
    assert_int_equal(b.undo, a.undo);
    assert_int_equal(b.vmm.proc[1].start_ticks, 222);
    assert_int_equal(b.end.exit_code, 137);
    assert_true(b.planned && b.end.from_guest);
    free(text);
    free(again);
}

static void the_format_is_the_documented_one(void **st)
{
    (void)st;
    struct mt_state s;
    struct mt_err err = {0};
    char *text = NULL;
    mt_state_init(&s, ID, 1700000000000000);
    assert_int_equal(mt_state_encode(&s, &text, &err), 0);
    /* a change of this text needs a new format number (docs/formats/agent-state.md) */
    assert_string_equal(
        text,
        "{\"accel\":\"\",\"address\":\"\",\"attempts\":0,\"boot_id\":\"\",\"boot_seq\":0,\"crash_loop\":false,"
        "\"crc32c\":\"" GOLDEN_CRC "\",\"digest\":\"\",\"driver\":\"\",\"end\":{\"detail\":\"\",\"from_guest\":false,"
        "\"reason\":\"\",\"signal\":\"\"},\"env_id\":\"\",\"format\":1,\"generation\":0,\"host_boot\":\"\",\"instance_id\":\"" ID
        "\",\"interrupted\":false,\"next_retry_us\":0,\"own_failures\":0,\"phase\":\"none\",\"planned\":false,"
        "\"restart_count\":0,\"root_uuid\":\"\",\"scratch_uuid\":\"\",\"seq_reserved\":1700000000000,\"spec_hash\":\"\","
        "\"stop_reason\":\"\",\"stop_reported\":false,\"timeline\":{},\"undo\":[],\"vmm\":{\"jail_id\":\"\",\"procs\":[],"
        "\"slot\":0}}");
    free(text);
}

static void no_damaged_byte_is_believed(void **st)
{
    (void)st;
    struct mt_state a = sample(), b;
    struct mt_err err = {0};
    char *text = NULL;
    assert_int_equal(mt_state_encode(&a, &text, &err), 0);
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        char keep = text[i];
        text[i] = keep == 'x' ? 'y' : 'x';
        assert_true(mt_state_decode(text, n, &b, &err) < 0);
        text[i] = keep;
    }
    for (size_t i = 0; i < n; i++)
        assert_true(mt_state_decode(text, i, &b, &err) < 0);
    free(text);
}

static void a_broken_file_is_set_aside(void **st)
{
    (void)st;
    char dir[] = "/tmp/mt-state-XXXXXX", path[64], bad[64];
    struct mt_state a = sample(), b;
    struct mt_err err = {0};
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/state.json", dir);
    (void)snprintf(bad, sizeof bad, "%s/state.json.bad", dir);
    assert_int_equal(mt_state_load(dir, &b, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_state_save(dir, &a, &err), 0);
    assert_int_equal(mt_state_load(dir, &b, &err), 0);
    assert_int_equal(b.boot_seq, 3);
    assert_int_equal(truncate(path, 50), 0);
    assert_int_equal(mt_state_load(dir, &b, &err), -MT_E_NOT_FOUND);
    assert_int_equal(access(bad, F_OK), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, dir, &err), 0);
}

static void names_come_from_the_slot(void **st)
{
    (void)st;
    struct mt_state s = sample();
    struct mt_err err = {0};
    char tap[IFNAMSIZ], jail[MT_VMM_JAIL_ID_MAX + 1];
    s.slot = 0xbeef;
    mt_state_tap(&s, tap);
    assert_string_equal(tap, "mt0beef");
    assert_int_equal(mt_state_jail_id(&s, jail, &err), 0);
    assert_string_equal(jail, "01hzzzzzzzzzzzzzzzzzzzzzzz-3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_keeps_everything), cmocka_unit_test(the_format_is_the_documented_one),
        cmocka_unit_test(no_damaged_byte_is_believed), cmocka_unit_test(a_broken_file_is_set_aside),
        cmocka_unit_test(names_come_from_the_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
