"""How good the redshifts are: statistics that merge over any number of ranks, and the figures.

A rank computes its :class:`~cosmicai.schema.QualityStatistics` with NumPy; merging and the
figures are plain Python, so that Summarize needs no NumPy, and memory stays that of a few
histograms whether ten ranks are merged or ten thousand.

Accuracy. The sums are float64 and merge by :func:`math.fsum`: MAE, MSE, bias, R², coverage, CRPS,
CDE loss and the share of outliers beyond 0.05 are exact to rounding. What depends on the order of
the galaxies comes from fixed histograms, linear within a bin: the median and the NMAD of Δz/(1+z)
from bins of 1e-4 over [-0.5, 0.5) (the median is off by at most one bin, the NMAD by at most
1.4826 · 2 bins, and on smooth samples of some thousand galaxies by about 1e-5), the statistics of
the PIT from bins of 5e-4. The galaxies of one bin of redshift or magnitude have histograms that
are coarser: see ``BINNED``.
"""

from __future__ import annotations

import itertools
import math
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmicai.facts import INTERVAL_PERCENT, OUTLIER_LIMIT, WIDE_OUTLIER_LIMIT
from cosmicai.histograms import Cumulative, Scale, Sum, solve, unpack
from cosmicai.schema import BinFigures, Figures, Quality, QualityStatistics, Statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cosmicai.scores import Scores

    Floats = NDArray[np.floating[Any]]


class Scales(NamedTuple):
    """Bins of the histograms of Δz/(1+z) and of the PIT."""

    relative: Scale
    pit: Scale


OVERALL = Scales(Scale(-0.5, 1e-4, 10_000), Scale(0.0, 5e-4, 2000))
BINNED = Scales(Scale(-0.5, 1e-3, 1000), Scale(0.0, 1e-2, 100))
"""Of the galaxies in one bin of redshift or magnitude: a rank's record holds a score of these."""

REDSHIFT_EDGES = (
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6,
    1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0,
)  # fmt: skip
"""Between the bins of predicted redshift; the first and the last are open."""
MAGNITUDE_EDGES = (14.0, 15.0, 16.0, *(16.5 + 0.5 * step for step in range(24)))
"""Between the bins of r magnitude, up to 28; the first and the last are open."""
PIT_BINS = 20
"""Of the histogram that is shown."""
COVERAGE_MARGIN = {68: 0.02, 95: 0.01}
"""Interval in per cent → by how much less it may hold without a warning."""
CHANCE = 1e-3
"""An interval under-covers if chance explains so few with at most this probability."""

_NMAD_FACTOR = 1.4826  # makes the NMAD of a normal distribution its standard deviation
_SUMS = (
    "sum_true",
    "sum_true_squared",
    "sum_error",
    "sum_absolute_error",
    "sum_squared_error",
    "sum_crps",
    "sum_density",
    "sum_squared_density",
)
_COUNTS = (
    "count",
    "outliers",
    "below",
    "above",
    "intervals",
    "within_68",
    "within_95",
    "distributions",
)


def statistics(
    predicted: Floats,
    true: Floats,
    magnitude: Floats | None = None,
    *,
    intervals: Mapping[str, Floats] | None = None,
    scores: Scores | None = None,
    redshift_edges: Sequence[float] = REDSHIFT_EDGES,
    magnitude_edges: Sequence[float] = MAGNITUDE_EDGES,
) -> QualityStatistics:
    """Return the statistics of some galaxies; those without a finite pair are left out.

    Parameters
    ----------
    predicted, true
        (N,) redshifts; NaN where unpredicted or unknown.
    magnitude
        (N,) in r; without it, there are no bins of magnitude.
    intervals
        ``z_lo68``, ``z_hi68``, ``z_lo95``, ``z_hi95``: (N,) each, if the model has intervals.
    scores
        If it has distributions.
    redshift_edges, magnitude_edges
        Between the bins of predicted redshift and of magnitude. Statistics merge where these are
        the same.
    """
    import numpy as np

    known = np.isfinite(predicted) & np.isfinite(true) & (true > -1)
    columns = {"predicted": predicted, "true": true}
    columns |= dict(intervals or {})
    columns |= {} if scores is None else scores._asdict()
    galaxies = {name: np.asarray(values)[known].astype(float) for name, values in columns.items()}
    by_redshift = _binned(galaxies, galaxies["predicted"], redshift_edges)
    by_magnitude = {} if magnitude is None else _binned(galaxies, magnitude[known], magnitude_edges)
    return QualityStatistics(
        **_counted(galaxies, OVERALL), by_redshift=by_redshift, by_magnitude=by_magnitude
    )


