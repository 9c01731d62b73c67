"""``cosmicai report``: one self-contained page about runs, or about a sweep."""

from pathlib import Path
from typing import Annotated

import typer

from cosmicai_workbench.defaults import LATEST, RUNS

app = typer.Typer()


@app.command()
def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN…|SWEEP",
            help="Run folders, or one sweep's folder; runs/latest by default.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path(
        "report.html"
    ),
    estimate: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN",
            help="What `cosmicai plan --json` printed before: set beside the actual cost.",
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write each figure as an SVG file there, too."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the run's partitions: the page then shows galaxies."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="The run used the published checkpoint: set its published figures beside it.",
        ),
    ] = False,
) -> None:
    """Write one HTML page: redshifts, their quality, galaxies, ranks in time, cost.

    The page is one file that needs no network: hover over a figure for its values, click a rank or
    a galaxy, draw a box around some. Every figure's numbers are there as a table, too. Examples:

    `cosmicai report runs/latest -o report.html`

    `cosmicai report runs/latest --data partitions`
    """
    from cosmicai_workbench.report.service import write_report

    title = write_report(
        folders or [RUNS / LATEST], output, estimate, figures, data=data, published=published
    )
    typer.echo(f"{output}: {title}")
