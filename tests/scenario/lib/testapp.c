/* SPDX-License-Identifier: Apache-2.0 */
/* The program inside test images; static, one word says what it does:
 *   serve PORT     plain HTTP on [::]:PORT, answers 200 with its environment variable WORD; header X-Now is its clock
 *   exit CODE      prints a line and ends with this code after 200 ms
 *   deaf           runs, opens no port
 *   hog MIB        allocates and touches this much memory, then waits
 *   talk N         prints N numbered lines to stdout and stderr, then serves 8080
 *   spin PORT      one process that does nothing but count; its count is the answer on plain HTTP
 *   babble N       the same lines, then ends with 4
 *   count N PER_S  prints N numbered lines at this rate, says how late it was, then waits
 *   pour N PER_S   prints N lines of 48 bytes at this rate, then how long that took and the longest that one write did, then waits
 *   sick PORT      plain HTTP that answers 503 with a body, and says so once
 *   panic          prints a line, then crashes the kernel (SysRq)
 *   secret         prints owner, mode, size and an FNV-1a sum of its secrets file and what its folder is, then serves 8080
 *   keep DIR [beat] plain HTTP on 8080: /w/WORD appends WORD to DIR/kept, with fsync, before it answers; every answer is what is kept and
 *                  the size of the filesystem in MiB. With beat another process writes 4 KiB and fsyncs without a pause; /max is the
 *                  longest that one took since it was asked last, in microseconds, and how many there were; /rest: 50 ms between two from
 *                  now on (without a pause a guest under TCG takes a whole processor)
 *   probe DIR WORD ends with 0 when WORD is in DIR/kept and DIR takes writes, else with 3; prints what is kept, its interfaces and whether it has secrets
 *   ids            prints uid, gid and working folder, then serves 8080 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long long *count; /* shared with the process that counts; NULL when nothing does */

static int sick;

static int serve(int port)
{
    int one = 1, s = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 64)) {
        perror("testapp: listen");
        return 1;
    }
    printf("testapp: serving on %d\n", port);
    for (;;) {
        char buf[4096], out[512];
        int c = accept(s, NULL, NULL);
        if (c < 0)
            continue;
        char number[32];
        const char *word = getenv("WORD") ? getenv("WORD") : "none";
        if (count) {
            snprintf(number, sizeof number, "%llu", *count);
            word = number;
        }
        if (read(c, buf, sizeof buf) > 0 && sick) {
            int n = snprintf(out, sizeof out, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nthe database says: %s", "too many clients");
            if (write(c, out, (size_t)n) != n)
                perror("write");
        } else if (!sick) {
            int n = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nX-Now: %lld\r\nConnection: close\r\n\r\n%s", strlen(word),
                             (long long)time(NULL), word);
            if (write(c, out, (size_t)n) != n)
                perror("write");
        }
        close(c);
    }
}

static void tell_secret(void)
{
    const char *path = getenv("MOAT_SECRETS_FILE") ? getenv("MOAT_SECRETS_FILE") : "/run/secrets/platform.env";
    struct stat f, d;
    struct statfs fs;
    if (stat(path, &f) != 0) {
        printf("secret none\n");
        return;
    }
    if (stat("/run/secrets", &d) != 0 || statfs("/run/secrets", &fs) != 0)
        return;
    unsigned long long sum = 0xcbf29ce484222325ULL;
    FILE *in = fopen(path, "r");
    for (int ch; in && (ch = getc(in)) != EOF;)
        sum = (sum ^ (unsigned char)ch) * 0x100000001b3ULL;
    if (in)
        fclose(in);
    printf("secret uid %d gid %d mode %o size %lld sum %016llx dir %d:%d %o type %lx flags %lx blocks %lld\n", f.st_uid, f.st_gid,
           f.st_mode & 07777, (long long)f.st_size, in ? sum : 0, d.st_uid, d.st_gid, d.st_mode & 07777, (long)fs.f_type, (long)fs.f_flags,
           (long long)fs.f_blocks * fs.f_bsize);
}

static long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

