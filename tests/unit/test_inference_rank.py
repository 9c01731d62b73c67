"""What a rank decides without any storage: threads, blanking, deterministic bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
from cosmicai import prediction
from cosmicai.errors import InvalidInput
from cosmicai.facts import INPUT_LIMIT
from cosmicai.prediction import Predictor
from cosmicai.settings import (
    FunctionSettings,
    InferenceSettings,
    InitializeSettings,
    SummarizeSettings,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("memory", "cores", "threads"),
    [(128, 2, 1), (1769, 2, 1), (1770, 2, 2), (3538, 2, 2), (3538, 6, 2), (10_240, 6, 6),
     (10_240, 2, 2), (0, 4, 4)],
)  # fmt: skip
def test_threads_are_the_vcpus_that_the_memory_size_pays_for(
    monkeypatch: pytest.MonkeyPatch, memory: int, cores: int, threads: int
) -> None:
    monkeypatch.delenv("INFERENCE_THREADS", raising=False)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", str(memory))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    assert InferenceSettings.read().threads == threads


def test_a_shared_machine_may_say_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_THREADS", "3")
    assert InferenceSettings.read().threads == 3


@pytest.mark.parametrize(
    ("settings", "variable", "value"),
    [
        (FunctionSettings, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "much"),
        (InitializeSettings, "FMI_CHANNEL", "s4"),
        (InferenceSettings, "INFERENCE_THREADS", "-1"),
        (SummarizeSettings, "INFERENCE_ARCHITECTURE", "sparc"),
    ],
)
def test_a_variable_with_a_wrong_value_is_named(
    settings: type[FunctionSettings], variable: str, value: str
) -> None:
    with pytest.raises(InvalidInput, match=f"key '{variable}'"):
        settings.read({variable: value})
    assert settings.read({variable: ""}) == settings.read({})


class Believer:
    """An engine that would predict 1 whatever it is given, and remembers what that was."""

    name = "plain"
    image = np.empty(0)

    def predict(self, image: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        self.image = image
        return np.ones(len(image), np.float32)


def galaxies(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((count, 5, 32, 32), np.float32), np.full((count, 5), 18, np.float32)


def test_nonfinite_galaxies_never_reach_the_engine_and_never_get_a_number() -> None:
    (image, magnitude), engine = galaxies(), Believer()
    image[0, 1, 2, 3] = np.nan
    image[1, 0, 0, 0], image[1, 0, 0, 1] = np.inf, -np.inf
    magnitude[2, 4] = -np.inf
    found = Predictor(engine, digest="").predict(image, magnitude)
    assert np.isnan(found.redshift).tolist() == [True, True, True, False]
    assert np.isfinite(engine.image).all()
    assert np.isnan(image[0, 1, 2, 3]), "the caller's array is left as it is"
    assert (found.nonfinite_pixels, found.nonfinite_magnitudes) == (3, 1)


def test_extreme_values_up_to_the_limit_are_predicted_and_beyond_it_not() -> None:
    image, magnitude = galaxies()
    image[0], magnitude[1] = INPUT_LIMIT, -INPUT_LIMIT
    image[2, 0, 0, 0], magnitude[3, 0] = np.finfo(np.float32).max, np.finfo(np.float32).min
    found = Predictor(Believer(), digest="").predict(image, magnitude)
    assert np.isfinite(found.redshift).tolist() == [True, True, False, False]
    assert found.nonfinite_pixels == found.nonfinite_magnitudes == 1


def test_whole_batches_are_not_copied() -> None:
    (image, magnitude), engine = galaxies(), Believer()
    Predictor(engine, digest="").predict(image, magnitude)
    assert np.shares_memory(engine.image, image)


def test_the_same_arrays_give_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"redshift": np.arange(3, dtype=np.float32), "data_paths": np.array(["a", "bc"])}
    first = prediction.npz_bytes(columns)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert prediction.npz_bytes(columns) == first


def test_importing_the_handlers_modules_imports_neither_numpy_nor_torch() -> None:
    """A cold start of Initialize and Summarize pays for neither; their layer has neither."""
    import subprocess
    import sys

    code = (
        "import sys, json, cosmicai.initialize, cosmicai.summarize, cosmicai.inference;"
        "import cosmicai.calibration, cosmicai.model.architectures, cosmicai.partition.contents;"
        "heavy = {'numpy', 'torch', 'openvino', 'boto3'};"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(outcome.stdout) == []
