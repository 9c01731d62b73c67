"""A figure as Plotly draws it in the browser.

Colours are names of the page's palette behind an ``@``; the page's script puts in those of its
theme, light or dark.
"""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai_workbench.report.palette import RAMP
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
    from collections.abc import Iterable

    from cosmicai_workbench.report.plot import Axis, Layer, Plot

_MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "*": "star",
}
_PIXELS_PER_INCH = 92
_MOST_ROWS = 500
"""A timeline of more ranks shows the slowest of neighbouring ones: a screen has no more lines."""


def plotly(plot: "Plot") -> dict[str, Any]:
    """Return traces, layout and the like of a figure."""
    traces: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for layer in _fewer_rows(plot.layers):
        match layer:
            case Mark():
                shapes.append(_line_across(layer))
                if layer.label:
                    traces.append(_key(layer))
            case Note():
                notes.append(_note(layer))
            case _:
                traces += _traces(layer)
    layout: dict[str, Any] = {
        "xaxis": _axis(plot.x),
        "yaxis": _axis(plot.y),
        "height": round(plot.height * _PIXELS_PER_INCH),
        "showlegend": plot.legend,
        "shapes": shapes,
        "annotations": notes,
    }
    if plot.rows:
        low, high = plot.y.range or (0, 1)
        layout["yaxis"] |= {"range": [high, low], "showgrid": False}
        layout["barmode"] = "overlay"
    if plot.square:
        layout["yaxis"] |= {"scaleanchor": "x", "constrain": "domain"}
        layout["xaxis"]["constrain"] = "domain"
    if any(isinstance(layer, NamedBars) for layer in plot.layers):
        layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "automargin": True}
    return {"data": traces, "layout": layout}


