/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a monitor that was taken over by its guest may answer: Firecracker's HTTP API and QEMU's QMP, over their real sockets. The first
 * byte says which is asked; the rest is what the other side sends, cut at 0xff: one part for each time it was read from, then it hangs up.
 */
#include "agent/vmm/driver.h"
#include "agent/vmm/fc_api.h"
#include "agent/vmm/jail.h"
#include "agent/vmm/qmp.h"
#include "base/assert.h"
#include "base/cleanup.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mt_jail jail;
static int listener[2] = {-1, -1}; /* api.sock, qmp.sock */

struct script {
    int fd;
    const uint8_t *p;
    size_t left;
};

static int listen_at(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%.80s/run/%s", jail.root, name);
    MT_ASSERT(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 4) == 0);
    return fd;
}

static void tidy(void)
{
    char path[256];
    static const char *const names[] = {"/run/api.sock", "/run/qmp.sock", "/run", ""};
    for (size_t i = 0; i < MT_ARRAY_LEN(names); i++) {
        (void)snprintf(path, sizeof path, "%.120s%s", jail.root, names[i]);
        (void)remove(path);
    }
}

static void begin(void)
{
    char run[256];
    (void)snprintf(jail.root, sizeof jail.root, "/tmp/mt-replies-XXXXXX");
    MT_ASSERT(mkdtemp(jail.root));
    (void)snprintf(run, sizeof run, "%.120s/run", jail.root);
    MT_ASSERT(mkdir(run, 0700) == 0);
    listener[0] = listen_at("api.sock");
    listener[1] = listen_at("qmp.sock");
    (void)atexit(tidy);
}

/* One connection: send a part, wait until something is said, send the next; at the end close. */
static void *serve(void *arg)
{
    struct script *s = arg;
    char said[4096];
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    if (poll(&p, 1, 2000) != 1)
        return NULL;
    mt_auto_fd int fd = accept(s->fd, NULL, NULL);
    while (fd >= 0 && s->left > 0) {
        const uint8_t *end = memchr(s->p, 0xff, s->left);
        size_t n = end ? (size_t)(end - s->p) : s->left;
        if (n && send(fd, s->p, n, MSG_NOSIGNAL) < 0)
            break;
        s->p += n + (end ? 1 : 0);
        s->left -= n + (end ? 1 : 0);
        if (s->left && recv(fd, said, sizeof said, 0) <= 0)
            break;
    }
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct mt_vmm vmm = {.patience = 1};
    struct mt_err err = {0};
    struct mt_fc_version version;
    char status[64], text[64];
    pthread_t thread;
    if (size < 1)
        return 0;
    if (listener[0] < 0)
        begin();
    size_t n = size - 1 < sizeof text - 1 ? size - 1 : sizeof text - 1;
    memcpy(text, data + 1, n);
    text[n] = 0;
    if (mt_fc_version_parse(text, &version, &err) == 0)
        MT_ASSERT(version.major <= 9999 && version.minor <= 9999 && version.patch <= 9999);
    bool qmp = data[0] & 1;
    struct script s = {.fd = listener[qmp], .p = data + 1, .left = size - 1};
    MT_ASSERT(pthread_create(&thread, NULL, serve, &s) == 0);
    int r = qmp ? mt_qmp_status(&jail, 500, status, sizeof status, &err) : mt_fc_api_alive(&vmm, &jail, &err);
    (void)pthread_join(thread, NULL);
    MT_ASSERT(r <= 0 && (r == 0 || err.msg[0]));
    if (r == 0 && qmp)
        MT_ASSERT(strlen(status) < sizeof status);
    return 0;
}
