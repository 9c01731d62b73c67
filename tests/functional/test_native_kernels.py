"""Every kernel of the native engine against NumPy, SciPy or PyTorch, per instruction set.

Those of arm64 are run by QEMU elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arm64
import cosmicai
import numpy as np
import pytest
from cosmicai.engines.native_engine import NativeEngine
from cosmicai.errors import InvalidInput
from model_fill import SMALL, filled_bundle
from scipy.special import erf, expit

if TYPE_CHECKING:
    from collections.abc import Callable

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
    compiler = BUILD["find_compiler"]()
    is_zig = "ziglang" in compiler
    processor = BUILD["kernel_flags"](platform.machine(), name, is_zig=is_zig)
    options = ["-fno-sanitize=undefined"] if is_zig else []
    source, library = ROOT / "tests/native/kernels.c", folder / f"{name}.so"
    command = [*compiler, *options, *BUILD["FLAGS"], *processor, f"-I{SOURCES}", "-shared"]
    subprocess.run([*command, str(source), "-lm", "-o", str(library)], check=True, timeout=240)
    return ctypes.CDLL(str(library))


class Kernels:
    """The functions of tests/native/kernels.c, which take arrays."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(self._library, name)
        return lambda *arguments: function(*map(passed, arguments))


def passed(value: Any) -> Any:
    """Return what ctypes passes for an argument."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return ctypes.c_float(value) if isinstance(value, float) else value


@pytest.fixture(scope="module", params=dict.fromkeys((*SETS, *arm64.SETS)))
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernels")
    if request.param not in SETS:
        if not arm64.EMULATOR:
            pytest.skip("an emulator of arm64 is missing (Debian: qemu-user-static)")
        emulated = arm64.EmulatedKernels(request.param, folder)
        yield emulated
        emulated.close()
    elif request.param in instruction_sets(folder):
        yield Kernels(compiled(request.param, folder))
    else:
        pytest.skip(f"this processor has no {request.param}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def checked(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    return array


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.normal(size=shape).astype(np.float32)


def applied(kernels: Any, function: int, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    y = np.empty_like(x)
    kernels.apply(function, checked(x), checked(y), x.size)
    return y


def test_functions_are_right_to_a_few_units_in_the_last_place(kernels: Any) -> None:
    x = np.linspace(-80, 80, 16_000, dtype=np.float32)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(applied(kernels, 0, x), np.exp(exact), rtol=4e-7)
    np.testing.assert_allclose(applied(kernels, 1, x), exact * expit(exact), rtol=1e-6, atol=1e-30)
    gelu = exact * 0.5 * (1 + erf(exact / np.sqrt(2)))
    # As PyTorch computes it, x/2 (1 + erf): 1 + erf cancels below 0.
    np.testing.assert_allclose(applied(kernels, 2, x), gelu, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(applied(kernels, 3, x), np.maximum(x, 0))


@pytest.mark.parametrize("function", range(4))
def test_a_nan_stays_one(kernels: Any, function: int) -> None:
    x = np.full(16, np.nan, np.float32)
    assert np.isnan(applied(kernels, function, x)).all()


def test_gelu_far_from_zero(kernels: Any) -> None:
    x = np.array([-np.inf, -1e30, -1e4, -5.657, 5.657, 1e4, 1e30, np.inf] * 2, np.float32)
    found = applied(kernels, 2, x)[:8]
    np.testing.assert_allclose(
        found, [np.nan, 0, 0, 0, 5.657, 1e4, 1e30, np.inf], rtol=2e-7, atol=5e-8
    )


def test_a_library_of_other_sources_is_refused(tmp_path: Path) -> None:
    """A changed checkout without `make setup`, or layers of two versions: NaN would come out."""
    shutil.copytree(SOURCES, tmp_path / "native")
    header = tmp_path / "native" / "native.h"
    header.write_text(header.read_text().replace("int32_t depth,", "int32_t depth, more,"))
    package = Path(cosmicai.__file__).parent
    shutil.copytree(package, tmp_path / "cosmicai", ignore=shutil.ignore_patterns("_native.so"))
    built = [sys.executable, str(tmp_path / "native" / "build.py")]
    subprocess.run([*built, str(tmp_path / "cosmicai/engines/_native.so")], check=True, timeout=240)
    code = (
        "from pathlib import Path; from cosmicai.engines.base import load_engine;"
        f"load_engine('native', Path({str(ROOT / 'models/astromae-small')!r}), threads=1)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "compiled from the sources of another version; reinstall" in done.stderr


@pytest.mark.parametrize("rows", [1, 3, 8, 13])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (5, 48), (300, 50), (700, 7), (192, 192)])
def test_products(
    kernels: Any, rng: np.random.Generator, rows: int, depth: int, columns: int
) -> None:
    a, b, bias = normal(rng, rows, depth), normal(rng, columns, depth), normal(rng, columns)
    wide = -(-columns // kernels.lanes()) * kernels.lanes()
    c = np.zeros((rows, wide), np.float32)
    assert kernels.product(rows, depth, columns, *map(checked, (a, b, bias, c)), 0) == wide
    exact = a.astype(np.float64) @ b.T + bias
    np.testing.assert_allclose(c[:, :columns], exact, rtol=0, atol=2e-6 * depth**0.5)
    kernels.product(rows, depth, columns, checked(a), checked(b), None, checked(c), 1)
    np.testing.assert_allclose(c[:, :columns], 2 * exact - bias, rtol=0, atol=5e-6 * depth**0.5)


def test_a_row_of_a_product_does_not_depend_on_the_others(
    kernels: Any, rng: np.random.Generator
) -> None:
    a, b = normal(rng, 13, 300), normal(rng, 48, 300)
    together, alone = np.empty((13, 48), np.float32), np.empty((1, 48), np.float32)
    kernels.product(13, 300, 48, checked(a), checked(b), None, checked(together), 0)
    for row in range(13):
        one = a[row : row + 1].copy()
        kernels.product(1, 300, 48, checked(one), checked(b), None, checked(alone), 0)
        np.testing.assert_array_equal(alone[0], together[row])


def test_large_products(kernels: Any, rng: np.random.Generator) -> None:
    error = 4e-3 if kernels.is_half() else 4e-6
    for rows, depth, columns in ((1, 1, 1), (3, 5, 48), (8, 300, 50), (13, 700, 7), (9, 192, 96)):
        a, b, bias = normal(rng, rows, depth), normal(rng, columns, depth), normal(rng, columns)
        c = np.zeros((rows, -(-columns // kernels.lanes()) * kernels.lanes()), np.float32)
        kernels.large_product(rows, depth, columns, *map(checked, (a, b, bias, c)), 0)
        exact = a.astype(np.float64) @ b.T + bias
        np.testing.assert_allclose(c[:, :columns], exact, rtol=0, atol=error * depth**0.5)
        kernels.large_product(rows, depth, columns, a, b, None, c, 1)
        exact = 2 * exact - bias
        np.testing.assert_allclose(c[:, :columns], exact, rtol=0, atol=3 * error * depth**0.5)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e6, 1e30])
def test_large_products_are_as_precise_whatever_the_size_of_the_values(
    kernels: Any, rng: np.random.Generator, scale: float
) -> None:
    a, b = normal(rng, 3, 100), normal(rng, 48, 100)
    a[1] *= np.float32(scale)
    b *= np.float32(1e-3)
    c = np.empty((3, 48), np.float32)
    kernels.large_product(3, 100, 48, a, b, None, c, 0)
    exact = a.astype(np.float64) @ b.T
    size = np.abs(exact).max(1, keepdims=True)
    np.testing.assert_allclose(c / size, exact / size, rtol=0, atol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(
    kernels: Any, rng: np.random.Generator, value: float
) -> None:
    a, b = normal(rng, 9, 300), normal(rng, 48, 300)
    expected, found = np.empty((9, 48), np.float32), np.empty((9, 48), np.float32)
    kernels.large_product(9, 300, 48, a, b, None, expected, 0)
    a[4, 17] = value
    kernels.large_product(9, 300, 48, a, b, None, found, 0)
    assert not np.isfinite(found[4]).any()
    found[4] = expected[4]
    np.testing.assert_array_equal(found, expected)


def test_winograds_convolution_is_the_direct_one(kernels: Any, rng: np.random.Generator) -> None:
    from torch import from_numpy
    from torch.nn.functional import conv2d

    inputs, outputs = 48, 96
    tokens, kernel = normal(rng, TOKENS, inputs), normal(rng, outputs, inputs, 3, 3)
    gain, bias = normal(rng, outputs), normal(rng, outputs)
    out = np.zeros((TOKENS, outputs), np.float32)
    arguments = (checked(kernel), checked(gain), checked(bias), outputs, checked(out))
    kernels.convolution(checked(tokens), inputs, *arguments)
    maps = tokens[1:].T.reshape(1, inputs, 4, 4).astype(np.float64)
    weight = (kernel * gain[:, None, None, None]).astype(np.float64)
    exact = conv2d(from_numpy(maps), from_numpy(weight), from_numpy(bias.astype(float)), padding=1)
    np.testing.assert_array_equal(out[0], 0)
    np.testing.assert_allclose(out[1:], exact[0].reshape(outputs, 16).T, rtol=0, atol=1e-3)


def test_points_are_activated_as_pixels(kernels: Any, rng: np.random.Generator) -> None:
    tokens, bias = normal(rng, TOKENS, 48), normal(rng, 48)
    found = tokens.copy()
    kernels.activate(checked(found), 48, checked(bias))
    x = tokens[1:].astype(np.float64) + bias
    np.testing.assert_allclose(found[1:], x * expit(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [5, 48, 100])
def test_layer_norm(kernels: Any, rng: np.random.Generator, width: int) -> None:
    row = -(-width // 16) * 16
    x, y = 3 + normal(rng, 7, row), np.empty((7, row), np.float32)
    kernels.normalise(checked(x), checked(y), 7, width, row, 1e-6)
    exact = x[:, :width].astype(np.float64)
    centred = exact - exact.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(y[:, :width], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("heads", "head"), [(4, 48), (12, 16)])
def test_attention(kernels: Any, rng: np.random.Generator, heads: int, head: int) -> None:
    qkv = normal(rng, TOKENS, 3, heads, head)
    out = np.empty((TOKENS, heads, head), np.float32)
    kernels.attention(checked(qkv), heads, head, checked(out))
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
    shape = (checked(padded), channels, side, k)
    kernels.small_convolution(*shape, checked(by_row), checked(bias), width, checked(out), stride)
    exact = [correlate(padded, kernel[..., o], mode="valid")[..., 0] for o in range(width)]
    found = out[:-1, :width].reshape(side, side, width)
    np.testing.assert_allclose(found, np.stack(exact, -1) + bias, rtol=0, atol=1e-4)


def test_pooling_is_pytorchs_borders_included(kernels: Any, rng: np.random.Generator) -> None:
    from torch import from_numpy
    from torch.nn.functional import avg_pool2d, max_pool2d

    maps = normal(rng, 8, 8, 32)
    planes = from_numpy(maps.transpose(2, 0, 1).copy())[None]
    found = np.empty_like(maps)
    kernels.maximum_pool(checked(maps), 32, 8, 32, checked(found))
    expected = max_pool2d(planes, 3, stride=1, padding=1)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(found, expected)
    halved = np.empty((4, 4, 32), np.float32)
    kernels.mean_pool(checked(maps), 32, 8, 32, checked(halved))
    expected = avg_pool2d(planes, 2)[0].permute(1, 2, 0)
    np.testing.assert_allclose(halved, expected, rtol=1e-6, atol=1e-6)
