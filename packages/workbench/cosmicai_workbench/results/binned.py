"""Redshift quality by bins of true redshift and of magnitude."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.quality import figures, statistics

if TYPE_CHECKING:
    from cosmicai.schema import Quality
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Run


@dataclass(frozen=True)
class Bin:
    """Quality of the galaxies from ``low`` to ``high``."""

    low: float
    high: float
    quality: "Quality"

    def document(self) -> dict[str, Any]:
        """Return the bin as JSON would have it."""
        return {k: v for k, v in asdict(self).items() if k != "quality"} | self.quality.model_dump()


def quality_by_bin(run: "Run", bins: int = 6) -> dict[str, list[Bin]]:
    """Return the quality in ``bins`` bins of about equally many galaxies each.

    Returns
    -------
    dict
        ``"true redshift"`` and ``"r magnitude"`` → bins from low to high.

    Raises
    ------
    InvalidInput
        If no galaxy of the run has both a known and a predicted redshift.
    """
    predictions = run.predictions
    known = predictions.known
    if not known.any():
        raise InvalidInput(f"{run.path}: no galaxy has a known redshift to compare with")
    true, predicted = predictions.true_redshift[known], predictions.redshift[known]
    magnitude = predictions.magnitude_r[known]
    return {
        "true redshift": _bins(true, predicted, true, bins),
        "r magnitude": _bins(magnitude, predicted, true, bins),
    }


def _bins(
    values: "NDArray[np.float32]",
    predicted: "NDArray[np.float32]",
    true: "NDArray[np.float32]",
    bins: int,
) -> list[Bin]:
    finite = np.isfinite(values)
    if not finite.any():
        return []
    edges = np.unique(np.quantile(values[finite].astype(float), np.linspace(0, 1, bins + 1)))
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(edges.size - 2, 0))
    found = []
    for i in range(max(edges.size - 1, 1)):
        here = finite & (which == i)
        if here.any():
            quality = figures(statistics(predicted[here], true[here]))
            found.append(Bin(float(edges[i]), float(edges[min(i + 1, edges.size - 1)]), quality))
    return found
