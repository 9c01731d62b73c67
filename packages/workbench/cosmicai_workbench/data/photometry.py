"""Real photometry and redshifts: rows of the SDSS main galaxy sample that kcorrect carries.

The table is ``gst_tests_small.fits`` of the PyPI package kcorrect (M. Blanton, BSD): 10,000
galaxies with model fluxes in u, g, r, i, z, Galactic extinction and spectroscopic redshifts.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import ZERO_POINT
from numpy.typing import NDArray

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


SOURCE = "SDSS main galaxy sample, kcorrect data/test/gst_tests_small.fits"

MIN_FLUX = 0.05
"""Nanomaggies; below it in any band a galaxy has no usable magnitude and is left out."""

_TEST_SHARE = 0.25
_VALIDATION_SHARE = 0.15
_MIN_REDSHIFT, _MAX_REDSHIFT = 0.01, 0.4


@dataclass(frozen=True)
class Photometry:
    """Photometry of N galaxies; all arrays share their first axis.

    Attributes
    ----------
    flux
        float64 (N, 5), nanomaggies in u, g, r, i, z as observed, so dimmed by Galactic dust.
    flux_error
        float64 (N, 5), standard error of ``flux``; infinite where the survey gives none.
    extinction
        float64 (N, 5), magnitudes of Galactic extinction.
    redshift
        float64 (N,), spectroscopic.
    parent
        int64 (N,), row of the survey table the galaxy comes from.
    """

    flux: NDArray[np.float64]
    flux_error: NDArray[np.float64]
    extinction: NDArray[np.float64]
    redshift: NDArray[np.float64]
    parent: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.redshift)

    def __getitem__(self, rows: Any) -> "Photometry":
        """Select galaxies by anything that indexes an array to an array."""
        return Photometry(
            self.flux[rows],
            self.flux_error[rows],
            self.extinction[rows],
            self.redshift[rows],
            self.parent[rows],
        )

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """AB magnitudes corrected for Galactic extinction, (N, 5)."""
        return ZERO_POINT - 2.5 * np.log10(self.flux) - self.extinction

    @property
    def dereddened_flux(self) -> NDArray[np.float64]:
        """Nanomaggies corrected for Galactic extinction, (N, 5)."""
        return self.flux * 10.0 ** (0.4 * self.extinction)


def concatenate(first: Photometry, second: Photometry) -> Photometry:
    """Return the galaxies of ``first``, then those of ``second``."""
    return Photometry(
        np.concatenate((first.flux, second.flux)),
        np.concatenate((first.flux_error, second.flux_error)),
        np.concatenate((first.extinction, second.extinction)),
        np.concatenate((first.redshift, second.redshift)),
        np.concatenate((first.parent, second.parent)),
    )


def jittered(photometry: Photometry, amount: float, rng: np.random.Generator) -> Photometry:
    """Return galaxies with noise of ``amount`` standard errors added to their fluxes."""
    error = np.where(np.isfinite(photometry.flux_error), photometry.flux_error, 0)
    noise = amount * error * rng.standard_normal(error.shape)
    return replace(photometry, flux=np.maximum(photometry.flux + noise, MIN_FLUX))


@lru_cache(maxsize=1)
def _table() -> dict[str, NDArray[np.float64]]:
    """Read the columns used of the survey table."""
    from astropy.io import fits

    columns = ("MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION", "Z", "RA", "DEC")
    with (files("kcorrect") / "data/test/gst_tests_small.fits").open("rb") as file:
        table = fits.getdata(file, 1)
        # FITS is big-endian; astype gives native arrays.
        return {name: table[name].astype(np.float64) for name in columns}


def sky_positions() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension and declination (degrees) of every row of the survey table."""
    table = _table()
    return table["RA"], table["DEC"]


@lru_cache(maxsize=1)
def load_sample() -> Photometry:
    """Load the usable rows of the survey table: finite, bright enough, 0.01 < z < 0.4."""
    table = _table()
    flux, inverse_variance = table["MODELFLUX"], table["MODELFLUX_IVAR"]
    extinction, redshift = table["EXTINCTION"], table["Z"]
    usable = (
        np.isfinite(flux).all(axis=1)
        & np.isfinite(extinction).all(axis=1)
        & (flux > MIN_FLUX).all(axis=1)
        & (redshift > _MIN_REDSHIFT)
        & (redshift < _MAX_REDSHIFT)
    )
    measured = inverse_variance > 0
    error = np.full_like(flux, np.inf)
    error[measured] = inverse_variance[measured] ** -0.5
    rows = np.flatnonzero(usable)
    return Photometry(flux[rows], error[rows], extinction[rows], redshift[rows], rows)


def as_split(name: str) -> Split:
    """Return ``name`` as a side of the split.

    Raises
    ------
    InvalidInput
        If there is no such side.
    """
    for split in SPLITS:
        if name == split:
            return split
    raise InvalidInput(f"split: one of {', '.join(SPLITS)} expected, found {name!r}")


def is_test_parent(parent: int) -> bool:
    """Tell whether a survey row belongs to the test split.

    By a hash of the row number, so that it depends on no seed, no order and no other row: a
    galaxy made from this row, by any command, is always on the same side.
    """
    return _hash_below("gst", parent, _TEST_SHARE)


def _hash_below(salt: str, parent: int, share: float) -> bool:
    digest = hashlib.sha256(f"{salt}:{parent}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def load_split(split: Split) -> Photometry:
    """Load the galaxies of one side of the train/test split."""
    sample = load_sample()
    in_test = np.array([is_test_parent(int(parent)) for parent in sample.parent])
    return sample[in_test if split == "test" else ~in_test]


def load_training() -> tuple[Photometry, Photometry]:
    """Load the galaxies of the train split as those to learn from and those to validate on.

    By a hash of the survey row, as the split itself: no galaxy has a relative on the other side.
    """
    train = load_split("train")
    validation = np.array(
        [_hash_below("gst-validation", int(row), _VALIDATION_SHARE) for row in train.parent]
    )
    return train[~validation], train[validation]
