"""``cosmicai compare``: two runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Json

app = typer.Typer()


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: Json = False,
) -> None:
    """Compare two runs: what each took, and how far apart their predictions are.

    Galaxies are matched by partition file name, index, true redshift and r magnitude. Example,
    local against distributed: `cosmicai compare runs/here runs/latest`
    """
    from rich.console import Console
    from rich.table import Table

    from cosmicai_workbench.results.compare import compare as compare_runs
    from cosmicai_workbench.results.run_folder import load_run

    found = compare_runs(load_run(a), load_run(b))
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
        return
    table = Table()
    table.add_column("figure")
    for column in (f"A: {found.a}", f"B: {found.b}", "B / A"):
        table.add_column(column, justify="right")
    for figure in found.figures:
        ratio = "–" if figure.ratio is None else f"{figure.ratio:.3g}"
        table.add_row(figure.name, _text(figure.a), _text(figure.b), ratio)
    console = Console(markup=False)  # names of runs are not markup
    console.print(table)
    if not found.same_model:
        console.print("The runs predict with different models.", style="bold")
    agreement = found.agreement
    console.print(
        f"{agreement.galaxies:,} galaxies in common ({agreement.only_a:,} only in A, "
        f"{agreement.only_b:,} only in B): {agreement.identical:,} predictions are identical, "
        + (
            "none can be compared"
            if agreement.largest_difference is None
            else f"the largest difference is {agreement.largest_difference:.3g}"
        )
        + (
            f"; {agreement.predicted_by_one:,} are predicted by one run only"
            if agreement.predicted_by_one
            else ""
        )
    )


def _text(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
