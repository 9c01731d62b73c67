"""What galaxies of given photometry look like: sizes, bulges, inclinations.

The photometry and the redshift of a galaxy are measured; its shape is drawn here, from relations
that the same survey measured on the whole population.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cosmicai_workbench.data.cosmology import luminosity_distance

if TYPE_CHECKING:
    from cosmicai_workbench.data.photometry import Photometry

_GREEN_VALLEY = (0.62, 2.0)
"""g−r that parts early from late types: at redshift zero, and its reddening per unit redshift."""
_BULGE_REDDER = np.array([-0.5, -0.25, 0.0, 0.08, 0.12])
"""Change, band by band, of the logit of the bulge's share of the light: bulges are redder."""
_DISK_THICKNESS = 0.2


@dataclass(frozen=True)
class Morphology:
    """Shapes of N galaxies.

    Attributes
    ----------
    bulge_share
        (N, 5), the bulge's share of the light in each band.
    bulge_radius, disk_radius
        (N,), half-light radii along the major axis, arcsec.
    bulge_axis_ratio, disk_axis_ratio
        (N,), minor over major axis.
    angle
        (N,), position angle of the major axis, radians from the x axis.
    centre
        (N, 2), offset (x, y) from the centre of the cutout, pixels.
    """

    bulge_share: NDArray[np.float64]
    bulge_radius: NDArray[np.float64]
    disk_radius: NDArray[np.float64]
    bulge_axis_ratio: NDArray[np.float64]
    disk_axis_ratio: NDArray[np.float64]
    angle: NDArray[np.float64]
    centre: NDArray[np.float64]


def absolute_magnitude_r(
    magnitude_r: NDArray[np.float64], redshift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute r magnitude for H0=70, with the mean k-correction of the sample, K(z) = z."""
    modulus = 5 * np.log10(luminosity_distance(redshift)) + 25
    absolute: NDArray[np.float64] = magnitude_r - modulus - redshift
    return absolute


def _median_radius(
    absolute: NDArray[np.float64], early: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median half-light radius (kpc) and its scatter (ln) by Shen et al. (2003), eqs. 14-16."""
    faint = 10 ** (-0.4 * (absolute + 20.52))
    late_log = -0.4 * 0.21 * absolute + (0.53 - 0.21) * np.log10(1 + faint) - 1.31
    early_log = -0.4 * 0.60 * absolute - 4.63
    scatter = 0.25 + (0.48 - 0.25) / (1 + faint**2)
    return 10 ** np.where(early, early_log, late_log), scatter


def draw_morphology(galaxies: "Photometry", rng: np.random.Generator) -> Morphology:
    """Draw a shape for each galaxy, given its luminosity, colour and redshift."""
    count = len(galaxies)
    magnitude, redshift = galaxies.magnitude, galaxies.redshift
    colour = magnitude[:, 1] - magnitude[:, 2]
    red = colour - (_GREEN_VALLEY[0] + _GREEN_VALLEY[1] * redshift)
    early = rng.random(count) < 1 / (1 + np.exp(-red / 0.04))

    absolute = absolute_magnitude_r(magnitude[:, 2], redshift)
    median, scatter = _median_radius(absolute, early)
    kiloparsecs = median * np.exp(scatter * rng.standard_normal(count))
    angular_distance = luminosity_distance(redshift) / (1 + redshift) ** 2
    radius = np.degrees(kiloparsecs / (1000 * angular_distance)) * 3600

    share = np.where(early, 0.70, 0.15) + np.where(early, 0.15, 0.10) * rng.standard_normal(count)
    share = np.clip(share, 0.01, 0.99)
    logit = np.log(share / (1 - share))[:, None] + _BULGE_REDDER

    inclination = rng.random(count)  # cosine; uniform for disks that face any way
    thickness = _DISK_THICKNESS**2
    return Morphology(
        bulge_share=1 / (1 + np.exp(-logit)),
        bulge_radius=radius * (0.3 + 0.7 * share),
        disk_radius=radius * (1 + 0.4 * share),
        bulge_axis_ratio=rng.uniform(0.6, 1.0, count),
        disk_axis_ratio=np.sqrt(inclination**2 * (1 - thickness) + thickness),
        angle=rng.uniform(0, np.pi, count),
        centre=rng.uniform(-0.5, 0.5, (count, 2)),
    )
