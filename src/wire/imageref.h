/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image references as people write them: [host[:port]/]repository[:tag][@sha256:<64 hex>].
 *
 * Pure text; knows nothing of registries' answers.
 */
#pragma once

#include "base/err.h"

#define MT_DIGEST_LEN 71 /* "sha256:" and 64 lower-case hex digits */
#define MT_IMAGEREF_MAX 512

struct mt_imageref {
    char host[262];               /* "docker.io", "127.0.0.1:5000", "[::1]:5000": as it stands in a repository name */
    char path[256];               /* "library/nginx" */
    char tag[129];                /* "" when the reference names a digest only */
    char digest[MT_DIGEST_LEN + 1]; /* "" when there is none */
};

/**
 * Parse a reference of at most MT_IMAGEREF_MAX bytes.
 *
 * The first component is a host when it holds a '.' or ':' or is "localhost"; otherwise the host is docker.io, and a path of
 * one component gets the prefix "library/". Without tag and digest the tag is "latest".
 * Returns 0 or -MT_E_INVALID with the offending part named.
 * Source: OCI distribution spec 1.1 (name and tag grammar), control-plane.md 4.1 (image.ref).
 */
int mt_imageref_parse(const char *text, struct mt_imageref *ret, struct mt_err *err);

/** Parse host[:port]/path without tag or digest, the form of WorkloadSpec image.repository. Same errors. */
int mt_imageref_parse_repository(const char *text, struct mt_imageref *ret, struct mt_err *err);

/** True for a registry as it stands before a repository: a name with a '.', a port, or localhost. */
bool mt_imageref_host_valid(const char *host);

/** True for "sha256:" and 64 lower-case hex digits, nothing else. */
bool mt_digest_valid(const char *text);
