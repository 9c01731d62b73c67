"""What is no number of a galaxy or a model gives no prediction, in every engine alike."""

import json
from pathlib import Path

import numpy as np
import pytest
from cosmicai import open_model
from cosmicai.engines.base import load_engine
from cosmicai.engines.registry import BUILT_IN
from cosmicai.errors import ModelMismatch
from cosmicai.facts import INPUT_LIMIT
from cosmicai.model.bundle import Bundle
from model_fill import SMALL, filled_bundle, filled_state
from safetensors.numpy import save_file

ENGINES = list(BUILT_IN)
SHIPPED = Path(__file__).parents[2] / "models" / "astromae-small"


def galaxies(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (count, 5, 32, 32)).astype(np.float32)
    return image, rng.normal(18, 1, (count, 5)).astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fill", [3.4e38, -3.4e38, 1e30, 1e19, 2e9])
def test_a_fill_value_gives_no_prediction_and_changes_no_other_galaxy(
    engine: str, fill: float
) -> None:
    model = open_model(SHIPPED, engine=engine, threads=1)
    image, magnitude = galaxies()
    expected = model.predict(image, magnitude).redshift
    image[1, 2, 3, 4], image[3], magnitude[4, 0] = fill, fill, fill
    found = model.predict(image, magnitude)
    assert np.isnan(found.redshift).tolist() == [False, True, False, True, True, False]
    assert np.array_equal(found.redshift[[0, 2, 5]], expected[[0, 2, 5]])
    assert (found.nonfinite_pixels, found.nonfinite_magnitudes) == (1 + 5 * 32 * 32, 1)


def test_at_the_limit_engines_agree_and_nothing_overflows() -> None:
    image, magnitude = galaxies()
    image[0], image[1] = INPUT_LIMIT, -INPUT_LIMIT
    image[2] *= np.float32(INPUT_LIMIT / np.abs(image[2]).max())
    magnitude[3] = INPUT_LIMIT
    found = {
        engine: load_engine(engine, SHIPPED, threads=1).predict(image, magnitude)
        for engine in ENGINES
    }
    for raw in found.values():
        assert np.isfinite(raw).all()
        largest = np.abs(found["plain"]).max(axis=1, keepdims=True)
        assert raw / largest == pytest.approx(found["plain"] / largest, abs=1e-3)


def test_no_intermediate_value_comes_near_an_overflow_at_the_limit() -> None:
    """A norm squares its input, so the square has to fit as well."""
    torch = pytest.importorskip("torch")
    module, largest = Bundle(SHIPPED).module(), [0.0]

    def watch(_: object, given: tuple[object, ...], result: object) -> None:
        largest[0] = max(largest[0], *(float(t.abs().max()) for t in (*given, result)))  # type: ignore[attr-defined]

    for part in module.modules():
        if not list(part.children()):
            part.register_forward_hook(watch)
    image = INPUT_LIMIT * torch.sign(torch.randn(16, 5, 32, 32, generator=torch.manual_seed(0)))
    image[0] = INPUT_LIMIT
    with torch.inference_mode():
        module(image, torch.full((16, 5), INPUT_LIMIT))
    assert largest[0] ** 2 * SMALL.width < 1e-10 * float(np.finfo(np.float32).max)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("blocks.0.PCM.0.weight", np.nan),
        ("inception_model.magnitude_block.0.weight", np.inf),
        ("concat_block.2.bias", -3e38),
        ("blocks.0.PCM.1.running_var", -1.0),
    ],
)
def test_a_model_with_a_value_that_is_none_is_refused(
    engine: str, tensor: str, value: float, tmp_path: Path
) -> None:
    bundle = filled_bundle(SMALL, tmp_path / "model")
    state = filled_state(SMALL)
    state[tensor].flat[0] = value
    save_file(state, bundle.path / "model.safetensors")
    with pytest.raises(ModelMismatch, match=f"tensor {tensor} holds values from"):
        load_engine(engine, bundle.path, threads=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", 10**6),
        ("width", 10**9),
        ("conv_width", 10**12),
        ("inception_widths", [16, 16, 8, 8, 10**8]),
        ("norm_eps", 1e308),
    ],
)
def test_an_absurd_architecture_is_refused_at_once(key: str, value: object, tmp_path: Path) -> None:
    bundle = filled_bundle(SMALL, tmp_path / "model")
    config = json.loads((bundle.path / "config.json").read_text())
    (bundle.path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelMismatch, match=f"{key}(?s:.)*less than or equal"):
        Bundle(bundle.path)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_bits_do_not_depend_on_where_the_arrays_lie(engine: str) -> None:
    model = load_engine(engine, SHIPPED, threads=1)
    image, magnitude = galaxies(5)
    expected = model.predict(image, magnitude)
    for offset in (4, 8, 20, 36, 52):
        shifted = []
        for array in (image, magnitude):
            memory = np.empty(array.nbytes + 128, np.uint8)
            start = -memory.ctypes.data % 64 + offset
            there = memory[start : start + array.nbytes].view(np.float32).reshape(array.shape)
            there[...] = array
            shifted.append(there)
        assert np.array_equal(model.predict(*shifted), expected)
