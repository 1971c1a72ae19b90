/* SPDX-License-Identifier: Apache-2.0 */
/* The example service: a small HTTPS server. Its page says which machine it runs on, so that one sees that it is a VM of its own.
 * TLS ends here, inside the VM: the edge in front only reads the server name. Written to the OpenSSL API, built with either library that
 * has it (build-image --tls): OpenSSL itself, or wolfSSL (HELLO_WOLFSSL), which is ready after 0.3 million instructions where OpenSSL
 * takes 18: in a VM without KVM that is a third of a second of each start.
 * usage: hello [PORT]; certificate and key are /app/cert.pem and /app/key.pem. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef HELLO_WOLFSSL
#include <wolfssl/options.h> /* before all else of it */
#include <wolfssl/openssl/ssl.h>
#include <wolfssl/wolfcrypt/ecc.h>
#else
#include <openssl/ssl.h>
#endif

enum { MAX_CONNECTIONS = 64, REQUEST_MAX = 8192 };

static SSL_CTX *tls;
static atomic_int connections, unanswered; /* of them, those whose first request has no answer yet */
static atomic_ullong served;
static atomic_bool stopping;

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : "-";
}

static int page(char *out, size_t size, int html)
{
    struct utsname u;
    struct sysinfo si;
    (void)uname(&u);
    (void)sysinfo(&si);
    const char *head = html ? "<!doctype html><title>hello from a microVM</title><meta name=viewport content=\"width=device-width\">"
                              "<body style=\"font:16px/1.5 monospace;margin:10vh auto;max-width:46em\"><h1>hello from a microVM</h1><pre>"
                            : "hello from a microVM\n\n";
    return snprintf(out, size,
                    "%shost      %s\nkernel    %s %s\nmemory    %lu MiB in all\nup        %ld s\napp       %s/%s@%s (%s)\n"
                    "release   v%s (%s)\ninstance  %s\naddress   %s\nrequests  %llu\n%s",
                    head, u.nodename, u.sysname, u.release, (unsigned long)(si.totalram / 1048576 * si.mem_unit), si.uptime, env("MOAT_ORG"),
                    env("MOAT_APP"), env("MOAT_ENV"), env("MOAT_PROCESS"), env("MOAT_RELEASE_NUMBER"), env("MOAT_RELEASE_ID"),
                    env("MOAT_INSTANCE_ID"), env("MOAT_IPV6"), atomic_load(&served), html ? "</pre></body>" : "");
}

/* One request after another on one connection, until the client closes or is silent for ten seconds. Whoever was let in before the
 * service was told to stop still gets its first answer. */
static void talk(SSL *ssl, bool *answered)
{
    char req[REQUEST_MAX + 1], body[2048], head[256];
    size_t have = 0;
    while (!*answered || !atomic_load(&stopping)) {
        req[have] = '\0';
        char *end = strstr(req, "\r\n\r\n");
        if (!end) {
            int n = have < REQUEST_MAX ? SSL_read(ssl, req + have, (int)(REQUEST_MAX - have)) : 0;
            if (n <= 0)
                return;
            have += (size_t)n;
            continue;
        }
        int get = strncmp(req, "GET ", 4) == 0, head_only = strncmp(req, "HEAD ", 5) == 0;
        int close_after = atomic_load(&stopping) || strcasestr(req, "\r\nconnection: close") != NULL || strstr(req, " HTTP/1.0\r\n") != NULL;
        int html = strcasestr(req, "text/html") != NULL;
        atomic_fetch_add(&served, 1);
        int n = get || head_only ? page(body, sizeof body, html) : snprintf(body, sizeof body, "only GET and HEAD\n");
        int h = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: text/%s; charset=utf-8\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n",
                         get || head_only ? "200 OK" : "405 Method Not Allowed", html ? "html" : "plain", n, close_after ? "close" : "keep-alive");
        int sent = SSL_write(ssl, head, h) > 0 && (head_only || SSL_write(ssl, body, n) > 0);
        if (!*answered)
            atomic_fetch_sub(&unanswered, 1);
        *answered = true;
        if (!sent || close_after || (!get && !head_only))
            return;
        size_t used = (size_t)(end + 4 - req);
        memmove(req, req + used, have - used);
        have -= used;
    }
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    bool answered = false;
    SSL *ssl = SSL_new(tls);
    if (ssl && SSL_set_fd(ssl, fd) == 1 && SSL_accept(ssl) == 1) {
        talk(ssl, &answered);
        (void)SSL_shutdown(ssl);
    }
    SSL_free(ssl);
#ifdef HELLO_WOLFSSL
    wc_ecc_fp_free(); /* this thread's tables of multiples: nothing else frees them */
#endif
    (void)close(fd);
    if (!answered)
        atomic_fetch_sub(&unanswered, 1);
    atomic_fetch_sub(&connections, 1);
    return NULL;
}

/* Take a connection if one waits within @ms; false when none did. */
static bool take(int fd, int ms)
{
    struct pollfd pf = {.fd = fd, .events = POLLIN};
    struct timeval limit = {.tv_sec = 10};
    pthread_t t;
    int c = poll(&pf, 1, ms) > 0 ? accept4(fd, NULL, NULL, SOCK_CLOEXEC) : -1;
    if (c < 0)
        return false;
    (void)setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    (void)setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    atomic_fetch_add(&unanswered, 1);
    if (atomic_fetch_add(&connections, 1) < MAX_CONNECTIONS && pthread_create(&t, NULL, serve, (void *)(intptr_t)c) == 0) {
        (void)pthread_detach(t);
        return true;
    }
    atomic_fetch_sub(&unanswered, 1);
    atomic_fetch_sub(&connections, 1);
    (void)close(c);
    return true;
}

static void on_term(int sig)
{
    (void)sig;
    atomic_store(&stopping, true);
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 8443;
    int one = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sigaction sa = {.sa_handler = on_term};
    (void)sigaction(SIGTERM, &sa, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
#ifndef HELLO_WOLFSSL
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL); /* the image holds none */
#endif
    tls = SSL_CTX_new(TLS_server_method());
    if (!tls || SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1) {
        fprintf(stderr, "hello: the TLS library does not start\n");
        return 1;
    }
    if (SSL_CTX_use_certificate_chain_file(tls, "/app/cert.pem") != 1 || SSL_CTX_use_PrivateKey_file(tls, "/app/key.pem", SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "hello: /app/cert.pem and /app/key.pem are no certificate with its key\n");
        return 1;
    }
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 128) < 0) {
        perror("hello: listen");
        return 1;
    }
    printf("hello: serving HTTPS on [::]:%d as release v%s\n", port, env("MOAT_RELEASE_NUMBER"));
    while (!atomic_load(&stopping))
        (void)take(fd, 200);
    while (take(fd, 0)) /* who connected before the end was told */
        ;
    printf("hello: stopping after %llu requests\n", (unsigned long long)atomic_load(&served));
    for (int i = 0; i < 300 && (atomic_load(&unanswered) > 0 || (i < 50 && atomic_load(&connections) > 0)); i++)
        usleep(20000);
    return 0;
}
