"""Sections of a page about a sweep."""

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from cosmicai.errors import InvalidInput

from cosmicai_workbench.published import executions, published
from cosmicai_workbench.report import figures, text
from cosmicai_workbench.report.content import Alert, Card, Picture, Section, Table
from cosmicai_workbench.sweep.axes import AXES
from cosmicai_workbench.sweep.measures import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cosmicai_workbench.sweep.experiment import Plot
    from cosmicai_workbench.sweep.measures import Measure
    from cosmicai_workbench.sweep.table import Row, SweepTable


def _label(column: str) -> str:
    """Return what figures call a column of the table."""
    return AXES[column].label if column in AXES else MEASURES[column].label


def alerts(table: "SweepTable") -> "Iterator[Alert]":
    """Yield what the reader must know first."""
    missing = table.planned - len(table.rows)
    if missing:
        yield Alert(
            f"{missing} of {table.planned} executions are not done",
            "The tables and figures hold those that are; run the same sweep command to go on.",
        )
    digests = {row["model_digest"] for row in table.rows}
    if len(digests) > 1:
        raise InvalidInput(
            f"sweep {table.name!r}: its executions predict with {len(digests)} different models, "
            "so one table would mix them; run the sweep again with one model"
        )


def sections(table: "SweepTable") -> list[Section]:
    """Return the sections about a sweep."""
    found = [_headline(table)]
    if table.rows:
        found += [_figures(table), _numbers(table)]
    found.append(_published())
    return found


def _headline(table: "SweepTable") -> Section:
    rows = table.rows
    cards = [
        Card("Executions", f"{len(rows)} of {table.planned}", "done"),
        Card("Repetitions", str(table.experiment.repetitions), "of each setting"),
    ]
    if rows:
        fastest = max(rows, key=lambda row: row["samples_per_second"])
        cards += [
            Card("Galaxies", text.count(sum(row["galaxies"] for row in rows)), "predicted in all"),
            Card("Wall time", text.seconds(sum(row["wall_seconds"] for row in rows)), "of all"),
            Card("Fastest", f"{fastest['samples_per_second']:,.0f} /s", fastest.text),
        ]
        costs = [row["cost_dollars"] for row in rows if row["cost_dollars"] is not None]
        if costs:
            cards.append(Card("Cost on AWS", text.dollars(sum(costs)), "estimated, all"))
    return Section("sweep", "In short", table.experiment.description, tuple(cards))


def _figures(table: "SweepTable") -> Section:
    pictures = [
        Picture(
            figures.series(
                _lines(table.rows, plot), _label(plot.x), _label(plot.y), f"plot{number}"
            ),
            f"{plot.title}. Mean of the repetitions; bars show one standard deviation.",
        )
        for number, plot in enumerate(table.experiment.plots)
    ]
    return Section("figures", "Figures", pictures=tuple(pictures))


def _lines(
    rows: "Iterable[Row]", plot: "Plot"
) -> dict[str, tuple[list[float], list[float], list[float]]]:
    groups: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        x, y = row[plot.x], row[plot.y]
        if x is None or y is None:
            continue
        label = f"{plot.by} {row[plot.by]}".replace("_", " ") if plot.by else "all"
        # Measured sizes differ in the last digits between repetitions.
        groups.setdefault(label, {}).setdefault(float(f"{x:.3g}"), []).append(float(y))
    lines = {}
    for label, points in groups.items():
        xs = sorted(points)
        spread = [stdev(points[x]) if len(points[x]) > 1 else 0.0 for x in xs]
        lines[label] = (xs, [fmean(points[x]) for x in xs], spread)
    return lines


def _numbers(table: "SweepTable") -> Section:
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(row.folder, []).append(row)

    def mean(rows: "list[Row]", measure: "Measure") -> str:
        values = [row[measure.name] for row in rows if row[measure.name] is not None]
        if not values:
            return "–"
        spread = f" ± {stdev(values):.{measure.digits}f}" if len(values) > 1 else ""
        return f"{fmean(values):,.{measure.digits}f}{spread}"

    columns = [measure for measure in MEASURES.values() if measure.head]
    rows = []
    for group in groups.values():
        costs = [row["cost_dollars"] for row in group if row["cost_dollars"] is not None]
        rows.append(
            (
                group[0].text,
                str(len(group)),
                str(group[0]["ranks"]),
                text.count(group[0]["galaxies"]),
                *(mean(group, measure) for measure in columns),
                text.dollars(fmean(costs)) if costs else "–",
            )
        )
    head = ("setting", "n", "ranks", "galaxies", *(measure.head for measure in columns), "cost")
    caption = "Mean ± standard deviation over the repetitions; every execution is in table.csv"
    return Section("numbers", "Numbers", tables=(Table(caption, head, tuple(rows)),))


def _published() -> Section:
    totals: dict[tuple[int, float, int], list[float]] = {}
    for row in executions():
        key = (row["partition_mb"], row["data_gb"], row["ranks"])
        totals.setdefault(key, []).append(row["total_seconds"])
    sizes = Table(
        "Theirs: whole executions, mean of three runs each",
        ("partition (MB)", "data (GB)", "ranks", "total (s)"),
        tuple(
            (str(p), f"{gb:g}", str(n), f"{fmean(seconds):.1f}")
            for (p, gb, n), seconds in totals.items()
            if gb in (1.0, 12.6)
        ),
        published=(0, 1, 2, 3),
    )
    batches: dict[int, list[tuple[float, float]]] = {}
    for row in published()["batch_sizes"]:
        batches.setdefault(row["batch_size"], []).append(
            (row["rank_seconds"], row["throughput_bps"] / 1e9)
        )
    by_batch = Table(
        "Theirs: by batch size, 1 GB, mean of three runs each",
        ("batch size", "seconds per rank", "throughput (Gbit/s)"),
        tuple(
            (str(b), f"{fmean(s for s, _ in runs):.2f}", f"{fmean(t for _, t in runs):.2f}")
            for b, runs in batches.items()
        ),
        published=(0, 1, 2),
    )
    return Section(
        "published",
        "The published figures",
        "Measured by others (Staylor et al., arXiv 2501.06249) on AWS Lambda with 10,240 MB a "
        "function: not on this machine, nor with this model. Their seconds per rank are profiler "
        "time, which counts nested operators twice.",
        tables=(sizes, by_batch),
    )
