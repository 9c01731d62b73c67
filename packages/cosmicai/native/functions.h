/* exp, SiLU and GELU of a vector, to a few units in the last place. */
#ifndef COSMICAI_FUNCTIONS_H
#define COSMICAI_FUNCTIONS_H

#include "vector.h"

/* A polynomial by Horner's rule, its highest coefficient first. */
INLINE vec polynomial(vec x, const float *coefficients, int count) {
    vec sum = all(coefficients[0]);
    for (int i = 1; i < count; i++) sum = sum * x + all(coefficients[i]);
    return sum;
}

/* exp(x) = 2^n exp(r) with r = x - n ln 2 in [-ln2/2, ln2/2]; the polynomial is a least-maximum fit
 * (relative error 1e-8). Beyond [-87, 88] the ends' values are returned; a NaN stays one. */
INLINE vec exponential(vec x) {
    x = choose(x < all(-87.0f), all(-87.0f), choose(x > all(88.0f), all(88.0f), x));
    const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec n = x * all(1.44269504f) + magic - magic;
    vec r = x - n * all(0.693359375f) - n * all(-2.12194440e-4f); /* ln 2 in two parts */
    const float series[] = {1.39486e-3f, 8.37513e-3f, 4.166622e-2f, 1.6666415e-1f, 0.5f, 1.0f, 1.0f};
    vec e = polynomial(r, series, 7);
    ivec exponent = (__builtin_convertvector(n, ivec) + 127) << 23;
    return e * (vec)exponent;
}

/* x / (1 + exp(-x)) */
INLINE vec silu(vec x) { return x / (all(1.0f) + exponential(-x)); }

/* x Phi(x), the exact GELU: x/2 (1 + erf z) with z = x/sqrt 2, where erf z = z P(z^2) / Q(z^2) up to
 * z = 4 is a least-maximum fit (error 2e-8). Below x = -4 sqrt 2 it is 0 to 4e-8; the product keeps an
 * infinity visible, as a NaN. */
INLINE vec gelu(vec x) {
    vec z = x * all(0.70710678f);
    z = choose(z > all(4.0f), all(4.0f), z);
    const float p[] = {1.9748351860471303e-06f, 0.00028804183239117265f, 0.004003644920885563f,
                       0.05346747115254402f,    0.1962488889694214f,     1.128378987312317f};
    const float q[] = {3.748094241018407e-05f, 0.0012163606006652117f, 0.015444417484104633f,
                       0.1164763942360878f,    0.5072522163391113f,    1.0f};
    vec s = z * z, erf = z * polynomial(s, p, 6) / polynomial(s, q, 6), half = all(0.5f) * x;
    return choose(x < all(-5.65685f), x * all(0), half + half * erf);
}

#endif
