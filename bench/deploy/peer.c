/* SPDX-License-Identifier: Apache-2.0 */
/* In the guest: a process that does nothing but vsock, to compare exec with. Port 9000: sends back what comes. Port 9001: sends zeros for as long
 * as somebody reads. */
#include <linux/vm_sockets.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_on(unsigned port)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 4) == 0 ? fd : -1;
}

int main(void)
{
    static char buf[65536];
    int echo = listen_on(9000), zeros = listen_on(9001);
    if (echo < 0 || zeros < 0)
        return 1;
    if (fork() == 0) {
        for (int fd; (fd = accept(echo, NULL, NULL)) >= 0; close(fd))
            for (ssize_t n; (n = recv(fd, buf, sizeof buf, 0)) > 0;)
                if (send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n)
                    break;
        return 0;
    }
    for (int fd; (fd = accept(zeros, NULL, NULL)) >= 0; close(fd))
        while (send(fd, buf, sizeof buf, MSG_NOSIGNAL) > 0)
            ;
    return 0;
}
