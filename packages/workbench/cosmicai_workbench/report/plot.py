"""What a figure shows, free of how it is drawn: axes, and layers over them.

Each figure is declared once. ``drawing`` makes an SVG of it, for print, files and readers without
scripts; ``interactive`` what Plotly draws in the browser; ``tabulated`` its numbers as a table.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cosmicai_workbench.report.content import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

TABLE_ROWS = 80
"""A table of a figure's numbers has at most about this many rows."""


@dataclass(frozen=True)
class Axis:
    """An axis; ``title`` names the quantity and its unit."""

    title: str
    range: tuple[float, float] | None = None
    whole: bool = False
    """Only whole numbers are marked."""
    from_zero: bool = False


@dataclass(frozen=True)
class Galaxies:
    """Galaxies as points: each can be hovered over, clicked and selected.

    ``ids`` are their positions in the page's sample of galaxies. ``low`` and ``high`` are ends of
    error bars along y.
    """

    x: "Floats"
    y: "Floats"
    ids: "NDArray[np.integer]"
    label: str
    colour: str = "blue"
    low: "Floats | None" = None
    high: "Floats | None" = None
    small: bool = False
    """Over a density, which shows all galaxies."""


@dataclass(frozen=True)
class Line:
    """A line; ``spread`` is half the length of error bars, ``marker`` Matplotlib's name of one."""

    x: "Floats"
    y: "Floats"
    label: str
    colour: str = "blue"
    dashed: bool = False
    marker: str = ""
    steps: bool = False
    """Constant around each x, as a histogram's outline."""
    spread: "Floats | None" = None
    fill: bool = False
    """Coloured down to zero."""


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    x: "Floats"
    low: "Floats"
    high: "Floats"
    label: str
    colour: str = "sky"


@dataclass(frozen=True)
class Histogram:
    """Counts between consecutive edges."""

    edges: "Floats"
    counts: "Floats"
    label: str
    colour: str = "blue"


@dataclass(frozen=True)
class NamedBars:
    """Horizontal bars, the first on top, with a text at the end of each."""

    names: tuple[str, ...]
    values: "Floats"
    texts: tuple[str, ...]
    label: str
    colour: str = "blue"


@dataclass(frozen=True)
class Cells:
    """Counts (y, x) in the cells of a grid, coloured on a logarithmic scale."""

    x_edges: "Floats"
    y_edges: "Floats"
    counts: "Floats"
    label: str


@dataclass(frozen=True)
class Mark:
    """A straight line across the figure, at a value of x or, with ``level``, of y."""

    value: float
    label: str = ""
    colour: str = "ink"
    dashed: bool = False
    level: bool = False


@dataclass(frozen=True)
class Spans:
    """Bars from start to end, one in the row of each rank; a click shows the rank."""

    start: "Floats"
    end: "Floats"
    ranks: "NDArray[np.integer]"
    label: str
    colour: str


@dataclass(frozen=True)
class Note:
    """A short text at the right end of a row."""

    row: float
    text: str
    colour: str = "red"


Layer = Galaxies | Line | Band | Histogram | NamedBars | Cells | Mark | Spans | Note


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes
    ----------
    name
        Prefix of the ids in its drawing: unlike any other on the page.
    alternative
        What the figure says, for who cannot see it.
    height
        In inches of a drawing 4.8 wide, or 9.6 if the figure is ``wide``.
    square
        Whether one unit is as long on both axes.
    rows
        Whether y counts rows from the top.
    """

    name: str
    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    alternative: str
    height: float = 3.5
    wide: bool = False
    square: bool = False
    rows: bool = False

    @property
    def legend(self) -> bool:
        """Whether the layers need a legend."""
        named = [layer for layer in self.layers if not isinstance(layer, Note) and layer.label]
        return len(named) > 1 or any(isinstance(layer, Mark) for layer in named)


def histogram(
    values: "Floats", label: str, bins: int, reach: tuple[float, float], colour: str = "blue"
) -> Histogram:
    """Count values in bins of equal width."""
    counts, edges = np.histogram(values, bins=bins, range=reach)
    return Histogram(edges, counts.astype(float), label, colour)


def tabulated(plot: Plot) -> Table | None:
    """Return a figure's numbers, for who cannot see it or has no scripts; None of single galaxies.

    Long lines are thinned out to about ``TABLE_ROWS`` rows.
    """
    for layer in plot.layers:
        if isinstance(layer, NamedBars):
            bars = tuple(zip(layer.names, layer.texts, strict=True))
            return Table(f"{plot.x.title} by {plot.y.title}", (plot.y.title, plot.x.title), bars)
    spans = [layer for layer in plot.layers if isinstance(layer, Spans)]
    if spans:
        head = (plot.y.title, *(f"{layer.label} (s)" for layer in spans))
        seconds = [layer.end - layer.start for layer in spans]
        keep = _thinned(spans[0].ranks.size)
        rows: tuple[tuple[str, ...], ...] = tuple(
            (str(spans[0].ranks[i]), *(f"{each[i]:.2f}" for each in seconds)) for i in keep
        )
        return Table(_caption(plot), head, rows)
    columns: list[tuple[str, dict[float, float]]] = []
    for layer in plot.layers:
        columns += _columns(layer)
    xs = sorted({x for _, values in columns for x in values})
    if not xs:
        return None
    rows = tuple(
        (f"{xs[i]:.4g}", *(_shown(values.get(xs[i])) for _, values in columns))
        for i in _thinned(len(xs))
    )
    heads = (label or plot.y.title for label, _ in columns)
    return Table(_caption(plot), (plot.x.title, *heads), rows)


def _caption(plot: Plot) -> str:
    return f"{plot.y.title} against {plot.x.title}"


def _columns(layer: Layer) -> "list[tuple[str, dict[float, float]]]":
    """Return the columns that a layer has in a table by x: label, and x → value."""

    def by(x: "Floats", y: "Floats") -> dict[float, float]:
        return {float(f"{a:.6g}"): float(b) for a, b in zip(x, y, strict=True)}

    if isinstance(layer, Line):
        found = [(layer.label, by(layer.x, layer.y))]
        if layer.spread is not None:
            found.append((f"{layer.label} ±", by(layer.x, layer.spread)))
        return found
    if isinstance(layer, Band):
        return [
            (f"{layer.label}: {end}", by(layer.x, values))
            for end, values in (("from", layer.low), ("to", layer.high))
        ]
    if isinstance(layer, Histogram):
        return [(layer.label, by((layer.edges[1:] + layer.edges[:-1]) / 2, layer.counts))]
    if isinstance(layer, Cells):
        middle = (layer.x_edges[1:] + layer.x_edges[:-1]) / 2
        heights = (layer.y_edges[1:] + layer.y_edges[:-1]) / 2
        totals = layer.counts.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (layer.counts * heights[:, None]).sum(axis=0) / totals
        some = totals > 0
        return [
            (layer.label.split(" in ")[0], by(middle[some], totals[some])),
            ("mean of y", by(middle[some], means[some])),
        ]
    return []


def _thinned(count: int) -> range:
    return range(0, count, max(1, -(-count // TABLE_ROWS)))


def _shown(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.4g}"