struct beat {
    volatile long begun, longest, n; /* begun: of the one under way, 0 none */
    volatile int rests;
};

static struct beat *beat(const char *dir)
{
    char path[256], block[4096] = {1};
    struct beat *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(path, sizeof path, "%s/beat", dir);
    if (b == MAP_FAILED || fork() != 0)
        return b;
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    for (unsigned i = 0;; i++) {
        b->begun = now_us();
        if (pwrite(fd, block, sizeof block, (off_t)(i % 64) * 4096) < 0 || fsync(fd) != 0)
            _exit(1);
        long took = now_us() - b->begun;
        b->begun = 0;
        if (took > b->longest)
            b->longest = took;
        b->n++;
        if (b->rests)
            usleep(50000);
    }
}

static int keep(const char *dir, struct beat *beats)
{
    int one = 1, s = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(8080)};
    char path[256];
    snprintf(path, sizeof path, "%s/kept", dir);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 64))
        return 1;
    for (;;) {
        char buf[4096], word[256], body[2048] = "", out[4096];
        struct statfs fs = {0};
        int c = accept(s, NULL, NULL), fd;
        ssize_t n = c < 0 ? -1 : read(c, buf, sizeof buf - 1);
        if (n <= 0) {
            close(c);
            continue;
        }
        buf[n] = '\0';
        const char *failed = "";
        if (beats && !strncmp(buf, "GET /max", 8)) {
            n = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%ld %ld", beats->longest, beats->n);
            beats->longest = beats->n = 0;
            if (write(c, out, (size_t)n) != n)
                perror("write");
            close(c);
            continue;
        }
        if (beats && !strncmp(buf, "GET /rest", 9))
            beats->rests = 1;
        if (sscanf(buf, "GET /w/%255s", word) == 1) {
            strcat(word, " ");
            fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
            if (fd < 0 || write(fd, word, strlen(word)) != (ssize_t)strlen(word) || fsync(fd) != 0)
                failed = strerror(errno);
            close(fd);
        }
        fd = open(path, O_RDONLY);
        n = fd < 0 ? 0 : read(fd, body, sizeof body - 1);
        body[n > 0 ? n : 0] = '\0';
        close(fd);
        statfs(dir, &fs);
        n = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s%s| %lld", failed, body, (long long)fs.f_blocks * fs.f_bsize >> 20);
        if (write(c, out, (size_t)n) != n)
            perror("write");
        close(c);
    }
}

/* Lines as a busy service prints them, some at a time and by the clock; nothing is buffered here, so a write that logging holds up is seen. */
static void pour(unsigned long n, unsigned long rate)
{
    static char text[1024 * 49];
    long begun = now_us(), longest = 0;
    for (unsigned long i = 0; i < n;) {
        unsigned long due = (unsigned long)(now_us() - begun) * rate / 1000000;
        size_t len = 0;
        for (; i < n && i < due && len < sizeof text; i++, len += 49)
            snprintf(text + len, sizeof text - len, "%010lu %.37s", i, "the quick brown fox jumps over the lazy"), text[len + 48] = '\n';
        long from = now_us();
        if (len && write(STDOUT_FILENO, text, len) != (ssize_t)len)
            _exit(1);
        if (now_us() - from > longest)
            longest = now_us() - from;
        usleep(2000);
    }
    printf("poured in %ld ms, longest write %ld us\n", (now_us() - begun) / 1000, longest);
}

