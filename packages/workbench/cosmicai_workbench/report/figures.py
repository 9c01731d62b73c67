"""The figures of a run: arrays in, one SVG each out."""

from typing import TYPE_CHECKING

import numpy as np

from cosmicai_workbench.report import style
from cosmicai_workbench.report.text import dollars as dollars_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

PHASES = {
    "queue": "#C3C8D0",
    "cold start": style.YELLOW,
    "read": style.SKY,
    "predict": style.BLUE,
    "write": style.GREEN,
    "barrier": style.PURPLE,
}
"""Phases of a rank in the order they happen, with their colours."""

_RASTER_RANKS = 400
"""More ranks than this are drawn as pixels: a page of 10,000 ranks stays below a megabyte."""

_NOTED_RANKS = 10


def _legend_below(axes: "Axes", columns: int) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns, borderaxespad=0)


def _legend_above(axes: "Axes", columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def predicted_against_true(true: "Floats", predicted: "Floats", nmad: float) -> str:
    """Density of predicted over true redshift."""
    from matplotlib.colors import LogNorm

    upper = float(np.nanpercentile(np.concatenate([true, predicted]), 99.8)) * 1.05 or 1.0
    with style.figure(4.8, 4.4) as (drawn, axes):
        bins = int(np.clip(np.sqrt(true.size) / 1.5, 20, 120))
        density, x, y = np.histogram2d(true, predicted, bins=bins, range=[[0, upper], [0, upper]])
        mesh = axes.pcolormesh(
            x,
            y,
            np.ma.masked_equal(density.T, 0),
            norm=LogNorm(vmin=1, vmax=max(2.0, density.max())),
            cmap="viridis_r",
            rasterized=True,
        )
        axes.plot([0, upper], [0, upper], color="#111827", lw=1, label="perfect")
        for sign in (1, -1):
            axes.plot(
                [0, upper],
                [sign * nmad, upper + sign * nmad * (1 + upper)],
                color=style.RED,
                lw=0.9,
                ls="--",
                label="± σ NMAD (1 + z)" if sign == 1 else None,
            )
        drawn.colorbar(mesh, ax=axes, label="galaxies in a cell", shrink=0.85)
        axes.set(xlim=(0, upper), ylim=(0, upper), xlabel="true redshift")
        axes.set_ylabel("predicted redshift")
        axes.set_aspect("equal")
        axes.legend(loc="upper left")
        text = (
            f"Density plot of predicted against true redshift for {true.size:,} galaxies between "
            f"0 and {upper:.2f}; the scatter about the diagonal is {nmad:.4f} times (1 + z)."
        )
        return style.svg(drawn, "density", text)


def residual_histogram(residual: "Floats", nmad: float, bias: float) -> str:
    """Histogram of Δz / (1 + z)."""
    reach = float(np.clip(6 * nmad, 0.01, 1.0))
    outside = float(np.mean(np.abs(residual) > reach))
    with style.figure() as (drawn, axes):
        axes.hist(residual, bins=80, range=(-reach, reach), color=style.BLUE)
        axes.axvline(0, color="#111827", lw=1)
        axes.axvline(bias, color=style.ORANGE, lw=1.4, ls="--", label=f"bias {bias:+.4f}")
        axes.axvspan(-nmad, nmad, color=style.SKY, alpha=0.25, label=f"± σ NMAD {nmad:.4f}")
        axes.set(xlabel="Δz / (1 + z)", ylabel="galaxies")
        _legend_above(axes, 2)
        axes.annotate(
            f"{outside:.1%} lie\noutside" if outside else "",
            (0.99, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            color=style.GREY,
        )
        text = (
            f"Histogram of redshift residuals over one plus z: bias {bias:+.4f}, scatter "
            f"{nmad:.4f}; {outside:.1%} lie beyond ±{reach:.3f}."
        )
        return style.svg(drawn, "residuals", text)


def residual_against(values: "Floats", residual: "Floats", label: str, name: str) -> str:
    """Median and 16th to 84th percentile of Δz / (1 + z) in bins of another quantity."""
    low, high = np.nanpercentile(values, [0.5, 99.5])
    edges = np.linspace(low, high, 13)
    which = np.digitize(values, edges) - 1
    rows = [
        (0.5 * (edges[i] + edges[i + 1]), *np.percentile(residual[which == i], [16, 50, 84]))
        for i in range(12)
        if np.count_nonzero(which == i) >= 5
    ]
    with style.figure() as (drawn, axes):
        centre, lower, median, upper = np.array(rows).reshape(-1, 4).T
        axes.axhline(0, color="#111827", lw=1)
        axes.fill_between(centre, lower, upper, color=style.SKY, alpha=0.4, label="16 to 84 %")
        axes.plot(centre, median, color=style.BLUE, marker="o", ms=3.5, label="median")
        axes.set(xlabel=label, ylabel="Δz / (1 + z)")
        _legend_above(axes, 2)
        worst = float(np.max(np.abs(median))) if len(rows) else 0.0
        text = (
            f"Median redshift residual with its 16 to 84 percent band in {len(rows)} bins of "
            f"{label}; the largest median is {worst:.4f} away from zero."
        )
        return style.svg(drawn, name, text)


def timeline(
    segments: "Mapping[str, tuple[Floats, Floats]]",
    ranks: "Sequence[int]",
    stragglers: "Sequence[int]",
    failed: "Sequence[int]",
) -> str:
    """Bars from start to end of every phase of every rank.

    Parameters
    ----------
    segments
        Phase → (start, end) in seconds since the execution's start, in the order of ``ranks``.
    stragglers, failed
        Ranks to point at.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    world = max([*ranks, *failed]) + 1
    with style.figure(9.6, float(np.clip(1.6 + world * 0.09, 2.6, 7.0))) as (drawn, axes):
        last = max(float(np.nanmax(end)) for _, end in segments.values())
        thickness = 1.0 if world > 60 else 0.8
        for phase, (start, end) in segments.items():
            lower = np.asarray(ranks) - thickness / 2
            corners = [(start, lower), (end, lower), (end, lower + thickness)]
            corners.append((start, lower + thickness))
            boxes = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
            # One collection a phase: a patch a bar takes minutes for 10,000 ranks.
            bars = PolyCollection(list(boxes), facecolors=PHASES[phase], linewidths=0)
            bars.set_rasterized(world > _RASTER_RANKS)
            axes.add_collection(bars)
        notes = [(rank, "slow") for rank in stragglers] + [(rank, "failed") for rank in failed]
        for rank, why in notes[:_NOTED_RANKS]:
            axes.annotate(
                f" rank {rank} {why}",
                (last, rank),
                xytext=(3, 0),
                textcoords="offset points",
                color=style.RED,
                fontsize=8,
                va="center",
                annotation_clip=False,
            )
        axes.set(xlim=(0, last), ylim=(world - 0.5, -0.5), ylabel="rank")
        axes.set_xlabel("seconds since the execution started")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", visible=False)
        axes.legend(
            handles=[Patch(color=PHASES[phase], label=phase) for phase in segments],
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=len(segments),
            borderaxespad=0.2,
        )
        text = (
            f"Timeline of {len(ranks)} ranks over {last:.1f} seconds, a bar for each of "
            f"{', '.join(segments)}. Stragglers: {_named(stragglers)}. Failed: {_named(failed)}."
        )
        return style.svg(drawn, "timeline", text)


def _named(ranks: "Sequence[int]") -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_NOTED_RANKS])
    return (shown or "none") + (" and more" if len(ranks) > _NOTED_RANKS else "")


def rank_histogram(values: "Floats", label: str, name: str, limit: float | None = None) -> str:
    """Distribution of one figure over the ranks, with its median."""
    from matplotlib.ticker import MaxNLocator

    median = float(np.median(values))
    with style.figure(4.8, 2.8) as (drawn, axes):
        axes.hist(values, bins=int(np.clip(np.sqrt(values.size) * 2, 8, 40)), color=style.BLUE)
        axes.axvline(median, color=style.ORANGE, lw=1.6, label=f"median {median:,.4g}")
        if limit is not None:
            axes.axvline(limit, color=style.RED, lw=1.6, ls="--", label=f"limit {limit:,.4g}")
        axes.set(xlabel=label, ylabel="ranks")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_above(axes, 2)
        text = (
            f"Histogram of {label} over {values.size} ranks: median {median:,.4g}, from "
            f"{values.min():,.4g} to {values.max():,.4g}."
        )
        return style.svg(drawn, name, text)


def cost_bars(dollars: "Mapping[str, float]") -> str:
    """Cost by service, largest first."""
    from matplotlib.ticker import MaxNLocator

    items = sorted(((n, d) for n, d in dollars.items() if d > 0), key=lambda item: item[1])
    with style.figure(4.8, max(1.8, 0.9 + 0.34 * len(items))) as (drawn, axes):
        names, values = [n for n, _ in items], [d for _, d in items]
        axes.barh(names, values, color=style.BLUE)
        for row, value in enumerate(values):
            axes.annotate(" " + dollars_text(value), (value, row), va="center", fontsize=8)
        axes.set_xlabel("US dollars")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.2)
        axes.grid(axis="y", visible=False)
        text = (
            "Cost by item: " + "; ".join(f"{n} {dollars_text(d)}" for n, d in reversed(items)) + "."
        )
        return style.svg(drawn, "cost", text)


def series(
    lines: "Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]",
    x_label: str,
    y_label: str,
    name: str,
) -> str:
    """Lines of a sweep: label → (x, mean, half spread)."""
    with style.figure(4.8, 3.7) as (drawn, axes):
        for index, (label, (x, mean, spread)) in enumerate(lines.items()):
            axes.errorbar(
                x,
                mean,
                yerr=spread,
                label=label,
                color=style.SERIES[index % len(style.SERIES)],
                marker=style.MARKERS[index % len(style.MARKERS)],
                ms=4,
                lw=1.4,
                capsize=2,
            )
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)
        if len(lines) > 1:
            _legend_below(axes, 2)
        parts = [
            f"{label}: " + ", ".join(f"{a:g} → {b:.4g}" for a, b in zip(x, mean, strict=True))
            for label, (x, mean, _) in lines.items()
        ]
        return style.svg(drawn, name, f"{y_label} against {x_label}. " + "; ".join(parts) + ".")
