"""The distributions p(z) that a model's raw numbers mean, of N galaxies at once.

Which distribution the numbers of a row mean:

``pdf``
    A histogram: the density is constant within a bin.
``normal``
    A normal distribution of z.
``quantiles``
    The density is constant between neighbouring quantiles. Beyond the outer ones it goes on as in
    the interval beside them, until the probability is used up. Quantiles that cross are sorted.
``mixture``
    A sum of normal distributions of ln(1+z).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from cosmicai.model.interface import MixtureOutput, NormalOutput, PdfOutput, QuantilesOutput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai.model.interface import Distribution

    Array = NDArray[Any]

_LEAST_WIDTH: Final = 1e-6
"""In redshift, of what neighbouring quantiles that coincide would make infinitely dense."""
_TOLERANCE: Final = 1e-7
"""In ln(1+z), of the last step towards a quantile or a mode."""
_STEPS: Final = 60
_CLIMBS: Final = 4
"""Steps from every component's mode, before the highest goes on alone."""
_REACH: Final = 9.0
"""In sigmas: no quantile lies farther from every component."""
_BRACKETS: Final = 16
"""Parts into which that range is divided before the search begins."""
_SQRT2: Final = math.sqrt(2)
_LEAST_WEIGHT: Final = 1e-300
_BLOCK: Final = 2**22
"""Comparisons at once, which bounds memory."""
_IN_CACHE: Final = 2**15
"""Numbers at once where many operations follow one another."""
_LARGEST_LOG: Final = 50.0
"""Beyond ± this, the logarithm of a sigma is not one that a model means."""


def usable(output: Distribution, rows: Array) -> NDArray[np.bool_]:
    """Say of each row of raw numbers (N, n) whether it describes a distribution."""
    good: Any = np.isfinite(rows).all(axis=1)
    with np.errstate(invalid="ignore"):  # NaN compares as false
        if isinstance(output, NormalOutput):
            good = good & (rows[:, 1] > 0)
        elif isinstance(output, MixtureOutput):
            good = good & (np.abs(rows[:, 2 * output.components :]) < _LARGEST_LOG).all(axis=1)
        elif isinstance(output, PdfOutput) and not output.logits:
            good = good & (rows > 0).any(axis=1)
    found: NDArray[np.bool_] = good
    return found


class Distributions(Protocol):
    """The distributions of N galaxies; ``z`` is (N, k) or (1, k), results are (N, k)."""

    def density(self, z: Array) -> Array:
        """Return p(z)."""
        ...

    def cdf(self, z: Array) -> Array:
        """Return the probability below z."""
        ...

    def quantiles(self, levels: Array) -> Array:
        """Return the redshifts (N, L) below which levels (L,) of the probability lie."""
        ...

    def mean(self) -> Array:
        """Return the means (N,)."""
        ...

    def mode(self) -> Array:
        """Return the most probable redshifts (N,)."""
        ...

    def crps(self, z: Array) -> Array:
        """Return ∫ (F(x) - [x >= z])² dx, (N,), for one redshift (N,) of each galaxy."""
        ...

    def squared_density(self) -> Array:
        """Return ∫ p(z)² dz, (N,)."""
        ...


def distributions(output: Distribution, rows: Array) -> Distributions:
    """Return the distributions of rows of raw numbers (N, n), all usable."""
    if isinstance(output, PdfOutput):
        edges = output.start + output.width * (np.arange(output.bins + 1) - 0.5)
        return _Steps(edges[None], _cumulative(probabilities(output, rows)))
    if isinstance(output, NormalOutput):
        return _Normal(rows[:, 0], rows[:, 1])
    if isinstance(output, QuantilesOutput):
        return _between(output, rows)
    logits, means, log_sigmas = np.split(rows, 3, axis=1)
    return _Mixture(_softmax(logits), means, np.exp(log_sigmas))


def probabilities(output: PdfOutput, rows: Array) -> Array:
    """Return the probability in every bin, (N, bins), of rows of raw numbers, all usable."""
    if output.logits:
        return _softmax(rows)
    positive = np.maximum(rows, 0)
    shares: Array = positive / positive.sum(axis=1, keepdims=True)
    return shares


def _softmax(logits: Array) -> Array:
    if not len(logits):
        return logits
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _cumulative(probabilities: Array) -> Array:
    return np.pad(np.minimum(np.cumsum(probabilities, axis=1), 1), ((0, 0), (1, 0)))


