/* Matrix products in half precision, summed in float:
 *
 *   C[m][n] = bias[n] + s_m t * sum over blocks of (sum over the block's k of A'[m][k] B'[k][n])
 *
 * A' = A / s_m and B' = B / t are rounded to half precision. The powers of two s_m (one per row and
 * PACKED_DEPTH values) and t (one per matrix) bring the largest value of each below 2, so no sum of a
 * block, which is in half precision, can overflow; blocks are added up in float.
 *
 * Every element of C is summed in the order of k, and a row's scale is its own: the same galaxy gives
 * the same bits in any batch.
 */
#ifndef COSMICAI_HALF_H
#define COSMICAI_HALF_H

#include <string.h>

#include "products.h"

#define HALF_ROWS 8
#define HALF_BLOCK 16 /* values of k summed in half precision */

typedef _Float16 half;
typedef half half_vec __attribute__((vector_size(LANES * 2)));
typedef half unaligned_half_vec __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

/* A matrix of halves: t, then what `pack` packs, value by value. */
typedef struct {
    float scale;
    half values[];
} HalfMatrix;

INLINE half_vec load_half(const half *p) { return *(const unaligned_half_vec *)p; }
INLINE half_vec all_half(half x) { return x - (half_vec){0}; }
INLINE half_vec to_half(vec x) { return __builtin_convertvector(x, half_vec); }
INLINE vec to_float(half_vec x) { return __builtin_convertvector(x, vec); }

/* Floats that a matrix of halves takes the place of, in whole cache lines. */
INLINE size_t half_size(size_t values) { return (values / 2 + 1 + 15) / 16 * 16; }

/* The power of two at or below the largest |x|; 1 if there is none. */
static float half_scale(const float *x, size_t count) {
    float largest = 0;
    for (size_t i = 0; i < count; i++) {
        float size = x[i] < 0 ? -x[i] : x[i];
        largest = size > largest ? size : largest;
    }
    int32_t bits;
    memcpy(&bits, &largest, sizeof bits);
    bits &= 0x7f800000; /* the exponent alone */
    if (bits == 0 || bits == 0x7f800000) return 1;
    memcpy(&largest, &bits, sizeof bits);
    return largest;
}

/* x / scale in half precision. */
static void round_to_half(const float *x, int count, float scale, half *to) {
    float factor = 1 / scale;
    int k = 0;
    for (; k + LANES <= count; k += LANES)
        *(unaligned_half_vec *)(to + k) = to_half(load(x + k) * all(factor));
    for (; k < count; k++) to[k] = (half)(x[k] * factor);
}

static void pack_half(const float *packed, size_t count, HalfMatrix *to) {
    to->scale = half_scale(packed, count);
    for (size_t i = 0; i < count; i += PACKED_DEPTH) {
        size_t left = count - i;
        round_to_half(packed + i, left < PACKED_DEPTH ? (int)left : PACKED_DEPTH, to->scale,
                      to->values + i);
    }
}

/* HALF_ROWS rows of A', `vectors` vectors of B': sum[r][v] = sum over blocks of k, in float. */
INLINE void half_tile(int vectors, int depth, const half *a, const half *b,
                      vec sum[HALF_ROWS][TILE_VECTORS]) {
    for (int r = 0; r < HALF_ROWS; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = all(0);
    for (int start = 0; start < depth; start += HALF_BLOCK) {
        int end = start + HALF_BLOCK < depth ? start + HALF_BLOCK : depth;
        half_vec part[HALF_ROWS][TILE_VECTORS] = {0};
        for (int k = start; k < end; k++, b += vectors * LANES) {
            half_vec weight[TILE_VECTORS];
            _Pragma("GCC unroll 3") for (int v = 0; v < vectors; v++)
                weight[v] = load_half(b + v * LANES);
            _Pragma("GCC unroll 8") for (int r = 0; r < HALF_ROWS; r++) {
                half_vec value = all_half(a[r * PACKED_DEPTH + k]);
                _Pragma("GCC unroll 3") for (int v = 0; v < vectors; v++)
                    part[r][v] += value * weight[v];
            }
        }
        _Pragma("GCC unroll 8") for (int r = 0; r < HALF_ROWS; r++)
            _Pragma("GCC unroll 3") for (int v = 0; v < vectors; v++)
                sum[r][v] += to_float(part[r][v]);
    }
}

static void half_tile_1(int depth, const half *a, const half *b, vec sum[][TILE_VECTORS]) {
    half_tile(1, depth, a, b, sum);
}
static void half_tile_2(int depth, const half *a, const half *b, vec sum[][TILE_VECTORS]) {
    half_tile(2, depth, a, b, sum);
}
static void half_tile_3(int depth, const half *a, const half *b, vec sum[][TILE_VECTORS]) {
    half_tile(3, depth, a, b, sum);
}
static void (*const half_tiles[TILE_VECTORS])(int, const half *, const half *,
                                              vec[][TILE_VECTORS]) = {half_tile_1, half_tile_2,
                                                                      half_tile_3};

/* C = bias + A B, or C += bias + A B, as `multiply`. Rows are taken HALF_ROWS at a time, those that
 * are missing being zeros. */
static void multiply_half(int rows, int depth, int columns, const float *a, ptrdiff_t a_row,
                          const HalfMatrix *matrix, float *c, ptrdiff_t c_row, const float *bias,
                          int accumulate) {
    int wide = packed_columns(columns);
    const half *packed = matrix->values;
    for (int start = 0; start < depth; start += PACKED_DEPTH) {
        int part = depth - start < PACKED_DEPTH ? depth - start : PACKED_DEPTH;
        for (int first = 0; first < rows; first += HALF_ROWS) {
            int there = rows - first < HALF_ROWS ? rows - first : HALF_ROWS;
            half values[HALF_ROWS * PACKED_DEPTH] = {0};
            float scales[HALF_ROWS];
            for (int r = 0; r < there; r++) {
                const float *from = a + (first + r) * a_row + start;
                scales[r] = half_scale(from, part);
                round_to_half(from, part, scales[r], values + r * PACKED_DEPTH);
            }
            for (int n = 0; n < wide; n += TILE_COLUMNS) {
                int width = wide - n < TILE_COLUMNS ? wide - n : TILE_COLUMNS;
                vec sum[HALF_ROWS][TILE_VECTORS];
                half_tiles[width / LANES - 1](part, values, packed + (size_t)n * part, sum);
                for (int r = 0; r < there; r++)
                    for (int v = 0; v < width / LANES; v++) {
                        float *to = c + (first + r) * c_row + n + v * LANES;
                        vec before = bias && start == 0 ? load(bias + n + v * LANES) : all(0);
                        if (accumulate || start > 0) before += load(to);
                        store(to, before + sum[r][v] * all(matrix->scale) * all(scales[r]));
                    }
            }
        }
        packed += (size_t)part * wide;
    }
}

#endif
