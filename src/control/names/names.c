/* SPDX-License-Identifier: Apache-2.0 */
/* One thread asks for the addresses of names that were looked at; proofs are asked for by the request that needs one. */
#include "control/names/names.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/digest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PROVERS 2 /* of the server's workers; the others go on when a name server is slow */
#define PROVE_NS (6 * MT_NS_PER_S) /* no question begins later */
#define PROVEN_MAX 32
#define PROVEN_NS (60 * MT_NS_PER_S) /* a command that is prepared again does not ask again */

struct mt_names {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    pthread_t thread;
    bool started, stop, check;
    struct mt_dns_servers servers;
    struct mt_names_cache *cache;
    unsigned provers;
    struct {
        char host[MT_NAMES_HOST], proof[MT_PROOF_SIZE];
        int64_t at_ns;
    } proven[PROVEN_MAX];
    size_t n_proven; /* ever */
};

static int ask_addresses(const struct mt_dns_servers *servers, const char *host, struct mt_names_seen *ret, struct mt_err *err)
{
    static const enum mt_dns_type kinds[] = {MT_DNS_AAAA, MT_DNS_A};
    *ret = (struct mt_names_seen){.known = true};
    for (size_t i = 0; i < 2; i++) {
        struct mt_dns_answer a;
        int rc = mt_dns_ask(servers, host, kinds[i], &a, err);
        if (rc < 0)
            return rc;
        ret->more = ret->more || a.more || a.n_addrs > MT_NAMES_ADDRS - ret->n;
        for (size_t k = 0; k < a.n_addrs && ret->n < MT_NAMES_ADDRS; k++)
            ret->addrs[ret->n++] = a.addrs[k];
    }
    ret->at_us = mt_clock_wall_us();
    return 0;
}

static void *names_main(void *arg)
{
    struct mt_names *n = arg;
    char host[MT_NAMES_HOST];
    (void)pthread_setname_np(pthread_self(), "names");
    (void)pthread_mutex_lock(&n->mu);
    while (!n->stop) {
        if (!mt_names_cache_next(n->cache, host)) {
            (void)pthread_cond_wait(&n->cond, &n->mu);
            continue;
        }
        (void)pthread_mutex_unlock(&n->mu);
        struct mt_names_seen seen;
        struct mt_err err = {0};
        int rc = ask_addresses(&n->servers, host, &seen, &err);
        if (rc < 0)
            mt_log(MT_DEBUG, "names.no_answer", KV("host", (const char *)host), KV_ERR(&err));
        (void)pthread_mutex_lock(&n->mu);
        mt_names_cache_put(n->cache, host, rc < 0 ? NULL : &seen, mt_clock_mono());
    }
    (void)pthread_mutex_unlock(&n->mu);
    return NULL;
}

int mt_names_new(char *const *servers, size_t count, bool check, struct mt_names **ret, struct mt_err *err)
{
    struct mt_names *n = calloc(1, sizeof *n);
    int rc = 0;
    if (!n || !(n->cache = mt_names_cache_new())) {
        free(n);
        return MT_FAIL(err, MT_E_NOMEM, "names");
    }
    n->check = check;
    (void)pthread_mutex_init(&n->mu, NULL);
    (void)pthread_cond_init(&n->cond, NULL);
    for (size_t i = 0; rc == 0 && i < count; i++)
        if ((rc = mt_dns_server_add(&n->servers, servers[i], err)) < 0)
            rc = mt_err_wrap(err, "dns.servers: '%s'", servers[i]);
    if (rc == 0 && check) {
        n->started = pthread_create(&n->thread, NULL, names_main, n) == 0;
        rc = n->started ? 0 : MT_FAIL(err, MT_E_NOMEM, "names thread");
    }
    if (rc < 0)
        mt_names_free(n);
    else
        *ret = n;
    return rc;
}

void mt_names_free(struct mt_names *n)
{
    if (!n)
        return;
    (void)pthread_mutex_lock(&n->mu);
    n->stop = true;
    (void)pthread_cond_signal(&n->cond);
    (void)pthread_mutex_unlock(&n->mu);
    if (n->started)
        (void)pthread_join(n->thread, NULL);
    (void)pthread_cond_destroy(&n->cond);
    (void)pthread_mutex_destroy(&n->mu);
    mt_names_cache_free(n->cache);
    free(n);
}

