/* SPDX-License-Identifier: Apache-2.0 */
/* A tenant's program that attacks its host from inside the VM as root; static. What it sees goes to stdout, one `mad ...` line each.
 *   spy PEER NODE HOSTPORT REGPORT VICTIMPORT   tries the network: other VMs, the host, sources that are not its own
 *   mad OTHER_INSTANCE SECONDS                  attacks the vsock ports, then floods its logs
 *   spam SECONDS PERCENT                        serial line, logs and vsock, for long, with so much of its processor
 *   immortal                                    told to stop, says again and again that it has ended, and does not */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* as the kernel's linux/vm_sockets.h has them; musl-gcc sees no kernel headers */
struct sockaddr_vm {
    sa_family_t svm_family;
    unsigned short svm_reserved1;
    unsigned svm_port, svm_cid;
    unsigned char svm_flags, svm_zero[3];
};
#define SO_VM_SOCKETS_CONNECT_TIMEOUT 6

static char instance[64], boot[64];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void own_ids(void)
{
    char text[4096] = "", *p;
    int fd = open("/proc/cmdline", O_RDONLY);
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) {
        if ((p = strstr(text, "moat.instance=")))
            sscanf(p + 14, "%63s", instance);
        if ((p = strstr(text, "moat.boot=")))
            sscanf(p + 10, "%63s", boot);
    }
    close(fd);
}

/* ---- vsock ---- */

static int vs(unsigned cid, unsigned port)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    struct timeval two = {.tv_sec = 2};
    int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &two, sizeof two);
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &two, sizeof two);
    setsockopt(s, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &two, sizeof two);
    if (connect(s, (struct sockaddr *)&a, sizeof a) < 0) {
        int e = errno;
        close(s);
        errno = e;
        return -1;
    }
    return s;
}

static void say_hello(int s, const char *inst, const char *phase, unsigned proto)
{
    dprintf(s, "{\"v\":1,\"type\":\"hello\",\"seq\":1,\"proto_min\":%u,\"proto_max\":%u,\"init_version\":\"0\",\"arch\":\"amd64\",\"kernel\":\"x\","
               "\"instance_id\":\"%s\",\"boot_id\":\"%s\",\"phase\":\"%s\"}\n", proto, proto, inst, boot, phase);
}

static void say_exited(int s, unsigned seq)
{
    dprintf(s, "{\"v\":1,\"type\":\"status\",\"seq\":%u,\"state\":\"exited\",\"exit_code\":0,\"core\":false,\"oom_kills\":0,\"clean_umount\":true,"
               "\"uptime_ms\":1,\"ts_ns\":1}\n", seq);
}

static long answer(int s, char *buf, size_t size)
{
    ssize_t n, got = 0;
    while (got < (ssize_t)size - 1 && (n = recv(s, buf + got, size - 1 - (size_t)got, 0)) > 0)
        got += n;
    buf[got] = 0;
    return got;
}

static void ports(void)
{
    static const unsigned p[] = {22, 80, 443, 1024, 5055, 5160, 5161, 5162, 5164, 5180, 5432, 9443, 1U << 30, 0xfffffffeU};
    static const unsigned cids[] = {0, 3, 4, 5, 6, 100, 0xfffffffeU};
    for (size_t i = 0; i < sizeof p / sizeof p[0]; i++) {
        int s = vs(2, p[i]);
        printf("mad port %u %s\n", p[i], s < 0 ? "refused" : "open");
        close(s);
    }
    for (size_t i = 0; i < sizeof cids / sizeof cids[0]; i++) {
        int s = vs(cids[i], 5161);
        printf("mad cid %u %s\n", cids[i], s < 0 ? "refused" : "open");
        close(s);
    }
}

/* It takes the log connection from PID 1, with the lines under way: said before and after must be on the host by then. */
static void log_port(void)
{
    usleep(500000);
    int s = vs(2, 5163);
    close(s);
    usleep(1500000);
    printf("mad port 5163 %s\n", s < 0 ? "refused" : "open");
}

static void garbage(double seconds)
{
    static char junk[20000];
    unsigned drops = 0;
    unsigned long sent = 0;
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (char)(rand() % 255 + 1);
    double began = now();
    int s = -1;
    while (now() - began < seconds) {
        if (s < 0 && (s = vs(2, 5161)) < 0) {
            usleep(5000);
            continue;
        }
        ssize_t n = send(s, junk, sizeof junk, MSG_NOSIGNAL);
        if (n <= 0) {
            close(s);
            s = -1;
            drops++;
            continue;
        }
        sent += (unsigned long)n;
        usleep(20000);
    }
    close(s);
    printf("mad garbage sent %lu dropped %u\n", sent, drops);
}

