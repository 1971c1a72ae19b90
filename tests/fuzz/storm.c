/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many executions of one fuzz target for little processor time: inputs of the corpus, each mutated a few times, without the
 * bookkeeping of libFuzzer, which costs ten times what a small parser does. libFuzzer finds the corpus, this goes over what lies
 * around it. Every input is a function of SEED and its number, so a failure is told by both and can be had again.
 *
 *   storm_NAME COUNT SEED FOLDER...       COUNT executions; one line for each 2^20
 *   storm_NAME --input N SEED FOLDER...   only the N-th, written to stdout
 *
 * Build it in the lane with sanitizers: ninja -C build-asan tests/fuzz/storm_NAME. The input lies at the end of its buffer, so a
 * read past it is seen. Exit status 0 when all were done; a failed target ends as the sanitizer or abort() says.
 */
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
/* A target may have its own: an input by its grammar, into @ret of @max bytes. Half of the inputs then come from it. */
size_t storm_make(uint8_t *ret, size_t max, uint64_t *s) __attribute__((weak));

#define INPUT_MAX 4096U
#define INPUTS_MAX 16384U

struct input {
    uint8_t *p;
    size_t len;
};
static struct input corpus[INPUTS_MAX];
static size_t n_corpus;
static uint64_t number, seed; /* of the execution under way */

