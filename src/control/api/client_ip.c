/* SPDX-License-Identifier: Apache-2.0 */
/* The client's address. */
#include "control/api/client_ip.h"

#include <arpa/inet.h>

static bool last_entry(const char *list, char ret[MT_CLIENT_IP_SIZE])
{
    const char *comma = strrchr(list, ','), *from = comma ? comma + 1 : list;
    struct in6_addr six;
    struct in_addr four;
    from += strspn(from, " ");
    if (strlen(from) >= MT_CLIENT_IP_SIZE)
        return false;
    snprintf(ret, MT_CLIENT_IP_SIZE, "%s", from);
    ret[strcspn(ret, " ")] = 0;
    return inet_pton(AF_INET6, ret, &six) == 1 || inet_pton(AF_INET, ret, &four) == 1;
}

/* Over our own TLS there is no proxy in front: the header would be the client's own word. */
const char *mt_api_client_ip(const struct mt_api_call *c, char ret[MT_CLIENT_IP_SIZE])
{
    uid_t uid;
    pid_t pid;
    const char *name = c->ctl->conf.client_ip_header, *list = name && !mt_http_req_tls(c->http) ? mt_http_req_header(c->http, name) : NULL;
    if (list && !mt_http_req_header_repeated(c->http, name) && last_entry(list, ret))
        return ret;
    if (mt_http_req_address(c->http, ret, MT_CLIENT_IP_SIZE) == 0)
        return ret;
    if (mt_http_req_peer(c->http, &uid, &pid) == 0)
        snprintf(ret, MT_CLIENT_IP_SIZE, "local, user %u", uid);
    else
        snprintf(ret, MT_CLIENT_IP_SIZE, "unknown");
    return ret;
}
