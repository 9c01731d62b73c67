"""A page about finished runs: what comes first, and which sections follow."""

from typing import TYPE_CHECKING

import numpy as np
from cosmicai.facts import OUTLIER_LIMIT
from cosmicai.schema import Quality

from cosmicai_workbench.report import cost_sections, rank_sections, redshift_sections, text
from cosmicai_workbench.report.content import Alert, Card, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cosmicai_workbench.report.cutouts import Images
    from cosmicai_workbench.report.sample import Sample
    from cosmicai_workbench.results.run_folder import Run

ALONE = "run"
"""Prefix of the ids on a page of one run."""
_SHOWN = 20


def subtitle(run: "Run") -> str:
    """Say when, with what and over what the run went."""
    summary = run.summary
    model = (summary.model_digest or "unknown")[:12]
    started = summary.execution.start_time.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    partitions = f"{summary.num_partitions} partition{'' if summary.num_partitions == 1 else 's'}"
    return (
        f"{started} · {text.count(summary.num_samples)} galaxies in {partitions} · "
        f"engine {summary.engine or 'unknown'} · model {model}"
    )


def alerts(run: "Run", *, named: bool) -> "Iterator[Alert]":
    """Yield what went wrong in a run, worst first, then what is good to know."""
    summary = run.summary
    where = f"{run.name}: " if named else ""
    if summary.failure:
        reason = f"{summary.failure.Error}: {summary.failure.message}"
        yield Alert(f"{where}the execution failed", reason)
    if summary.num_failed_ranks:
        named_ranks = tuple(
            f"rank {failed.rank} ({failed.data_path or 'no data'}): {failed.error}: {failed.cause}"
            for failed in summary.failed_ranks[:_SHOWN]
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
            f"{where}{_have(summary.num_unpredicted)} no prediction (NaN)",
            f"Input that is not finite: {text.count(summary.num_nonfinite_pixels)} pixels, "
            f"{text.count(summary.num_nonfinite_magnitudes)} magnitudes.",
            tuple(
                f"rank {record.rank}: {record.num_unpredicted} galaxies"
                for record in run.records
                if record.num_unpredicted
            )[:_SHOWN],
        )
    yield from _impossible(run, where)
    if len({record.model_digest for record in run.records if record.num_samples}) > 1:
        yield Alert(
            f"{where}the ranks did not all use the same model",
            "Their predictions cannot be compared; run them again with one model.",
        )
    if summary.warnings:
        yield Alert(
            f"{where}good to know",
            "Initialize and Summarize noted:",
            tuple(summary.warnings),
            urgent=False,
        )


def _have(count: int) -> str:
    return "1 galaxy has" if count == 1 else f"{text.count(count)} galaxies have"


def _impossible(run: "Run", where: str) -> "Iterator[Alert]":
    """Yield that redshifts are negative: such a galaxy's input is not what the model knows."""
    found = run.predictions
    below = np.flatnonzero(found.redshift < 0)
    if not below.size:
        return
    lowest = below[np.argsort(found.redshift[below], kind="stable")][:_SHOWN]
    names = found.catalogue.columns["object_id"].values
    yield Alert(
        f"{where}{_have(below.size)} a negative predicted redshift",
        "Nothing is that near: look at their images and magnitudes before you use them. "
        "Stars, artefacts and other units are predicted so. The lowest:",
        tuple(f"{names[i]}: z = {found.redshift[i]:.4f}, rank {found.rank[i]}" for i in lowest[:5]),
    )


def sections(
    run: "Run",
    sample: "Sample | None",
    prefix: str = ALONE,
    estimate: "Mapping[str, float] | None" = None,
    images: "Images | None" = None,
    *,
    published: bool = False,
) -> list[Section]:
    """Return the sections about one run.

    Parameters
    ----------
    sample
        Galaxies to show one by one; None where no rank has a record.
    prefix
        Keeps ids apart on a page of several runs.
    estimate
        Dollars by item that were expected before the run.
    images
        Cutouts of the sample's galaxies; None leaves their section out.
    published
        Whether the run used the published checkpoint, and is set beside the published figures.
    """
    found = [_headline(run, prefix)]
    if sample is not None:
        flagged = redshift_sections.flags(run, prefix)
        found += [flagged] if flagged else []
        found += redshift_sections.sections(run, sample, prefix)
        if images is not None:
            found.append(redshift_sections.cutouts(sample, images, prefix))
        found += rank_sections.sections(run, prefix)
    if run.summary.cost:
        found.append(cost_sections.cost(run, prefix, estimate or {}))
    if published and run.records:
        found.append(cost_sections.published(run, prefix))
    return found


def quality_cards(quality: Quality | None) -> list[Card]:
    """Return the figures of merit that come first; none where no truth is known."""
    if quality is None or not quality.num_galaxies:
        return []
    about = (Quality.model_fields["bias"].description or "").rstrip(".").replace("Mean", "mean")
    return [
        Card("σ NMAD", text.figure(quality.nmad), "scatter of Δz/(1+z)"),
        Card("Bias", text.figure(quality.bias, sign=True), about),
        Card("Outliers", text.share(quality.outlier_fraction), f"|Δz|/(1+z) > {OUTLIER_LIMIT}"),
    ]


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
        cards.append(Card("Cost on AWS", text.dollars(cost_sections.total(run)), "estimated"))
    cards += quality_cards(quality)
    title = "In short" if prefix == ALONE else f"{run.name}: in short"
    return Section(f"{prefix}-headline", title, cards=tuple(cards))


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
                text.dollars(cost_sections.total(run)) if summary.cost else "–",
                text.figure(quality.nmad if quality else None),
                text.share(quality.outlier_fraction if quality else None),
            )
        )
    head = ("run", "galaxies", "ranks", "engine", "wall time", "galaxies /s", "peak MB", "cost")
    quality_head = ("σ NMAD", "outliers")
    return Section(
        "runs", "Side by side", tables=(Table("The runs", (*head, *quality_head), tuple(rows)),)
    )
