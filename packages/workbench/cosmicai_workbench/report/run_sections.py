"""Sections of a page about finished runs."""

from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import OUTLIER_LIMIT, galaxies_in

from cosmicai_workbench.published import rank_times
from cosmicai_workbench.report import figures, text
from cosmicai_workbench.report.content import Alert, Card, Picture, Section, Table
from cosmicai_workbench.report.phases import phases, stragglers
from cosmicai_workbench.results.billing import billed_cost, recorded_cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cosmicai.schema import RankRecord

    from cosmicai_workbench.results.run_folder import Run

_ALONE = "run"
"""Prefix of the ids on a page of one run."""
_SHOWN_FAILURES = 20
_PUBLISHED_SAMPLES = {25: 1278, 100: 5113}
"""Galaxies in a partition of the published runs."""
_PUBLISHED_GALAXIES = galaxies_in(12.6 * 1024)
_SEED_COSTS = (0.16, 0.38)
"""Dollars of one 12.6 GB execution in the published tables, least and most."""


def subtitle(run: "Run") -> str:
    """Say when, with what and over what the run went."""
    summary = run.summary
    model = (summary.model_digest or "unknown")[:12]
    started = summary.execution.start_time.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    return (
        f"{started} · {text.count(summary.num_samples)} galaxies in {summary.num_partitions} "
        f"partitions · engine {summary.engine or 'unknown'} · model {model}"
    )


def alerts(run: "Run", *, named: bool) -> "Iterator[Alert]":
    """Yield what went wrong in a run, worst first."""
    summary = run.summary
    where = f"{run.name}: " if named else ""
    if summary.failure:
        reason = f"{summary.failure.Error}: {summary.failure.message}"
        yield Alert(f"{where}the execution failed", reason)
    if summary.num_failed_ranks:
        named_ranks = tuple(
            f"rank {failed.rank} ({failed.data_path or 'no data'}): {failed.error} {failed.cause}"
            for failed in summary.failed_ranks[:_SHOWN_FAILURES]
        )
        rest = summary.num_failed_ranks - len(named_ranks)
        yield Alert(
            f"{where}{summary.num_failed_ranks} of {summary.world_size} ranks failed",
            "Their galaxies have no prediction; every figure below is of the other ranks."
            + (f" The first {len(named_ranks)} are listed, {rest} more not." if rest else ""),
            named_ranks,
        )
    if summary.num_unpredicted or summary.num_nonfinite_pixels or summary.num_nonfinite_magnitudes:
        yield Alert(
            f"{where}{text.count(summary.num_unpredicted)} galaxies have no prediction (NaN)",
            f"Input that is not finite: {text.count(summary.num_nonfinite_pixels)} pixels, "
            f"{text.count(summary.num_nonfinite_magnitudes)} magnitudes.",
            tuple(
                f"rank {record.rank}: {record.num_unpredicted} galaxies"
                for record in run.records
                if record.num_unpredicted
            )[:_SHOWN_FAILURES],
        )
    if summary.warnings:
        yield Alert(f"{where}warnings", "Initialize and Summarize noted:", tuple(summary.warnings))


def sections(
    run: "Run", prefix: str = _ALONE, estimate: "Mapping[str, float] | None" = None
) -> list[Section]:
    """Return the sections about one run.

    Parameters
    ----------
    prefix
        Keeps ids apart on a page of several runs.
    estimate
        Dollars by item that were expected before the run.
    """
    found = [_headline(run, prefix)]
    if run.records:
        if run.predictions.known.any():
            found.append(_quality(run, prefix))
        found += [_timeline(run, prefix), _resources(run, prefix)]
    if run.summary.cost:
        found.append(_cost(run, prefix, estimate or {}))
    if run.records:
        found.append(_published(run, prefix))
    return found


