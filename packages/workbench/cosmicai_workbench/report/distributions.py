"""What a page shows of p(z): its sum over the galaxies, and that of a few."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.calibration import INTERVALS
from cosmicai.model.interface import PdfOutput
from cosmicai.outputs import pdf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cosmicai.model.interface import Distribution
    from numpy.typing import NDArray

    from cosmicai_workbench.report.sample import Sample
    from cosmicai_workbench.results.run_folder import Run

    Floats = NDArray[np.floating]

_POINTS = 301
_MOST_RANKS = 40
_MOST_OF_RANK = 2000
"""Galaxies of a rank whose p(z) is added up: what is left out is made up for by a factor."""
_BLOCK = 500
_EXAMPLES = 5


@dataclass(frozen=True)
class Distributions:
    """Probability densities on one grid of redshifts.

    Attributes
    ----------
    grid
        (G,) redshifts.
    stacked
        (G,) the sum of all p(z): galaxies per unit of redshift.
    used, of
        How many galaxies' p(z) were added up, of how many that have one.
    examples
        Position in the sample → p(z), (G,), of a few galaxies.
    """

    grid: "Floats"
    stacked: "Floats"
    used: int
    of: int
    examples: "dict[int, Floats]"


def gather(run: "Run", sample: "Sample") -> Distributions | None:
    """Read the p(z) of a run, rank by rank; None of a model without.

    Raises
    ------
    InvalidInput
        If the predictions cannot be read.
    """
    output, redshift = run.predictions.output, run.predictions.redshift
    if output is None or not np.isfinite(redshift).any():
        return None
    grid = _grid(output, run.predictions.stored)
    rank_of, wanted = run.predictions.rank, _examples(sample)
    ranks, starts = np.unique(rank_of, return_index=True)
    first = dict(zip(ranks.tolist(), starts.tolist(), strict=True))
    owners = {int(rank_of[sample.positions[i]]) for i in wanted}
    step = max(1, -(-ranks.size // _MOST_RANKS))
    added = set(ranks[::step].tolist())
    stacked, used, examples = np.zeros(grid.size), 0, {}
    for rank in sorted(owners | added):
        raw = run.predictions_of([rank], distributions=True).raw
        if raw is None:
            continue
        for i in wanted:
            row = int(sample.positions[i]) - first[rank]
            if 0 <= row < len(raw):
                examples[i] = pdf(output, raw[row : row + 1], grid)[0]
        if rank in added:
            part = raw[:: max(1, -(-len(raw) // _MOST_OF_RANK))]
            for start in range(0, len(part), _BLOCK):
                density = pdf(output, part[start : start + _BLOCK], grid)
                good = np.isfinite(density).all(axis=1)
                stacked += density[good].sum(axis=0)
                used += int(good.sum())
    of = int(np.isfinite(redshift).sum())
    return Distributions(grid, stacked * (of / max(used, 1)), used, of, examples)


def _grid(output: "Distribution", stored: "Mapping[str, NDArray[Any]]") -> "Floats":
    """Return redshifts from below nearly all p(z) to above, not of the estimates alone."""
    if isinstance(output, PdfOutput):
        return np.linspace(output.start, output.stop, output.bins)
    lower, upper = INTERVALS[-2:]
    low, high = np.nanpercentile(stored[lower], 0.1), np.nanpercentile(stored[upper], 99.9)
    margin = 0.15 * (high - low) or 0.1
    return np.linspace(low - margin, high + margin, _POINTS)


def _examples(sample: "Sample") -> list[int]:
    """Return a few galaxies that differ: at random, and one of the extremes and of the flagged."""
    odd = [int(kind[0]) for kind in (sample.extreme, sample.flagged) if kind.size]
    rest = _EXAMPLES - len(odd)
    step = max(1, sample.random.size // rest)
    found = [*(int(i) for i in sample.random[::step][:rest]), *odd]
    return [i for i in dict.fromkeys(found) if np.isfinite(sample.redshift[i])]
