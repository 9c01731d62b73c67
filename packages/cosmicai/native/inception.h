/* The inception branch of one galaxy. Maps are stored by pixel, channels last; a map's rows have
 * padding behind their channels, which the next branch or layer overwrites or does not read. */
#ifndef COSMICAI_INCEPTION_H
#define COSMICAI_INCEPTION_H

#include "native.h"
#include "products.h"

typedef struct {
    int inputs, width, branches; /* branches with a 1x1 convolution of their own: 3, the last 2 */
    float *point, *point_bias;
    float *conv[2], *conv_bias[2]; /* 3x3 and 5x5: one packed matrix (k inputs, width) per row */
    float *pool, *pool_bias;
} InceptionBlock;

INLINE int map_stride(int channels) { return packed_columns(channels) + LANES; }

static void relu_map(float *map, int stride, int pixels, int channels) {
    for (int p = 0; p < pixels; p++, map += stride)
        for (int c = 0; c < channels; c += LANES) store(map + c, relu(load(map + c)));
}

/* Mean of 2x2 pixels. */
static void halve(const float *map, int stride, int side, int channels, float *out) {
    for (int y = 0; y < side; y += 2)
        for (int x = 0; x < side; x += 2, out += stride) {
            const float *a = map + (y * side + x) * stride, *b = a + side * stride;
            for (int c = 0; c < channels; c += LANES)
                store(out + c, (load(a + c) + load(a + stride + c) + load(b + c) +
                                load(b + stride + c)) * all(0.25f));
        }
}

/* Maximum over 3x3 pixels; pixels beyond the border do not count. */
static void pool_maximum(const float *map, int stride, int side, int channels, float *out) {
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int c = 0; c < channels; c += LANES) {
                vec top = load(map + (y * side + x) * stride + c);
                for (int v = y > 0 ? y - 1 : 0; v <= y + 1 && v < side; v++)
                    for (int u = x > 0 ? x - 1 : 0; u <= x + 1 && u < side; u++)
                        top = maximum(top, load(map + (v * side + u) * stride + c));
                store(out + (y * side + x) * stride + c, top);
            }
}

/* A k x k convolution of a map with a border of zeros: the pixels that a row of the kernel covers
 * lie beside one another, so each row of the kernel is one matrix product. */
static void convolve(const float *padded, int channels, int side, int k, const float *kernel,
                     const float *bias, int width, float *out, int stride) {
    int padded_side = side + k - 1;
    size_t kernel_row = packed_size(k * channels, width);
    for (int y = 0; y < side; y++)
        for (int row = 0; row < k; row++)
            multiply(side, k * channels, width, padded + (y + row) * padded_side * channels,
                     channels, kernel + row * kernel_row, out + y * side * stride, stride,
                     row == 0 ? bias : NULL, row > 0);
}

/* One block: maps (side x side, inputs) -> (side x side, 4 or 3 x width), at stride `out_stride`.
 * `source` is what is pooled: the maps, but in the first block the stem's output. */
static void inception_block(const InceptionBlock *block, const float *maps, int stride,
                            const float *source, int source_stride, int source_channels, int side,
                            float *out, int out_stride, float *scratch,
                            Clock *clock) {
    int pixels = side * side, width = block->width;
    int point_stride = packed_columns(block->branches * width);
    float *point = scratch, *padded = point + 256 * (point_stride + LANES);
    lap(clock, IN_INCEPTION);
    multiply(pixels, block->inputs, block->branches * width, maps, stride, block->point, point,
             point_stride, block->point_bias, 0);
    lap(clock, IN_OTHER_PRODUCTS);
    relu_map(point, point_stride, pixels, point_stride);
    /* From left to right: what a branch writes beyond its width the next one overwrites. */
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < width; c++) out[p * out_stride + c] = point[p * point_stride + c];
    for (int branch = 1; branch < block->branches; branch++) {
        int k = branch == 1 ? 3 : 5, border = k / 2, padded_side = side + k - 1;
        memset(padded, 0, sizeof(float) * padded_side * padded_side * width);
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++)
                memcpy(padded + ((y + border) * padded_side + x + border) * width,
                       point + (y * side + x) * point_stride + branch * width,
                       sizeof(float) * width);
        float *to = out + branch * width;
        lap(clock, IN_INCEPTION);
        convolve(padded, width, side, k, block->conv[branch - 1], block->conv_bias[branch - 1],
                 width, to, out_stride);
        lap(clock, IN_OTHER_PRODUCTS);
        relu_map(to, out_stride, pixels, width);
    }
    float *to = out + block->branches * width;
    pool_maximum(source, source_stride, side, source_channels, padded);
    lap(clock, IN_INCEPTION);
    multiply(pixels, source_channels, width, padded, source_stride, block->pool, to, out_stride,
             block->pool_bias, 0);
    lap(clock, IN_OTHER_PRODUCTS);
    relu_map(to, out_stride, pixels, width);
    lap(clock, IN_INCEPTION);
}

#endif
