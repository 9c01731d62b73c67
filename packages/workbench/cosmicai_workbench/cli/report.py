"""``cosmicai report``: one self-contained page about runs, or about a sweep."""

from pathlib import Path
from typing import Annotated

import typer

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
) -> None:
    """Write one HTML page: headline figures, redshift quality, ranks in time, cost.

    The page holds its figures and style; it needs no network and no script. Example:
    `cosmicai report runs/latest -o report.html`
    """
    from cosmicai_workbench.report.service import write_report

    title = write_report(folders or [Path("runs/latest")], output, estimate, figures)
    typer.echo(f"{output}: {title}")
