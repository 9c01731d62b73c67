"""What training minimises, by what a model gives: a redshift, or a mixture of Gaussians.

A network trains best on outputs of about unit size. An objective therefore says what its raw
outputs mean in units of training, and folds those units into the last layer when the model is
saved.
"""

import math
from typing import Protocol

import torch
from cosmicai.errors import InvalidInput
from cosmicai.model.interface import MixtureOutput, Output, PointOutput
from torch import Tensor, nn
from torch.nn import functional

_REDSHIFT_SCALE = 0.05
"""About the scatter of the redshifts: losses are on residuals in this unit."""
_MEAN_LOG = 0.1
"""About the mean of ln(1+z)."""


class Objective(Protocol):
    """How raw outputs become a loss, and a model in its own units."""

    def initialise(self, layer: nn.Linear) -> None:
        """Set the last layer so that training starts near the mean redshift."""

    def loss(self, raw: Tensor, redshift: Tensor) -> Tensor:
        """Return the mean loss of raw outputs (B, n) at true redshifts (B,)."""

    def score(self, raw: Tensor, redshift: Tensor) -> Tensor:
        """Return the CRPS of each galaxy, (B,): what validation decides by; lower is better."""

    def width_factor(self, raw: Tensor, redshift: Tensor) -> float:
        """Return by how much the widths are to be multiplied, measured on validation galaxies."""

    def fold(self, layer: nn.Linear, width_factor: float) -> None:
        """Change the last layer so that its outputs are in the model's own units."""


class PointObjective:
    """A redshift: smooth L1, near the median and calm about outliers. The score is the MAE."""

    def initialise(self, layer: nn.Linear) -> None:
        """See :class:`Objective`."""
        nn.init.normal_(layer.weight, std=1e-3)
        nn.init.constant_(layer.bias, _MEAN_LOG)

    def loss(self, raw: Tensor, redshift: Tensor) -> Tensor:
        """See :class:`Objective`."""
        residual = (raw[:, 0] - redshift) / _REDSHIFT_SCALE
        return functional.smooth_l1_loss(residual, torch.zeros_like(residual), beta=0.1)

    def score(self, raw: Tensor, redshift: Tensor) -> Tensor:
        """See :class:`Objective`."""
        return (raw[:, 0] - redshift).abs()

    def width_factor(self, raw: Tensor, redshift: Tensor) -> float:  # noqa: ARG002
        """Return 1: there are no widths."""
        return 1.0

    def fold(self, layer: nn.Linear, width_factor: float) -> None:
        """Do nothing: the outputs are redshifts already."""


class MixtureObjective:
    """A Gaussian mixture in ln(1+z): its CRPS and its negative log likelihood.

    The CRPS is an absolute error blurred by the distribution. The likelihood cares most for
    galaxies that the model is surest of, and so learns them by heart sooner; but far from the
    middle, which the CRPS hardly sees, it keeps the distribution honest.

    Parameters
    ----------
    components
        Gaussians of the mixture.
    crps, likelihood
        Weights of the two, both in units of training.
    """

    def __init__(self, components: int, crps: float, likelihood: float) -> None:
        self._components = components
        self._crps = crps
        self._likelihood = likelihood

    def initialise(self, layer: nn.Linear) -> None:
        """See :class:`Objective`."""
        nn.init.normal_(layer.weight, std=1e-3)
        nn.init.zeros_(layer.bias)
        with torch.no_grad():
            _, means, log_sigmas = layer.bias.chunk(3)
            means.copy_(torch.linspace(-1, 1, self._components) if len(means) > 1 else means)
            log_sigmas.fill_(-0.5)

    def loss(self, raw: Tensor, redshift: Tensor) -> Tensor:
        """See :class:`Objective`."""
        target = _standardised(redshift)
        crps = self._crps * _crps(raw, target)
        return (crps - self._likelihood * _log_likelihood(raw, target)).mean()

    def score(self, raw: Tensor, redshift: Tensor) -> Tensor:
        """See :class:`Objective`; of ln(1+z)."""
        return _crps(raw, _standardised(redshift)) * _REDSHIFT_SCALE

    def width_factor(self, raw: Tensor, redshift: Tensor) -> float:
        """Return the factor, of a fine grid, under which the galaxies are likeliest."""
        target = _standardised(redshift)
        factors = [math.exp(step / 200) for step in range(-80, 81)]

        def likelihood(factor: float) -> float:
            logits, means, log_sigmas = raw.chunk(3, dim=1)
            scaled = torch.cat((logits, means, log_sigmas + math.log(factor)), dim=1)
            return float(_log_likelihood(scaled, target).mean())

        return max(factors, key=likelihood)

    def fold(self, layer: nn.Linear, width_factor: float) -> None:
        """See :class:`Objective`."""
        with torch.no_grad():
            _, mean_rows, _ = layer.weight.chunk(3)
            _, means, log_sigmas = layer.bias.chunk(3)
            mean_rows.mul_(_REDSHIFT_SCALE)
            means.mul_(_REDSHIFT_SCALE).add_(_MEAN_LOG)
            log_sigmas.add_(math.log(_REDSHIFT_SCALE * width_factor))


def objective_for(output: Output, crps: float, likelihood: float) -> Objective:
    """Return the objective of models with such an output.

    Raises
    ------
    InvalidInput
        Models with such an output are not trained here.
    """
    if isinstance(output, MixtureOutput):
        return MixtureObjective(output.components, crps, likelihood)
    if isinstance(output, PointOutput):
        return PointObjective()
    raise InvalidInput(
        f"model.output: training makes models with a point or a mixture, not {output.kind}"
    )


def _standardised(redshift: Tensor) -> Tensor:
    return (torch.log1p(redshift) - _MEAN_LOG) / _REDSHIFT_SCALE


def _log_likelihood(raw: Tensor, target: Tensor) -> Tensor:
    logits, means, log_sigmas = raw.chunk(3, dim=1)
    residual = (target[:, None] - means) * torch.exp(-log_sigmas)
    log_density = -0.5 * residual**2 - log_sigmas - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(functional.log_softmax(logits, dim=1) + log_density, dim=1)


def _crps(raw: Tensor, target: Tensor) -> Tensor:
    """Return the CRPS of a Gaussian mixture (Grimit et al. 2006, Q. J. R. Meteorol. Soc. 132)."""
    logits, means, log_sigmas = raw.chunk(3, dim=1)
    weights, variances = torch.softmax(logits, dim=1), torch.exp(2 * log_sigmas)
    to_target = _mean_absolute(target[:, None] - means, variances)
    between = _mean_absolute(
        means[:, :, None] - means[:, None], variances[:, :, None] + variances[:, None]
    )
    spread = (weights[:, :, None] * weights[:, None] * between).sum(dim=(1, 2))
    return (weights * to_target).sum(dim=1) - 0.5 * spread


def _mean_absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """Return E|X| of normal variables."""
    sigma = variance.sqrt()
    ratio = mean / sigma
    density = torch.exp(-0.5 * ratio**2) * math.sqrt(2 / math.pi)
    return sigma * density + mean * torch.erf(ratio * math.sqrt(0.5))
