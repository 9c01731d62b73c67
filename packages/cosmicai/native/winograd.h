/* 3x3 convolution of a 4x4 map with zero borders in 36 products instead of 144.
 *
 * Toom and Cook's method, as cosmicai.model.winograd derives it: in one dimension the values at the
 * six points 0, +-A, +-B and infinity fix the product of a cubic (4 pixels) and a quadratic (3
 * weights). The transforms are separable, and the points' symmetry halves the work: even and odd
 * powers are summed apart. Points are numbered row by row, 6 y + x.
 */
#ifndef COSMICAI_WINOGRAD_H
#define COSMICAI_WINOGRAD_H

#include "functions.h"

#define POINTS 36
#define POINT_A (2.0 / 3.0)
#define POINT_B (3.0 / 2.0)

/* 4 pixels -> values at 6 points. */
INLINE void evaluate_pixels(const vec x[4], vec v[6]) {
    const vec a = all(POINT_A), aa = all(POINT_A * POINT_A);
    const vec b = all(POINT_B), bb = all(POINT_B * POINT_B);
    vec even_a = x[0] + aa * x[2], odd_a = a * (x[1] + aa * x[3]);
    vec even_b = x[0] + bb * x[2], odd_b = b * (x[1] + bb * x[3]);
    v[0] = x[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = x[3];
}

/* 3 weights, turned round because a convolution layer correlates -> values at 6 points. */
INLINE void evaluate_weights(const vec w[3], vec v[6]) {
    const vec a = all(POINT_A), aa = all(POINT_A * POINT_A);
    const vec b = all(POINT_B), bb = all(POINT_B * POINT_B);
    vec even_a = w[2] + aa * w[0], odd_a = a * w[1];
    vec even_b = w[2] + bb * w[0], odd_b = b * w[1];
    v[0] = w[2];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = w[0];
}

/* Values at 6 points -> coefficients 1 to 4 of the product, which are the 4 pixels.
 *
 * With s = half the sum and d = half the difference at +-p, c0 = v[0] and c5 = v[5]:
 *   s_p = c0 + p^2 c2 + p^4 c4      d_p = p (c1 + p^2 c3 + p^4 c5)
 * two equations each for (c2, c4) and (c1, c3). */
INLINE void interpolate(const vec v[6], vec y[4]) {
    const double a2 = POINT_A * POINT_A, b2 = POINT_B * POINT_B;
    const vec scale = all(1.0 / (b2 - a2));
    vec sum_a = (v[1] + v[2]) * all(0.5 / a2) - v[0] * all(1.0 / a2);
    vec sum_b = (v[3] + v[4]) * all(0.5 / b2) - v[0] * all(1.0 / b2);
    vec difference_a = (v[1] - v[2]) * all(0.5 / POINT_A) - v[5] * all(a2 * a2);
    vec difference_b = (v[3] - v[4]) * all(0.5 / POINT_B) - v[5] * all(b2 * b2);
    y[0] = (difference_a * all(b2) - difference_b * all(a2)) * scale; /* c1 */
    y[1] = (sum_a * all(b2) - sum_b * all(a2)) * scale;               /* c2 */
    y[2] = (difference_b - difference_a) * scale;                     /* c3 */
    y[3] = (sum_b - sum_a) * scale;                                   /* c4 */
}

/* 16 pixels (row by row) -> 36 points, both dimensions. `point` is the distance of two points. */
INLINE void map_to_points(const vec pixels[16], float *points, ptrdiff_t point) {
    vec half[6][4];
    _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++) {
        vec column[4] = {pixels[x], pixels[4 + x], pixels[8 + x], pixels[12 + x]}, values[6];
        evaluate_pixels(column, values);
        _Pragma("GCC unroll 6") for (int y = 0; y < 6; y++) half[y][x] = values[y];
    }
    _Pragma("GCC unroll 6") for (int y = 0; y < 6; y++) {
        vec values[6];
        evaluate_pixels(half[y], values);
        _Pragma("GCC unroll 6") for (int x = 0; x < 6; x++)
            store(points + (6 * y + x) * point, values[x]);
    }
}