static int probe(const char *dir, const char *word)
{
    char path[256], body[2048] = "";
    snprintf(path, sizeof path, "%s/kept", dir);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, body, sizeof body - 1);
    body[n > 0 ? n : 0] = '\0';
    close(fd);
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *i = all; i && i->if_index; i++)
        printf("interface %s\n", i->if_name);
    if_freenameindex(all);
    printf("secrets %s\n", access("/run/secrets/platform.env", F_OK) == 0 ? "yes" : "no");
    printf("WORD %s kept %s\n", getenv("WORD") ? getenv("WORD") : "none", body);
    snprintf(path, sizeof path, "%s/probed", dir);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1 || fsync(fd) != 0)
        perror("testapp: write");
    else if (strstr(body, word))
        return 0;
    return 3;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "deaf";
    int n = argc > 2 ? atoi(argv[2]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(what, "serve"))
        return serve(n);
    if (!strcmp(what, "count")) {
        static char big[1 << 16];
        int rate = argc > 3 ? atoi(argv[3]) : 10;
        struct timespec t0, t;
        long ms[2];
        FILE *out[2] = {fopen("/dev/null", "w"), stdout}; /* what the same takes when nobody reads */
        setvbuf(stdout, big, rate > 1000 ? _IOFBF : _IOLBF, sizeof big);
        for (int k = rate > 1000 ? 0 : 1; k < 2; k++) {
            clock_gettime(CLOCK_MONOTONIC, &t0);
            for (int i = 0; i < n;) {
                clock_gettime(CLOCK_MONOTONIC, &t);
                double due = ((double)(t.tv_sec - t0.tv_sec) + (double)(t.tv_nsec - t0.tv_nsec) / 1e9) * rate;
                while (i < n && i < due)
                    fprintf(out[k], "n %d\n", i++);
                fflush(out[k]); /* a writer that logging blocked would fall behind its clock */
                usleep(rate > 1000 ? 2000 : 20000);
            }
            clock_gettime(CLOCK_MONOTONIC, &t);
            ms[k] = (t.tv_sec - t0.tv_sec) * 1000 + (t.tv_nsec - t0.tv_nsec) / 1000000;
        }
        printf("done in %ld ms, to nowhere in %ld\n", ms[1], rate > 1000 ? ms[0] : ms[1]);
        fflush(stdout);
        n = 0;
    }
    if (!strcmp(what, "pour")) {
        pour((unsigned long)n, argc > 3 ? strtoul(argv[3], NULL, 10) : 1000);
        return serve(8080);
    }
    if (!strcmp(what, "keep"))
        return keep(argc > 2 ? argv[2] : "/data", argc > 3 ? beat(argv[2]) : NULL);
    if (!strcmp(what, "probe"))
        return probe(argc > 2 ? argv[2] : "/data", argc > 3 ? argv[3] : "");
    if (!strcmp(what, "sick")) {
        sick = 1;
        return serve(n);
    }
    if (!strcmp(what, "panic")) {
        printf("testapp: about to crash the kernel\n");
        usleep(1500000); /* the line is to leave the guest first, which may get no processor for a while */
        FILE *f = fopen("/proc/sysrq-trigger", "w");
        if (!f || fputc('c', f) == EOF || fflush(f))
            perror("testapp: sysrq");
    }
    if (!strcmp(what, "spin")) {
        count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (count == MAP_FAILED)
            return 9;
        if (fork() == 0)
            for (;;)
                (*count)++;
        return serve(n);
    }
    if (!strcmp(what, "exit")) {
        char line[256];
        FILE *f = argc > 3 ? fopen(argv[3], "r") : NULL;
        while (f && fgets(line, sizeof line, f))
            fputs(line, stdout);
        printf("testapp: about to exit with %d\n", n);
        usleep(200000);
        return n;
    }
    if (!strcmp(what, "hog")) {
        printf("testapp: taking %d MiB\n", n);
        for (int i = 0; i < n; i++) {
            char *p = malloc(1 << 20);
            if (!p)
                return 9;
            memset(p, i + 1, 1 << 20);
        }
        printf("testapp: has %d MiB\n", n);
    } else if (!strcmp(what, "talk") || !strcmp(what, "babble")) {
        for (int i = 0; i < n; i++) {
            printf("out %d\n", i);
            fprintf(stderr, "err %d\n", i);
        }
        if (!strcmp(what, "babble"))
            return 4;
        return serve(8080);
    } else if (!strcmp(what, "secret")) {
        tell_secret();
        return serve(8080);
    } else if (!strcmp(what, "ids")) {
        char cwd[256];
        printf("uid %d gid %d cwd %s\n", getuid(), getgid(), getcwd(cwd, sizeof cwd));
        return serve(8080);
    }
    for (;;)
        pause();
}
