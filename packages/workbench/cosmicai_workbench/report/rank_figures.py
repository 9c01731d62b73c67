"""The figures about ranks, time and cost."""

from typing import TYPE_CHECKING

import numpy as np

from cosmicai_workbench.report.plot import (
    Axis,
    Mark,
    NamedBars,
    Note,
    Plot,
    Spans,
    histogram,
)
from cosmicai_workbench.report.text import dollars as dollars_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cosmicai_workbench.report.plot import Layer

    Floats = NDArray[np.floating]

PHASES = {
    "queue": "pale",
    "cold start": "yellow",
    "read": "sky",
    "predict": "blue",
    "write": "green",
    "barrier": "purple",
}
"""Phases of a rank in the order they happen, with their colours."""

FEWEST_RANKS = 4
"""Fewer ranks than this have no distribution to draw: their table says it all."""
_NOTED_RANKS = 10


def timeline(
    segments: "Mapping[str, tuple[Floats, Floats]]",
    ranks: "Sequence[int]",
    stragglers: "Sequence[int]",
    failed: "Sequence[int]",
    name: str,
) -> Plot:
    """Draw bars from start to end of every phase of every rank.

    Parameters
    ----------
    segments
        Phase → (start, end) in seconds since the execution's start, in the order of ``ranks``.
    stragglers, failed
        Ranks to point at.
    """
    first, last_rank = min([*ranks, *failed]), max([*ranks, *failed])
    last = max(float(np.nanmax(end)) for _, end in segments.values())
    notes = [Note(rank, f"rank {rank} slow", "orange") for rank in stragglers]
    notes += [Note(rank, f"rank {rank} failed", "red") for rank in failed]
    text = (
        f"Timeline of {len(ranks)} ranks over {last:.1f} seconds, a bar for each of "
        f"{', '.join(segments)}. Stragglers: {_named(stragglers)}. Failed: {_named(failed)}."
    )
    return Plot(
        name,
        Axis("seconds since the execution started", (0, last)),
        Axis("rank", (first - 0.5, last_rank + 0.5), whole=True),
        (
            *(
                Spans(start, end, np.array(ranks), phase, PHASES[phase])
                for phase, (start, end) in segments.items()
            ),
            *notes[:_NOTED_RANKS],
        ),
        text,
        height=float(np.clip(1.9 + (last_rank - first) * 0.11, 2.0, 7.0)),
        wide=True,
        rows=True,
    )


def _named(ranks: "Sequence[int]") -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_NOTED_RANKS])
    return (shown or "none") + (" and more" if len(ranks) > _NOTED_RANKS else "")


def rank_histogram(values: "Floats", title: str, name: str, limit: float | None = None) -> Plot:
    """Draw the distribution of one figure over the ranks, with its median."""
    median = float(np.median(values))
    low, high = float(values.min()), float(values.max())
    spare = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    bins = int(np.clip(np.sqrt(values.size) * 2, 8, 40))
    counted = histogram(values, "ranks", bins, (low - spare, high + spare))
    layers: list[Layer] = [
        counted,
        Mark(median, f"median {median:,.4g}", "orange"),
    ]
    if limit is not None:
        layers.append(Mark(limit, f"limit {limit:,.4g}", "red", dashed=True))
    text = (
        f"Histogram of {title} over {values.size} ranks: median {median:,.4g}, from "
        f"{low:,.4g} to {high:,.4g}."
    )
    return Plot(
        name,
        Axis(title),
        Axis("ranks", (0.0, 1.08 * counted.counts.max()), whole=True),
        tuple(layers),
        text,
        height=2.9,
    )


def cost_bars(dollars: "Mapping[str, float]", name: str) -> Plot:
    """Draw cost by item, largest first."""
    items = sorted(((n, d) for n, d in dollars.items() if d > 0), key=lambda item: -item[1])
    names = tuple(n for n, _ in items)
    texts = tuple(dollars_text(d) for _, d in items)
    text = "Cost by item: " + "; ".join(f"{n} {d}" for n, d in zip(names, texts, strict=True)) + "."
    return Plot(
        name,
        Axis("cost (US dollars)", (0.0, 1.25 * max((d for _, d in items), default=1.0))),
        Axis("item"),
        (NamedBars(names, np.array([d for _, d in items]), texts, "cost"),),
        text,
        height=max(1.9, 1.0 + 0.34 * len(items)),
    )