def _headline(run: "Run", prefix: str) -> Section:
    summary, quality = run.summary, run.summary.quality
    limit = max((record.memory_limit_mb for record in run.records), default=0)
    cards = [
        Card("Galaxies", text.count(summary.num_samples), text.size(summary.num_bytes)),
        Card("Ranks", f"{summary.ranks_received} of {summary.world_size}", summary.status.lower()),
        Card("Wall time", text.seconds(summary.wall_seconds), "start to summary"),
        Card("Inference", text.seconds(summary.inference_seconds), "first rank to last"),
        Card("Speed", f"{summary.samples_per_second:,.0f} /s", "galaxies per second, all ranks"),
        Card("Throughput", text.rate(summary.throughput_bps), "sum over ranks"),
        Card(
            "Peak memory",
            f"{summary.peak_memory_mb:,.0f} MB",
            f"largest rank{f', limit {limit:,} MB' if limit else ''}",
        ),
        Card("Cold starts", text.count(summary.cold_starts), "new sandboxes"),
    ]
    if summary.cost:
        cards.append(Card("Cost on AWS", text.dollars(_total(run)), "estimated"))
    if quality:
        cards += [
            Card("σ NMAD", text.figure(quality.nmad), "scatter of Δz / (1 + z)"),
            Card("Bias", text.figure(quality.bias, sign=True), "mean Δz / (1 + z)"),
            Card(
                "Outliers",
                text.share(quality.outlier_fraction),
                f"|Δz| / (1 + z) > {OUTLIER_LIMIT}",
            ),
        ]
    title = "In short" if prefix == _ALONE else f"{run.name}: in short"
    return Section(f"{prefix}-headline", title, cards=tuple(cards))


def _quality(run: "Run", prefix: str) -> Section:
    predictions = run.predictions
    known = predictions.known
    true = predictions.true_redshift[known].astype(float)
    predicted = predictions.redshift[known].astype(float)
    residual = (predicted - true) / (1 + true)
    quality = run.summary.quality
    nmad = (quality.nmad if quality else None) or 0.0
    bias = float(np.mean(residual))
    magnitude = predictions.magnitude_r[known].astype(float)
    pictures = [
        Picture(
            figures.predicted_against_true(true, predicted, nmad),
            "Predicted against true redshift. Colour counts galaxies, on a logarithmic scale.",
        ),
        Picture(
            figures.residual_histogram(residual, nmad, bias),
            "Residuals Δz / (1 + z), Δz = predicted − true.",
        ),
        Picture(
            figures.residual_against(true, residual, "true redshift", "by-redshift"),
            "Residuals against redshift, in bins of at least five galaxies.",
        ),
    ]
    if np.isfinite(magnitude).any():
        pictures.append(
            Picture(
                figures.residual_against(magnitude, residual, "r magnitude", "by-magnitude"),
                "Residuals against r magnitude, in bins of at least five galaxies.",
            )
        )
    missing = known.size - int(known.sum())
    note = f"{text.count(int(known.sum()))} galaxies have a known redshift to compare with"
    note += f"; {text.count(missing)} have not, or no prediction." if missing else "."
    return Section(f"{prefix}-quality", "Redshift quality", note, pictures=tuple(pictures))


def _timeline(run: "Run", prefix: str) -> Section:
    records = run.records
    met = run.summary.fmi
    start = run.summary.execution.start_time
    segments = phases(records, start, run.init_seconds, barrier=met is not None)
    work = segments["write"][1] - segments["read"][0]
    slow = stragglers(work)
    median_work = float(np.median(work))
    names = list(segments)
    table = Table(
        "Seconds by phase: the median of each, and the slowest ranks",
        ("rank", *names, "work", "partition"),
        (
            (
                "median",
                *(f"{float(np.median(e - s)):.2f}" for s, e in segments.values()),
                f"{median_work:.2f}",
                "",
            ),
            *(
                (
                    str(records[i].rank),
                    *(f"{float(e[i] - s[i]):.2f}" for s, e in segments.values()),
                    f"{float(work[i]):.2f}",
                    _partition_name(records[i]),
                )
                for i in (slow or [int(np.argmax(work))])
            ),
        ),
    )
    note = (
        f"Stragglers: {len(slow)} of {len(records)} ranks worked (without queue and cold start) "
        f"more than 1.5 times the median of {text.seconds(median_work)}."
        if slow
        else "No stragglers: no rank worked (without queue and cold start) more than 1.5 times the "
        f"median of "
        f"{text.seconds(median_work)}."
    )
    if met is not None:
        note += (
            f" After the last rank, all met over FMI ({met.channel}): the first to come waited "
            f"{text.seconds(met.longest_wait_seconds)} at the barrier."
        )
    picture = Picture(
        figures.timeline(
            segments,
            [record.rank for record in records],
            [records[i].rank for i in slow],
            [failed.rank for failed in run.summary.failed_ranks],
        ),
        "One bar per rank. Reading and predicting take turns batch by batch; their sums are shown "
        "one after the other.",
        wide=True,
    )
    return Section(f"{prefix}-timeline", "Ranks in time", note, (), (picture,), (table,))


