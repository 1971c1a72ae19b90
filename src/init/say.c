/* SPDX-License-Identifier: Apache-2.0 */
#include "init/say.h"

#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "base/clock.h"

enum { MEMORY_MAX = 256 * 1024, FILE_MAX_BYTES = 1024 * 1024, LINE_MAX_BYTES = 960 };

static char memory[MEMORY_MAX];
static size_t memory_len;
static size_t file_len;
static int kmsg_fd = -1;
static int file_fd = -1;

void mt_say_open(void)
{
    kmsg_fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
}

static void to_file(const char *text, size_t n)
{
    if (file_fd < 0 || n > FILE_MAX_BYTES - file_len)
        return;
    /* a full /run loses diagnosis, nothing else */
    if (write(file_fd, text, n) == (ssize_t)n)
        file_len += n;
}

void mt_say(enum mt_say_level level, const char *fmt, ...)
{
    int keep = errno;
    char text[LINE_MAX_BYTES], line[LINE_MAX_BYTES + 64];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    int n = snprintf(line, sizeof line, "<%d>moat-init: %s\n", (int)level, text);
    if (kmsg_fd >= 0 && n > 0 && write(kmsg_fd, line, (size_t)n) < 0) {
        /* nowhere left to say it */
    }
    int64_t ms = mt_clock_mono() / 1000000;
    n = snprintf(line, sizeof line, "%lld.%03d %s\n", (long long)(ms / 1000), (int)(ms % 1000), text);
    if (n > 0 && (size_t)n <= MEMORY_MAX - memory_len && file_fd < 0) {
        memcpy(memory + memory_len, line, (size_t)n);
        memory_len += (size_t)n;
    }
    if (n > 0)
        to_file(line, (size_t)n);
    errno = keep;
}

void mt_say_to_file(const char *path)
{
    file_fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    to_file(memory, memory_len);
}

size_t mt_say_read(uint64_t offset, void *buf, size_t n, uint64_t *ret_total)
{
    *ret_total = file_fd >= 0 ? file_len : memory_len;
    if (offset >= *ret_total)
        return 0;
    if (file_fd < 0) {
        size_t left = memory_len - (size_t)offset;
        memcpy(buf, memory + offset, left < n ? left : n);
        return left < n ? left : n;
    }
    /* our own descriptor: what a workload puts in the file's place is not read, and a file that it cut gives less */
    ssize_t got = pread(file_fd, buf, n, (off_t)offset);
    return got > 0 ? (size_t)got : 0;
}