static void long_line(void)
{
    static char a[65536];
    unsigned long sent = 0;
    memset(a, 'a', sizeof a);
    int s = vs(2, 5161);
    while (s >= 0 && sent < (64UL << 20)) {
        ssize_t n = send(s, a, sizeof a, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        sent += (unsigned long)n;
    }
    printf("mad longline %s\n", sent < (64UL << 20) ? "cut" : "swallowed");
    close(s);
}

static void fakes(const char *other)
{
    static char buf[1 << 20];
    static const char *const bad[] = {
        "{}\n", "[]\n", "\n", "{\"v\":1}\n", "{\"v\":1,\"type\":\"status\",\"seq\":1,\"state\":\"started\"}\n",
        "{\"v\":1,\"v\":1,\"type\":\"pong\",\"seq\":1}\n", "{\"v\":1.5,\"type\":\"pong\",\"seq\":1}\n", "{\"v\":1,\"type\":\"config\",\"seq\":1}\n",
        "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}\n", "{\"v\":1,\"type\":\"pong\",\"seq\":-1}\n"};
    int s = vs(2, 5161);
    say_hello(s, other, "running", 1);
    say_exited(s, 2);
    printf("mad fakehello answered %ld\n", answer(s, buf, sizeof buf));
    close(s);
    s = vs(2, 5161);
    say_hello(s, instance, "boot", 1); /* a second boot: would get the configuration again */
    printf("mad rehello answered %ld\n", answer(s, buf, sizeof buf));
    close(s);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        s = vs(2, 5161);
        if (send(s, bad[i], strlen(bad[i]), MSG_NOSIGNAL) < 0)
            printf("mad bad %zu not sent\n", i);
        close(s);
    }
}

static void many(void)
{
    static int fd[1000];
    unsigned open_now = 0, ever = 0;
    usleep(500000); /* as in log_port */
    for (int i = 0; i < 1000; i++) {
        fd[i] = vs(2, i % 2 ? 5161 : 5163);
        ever += fd[i] >= 0;
    }
    for (int i = 0; i < 1000; i++) {
        char c;
        if (fd[i] >= 0 && (recv(fd[i], &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN))
            open_now++;
        close(fd[i]);
    }
    usleep(1500000);
    printf("mad many ever %u open %u\n", ever, open_now);
}

static void put_be(unsigned char *p, uint64_t v, int n)
{
    for (int i = n - 1; i >= 0; i--, v >>= 8)
        p[i] = (unsigned char)v;
}

/* Through the workload's own pipes, beside them and over the serial line, as fast as it goes. */
static void flood(double seconds)
{
    static char lines[65536];
    for (size_t i = 0; i < sizeof lines; i++)
        lines[i] = i % 100 == 99 ? '\n' : (char)('a' + i % 26);
    double until = now() + seconds;
    pid_t beside = fork();
    if (beside == 0) {
        static unsigned char gaps[30 * 1000];
        uint64_t seq = 1U << 30;
        int s = -1;
        while (now() < until) {
            if (s < 0 && (s = vs(2, 5163)) < 0)
                continue;
            for (int i = 0; i < 1000; i++) {
                unsigned char *r = gaps + (size_t)i * 30;
                put_be(r, 26, 4);
                r[4] = 3;
                r[5] = 2;
                put_be(r + 6, seq++, 8);
                put_be(r + 14, 1, 8);
                put_be(r + 22, 1, 8);
            }
            if (send(s, gaps, sizeof gaps, MSG_NOSIGNAL) <= 0) {
                close(s);
                s = -1;
            }
        }
        _exit(0);
    }
    if (fork() == 0) {
        static char serial[4096];
        int tty = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);
        for (size_t i = 0; i < sizeof serial; i++)
            serial[i] = "serial\n"[i % 7];
        while (now() < until && tty >= 0 && write(tty, serial, sizeof serial) > 0)
            continue;
        _exit(0);
    }
    while (now() < until) {
        if (write(STDOUT_FILENO, lines, sizeof lines) < 0)
            break;
    }
}