/* SplitMix64: good enough to choose mutations, and the same everywhere. */
uint64_t storm_random(uint64_t *s);
uint64_t storm_random(uint64_t *s)
{
    uint64_t z = (*s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(uint64_t *s, size_t n)
{
    return n ? (size_t)(storm_random(s) % n) : 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* in no locale: the order is part of what a seed means */
}

static bool load_file(const char *dir, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    uint8_t *p = malloc(INPUT_MAX);
    size_t n = p ? fread(p, 1, INPUT_MAX, f) : 0;
    (void)fclose(f);
    if (!p || n_corpus == INPUTS_MAX) {
        free(p);
        return false;
    }
    corpus[n_corpus++] = (struct input){.p = p, .len = n};
    return true;
}

static bool load_folder(const char *dir)
{
    struct dirent **v;
    int n = scandir(dir, &v, NULL, by_name);
    bool any = false;
    for (int i = 0; i < n; i++) {
        any = (v[i]->d_name[0] != '.' && load_file(dir, v[i]->d_name)) || any;
        free(v[i]);
    }
    if (n >= 0)
        free(v);
    return any;
}

/* One mutation of @n bytes at @b, which has room for INPUT_MAX; returns the new length. */
static size_t mutate(uint8_t *b, size_t n, uint64_t *s)
{
    static const uint8_t edges[] = {0, 1, 2, 3, 16, 22, 31, 32, 43, 63, 64, 127, 128, 253, 254, 255};
    size_t at = below(s, n);
    switch (storm_random(s) % 10) {
    case 0: /* a bit */
        if (n)
            b[at] ^= (uint8_t)(1U << below(s, 8));
        return n;
    case 1: /* a byte that is an edge of something */
        if (n)
            b[at] = edges[below(s, sizeof edges)];
        return n;
    case 2: /* any byte */
        if (n)
            b[at] = (uint8_t)storm_random(s);
        return n;
    case 3:
    case 4: /* a length of two bytes, a little more or less */
        if (n >= 2) {
            at = below(s, n - 1);
            unsigned v = (unsigned)b[at] << 8 | b[at + 1];
            v += (unsigned)below(s, 9) - 4U;
            b[at] = (uint8_t)(v >> 8);
            b[at + 1] = (uint8_t)v;
        }
        return n;
    case 5: /* the end is gone */
        return n ? at : 0;
    case 6: { /* bytes are gone */
        size_t k = below(s, n - at < 40 ? n - at : 40);
        memmove(b + at, b + at + k, n - at - k);
        return n - k;
    }
    case 7: { /* bytes twice */
        size_t k = below(s, n - at < 40 ? n - at : 40);
        if (n + k > INPUT_MAX)
            return n;
        memmove(b + at + k, b + at, n - at);
        return n + k;
    }
    case 8: { /* a few new bytes */
        size_t k = 1 + below(s, 8);
        if (n + k > INPUT_MAX)
            return n;
        memmove(b + at + k, b + at, n - at);
        for (size_t i = 0; i < k; i++)
            b[at + i] = (uint8_t)storm_random(s);
        return n + k;
    }
    default: { /* goes on as another input does from there */
        const struct input *o = &corpus[below(s, n_corpus)];
        size_t from = below(s, o->len), k = o->len - from;
        if (k > INPUT_MAX - at)
            k = INPUT_MAX - at;
        memcpy(b + at, o->p + from, k);
        return at + k;
    }
    }
}

/* The @i-th input into @ret of INPUT_MAX bytes. */
static size_t make(uint64_t i, uint8_t *ret)
{
    uint64_t s = seed * UINT64_C(0x2545f4914f6cdd1d) + i;
    size_t n, changes;
    if (storm_make && storm_random(&s) % 2 == 0) {
        n = storm_make(ret, INPUT_MAX, &s);
        for (changes = below(&s, 3); changes > 0; changes--)
            n = mutate(ret, n, &s);
        return n;
    }
    const struct input *c = &corpus[below(&s, n_corpus)], *other = &corpus[below(&s, n_corpus)];
    if (other->len < c->len) /* what an execution costs is its length: the longer ones are taken, but less often */
        c = other;
    n = c->len;
    memcpy(ret, c->p, n);
    for (changes = 1 + below(&s, 4); changes > 0; changes--)
        n = mutate(ret, n, &s);
    return n;
}

static void say_which(void)
{
    char line[128];
    int n = snprintf(line, sizeof line, "storm: failed in input %" PRIu64 " of seed %" PRIu64 ": --input prints it\n", number, seed);
    if (write(2, line, (size_t)n) < 0)
        _exit(2);
}

static void on_abort(int signo)
{
    say_which();
    (void)signo; /* SA_RESETHAND: abort() raises it once more */
}

void __sanitizer_set_death_callback(void (*fn)(void)) __attribute__((weak));

static double cpu_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    bool one = argc > 1 && strcmp(argv[1], "--input") == 0;
    if (argc < (one ? 5 : 4)) {
        (void)fprintf(stderr, "usage: storm COUNT SEED FOLDER... | storm --input N SEED FOLDER...\n");
        return 2;
    }
    argv += one;
    argc -= one;
    uint64_t count = strtoull(argv[1], NULL, 10);
    seed = strtoull(argv[2], NULL, 10);
    for (int i = 3; i < argc; i++) {
        if (!load_folder(argv[i])) {
            (void)fprintf(stderr, "storm: no inputs in '%s'\n", argv[i]);
            return 1;
        }
    }
    uint8_t *made = malloc(INPUT_MAX), *end = malloc(INPUT_MAX);
    if (!made || !end)
        return 1;
    if (one) {
        size_t n = make(count, made);
        bool ok = fwrite(made, 1, n, stdout) == n;
        free(made);
        free(end);
        return ok ? 0 : 1;
    }
    const struct sigaction sa = {.sa_handler = on_abort, .sa_flags = (int)SA_RESETHAND};
    (void)sigaction(SIGABRT, &sa, NULL);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(say_which);
    for (number = 0; number < count; number++) {
        size_t n = make(number, made);
        memcpy(end + INPUT_MAX - n, made, n);
        (void)LLVMFuzzerTestOneInput(end + INPUT_MAX - n, n);
        if ((number & 0xfffff) == 0xfffff) {
            (void)printf("%" PRIu64 " executions, %.1f s of processor\n", number + 1, cpu_s());
            (void)fflush(stdout);
        }
    }
    (void)printf("done: %" PRIu64 " executions of seed %" PRIu64 " from %zu inputs, %.1f s of processor\n", count, seed, n_corpus, cpu_s());
    for (size_t i = 0; i < n_corpus; i++)
        free(corpus[i].p);
    free(made);
    free(end);
    return 0;
}
