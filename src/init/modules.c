/* SPDX-License-Identifier: Apache-2.0 */
#include "init/modules.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "init/readfile.h"

enum { LIST_MAX = 4096 };

/* next line of @list, NUL-terminated in place; NULL at the end */
static char *next_line(char **at)
{
    char *line = *at;
    if (*line == '\0')
        return NULL;
    size_t n = strcspn(line, "\n");
    *at = line + n + (line[n] == '\n');
    line[n] = '\0';
    return line;
}

static int load_one(const char *path, struct mt_err *err)
{
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open module '%s'", path);
    if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)
        return MT_FAIL_ERRNO(err, MT_E_IO, "load module '%s'", path);
    return 0;
}

int mt_modules_load(const char *list_path, struct mt_err *err)
{
    char list[LIST_MAX], *at = list, *line;
    size_t len;
    int res = mt_readfile(list_path, list, sizeof list, &len, err);
    if (res == -MT_E_NOT_FOUND)
        return 0;
    if (res < 0)
        return res;
    while ((line = next_line(&at)) != NULL) {
        if (*line == '\0')
            continue;
        res = load_one(line, err);
        if (res < 0)
            return res;
    }
    return 0;
}

int mt_modules_wait_device(const char *path, int limit_ms, struct mt_err *err)
{
    int64_t until = mt_clock_mono() + (int64_t)limit_ms * 1000000;
    struct stat st;
    while (stat(path, &st) != 0) {
        if (mt_clock_mono() >= until)
            return MT_FAIL(err, MT_E_TIMEOUT, "no device '%s' after %d ms", path, limit_ms);
        (void)nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return 0;
}

void mt_modules_forget(const char *list_path)
{
    char list[LIST_MAX], *at = list, *line;
    size_t len;
    if (mt_readfile(list_path, list, sizeof list, &len, NULL) < 0)
        return;
    while ((line = next_line(&at)) != NULL)
        (void)unlink(line);
    (void)unlink(list_path);
}
