/* SPDX-License-Identifier: Apache-2.0 */
/* Feeds every file of the corpus folders given as arguments to a fuzz target, so that the normal test run
 * replays what fuzzing once found. Fails when a folder is missing or empty: a replay of nothing proves nothing. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int replay_file(const char *dir, const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    /* Exactly sized heap copy: a read past the end is seen by the sanitizer. */
    (void)fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    uint8_t *data = malloc(n > 0 ? (size_t)n : 1);
    size_t got = data ? fread(data, 1, (size_t)n, f) : 0;
    (void)fclose(f);
    if (data && got == (size_t)n)
        (void)LLVMFuzzerTestOneInput(data, got);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        if (!d) {
            (void)fprintf(stderr, "replay: cannot open corpus '%s'\n", argv[i]);
            return 1;
        }
        unsigned count = 0;
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] != '.' && replay_file(argv[i], e->d_name) == 0)
                count++;
        (void)closedir(d);
        if (count == 0) {
            (void)fprintf(stderr, "replay: corpus '%s' is empty\n", argv[i]);
            return 1;
        }
        (void)printf("replay: %u inputs from %s\n", count, argv[i]);
    }
    return argc > 1 ? 0 : 1;
}
