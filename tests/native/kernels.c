/* The native engine's kernels, each callable from a test. Compiled by tests/functional/
 * test_native_kernels.py, once per instruction set, from the very headers that the engine takes. */
#include <stdlib.h>

#include "attention.h"
#include "inception.h"
#include "large.h"
#include "winograd.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT int lanes(void) { return LANES; }

EXPORT int is_half(void) {
#ifdef HALF
    return 1;
#else
    return 0;
#endif
}

/* function 0: exp, 1: silu, 2: gelu, 3: relu. `count` is a multiple of the lanes. */
EXPORT void apply(int function, const float *x, float *y, int count) {
    for (int i = 0; i < count; i += LANES) {
        vec v = load(x + i);
        store(y + i, function == 0   ? exponential(v)
                     : function == 1 ? silu(v)
                     : function == 2 ? gelu(v)
                                     : relu(v));
    }
}

/* c = bias + a b^T, or c += it; b is (columns, depth) as layers store it; c's rows are padded. */
EXPORT int product(int rows, int depth, int columns, const float *a, const float *b,
                   const float *bias, float *c, int accumulate) {
    int wide = packed_columns(columns);
    float *packed = malloc(sizeof(float) * packed_size(depth, columns));
    float *shift = calloc(wide, sizeof(float));
    if (bias) memcpy(shift, bias, sizeof(float) * columns);
    pack(b, 1, depth, depth, columns, packed);
    multiply(rows, depth, columns, a, depth, packed, c, wide, bias ? shift : NULL, accumulate);
    free(packed);
    free(shift);
    return wide;
}

/* The same as the model's large products are computed. */
EXPORT int large_product(int rows, int depth, int columns, const float *a, const float *b,
                         const float *bias, float *c, int accumulate) {
    int wide = packed_columns(columns);
    size_t values = packed_size(depth, columns);
    float *matrix = malloc(sizeof(float) * large_size(depth, columns));
    float *shift = calloc(wide, sizeof(float));
    if (bias) memcpy(shift, bias, sizeof(float) * columns);
    float *packed = begin_large(matrix, 1, values);
    pack(b, 1, depth, depth, columns, packed);
    end_large(packed, 1, values, matrix);
    multiply_large(rows, depth, columns, a, depth, matrix, c, wide, bias ? shift : NULL, accumulate);
    free(matrix);
    free(shift);
    return wide;
}

/* Both transforms around one product per point: a 3x3 convolution of 17 tokens (the class token is
 * left alone), added to `out`. Widths are multiples of the lanes. */
EXPORT void convolution(const float *tokens, int inputs, const float *kernel, const float *gain,
                        const float *bias, int outputs, float *out) {
    size_t size = packed_size(inputs, outputs);
    float *packed = malloc(sizeof(float) * POINTS * size);
    float *points = malloc(sizeof(float) * POINTS * (inputs + outputs));
    float *sums = points + POINTS * inputs;
    pack_points(kernel, gain, inputs, outputs, 0, inputs, 0, outputs, packed, size);
    tokens_to_points(tokens, inputs, inputs, points, inputs);
    for (int p = 0; p < POINTS; p++)
        multiply(1, inputs, outputs, points + p * inputs, inputs, packed + p * size,
                 sums + p * outputs, outputs, NULL, 0);
    add_points(sums, outputs, outputs, bias, out, outputs);
    free(packed);
    free(points);
}

/* Pixels -> points -> pixels, bias, SiLU -> points -> pixels of one map, in place. */
EXPORT void activate(float *tokens, int width, const float *bias) {
    float *points = malloc(sizeof(float) * POINTS * width);
    tokens_to_points(tokens, width, width, points, width);
    /* Transforming back needs values of a product of a cubic and a quadratic: times x, which moves
     * the pixels to the coefficients 1 to 4. */
    static const float at[6] = {0, POINT_A, -POINT_A, POINT_B, -POINT_B, 1};
    for (int y = 0; y < 6; y++)
        for (int x = 0; x < 6; x++)
            for (int c = 0; c < width; c++) {
                float fy = y == 5 ? 0 : at[y], fx = x == 5 ? 0 : at[x];
                points[(6 * y + x) * width + c] *= fy * fx;
            }
    activate_points(points, width, width, bias);
    for (int y = 0; y < 6; y++)
        for (int x = 0; x < 6; x++)
            for (int c = 0; c < width; c++) {
                float fy = y == 5 ? 0 : at[y], fx = x == 5 ? 0 : at[x];
                points[(6 * y + x) * width + c] *= fy * fx;
            }
    memset(tokens, 0, sizeof(float) * TOKENS * width);
    float *nothing = calloc(width, sizeof(float));
    add_points(points, width, width, nothing, tokens, width);
    free(nothing);
    free(points);
}

EXPORT void normalise(const float *x, float *y, int rows, int width, int row, float eps) {
    layer_norm(x, row, y, row, rows, width, eps);
}

/* (17, 3 heads head) -> (17, heads head); a head is a multiple of the lanes wide. */
EXPORT void attention(const float *qkv, int heads, int head, float *out) {
    float *scratch = malloc(sizeof(float) * (head + TOKENS) * PADDED_TOKENS);
    attend(qkv, 3 * heads * head, heads, head, out, heads * head, scratch);
    free(scratch);
}

/* A k x k convolution of a map (side, side, channels), channels last, with a border of zeros. */
EXPORT void small_convolution(const float *padded, int channels, int side, int k,
                              const float *kernel, const float *bias, int width, float *out,
                              int stride) {
    size_t row_size = packed_size(k * channels, width);
    float *packed = malloc(sizeof(float) * k * row_size);
    float *shift = calloc(packed_columns(width), sizeof(float));
    memcpy(shift, bias, sizeof(float) * width);
    for (int y = 0; y < k; y++) /* kernel: (k, width, k channels) */
        pack(kernel + (size_t)y * width * k * channels, 1, k * channels, k * channels, width,
             packed + y * row_size);
    convolve(padded, channels, side, k, packed, shift, width, out, stride);
    free(packed);
    free(shift);
}

EXPORT void maximum_pool(const float *map, int stride, int side, int channels, float *out) {
    pool_maximum(map, stride, side, channels, out);
}

EXPORT void mean_pool(const float *map, int stride, int side, int channels, float *out) {
    halve(map, stride, side, channels, out);
}
