"""A figure as an SVG: what is printed, written to files, and seen without scripts."""

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai_workbench.report.palette import LIGHT, RAMP
from cosmicai_workbench.report.plot import (
    Band,
    Cells,
    Galaxies,
    Histogram,
    Line,
    Mark,
    NamedBars,
    Note,
    Spans,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cosmicai_workbench.report.plot import Layer, Plot

_RASTER_ROWS = 400
"""More rows than this are drawn as pixels: a page of 10,000 ranks stays below a megabyte."""
_WIDTH = 4.8
"""Inches: drawn small so that text stays readable where a page scales the figure down."""
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and a tenth of the bytes
    "svg.hashsalt": "cosmicai",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "axes.edgecolor": LIGHT["soft"],
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def svg(plot: "Plot") -> str:
    """Return a figure as an accessible inline ``<svg>``; no global state is touched."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(2 * _WIDTH if plot.wide else _WIDTH, plot.height))
        axes = drawn.subplots()
        for layer in plot.layers:
            _draw(layer, axes, drawn)
        _finish(plot, axes)
        _set_margins(drawn, plot, _legend_rows(drawn, plot, axes))
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), plot)


def _draw(layer: "Layer", axes: "Axes", drawn: "Figure") -> None:  # noqa: C901 - one case each
    match layer:
        case Galaxies():
            colour = LIGHT[layer.colour]
            if layer.low is not None and layer.high is not None:
                axes.vlines(
                    layer.x,
                    layer.low,
                    layer.high,
                    color=colour,
                    alpha=0.35,
                    lw=0.6,
                    rasterized=True,
                )
            axes.plot(
                layer.x,
                layer.y,
                ".",
                ms=1.5 if layer.small else 3,
                mew=0,
                color=colour,
                label=layer.label,
                rasterized=True,
            )
        case Line():
            if layer.fill:
                axes.fill_between(
                    layer.x,
                    layer.y,
                    color=LIGHT[layer.colour],
                    alpha=0.25,
                    lw=0,
                    step="mid" if layer.steps else None,
                )
            axes.errorbar(
                layer.x,
                layer.y,
                yerr=layer.spread,
                label=layer.label or None,
                color=LIGHT[layer.colour],
                marker=layer.marker or None,
                ms=4,
                lw=1.4,
                ls="--" if layer.dashed else "-",
                capsize=2,
                drawstyle="steps-mid" if layer.steps else "default",
            )
        case Band():
            colour = LIGHT[layer.colour]
            axes.fill_between(
                layer.x, layer.low, layer.high, color=colour, alpha=0.4, lw=0, label=layer.label
            )
        case Histogram():
            axes.stairs(
                layer.counts, layer.edges, fill=True, color=LIGHT[layer.colour], label=layer.label
            )
        case NamedBars():
            rows = np.arange(len(layer.names))
            axes.barh(rows, layer.values, color=LIGHT[layer.colour], tick_label=layer.names)
            axes.invert_yaxis()
            for row, value, text in zip(rows, layer.values, layer.texts, strict=True):
                axes.annotate(f" {text}", (value, row), va="center", fontsize=8)
            axes.margins(x=0.2)
            axes.grid(axis="y", visible=False)
        case Cells():
            _draw_cells(layer, axes, drawn)
        case Mark():
            draw = axes.axhline if layer.level else axes.axvline
            draw(
                layer.value,
                color=LIGHT[layer.colour],
                lw=1.4 if layer.label else 1,
                ls="--" if layer.dashed else "-",
                label=layer.label or None,
            )
        case Spans():
            _draw_spans(layer, axes)
        case Note():
            axes.annotate(
                f" {layer.text}",
                (1, layer.row),
                xycoords=axes.get_yaxis_transform(),
                xytext=(3, 0),
                textcoords="offset points",
                color=LIGHT[layer.colour],
                fontsize=8,
                va="center",
                annotation_clip=False,
            )


def _draw_cells(layer: Cells, axes: "Axes", drawn: "Figure") -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    ramp = LinearSegmentedColormap.from_list("ramp", [LIGHT[name] for name in RAMP])
    mesh = axes.pcolormesh(
        layer.x_edges,
        layer.y_edges,
        np.ma.masked_equal(layer.counts, 0),
        norm=LogNorm(vmin=1, vmax=max(2.0, layer.counts.max())),
        cmap=ramp,
        rasterized=True,
    )
    drawn.colorbar(mesh, ax=axes, label=layer.label, fraction=0.12, pad=0.03, shrink=0.75)


def _draw_spans(layer: Spans, axes: "Axes") -> None:
    from matplotlib.collections import PolyCollection

    thickness = 1.0 if layer.ranks.size > 60 else 0.8
    lower = layer.ranks - thickness / 2
    upper = lower + thickness
    corners = [(layer.start, lower), (layer.end, lower), (layer.end, upper), (layer.start, upper)]
    boxes = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
    # One collection a phase: a patch a bar takes minutes for 10,000 ranks.
    colour = LIGHT[layer.colour]
    bars = PolyCollection(list(boxes), facecolors=colour, linewidths=0, label=layer.label)
    bars.set_rasterized(layer.ranks.size > _RASTER_ROWS)
    axes.add_collection(bars)


def _finish(plot: "Plot", axes: "Axes") -> None:
    """Set titles, ranges and ticks."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel=plot.x.title, ylabel=plot.y.title)
    for axis, setting, limits in (
        (axes.xaxis, plot.x, axes.set_xlim),
        (axes.yaxis, plot.y, axes.set_ylim),
    ):
        if setting.range is not None:
            limits(*setting.range)
        elif setting.from_zero:
            limits(0)
        if setting.whole:
            axis.set_major_locator(MaxNLocator(integer=True))
    if plot.rows:
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    if plot.square:
        axes.set_aspect("equal")


def _legend_rows(drawn: "Figure", plot: "Plot", axes: "Axes") -> int:
    """Draw the legend in as many columns as fit above the axes; return how many rows it has."""
    if not plot.legend:
        return 0
    count = len(axes.get_legend_handles_labels()[1])
    rows = 0
    for columns in range(count, 0, -1):
        rows = -(-count // columns)
        _set_margins(drawn, plot, rows)
        axes.apply_aspect()
        legend = axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2
        )
        if legend.get_window_extent().x1 <= drawn.bbox.x1:
            break
    return rows


def _has_density(plot: "Plot") -> bool:
    return any(isinstance(layer, Cells) for layer in plot.layers)


def _set_margins(drawn: "Figure", plot: "Plot", legend_rows: int) -> None:
    """Leave room, in inches, for what lies around the axes: measuring it would draw it twice."""
    names = [name for layer in plot.layers if isinstance(layer, NamedBars) for name in layer.names]
    notes = any(isinstance(layer, Note) for layer in plot.layers)
    width, height = drawn.get_size_inches()
    drawn.subplots_adjust(
        left=(0.82 if not names else 0.4 + 0.072 * max(map(len, names))) / width,
        right=1 - (0.95 if notes else 0.42 if _has_density(plot) else 0.15) / width,
        bottom=0.48 / height,
        top=1 - (0.12 + 0.19 * legend_rows) / height,
    )


def _inline(text: str, plot: "Plot") -> str:
    """Return a drawing to put into a page: its ids are its own, and it says what it shows."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{plot.name}-', text)
    text = re.sub(r"url\(#", f"url(#{plot.name}-", text)
    text = re.sub(r'href="#', f'href="#{plot.name}-', text)
    label = (
        plot.alternative.replace("&", "&amp;")
        .replace('"', "&quot;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
