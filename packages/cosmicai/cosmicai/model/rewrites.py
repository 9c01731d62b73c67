"""The exact algebra behind the inference graph: each rewrite is one small function.

All are equalities over the real numbers. What they change is rounding alone, and each states
the equality that its test holds it to, in float32, on random weights.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmicai.model.winograd import INPUT, OUTPUT

Array = NDArray[Any]


class Affine(NamedTuple):
    """``x -> weight @ x + bias``, or a convolution with that kernel; (out, in, …) and (out,)."""

    weight: Array
    bias: Array


def fold_batch_norm(conv: Affine, scale: Array, shift: Array, mean: Array, std: Array) -> Affine:
    """Fold a batch normalisation into the convolution before it.

    ``scale · (conv(x) - mean) / std + shift = conv'(x)``
    """
    gain = scale / std
    weight = conv.weight * gain.reshape(-1, *(1,) * (conv.weight.ndim - 1))
    return Affine(weight, (conv.bias - mean) * gain + shift)


def fold_layer_norm(scale: Array, shift: Array, linear: Affine) -> Affine:
    """Fold the scale and shift of a layer normalisation into the linear layer after it.

    ``linear(scale · n + shift) = linear'(n)``
    """
    return Affine(linear.weight * scale, linear.bias + linear.weight @ shift)


def chain(first: Affine, second: Affine) -> Affine:
    """Merge two linear layers with no activation between them.

    ``second(first(x)) = chained(x)``
    """
    bias = second.weight @ first.bias + second.bias
    return Affine(second.weight @ first.weight, bias)


def stack(*layers: Affine) -> Affine:
    """Apply several layers to the same input as one.

    ``concat(a(x), b(x)) = stacked(x)``
    """
    return Affine(
        np.concatenate([layer.weight for layer in layers]),
        np.concatenate([layer.bias for layer in layers]),
    )


def chain_concatenated(layers: list[Affine], second: Affine) -> Affine:
    """Merge the last linear layer of several branches into the layer on their concatenation.

    ``second(concat(a(x), b(y))) = merged(concat(x, y))``
    """
    ends = np.cumsum([len(layer.bias) for layer in layers])
    slices = np.split(second.weight, ends[:-1], axis=1)
    weight = [part @ layer.weight for part, layer in zip(slices, layers, strict=True)]
    bias = sum((part @ layer.bias for part, layer in zip(slices, layers, strict=True)), second.bias)
    return Affine(np.concatenate(weight, axis=1), bias)


def scale_queries(qkv: Affine, head_dim: int) -> Affine:
    """Fold the ``1/sqrt(head_dim)`` of attention into the query rows of its first layer.

    ``softmax(q·k / sqrt(d)) = softmax(q'·k)``
    """
    width = len(qkv.bias) // 3
    factor = np.ones(3 * width)
    factor[:width] = head_dim**-0.5
    return Affine(qkv.weight * factor[:, None], qkv.bias * factor)


def skip_class_token() -> tuple[Array, Array]:
    """Return Winograd's input and output transforms for 17 tokens, the class token first.

    A zero column leaves the class token out of the convolution and a zero row adds nothing to
    it, so that the 17 tokens are neither cut apart nor put together again: (36, 17), (17, 36).
    """
    return np.pad(INPUT, ((0, 0), (1, 0))), np.pad(OUTPUT, ((1, 0), (0, 0)))
