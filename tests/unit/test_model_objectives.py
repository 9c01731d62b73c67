"""What training minimises: against PyTorch's own mixtures and numerical integration."""

import numpy as np
import pytest
import torch
from cosmicai.errors import InvalidInput
from cosmicai.model.interface import MixtureOutput, NormalOutput
from cosmicai.scores import scores_of
from cosmicai_workbench.modeling.objectives import objective_for
from torch.distributions import Categorical, MixtureSameFamily, Normal

OUTPUT = MixtureOutput(components=3)
GALAXIES = 50


@pytest.fixture
def folded():
    """A last layer, its raw outputs in units of training and in the model's, and redshifts."""
    torch.manual_seed(0)
    layer, features = torch.nn.Linear(8, OUTPUT.values), torch.randn(GALAXIES, 8)
    redshift = 0.3 * torch.rand(GALAXIES)
    with torch.no_grad():
        raw = layer(features)
        objective_for(OUTPUT, 1.0, 0.0).fold(layer, 1.0)
        return raw, layer(features), redshift


def distribution(folded_raw):
    logits, means, log_sigmas = folded_raw.double().chunk(3, dim=1)
    return MixtureSameFamily(Categorical(logits=logits), Normal(means, log_sigmas.exp()))


def test_the_likelihood_is_that_of_the_model_as_saved(folded) -> None:
    raw, saved, redshift = folded
    loss = objective_for(OUTPUT, 0.0, 1.0).loss(raw, redshift)
    expected = -distribution(saved).log_prob(torch.log1p(redshift.double())).mean()
    # In units of training, ln(1+z) is divided by 0.05.
    assert float(loss) == pytest.approx(float(expected) - np.log(0.05), abs=1e-4)


def test_the_crps_is_the_integral_that_defines_it(folded) -> None:
    raw, saved, redshift = folded
    score = objective_for(OUTPUT, 1.0, 0.0).score(raw, redshift)
    x = torch.linspace(-1.5, 1.5, 30_001, dtype=torch.float64)[:, None]
    after = x >= torch.log1p(redshift.double())
    squares = (distribution(saved).cdf(x) - after.double()) ** 2
    np.testing.assert_allclose(score, torch.trapezoid(squares, x, dim=0), atol=1e-4)


def test_the_saved_outputs_are_what_the_config_declares(folded) -> None:
    _, saved, redshift = folded
    found = scores_of(OUTPUT, saved.numpy(), redshift.numpy()).pit
    expected = distribution(saved).cdf(torch.log1p(redshift.double()))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_widths_are_corrected_by_what_validation_shows(factor: float) -> None:
    torch.manual_seed(1)
    objective = objective_for(OUTPUT, 1.0, 0.0)
    sigma, redshift = 0.02, 0.2
    layer = torch.nn.Linear(1, OUTPUT.values)
    drawn = np.random.default_rng(0).normal(np.log1p(redshift), factor * sigma, 20_000)
    true = torch.from_numpy(np.expm1(drawn).astype(np.float32))
    one = torch.tensor([[0.0] * 3 + [(np.log1p(redshift) - 0.1) / 0.05] * 3 + [np.log(0.4)] * 3])
    raw = one.expand(len(true), -1)
    found = objective.width_factor(raw, true)
    assert found == pytest.approx(factor, rel=0.02)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(one[0])
        objective.fold(layer, found)
        spread = distribution(layer(torch.zeros(1, 1))).stddev
    assert float(spread) == pytest.approx(factor * sigma, rel=0.02)


def test_other_outputs_are_not_trained() -> None:
    with pytest.raises(InvalidInput, match="not normal"):
        objective_for(NormalOutput(), 1.0, 1.0)
