"""The table that a run ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmicai.facts import MB

if TYPE_CHECKING:
    from cosmicai.schema import Summary


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return what a summary amounts to, as pairs of a label and a text."""
    ranks = f"{summary.ranks_received:,} of {summary.world_size:,} received"
    seconds = (
        f"{summary.wall_seconds:,.1f} s, of which the ranks {summary.inference_seconds:,.1f} s"
    )
    speed = f"{summary.samples_per_second:,.0f} galaxies/s"
    rows = [
        ("Status", summary.status),
        ("Ranks", ranks),
        ("Galaxies", f"{summary.num_samples:,} in {summary.num_partitions:,} partitions"),
        ("Data", f"{summary.num_bytes / MB:,.1f} MB"),
        ("Time", seconds),
        ("Throughput", f"{speed}, {summary.throughput_bps / 1e6:,.1f} Mbit/s"),
        ("Peak memory", f"{summary.peak_memory_mb:,.0f} MB per rank"),
        ("Cold starts", f"{summary.cold_starts:,}"),
        ("Engine", summary.engine or "none"),
    ]
    if summary.cost is not None:
        basis = f"list prices of {summary.cost.prices_date}, {summary.cost.region}"
        rows.append(("AWS cost", f"${summary.cost.total:,.6f} (estimate; {basis})"))
    quality = summary.quality
    if quality is not None and quality.num_galaxies:
        figures = {
            "R²": quality.r2,
            "NMAD": quality.nmad,
            "bias": quality.bias,
            "MAE": quality.mae,
            "outliers": quality.outlier_fraction,
        }
        text = ", ".join(f"{name} {_figure(value)}" for name, value in figures.items())
        rows.append(("Redshifts", text))
    if summary.num_unpredicted:
        rows.append(("Unpredicted", f"{summary.num_unpredicted:,} galaxies (NaN in, NaN out)"))
    return rows


def print_summary(summary: Summary) -> None:
    """Print a summary as a table, on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for label, text in summary_rows(summary):
        table.add_row(label, text)
    for warning in summary.warnings:
        table.add_row("Warning", warning)
    Console(markup=False).print(table)  # paths and reasons are not markup


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
