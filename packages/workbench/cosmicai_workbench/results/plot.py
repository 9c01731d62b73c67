"""The predicted against the true redshift of a run, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import OUTLIER_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from cosmicai.schema import Quality

    from cosmicai_workbench.results.run_folder import Run

PLOT = "redshifts.png"
_BINS = 120


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
    # The library's own backend for files, whatever display there is.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    limit = 1.05 * float(np.quantile(true, 0.999))
    edges = np.linspace(0, limit, _BINS + 1)
    # A prediction off the picture is drawn at its edge, not left out.
    counts, *_ = np.histogram2d(true, np.clip(predicted, 0, limit), bins=(edges, edges))
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
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
    path = run.path / PLOT
    figure.savefig(path, dpi=150)
    return path


def _title(count: int, quality: Quality | None) -> str:
    title = f"{count:,} galaxies"
    if quality is not None and quality.r2 is not None and quality.nmad is not None:
        title += f": R² {quality.r2:.3f}, NMAD {quality.nmad:.4f}"
    return title
