"""How well distributions p(z) describe true redshifts: PIT, CRPS, and the terms of the CDE loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from cosmicai.distributions import distributions, usable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai.model.interface import Distribution

    Floats = NDArray[np.floating[Any]]

_BLOCK: Final = 2**19
"""Raw numbers at once, which bounds memory."""


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

    Also NaN where a number would be too large for double precision.

    Parameters
    ----------
    output
        What the raw values mean.
    raw
        (N, n), as predictions files keep them.
    true
        (N,) redshifts.
    """
    good = np.flatnonzero(np.isfinite(true) & usable(output, raw))
    found = np.full((len(Scores._fields), len(true)), np.nan)
    step = max(1, _BLOCK // output.values)
    for start in range(0, len(good), step):
        here = good[start : start + step]
        rows, z = raw[here].astype(np.float64), true[here].astype(np.float64)
        given = distributions(output, rows)
        found[:, here] = Scores(
            pit=given.cdf(z[:, None])[:, 0],
            crps=given.crps(z),
            density=given.density(z[:, None])[:, 0],
            squared_density=given.squared_density(),
        )
    found[:, ~np.isfinite(found).all(axis=0)] = np.nan
    return Scores(*found)
