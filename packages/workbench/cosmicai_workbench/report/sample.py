"""Galaxies that a page shows one by one: its points, its cutouts, what a selection lists."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai_workbench.report.interactive import numbers
from cosmicai_workbench.report.plot import Galaxies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Predictions

    Floats = NDArray[np.floating]
    Indices = NDArray[np.integer]

SIZE = 1500
"""Galaxies of a sample: as many points as a browser draws in several figures at once."""
_EXTREME = 300
_FLAGGED = 300
_WITH_BARS = 300
"""Galaxies whose error bars are drawn: more would hide each other."""


@dataclass(frozen=True)
class Sample:
    """A sample of a run's galaxies.

    Attributes
    ----------
    positions
        (n,) which of the run's galaxies, ascending.
    random, extreme, flagged
        Which of the sample, as positions in it: drawn at random; farthest off, or with the lowest
        and highest redshift where no truth is known; with a flag, or without a prediction.
    """

    predictions: "Predictions"
    positions: "Indices"
    random: "Indices"
    extreme: "Indices"
    flagged: "Indices"

    @cached_property
    def columns(self) -> "dict[str, NDArray[Any]]":
        """The stored columns of the sample's galaxies."""
        stored = self.predictions.stored
        return {name: values[self.positions] for name, values in stored.items()}

    @property
    def redshift(self) -> "Floats":
        """Predicted redshifts."""
        return self.columns["redshift"].astype(float)

    @property
    def true(self) -> "Floats":
        """True redshifts, NaN where unknown."""
        return self.columns["true_redshift"].astype(float)

    @property
    def residual(self) -> "Floats":
        """Δz / (1 + z), NaN where unknown."""
        return (self.redshift - self.true) / (1 + self.true)

    @property
    def ranks(self) -> "Indices":
        """Which rank predicted each."""
        return self.predictions.rank[self.positions]

    @cached_property
    def names(self) -> list[str]:
        """Ids of the objects."""
        column = self.predictions.catalogue.columns["object_id"]
        return [str(column.values[i]) for i in self.positions]

    def points(
        self,
        x: "Floats",
        y: "Floats",
        label: str,
        *,
        colour: str = "blue",
        bars: bool = False,
        small: bool = False,
    ) -> Galaxies:
        """Return the galaxies that have both coordinates as points of a figure.

        Parameters
        ----------
        x, y
            (n,), NaN where unknown.
        small
            Whether they are drawn over a density.
        bars
            Whether y is the predicted redshift, whose 68 % interval is drawn where there is one.
        """
        shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        low = high = None
        if bars and "z_lo68" in self.columns:
            shown = shown[:: max(1, -(-shown.size // _WITH_BARS))]
            low, high = (self.columns[n].astype(float)[shown] for n in ("z_lo68", "z_hi68"))
        return Galaxies(
            x[shown], y[shown], shown, label, "ink" if small else colour, low, high, small
        )

    def document(self) -> dict[str, Any]:
        """Return the sample as the page's script reads it: name → values."""
        found: dict[str, Any] = {"id": self.names, "rank": numbers(self.ranks)}
        for name, values in self.columns.items():
            found[name] = numbers(values.astype(float) if values.dtype.kind == "f" else values)
        return found


def choose(predictions: "Predictions", seed: int = 0) -> Sample:
    """Choose a run's sample: the same for the same run."""
    count = predictions.redshift.size
    flags = predictions.stored.get("flags", np.zeros(count, np.int32))
    odd = (flags != 0) | ~np.isfinite(predictions.redshift)
    rng = np.random.default_rng(seed)
    flagged = _some(np.flatnonzero(odd), _FLAGGED, rng)
    extreme = _extremes(predictions, ~odd)
    left = np.setdiff1d(np.arange(count), np.concatenate([flagged, extreme]))
    random = _some(left, SIZE - flagged.size - extreme.size, rng)
    positions = np.sort(np.concatenate([random, extreme, flagged])).astype(np.int64)
    return Sample(
        predictions,
        positions,
        *(np.searchsorted(positions, part) for part in (random, extreme, flagged)),
    )


def _some(of: "Indices", most: int, rng: np.random.Generator) -> "Indices":
    return of if of.size <= most else np.sort(rng.choice(of, most, replace=False))


def _extremes(predictions: "Predictions", fine: "NDArray[np.bool_]") -> "Indices":
    """Return the galaxies farthest off, worst first; of unknown truth, of extreme redshift."""
    known = np.flatnonzero(fine & predictions.known)
    if known.size:
        true = predictions.true_redshift[known].astype(float)
        off = np.abs(predictions.redshift[known] - true) / (1 + true)
        return known[np.argsort(-off, kind="stable")][: min(_EXTREME, known.size // 4)]
    found = np.flatnonzero(fine)
    order = found[np.argsort(predictions.redshift[found], kind="stable")]
    half = min(_EXTREME, found.size // 4) // 2
    return np.concatenate([order[:half], order[order.size - half :]])
