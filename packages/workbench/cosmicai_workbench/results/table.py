"""The table that a run ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmicai.facts import MB, OUTLIER_LIMIT, WIDE_OUTLIER_LIMIT
from cosmicai.flags import FLAGS
from cosmicai.quality import range_of

if TYPE_CHECKING:
    from cosmicai.schema import Figures, Quality, Summary
    from rich.table import Table

_POINT = {
    "r2": ("R²", ".4f"),
    "nmad": ("σ NMAD", ".4f"),
    "bias": ("bias", "+.4f"),
    "mae": ("MAE", ".4f"),
    "outlier_fraction": (f"outliers\n> {OUTLIER_LIMIT}", ".2%"),
    "outlier_fraction_15": (f"outliers\n> {WIDE_OUTLIER_LIMIT}", ".2%"),
    "outlier_fraction_3sigma": ("outliers\n> 3 σ", ".2%"),
}
_PROBABLE = {
    "coverage_68": ("in 68 %", ".1%"),
    "coverage_95": ("in 95 %", ".1%"),
    "pit_ks": ("PIT KS", ".3f"),
    "pit_cvm": ("PIT CvM", ".3g"),
    "crps": ("CRPS", ".4f"),
    "cde_loss": ("CDE loss", "+.3f"),
}
FIGURES = _POINT | _PROBABLE
"""Figure of merit → its heading, and how its value is written."""


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return what a summary amounts to, as pairs of a label and a text."""
    ranks = f"{summary.ranks_received:,} of {summary.world_size:,} received"
    seconds = (
        f"{summary.wall_seconds:,.1f} s, of which the ranks {summary.inference_seconds:,.1f} s"
    )
    partitions = "partition" if summary.num_partitions == 1 else "partitions"
    speed = f"{summary.samples_per_second:,.0f} galaxies/s"
    rows = [
        ("Status", summary.status),
        ("Ranks", ranks),
        ("Galaxies", f"{summary.num_samples:,} in {summary.num_partitions:,} {partitions}"),
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
        text = ", ".join(
            f"{one_line(heading)} {_figure(quality, name)}"
            for name, (heading, _) in FIGURES.items()
            if getattr(quality, name) is not None
        )
        rows.append(("Redshifts", text))
    if summary.num_unpredicted:
        rows.append(("Unpredicted", f"{summary.num_unpredicted:,} galaxies (NaN in, NaN out)"))
    if summary.flag_counts:
        counts = ", ".join(f"{name} {count:,}" for name, count in summary.flag_counts.items())
        rows.append(("Flags", f"{counts} (galaxies)"))
    return rows


def print_flags(summary: Summary, unflagged: int = 0) -> None:
    """Print how many galaxies have each flag, and what it means, on standard output.

    Parameters
    ----------
    unflagged
        Galaxies that an earlier release predicted, which computed no flags.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Flags")
    table.add_column("flag")
    table.add_column("value", justify="right")
    table.add_column("galaxies", justify="right")
    table.add_column("meaning")
    for flag in FLAGS:
        if count := summary.flag_counts.get(flag.name):
            table.add_row(flag.name, str(flag.value), f"{count:,}", flag.description)
    if table.row_count or not unflagged:
        Console().print(table if table.row_count else "No galaxy has a flag.")
    if unflagged:
        Console().print(
            f"{unflagged:,} galaxies were predicted by an earlier release, which computed no flags."
        )
    if summary.origin and not summary.origin.training:
        Console(markup=False).print(
            "Nothing was compared with the training set, whose ranges the model does not say: "
            "cosmicai model ranges"
        )


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


def print_quality(quality: Quality) -> None:
    """Print figures of merit and their bins as tables, on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for figures in (_POINT, _PROBABLE):
        shown = [name for name in figures if getattr(quality, name) is not None]
        for title, bins in (
            ("predicted redshift", quality.by_redshift),
            ("r magnitude", quality.by_magnitude),
        ):
            if not shown:
                continue
            table = Table(box=None, padding=(0, 1, 0, 0), title=f"\nBy {title}")
            for heading in ("bin", "galaxies", *(FIGURES[name][0] for name in shown)):
                table.add_column(heading, justify="right", no_wrap=True)
            for part in bins:
                _add(table, range_of(part.low, part.high), part, shown)
            _add(table, "all", quality, shown, style="bold")
            console.print(table)
    if any(part.under_covered for part in (quality, *quality.by_redshift, *quality.by_magnitude)):
        console.print("! holds fewer true redshifts than chance explains")


def _add(
    table: Table, label: str, part: Figures, shown: list[str], style: str | None = None
) -> None:
    cells = (_figure(part, name) for name in shown)
    table.add_row(label, f"{part.num_galaxies:,}", *cells, style=style)


def one_line(heading: str) -> str:
    """Return a heading without its line break."""
    return heading.replace("\n", " ")


def _figure(part: Figures, name: str) -> str:
    value = getattr(part, name)
    if value is None:
        return "–"
    marked = name.startswith("coverage_") and int(name[-2:]) in part.under_covered
    return format(value, FIGURES[name][1]) + ("!" if marked else "")
