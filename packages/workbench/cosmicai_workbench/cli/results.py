"""``cosmicai results``: look at a run, and export it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Json, Profile, Region, Runs
from cosmicai_workbench.defaults import LATEST, RUNS, STACK

app = typer.Typer(no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.callback()
def results() -> None:
    """Look at finished runs, and export them as catalogues."""


@app.command()
def show(
    run: RunFolder = RUNS / LATEST,
    bins: Annotated[
        int | None,
        typer.Option(help="So many bins of equally many galaxies, not fixed ones.", min=1, max=50),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a run's quality, also by bins of predicted redshift and of magnitude, and its flags.

    Where no redshift is known to compare with, its summary instead of its quality.

    Example: `cosmicai results show runs/latest --bins 8`
    """
    from cosmicai.quality import figures
    from cosmicai.schema import QualityStatistics

    from cosmicai_workbench.results.binned import quality_by_bin
    from cosmicai_workbench.results.run_folder import load_run
    from cosmicai_workbench.results.table import print_flags, print_quality, print_summary

    loaded = load_run(run)
    known = bool(loaded.predictions.known.any())
    unflagged = int(loaded.predictions.unflagged.sum())
    quality = quality_by_bin(loaded, bins) if known else figures(QualityStatistics())
    if as_json:
        flags = {"flag_counts": loaded.summary.flag_counts, "num_unflagged": unflagged}
        typer.echo(json.dumps(quality.model_dump(mode="json") | flags, indent=2))
        return
    if known:
        print_quality(quality)
    else:
        print_summary(loaded.summary)
        typer.echo("No galaxy has a known redshift: there is no quality to show.")
    print_flags(loaded.summary, unflagged)


@app.command()
def plot(run: RunFolder = RUNS / LATEST) -> None:
    """Draw the redshift quality of a run into its folder.

    Predicted against true redshift; the PIT, where the model gives p(z); and how many true
    redshifts the intervals hold, where it has intervals.

    Example: `cosmicai results plot runs/latest`
    """
    from cosmicai_workbench.results.plot import plot_all
    from cosmicai_workbench.results.run_folder import load_run

    for picture in plot_all(load_run(run)):
        typer.echo(picture)


@app.command()
def export(
    run: RunFolder = RUNS / LATEST,
    to: Annotated[
        str | None,
        typer.Option(
            help="parquet, fits, csv, votable, qp or hats. Default: what the ending of --output "
            "says, else parquet."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="What to write; RUN/catalogue.(format) by default."),
    ] = None,
    columns: Annotated[
        str, typer.Option(help="all, or euclid: named as Euclid's photometric redshifts are.")
    ] = "all",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the partitions of failed ranks, if the run lists them not."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a run as a catalogue: one row per object, with units, descriptions and provenance.

    `hats` is a folder that LSDB opens, `qp` an ensemble of p(z) for RAIL; astropy, TOPCAT, pandas
    and polars open the others as they are.

    Example: `cosmicai results export -o galaxies.fits`
    """
    from typing import cast

    from cosmicai.flags import FAILED_RANK

    from cosmicai_workbench.results.export import Columns, export_catalogue
    from cosmicai_workbench.results.run_folder import load_run

    loaded = load_run(run)
    done = export_catalogue(
        loaded,
        output,
        to,
        data=data,
        overwrite=overwrite,
        columns=cast("Columns", columns),
    )
    typer.echo(f"{done.path}: {done.rows:,} rows, one per object")
    if done.left_out:
        lacking = "a prediction" if done.form == "qp" else "a position"
        typer.echo(f"  left out: {done.left_out:,} objects without {lacking}")
    summary = loaded.summary
    if failed := summary.num_failed_ranks:
        typer.echo(
            f"  {summary.status}: {failed} of {summary.world_size} ranks failed; their objects "
            f"have no redshift and the flag {FAILED_RANK.value}"
        )
    if done.unflagged:
        typer.echo(f"  no flags: {done.unflagged:,} objects, which an earlier release predicted")
    if done.unlisted:
        typer.echo(
            f"  not listed: the objects of {len(done.unlisted)} partition(s) of failed ranks, such "
            f"as {done.unlisted[0]}; --data FOLDER, with good copies of these, lists them"
        )


@app.command()
def get(
    execution: Annotated[str, typer.Argument(help="Name or ARN of the execution.")],
    stack: Annotated[str, typer.Option(help="Stack on AWS.")] = STACK,
    runs: Runs = RUNS,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Fetch the results of an execution on AWS that has ended, to `runs/<execution>/`.

    Example: `cosmicai results get run-20261122-101500-1a2b --stack cosmicai`
    """
    from cosmicai.errors import InvalidInput

    from cosmicai_workbench import place as places
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.cli.run import report
    from cosmicai_workbench.client.connection import lookups
    from cosmicai_workbench.client.execution import RUNNING, ended, execution_arn
    from cosmicai_workbench.performing import collect

    place = places.on_aws(stack, profile=profile, region=region)
    arn = execution_arn(place.connection, execution)
    with lookups(f"execution {execution}"):
        found = ended(place.connection, arn)
    if found.status == RUNNING:
        raise InvalidInput(f"execution {execution} is still running: there is no result yet")
    raise typer.Exit(report(collect(place, found, bar=progress_bar, runs=runs), as_json=as_json))
