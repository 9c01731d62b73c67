"""The torch engine on an NVIDIA GPU: the same redshifts; without one, a clear refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cosmicai
import numpy as np
import pytest
import torch
from cosmicai.engines.base import load_engine
from cosmicai.errors import InvalidInput
from model_fill import SMALL, filled_bundle, galaxies

if TYPE_CHECKING:
    from pathlib import Path

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_bundle(SMALL, tmp_path_factory.mktemp("bundle")).path


@needs_gpu
def test_a_gpu_gives_the_same_redshifts(bundle: Path) -> None:
    image, magnitude = galaxies(3000)
    model = cosmicai.open_model(bundle, device="cuda")
    assert model.engine == "torch"
    found = model.predict(image, magnitude)["redshift"]
    expected = load_engine("plain", bundle, threads=2).predict(image, magnitude)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@needs_gpu
def test_bfloat16_on_a_gpu_is_close(bundle: Path) -> None:
    image, magnitude = galaxies(300)
    model = cosmicai.open_model(bundle, device="cuda", precision="bfloat16")
    expected = load_engine("plain", bundle, threads=2).predict(image, magnitude)
    assert np.abs(model.predict(image, magnitude)["redshift"] - expected).max() < 0.05


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA GPU here")
def test_without_a_gpu_it_is_refused(bundle: Path) -> None:
    with pytest.raises(InvalidInput, match="finds no NVIDIA GPU here; use device cpu"):
        cosmicai.open_model(bundle, device="cuda")


@pytest.mark.parametrize("engine", ["native", "openvino", "plain"])
def test_an_engine_of_the_cpu_alone_says_so(bundle: Path, engine: str) -> None:
    with pytest.raises(InvalidInput, match="does not compute on 'cuda'; engines that do: torch"):
        cosmicai.open_model(bundle, engine=engine, device="cuda")
