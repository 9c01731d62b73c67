"""Every kernel of the native engine against NumPy, SciPy or PyTorch, per instruction set."""

from __future__ import annotations

import ctypes
import platform
import runpy
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cosmicai.engines.native_engine import NativeEngine
from cosmicai.errors import InvalidInput
from model_fill import SMALL, filled_bundle
from scipy.special import erf, expit

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "packages/cosmicai/native"
BUILD = runpy.run_path(str(SOURCES / "build.py"))
SETS = list(BUILD["INSTRUCTION_SETS"][platform.machine()])
TOKENS = 17


def instruction_sets(folder: Path) -> list[str]:
    """Return the instruction sets of this processor."""
    bundle = filled_bundle(SMALL, folder)
    found = []
    for name in SETS:
        try:
            found.append(NativeEngine(bundle, 1, name).instruction_set)
        except InvalidInput:
            continue
    return found


def compiled(name: str, folder: Path) -> ctypes.CDLL:
    """Compile the kernels for one instruction set."""
    sets = BUILD["INSTRUCTION_SETS"][platform.machine()]
    compiler = BUILD["find_compiler"]()
    is_zig = "ziglang" in compiler
    processor = f"-mcpu={sets[name][0]}" if is_zig else f"-march={sets[name][1]}"
    options = ["-fno-sanitize=undefined"] if is_zig else []
    source, library = ROOT / "tests/native/kernels.c", folder / f"{name}.so"
    command = [*compiler, *options, *BUILD["FLAGS"], processor, f"-I{SOURCES}", "-shared"]
    subprocess.run([*command, str(source), "-lm", "-o", str(library)], check=True, timeout=240)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module", params=SETS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernels")
    if request.param not in instruction_sets(folder):
        pytest.skip(f"this processor has no {request.param}")
    return compiled(request.param, folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def pointer(array: np.ndarray[Any, Any]) -> Any:
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=shape).astype(np.float32)


