/* exp, SiLU and GELU of a vector, to a few units in the last place. */
#ifndef COSMICAI_FUNCTIONS_H
#define COSMICAI_FUNCTIONS_H

#include "vector.h"

/* exp(x) = 2^n exp(r) with r = x - n ln 2 in [-ln2/2, ln2/2]; the polynomial is a least-maximum fit
 * (relative error 1e-8). Beyond [-87, 88] the ends' values are returned; a NaN stays one. */
INLINE vec exponential(vec x) {
    x = choose(x < all(-87.0f), all(-87.0f), choose(x > all(88.0f), all(88.0f), x));
    const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec n = x * all(1.44269504f) + magic - magic;
    vec r = x - n * all(0.693359375f) - n * all(-2.12194440e-4f); /* ln 2 in two parts */
    vec e = all(1.39486e-3f);
    e = e * r + all(8.37513e-3f);
    e = e * r + all(4.166622e-2f);
    e = e * r + all(1.6666415e-1f);
    e = e * r + all(0.5f);
    e = e * r + all(1.0f);
    e = e * r + all(1.0f);
    ivec exponent = (__builtin_convertvector(n, ivec) + 127) << 23;
    return e * (vec)exponent;
}

/* x / (1 + exp(-x)) */
INLINE vec silu(vec x) { return x / (all(1.0f) + exponential(-x)); }

/* x Phi(x), the exact GELU: Phi from erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + 0.4 z), z = |x|/sqrt 2,
 * where P is a least-maximum fit of the scaled complementary error function (relative error 6e-8). */
INLINE vec gelu(vec x) {
    vec size = choose(x < all(0), -x, x);
    vec t = all(1.0f) / (all(1.0f) + size * all(0.4f * 0.70710678f));
    vec p = all(0.040267929434776306f);
    p = p * t + all(-0.13547317683696747f);
    p = p * t + all(0.07384640723466873f);
    p = p * t + all(0.09972477704286575f);
    p = p * t + all(0.07151157408952713f);
    p = p * t + all(0.1969616562128067f);
    p = p * t + all(0.20095892250537872f);
    p = p * t + all(0.22657565772533417f);
    p = p * t + all(0.22562630474567413f);
    vec tail = all(0.5f) * x * (exponential(all(-0.5f) * x * x) * t * p);
    return choose(x < all(0), tail, x - tail);
}

#endif