def statistics_of(columns: Mapping[str, NDArray[Any]], **edges: Any) -> QualityStatistics:
    """Return the statistics of galaxies from the columns that a rank stores.

    Parameters
    ----------
    columns
        Name → values (N,), as ``cosmicai.columns`` declares them; with p(z), ``pdf`` and
        ``output`` as well.
    edges
        Of bins, as for :func:`statistics`.
    """
    from cosmicai.calibration import INTERVALS

    true, scores = columns["true_redshift"], None
    if "pdf" in columns:
        from cosmicai.model.interface import PointOutput, parse_output
        from cosmicai.scores import scores_of

        output = parse_output(str(columns["output"]))
        if not isinstance(output, PointOutput):
            scores = scores_of(output, columns["pdf"], true)
    return statistics(
        columns["redshift"],
        true,
        columns.get("magnitude_r"),
        intervals={name: columns[name] for name in INTERVALS if name in columns},
        scores=scores,
        **edges,
    )


def _binned(
    galaxies: Mapping[str, NDArray[np.float64]], values: Floats, edges: Sequence[float]
) -> dict[int, Statistics]:
    import numpy as np

    # In single precision, as columns are stored: 0.3 itself is in the bin that starts there.
    numbers = np.searchsorted(np.asarray(edges, np.float32), values.astype(np.float32), "right")
    numbers[~np.isfinite(values)] = -1
    return {
        int(number): Statistics(
            **_counted({name: each[numbers == number] for name, each in galaxies.items()}, BINNED)
        )
        for number in np.unique(numbers)
        if number >= 0
    }


def _counted(galaxies: Mapping[str, NDArray[np.float64]], scales: Scales) -> dict[str, Any]:
    """Return the fields of the statistics of galaxies that are all known."""
    import numpy as np

    z = galaxies["true"]
    error = galaxies["predicted"] - z
    relative = error / (1 + z)
    histogram, below, above = scales.relative.count(relative)
    found = {
        "count": len(z),
        "sum_true": float(z.sum()),
        "sum_true_squared": float((z * z).sum()),
        "sum_error": float(error.sum()),
        "sum_relative": float(relative.sum()),
        "sum_absolute_error": float(np.abs(error).sum()),
        "sum_squared_error": float((error * error).sum()),
        "outliers": int((np.abs(relative) > OUTLIER_LIMIT).sum()),
        "below": below,
        "above": above,
        "histogram": histogram,
    }
    if "z_lo68" in galaxies:
        found["intervals"] = int(np.isfinite(galaxies["z_lo68"]).sum())
        for level in INTERVAL_PERCENT:
            low, high = galaxies[f"z_lo{level}"], galaxies[f"z_hi{level}"]
            found[f"within_{level}"] = int(((low <= z) & (z <= high)).sum())  # not if NaN
    if "pit" in galaxies:
        scored = np.isfinite(galaxies["pit"])
        last = 1 - scales.pit.width / 2  # a PIT of 1 belongs to the last bin
        found["distributions"] = int(scored.sum())
        found["pit"] = scales.pit.count(np.clip(galaxies["pit"][scored], 0, last))[0]
        for name in ("crps", "density", "squared_density"):
            found[f"sum_{name}"] = float(galaxies[name][scored].sum())
    return found


def merge(parts: Iterable[QualityStatistics]) -> QualityStatistics:
    """Add up the statistics of several ranks, in bounded memory; the order does not matter."""
    merging = Merging()
    for part in parts:
        merging.add(part)
    return merging.result()