def applied(kernels: Any, function: int, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    y = np.empty_like(x)
    kernels.apply(function, pointer(x), pointer(y), x.size)
    return y


def test_functions_are_right_to_a_few_units_in_the_last_place(kernels: Any) -> None:
    x = np.linspace(-80, 80, 16_000, dtype=np.float32)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(applied(kernels, 0, x), np.exp(exact), rtol=4e-7)
    np.testing.assert_allclose(applied(kernels, 1, x), exact * expit(exact), rtol=1e-6, atol=1e-30)
    gelu = exact * 0.5 * (1 + erf(exact / np.sqrt(2)))
    np.testing.assert_allclose(applied(kernels, 2, x), gelu, rtol=1e-6, atol=2e-7)
    np.testing.assert_array_equal(applied(kernels, 3, x), np.maximum(x, 0))


@pytest.mark.parametrize("function", range(4))
def test_a_nan_stays_one(kernels: Any, function: int) -> None:
    x = np.full(16, np.nan, np.float32)
    assert np.isnan(applied(kernels, function, x)).all()


@pytest.mark.parametrize("rows", [1, 3, 8, 13])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (5, 48), (300, 50), (700, 7), (192, 192)])
def test_products(
    kernels: Any, rng: np.random.Generator, rows: int, depth: int, columns: int
) -> None:
    a, b, bias = normal(rng, rows, depth), normal(rng, columns, depth), normal(rng, columns)
    wide = -(-columns // kernels.lanes()) * kernels.lanes()
    c = np.zeros((rows, wide), np.float32)
    assert kernels.product(rows, depth, columns, *map(pointer, (a, b, bias, c)), 0) == wide
    exact = a.astype(np.float64) @ b.T + bias
    np.testing.assert_allclose(c[:, :columns], exact, rtol=0, atol=2e-6 * depth**0.5)
    kernels.product(rows, depth, columns, pointer(a), pointer(b), None, pointer(c), 1)
    np.testing.assert_allclose(c[:, :columns], 2 * exact - bias, rtol=0, atol=5e-6 * depth**0.5)


def test_a_row_of_a_product_does_not_depend_on_the_others(
    kernels: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, 13, 300), normal(rng, 48, 300)
    together, alone = np.empty((13, 48), np.float32), np.empty((1, 48), np.float32)
    kernels.product(13, 300, 48, pointer(a), pointer(b), None, pointer(together), 0)
    for row in range(13):
        one = a[row : row + 1].copy()
        kernels.product(1, 300, 48, pointer(one), pointer(b), None, pointer(alone), 0)
        np.testing.assert_array_equal(alone[0], together[row])


def test_winograds_convolution_is_the_direct_one(kernels: Any, rng: np.random.Generator) -> None:
    from torch import from_numpy
    from torch.nn.functional import conv2d

    inputs, outputs = 48, 96
    tokens, kernel = normal(rng, TOKENS, inputs), normal(rng, outputs, inputs, 3, 3)
    gain, bias = normal(rng, outputs), normal(rng, outputs)
    out = np.zeros((TOKENS, outputs), np.float32)
    arguments = (pointer(kernel), pointer(gain), pointer(bias), outputs, pointer(out))
    kernels.convolution(pointer(tokens), inputs, *arguments)
    maps = tokens[1:].T.reshape(1, inputs, 4, 4).astype(np.float64)
    weight = (kernel * gain[:, None, None, None]).astype(np.float64)
    exact = conv2d(from_numpy(maps), from_numpy(weight), from_numpy(bias.astype(float)), padding=1)
    np.testing.assert_array_equal(out[0], 0)
    np.testing.assert_allclose(out[1:], exact[0].reshape(outputs, 16).T, rtol=0, atol=1e-3)


def test_points_are_activated_as_pixels(kernels: Any, rng: np.random.Generator) -> None:
    tokens, bias = normal(rng, TOKENS, 48), normal(rng, 48)
    found = tokens.copy()
    kernels.activate(pointer(found), 48, pointer(bias))
    x = tokens[1:].astype(np.float64) + bias
    np.testing.assert_allclose(found[1:], x * expit(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [5, 48, 100])
def test_layer_norm(kernels: Any, rng: np.random.Generator, width: int) -> None:
    row = -(-width // 16) * 16
    x, y = 3 + normal(rng, 7, row), np.empty((7, row), np.float32)
    kernels.normalise(pointer(x), pointer(y), 7, width, row, ctypes.c_float(1e-6))
    exact = x[:, :width].astype(np.float64)
    centred = exact - exact.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y[:, :width], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("heads", "head"), [(4, 48), (12, 16)])
def test_attention(kernels: Any, rng: np.random.Generator, heads: int, head: int) -> None:
    qkv = normal(rng, TOKENS, 3, heads, head)
    out = np.empty((TOKENS, heads, head), np.float32)
    kernels.attention(pointer(qkv), heads, head, pointer(out))
    q, k, v = qkv.astype(np.float64).transpose(1, 2, 0, 3)
    scores = np.exp(q @ k.transpose(0, 2, 1))
    expected = (scores / scores.sum(-1, keepdims=True)) @ v
    np.testing.assert_allclose(out, expected.transpose(1, 0, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("k", "channels", "width"), [(3, 16, 16), (5, 8, 8), (3, 3, 2)])
def test_convolution_of_a_map(
    kernels: Any, rng: np.random.Generator, k: int, channels: int, width: int
) -> None:
    from scipy.signal import correlate

    side, border = 8, k // 2
    maps, kernel, bias = normal(rng, side, side, channels), normal(rng, k, k, channels, width), None
    bias = normal(rng, width)
    padded = np.pad(maps, ((border, border), (border, border), (0, 0)))
    by_row = np.ascontiguousarray(kernel.transpose(0, 3, 1, 2))
    stride = width + 32
    out = np.zeros((side * side + 1, stride), np.float32)
    shape = (pointer(padded), channels, side, k)
    kernels.small_convolution(*shape, pointer(by_row), pointer(bias), width, pointer(out), stride)
    exact = [correlate(padded, kernel[..., o], mode="valid")[..., 0] for o in range(width)]
    found = out[:-1, :width].reshape(side, side, width)
    np.testing.assert_allclose(found, np.stack(exact, -1) + bias, rtol=0, atol=1e-4)


def test_pooling_is_pytorchs_borders_included(kernels: Any, rng: np.random.Generator) -> None:
    from torch import from_numpy
    from torch.nn.functional import avg_pool2d, max_pool2d

    maps = normal(rng, 8, 8, 32)
    planes = from_numpy(maps.transpose(2, 0, 1).copy())[None]
    found = np.empty_like(maps)
    kernels.maximum_pool(pointer(maps), 32, 8, 32, pointer(found))
    expected = max_pool2d(planes, 3, stride=1, padding=1)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(found, expected)
    halved = np.empty((4, 4, 32), np.float32)
    kernels.mean_pool(pointer(maps), 32, 8, 32, pointer(halved))
    expected = avg_pool2d(planes, 2)[0].permute(1, 2, 0)
    np.testing.assert_allclose(halved, expected, rtol=1e-6, atol=1e-6)