/* Share of this machine's time since @t0, @busy0 in which its processor was not idle; at the first call (t0 0) both are set. */
static double busy_share(double *t0, double *busy0)
{
    char text[512] = "";
    unsigned long long v[8] = {0};
    int fd = open("/proc/stat", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
        _exit(3);
    close(fd);
    if (sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7) != 8)
        _exit(3);
    double busy = (double)(v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / (double)sysconf(_SC_CLK_TCK);
    if (*t0 == 0) {
        *t0 = now();
        *busy0 = busy;
        return 0;
    }
    return (busy - *busy0) / (now() - *t0 + 0.001);
}

/* One rule of the control channel is broken, each time another. */
static void break_a_rule(unsigned n)
{
    static char junk[70000];
    int s = vs(2, 5161);
    if (s < 0)
        return;
    switch (n % 4) {
    case 0: /* a line that does not end */
        memset(junk, 'a', sizeof junk);
        (void)send(s, junk, sizeof junk, MSG_NOSIGNAL);
        break;
    case 1: /* none of the language */
        (void)send(s, "{\"v\":1,\"v\":2}\n", 16, MSG_NOSIGNAL);
        break;
    case 2: /* another's name */
        say_hello(s, "inst_00000000000000000000000000", "running", 1);
        break;
    case 3: /* too many that are right */
        say_hello(s, instance, "running", 1);
        for (unsigned i = 2; i < 100; i++)
            dprintf(s, "{\"v\":1,\"type\":\"pong\",\"seq\":%u,\"t\":1}\n", i);
        break;
    }
    usleep(200000); /* it is read before it is hung up */
    close(s);
}

/* Every ten seconds anew: its lines go out through PID 1 for six, it takes PID 1's connection for gaps of its own making for two, then it connects
 * as fast as it can; twice it breaks a rule of the control channel, between which PID 1 finds back and answers. The serial line all the time. */
static void spam(double seconds, double percent)
{
    static char lines[65536], serial[2048], gaps[30 * 200];
    double t0 = 0, busy0 = 0, began = now();
    unsigned broken = 0;
    int log = -1, tty = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);

    for (size_t i = 0; i < sizeof lines; i++)
        lines[i] = i % 1000 == 999 ? '\n' : (char)('a' + i % 26);
    for (size_t i = 0; i < sizeof serial; i++)
        serial[i] = "serial\n"[i % 7];
    (void)busy_share(&t0, &busy0);
    while (now() - began < seconds) {
        double t = now() - began;
        int phase = (int)t % 10;
        if (tty < 0 || write(tty, serial, sizeof serial) < 0 || write(STDOUT_FILENO, lines, sizeof lines) < 0)
            _exit(4);
        if (broken <= (unsigned)(t / 5))
            break_a_rule(broken++);
        if (phase == 6 || phase == 7) {
            if (log < 0)
                log = vs(2, 5163);
            for (int i = 0; i < 200; i++) {
                unsigned char *r = (unsigned char *)gaps + (size_t)i * 30;
                put_be(r, 26, 4);
                r[4] = 3;
                r[5] = 2;
                put_be(r + 6, 0, 8); /* no number, or those of PID 1 would be old ones from here on */
                put_be(r + 14, 1, 8);
                put_be(r + 22, 1, 8);
            }
            if (log >= 0 && send(log, gaps, sizeof gaps, MSG_NOSIGNAL) <= 0) {
                close(log);
                log = -1;
            }
        } else if (log >= 0) {
            close(log);
            log = -1;
        }
        for (int i = 0; phase == 8 && i < 20; i++)
            close(vs(2, i % 2 ? 5161 : 5163));
        while (busy_share(&t0, &busy0) * 100 > percent)
            usleep(20000);
    }
    close(log);
    sleep(5);
    printf("\nmad spam over\n"); /* the last of the flood has no line end */
}

/* ---- network ---- */

static const char *tcp(const char *to, int port)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET6, to, &a.sin6_addr) != 1)
        return "badaddr";
    if (IN6_IS_ADDR_LINKLOCAL(&a.sin6_addr) || IN6_IS_ADDR_MULTICAST(&a.sin6_addr))
        a.sin6_scope_id = if_nametoindex("eth0");
    int s = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), e = 0;
    socklen_t n = sizeof e;
    if (connect(s, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
        e = errno;
    else {
        struct pollfd p = {.fd = s, .events = POLLOUT};
        if (poll(&p, 1, 300) < 1)
            e = ETIMEDOUT;
        else
            getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &n);
    }
    close(s);
    return e == 0 ? "OPEN" : e == ECONNREFUSED ? "REFUSED" : "unreachable"; /* REFUSED: something answered */
}

static uint16_t sum(const void *pseudo, size_t pn, const void *body, size_t bn)
{
    uint32_t t = 0;
    const unsigned char *p = pseudo;
    for (size_t i = 0; i < pn; i += 2)
        t += (uint32_t)(p[i] << 8 | p[i + 1]);
    p = body;
    for (size_t i = 0; i < bn; i += 2)
        t += (uint32_t)(p[i] << 8 | (i + 1 < bn ? p[i + 1] : 0));
    while (t >> 16)
        t = (t & 0xffff) + (t >> 16);
    return htons((uint16_t)~t);
}

