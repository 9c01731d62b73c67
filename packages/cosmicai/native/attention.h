/* LayerNorm and the attention of one galaxy's 17 tokens. */
#ifndef COSMICAI_ATTENTION_H
#define COSMICAI_ATTENTION_H

#include <math.h>
#include <string.h>

#include "functions.h"
#include "products.h"

#define TOKENS 17
#define PATCHES 16
#define PADDED_TOKENS ((TOKENS + LANES - 1) / LANES * LANES)

/* (x - mean) / sqrt(variance + eps) of each row; its scale and shift are part of the next layer.
 * Columns from `width` to the row's end are set to 0. */
static void layer_norm(const float *x, ptrdiff_t x_row, float *y, ptrdiff_t y_row, int rows,
                       int width, float eps) {
    int whole = width / LANES * LANES;
    for (int r = 0; r < rows; r++, x += x_row, y += y_row) {
        vec sums = all(0);
        for (int c = 0; c < whole; c += LANES) sums += load(x + c);
        float sum = sum_lanes(sums);
        for (int c = whole; c < width; c++) sum += x[c];
        float mean = sum / width;
        vec squares = all(0);
        for (int c = 0; c < whole; c += LANES) {
            vec d = load(x + c) - all(mean);
            squares += d * d;
        }
        float square = sum_lanes(squares);
        for (int c = whole; c < width; c++) square += (x[c] - mean) * (x[c] - mean);
        float scale = 1.0f / sqrtf(square / width + eps);
        for (int c = 0; c < whole; c += LANES) store(y + c, (load(x + c) - all(mean)) * all(scale));
        for (int c = whole; c < width; c++) y[c] = (x[c] - mean) * scale;
        if (whole < width)
            for (int c = width; c < whole + LANES; c++) y[c] = 0;
    }
}

/* softmax(k q) v for one galaxy. `qkv` holds TOKENS rows: the queries of all heads (scaled), the
 * keys, the values; a head has `head` values, a whole number of vectors. Scores are computed with
 * the queries side by side, so that the softmax over the keys is plain vector arithmetic.
 * `scratch` holds (head + TOKENS) * PADDED_TOKENS floats. */
static void attend(const float *qkv, ptrdiff_t row, int heads, int head, float *out,
                   ptrdiff_t out_row, float *scratch) {
    float *queries = scratch, *scores = scratch + head * PADDED_TOKENS;
    memset(queries, 0, sizeof(float) * head * PADDED_TOKENS);
    for (int h = 0; h < heads; h++) {
        const float *q = qkv + h * head, *k = q + heads * head, *v = k + heads * head;
        for (int t = 0; t < TOKENS; t++)
            for (int d = 0; d < head; d++) queries[d * PADDED_TOKENS + t] = q[t * row + d];
        for (int t = 0; t < PADDED_TOKENS; t += TILE_COLUMNS) {
            int width = PADDED_TOKENS - t < TILE_COLUMNS ? PADDED_TOKENS - t : TILE_COLUMNS;
            panel(TOKENS, head, width / LANES, k, row, 1, queries + t, PADDED_TOKENS, scores + t,
                  PADDED_TOKENS, NULL, 0, k, 0);
        }
        for (int t = 0; t < PADDED_TOKENS; t += LANES) {
            vec top = load(scores + t), total = all(0);
            for (int j = 1; j < TOKENS; j++) top = maximum(top, load(scores + j * PADDED_TOKENS + t));
            for (int j = 0; j < TOKENS; j++) {
                vec e = exponential(load(scores + j * PADDED_TOKENS + t) - top);
                total += e;
                store(scores + j * PADDED_TOKENS + t, e);
            }
            vec share = all(1.0f) / total;
            for (int j = 0; j < TOKENS; j++)
                store(scores + j * PADDED_TOKENS + t, load(scores + j * PADDED_TOKENS + t) * share);
        }
        for (int d = 0; d < head; d += TILE_COLUMNS) {
            int width = head - d < TILE_COLUMNS ? head - d : TILE_COLUMNS;
            panel(TOKENS, TOKENS, width / LANES, scores, 1, PADDED_TOKENS, v + d, row,
                  out + h * head + d, out_row, NULL, 0, v, 0);
        }
    }
}

#endif
