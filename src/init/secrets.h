/* SPDX-License-Identifier: Apache-2.0 */
/* platform.env in the guest: a small tmpfs of its own, the file with owner and mode, put there whole (runtime.md 19). The
 * bytes are opaque. */
#pragma once

#include "base/err.h"
#include "init/user.h"
#include "wire/guest.h"

#define MT_SECRETS_DIR "/run/secrets"

/** Mount the tmpfs at @dir (root, 0755, 1 MiB, nosuid, nodev, noexec, never swapped where the kernel can) and open it. */
int mt_secrets_mount(const char *dir, int *ret_fd, struct mt_err *err);

/**
 * Check @msg against what @config announced and write the file platform.env into @dir_fd. The base64 text of the message is
 * decoded in place; the caller wipes the message.
 * @owner  for the ids that @config leaves open
 * Returns 0; else -code and @ret_detail: hash_mismatch, format_invalid or write_failed.
 */
int mt_secrets_put(int dir_fd, const struct mt_guest_secrets *config, const struct mt_guest_secrets_data *msg,
                   const struct mt_user *owner, const char **ret_detail, struct mt_err *err);