INLINE void points_to_map(const float *points, ptrdiff_t point, vec pixels[16]) {
    vec half[4][6];
    _Pragma("GCC unroll 6") for (int x = 0; x < 6; x++) {
        vec column[6], values[4];
        _Pragma("GCC unroll 6") for (int y = 0; y < 6; y++)
            column[y] = load(points + (6 * y + x) * point);
        interpolate(column, values);
        _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) half[y][x] = values[y];
    }
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) interpolate(half[y], pixels + 4 * y);
}

/* The first transform: tokens (17 rows of one galaxy, the class token first) -> points. */
static void tokens_to_points(const float *tokens, int stride, int width, float *points,
                             ptrdiff_t point) {
    for (int c = 0; c < width; c += LANES) {
        vec pixels[16];
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++)
            pixels[i] = load(tokens + (1 + i) * stride + c);
        map_to_points(pixels, points + c, point);
    }
}

/* Between the two convolutions, in place while the values are in cache: points of the first ->
 * pixels, bias, SiLU -> points for the second. */
static void activate_points(float *points, ptrdiff_t point, int width, const float *bias) {
    for (int c = 0; c < width; c += LANES) {
        vec pixels[16], shift = load(bias + c);
        points_to_map(points + c, point, pixels);
        for (int i = 0; i < 16; i++) pixels[i] = silu(pixels[i] + shift);
        map_to_points(pixels, points + c, point);
    }
}

/* The last transform, added to the tokens. */
static void add_points(const float *points, ptrdiff_t point, int width, const float *bias,
                       float *tokens, int stride) {
    for (int c = 0; c < width; c += LANES) {
        vec pixels[16], shift = load(bias + c);
        points_to_map(points + c, point, pixels);
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
            float *token = tokens + (1 + i) * stride + c;
            store(token, load(token) + (pixels[i] + shift));
        }
    }
}

/* Kernels (outputs, inputs, 3, 3), each output times its gain -> the matrix of each point, for
 * inputs `first_input`.. and outputs `first_output`.., packed as `pack` does, one point after the
 * other at distance `point`. LANES outputs are transformed at once. */
static void pack_points(const float *kernel, const float *gain, int inputs, int outputs,
                        int first_input, int input_count, int first_output, int output_count,
                        float *packed, size_t point) {
    int wide = packed_columns(output_count);
    for (int n = 0; n < wide; n += LANES) {
        int panel_start = n / TILE_COLUMNS * TILE_COLUMNS;
        int width = wide - panel_start < TILE_COLUMNS ? wide - panel_start : TILE_COLUMNS;
        for (int k = 0; k < input_count; k++) {
            vec taps[9];
            for (int t = 0; t < 9; t++) taps[t] = all(0);
            if (first_input + k < inputs)
                for (int i = 0; i < LANES; i++) {
                    int output = first_output + n + i;
                    if (n + i >= output_count || output >= outputs) break;
                    const float *from = kernel + ((size_t)output * inputs + first_input + k) * 9;
                    float factor = gain ? gain[output] : 1.0f;
                    for (int t = 0; t < 9; t++) taps[t][i] = from[t] * factor;
                }
            vec half[6][3];
            for (int x = 0; x < 3; x++) {
                vec column[3] = {taps[x], taps[3 + x], taps[6 + x]}, values[6];
                evaluate_weights(column, values);
                for (int y = 0; y < 6; y++) half[y][x] = values[y];
            }
            /* As `pack`: blocks of PACKED_DEPTH inputs, in each the panels one after the other. */
            int block = k / PACKED_DEPTH * PACKED_DEPTH;
            int depth = input_count - block < PACKED_DEPTH ? input_count - block : PACKED_DEPTH;
            float *to = packed + (size_t)block * wide + (size_t)depth * panel_start +
                        (size_t)(k - block) * width + (n - panel_start);
            for (int y = 0; y < 6; y++) {
                vec values[6];
                evaluate_weights(half[y], values);
                for (int x = 0; x < 6; x++) store(to + (6 * y + x) * point, values[x]);
            }
        }
    }
}

#endif
