/* SPDX-License-Identifier: Apache-2.0 */
#include "init/etc.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "init/readfile.h"

enum { TEXT_MAX = 64 * 1024 };

/* Text for a small file; sticky when full. One at a time, so one buffer for all. */
static char text[TEXT_MAX];
static size_t text_len;
static bool text_full;

static void put(const char *a, const char *b, const char *c, const char *d)
{
    const char *parts[] = {a, b, c, d};
    for (size_t i = 0; i < 4 && !text_full; i++) {
        size_t n = strlen(parts[i]);
        if (n > sizeof text - text_len) {
            text_full = true;
            return;
        }
        memcpy(text + text_len, parts[i], n);
        text_len += n;
    }
}

static void start_text(void)
{
    text_len = 0;
    text_full = false;
}

static int write_file(int dir_fd, const char *name, struct mt_err *err)
{
    static const char tmp[] = ".moat-init.tmp";
    if (text_full)
        return MT_FAIL(err, MT_E_LIMIT, "'/etc/%s' would be longer than 64 KiB", name);
    (void)unlinkat(dir_fd, tmp, 0);
    mt_auto_fd int fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "create '/etc/%s'", name);
    if (fchmod(fd, 0644) != 0 || write(fd, text, text_len) != (ssize_t)text_len ||
        renameat(dir_fd, tmp, dir_fd, name) != 0) {
        int res = MT_FAIL_ERRNO(err, MT_E_IO, "write '/etc/%s'", name);
        (void)unlinkat(dir_fd, tmp, 0);
        return res;
    }
    return 0;
}

static int write_resolv(int dir_fd, const struct mt_guest_network *n, struct mt_err *err)
{
    if (n->dns_count == 0)
        return 0;
    start_text();
    for (size_t i = 0; i < n->dns_count; i++)
        put("nameserver ", n->dns[i], "\n", "");
    for (size_t i = 0; i < n->search_count; i++)
        put(i == 0 ? "search " : " ", n->search[i], i + 1 == n->search_count ? "\n" : "", "");
    put("options timeout:2 attempts:3\n", "", "", "");
    return write_file(dir_fd, "resolv.conf", err);
}

/* the next word of a hosts line, NULL at its end or at a comment */
static const char *next_word(const char **at, size_t *ret_len)
{
    *at += strspn(*at, " \t\r");
    *ret_len = strcspn(*at, " \t\r\n#");
    if (*ret_len == 0)
        return NULL;
    const char *word = *at;
    *at += *ret_len;
    return word;
}

static const char *line_after(const char *line)
{
    line += strcspn(line, "\n");
    return *line ? line + 1 : line;
}

/* true when some line of @hosts gives @name an address */
static bool names(const char *hosts, const char *name)
{
    size_t want = strlen(name), len;
    for (const char *line = hosts; *line; line = line_after(line)) {
        const char *at = line, *word;
        if (!next_word(&at, &len))
            continue;
        while ((word = next_word(&at, &len)) != NULL)
            if (len == want && memcmp(word, name, len) == 0)
                return true;
    }
    return false;
}

/* only names that every distribution ships: nothing of the image's own would be lost */
static bool is_stock(const char *hosts)
{
    static const char *const known[] = {"localhost", "localhost.localdomain", "localhost4", "localhost6",
                                        "localhost4.localdomain4", "localhost6.localdomain6", "ip6-localhost",
                                        "ip6-loopback", "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes",
                                        "ip6-allrouters", "buildkitsandbox"};
    for (const char *line = hosts; *line; line = line_after(line)) {
        const char *at = line, *word;
        size_t len;
        if (!next_word(&at, &len))
            continue;
        while ((word = next_word(&at, &len)) != NULL) {
            bool hit = false;
            for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
                hit |= strlen(known[i]) == len && memcmp(known[i], word, len) == 0;
            if (!hit)
                return false;
        }
    }
    return true;
}

static int write_hosts(int dir_fd, const char *hostname, const struct mt_guest_network *n, struct mt_err *err)
{
    static char old[TEXT_MAX];
    size_t old_len = 0;
    old[0] = '\0';
    /* a symlink in the image is not followed: its target may be anything */
    mt_auto_fd int fd = openat(dir_fd, "hosts", O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && mt_readfile_fd(fd, old, sizeof old, &old_len) < 0)
        old[0] = '\0';
    bool keep = old_len > 0 && strlen(old) == old_len && !is_stock(old);
    if (!keep)
        old[0] = '\0';

    start_text();
    put(old, keep && old[old_len - 1] != '\n' ? "\n" : "", "", "");
    if (!names(old, "localhost"))
        put("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", "", "", "");
    if (!names(old, hostname))
        put(n->address, "\t", hostname, "\n");
    for (size_t i = 0; i < n->hosts_count; i++)
        if (!names(old, n->hosts[i].name))
            put(n->hosts[i].address, "\t", n->hosts[i].name, "\n");
    return write_file(dir_fd, "hosts", err);
}

int mt_etc_write(int etc_fd, const char *hostname, const struct mt_guest_network *network, struct mt_err *err)
{
    int res = write_resolv(etc_fd, network, err);
    if (res == 0)
        res = write_hosts(etc_fd, hostname, network, err);
    if (res < 0)
        return res;
    start_text();
    put(hostname, "\n", "", "");
    return write_file(etc_fd, "hostname", err);
}
