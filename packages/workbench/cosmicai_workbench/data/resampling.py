"""More galaxies than the survey table has rows: the same galaxies at other redshifts.

A resampled galaxy is a real one moved along the line of sight. Its spectral energy distribution is
fitted by the k-correction templates; the ratio of the template's flux at the new redshift to that
at the old one, band by band, moves its measured flux. It keeps its parent's row, so that train and
test never share a galaxy.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmicai_workbench.data.cosmology import luminosity_distance
from cosmicai_workbench.data.photometry import MIN_FLUX, Photometry

if TYPE_CHECKING:
    from collections.abc import Callable

_GRID = np.linspace(0.01, 0.4, 391)
_STEP = 0.03
_STEPS = 4
_BRIGHT_LIMIT, _FAINT_LIMIT = 13.5, 17.7
"""Dereddened r magnitudes between which the survey took spectra of everything; a parent outside
them widens them to its own magnitude."""
_R = 2
_NANOMAGGIES = 1e-9


class Resampler:
    """Moves galaxies to other redshifts at which the survey would have seen them.

    Parameters
    ----------
    parents
        The galaxies to move.
    """

    def __init__(self, parents: Photometry) -> None:
        self._parents = parents
        self._corrector = _corrector()
        maggies = parents.dereddened_flux * _NANOMAGGIES
        error = parents.flux_error * 10.0 ** (0.4 * parents.extinction) * _NANOMAGGIES
        self._coefficients: NDArray[np.float64] = self._corrector.fit_coeffs(
            redshift=parents.redshift.astype(np.float32),
            maggies=maggies.astype(np.float32),
            # The templates are good to about 2 %, so a brighter galaxy constrains them no better.
            ivar=(1 / (error**2 + (0.02 * maggies) ** 2)).astype(np.float32),
        ).astype(np.float64)
        self._volume = _volume_element()

    def draw(self, count: int, rng: np.random.Generator) -> Photometry:
        """Draw resampled galaxies, parents drawn evenly.

        The new redshift is a random walk of a few Metropolis steps whose stationary density is the
        comoving volume between the redshifts at which the parent would pass the survey's magnitude
        limits. So the resampled set keeps the survey's own distribution, and no galaxy moves so far
        that its template residuals stop applying.

        Parameters
        ----------
        count
            Galaxies to draw.
        rng
            Source of randomness.
        """
        chosen = rng.integers(len(self._parents), size=count)
        parents = self._parents[chosen]
        coefficients = self._coefficients[chosen]
        at_parent = self._template_flux(parents.redshift, coefficients)
        own = parents.magnitude[:, _R]
        bright, faint = np.minimum(own, _BRIGHT_LIMIT), np.maximum(own, _FAINT_LIMIT)

        redshift, ratio = parents.redshift, np.ones_like(parents.flux)
        for _ in range(_STEPS):
            proposed = redshift + rng.uniform(-_STEP, _STEP, count)
            inside = (proposed > _GRID[0]) & (proposed < _GRID[-1])
            proposed = np.where(inside, proposed, redshift)
            moved = self._template_flux(proposed, coefficients) / at_parent
            magnitude = own - 2.5 * np.log10(moved[:, _R])
            odds = self._volume(proposed) / self._volume(redshift)
            accepted = (
                inside
                & np.isfinite(moved).all(axis=1)
                & (magnitude >= bright)
                & (magnitude <= faint)
                & (rng.random(count) < odds)
            )
            redshift = np.where(accepted, proposed, redshift)
            ratio = np.where(accepted[:, None], moved, ratio)
        return _move(parents, redshift, ratio, rng)

    def _template_flux(
        self, redshift: NDArray[np.float64], coefficients: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Relative flux of the fitted templates at ``redshift``, (N, 5)."""
        flux = np.einsum("nbt,nt->nb", self._corrector.Amatrix(redshift), coefficients)
        distance = luminosity_distance(redshift)
        scaled: NDArray[np.float64] = flux / distance[:, None] ** 2
        return scaled


def _move(
    parents: Photometry,
    redshift: NDArray[np.float64],
    ratio: NDArray[np.float64],
    rng: np.random.Generator,
) -> Photometry:
    """Scale fluxes by ``ratio`` and give fainter ones the photon noise they would have had."""
    error = np.where(np.isfinite(parents.flux_error), parents.flux_error, 0)
    extra = error * np.sqrt(np.clip(ratio - ratio**2, 0, None))
    flux = parents.flux * ratio + extra * rng.standard_normal(ratio.shape)
    lost: NDArray[np.bool_] = np.any(flux < MIN_FLUX, axis=1)
    return Photometry(
        flux=np.where(lost[:, None], parents.flux, flux),
        flux_error=parents.flux_error * np.where(lost[:, None], 1, np.maximum(ratio, ratio**0.5)),
        extinction=parents.extinction,
        redshift=np.where(lost, parents.redshift, redshift),
        parent=parents.parent,
    )


def _corrector() -> Any:
    """Return kcorrect's fitter for SDSS bands; making one takes seconds."""
    from kcorrect.kcorrect import KcorrectSDSS

    return KcorrectSDSS(redshift_range=[0.0, 0.5], nredshift=250)


def _volume_element() -> "Callable[[NDArray[np.float64]], NDArray[np.float64]]":
    """Return dV/dz, up to a constant, as a function of redshift."""
    comoving = luminosity_distance(_GRID) / (1 + _GRID)
    element = np.gradient(comoving**3, _GRID)
    return lambda redshift: np.interp(redshift, _GRID, element)
