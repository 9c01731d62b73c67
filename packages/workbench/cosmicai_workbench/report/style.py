"""Shared look of the figures, and how a figure becomes inline SVG."""

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind, and dark enough on white.
BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW, GREY = (
    "#0072B2",
    "#D55E00",
    "#007F5F",
    "#AA4499",
    "#B3261E",
    "#56B4E9",
    "#E6AB02",
    "#6B7280",
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#332288", "#882255", SKY, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# Drawn small so that text stays readable when a phone scales the figure to its width.
SIZE = (4.8, 3.5)
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and a tenth of the bytes
    "svg.hashsalt": "cosmicai",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "axes.edgecolor": "#4B5563",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


@contextmanager
def figure(width: float = SIZE[0], height: float = SIZE[1]) -> "Iterator[tuple[Figure, Axes]]":
    """Give a figure with one axes in the report's style; no global state is touched."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height))
        yield drawn, drawn.subplots()


def svg(drawn: "Figure", name: str, alternative: str) -> str:
    """Return a figure as an accessible inline ``<svg>``.

    Parameters
    ----------
    name
        Prefix of every id in the drawing: a page holds several.
    alternative
        What the figure says, for who cannot see it.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    label = (
        alternative.replace("&", "&amp;")
        .replace('"', "&quot;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
