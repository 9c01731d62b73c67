"""Redshift quality of a run, overall and by bins of predicted redshift and of magnitude."""

from typing import TYPE_CHECKING

import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.quality import figures, merge, statistics_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmicai.schema import Quality, QualityStatistics
    from numpy.typing import NDArray

    from cosmicai_workbench.results.run_folder import Run


def quality_by_bin(run: "Run", bins: int | None = None) -> "Quality":
    """Return the quality of a run's galaxies.

    Parameters
    ----------
    bins
        So many bins of about equally many galaxies each, from the predictions; by default the
        fixed bins of the ranks' records.

    Raises
    ------
    InvalidInput
        If no galaxy of the run has both a known and a predicted redshift.
    """
    predictions = run.predictions
    known = predictions.known
    if not known.any():
        raise InvalidInput(f"{run.path}: no galaxy has a known redshift to compare with")
    if bins is None:
        recorded = figures(merge(record.quality for record in run.records))
        if recorded.by_redshift:  # otherwise the records are older than the bins
            return recorded
        return figures(merge(_statistics(run)))
    edges = {
        "redshift_edges": _edges(predictions.redshift[known], bins),
        "magnitude_edges": _edges(predictions.magnitude_r[known], bins),
    }
    return figures(merge(_statistics(run, **edges)), **edges)


def _statistics(run: "Run", **edges: list[float]) -> "Iterator[QualityStatistics]":
    """Compute the statistics of one rank after the other, which bounds the memory of p(z)."""
    for record in run.records:
        found = run.predictions_of([record.rank], distributions=True)
        columns = dict(found.stored)
        if found.output is not None and found.raw is not None:
            columns |= {"pdf": found.raw, "output": np.array(found.output.model_dump_json())}
        yield statistics_of(columns, **edges)


def _edges(values: "NDArray[np.float32]", bins: int) -> list[float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return []
    inner = np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1], method="nearest")
    return [float(edge) for edge in np.unique(inner) if edge > finite.min()]
