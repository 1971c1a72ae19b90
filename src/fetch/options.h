/* SPDX-License-Identifier: Apache-2.0 */
/* The request of moat-fetch, docs/formats/fetch.md. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

struct mt_fetch_options {
    char *images_dir, *repository, *digest, *arch; /* pull only */
    char *ca_file, *username, *password;           /* NULL when absent */
    char **local_registries, **insecure_registries; /* NULL ended */
    uint64_t max_compressed_bytes;
    uint32_t total_timeout_s, layer_timeout_s;
    uid_t uid;
    gid_t gid;
};

/** Parse the request; @pull: with the members of a pull. Empty text is {} for a resolve. -MT_E_INVALID names the member. */
int mt_fetch_options_parse(const char *text, size_t len, bool pull, struct mt_fetch_options *ret, struct mt_err *err);
/** Free; the password is wiped first. */
void mt_fetch_options_done(struct mt_fetch_options *o);
/** True when @host ("host:port" or "host", compared without case) is in @list. */
bool mt_fetch_listed(char *const *list, const char *host);
