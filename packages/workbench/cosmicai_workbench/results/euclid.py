"""A catalogue under the names, and by the definitions, of Euclid's photometric redshifts (PHZ)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cosmicai import outputs
from cosmicai.columns import Column
from cosmicai.errors import InvalidInput

from cosmicai_workbench.results.catalogue import CatalogueTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai.model.interface import Distribution
    from numpy.typing import NDArray

    from cosmicai_workbench.results.catalogue import RunCatalogue

GRID: Final = np.arange(601) / 100
"""Redshifts of PHZ_PDF, from 0 to 6."""
_LEVELS: Final = {"PHZ_70_INT": 0.70, "PHZ_90_INT": 0.90, "PHZ_95_INT": 0.95}
_RENAMED: Final = {
    "OBJECT_ID": "object_id",
    "RIGHT_ASCENSION": "ra",
    "DECLINATION": "dec",
    "PHZ_MEDIAN": "z_median",
    "PHZ_MODE_1": "z_mode",
    "PHZ_FLAGS": "flags",
    "HEALPIX": "healpix",
}
_STEPS: Final = 1000
"""Of the probability, in which the shortest interval is looked for; the levels are whole ones."""
_TAIL: Final = 1e-4
"""Probability at each end that is not looked at."""
_ROWS: Final = 4096
_DECLARED: Final = (
    *(
        Column(
            name=name,
            dtype="float32",
            description=f"shortest interval that holds {level:.0%} of the probability",
            ucd="stat.interval;src.redshift.phot",
        )
        for name, level in _LEVELS.items()
    ),
    Column(
        name="PHZ_PDF",
        dtype="float32",
        description="probability density at the redshifts 0, 0.01, ..., 6",
        ucd="stat.pdf;src.redshift.phot",
    ),
)


class EuclidCatalogue:
    """A run's catalogue in Euclid's columns.

    Parameters
    ----------
    catalogue
        Of a run whose model gives a distribution.

    Raises
    ------
    InvalidInput
        It gives none.
    """

    positions = ("RIGHT_ASCENSION", "DECLINATION", "HEALPIX")

    def __init__(self, catalogue: RunCatalogue) -> None:
        if catalogue.output is None:
            raise InvalidInput(
                "--columns euclid: intervals of 70 and 90 % and PHZ_PDF need p(z) of each galaxy, "
                "and the model of this run gives only a redshift; export without --columns, or "
                "run a model with a distribution"
            )
        self._source = catalogue
        self.output: Distribution = catalogue.output
        self.num_rows = catalogue.num_rows
        renamed = {
            new: replace(catalogue.columns[old], name=new)
            for new, old in _RENAMED.items()
            if old in catalogue.columns
        }
        self.columns = renamed | {column.name: column for column in _DECLARED}
        self.incomplete = {new for new, old in _RENAMED.items() if old in catalogue.incomplete}
        self.escaped = {new for new, old in _RENAMED.items() if old in catalogue.escaped}
        self.widths = {
            new: catalogue.widths[old] for new, old in _RENAMED.items() if old in catalogue.widths
        }

    def blocks(self) -> Iterator[CatalogueTable]:
        """Yield the rows, in order, some at a time."""
        for block in self._source.blocks():
            for start in range(0, len(block), _ROWS):
                yield self._renamed(block[start : start + _ROWS])

    def empty(self) -> CatalogueTable:
        """Return no rows."""
        return self._renamed(self._source.empty())

    def _renamed(self, block: CatalogueTable) -> CatalogueTable:
        values: dict[str, Any] = {
            new: block.values[old] for new, old in _RENAMED.items() if old in block.values
        }
        values |= shortest_intervals(self.output, block.distributions)
        values["PHZ_PDF"] = outputs.pdf(self.output, block.distributions, GRID)
        masked = {name: np.ma.MaskedArray(found) for name, found in values.items()}
        return CatalogueTable(self.columns, masked, block.raw)


def shortest_intervals(output: Distribution, raw: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Return, by name, the shortest interval (N, 2) that holds a part of each galaxy's p(z)."""
    ends = _quantiles(output, raw)
    found = {}
    for name, level in _LEVELS.items():
        width = round(level * _STEPS)
        length = ends[:, width:] - ends[:, :-width]
        best = np.where(np.isnan(length), np.inf, length).argmin(axis=1)[:, None]
        pair = [np.take_along_axis(ends, best + step, 1) for step in (0, width)]
        found[name] = np.concatenate(pair, axis=1).astype(np.float32)
    return found


def _quantiles(output: Distribution, raw: NDArray[Any]) -> NDArray[np.float64]:
    """Return the quantiles (N, _STEPS - 1) at equal steps, from p(z) summed up on a grid.

    The exact ones of a mixture take seven times as long.
    """
    outer = outputs.quantiles(output, raw, (_TAIL, 1 - _TAIL))
    z = outer[:, :1] + np.diff(outer, axis=1) * np.linspace(0, 1, _STEPS + 1)
    below = outputs.cdf_at(output, raw, z)
    levels = np.arange(1, _STEPS) / _STEPS
    rows = [np.interp(levels, *pair) for pair in zip(below, z, strict=True)]
    return np.array(rows).reshape(len(raw), len(levels))
