/* Matrix products: C[m][n] = bias[n] + sum over k of A[m][k] B[k][n].
 *
 * B is packed in panels of TILE_COLUMNS columns, so that the innermost loop reads it in order. A
 * tile of C stays in registers over all of k (or PACKED_DEPTH of it, when B's panel would leave the
 * first-level cache). Every element of C is summed in the order of k, whatever the tile: the same
 * galaxy gives the same bits in any batch.
 */
#ifndef COSMICAI_PRODUCTS_H
#define COSMICAI_PRODUCTS_H

#include <stddef.h>

#include "vector.h"

#define PACKED_DEPTH 256

/* One tile: ROWS rows, VECTORS vectors wide. `next` is read by and by into the second-level cache:
 * the weights that come after these. */
#define DEFINE_TILE(ROWS, VECTORS)                                                              \
    static void tile_##ROWS##x##VECTORS(int depth, const float *a, ptrdiff_t row, ptrdiff_t step, \
                                        const float *b, ptrdiff_t b_row, float *c,              \
                                        ptrdiff_t c_row, const float *bias, int accumulate,     \
                                        const float *next, int next_step) {                     \
        vec sum[ROWS][VECTORS];                                                                 \
        _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)                                  \
            _Pragma("GCC unroll 3") for (int v = 0; v < VECTORS; v++) {                         \
                sum[r][v] = bias ? load(bias + v * LANES) : all(0);                             \
                if (accumulate) sum[r][v] += load(c + r * c_row + v * LANES);                   \
            }                                                                                   \
        for (int k = 0; k < depth; k++) {                                                       \
            vec weight[VECTORS];                                                                \
            _Pragma("GCC unroll 3") for (int v = 0; v < VECTORS; v++)                           \
                weight[v] = load(b + v * LANES);                                                \
            _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++) {                            \
                vec value = all(a[r * row]);                                                    \
                _Pragma("GCC unroll 3") for (int v = 0; v < VECTORS; v++)                       \
                    sum[r][v] += value * weight[v];                                             \
            }                                                                                   \
            __builtin_prefetch(next, 0, 2);                                                     \
            next += next_step;                                                                  \
            a += step;                                                                          \
            b += b_row;                                                                         \
        }                                                                                       \
        _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)                                  \
            _Pragma("GCC unroll 3") for (int v = 0; v < VECTORS; v++)                           \
                store(c + r * c_row + v * LANES, sum[r][v]);                                    \
    }

#define DEFINE_TILES(VECTORS) \
    DEFINE_TILE(8, VECTORS)   \
    DEFINE_TILE(4, VECTORS)   \
    DEFINE_TILE(2, VECTORS)   \
    DEFINE_TILE(1, VECTORS)
DEFINE_TILES(1)
DEFINE_TILES(2)
DEFINE_TILES(3)

typedef void tile_function(int, const float *, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t,
                           float *, ptrdiff_t, const float *, int, const float *, int);

/* tiles[log2 rows][vectors - 1] */
static tile_function *const tiles[4][TILE_VECTORS] = {
    {tile_1x1, tile_1x2, tile_1x3},
    {tile_2x1, tile_2x2, tile_2x3},
    {tile_4x1, tile_4x2, tile_4x3},
    {tile_8x1, tile_8x2, tile_8x3},
};

/* One panel of at most TILE_VECTORS vectors, for any number of rows. The next `lines` cache lines
 * after the panel are read meanwhile, a few at a time: a burst would hold up the loads in use. */
static void panel(int rows, int depth, int vectors, const float *a, ptrdiff_t row, ptrdiff_t step,
                  const float *b, ptrdiff_t b_row, float *c, ptrdiff_t c_row, const float *bias,
                  int accumulate, const float *next, int lines) {
    /* A tile one vector wide needs more rows to keep both multipliers busy. */
    int log_rows = vectors > 1 && TILE_ROWS == 4 ? 2 : 3;
    int steps = ((rows - 1) / (1 << log_rows) + 1) * depth;
    int next_step = lines > 0 ? (16 * lines - 1) / steps + 1 : 0; /* 16 floats are a line */
    for (int r = 0; r < rows; r += 1 << log_rows) {
        while ((1 << log_rows) > rows - r) log_rows--;
        tiles[log_rows][vectors - 1](depth, a + r * row, row, step, b, b_row, c + r * c_row, c_row,
                                     bias, accumulate, lines > 0 ? next : b, next_step);
        next += (ptrdiff_t)next_step * depth;
    }
}

/* Columns of a packed matrix, in floats: the last panel is as narrow as whole vectors allow. */
INLINE int packed_columns(int columns) { return round_up(columns, LANES); }

INLINE size_t packed_size(int depth, int columns) {
    return (size_t)depth * packed_columns(columns);
}

/* Pack part of B: element (k, n) is source[k * source_k + n * source_n]. */
static void pack(const float *source, ptrdiff_t source_k, ptrdiff_t source_n, int depth,
                 int columns, float *packed) {
    int wide = packed_columns(columns);
    for (int start = 0; start < depth; start += PACKED_DEPTH) {
        int end = start + PACKED_DEPTH < depth ? start + PACKED_DEPTH : depth;
        for (int n = 0; n < wide; n += TILE_COLUMNS) {
            int width = wide - n < TILE_COLUMNS ? wide - n : TILE_COLUMNS;
            for (int k = start; k < end; k++, packed += width)
                for (int i = 0; i < width; i++)
                    packed[i] = n + i < columns ? source[k * source_k + (n + i) * source_n] : 0;
        }
    }
}

/* C = bias + A B, or C += bias + A B; `bias` holds packed_columns(columns) values, or is NULL. C's
 * rows hold as many. */
static void multiply(int rows, int depth, int columns, const float *a, ptrdiff_t a_row,
                     const float *packed, float *c, ptrdiff_t c_row, const float *bias,
                     int accumulate) {
    int wide = packed_columns(columns);
    for (int start = 0; start < depth; start += PACKED_DEPTH) {
        int part = depth - start < PACKED_DEPTH ? depth - start : PACKED_DEPTH;
        for (int n = 0; n < wide; n += TILE_COLUMNS) {
            int width = wide - n < TILE_COLUMNS ? wide - n : TILE_COLUMNS;
            const float *following = packed + (size_t)part * width;
            panel(rows, part, width / LANES, a + start, a_row, 1, packed, width, c + n, c_row,
                  bias && start == 0 ? bias + n : NULL, accumulate || start > 0, following,
                  part * width / 16);
            packed = following;
        }
    }
}

#endif
