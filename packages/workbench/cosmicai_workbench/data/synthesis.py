"""Galaxies as a model sees them: painted image, real magnitudes, real redshift."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import IMAGE_SIZE
from numpy.typing import NDArray

from cosmicai_workbench.data.morphology import draw_morphology
from cosmicai_workbench.data.painting import paint
from cosmicai_workbench.data.photometry import (
    SPLITS,
    Photometry,
    Split,
    load_split,
)
from cosmicai_workbench.data.resampling import Resampler

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 256
"""Galaxies that share one stream of random numbers."""


@dataclass(frozen=True)
class Galaxies:
    """Galaxies ready for a partition.

    Attributes
    ----------
    image
        float32 (N, 5, side, side), nanomaggies.
    magnitude
        float32 (N, 5), AB, corrected for Galactic extinction.
    redshift
        float32 (N,).
    parent
        int64 (N,), row of the survey table.
    """

    image: NDArray[np.float32]
    magnitude: NDArray[np.float32]
    redshift: NDArray[np.float32]
    parent: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.redshift)

    def head(self, count: int) -> "Galaxies":
        """Return the first ``count`` galaxies."""
        return Galaxies(
            self.image[:count], self.magnitude[:count], self.redshift[:count], self.parent[:count]
        )


def paint_galaxies(
    photometry: Photometry, rng: np.random.Generator, side: int = IMAGE_SIZE
) -> Galaxies:
    """Draw a shape for each galaxy of ``photometry`` and paint it."""
    image = paint(photometry.flux, draw_morphology(photometry, rng), rng, side=side)
    return Galaxies(
        image,
        photometry.magnitude.astype(np.float32),
        photometry.redshift.astype(np.float32),
        photometry.parent,
    )


def synthesize(count: int, split: Split, seed: int, side: int = IMAGE_SIZE) -> "Iterator[Galaxies]":
    """Yield ``count`` galaxies of one side of the train/test split, in blocks.

    Every survey row comes once, in an order drawn by the seed, before the first resampled galaxy.
    The galaxy at a position depends only on split, seed and position, not on ``count``.

    Parameters
    ----------
    count
        Galaxies to make.
    split
        Side of the split.
    seed
        Seed of order, shapes and noise.
    side
        Pixels on a side.
    """
    originals = load_split(split)
    part = SPLITS.index(split)
    order = np.random.default_rng((seed, part)).permutation(len(originals))
    resampler: Resampler | None = None
    made = 0
    for block in itertools.count():
        if made >= count:
            return
        rng = np.random.default_rng((seed, part, block))
        rows = order[block * BLOCK : (block + 1) * BLOCK]
        if len(rows):
            photometry = originals[rows]
        else:
            resampler = resampler or Resampler(originals)
            photometry = resampler.draw(BLOCK, rng)
        # Whole blocks, cut afterwards, so that a galaxy does not depend on the count.
        galaxies = paint_galaxies(photometry, rng, side).head(count - made)
        made += len(galaxies)
        yield galaxies
