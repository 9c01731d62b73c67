"""Sérsic profiles as sums of Gaussians, so that blurring by the atmosphere is exact and cheap.

Hogg & Lang (2013) fitted such mixtures once for two profiles; here they are fitted on first use, by
non-negative least squares over a fixed ladder of widths, for any index.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import gammaincinv

_LADDER = {"disk": (0.15, 3.2, 8.0), "bulge": (0.03, 8.0, 20.0)}
"""Narrowest and widest Gaussian and the end of the fit, in half-light radii: where an index-4
profile has 3 % of its light left, and an index-1 one none that matters."""


def sersic_profile(radius: NDArray[np.float64], index: float) -> NDArray[np.float64]:
    """Surface brightness at ``radius`` (in half-light radii), one at the half-light radius."""
    b = gammaincinv(2 * index, 0.5)
    profile: NDArray[np.float64] = np.exp(-b * (radius ** (1 / index) - 1))
    return profile


@lru_cache
def sersic_mixture(
    index: float, components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a circular Sérsic profile of unit half-light radius and unit flux.

    Parameters
    ----------
    index
        Sérsic index: 1 for an exponential disk, 4 for a de Vaucouleurs bulge.
    components
        Gaussians on the ladder of widths; some may get no light and are left out.

    Returns
    -------
    share, variance
        float64 (K,), the share of the light and the variance (half-light radii squared) of each
        Gaussian.
    """
    narrowest, widest, end = _LADDER["bulge" if index > 2 else "disk"]
    radius = np.geomspace(1e-3, end, 400)
    variance = np.geomspace(narrowest, widest, components) ** 2
    # Gaussians of unit flux; rows weighted so that the light of each ring counts alike.
    gaussians = np.exp(-0.5 * radius[:, None] ** 2 / variance) / (2 * np.pi * variance)
    weight = radius
    share, _ = nnls(gaussians * weight[:, None], sersic_profile(radius, index) * weight)
    used = share > 0
    share = share[used] / share[used].sum()
    share.flags.writeable = variance.flags.writeable = False
    return share, variance[used]
