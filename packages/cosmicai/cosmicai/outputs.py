"""From a model's raw numbers to redshifts, intervals and probability densities.

A row of raw numbers is one galaxy's, as the model's output declares them
(``cosmicai.model.interface``). Rows with a number that is not finite, or that describe no
distribution, give NaN everywhere. ``cosmicai.distributions`` says which
distribution the numbers mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cosmicai.calibration import INTERVALS
from cosmicai.distributions import distributions, probabilities, usable
from cosmicai.facts import INTERVAL_PERCENT, ODDS_WIDTH
from cosmicai.model.interface import PdfOutput, PointOutput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from cosmicai.calibration import Calibration
    from cosmicai.distributions import Distributions
    from cosmicai.model.interface import Distribution

    Array = NDArray[Any]

GRID_POINTS: Final = 301
"""Of the grid that fits distributions without one of their own."""
_MEDIAN: Final = 0.5
_BOUNDS: Final = tuple(
    0.5 + side * percent / 200 for percent in INTERVAL_PERCENT for side in (-1, 1)
)
"""Levels of ``INTERVALS``: as much probability below as above."""
_FLOAT16_MAX: Final = float(np.finfo(np.float16).max)
_FLOAT16_MIN: Final = float(np.finfo(np.float16).tiny)


def estimate(
    output: PointOutput | Distribution,
    raw: NDArray[np.floating[Any]],
    calibration: Calibration | None = None,
    magnitude_r: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return the columns that follow from a model's raw output.

    Parameters
    ----------
    output
        The model's.
    raw
        (b,) or (b, n), as its engine gives them.
    calibration
        Whose intervals replace the distribution's own: they were measured.
    magnitude_r
        (b,), for a calibration with bins of r magnitude.

    Returns
    -------
    dict
        float32 (b,) each: ``redshift``; of a distribution ``z_mode``, ``z_median``, ``z_mean`` and
        ``odds``; with a distribution or a calibration the ``INTERVALS``. NaN where there is no
        prediction.

    Raises
    ------
    ModelMismatch
        The calibration needs magnitudes that are not given.
    """
    rows = _rows(output, raw)
    if isinstance(output, PointOutput):
        found = {"redshift": rows[:, 0]}
    else:
        good = usable(output, rows)
        values = _estimates(output, distributions(output, rows[good]))
        lost = ~np.isfinite(np.stack(list(values.values()))).all(axis=0)
        found = {
            name: _scattered(np.where(lost, np.nan, value), good) for name, value in values.items()
        }
    with np.errstate(over="ignore"):  # a float64 beyond float32 is none either
        result = {name: value.astype(np.float32) for name, value in found.items()}
    result["redshift"][~np.isfinite(result["redshift"])] = np.nan
    if calibration is not None:
        bounds = calibration.intervals(result["redshift"], magnitude_r)
        result |= dict(zip(INTERVALS, bounds, strict=True))
    return result


def pdf(
    output: Distribution, raw: NDArray[np.floating[Any]], grid: ArrayLike
) -> NDArray[np.float32]:
    """Return the probability density of each galaxy's redshift on a grid.

    Parameters
    ----------
    output
        What the raw values mean.
    raw
        (N, n).
    grid
        (G,) redshifts.

    Returns
    -------
    NDArray[np.float32]
        (N, G); NaN where there is no prediction.
    """
    rows = _rows(output, raw)
    good = usable(output, rows)
    z = np.atleast_2d(np.asarray(grid, np.float64))
    return _scattered(distributions(output, rows[good]).density(z).astype(np.float32), good)


def cdf_at(
    output: Distribution, raw: NDArray[np.floating[Any]], z: NDArray[np.floating[Any]]
) -> Array:
    """Return the probability that each galaxy's redshift is below ``z``.

    At the true redshift this is the probability integral transform (PIT).

    Parameters
    ----------
    output, raw
        As for :func:`pdf`.
    z
        (N,), or (N, k) for k redshifts of each galaxy.

    Returns
    -------
    NDArray[np.float64]
        Of the shape of ``z``; NaN where there is no prediction.
    """
    rows = _rows(output, raw)
    good = usable(output, rows)
    points = np.asarray(z, np.float64)
    points = points if points.ndim == 2 else points[:, None]
    found = _scattered(distributions(output, rows[good]).cdf(points[good]), good)
    return np.where(np.isnan(points), np.nan, found).reshape(np.shape(z))


def quantiles(output: Distribution, raw: NDArray[np.floating[Any]], levels: ArrayLike) -> Array:
    """Return the redshifts below which given parts of each galaxy's probability lie.

    Parameters
    ----------
    output, raw
        As for :func:`pdf`.
    levels
        (L,), above 0 and below 1.

    Returns
    -------
    NDArray[np.float64]
        (N, L); NaN where there is no prediction.
    """
    rows = _rows(output, raw)
    good = usable(output, rows)
    wanted = np.asarray(levels, np.float64)
    return _scattered(distributions(output, rows[good]).quantiles(wanted), good)


def default_grid(output: Distribution, raw: NDArray[np.floating[Any]]) -> Array:
    """Return a grid for :func:`pdf`: the bins' centres, or one on which nearly all p(z) lies."""
    if isinstance(output, PdfOutput):
        return np.linspace(output.start, output.stop, output.bins)
    ends = quantiles(output, raw, (0.001, 0.999))
    if np.isnan(ends).all():
        return np.linspace(0.0, 1.0, GRID_POINTS)
    return np.linspace(np.nanmin(ends), np.nanmax(ends), GRID_POINTS)


def stored_form(
    output: Distribution, raw: NDArray[np.floating[Any]]
) -> tuple[Distribution, NDArray[np.floating[Any]]]:
    """Return what a predictions file keeps of the raw output, and what that means.

    Of a ``pdf`` the density in every bin, float16; of anything else the raw values, float32. NaN
    where there is no prediction.
    """
    rows = _rows(output, raw)
    good = usable(output, rows)
    if not isinstance(output, PdfOutput):
        kept = output.model_copy(update={"tensors": ()})
        return kept, np.where(good[:, None], rows, np.nan).astype(np.float32)
    density = np.minimum(probabilities(output, rows[good]) / output.width, _FLOAT16_MAX)
    density[density < _FLOAT16_MIN] = 0  # or they would take ten times as long
    meaning = output.model_copy(update={"tensors": (), "logits": False})
    return meaning, _scattered(density.astype(np.float32).astype(np.float16), good)


def _rows(output: PointOutput | Distribution, raw: NDArray[np.floating[Any]]) -> Array:
    return np.asarray(raw, np.float64).reshape(len(raw), output.values)


def _scattered(values: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values in the rows that are good, NaN in the others."""
    result = np.full((len(good), *values.shape[1:]), np.nan, values.dtype)
    result[good] = values
    return result


def _estimates(output: Distribution, found: Distributions) -> dict[str, Array]:
    with np.errstate(over="ignore", invalid="ignore"):
        mode, mean = found.mode(), found.mean()
    values = found.quantiles(np.array((_MEDIAN, *_BOUNDS)))
    reach = ODDS_WIDTH * (1 + mode)
    around = found.cdf(np.stack((mode - reach, mode + reach), axis=1))
    points = {"mode": mode, "median": values[:, 0], "mean": mean}
    return {
        "redshift": points[output.point],
        **dict(zip(INTERVALS, values[:, 1:].T, strict=True)),
        **{f"z_{name}": value for name, value in points.items()},
        "odds": around[:, 1] - around[:, 0],
    }
