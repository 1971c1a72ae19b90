/* SPDX-License-Identifier: Apache-2.0 */
#include "init/vsock.h"

#include <sys/socket.h>

#include <linux/vm_sockets.h>

#include "base/cleanup.h"

int mt_vsock_dial(uint32_t port, int *ret_fd, struct mt_err *err)
{
    const struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_HOST};
    mt_auto_fd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "open vsock");
    if (connect(fd, (const struct sockaddr *)&host, sizeof host) != 0 && errno != EINPROGRESS)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect to host port %u", port);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_vsock_dialled(int fd, struct mt_err *err)
{
    int code = 0;
    socklen_t len = sizeof code;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) != 0)
        code = errno;
    if (code == 0)
        return 0;
    errno = code;
    return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect to the host");
}
