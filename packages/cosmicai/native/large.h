/* The model's large products, Winograd's and those of attention and MLP: in half precision in the
 * instruction sets compiled with HALF, in float in all others. A matrix is packed in floats between
 * `begin_large` and `end_large`. */
#ifndef COSMICAI_LARGE_H
#define COSMICAI_LARGE_H

#ifdef HALF
#include <stdlib.h>

#include "half.h"

/* Floats that a packed matrix takes. */
INLINE size_t large_size(int depth, int columns) { return half_size(packed_size(depth, columns)); }

/* Where to pack `count` matrices of `values` floats, or NULL. */
static float *begin_large(float *to, int count, size_t values) {
    (void)to;
    return malloc(sizeof(float) * count * values);
}

static void end_large(float *packed, int count, size_t values, float *to) {
    for (int i = 0; i < count; i++)
        pack_half(packed + i * values, values, (HalfMatrix *)(to + i * half_size(values)));
    free(packed);
}

static void multiply_large(int rows, int depth, int columns, const float *a, ptrdiff_t a_row,
                           const float *packed, float *c, ptrdiff_t c_row, const float *bias,
                           int accumulate) {
    multiply_half(rows, depth, columns, a, a_row, (const HalfMatrix *)packed, c, c_row, bias,
                  accumulate);
}
#else
#include "products.h"

#define large_size packed_size
#define multiply_large multiply

static float *begin_large(float *to, int count, size_t values) {
    (void)count, (void)values;
    return to;
}

static void end_large(float *packed, int count, size_t values, float *to) {
    (void)packed, (void)count, (void)values, (void)to;
}
#endif

#endif
