"""Split-conformal intervals: quantiles of the residuals in cells of predicted redshift and r.

Of n galaxies in a cell, the k-th smallest and the k-th largest residual (z_true - z) / (1 + z)
bound the interval; with k = ⌊(n + 1) α/2⌋, another galaxy of the cell's kind is inside with a
probability of at least 1 - α, whatever the model (Vovk et al. 2005, Mondrian conformal
prediction). Each end leaves out the same share, so that a model that is biased in a cell gets an
interval that is shifted there.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cosmicai.calibration import Calibration, Cell, LabelledSet, Residuals
from cosmicai.errors import InvalidInput
from cosmicai.facts import INTERVAL_PERCENT
from cosmicai.quality import MAGNITUDE_EDGES, REDSHIFT_EDGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

FEWEST: Final = 200 // (100 - max(INTERVAL_PERCENT)) - 1
"""Galaxies that the widest interval takes at least."""
MINIMUM: Final = 100
"""Galaxies of a cell, unless asked otherwise.

Its coverage of 68 % is then within 5 points or so (one standard deviation). More place the interval
of each cell better; fewer leave bins that differ in cells of their own, which matters more: see
docs/models.md.
"""
_FOLDS: Final = 5


def fit(
    redshift: "Floats",
    true: "Floats",
    magnitude_r: "Floats | None",
    labelled: LabelledSet,
    *,
    minimum: int = MINIMUM,
) -> Calibration:
    """Return the calibration of a model from galaxies whose redshifts are known.

    Parameters
    ----------
    redshift, true
        (N,), predicted and true, all finite.
    magnitude_r
        (N,), finite; None where the model's galaxies have none.
    labelled
        Where the galaxies are from.
    minimum
        Galaxies of a cell. Neighbouring bins of quality figures share a cell until it has as many.

    Raises
    ------
    InvalidInput
        There are too few galaxies for the widest interval.
    """
    if len(redshift) < FEWEST:
        raise InvalidInput(
            f"{FEWEST} galaxies with a known and a predicted redshift expected, for an interval "
            f"of {max(INTERVAL_PERCENT)} %; found {len(redshift)}"
        )
    minimum = max(minimum, FEWEST)
    edges = REDSHIFT_EDGES, MAGNITUDE_EDGES if magnitude_r is not None else ()
    rows = _position(edges[0], redshift)
    columns = np.zeros_like(rows) if magnitude_r is None else _position(edges[1], magnitude_r)
    counts = np.zeros((len(edges[0]) + 1, len(edges[1]) + 1), np.int64)
    np.add.at(counts, (rows, columns), 1)

    cell_of = np.zeros_like(counts)
    cells = 0
    for row in _merged(counts.sum(axis=1), minimum):
        for column in _merged(counts[row].sum(axis=0), minimum):
            cell_of[row, column] = cells
            cells += 1
    residual = (true.astype(float) - redshift) / (1 + redshift.astype(float))
    members = cell_of[rows, columns]
    kept_rows, kept_columns = _needed(cell_of), _needed(cell_of.T)
    return Calibration(
        redshift_edges=tuple(edges[0][i] for i in kept_rows),
        magnitude_edges=tuple(edges[1][i] for i in kept_columns),
        cell_of=tuple(
            tuple(int(cell_of[i, j]) for j in (*kept_columns, -1)) for i in (*kept_rows, -1)
        ),
        cells=tuple(_cell(residual[members == cell]) for cell in range(cells)),
        labelled=labelled,
    )


def _position(edges: "Sequence[float]", values: "Floats") -> "NDArray[np.intp]":
    return np.searchsorted(edges, values, side="right")


def _merged(counts: "NDArray[np.int64]", minimum: int) -> "Iterable[slice]":
    """Return runs of neighbouring bins, each with enough galaxies; one if all have too few."""
    starts, total = [0], 0
    for position, count in enumerate(counts):
        if total >= minimum and counts[position:].sum() >= minimum:
            starts.append(position)
            total = 0
        total += count
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(counts)], strict=True)]


def _needed(cell_of: "NDArray[np.int64]") -> list[int]:
    """Return which of the edges along the first axis have different cells on their sides."""
    return [int(i) for i in np.flatnonzero((cell_of[1:] != cell_of[:-1]).any(axis=1))]


def _cell(residual: "NDArray[np.float64]") -> Cell:
    folds = np.random.default_rng(0).permutation(len(residual)) % _FOLDS
    levels: dict[str, Any] = {}
    for percent in INTERVAL_PERCENT:
        lower, upper, coverage = quantiles(residual, percent)
        inside = 0
        for fold in range(_FOLDS):
            low, high, _ = quantiles(residual[folds != fold], percent)
            here = residual[folds == fold]
            inside += int(((low <= here) & (here <= high)).sum())
        levels[f"level{percent}"] = Residuals(
            lower=lower, upper=upper, coverage=coverage, measured=inside / len(residual)
        )
    return Cell(galaxies=len(residual), **levels)


def quantiles(residual: "NDArray[np.float64]", percent: int) -> tuple[float, float, float]:
    """Return the residuals that bound an interval, and how likely another one is between them."""
    n = len(residual)
    left_out = max(1, (n + 1) * (100 - percent) // 200)
    ordered = np.sort(residual)
    coverage = (n + 1 - 2 * left_out) / (n + 1)
    return float(ordered[left_out - 1]), float(ordered[n - left_out]), coverage
