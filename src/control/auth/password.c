/* SPDX-License-Identifier: Apache-2.0 */
/* Passwords through libargon2. */
#include "control/auth/password.h"

#include "os/file.h"

#include <argon2.h>
#include <pthread.h>
#include <time.h>

#define MEMORY_KIB 65536
#define PASSES 3
#define LANES 1
#define AT_ONCE 2   /* 128 MiB */
#define WAITING 8   /* more are told to come back: workers are for everybody */
#define PATIENCE_S 5

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t freed = PTHREAD_COND_INITIALIZER;
static int running, waiting;

static int turn_take(struct mt_err *err)
{
    struct timespec until;
    int rc = 0;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&mu);
    if (waiting >= WAITING) {
        pthread_mutex_unlock(&mu);
        return MT_FAIL(err, MT_E_LIMIT, "too many sign-ins at once");
    }
    waiting++;
    while (running >= AT_ONCE && rc == 0)
        rc = pthread_cond_timedwait(&freed, &mu, &until);
    waiting--;
    if (running < AT_ONCE)
        rc = 0;
    running += rc == 0;
    pthread_mutex_unlock(&mu);
    return rc == 0 ? 0 : MT_FAIL(err, MT_E_LIMIT, "too many sign-ins at once");
}

static void turn_give(void)
{
    pthread_mutex_lock(&mu);
    running--;
    pthread_cond_signal(&freed);
    pthread_mutex_unlock(&mu);
}

const char *mt_password_fault(const char *password)
{
    size_t n = strlen(password);
    if (n < MT_PASSWORD_MIN)
        return "the password has fewer than 12 characters";
    if (n > MT_PASSWORD_MAX)
        return "the password has more than 256 bytes";
    if (strspn(password, (const char[]){password[0], 0}) == n)
        return "the password is one character over and over";
    return NULL;
}

int mt_password_hash(const char *password, char ret[MT_PASSWORD_HASH], struct mt_err *err)
{
    uint8_t salt[16];
    mt_random(salt, sizeof salt);
    int rc = turn_take(err);
    if (rc < 0)
        return rc;
    int a = argon2id_hash_encoded(PASSES, MEMORY_KIB, LANES, password, strlen(password), salt, sizeof salt, 32, ret, MT_PASSWORD_HASH);
    turn_give();
    return a == ARGON2_OK ? 0 : MT_FAIL(err, MT_E_NOMEM, "argon2: %s", argon2_error_message(a));
}

int mt_password_check(const char *hash, const char *password, bool *ret_right, struct mt_err *err)
{
    /* of a password that nobody knows: the same cost for accounts that are not there */
    static const char nobody[] = "$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$"
                                 "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    int rc = turn_take(err);
    if (rc < 0)
        return rc;
    int a = argon2id_verify(hash ? hash : nobody, password, strlen(password));
    turn_give();
    *ret_right = hash && a == ARGON2_OK;
    if (a != ARGON2_OK && a != ARGON2_VERIFY_MISMATCH)
        return MT_FAIL(err, a == ARGON2_MEMORY_ALLOCATION_ERROR ? MT_E_LIMIT : MT_E_CORRUPT, "argon2: %s", argon2_error_message(a));
    return 0;
}
