"""``cosmicai demo``: the main job, on this machine, with one command."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode="markdown")


@app.command(epilog="Exit codes: as of `cosmicai run`. Example: `cosmicai demo --galaxies 500`")
def demo(
    galaxies: Annotated[
        int,
        typer.Option(
            "--galaxies", "-n", min=1, envvar="COSMICAI_DEMO_GALAXIES", help="How many galaxies."
        ),
    ] = 2500,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions to split them into: one rank each.")
    ] = 11,
    engine: Annotated[
        str | None, typer.Option(help="Inference engine. Default: the template's.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")
    ] = False,
) -> None:
    """Run real SDSS galaxies through the whole state machine, on this machine.

    Makes the data set (real magnitudes and redshifts of galaxies that the shipped model has never
    seen, painted images), splits it into partitions in an embedded S3, predicts them by a
    distributed Map of model-inference functions, and summarizes. No account, no Docker. The data
    set is kept in `.cosmicai/demo/`, the results go to `runs/<execution>/`.
    """
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.cli.run import report
    from cosmicai_workbench.demo import demo as run_demo

    outcome = run_demo(
        galaxies=galaxies, partitions=partitions, engine=engine, bar=progress_bar, runs=runs
    )
    raise typer.Exit(report(outcome, as_json=as_json))
