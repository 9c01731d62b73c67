"""The figures about galaxies and their redshifts: arrays in, a plot out."""

from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import INTERVAL_PERCENT, OUTLIER_LIMIT

from cosmicai_workbench.report import palette
from cosmicai_workbench.report.plot import (
    Axis,
    Band,
    Cells,
    Histogram,
    Line,
    Mark,
    Plot,
    histogram,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cosmicai.schema import Figures
    from numpy.typing import NDArray

    from cosmicai_workbench.report.distributions import Distributions
    from cosmicai_workbench.report.plot import Layer
    from cosmicai_workbench.report.sample import Sample

    Floats = NDArray[np.floating]

RESIDUAL = "Δz / (1 + z)"
_BINS = 12
_FEWEST_IN_BIN = 5
_MOST_POINTS = 3000
"""Above this many galaxies, a density is drawn below the sample's points."""


def reach(values: "Floats", spare: float = 0.04) -> tuple[float, float]:
    """Return a range that holds all but a few values, and a little more."""
    low, high = np.nanpercentile(values, [0.2, 99.8])
    margin = spare * (high - low) or 0.05
    return float(low - margin), float(high + margin)


def redshift_distribution(
    predicted: "Floats",
    true: "Floats",
    name: str,
    stacked: "tuple[Floats, Floats] | None" = None,
) -> Plot:
    """Draw n(z): galaxies per unit of redshift, of predictions, of true redshifts, of p(z).

    Parameters
    ----------
    predicted, true
        Finite redshifts; ``true`` may be empty.
    stacked
        Redshifts and the sum of all p(z) there.
    """
    everything = np.concatenate([predicted, true])
    low, high = reach(everything)
    low = min(low, 0.0) if low < 0.1 else low
    bins = int(np.clip(np.sqrt(predicted.size), 8, 60))
    width = (high - low) / bins
    counted = histogram(predicted, "predicted", bins, (low, high), "sky")
    layers: list[Layer] = [
        Line(
            (counted.edges[1:] + counted.edges[:-1]) / 2,
            counted.counts / width,
            "predicted",
            "blue",
            steps=True,
            fill=True,
        )
    ]
    if true.size:
        found = histogram(true, "true", bins, (low, high))
        centres = (found.edges[1:] + found.edges[:-1]) / 2
        layers.append(Line(centres, found.counts / width, "true", "orange", steps=True))
    if stacked is not None:
        inside = (stacked[0] >= low) & (stacked[0] <= high)
        layers.append(Line(stacked[0][inside], stacked[1][inside], "sum of p(z)", "purple"))
    middle, spread = float(np.median(predicted)), np.percentile(predicted, [16, 84])
    text = (
        f"Redshift distribution of {predicted.size:,} galaxies: median {middle:.3f}, two thirds "
        f"between {spread[0]:.3f} and {spread[1]:.3f}."
    )
    return Plot(
        name,
        Axis("redshift", (low, high)),
        Axis("galaxies per unit redshift", from_zero=True),
        tuple(layers),
        text,
    )


def against(
    values: "Floats",
    redshift: "Floats",
    sample: "Sample",
    sample_values: "Floats",
    title: str,
    name: str,
) -> Plot:
    """Draw predicted redshift against a magnitude or a colour, with its median.

    Parameters
    ----------
    values, redshift
        (N,) of all galaxies, finite.
    sample_values
        Of the sample's galaxies, NaN where unknown.
    title
        Of the x axis, with its unit.
    """
    x_range, y_range = reach(values), reach(redshift)
    layers = _density(values, redshift, x_range, y_range)
    over = bool(layers)
    layers.append(sample.points(sample_values, sample.redshift, "galaxies", small=over))
    centre, _, median, _ = _in_bins(values, redshift)
    if median.size:
        layers.append(Line(centre, median, "median", "ink", marker="o"))
    slope = f"from {median[0]:.3f} to {median[-1]:.3f}" if median.size else "unknown"
    text = (
        f"Predicted redshift of {values.size:,} galaxies against {title}; the median goes {slope} "
        f"as it rises from {x_range[0]:.2f} to {x_range[1]:.2f}."
    )
    return Plot(
        name, Axis(title, x_range), Axis("predicted redshift", y_range), tuple(layers), text
    )


def predicted_against_true(
    true: "Floats", predicted: "Floats", nmad: float, sample: "Sample", name: str
) -> Plot:
    """Draw predicted over true redshift, with error bars where the model gives intervals."""
    upper = float(np.nanpercentile(np.concatenate([true, predicted]), 99.8)) * 1.05 or 1.0
    lower = min(0.0, float(np.nanpercentile(predicted, 0.2)))
    limits = (lower, upper)
    ends = np.array(limits)
    bars = "z_lo68" in sample.columns
    density = _density(true, predicted, limits, limits)
    label = "galaxies, with 68 %" if bars else "galaxies"
    layers: list[Layer] = [
        *density,
        sample.points(sample.true, sample.redshift, label, bars=True, small=bool(density)),
        Line(ends, ends, "perfect", "ink"),
    ]
    layers += [
        Line(
            ends,
            ends + sign * OUTLIER_LIMIT * (1 + ends),
            f"|{RESIDUAL}| = {OUTLIER_LIMIT}" if sign == 1 else "",
            "red",
            dashed=True,
        )
        for sign in (1, -1)
    ]
    text = (
        f"Predicted against true redshift for {true.size:,} galaxies between "
        f"{lower:.2f} and {upper:.2f}; the scatter about the diagonal is {nmad:.4f} times (1 + z)."
    )
    return Plot(
        name,
        Axis("true redshift", limits),
        Axis("predicted redshift", limits),
        tuple(layers),
        text,
        height=4.6,
        square=True,
    )


def residual_histogram(residual: "Floats", nmad: float, bias: float, name: str) -> Plot:
    """Draw the histogram of Δz / (1 + z)."""
    far = float(np.clip(6 * nmad, 0.01, 1.0))
    outside = float(np.mean(np.abs(residual) > far))
    layers = (
        histogram(residual, "galaxies", 80, (-far, far)),
        Mark(0.0),
        Mark(bias, f"bias {bias:+.4f}", "orange", dashed=True),
        Mark(-nmad, f"± σ NMAD {nmad:.4f}", "green", dashed=True),
        Mark(nmad, "", "green", dashed=True),
    )
    text = (
        f"Histogram of redshift residuals over one plus z: bias {bias:+.4f}, scatter "
        f"{nmad:.4f}; {outside:.1%} lie beyond ±{far:.3f}."
    )
    return Plot(name, Axis(RESIDUAL, (-far, far)), Axis("galaxies"), layers, text)


def residual_against(
    values: "Floats",
    residual: "Floats",
    title: str,
    name: str,
    sample: "Sample",
    sample_values: "Floats",
) -> Plot:
    """Draw median and 16th to 84th percentile of Δz / (1 + z) in bins of another quantity."""
    centre, lower, median, upper = _in_bins(values, residual)
    worst = float(np.max(np.abs(median))) if median.size else 0.0
    shown = sample.residual
    width = 4 * float(np.nanpercentile(np.abs(residual), 75)) or 0.05
    layers: list[Layer] = [sample.points(sample_values, shown, "galaxies", colour="grey")]
    if median.size:
        layers.append(Band(centre, lower, upper, "16 to 84 %"))
        layers.append(Line(centre, median, "median", "blue", marker="o"))
    layers.append(Mark(0.0, level=True))
    text = (
        f"Median redshift residual with its 16 to 84 percent band in {median.size} bins of "
        f"{title}; the largest median is {worst:.4f} away from zero."
    )
    return Plot(
        name, Axis(title, reach(values)), Axis(RESIDUAL, (-width, width)), tuple(layers), text
    )


def distributions(found: "Distributions", sample: "Sample", name: str) -> Plot:
    """Draw p(z) of a few galaxies, with their true redshifts where these are known."""
    layers: list[Layer] = []
    told = []
    for colour, (i, density) in zip(palette.SERIES, found.examples.items(), strict=False):
        layers.append(Line(found.grid, density, sample.names[i], colour))
        text = f"{sample.names[i]} peaks at {found.grid[np.argmax(density)]:.3f}"
        if np.isfinite(sample.true[i]):
            layers.append(Mark(float(sample.true[i]), "", colour, dashed=True))
            text += f", its true redshift is {sample.true[i]:.3f}"
        told.append(text)
    shown = np.max([*found.examples.values()], axis=0)
    inside = found.grid[shown > 0.01 * shown.max()]
    return Plot(
        name,
        Axis("redshift", (float(inside[0]), float(inside[-1]))),
        Axis("p(z) (per unit redshift)", from_zero=True),
        tuple(layers),
        f"Probability density of the redshift of {len(told)} galaxies: {'; '.join(told)}.",
    )


def pit(quality: "Figures", name: str) -> Plot:
    """Draw the histogram of the PIT, and what it would be were every p(z) right."""
    counts = np.array(quality.pit_histogram, float)
    level = counts.sum() / counts.size
    spread = float(np.sqrt(level))
    edges = np.linspace(0, 1, counts.size + 1)
    text = (
        f"Histogram of the PIT of {quality.num_distributions:,} galaxies; uniform would be "
        f"{level:.0f} in each of {counts.size} bins, found were {counts.min():.0f} to "
        f"{counts.max():.0f}."
    )
    return Plot(
        name,
        Axis("PIT: probability below the true redshift", (0.0, 1.0)),
        Axis("galaxies", (0.0, 1.15 * float(max(counts.max(), level + 2 * spread)))),
        (
            Histogram(edges, counts, "galaxies"),
            Mark(level, "uniform", "orange", level=True),
            Mark(level + 2 * spread, "± 2 √n", "orange", dashed=True, level=True),
            Mark(level - 2 * spread, "", "orange", dashed=True, level=True),
        ),
        text,
    )


def coverage(quality: "Figures", name: str) -> Plot:
    """Draw how many true redshifts lie in intervals, against how many should."""
    ends = np.array([0.0, 1.0])
    layers: list[Layer] = [Line(ends, ends, "as it should be", "ink")]
    told = []
    counts = np.array(quality.pit_histogram, float)
    if counts.size and counts.sum():
        # The central interval of level a holds the PIT between (1 - a) / 2 and (1 + a) / 2.
        below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
        half = below.size // 2
        inside = below[half:] - below[half::-1]
        levels = np.linspace(0, 1, inside.size)
        layers.append(Line(levels, inside, "central intervals of p(z)", "blue", marker="o"))
    shares = {
        percent / 100: getattr(quality, f"coverage_{percent}") for percent in INTERVAL_PERCENT
    }
    known = {level: share for level, share in shares.items() if share is not None}
    if known:
        stated = (np.array([*known]), np.array([*known.values()]))
        layers.append(Line(*stated, "intervals of the catalogue", "orange", marker="s"))
        told = [f"{share:.1%} in the {level:.0%} interval" for level, share in known.items()]
    return Plot(
        name,
        Axis("nominal coverage", (0.0, 1.0)),
        Axis("share of true redshifts inside", (0.0, 1.0)),
        tuple(layers),
        f"Coverage of intervals against what they state: {', '.join(told) or 'from the PIT'}.",
        height=4.2,
        square=True,
    )


def series(
    lines: "Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]",
    x_label: str,
    y_label: str,
    name: str,
) -> Plot:
    """Draw lines of a sweep: label → (x, mean, half spread)."""
    layers = tuple(
        Line(
            np.array(x, float),
            np.array(mean, float),
            label,
            palette.SERIES[index % len(palette.SERIES)],
            marker=palette.MARKERS[index % len(palette.MARKERS)],
            spread=np.array(spread, float),
        )
        for index, (label, (x, mean, spread)) in enumerate(lines.items())
    )
    parts = [
        f"{label}: " + ", ".join(f"{a:g} → {b:.4g}" for a, b in zip(x, mean, strict=True))
        for label, (x, mean, _) in lines.items()
    ]
    text = f"{y_label} against {x_label}. " + "; ".join(parts) + "."
    return Plot(name, Axis(x_label), Axis(y_label, from_zero=True), layers, text, height=3.7)


def _density(
    x: "Floats", y: "Floats", x_range: tuple[float, float], y_range: tuple[float, float]
) -> "list[Layer]":
    """Return the density of many galaxies; nothing of few, whose points show more."""
    if x.size <= _MOST_POINTS:
        return []
    bins = int(np.clip(np.sqrt(x.size) / 1.5, 20, 100))
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=bins, range=[x_range, y_range])
    return [Cells(x_edges, y_edges, counts.T, "galaxies in a cell")]


def _in_bins(values: "Floats", of: "Floats") -> "tuple[Floats, Floats, Floats, Floats]":
    """Return centres of bins, and the 16th, 50th and 84th percentile in each."""
    low, high = np.nanpercentile(values, [0.5, 99.5])
    edges = np.linspace(low, high, _BINS + 1)
    which = np.digitize(values, edges) - 1
    rows = [
        (0.5 * (edges[i] + edges[i + 1]), *np.percentile(of[which == i], [16, 50, 84]))
        for i in range(_BINS)
        if np.count_nonzero(which == i) >= _FEWEST_IN_BIN
    ]
    centre, lower, median, upper = np.array(rows).reshape(-1, 4).T
    return centre, lower, median, upper