class Merging:
    """Adds up statistics one by one: a rank's are not kept."""

    def __init__(self) -> None:
        self._total, self._by_redshift, self._by_magnitude = _Total(OVERALL), _Totals(), _Totals()

    def add(self, part: QualityStatistics) -> None:
        """Add the statistics of one rank."""
        self._total.add(part)
        self._by_redshift.add(part.by_redshift)
        self._by_magnitude.add(part.by_magnitude)

    def result(self) -> QualityStatistics:
        """Return the sum so far."""
        return QualityStatistics(
            **self._total.fields(),
            by_redshift=self._by_redshift.merged(),
            by_magnitude=self._by_magnitude.merged(),
        )


class _Total:
    """The sum of statistics with the same bins."""

    def __init__(self, scales: Scales) -> None:
        # All are kept until they are added, whose order then makes no difference.
        self._sums = {name: array("d") for name in (*_SUMS, "sum_relative")}
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._histograms = {"histogram": Sum(scales.relative.bins), "pit": Sum(scales.pit.bins)}
        self._old = False

    def add(self, part: Statistics) -> None:
        for name in _SUMS:
            self._sums[name].append(getattr(part, name))
        self._sums["sum_relative"].append(part.sum_relative or 0.0)
        self._old |= part.sum_relative is None and part.count > 0
        for name in _COUNTS:
            self._counts[name] += getattr(part, name)
        for name, histogram in self._histograms.items():
            histogram.add(getattr(part, name))

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: math.fsum(values) for name, values in self._sums.items()}
        if self._old:
            found["sum_relative"] = None
        packed = {name: histogram.packed() for name, histogram in self._histograms.items()}
        return {**found, **self._counts, **packed}


class _Totals:
    """The sums of the statistics in each bin."""

    def __init__(self) -> None:
        self._totals: dict[int, _Total] = {}

    def add(self, parts: Mapping[int, Statistics]) -> None:
        for number, part in parts.items():
            self._totals.setdefault(number, _Total(BINNED)).add(part)

    def merged(self) -> dict[int, Statistics]:
        return {
            number: Statistics(**total.fields()) for number, total in sorted(self._totals.items())
        }


def figures(
    total: QualityStatistics,
    *,
    redshift_edges: Sequence[float] = REDSHIFT_EDGES,
    magnitude_edges: Sequence[float] = MAGNITUDE_EDGES,
) -> Quality:
    """Return the figures of merit; None where there are too few galaxies to define one.

    Parameters
    ----------
    redshift_edges, magnitude_edges
        Those that the statistics were computed with.
    """
    return Quality(
        **_figures(total, OVERALL),
        by_redshift=_bins(total.by_redshift, redshift_edges),
        by_magnitude=_bins(total.by_magnitude, magnitude_edges),
    )


def _bins(parts: Mapping[int, Statistics], edges: Sequence[float]) -> tuple[BinFigures, ...]:
    limits = (None, *edges, None)
    return tuple(
        BinFigures(low=limits[number], high=limits[number + 1], **_figures(part, BINNED))
        for number, part in sorted(parts.items())
    )


def _figures(total: Statistics, scales: Scales) -> dict[str, Any]:
    n = total.count
    if n == 0:
        return {"num_galaxies": 0}
    scatter = total.sum_true_squared - total.sum_true**2 / n
    histogram = unpack(total.histogram, scales.relative.bins)
    residuals = Cumulative(scales.relative, histogram, total.below)
    nmad = _nmad(residuals, scales.relative, n)
    found: dict[str, Any] = {
        "num_galaxies": n,
        "mae": total.sum_absolute_error / n,
        "mse": total.sum_squared_error / n,
        "bias": None if total.sum_relative is None else total.sum_relative / n,
        "nmad": nmad,
        "r2": 1 - total.sum_squared_error / scatter if scatter > 1e-12 * n else None,
        "outlier_fraction": total.outliers / n,
        "outlier_fraction_15": _beyond(residuals, WIDE_OUTLIER_LIMIT, n),
        "outlier_fraction_3sigma": None,
        "num_intervals": total.intervals,
        "num_distributions": total.distributions,
    }
    if nmad is not None and 3 * nmad < scales.relative.high:
        found["outlier_fraction_3sigma"] = _beyond(residuals, 3 * nmad, n)
    if total.intervals:
        within = {68: total.within_68, 95: total.within_95}
        for level, count in within.items():
            found[f"coverage_{level}"] = count / total.intervals
        found["under_covered"] = tuple(
            level
            for level, count in within.items()
            if _too_few(count, total.intervals, level / 100 - COVERAGE_MARGIN[level])
        )
    if total.distributions:
        found["crps"] = total.sum_crps / total.distributions
        found["cde_loss"] = (
            total.sum_squared_density - 2 * total.sum_density
        ) / total.distributions
        found |= _pit_figures(unpack(total.pit, scales.pit.bins), scales.pit)
    return found