def numbers(values: "Iterable[float]", digits: int = 5) -> list[float | int | None]:
    """Return numbers as JSON holds them: short, and none where there is no number."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return [int(value) for value in array]
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in array]


def _plain(text: str) -> str:
    """Return a text that Plotly shows as it is: it reads some markup."""
    return escape(text, quote=False)


def _axis(axis: "Axis") -> dict[str, Any]:
    found: dict[str, Any] = {"title": {"text": _plain(axis.title)}}
    if axis.range is not None:
        found["range"] = list(axis.range)
    elif axis.from_zero:
        found["rangemode"] = "tozero"
    if axis.whole:
        found["tickformat"] = ",d"
        if axis.range is not None:
            found["dtick"] = _step(abs(axis.range[1] - axis.range[0]) / 6)
    return found


def _step(least: float) -> int:
    """Return a distance between marked whole numbers: 1, 2, 5, 10, 20, …, ``least`` or more."""
    power = 1
    while 10 * power < least:
        power *= 10
    return next((step * power for step in (1, 2, 5) if step * power >= least), 10 * power)


def _traces(layer: "Layer") -> list[dict[str, Any]]:
    match layer:
        case Galaxies():
            return [_galaxies(layer)]
        case Line():
            return [_line(layer)]
        case Band():
            return _band(layer)
        case Histogram():
            return [_histogram(layer)]
        case NamedBars():
            return [_named_bars(layer)]
        case Cells():
            return [_cells(layer)]
        case Spans():
            return [_spans(layer)]
    raise TypeError(f"no trace for {type(layer).__name__}")


def _galaxies(layer: Galaxies) -> dict[str, Any]:
    colour = f"@{layer.colour}"
    found: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": _plain(layer.label),
        "x": numbers(layer.x),
        "y": numbers(layer.y),
        "customdata": numbers(layer.ids),
        "meta": "galaxies",
        "marker": {
            "color": colour,
            "size": 3 if layer.small else 5,
            "opacity": 0.55 if layer.small else 0.75,
        },
        "selected": {"marker": {"color": "@orange", "size": 8, "opacity": 1}},
        "unselected": {"marker": {"opacity": 0.2}},
    }
    if layer.low is not None and layer.high is not None:
        found["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": numbers(layer.high - layer.y, 4),
            "arrayminus": numbers(layer.y - layer.low, 4),
            "color": colour,
            "thickness": 0.7,
            "width": 0,
        }
    return found


def _line(layer: Line) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if layer.marker else "lines",
        "showlegend": bool(layer.label),
        "name": _plain(layer.label),
        "x": numbers(layer.x),
        "y": numbers(layer.y),
        "line": {
            "color": f"@{layer.colour}",
            "width": 2,
            "dash": "dash" if layer.dashed else "solid",
            "shape": "hvh" if layer.steps else "linear",
        },
    }
    if layer.marker:
        found["marker"] = {"symbol": _MARKERS[layer.marker], "size": 7}
    if layer.fill:
        found |= {"fill": "tozeroy", "fillcolor": f"@{layer.colour}40"}
    if layer.spread is not None:
        found["error_y"] = {"type": "data", "array": numbers(layer.spread), "width": 3}
    return found


def _band(layer: Band) -> list[dict[str, Any]]:
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "x": numbers(layer.x)}
    colour = f"@{layer.colour}"
    return [
        edge | {"y": numbers(layer.low), "showlegend": False, "name": f"{layer.label}, low"},
        edge
        | {
            "y": numbers(layer.high),
            "name": _plain(layer.label),
            "fill": "tonexty",
            "fillcolor": f"{colour}60",
            "line": {"width": 0, "color": colour},
        },
    ]


def _histogram(layer: Histogram) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": _plain(layer.label),
        "x": numbers((layer.edges[1:] + layer.edges[:-1]) / 2),
        "y": numbers(layer.counts, 7),
        "width": numbers(np.diff(layer.edges)),
        "customdata": [
            [f"{low:.4g}", f"{high:.4g}"]
            for low, high in zip(layer.edges[:-1], layer.edges[1:], strict=True)
        ],
        "hovertemplate": "%{customdata[0]} to %{customdata[1]}: %{y:,}<extra></extra>",
        "marker": {"color": f"@{layer.colour}", "line": {"width": 0}},
    }


def _named_bars(layer: NamedBars) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": _plain(layer.label),
        "x": numbers(layer.values),
        "y": [_plain(name) for name in layer.names],
        "text": [_plain(text) for text in layer.texts],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{text}<extra></extra>",
        "marker": {"color": f"@{layer.colour}"},
    }


def _cells(layer: Cells) -> dict[str, Any]:
    counts = layer.counts
    with np.errstate(divide="ignore"):
        depth = np.where(counts > 0, np.log10(counts), np.nan)
    top = max(1.0, float(np.nanmax(depth, initial=0.0)))
    ticks = [10**power for power in range(int(top) + 1)]
    return {
        "type": "heatmap",
        "showlegend": False,
        "x": numbers(layer.x_edges),
        "y": numbers(layer.y_edges),
        "z": [numbers(row, 3) for row in depth],
        "text": [[int(count) for count in row] for row in counts],
        "hovertemplate": f"%{{x}}, %{{y}}: %{{text}} {layer.label}<extra></extra>",
        "hoverongaps": False,
        "zmin": 0,
        "zmax": top,
        "colorscale": [[i / (len(RAMP) - 1), f"@{name}"] for i, name in enumerate(RAMP)],
        "colorbar": {
            "title": {"text": layer.label, "side": "right"},
            "tickvals": [float(np.log10(tick)) for tick in ticks],
            "ticktext": [f"{tick:,}" for tick in ticks],
            "thickness": 12,
            "outlinewidth": 0,
        },
        "name": _plain(layer.label),
    }


def _spans(layer: Spans) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": _plain(layer.label),
        "base": numbers(layer.start),
        "x": numbers(layer.end - layer.start, 4),
        "y": numbers(layer.ranks),
        "width": 1.0 if layer.ranks.size > 60 else 0.8,
        "customdata": numbers(layer.ranks),
        "meta": "ranks",
        "hovertemplate": f"rank %{{customdata}}: {layer.label} %{{x:.2f}} s<extra></extra>",
        "marker": {"color": f"@{layer.colour}", "line": {"width": 0}},
    }


def _line_across(mark: Mark) -> dict[str, Any]:
    free, fixed = ("x", "y") if mark.level else ("y", "x")
    return {
        "type": "line",
        f"{fixed}0": mark.value,
        f"{fixed}1": mark.value,
        f"{free}0": 0,
        f"{free}1": 1,
        f"{free}ref": "paper",
        "line": {
            "color": f"@{mark.colour}",
            "width": 1.6 if mark.label else 1,
            "dash": "dash" if mark.dashed else "solid",
        },
    }


def _key(mark: Mark) -> dict[str, Any]:
    """Return an entry of the legend: shapes have none."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [None],
        "y": [None],
        "name": _plain(mark.label),
        "line": {"color": f"@{mark.colour}", "dash": "dash" if mark.dashed else "solid"},
    }


def _note(note: Note) -> dict[str, Any]:
    return {
        "x": 1,
        "xref": "paper",
        "xanchor": "left",
        "y": note.row,
        "text": _plain(note.text),
        "showarrow": False,
        "font": {"color": f"@{note.colour}", "size": 11},
    }


def _fewer_rows(layers: "tuple[Layer, ...]") -> "list[Layer]":
    """Return the layers with at most ``_MOST_ROWS`` bars a phase: of neighbours, the slowest."""
    spans = [layer for layer in layers if isinstance(layer, Spans)]
    if not spans or spans[0].ranks.size <= _MOST_ROWS:
        return list(layers)
    seconds = np.max([layer.end for layer in spans], axis=0) - spans[0].start
    groups = np.array_split(np.arange(seconds.size), _MOST_ROWS)
    keep = np.array([group[np.argmax(seconds[group])] for group in groups])
    return [
        Spans(layer.start[keep], layer.end[keep], layer.ranks[keep], layer.label, layer.colour)
        if isinstance(layer, Spans)
        else layer
        for layer in layers
    ]
