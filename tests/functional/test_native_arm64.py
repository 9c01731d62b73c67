"""The native engine's arm64 kernels, cross-compiled, under an emulator of that processor."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import arm64
import numpy as np
import pytest
from cosmicai.engines.base import load_engine
from cosmicai.model.config import ModelConfig
from cosmicai.model.prepare import Preparation
from model_fill import SHARED_MODEL, SMALL, SMALL_MIXTURE, filled_bundle, galaxies

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai.model.bundle import Bundle
    from numpy.typing import NDArray

HALF_ERROR = {1: 1.5e-3, 12: 4e-3}
"""Depth → the largest error of a redshift in float16; stated in docs/performance.md."""

pytestmark = pytest.mark.skipif(
    not arm64.EMULATOR, reason="an emulator of arm64 is missing (Debian: qemu-user-static)"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tests/native/predict.c with the whole engine."""
    folder = tmp_path_factory.mktemp("arm64")
    objects = [
        arm64.compiled(folder / f"{name}.o", "-c", "model.c", instruction_set=name)
        for name in arm64.SETS
    ]
    driver = arm64.ROOT / "tests/native/predict.c"
    return arm64.linked(folder / "predict", *arm64.BUILD["COMMON"], *objects, driver)


def write_model(bundle: Bundle, image: Any, magnitude: Any, path: Path) -> None:
    """Write a model and galaxies for tests/native/predict.c."""
    config = bundle.config
    preparation = Preparation(bundle.tensors(), config, np.float32)
    ends = {name: array for part in preparation.ends() for name, array in part}
    sizes = (
        config.depth, config.width, config.heads, config.mlp_width, config.conv_width,
        config.branch_width, config.magnitude_width, config.head_width, config.stem_width,
        config.output.values,
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(np.array([*sizes, *config.inception_widths], np.int32))
        file.write(np.float32(config.norm_eps))

        def write(*arrays: NDArray[Any] | None) -> None:
            for array in arrays:
                file.write(np.int64(0 if array is None else array.size))
                if array is not None:
                    file.write(np.ascontiguousarray(array, np.float32))

        def write_layer(tensors: dict[str, NDArray[Any]], name: str) -> None:
            write(tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias"))

        write(*(ends[name] for name in ("patch.weight", "patch.position", "class_token")))
        for block in range(config.depth):
            for convolution in preparation.convolutions(f"blocks.{block}"):
                write(*convolution)
            layers = dict(preparation.layers(f"blocks.{block}"))
            for name in ("qkv", "proj", "fc1", "fc2"):
                write_layer(layers, name)
        write_layer(ends, "stem")
        for index in range(len(config.inception_widths)):
            for branch in ("point", "conv3", "conv5", "pool"):
                write_layer(ends, f"inception.{index}.{branch}")
        magnitudes = [name for name in ends if name.startswith("magnitude.") and "weight" in name]
        names = [name.removesuffix(".weight") for name in magnitudes]
        for name in ("encoder", "inception", *names, "joint", "output"):
            write_layer(ends, name)
        file.write(np.int64(len(image)))
        write(image, magnitude)


class Emulated(NamedTuple):
    """A model and galaxies, predicted on an emulated processor."""

    program: Path
    file: Path

    def predict(
        self, instruction_set: str, *, threads: int = 1, first: int = 0
    ) -> NDArray[np.float32]:
        """Predict, the first galaxies apart from the others."""
        command = [arm64.EMULATOR, str(self.program), str(self.file), instruction_set]
        done = subprocess.run(
            [*command, str(threads), str(first)], capture_output=True, check=False, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return np.frombuffer(done.stdout, np.float32)


class Case(NamedTuple):
    """What the emulated processor and this one predict."""

    emulated: Emulated
    expected: NDArray[np.float32]


def case(config: ModelConfig, image: Any, magnitude: Any, program: Path, folder: Path) -> Case:
    bundle = filled_bundle(config, folder / "model")
    write_model(bundle, image, magnitude, folder / "model.bin")
    expected = load_engine("native", bundle, threads=1).predict(image, magnitude)
    return Case(Emulated(program, folder / "model.bin"), expected)


@pytest.fixture(scope="module", params=[SMALL, SMALL_MIXTURE], ids=["point", "mixture"])
def small(
    request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return case(request.param, *galaxies(70), program, tmp_path_factory.mktemp("small"))


def test_float32_is_what_this_processor_predicts(small: Case) -> None:
    found = small.emulated.predict("neon")
    np.testing.assert_allclose(found, small.expected.ravel(), rtol=0, atol=1e-5)


def test_float16_is_near_float32_and_not_the_same(small: Case) -> None:
    error = np.abs(small.emulated.predict("neon_half") - small.expected.ravel()).max()
    assert 1e-6 < error < HALF_ERROR[1]


@pytest.mark.parametrize("name", arm64.SETS)
def test_a_galaxy_has_the_same_bits_in_any_batch_and_with_any_threads(
    name: str, small: Case
) -> None:
    together = small.emulated.predict(name)
    for threads, first in ((1, 1), (2, 9), (3, 64)):
        apart = small.emulated.predict(name, threads=threads, first=first)
        np.testing.assert_array_equal(apart, together)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_MODEL.is_dir(), reason="../shared/model is absent")
@pytest.mark.parametrize("depth", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", arm64.SETS)
def test_agrees_with_the_golden_vectors(
    name: str, depth: int, program: Path, tmp_path: Path
) -> None:
    golden = np.load(SHARED_MODEL / "golden_vectors.npz")
    image, magnitude = golden["image"], golden["magnitude"]
    found = case(ModelConfig(depth=depth), image, magnitude, program, tmp_path)
    predicted = found.emulated.predict(name)
    expected = golden[f"depth{depth}_heads4_redshift"]
    atol = {"neon": 1e-5, "neon_half": HALF_ERROR[depth]}[name]
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=atol)