/* One UDP datagram (text) or TCP SYN (text NULL) with a source of our choice. */
static void raw(const char *from, const char *to, int port, const char *text)
{
    struct {
        struct ip6_hdr ip;
        unsigned char l4[64];
    } k = {0};
    size_t n;
    inet_pton(AF_INET6, from, &k.ip.ip6_src);
    inet_pton(AF_INET6, to, &k.ip.ip6_dst);
    if (text) {
        struct udphdr *u = (void *)k.l4;
        n = 8 + strlen(text);
        u->uh_sport = htons(4000);
        u->uh_dport = htons((uint16_t)port);
        u->uh_ulen = htons((uint16_t)n);
        memcpy(k.l4 + 8, text, strlen(text));
    } else {
        struct tcphdr *t = (void *)k.l4;
        n = sizeof *t;
        t->th_sport = htons(4001);
        t->th_dport = htons((uint16_t)port);
        t->th_off = 5;
        t->th_flags = TH_SYN;
        t->th_win = htons(1000);
    }
    k.ip.ip6_flow = htonl(6U << 28);
    k.ip.ip6_plen = htons((uint16_t)n);
    k.ip.ip6_nxt = text ? IPPROTO_UDP : IPPROTO_TCP;
    k.ip.ip6_hlim = 64;
    unsigned char pseudo[40] = {0};
    memcpy(pseudo, &k.ip.ip6_src, 32);
    put_be(pseudo + 32, n, 4);
    pseudo[39] = k.ip.ip6_nxt;
    uint16_t c = sum(pseudo, 40, k.l4, n);
    memcpy(k.l4 + (text ? 6 : 16), &c, 2);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = k.ip.ip6_dst};
    if (IN6_IS_ADDR_LINKLOCAL(&a.sin6_addr) || IN6_IS_ADDR_MULTICAST(&a.sin6_addr))
        a.sin6_scope_id = if_nametoindex("eth0");
    int s = socket(AF_INET6, SOCK_RAW, IPPROTO_RAW);
    ssize_t sent = sendto(s, &k, sizeof k.ip + n, 0, (struct sockaddr *)&a, sizeof a);
    printf("mad raw %s>%s %s\n", from, to, sent == (ssize_t)(sizeof k.ip + n) ? "sent" : strerror(errno));
    close(s);
}

static int spy(char **v)
{
    const char *peer = v[0], *node = v[1];
    int host_port = atoi(v[2]), reg_port = atoi(v[3]), victim_port = atoi(v[4]);
    const char *to[] = {"fe80::1", node, "fe80::2", "ff02::1"};
    for (size_t i = 0; i < sizeof to / sizeof to[0]; i++) {
        printf("mad net %s listener %s\n", to[i], tcp(to[i], host_port));
        printf("mad net %s registry %s\n", to[i], tcp(to[i], reg_port));
        printf("mad net %s closed %s\n", to[i], tcp(to[i], 1));
    }
    printf("mad net peer declared %s\n", tcp(peer, victim_port));
    printf("mad net peer other %s\n", tcp(peer, 22));
    const char *from[] = {peer, node, "fe80::dead", "fe80::1", "2001:4860::1", "::1"};
    for (size_t i = 0; i < sizeof from / sizeof from[0]; i++) {
        raw(from[i], node, host_port, "spoofed");
        raw(from[i], "fe80::1", host_port, "spoofed");
        raw(from[i], peer, victim_port, NULL);
    }
    printf("mad spy done\n");
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    own_ids();
    printf("mad uid %d instance %s\n", (int)getuid(), instance);
    if (argc == 7 && !strcmp(argv[1], "spy")) {
        spy(argv + 2);
    } else if (argc == 4 && !strcmp(argv[1], "mad")) {
        ports();
        log_port();
        fakes(argv[2]);
        garbage(3);
        long_line();
        many();
        sleep(3); /* what was said so far can still be read */
        flood(atof(argv[3]));
    } else if (argc == 4 && !strcmp(argv[1], "spam")) {
        spam(atof(argv[2]), atof(argv[3]));
    } else if (argc == 2 && !strcmp(argv[1], "immortal")) {
        static char heard[4096];
        printf("mad immortal\n");
        sleep(1); /* PID 1 brings the line out; then it is stopped for ever, and we speak in its place */
        if (ptrace(PTRACE_ATTACH, 1, NULL, NULL) < 0)
            return 1;
        for (int s = -1, told = 0; !told;) {
            if (s < 0 && (s = vs(2, 5161)) >= 0)
                say_hello(s, instance, "running", 1);
            ssize_t n = s < 0 ? 0 : recv(s, heard, sizeof heard - 1, 0);
            heard[n > 0 ? n : 0] = 0;
            told = strstr(heard, "shutdown") != NULL;
            if (n == 0 || told) {
                close(s);
                s = -1;
            }
        }
        for (;; usleep(200000)) {
            int s = vs(2, 5161);
            if (s < 0)
                continue;
            say_hello(s, instance, "running", 1);
            say_exited(s, 2);
            usleep(1000000);
            close(s);
        }
    }
    for (;;)
        pause();
}