def _between(output: QuantilesOutput, rows: Array) -> _Steps:
    levels, z = np.array(output.levels), np.sort(rows, axis=1)
    slopes = np.maximum(np.diff(z, axis=1), _LEAST_WIDTH) / np.diff(levels)
    first = z[:, :1] - levels[0] * slopes[:, :1]
    last = z[:, -1:] + (1 - levels[-1]) * slopes[:, -1:]
    cumulative = np.tile(np.concatenate(([0.0], levels, [1.0])), (len(z), 1))
    return _Steps(np.concatenate((first, z, last), axis=1), cumulative)


class _Steps:
    """A density that is constant between knots, (N, K) or (1, K) for all galaxies."""

    def __init__(self, knots: Array, cumulative: Array) -> None:
        self._knots = knots
        self._cumulative = cumulative

    def _heights(self) -> Array:
        widths = np.maximum(np.diff(self._knots, axis=1), _LEAST_WIDTH)
        return np.diff(self._cumulative, axis=1) / widths

    def density(self, z: Array) -> Array:
        at = _interval(z, self._knots)
        inside = (z >= self._knots[:, :1]) & (z < self._knots[:, -1:])
        heights = self._heights()
        shape = (len(heights), z.shape[1])
        return np.where(inside, np.take_along_axis(heights, np.broadcast_to(at, shape), 1), 0.0)

    def cdf(self, z: Array) -> Array:
        return _interpolate(z, self._knots, self._cumulative)

    def quantiles(self, levels: Array) -> Array:
        wanted = np.broadcast_to(levels, (len(self._cumulative), len(levels)))
        return _interpolate(wanted, self._cumulative, self._knots)

    def mean(self) -> Array:
        middles = (self._knots[:, 1:] + self._knots[:, :-1]) / 2
        mean: Array = (np.diff(self._cumulative, axis=1) * middles).sum(axis=1)
        return mean

    def mode(self) -> Array:
        heights = self._heights()
        middles = np.broadcast_to((self._knots[:, 1:] + self._knots[:, :-1]) / 2, heights.shape)
        return np.take_along_axis(middles, heights.argmax(axis=1)[:, None], 1)[:, 0]

    def crps(self, z: Array) -> Array:
        shape = (len(self._cumulative), self._knots.shape[1])
        points = np.sort(np.column_stack((np.broadcast_to(self._knots, shape), z)), axis=1)
        cdf = self.cdf(points)
        width, low, high = np.diff(points, axis=1), cdf[:, :-1], cdf[:, 1:]
        below = points[:, 1:] <= z[:, None]  # F is linear between points; beyond z it is 1 - F
        low, high = np.where(below, low, 1 - low), np.where(below, high, 1 - high)
        crps: Array = (width * (low**2 + low * high + high**2) / 3).sum(axis=1)
        return crps

    def squared_density(self) -> Array:
        squares: Array = (np.diff(self._cumulative, axis=1) * self._heights()).sum(axis=1)
        return squares


