"""Each rewrite equals what it replaces: the proof obligations of the inference graph."""

import numpy as np
import pytest
import torch
from cosmicai.model import rewrites, winograd
from cosmicai.model.rewrites import Affine
from torch.nn import functional


def close(found, expected, tolerance=2e-6):
    """Compare relative to the size of the result: float32 has 7 digits."""
    found, expected = np.asarray(found), np.asarray(expected)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance, error


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def affine(rng, *shape):
    scale = np.prod(shape[1:]) ** -0.5
    return Affine(rng.standard_normal(shape) * scale, rng.standard_normal(shape[0]))


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array, np.float32)) for array in arrays]


def linear(x, layer):
    return functional.linear(*tensors(x, *layer))


def test_batch_norm_folds_into_the_convolution(rng):
    conv = affine(rng, 6, 5, 3, 3)
    scale, shift, mean = rng.standard_normal((3, 6))
    variance = rng.uniform(0.1, 2, 6)
    x = rng.standard_normal((2, 5, 4, 4))

    folded = rewrites.fold_batch_norm(conv, scale, shift, mean, np.sqrt(variance + 1e-5))

    plain = functional.conv2d(*tensors(x, *conv), padding=1)
    plain = functional.batch_norm(plain, *tensors(mean, variance, scale, shift), eps=1e-5)
    close(functional.conv2d(*tensors(x, *folded), padding=1), plain)


def test_layer_norm_folds_into_the_linear_layer(rng):
    layer = affine(rng, 7, 24)
    scale, shift = rng.standard_normal((2, 24))
    x = rng.standard_normal((5, 24))

    folded = rewrites.fold_layer_norm(scale, shift, layer)

    plain = functional.layer_norm(tensors(x)[0], (24,), *tensors(scale, shift), eps=1e-6)
    bare = functional.layer_norm(tensors(x)[0], (24,), eps=1e-6)
    close(linear(bare, folded), linear(plain, layer))


def test_two_linear_layers_chain(rng):
    first, second = affine(rng, 30, 20), affine(rng, 10, 30)
    x = rng.standard_normal((4, 20))
    close(linear(x, rewrites.chain(first, second)), linear(linear(x, first), second))


def test_layers_on_one_input_stack(rng):
    a, b = affine(rng, 3, 20), affine(rng, 5, 20)
    x = rng.standard_normal((4, 20))
    apart = torch.cat((linear(x, a), linear(x, b)), 1)
    close(linear(x, rewrites.stack(a, b)), apart)


def test_last_layers_chain_through_a_concatenation(rng):
    branches = [affine(rng, 11, 9), affine(rng, 6, 8), affine(rng, 7, 5)]
    inputs = [rng.standard_normal((4, size)) for size in (9, 8, 5)]
    joint = affine(rng, 10, 24)

    merged = rewrites.chain_concatenated(branches, joint)

    outputs = [linear(x, layer) for x, layer in zip(inputs, branches, strict=True)]
    close(linear(np.concatenate(inputs, 1), merged), linear(torch.cat(outputs, 1), joint))


def test_scaled_queries_give_the_same_attention(rng):
    qkv = affine(rng, 3 * 24, 24)
    x = rng.standard_normal((2, 17, 24))

    scaled = rewrites.scale_queries(qkv, head_dim=8)

    def attend(layer, scale):
        q, k, v = linear(x, layer).view(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v, scale=scale)

    close(attend(scaled, 1.0), attend(qkv, 8**-0.5))


@pytest.mark.parametrize("magnitude", [1e-20, 1.0, 1e6])
def test_winograd_is_the_convolution(rng, magnitude):
    kernel = (rng.standard_normal((20, 192, 3, 3)) / np.sqrt(192 * 9)).astype(np.float32)
    maps = (magnitude * rng.standard_normal((8, 192, 4, 4))).astype(np.float32)

    points = winograd.INPUT.astype(np.float32) @ maps.transpose(2, 3, 0, 1).reshape(16, -1)
    products = points.reshape(36, 8, 192) @ winograd.transform_kernel(kernel)
    found = winograd.OUTPUT.astype(np.float32) @ products.reshape(36, -1)

    expected = functional.conv2d(*(t.double() for t in tensors(maps, kernel)), padding=1)
    close(found.reshape(4, 4, 8, 20).transpose(2, 3, 0, 1), expected, tolerance=1e-5)


def test_winograd_takes_36_products():
    assert winograd.PRODUCTS == 36
    assert winograd.INPUT.shape == (36, 16)
    assert winograd.OUTPUT.shape == (16, 36)


def test_the_class_token_takes_no_part_in_the_convolution(rng):
    before, after = rewrites.skip_class_token()
    tokens = rng.standard_normal((17, 3))
    points = before @ tokens
    np.testing.assert_allclose(points, winograd.INPUT @ tokens[1:], atol=1e-12)
    np.testing.assert_array_equal((after @ points)[0], 0)
    np.testing.assert_allclose((after @ points)[1:], winograd.OUTPUT @ points, atol=1e-12)