void mt_names_look(struct mt_names *n, const char *host, struct mt_names_seen *ret)
{
    *ret = (struct mt_names_seen){0};
    if (!n || !n->check)
        return;
    (void)pthread_mutex_lock(&n->mu);
    if (mt_names_cache_look(n->cache, host, mt_clock_mono(), ret))
        (void)pthread_cond_signal(&n->cond);
    (void)pthread_mutex_unlock(&n->mu);
}

/* ---------------------------------------------------------------- proofs */

void mt_names_proof(const char *cluster_id, const char *org_id, char ret[MT_PROOF_SIZE])
{
    char text[120], hex[65];
    uint8_t digest[32];
    /* No secret: only who has the domain can put it there, and there it speaks for this organisation of this cluster alone. */
    int len = snprintf(text, sizeof text, "moat domain proof %s", org_id);
    mt_hmac_sha256(cluster_id, strlen(cluster_id), text, (size_t)len, digest);
    mt_hex_encode(digest, sizeof digest, hex);
    (void)snprintf(ret, MT_PROOF_SIZE, "moat-proof=%.32s", hex);
}

static bool proven_lately(const struct mt_names *n, const char *host, const char *proof, int64_t now)
{
    for (size_t i = 0; i < PROVEN_MAX && i < n->n_proven; i++)
        if (now - n->proven[i].at_ns < PROVEN_NS && MT_STREQ(n->proven[i].host, host) && MT_STREQ(n->proven[i].proof, proof))
            return true;
    return false;
}

static bool begin(struct mt_names *n, const char *host, const char *proof, bool *ret_known)
{
    (void)pthread_mutex_lock(&n->mu);
    *ret_known = proven_lately(n, host, proof, mt_clock_mono());
    bool may = !*ret_known && n->provers < PROVERS;
    n->provers += may;
    (void)pthread_mutex_unlock(&n->mu);
    return may;
}

static void end(struct mt_names *n, const char *host, const char *proof, bool yes)
{
    (void)pthread_mutex_lock(&n->mu);
    n->provers--;
    if (yes) {
        size_t i = n->n_proven++ % PROVEN_MAX;
        (void)snprintf(n->proven[i].host, sizeof n->proven[i].host, "%s", host);
        (void)snprintf(n->proven[i].proof, sizeof n->proven[i].proof, "%s", proof);
        n->proven[i].at_ns = mt_clock_mono();
    }
    (void)pthread_mutex_unlock(&n->mu);
}

/* 1: the record is there. */
static int ask_proof(const struct mt_names *n, const char *domain, const char *proof, struct mt_err *err)
{
    char name[MT_NAMES_HOST + sizeof MT_PROOF_LABEL];
    struct mt_dns_answer a;
    (void)snprintf(name, sizeof name, MT_PROOF_LABEL ".%s", domain);
    if (strlen(name) > 253)
        return 0; /* such a name cannot be; a domain above it can */
    int rc = mt_dns_ask(&n->servers, name, MT_DNS_TXT, &a, err);
    for (size_t i = 0; rc == 0 && i < a.n_texts; i++)
        if (MT_STREQ(a.texts[i], proof))
            return 1;
    return rc;
}

int mt_names_proven(struct mt_names *n, const char *host, const char *proof, struct mt_err *err)
{
    bool known;
    if (!begin(n, host, proof, &known))
        return known ? 1 : MT_FAIL(err, MT_E_UNAVAILABLE, "other proofs of domains are being looked up: ask again in a moment");
    int rc = 0, failed = 0;
    int64_t until = mt_clock_mono() + PROVE_NS;
    struct mt_err why = {0};
    const char *domain = host;
    for (int level = 0; rc != 1 && domain && strchr(domain, '.') && level < MT_PROOF_LEVELS; level++) {
        if (mt_clock_mono() > until) {
            failed = MT_FAIL(&why, MT_E_TIMEOUT, "name servers are slow");
            break;
        }
        if ((rc = ask_proof(n, domain, proof, err)) < 0 && failed == 0) {
            failed = rc;
            why = *err;
        }
        domain = strchr(domain, '.');
        domain = domain ? domain + 1 : NULL;
    }
    end(n, host, proof, rc == 1);
    if (rc == 1 || failed == 0)
        return rc == 1;
    return MT_FAIL(err, MT_E_UNAVAILABLE, "whether '%.120s' is yours the DNS does not say just now (%.80s): try again", host, why.msg);
}