def _interval(x: Array, knots: Array) -> NDArray[np.intp]:
    """Return between which knots, (N or 1, K), each x, (N or 1, k), lies: 0 to K - 2."""
    last = knots.shape[1] - 2
    if len(knots) == 1:
        at = np.searchsorted(knots[0], x, side="right") - 1
    else:
        shape = (len(knots), x.shape[1])
        at, points = np.empty(shape, np.intp), np.broadcast_to(x, shape)
        step = max(1, _BLOCK // max(1, x.shape[1] * knots.shape[1]))
        for start in range(0, len(knots), step):
            part = slice(start, start + step)
            at[part] = (knots[part, None, :] <= points[part, :, None]).sum(axis=2) - 1
    return np.clip(at, 0, last)


def _interpolate(x: Array, knots: Array, values: Array) -> Array:
    """Interpolate row by row; constant beyond the knots. Knots and values may be one row each."""
    (count,) = np.broadcast_shapes((len(x),), (len(knots),), (len(values),))

    def take(array: Array, at: NDArray[np.intp]) -> Array:
        return np.take_along_axis(np.broadcast_to(array, (count, array.shape[1])), at, 1)

    at = np.broadcast_to(_interval(x, knots), (count, x.shape[1]))
    low, high = take(knots, at), take(knots, at + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(high > low, np.clip((x - low) / (high - low), 0, 1), x >= high)
    below, above = take(values, at), take(values, at + 1)
    found: Array = below + part * (above - below)
    return found


def _normal_density(x: Array) -> Array:
    density: Array = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return density


def _normal_cdf(x: Array, density: Array) -> Array:
    """Return the standard normal CDF to 7.5e-8 (Abramowitz and Stegun, 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(x))
    series = 1.330274429
    polynomial = t * series
    for coefficient in (-1.821255978, 1.781477937, -0.356563782, 0.319381530):
        polynomial = t * (coefficient + polynomial)
    tail = density * polynomial
    return np.where(x >= 0, 1 - tail, tail)


def _erf(x: Array) -> Array:
    """Return the error function, exact where differences of it are taken."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _normal_quantiles(levels: Array) -> Array:
    """Return the quantiles of the standard normal distribution."""
    from statistics import NormalDist

    return np.array([NormalDist().inv_cdf(level) for level in levels])


class _Mixture:
    """A sum of normal distributions of t = ln(1+z); weights, means, sigmas are (N, components)."""

    def __init__(self, weights: Array, means: Array, sigmas: Array) -> None:
        self._weights, self._means, self._sigmas = weights, means, sigmas

    def _in_t(self, t: Array) -> tuple[Array, Array]:
        """Return CDF and density of t, (N, k) or (1, k), for every galaxy."""
        shape = (len(self._means), t.shape[1])
        t, cdf, density = np.broadcast_to(t, shape), np.empty(shape), np.empty(shape)
        step = max(1, _IN_CACHE // max(1, t.shape[1] * self._means.shape[1]))
        for start in range(0, len(t), step):
            part = slice(start, start + step)
            weights, sigmas = self._weights[part, None], self._sigmas[part, None]
            x = (t[part, :, None] - self._means[part, None]) / sigmas
            densities = _normal_density(x)
            cdf[part] = (weights * _normal_cdf(x, densities)).sum(axis=2)
            density[part] = (weights / sigmas * densities).sum(axis=2)
        return cdf, density

    def density(self, z: Array) -> Array:
        inside = z > -1
        t = np.log1p(np.where(inside, z, 0.0))
        return np.where(inside, self._in_t(t)[1] * np.exp(-t), 0.0)

    def cdf(self, z: Array) -> Array:
        inside = z > -1
        t = np.log1p(np.where(inside, z, 0.0))
        return np.where(inside, self._in_t(t)[0], 0.0)

    def quantiles(self, levels: Array) -> Array:
        """Solve cdf(t) = level: bracketed on a grid, then by Newton's method or bisection."""
        reach = _REACH * self._sigmas
        first = (self._means - reach).min(axis=1, initial=np.inf)[:, None]
        last = (self._means + reach).max(axis=1, initial=-np.inf)[:, None]
        grid = first + (last - first) * np.linspace(0, 1, _BRACKETS + 1)
        cdf = self._in_t(grid)[0]
        wanted = np.broadcast_to(levels, (len(grid), len(levels)))
        at = _interval(wanted, cdf)
        low, high = np.take_along_axis(grid, at, 1), np.take_along_axis(grid, at + 1, 1)
        t = _interpolate(wanted, cdf, grid)
        rows = np.arange(len(t))  # whose quantiles still move
        for _ in range(_STEPS):
            part = _Mixture(self._weights[rows], self._means[rows], self._sigmas[rows])
            cdf, density = part._in_t(t[rows])
            below, at = cdf < levels, t[rows]
            low[rows], high[rows] = np.where(below, at, low[rows]), np.where(below, high[rows], at)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                following = at - (cdf - levels) / density
            inside = (following >= low[rows]) & (following <= high[rows])
            t[rows] = np.where(inside, following, (low[rows] + high[rows]) / 2)
            rows = rows[(np.abs(t[rows] - at) > _TOLERANCE).any(axis=1)]
            if not len(rows):
                break
        quantiles: Array = np.expm1(t)
        return quantiles

    def mean(self) -> Array:
        logs = self._means + self._sigmas**2 / 2
        mean: Array = (self._weights * np.expm1(logs)).sum(axis=1)
        return mean

    def mode(self) -> Array:
        """Climb to a mode of p(z) from every component's own, then on from the highest alone."""
        t = self._means - self._sigmas**2  # the mode of a log-normal distribution
        for _ in range(_CLIMBS):
            t = self._climbed(t, newton=False)
        best = self.density(np.expm1(t)).argmax(axis=1)[:, None]
        t = np.take_along_axis(t, best, 1)
        for _ in range(_STEPS):
            following = self._climbed(t, newton=True)
            moved = np.abs(following - t).max(initial=0.0)
            t = following
            if moved < _TOLERANCE:
                break
        mode: Array = np.expm1(t[:, 0])
        return mode

    def crps(self, z: Array) -> Array:
        """Return E|X - x| - E|X - X'| / 2 for X = 1 + Z, a sum of log-normal distributions."""
        x = np.maximum(1 + z, 0)[:, None]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            scaled = (np.log(x) - self._means) / self._sigmas
            means = np.exp(self._means + self._sigmas**2 / 2)
            above = _erf((scaled - self._sigmas) / _SQRT2)
            for j in range(self._means.shape[1]):  # the other of a pair of components
                spread = np.hypot(self._sigmas, self._sigmas[:, j, None])
                apart = (self._means - self._means[:, j, None] + self._sigmas**2) / spread
                above += self._weights[:, j, None] * _erf(apart / _SQRT2)
            parts = (1 + z)[:, None] * _erf(scaled / _SQRT2) - means * above
            crps: Array = (self._weights * parts).sum(axis=1)
        return crps

    def squared_density(self) -> Array:
        """Return Σ of ∫ p_i(t) p_j(t) exp(-t) dt over pairs of components, as dz = exp(t) dt."""
        variances, squares = self._sigmas**2, np.zeros(len(self._means))
        with np.errstate(over="ignore", invalid="ignore"):
            for j in range(self._means.shape[1]):
                mean, variance = self._means[:, j, None], variances[:, j, None]
                total = variances + variance
                # A product of normal densities is one itself, times the density of their distance.
                middle = (self._means * variance + mean * variances) / total
                apart = _normal_density((self._means - mean) / np.sqrt(total)) / np.sqrt(total)
                pairs = apart * np.exp(variances * variance / total / 2 - middle)
                squares += self._weights[:, j] * (self._weights * pairs).sum(axis=1)
        return squares

    def _climbed(self, t: Array, *, newton: bool) -> Array:
        """Return the next t, (N, k), of a climb on ln p(z); a mean shift never descends."""
        precisions = 1 / self._sigmas**2
        offsets = self._means[:, None, :] - t[:, :, None]
        logs = np.log(np.maximum(self._weights, _LEAST_WEIGHT) / self._sigmas)
        logs = logs[:, None, :] - 0.5 * precisions[:, None, :] * offsets**2
        shares = np.exp(logs - logs.max(axis=2, keepdims=True, initial=-np.inf))
        shares *= precisions[:, None, :] / shares.sum(axis=2, keepdims=True)
        stiffness = shares.sum(axis=2)
        slope = (shares * offsets).sum(axis=2)
        shift = (slope - 1) / stiffness
        if newton:
            curvature = stiffness + slope**2
            curvature -= (shares * precisions[:, None, :] * offsets**2).sum(axis=2)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = (slope - 1) / curvature
            near = (curvature > 0) & (np.abs(step) < 1 / np.sqrt(stiffness))
            shift = np.where(near, step, shift)
        climbed: Array = t + shift
        return climbed


class _Normal:
    """Normal distributions of z; means and sigmas are (N,)."""

    def __init__(self, means: Array, sigmas: Array) -> None:
        self._means, self._sigmas = means, sigmas

    def _scaled(self, z: Array) -> Array:
        scaled: Array = (z - self._means[:, None]) / self._sigmas[:, None]
        return scaled

    def density(self, z: Array) -> Array:
        return _normal_density(self._scaled(z)) / self._sigmas[:, None]

    def cdf(self, z: Array) -> Array:
        x = self._scaled(z)
        return _normal_cdf(x, _normal_density(x))

    def quantiles(self, levels: Array) -> Array:
        found: Array = self._means[:, None] + self._sigmas[:, None] * _normal_quantiles(levels)
        return found

    def mean(self) -> Array:
        return self._means

    def mode(self) -> Array:
        return self._means

    def crps(self, z: Array) -> Array:
        x = self._scaled(z[:, None])[:, 0]
        twice = 2 * _normal_density(x)
        crps: Array = self._sigmas * (x * _erf(x / _SQRT2) + twice - 1 / math.sqrt(math.pi))
        return crps

    def squared_density(self) -> Array:
        squares: Array = 1 / (2 * math.sqrt(math.pi) * self._sigmas)
        return squares
