"""Pictures of a run's quality: predicted against true redshift, PIT, coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from cosmicai.facts import INTERVAL_PERCENT, OUTLIER_LIMIT
from cosmicai.quality import range_of

from cosmicai_workbench.results.binned import quality_by_bin

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai.schema import BinFigures, Quality
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cosmicai_workbench.results.run_folder import Run

PLOT = "redshifts.png"
PIT_PLOT = "pit.png"
COVERAGE_PLOT = "coverage.png"
_BINS = 120


def plot_all(run: Run) -> list[Path]:
    """Draw every picture that a run has the figures for; return them.

    Raises
    ------
    InvalidInput
        If the run's predictions cannot be read, or no galaxy of it has a known redshift.
    """
    quality = quality_by_bin(run)
    drawn = [plot_redshifts(run), plot_pit(run, quality), plot_coverage(run, quality)]
    return [picture for picture in drawn if picture is not None]


def plot_pit(run: Run, quality: Quality) -> Path | None:
    """Draw the histogram of the PIT; return the picture, None where there is no p(z)."""
    counts = np.array(quality.pit_histogram, float)
    if not counts.size:
        return None
    figure, axes = _blank()
    edges = np.linspace(0, 1, counts.size + 1)
    flat = counts.sum() / counts.size
    chance = 2 * np.sqrt(flat * (1 - 1 / counts.size)) / flat
    axes.axhspan(1 - chance, 1 + chance, color="0.85", label="flat, ± 2 σ of chance")
    axes.stairs(counts / flat, edges, color="black", linewidth=1.2)
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1.1 * max(1 + chance, counts.max() / flat)),
        xlabel="PIT: probability below the true redshift",
        ylabel="galaxies, relative to a flat histogram",
        title=f"{quality.num_distributions:,} galaxies: KS {quality.pit_ks:.3f}, "
        f"CRPS {quality.crps:.4f}",
    )
    axes.legend(loc="upper center", frameon=False)
    return _saved(figure, run.path / PIT_PLOT)


def plot_coverage(run: Run, quality: Quality) -> Path | None:
    """Draw how many true redshifts the intervals hold in each bin, None where there are none."""
    if not quality.num_intervals:
        return None
    figure, (left, right) = _blank(columns=2)
    _coverage(left, "predicted redshift", quality.by_redshift)
    _coverage(right, "r magnitude", quality.by_magnitude)
    left.set_ylabel("true redshifts in the interval")
    right.legend(loc="lower left", frameon=False)
    figure.suptitle(
        f"{quality.num_intervals:,} galaxies: {quality.coverage_68:.1%} in the 68 % interval, "
        f"{quality.coverage_95:.1%} in the 95 % interval"
    )
    return _saved(figure, run.path / COVERAGE_PLOT)


def _coverage(axes: Axes, name: str, bins: tuple[BinFigures, ...]) -> None:
    bins = tuple(bin_ for bin_ in bins if bin_.num_intervals)
    labels = [range_of(bin_.low, bin_.high) for bin_ in bins]
    count = np.array([bin_.num_intervals for bin_ in bins])
    for level, color in zip(INTERVAL_PERCENT, ("#0072b2", "#d55e00"), strict=True):
        share = np.array([getattr(bin_, f"coverage_{level}") for bin_ in bins], float)
        chance = 2 * np.sqrt(level / 100 * (1 - level / 100) / count)
        axes.errorbar(
            range(len(bins)), share, chance, fmt="o", color=color, capsize=2,
            label=f"{level} % interval, ± 2 σ of chance",
        )  # fmt: skip
        axes.axhline(level / 100, color=color, linewidth=0.8, linestyle="--")
    axes.set(ylim=(0, 1.02), xlabel=name)
    axes.set_xticks(range(len(bins)), labels, rotation=60, ha="right")


def _blank(columns: int = 1) -> tuple[Figure, Any]:
    # The library's own backend for files, whatever display there is.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 + 3 * (columns - 1), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, sharey=True)


def _saved(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    return path


def plot_redshifts(run: Run) -> Path | None:
    """Draw predicted against true redshift; return the picture, None where no truth is known.

    Raises
    ------
    InvalidInput
        If the run's predictions cannot be read.
    """
    known = run.predictions.known
    true, predicted = run.predictions.true_redshift[known], run.predictions.redshift[known]
    if true.size == 0:
        return None
    from matplotlib.colors import LogNorm

    limit = 1.05 * float(np.quantile(true, 0.999))
    edges = np.linspace(0, limit, _BINS + 1)
    # A prediction off the picture is drawn at its edge, not left out.
    counts, *_ = np.histogram2d(true, np.clip(predicted, 0, limit), bins=(edges, edges))
    figure, axes = _blank()
    image = axes.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts.T, 0),
        norm=LogNorm(vmin=1, vmax=max(2, counts.max())),
        cmap="cividis",  # reads the same to colour-blind eyes
    )
    figure.colorbar(image, ax=axes, label="galaxies a cell", shrink=0.93)
    line = np.array([0.0, limit])
    axes.plot(line, line, color="black", linewidth=1, label="predicted = true")
    for sign in (1, -1):
        axes.plot(
            line,
            line + sign * OUTLIER_LIMIT * (1 + line),
            color="black",
            linewidth=0.8,
            linestyle="--",
            label=f"|Δz|/(1+z) = {OUTLIER_LIMIT}" if sign > 0 else None,
        )
    axes.set(
        xlim=(0, limit),
        ylim=(0, limit),
        xlabel="true (spectroscopic) redshift",
        ylabel="predicted redshift",
        title=_title(true.size, run.summary.quality),
    )
    axes.set_box_aspect(1)
    axes.legend(loc="upper left", frameon=False)
    return _saved(figure, run.path / PLOT)


def _title(count: int, quality: Quality | None) -> str:
    title = f"{count:,} galaxies"
    if quality is not None and quality.r2 is not None and quality.nmad is not None:
        title += f": R² {quality.r2:.3f}, NMAD {quality.nmad:.4f}"
    return title
