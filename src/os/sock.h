/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets: Unix listeners and clients with peer credentials, TCP over IPv6. All CLOEXEC; non-blocking where said. */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>

#define MT_UNIX_PATH_MAX 107 /* bytes, without the NUL: sizeof sun_path - 1 */

/** Non-blocking Unix stream listener at @path, file mode @mode, owner @uid/@gid (-1: leave). An old socket file there is removed; anything
 * else there stays and is -MT_E_CONFLICT: a wrong path in a configuration must not cost a file. */
int mt_sock_unix_listen(const char *path, mode_t mode, uid_t uid, gid_t gid, int *ret_fd, struct mt_err *err);
/** Non-blocking TCP listener at @address ("127.0.0.1:7070", "[::1]:7070"; port 0: the system chooses), loopback only: anything else is
 * -MT_E_INVALID. */
int mt_sock_loopback_listen(const char *address, int *ret_fd, struct mt_err *err);
/** Non-blocking TCP listener at @address ("[::]:443", "192.0.2.1:8443"; port 0: the system chooses). "[::]" takes IPv4 too. */
int mt_sock_tcp_listen(const char *address, int *ret_fd, struct mt_err *err);
/** Non-blocking TCP listener for what is not for the world, at one address: loopback, a private IPv4 address, or an IPv6 address, which need
 * not be on this host yet (the mesh brings it). Every address at once ("[::]", "0.0.0.0") and public IPv4 addresses are -MT_E_INVALID. */
int mt_sock_private_listen(const char *address, int *ret_fd, struct mt_err *err);
/** "host:port" or "[address]:port" taken apart; -MT_E_INVALID, also for an IPv6 address without brackets. */
int mt_sock_split(const char *at, char ret_host[256], uint16_t *ret_port, struct mt_err *err);
/** The same at one IPv6 address, which need not be on this host yet (IPV6_FREEBIND) and is never reached by IPv4. */
int mt_sock_freebind_listen(const struct in6_addr *address, uint16_t port, int *ret_fd, struct mt_err *err);
/** Non-blocking TCP client of @host (a name or an IP literal without brackets), its addresses tried in turn until @deadline_ns (monotonic);
 * @cancel_fd readable (-1: none) ends it with -MT_E_CANCELLED. -MT_E_UNAVAILABLE nobody there, -MT_E_TIMEOUT. The name is looked up by the
 * system's resolver, which keeps its own time. */
int mt_sock_tcp_connect(const char *host, uint16_t port, int64_t deadline_ns, int cancel_fd, int *ret_fd, struct mt_err *err);
/** Blocking Unix stream client. -MT_E_UNAVAILABLE when nobody listens, or when a listener with a full queue accepts nobody for ten seconds. */
int mt_sock_unix_connect(const char *path, int *ret_fd, struct mt_err *err);
/** Credentials of the peer of a Unix stream socket (SO_PEERCRED). */
int mt_sock_peercred(int fd, uid_t *ret_uid, gid_t *ret_gid, pid_t *ret_pid, struct mt_err *err);
/** Accept, CLOEXEC and non-blocking. 1 and *ret_fd, 0 when none waits, -code. */
int mt_sock_accept(int listen_fd, int *ret_fd, struct mt_err *err);
/** Set or clear O_NONBLOCK. */
int mt_sock_nonblock(int fd, bool on, struct mt_err *err);
/** Bound on one blocking send or receive (SO_SNDTIMEO, SO_RCVTIMEO). */
int mt_sock_timeout(int fd, int64_t ms, struct mt_err *err);
