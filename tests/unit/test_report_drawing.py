"""Figures as SVG: what they say lies inside of them."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from cosmicai_workbench.report.drawing import svg
from cosmicai_workbench.report.plot import Axis, Line, Plot
from PIL import ImageFont

FONT = ImageFont.truetype(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 80)
X = np.array([0.0, 1.0])


def legend(labels: list[str], *, wide: bool, square: bool) -> tuple[list[float], int, float]:
    """Return where the legend's texts end, how many rows it has, and the figure's width."""
    layers = tuple(Line(X, X, label, "ink") for label in labels)
    plot = Plot("test", Axis("x"), Axis("y"), layers, "A test.", wide=wide, square=square)
    text = svg(plot)
    found = re.findall(r'<text style="font-size: 8px[^"]*"\s+x="([\d.]+)" y="([\d.]+)"[^>]*>', text)
    told = re.findall(r'<text style="font-size: 8px[^>]*>([^<]*)</text>', text)
    assert told == labels
    ends = [
        float(x) + FONT.getlength(label) / 10 for (x, _), label in zip(found, told, strict=True)
    ]
    return ends, len({y for _, y in found}), float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "labels",
    [
        ["galaxies, with 68 %", "perfect", "|Δz / (1 + z)| = 0.05"],
        ["WWWWWWWWWWWWWWWWWWWWWW"] * 4,
        [f"galaxy number {n}" for n in range(9)],
    ],
)
def test_legends_end_inside_the_figure(labels: list[str], wide: bool, square: bool) -> None:
    labels = [f"{label} {n}" for n, label in enumerate(labels)]
    ends, _, width = legend(labels, wide=wide, square=square)
    assert max(ends) < width


def test_a_legend_that_fits_is_one_row() -> None:
    assert legend(["one", "two", "three"], wide=False, square=False)[1] == 1
    assert legend(["one and a half"] * 5, wide=False, square=False)[1] > 1
