"""Cutouts painted from photometry: bulge and disk, seeing, sky and photon noise.

Every galaxy is a sum of elliptical Gaussians, so blurring by the seeing adds variances. The
exponent of each Gaussian, its amplitude included, is a polynomial of six terms in the pixel's x and
y: one matrix product gives the exponents of all pixels, and one ``exp`` the light.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import BANDS, IMAGE_SIZE, PIXEL_SCALE
from numpy.typing import NDArray

from cosmicai_workbench.data.sersic import sersic_mixture

if TYPE_CHECKING:
    from cosmicai_workbench.data.morphology import Morphology

PIXEL = PIXEL_SCALE
"""Arcseconds on a side of an SDSS pixel."""

_DISK_GAUSSIANS = 6
_BULGE_GAUSSIANS = 6
_LOWEST_EXPONENT = np.float32(-60)
"""exp(-60) is far below the noise. Below -87 float32 goes denormal, which some processors take 25
times longer for; where they do not, the clip costs nothing (``benchmarks/data.py``)."""
_CHUNK = 8 * IMAGE_SIZE**2
"""Pixels painted at once: the Gaussians of their galaxies (440 in 8) stay in a core's cache."""
_FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class Survey:
    """The telescope, band by band (u, g, r, i, z).

    The defaults were measured on SDSS run 2583, camera column 2, field 136: the noise of its clean
    sky, and the seeing, calibration and gain in its headers.
    """

    seeing: tuple[float, ...] = (1.47, 1.30, 1.05, 1.00, 1.15)
    """Full width at half maximum, arcsec."""
    sky_noise: tuple[float, ...] = (0.0515, 0.0194, 0.0320, 0.0554, 0.2106)
    """Standard deviation of an empty pixel, nanomaggies."""
    flux_per_electron: tuple[float, ...] = (0.00637, 0.00109, 0.00117, 0.00146, 0.00736)
    """Nanomaggies a photo-electron: the calibration over the gain."""
    seeing_scatter: float = 0.12
    """Relative, from galaxy to galaxy; the bands vary together."""
    sky_scatter: float = 0.10
    """Relative, from galaxy to galaxy."""


SDSS = Survey()


def paint(
    flux: NDArray[np.float64],
    shape: "Morphology",
    rng: np.random.Generator,
    survey: Survey = SDSS,
    side: int = IMAGE_SIZE,
) -> NDArray[np.float32]:
    """Paint noisy cutouts.

    Parameters
    ----------
    flux
        (N, 5), total nanomaggies in each band; light beyond the cutout's edge is lost, as in a real
        cutout.
    shape
        Shapes of the N galaxies.
    rng
        Source of seeing, sky level and noise.
    survey
        The telescope.
    side
        Pixels on a side.

    Returns
    -------
    NDArray
        float32 (N, 5, side, side), nanomaggies a pixel, sky subtracted.
    """
    count = len(flux)
    variation = np.exp(survey.seeing_scatter * rng.standard_normal((count, 1)))
    seeing = np.array(survey.seeing) * variation
    sky = np.array(survey.sky_noise) * np.exp(
        survey.sky_scatter * rng.standard_normal((count, BANDS))
    )
    image = paint_noiseless(flux, shape, seeing, side)
    # Hundreds of sky electrons in a pixel: the Poisson noise of sky and galaxy is Gaussian.
    electron = np.array(survey.flux_per_electron, dtype=np.float32)[:, None, None]
    variance = image * electron
    variance += (sky**2).astype(np.float32)[:, :, None, None]
    np.sqrt(variance, out=variance)
    variance *= rng.standard_normal(image.shape, dtype=np.float32)
    image += variance
    return image


def paint_noiseless(
    flux: NDArray[np.float64],
    shape: "Morphology",
    seeing: NDArray[np.float64],
    side: int = IMAGE_SIZE,
) -> NDArray[np.float32]:
    """Paint cutouts without noise; ``seeing`` is (N, 5), the FWHM in arcsec."""
    polynomial = _exponents(flux, shape, seeing)
    basis = _pixel_basis(side)
    count = len(flux)
    image = np.empty((count, BANDS, side * side), dtype=np.float32)
    step = max(1, _CHUNK // side**2)
    for start in range(0, count, step):
        exponent = polynomial[start : start + step] @ basis
        np.maximum(exponent, _LOWEST_EXPONENT, out=exponent)
        np.exp(exponent, out=exponent)
        exponent.sum(axis=2, out=image[start : start + step])
    return image.reshape(count, BANDS, side, side)


def _pixel_basis(side: int) -> NDArray[np.float32]:
    """Return the terms 1, x, y, x², xy, y² of every pixel, (6, side²); the origin is the centre."""
    axis = np.arange(side) - (side - 1) / 2
    y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    return np.stack((np.ones_like(x), x, y, x * x, x * y, y * y)).astype(np.float32)


def _exponents(
    flux: NDArray[np.float64], shape: "Morphology", seeing: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Coefficients of the six terms for every Gaussian, (N, 5, K, 6)."""
    bulge_light, bulge_variance = sersic_mixture(4, _BULGE_GAUSSIANS)
    disk_light, disk_variance = sersic_mixture(1, _DISK_GAUSSIANS)
    light = np.concatenate(
        (
            shape.bulge_share[:, :, None] * bulge_light,
            (1 - shape.bulge_share)[:, :, None] * disk_light,
        ),
        axis=2,
    )
    major = np.concatenate(
        (
            (shape.bulge_radius**2)[:, None] * bulge_variance,
            (shape.disk_radius**2)[:, None] * disk_variance,
        ),
        axis=1,
    )
    squash = np.concatenate(
        (
            np.repeat(shape.bulge_axis_ratio[:, None] ** 2, len(bulge_light), axis=1),
            np.repeat(shape.disk_axis_ratio[:, None] ** 2, len(disk_light), axis=1),
        ),
        axis=1,
    )
    # Seeing and the pixel's own width blur both axes alike.
    blur = ((seeing * _FWHM_TO_SIGMA / PIXEL) ** 2 + 1 / 12)[:, :, None]
    along = (major / PIXEL**2)[:, None, :] + blur
    across = (major * squash / PIXEL**2)[:, None, :] + blur

    cosine = np.cos(shape.angle)[:, None, None]
    sine = np.sin(shape.angle)[:, None, None]
    xx = cosine**2 / along + sine**2 / across
    yy = sine**2 / along + cosine**2 / across
    xy = cosine * sine * (1 / along - 1 / across)
    x0 = shape.centre[:, 0, None, None]
    y0 = shape.centre[:, 1, None, None]
    with np.errstate(divide="ignore"):  # a Gaussian without light has the exponent -inf
        peak = np.log(flux[:, :, None] * light / (2 * np.pi * np.sqrt(along * across)))
    return np.stack(
        (
            peak - 0.5 * (xx * x0**2 + 2 * xy * x0 * y0 + yy * y0**2),
            xx * x0 + xy * y0,
            xy * x0 + yy * y0,
            -0.5 * xx,
            -xy,
            -0.5 * yy,
        ),
        axis=-1,
    ).astype(np.float32)
