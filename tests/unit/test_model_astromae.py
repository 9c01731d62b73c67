"""The plain module: the published architecture, name for name and number for number."""

import json

import numpy as np
import pytest
from cosmicai.engines.base import load_engine
from cosmicai.model.config import ModelConfig
from cosmicai.model.layout import state_dict_layout
from model_fill import SHARED_MODEL, SMALL, filled_bundle, galaxies

needs_shared = pytest.mark.skipif(
    not SHARED_MODEL.is_dir(), reason="../shared/model with the golden vectors is absent"
)


@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize(("depth", "heads"), [(1, 4), (12, 4), (12, 12)])
def test_agrees_with_the_golden_vectors(depth, heads, tmp_path):
    bundle = filled_bundle(ModelConfig(depth=depth, heads=heads), tmp_path)
    golden = np.load(SHARED_MODEL / "golden_vectors.npz")

    predicted = load_engine("plain", bundle.path, threads=2).predict(
        golden["image"], golden["magnitude"]
    )

    expected = golden[f"depth{depth}_heads{heads}_redshift"]
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-5)


@pytest.mark.shared
@needs_shared
def test_layout_is_the_references():
    reference = json.loads((SHARED_MODEL / "state_dict_layout.json").read_text())
    layout = state_dict_layout(ModelConfig())
    assert [[name, list(spec.shape), spec.dtype] for name, spec in layout.items()] == reference


@pytest.mark.parametrize("config", [SMALL, ModelConfig(depth=1)], ids=["small", "full width"])
def test_layout_is_the_modules_state_dict(config):
    import torch
    from cosmicai.model.astromae import AstroMAE

    with torch.device("meta"):
        state = AstroMAE(config).state_dict()
    found = {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }
    assert found == state_dict_layout(config)


def test_small_model_predicts_what_it_did(tmp_path):
    """Golden values of our own, so that a change of the arithmetic shows without ../shared."""
    bundle = filled_bundle(SMALL, tmp_path)
    predicted = load_engine("plain", bundle.path, threads=1).predict(*galaxies(4))
    np.testing.assert_allclose(predicted, [-2.740955, -2.692777, -2.899436, -2.776397], rtol=1e-5)


def test_a_galaxys_redshift_does_not_depend_on_its_batch(tmp_path):
    engine = load_engine("plain", filled_bundle(SMALL, tmp_path).path, threads=1)
    image, magnitude = galaxies(7)
    together = engine.predict(image, magnitude)
    apart = [engine.predict(image[i : i + 1], magnitude[i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