def _beyond(residuals: Cumulative, limit: float, count: int) -> float:
    return max(0.0, count - residuals.within(0, limit)) / count


def _nmad(residuals: Cumulative, scale: Scale, count: int) -> float | None:
    """Return the NMAD, or None if it lies outside of the histogram's range."""
    median = solve(residuals.below, count / 2, scale.low, scale.high)
    if median is None:
        return None
    deviation = solve(
        lambda distance: residuals.within(median, distance),
        count / 2,
        0.0,
        scale.high - scale.low,
    )
    return None if deviation is None else _NMAD_FACTOR * deviation


def _pit_figures(histogram: Mapping[int, int], scale: Scale) -> dict[str, Any]:
    """Return the distance of the PIT from a uniform distribution, and its histogram."""
    count = sum(histogram.values())
    shown = [0] * PIT_BINS
    for position, found in histogram.items():
        shown[position * PIT_BINS // scale.bins] += found
    # At the edges of the bins, how far the distribution function is above the diagonal.
    sums = itertools.accumulate((histogram.get(i, 0) for i in range(scale.bins)), initial=0)
    above = [below / count - i / scale.bins for i, below in enumerate(sums)]
    squares = (a * a + a * b + b * b for a, b in itertools.pairwise(above))
    return {
        "pit_histogram": tuple(shown),
        "pit_ks": max(map(abs, above)),
        "pit_cvm": count * scale.width / 3 * math.fsum(squares),
    }


def _too_few(successes: int, count: int, probability: float) -> bool:
    """Say whether chance explains so few successes with a probability below ``CHANCE``: exact."""
    if successes >= count * probability:
        return False
    term = math.exp(
        math.lgamma(count + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(count - successes + 1)
        + successes * math.log(probability)
        + (count - successes) * math.log1p(-probability)
    )
    tail = 0.0
    while term > 1e-12 * CHANCE:  # they fall ever faster towards 0 successes
        tail += term
        term *= successes / (count - successes + 1) * (1 - probability) / probability
        successes -= 1
    return tail < CHANCE


def warnings(quality: Quality) -> list[str]:
    """Name where intervals hold fewer true redshifts than they say."""
    told = []
    for level, margin in COVERAGE_MARGIN.items():
        places: list[tuple[str, Figures]] = []
        if level in quality.under_covered:
            places.append(("all galaxies", quality))
        for name, bins in (
            ("predicted redshift", quality.by_redshift),
            ("r magnitude", quality.by_magnitude),
        ):
            places += [
                (f"{name} {range_of(bin_.low, bin_.high)}", bin_)
                for bin_ in bins
                if level in bin_.under_covered
            ]
        if places:
            found = "; ".join(
                f"{where}: {getattr(part, f'coverage_{level}'):.1%} of {part.num_intervals:,}"
                for where, part in places
            )
            told.append(
                f"the {level} % intervals hold fewer true redshifts than they should, by more "
                f"than {100 * margin:.0f} points and chance: {found}"
            )
    return told


def range_of(low: float | None, high: float | None) -> str:
    """Say in words from where to where a bin goes."""
    if low is None:
        return "all" if high is None else f"below {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"
