/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets that instances of this node pin (storage-and-secrets.md §9.1): fetched from the control plane when an instance
 * needs them, kept in locked memory and as one copy on a tmpfs that only root reads, so that a crashed instance starts again
 * while the control plane is away, also after an agent restart; wiped when no instance uses the version any more. Nothing of
 * it reaches a disk. The bytes are opaque here; their SHA-256 travels with them.
 */
#pragma once

#include "model/ids.h"
#include "os/lockmem.h"

#include <sys/types.h>

struct mt_secret_store;

struct mt_secret_store_conf {
    const char *dir;            /* where the tmpfs is mounted; made when it is not there */
    const char *control_socket;
    struct mt_identity *identity; /* of a node that has joined: TLS instead of the socket; borrowed; NULL */
    const uid_t *trusted;       /* whose control plane is believed */
    size_t trusted_n;
};

/** Open; what an agent before left on the tmpfs is found again. Goes on without a tmpfs (and says so) when none can be had. */
int mt_secret_store_new(const struct mt_secret_store_conf *conf, struct mt_secret_store **ret, struct mt_err *err);
/** Forget what is in memory. The tmpfs stays while it holds a version (agents are restarted under their instances). */
void mt_secret_store_free(struct mt_secret_store *s);

/**
 * Have @version_id at hand, from memory, the tmpfs, or the control plane (blocks for at most some seconds). Any thread.
 * On failure *@ret_detail is a detail of secrets_injection_failed (runtime.md §6): unavailable, forbidden,
 * master_key_unavailable, decrypt_failed, hash_mismatch, format_invalid.
 */
int mt_secret_store_fetch(struct mt_secret_store *s, const char *instance_id, const char *version_id, const char **ret_detail,
                          struct mt_err *err);
/** What is at hand, without asking anybody: size and digest. -MT_E_NOT_FOUND. */
int mt_secret_store_info(struct mt_secret_store *s, const char *version_id, size_t *ret_len, char ret_sha256[65], struct mt_err *err);
/** The same with the bytes as base64 text and NUL, in a new buffer of the caller. */
int mt_secret_store_text(struct mt_secret_store *s, const char *version_id, struct mt_lockmem *ret, char ret_sha256[65],
                         struct mt_err *err);
/** Wipe every version that @used says no instance needs. */
void mt_secret_store_sweep(struct mt_secret_store *s, bool (*used)(void *arg, const char *version_id), void *arg);
#define MT_REGISTRY_USER_SIZE 257
/**
 * Who the organisation of @owner_id, an instance or the restore job of a proof, is at the registry of its image, asked anew for each pull and kept nowhere.
 * @repository    of the image, with its host: a credential of another registry (the release changed meanwhile) is none
 * @ret_password  text with NUL in a new buffer of the caller
 * 1 there is a credential; 0 there is none, or this node may not have it; -MT_E_UNAVAILABLE, -MT_E_CORRUPT. Any thread; seconds.
 */
int mt_registry_credential(struct mt_secret_store *s, const char *owner_id, const char *repository, char ret_user[MT_REGISTRY_USER_SIZE],
                           struct mt_lockmem *ret_password, struct mt_err *err);
/** How many versions are held. */
size_t mt_secret_store_count(struct mt_secret_store *s);
