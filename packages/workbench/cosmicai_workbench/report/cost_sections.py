"""Sections about what a run costs, and about the published system beside it."""

from typing import TYPE_CHECKING

from cosmicai.facts import galaxies_in

from cosmicai_workbench.report import rank_figures, text
from cosmicai_workbench.report.content import Picture, Section, Table
from cosmicai_workbench.results.billing import billed_cost, recorded_cost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cosmicai_workbench.results.run_folder import Run

_PUBLISHED_GALAXIES = galaxies_in(12.6 * 1024)
_PUBLISHED_SECONDS = 28
_PUBLISHED_DOLLARS = (0.16, 0.38)
"""Of one 12.6 GB execution in the published tables, least and most."""


def total(run: "Run") -> float:
    """Return a run's recorded cost in US dollars; 0 where it has none."""
    return run.summary.cost.total if run.summary.cost else 0.0


def cost(run: "Run", prefix: str, estimate: "Mapping[str, float]") -> Section:
    """Return what a run costs, before and after."""
    recorded = recorded_cost(run)
    million = 1e6 * recorded.total / max(run.summary.num_samples, 1)
    note = (
        f"{text.dollars(recorded.total)} in all, {text.dollars(million)} per million galaxies, at "
        f"list prices of {recorded.prices_date} in {recorded.region} for {recorded.architecture}, "
        "without free tier. A run on the local cloud costs nothing: this is what its use would "
        "be billed on AWS."
    )
    picture = Picture(
        rank_figures.cost_bars(recorded.items, f"{prefix}-cost-bars"),
        "Cost by item, as the ranks recorded it.",
    )
    tables = []
    billed = billed_cost(run)
    if billed or estimate:
        stages = {"estimated before": estimate, "recorded by the ranks": recorded.items}
        if billed:
            stages["billed (REPORT lines)"] = billed.items
        tables = [_cost_table(stages)]
    return Section(f"{prefix}-cost", "Cost", note, (), (picture,), tuple(tables))


def _cost_table(stages: "Mapping[str, Mapping[str, float]]") -> Table:
    shown = {stage: items for stage, items in stages.items() if items}
    items = list(dict.fromkeys(item for found in shown.values() for item in found))
    first, last = next(iter(shown.values())), list(shown.values())[-1]

    def row(name: str, values: list[float]) -> tuple[str, ...]:
        return (name, *map(text.dollars, values), text.signed_dollars(values[-1] - values[0]))

    rows = [row(item, [found.get(item, 0.0) for found in shown.values()]) for item in items]
    rows.append(row("total", [sum(found.values()) for found in shown.values()]))
    base = sum(first.values())
    change = f" ({sum(last.values()) / base - 1:+.1%} in all)" if base else ""
    return Table(
        f"Cost before and after, in US dollars{change}",
        ("item", *shown, "difference"),
        tuple(rows),
    )


def published(run: "Run", prefix: str) -> Section:
    """Return the published figures beside a run of the same model, where units agree."""
    cheap, dear = (1e6 * dollars / _PUBLISHED_GALAXIES for dollars in _PUBLISHED_DOLLARS)
    million = 1e6 * total(run) / max(run.summary.num_samples, 1)
    rows = (
        (
            "galaxies per second, whole execution (12.6 GB in 28 s)",
            f"{_PUBLISHED_GALAXIES / _PUBLISHED_SECONDS:,.0f}",
            f"{run.summary.samples_per_second:,.0f}",
        ),
        (
            "US dollars per million galaxies",
            f"{text.dollars(cheap)} to {text.dollars(dear)}",
            text.dollars(million) if run.summary.cost else "–",
        ),
    )
    return Section(
        f"{prefix}-published",
        "Next to the published figures",
        "Theirs: Staylor et al., arXiv 2501.06249, and reports on the same system, on AWS Lambda "
        "with 10,240 MB; not measured here. You said that this run used their checkpoint. Its "
        "machines and its number of ranks may differ. Their seconds per rank are not set beside "
        "ours: they are profiler time, which counts nested operators twice.",
        tables=(
            Table(
                "Published by others, and this run",
                ("figure", "theirs", "this run"),
                rows,
                published=(1,),
            ),
        ),
    )
