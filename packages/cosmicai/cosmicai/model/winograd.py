"""3×3 convolution of a 4×4 map with zero borders in 36 products instead of 144.

Toom and Cook's method: in one dimension, the product of a cubic (4 pixels) and a quadratic
(3 weights) has 6 coefficients, so its values at 6 points fix it, and a value costs one product.
Of the coefficients, the middle four are the convolution; the outer two are what falls off the
map, which is why zero borders cost nothing. Two dimensions are the Kronecker product of one
with itself. As matrices, for pixels ``x`` (16), weights ``w`` (9) and pixels ``y`` (16)::

    y = OUTPUT @ ((KERNEL @ w) * (INPUT @ x))

and with channels the elementwise product becomes one matrix product for each of the 36 points.

Five points seem not to be enough: every numerical search for a real decomposition of the
one-dimensional tensor in 5 products diverged, and over the complex numbers, where 5 suffice, a
product costs at least three real ones. That is evidence, not proof, and says nothing of schemes
that are not products of two one-dimensional ones.

References
----------
S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms
for Convolutional Neural Networks, CVPR 2016.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 4
KERNEL_SIDE = 3
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
"""Where the polynomials are evaluated, besides infinity.

Of the sets tried (also 0, ±1, ±2 and 0, ±1, ±1/2) the one with the smallest float32 error: half
that of the usual 0, ±1, ±2.
"""
PRODUCTS = (len(POINTS) + 1) ** 2


def _evaluation(coefficients: int) -> NDArray[np.float64]:
    """Return the matrix from a polynomial's coefficients to its values at the points."""
    at_infinity = np.eye(coefficients)[-1:]
    return np.concatenate([np.vander(POINTS, coefficients, increasing=True), at_infinity])


_EVALUATE_PIXELS = _evaluation(SIDE)
# Convolution layers correlate, which is convolution with the kernel turned round.
_EVALUATE_KERNEL = _evaluation(KERNEL_SIDE)[:, ::-1]
_INTERPOLATE = np.linalg.inv(_evaluation(SIDE + KERNEL_SIDE - 1))[1 : 1 + SIDE]

INPUT: NDArray[Any] = np.kron(_EVALUATE_PIXELS, _EVALUATE_PIXELS)
"""(36, 16)"""
KERNEL: NDArray[Any] = np.kron(_EVALUATE_KERNEL, _EVALUATE_KERNEL)
"""(36, 9)"""
OUTPUT: NDArray[Any] = np.kron(_INTERPOLATE, _INTERPOLATE)
"""(16, 36)"""


def transform_kernel(
    kernel: NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return the matrices, one a point, that act on channels.

    Parameters
    ----------
    kernel
        (outputs, inputs, 3, 3), as a convolution layer holds it.
    out
        Where to write the result.

    Returns
    -------
    NDArray[np.float32]
        (36, inputs, outputs).
    """
    outputs, inputs = kernel.shape[:2]
    taps = kernel.transpose(2, 3, 1, 0).reshape(9, inputs * outputs)
    if out is None:
        out = np.empty((PRODUCTS, inputs, outputs), np.float32)
    np.matmul(KERNEL.astype(np.float32), taps, out=out.reshape(PRODUCTS, -1))
    return out
