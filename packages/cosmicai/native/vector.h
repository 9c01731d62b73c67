/* One vector of floats as wide as the processor's registers, by the compiler's vector extension.
 *
 * The same source is compiled once per instruction set (build.py): LANES is all that differs.
 */
#ifndef COSMICAI_VECTOR_H
#define COSMICAI_VECTOR_H

#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 8 /* 32 registers: 8 x 3 sums, 3 of the weights */
#elif defined(__AVX2__)
#define LANES 8
#define TILE_ROWS 4 /* 16 registers: 4 x 3 sums, 3 of the weights, 1 of the input */
#elif defined(HALF)
#define LANES 8 /* halves of a NEON register; floats take two */
#define TILE_ROWS 4
#else
#define LANES 4
#define TILE_ROWS 8
#endif
#define TILE_VECTORS 3
#define TILE_COLUMNS (TILE_VECTORS * LANES)

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef float unaligned_vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const unaligned_vec *)p; }
INLINE void store(float *p, vec x) { *(unaligned_vec *)p = x; }
INLINE vec all(float x) { return x - (vec){0}; }

/* Bits of `yes` where the mask is set, of `no` elsewhere. */
INLINE vec choose(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* Both keep a NaN, unlike the processor's own maximum: an overflow must stay visible. */
INLINE vec relu(vec x) { return choose(x < all(0), all(0), x); }
INLINE vec maximum(vec a, vec b) { return choose((a > b) | (a != a), a, b); }

INLINE float sum_lanes(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

INLINE int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

#endif
