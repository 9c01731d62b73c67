"""``cosmicai demo``: the main job with one command, on this machine or on AWS."""

from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Json, MaxCost, Profile, Region, Runs, Stack, Yes
from cosmicai_workbench.defaults import DEMO_GALAXIES, DEMO_PARTITIONS, MAX_COST, RUNS

app = typer.Typer()


@app.command(
    epilog="Exit codes: those of `cosmicai run`. Examples: `cosmicai demo --galaxies 500`, "
    "`cosmicai demo --stack cosmicai`"
)
def demo(
    galaxies: Annotated[
        int,
        typer.Option(
            "--galaxies", "-n", min=1, envvar="COSMICAI_DEMO_GALAXIES", help="How many galaxies."
        ),
    ] = DEMO_GALAXIES,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions to split them into: one rank each.")
    ] = DEMO_PARTITIONS,
    engine: Annotated[
        str | None, typer.Option(help="Inference engine. Default: the template's.")
    ] = None,
    stack: Stack = None,
    runs: Runs = RUNS,
    max_cost: MaxCost = MAX_COST,
    yes: Yes = False,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Run real SDSS galaxies through the whole state machine.

    Makes the data set (real magnitudes and redshifts of galaxies that the shipped model has never
    seen, painted images), splits it into partitions in S3, predicts them by a distributed Map of
    model-inference functions, and summarizes. On this machine, with an embedded S3: no account,
    no Docker. With `--stack`, on AWS: model and data are uploaded to the stack's buckets after a
    check and an estimate. The data set is kept in `.cosmicai/demo/`, the results go to
    `runs/<execution>/`.
    """
    from functools import partial

    from cosmicai_workbench import place as places
    from cosmicai_workbench.cli.approval import approve, tell_start
    from cosmicai_workbench.cli.interruption import if_interrupted
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.cli.run import report
    from cosmicai_workbench.demo import demo as run_demo

    place = None if stack is None else places.on_aws(stack, profile=profile, region=region)
    with if_interrupted("" if place else "the local cloud ends, and its execution with it"):
        outcome = run_demo(
            galaxies=galaxies,
            partitions=partitions,
            engine=engine,
            place=place,
            approve=partial(approve, place, max_cost=max_cost, yes=yes) if place else None,
            on_start=tell_start if place else None,
            bar=progress_bar,
            runs=runs,
        )
    raise typer.Exit(report(outcome, as_json=as_json))
