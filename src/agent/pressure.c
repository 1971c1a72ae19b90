/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/pressure.h"

#include "base/num.h"

#include <string.h>

static bool line_of(char *line, const char *key, uint64_t *ret)
{
    size_t n = strlen(key);
    if (strncmp(line, key, n) != 0 || line[n] != ':')
        return false;
    char *digits = line + n + 1 + strspn(line + n + 1, " \t");
    digits[strspn(digits, "0123456789")] = '\0';
    return mt_parse_u64(digits, 0, UINT64_MAX / 1024, ret, NULL) == 0;
}

int mt_pressure_parse(char *meminfo, uint64_t *ret_total_kib, uint64_t *ret_available_kib, struct mt_err *err)
{
    uint64_t total = 0, available = 0;
    bool have_total = false, have_available = false;
    char *save = NULL;
    for (char *line = strtok_r(meminfo, "\n", &save); line && !(have_total && have_available); line = strtok_r(NULL, "\n", &save)) {
        have_total = line_of(line, "MemTotal", &total) || have_total;
        have_available = line_of(line, "MemAvailable", &available) || have_available;
    }
    if (!have_total || !have_available || total == 0 || available > total)
        return MT_FAIL(err, MT_E_INVALID, "meminfo without MemTotal and MemAvailable");
    *ret_total_kib = total;
    *ret_available_kib = available;
    return 0;
}

bool mt_pressure_note(struct mt_pressure *p, uint64_t total_kib, uint64_t available_kib)
{
    bool was = p->on;
    p->total_kib = total_kib;
    p->available_kib = available_kib;
    p->low = available_kib < total_kib / 100 * MT_PRESSURE_BELOW_PERCENT ? p->low + 1 : 0;
    if (p->low >= 2)
        p->on = true;
    else if (available_kib >= total_kib / 100 * MT_PRESSURE_UNTIL_PERCENT)
        p->on = false;
    return p->on != was;
}