def _partition_name(record: "RankRecord") -> str:
    paths = record.data_path
    if not paths:
        return "none"
    if isinstance(paths, str):
        return paths
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _resources(run: "Run", prefix: str) -> Section:
    working = [record for record in run.records if record.num_samples]
    memory = np.array([record.total_cpu_memory for record in run.records])
    limit = max((record.memory_limit_mb for record in run.records), default=0) or None
    pictures = []
    if working:
        speed = np.array([record.sample_persec for record in working])
        throughput = np.array([record.throughput_bps / 1e6 for record in working])
        pictures = [
            Picture(
                figures.rank_histogram(speed, "galaxies per second", "speed"),
                "Speed of each rank while it predicts.",
            ),
            Picture(
                figures.rank_histogram(throughput, "throughput (Mbit/s)", "throughput"),
                "Bits of images and magnitudes predicted a second, by rank.",
            ),
        ]
        if any(record.s3_num_requests for record in working):
            reading = np.array([1000 * record.s3_avg_time for record in working])
            pictures.append(
                Picture(
                    figures.rank_histogram(reading, "mean S3 request (ms)", "s3"),
                    "Mean time of an S3 request, by rank.",
                )
            )
    pictures.append(
        Picture(
            figures.rank_histogram(memory, "peak memory (MB)", "memory", limit),
            "Peak resident memory of each rank's sandbox.",
        )
    )
    return Section(f"{prefix}-resources", "Throughput and memory", pictures=tuple(pictures))


def _total(run: "Run") -> float:
    return run.summary.cost.total if run.summary.cost else 0.0


def _cost(run: "Run", prefix: str, estimate: "Mapping[str, float]") -> Section:
    recorded = recorded_cost(run)
    million = 1e6 * recorded.total / max(run.summary.num_samples, 1)
    note = (
        f"{text.dollars(recorded.total)} in all, {text.dollars(million)} a million galaxies, at "
        f"list prices of {recorded.prices_date} in {recorded.region} for {recorded.architecture}, "
        "without free tier. A run on the local cloud costs nothing: this is what its use would "
        "be billed on AWS."
    )
    picture = Picture(figures.cost_bars(recorded.items), "Cost by item, as the ranks recorded it.")
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


def _published(run: "Run", prefix: str) -> Section:
    working = [record for record in run.records if record.num_samples]
    ours = median(record.sample_persec for record in working) if working else 0.0
    rows = []
    for size in (25, 100):
        theirs = rank_times(size)
        seconds = median(theirs.rank_seconds)
        rows.append(
            (
                f"galaxies per second per rank, median ({size} MB partitions)",
                f"{_PUBLISHED_SAMPLES[size] / seconds:,.0f}",
                f"{ours:,.0f}",
            )
        )
    cheap, dear = (1e6 * cost / _PUBLISHED_GALAXIES for cost in _SEED_COSTS)
    million = 1e6 * _total(run) / max(run.summary.num_samples, 1)
    rows += [
        (
            "galaxies per second, whole execution (12.6 GB in 28 s)",
            f"{_PUBLISHED_GALAXIES / 28:,.0f}",
            f"{run.summary.samples_per_second:,.0f}",
        ),
        (
            "US dollars a million galaxies",
            f"{text.dollars(cheap)} to {text.dollars(dear)}",
            text.dollars(million) if run.summary.cost else "–",
        ),
    ]
    return Section(
        f"{prefix}-published",
        "Next to the published figures",
        "Theirs: Staylor et al., arXiv 2501.06249, and reports on the same system, on AWS Lambda "
        "with 10,240 MB; not measured here. Other machines, another number of ranks and, unless "
        "you imported their checkpoint, another model: read the ratio with that in mind.",
        tables=(
            Table(
                "Published by others, and this run",
                ("figure", "theirs", "this run"),
                tuple(rows),
                published=(1,),
            ),
        ),
    )


def side_by_side(runs: "Sequence[Run]") -> Section:
    """Return one table of several runs."""
    rows = []
    for run in runs:
        summary, quality = run.summary, run.summary.quality
        rows.append(
            (
                run.name,
                text.count(summary.num_samples),
                text.count(summary.world_size),
                summary.engine or "–",
                text.seconds(summary.wall_seconds),
                f"{summary.samples_per_second:,.0f}",
                f"{summary.peak_memory_mb:,.0f}",
                text.dollars(_total(run)) if summary.cost else "–",
                text.figure(quality.nmad if quality else None),
                text.share(quality.outlier_fraction if quality else None),
            )
        )
    head = ("run", "galaxies", "ranks", "engine", "wall time", "galaxies /s", "peak MB", "cost")
    quality_head = ("σ NMAD", "outliers")
    return Section(
        "runs", "Side by side", tables=(Table("The runs", (*head, *quality_head), tuple(rows)),)
    )
