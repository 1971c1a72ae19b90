/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rule for mount paths of volumes: one function for CLI, control plane, agent and moat-init.
 *
 * No allocation, no library but libc, so the guest's PID 1 can link it.
 * Source: control-plane.md 4.2 (processes.mounts.path), storage-and-secrets.md 2.5, ruling R14.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/**
 * Why a mount path is refused, or NULL when it is fine: absolute, normalised (no '.', '..', empty component or trailing
 * '/'), at most 255 bytes, no control bytes, not '/', not equal to or under a reserved folder. Static text.
 */
const char *mt_mountpath_fault(const char *s, size_t len);

/** True when one of two valid paths equals or contains the other. */
bool mt_mountpath_nested(const char *a, size_t a_len, const char *b, size_t b_len);
