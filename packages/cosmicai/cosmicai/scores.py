"""How well distributions p(z) describe true redshifts: PIT, CRPS, and the terms of the CDE loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from cosmicai.model.interface import PdfOutput, QuantilesOutput
from cosmicai.outputs import cdf_at, pdf, quantiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai.model.interface import Distribution

    Floats = NDArray[np.floating[Any]]

_POINTS: Final = 512
"""Of the grid over a galaxy's p(z), where it has no bins of its own."""
_TAIL: Final = 1e-5
"""Probability beyond each end of that grid."""
_BLOCK: Final = 2**19
"""Grid points at once, which bounds memory."""


class Scores(NamedTuple):
    """How well distributions p(z) describe the true redshifts, each (N,); NaN where unknown."""

    pit: Floats
    """Probability below the true redshift."""
    crps: Floats
    density: Floats
    """p(true redshift)."""
    squared_density: Floats
    """∫ p(z)² dz."""


def scores_of(output: Distribution, raw: Floats, true: Floats) -> Scores:
    """Return the scores (N,) of galaxies; NaN where there is no prediction or no true redshift.

    The integrals are exact where the distribution function is linear between the points of the
    grid, as that of bins is, and within about 1e-4 of it for others.

    Parameters
    ----------
    output
        What the raw values mean.
    raw
        (N, n), as predictions files keep them.
    true
        (N,) redshifts.
    """
    good = np.flatnonzero(np.isfinite(true) & np.isfinite(raw).all(axis=1))
    found = np.full((len(Scores._fields), len(true)), np.nan)
    step = max(1, _BLOCK // (output.bins if isinstance(output, PdfOutput) else _POINTS))
    for start in range(0, len(good), step):
        here = good[start : start + step]
        found[:, here] = _scores(output, raw[here], true[here].astype(np.float64))
    return Scores(*found)


def _scores(output: Distribution, raw: Floats, true: NDArray[np.float64]) -> Scores:
    grid = np.sort(np.concatenate((_grid(output, raw), true[:, None]), axis=1), axis=1)
    cdf = cdf_at(output, raw, grid)
    width, step = np.diff(grid, axis=1), np.diff(cdf, axis=1)
    # What the distribution function is off by: F below the true redshift, 1 - F above it.
    missed = np.where(grid[:, 1:] <= true[:, None], cdf[:, 1:], 1 - cdf[:, :-1])
    other = np.where(grid[:, 1:] <= true[:, None], cdf[:, :-1], 1 - cdf[:, 1:])
    crps = (width * (missed**2 + missed * other + other**2) / 3).sum(axis=1)
    squares = np.divide(step**2, width, out=np.zeros_like(width), where=width > 0)
    return Scores(
        pit=cdf_at(output, raw, true),
        crps=crps,
        density=pdf(output, raw, true[:, None])[:, 0].astype(np.float64),
        squared_density=squares.sum(axis=1),
    )


def _grid(output: Distribution, raw: Floats) -> NDArray[np.float64]:
    """Return redshifts (N, G) from end to end of each galaxy's p(z), its own knots among them."""
    if isinstance(output, PdfOutput):
        edges = output.start + output.width * (np.arange(output.bins + 1) - 0.5)
        return np.broadcast_to(edges, (len(raw), len(edges)))
    first, last = quantiles(output, raw, (_TAIL, 1 - _TAIL)).T
    grid: NDArray[np.float64] = np.linspace(first, last, _POINTS, axis=1)
    return np.concatenate((grid, raw), axis=1) if isinstance(output, QuantilesOutput) else grid
