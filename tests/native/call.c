/* Kernels by remote call, to be run under an emulator: tests/arm64.py writes calls to standard input
 * and reads from standard output.
 *
 * A call is a function's name (32 bytes) and 11 arguments, each a kind (int64) and its value: an
 * integer (int64), a number (float) or a buffer (its size as int64, then the bytes; 0 for NULL). The
 * answer is the result (int64) and the buffers again. */
#include <stdint.h>
#include <stdio.h>

#include "kernels.c"

#define ARGUMENTS 11
enum { INTEGER, NUMBER, BUFFER };

/* On arm64 integers and pointers go into other registers than numbers, and a function ignores those
 * that it does not take: one type serves for all kernels. */
typedef int64_t x;
typedef int32_t kernel(x, x, x, x, x, x, x, x, x, x, x, float);

static const struct {
    const char *name;
    void *function;
} kernels[] = {
    {"lanes", lanes},
    {"is_half", is_half},
    {"apply", apply},
    {"product", product},
    {"large_product", large_product},
    {"convolution", convolution},
    {"activate", activate},
    {"normalise", normalise},
    {"attention", attention},
    {"small_convolution", small_convolution},
    {"maximum_pool", maximum_pool},
    {"mean_pool", mean_pool},
};

static int64_t read_integer(void) {
    int64_t value;
    if (fread(&value, sizeof value, 1, stdin) != 1) exit(0); /* no further calls */
    return value;
}

int main(void) {
    for (;;) {
        char name[32];
        if (fread(name, sizeof name, 1, stdin) != 1) return 0;
        x a[ARGUMENTS] = {0}, sizes[ARGUMENTS] = {0};
        float number = 0;
        for (int i = 0; i < ARGUMENTS; i++) {
            int64_t kind = read_integer();
            if (kind == INTEGER) a[i] = read_integer();
            if (kind == NUMBER && fread(&number, sizeof number, 1, stdin) != 1) return 1;
            if (kind == BUFFER && (sizes[i] = read_integer()) > 0) {
                a[i] = (x)malloc(sizes[i]);
                if (fread((void *)a[i], sizes[i], 1, stdin) != 1) return 1;
            }
        }
        kernel *function = NULL;
        for (unsigned i = 0; i < sizeof kernels / sizeof *kernels; i++)
            if (!strcmp(name, kernels[i].name)) function = (kernel *)kernels[i].function;
        if (!function) return 2;
        int64_t result = function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10],
                                  number);
        fwrite(&result, sizeof result, 1, stdout);
        for (int i = 0; i < ARGUMENTS; i++)
            if (sizes[i] > 0) {
                fwrite((void *)a[i], sizes[i], 1, stdout);
                free((void *)a[i]);
            }
        fflush(stdout);
    }
}
