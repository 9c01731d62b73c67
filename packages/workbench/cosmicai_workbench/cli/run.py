"""``cosmicai run``: one execution, on this machine or on AWS."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosmicai_workbench.cli.options import (
    InputFile,
    Json,
    Local,
    MaxCost,
    Profile,
    Region,
    Runs,
    Stack,
    Watch,
    Yes,
)
from cosmicai_workbench.defaults import MAX_COST, RUNS

if TYPE_CHECKING:
    from cosmicai_workbench.api import StartedRun
    from cosmicai_workbench.performing import Outcome

app = typer.Typer()

PARTIAL = 3
NAMED_RANKS = 10
"""Failed ranks that are printed; the JSON names all of them."""


@app.command(
    epilog="Exit codes: 0 every rank was received; 1 the execution failed; 2 bad usage or input, "
    "nothing was computed; 3 a partial result, within what the execution tolerates; "
    "4 the execution goes on, but can no longer be watched; 130 interrupted."
)
def run(
    input_file: InputFile = None,
    local: Local = False,
    stack: Stack = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the input: KEY=VALUE, VALUE as JSON."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of a model bundle to upload first, or s3://BUCKET/FOLDER. Default, with "
            "--data: the one that ships."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder of partitions (*.pt) to upload first, or s3://BUCKET/FOLDER."),
    ] = None,
    replace_data: Annotated[
        bool,
        typer.Option(
            "--replace-data", help="Remove partitions of another data set from where --data goes."
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the execution.")] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, help="For a local cloud of its own: ranks at once. Default: the number of cores."
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", help="For a local cloud of its own: NAME=VALUE for the template."
        ),
    ] = None,
    cloud: Annotated[
        str | None,
        typer.Option(
            help="With --local: the local cloud to use, which must be up. Default: `local`, if it "
            "is up."
        ),
    ] = None,
    attach: Annotated[
        str | None,
        typer.Option(
            metavar="EXECUTION", help="Start nothing: watch this execution, and fetch its results."
        ),
    ] = None,
    watch: Watch = True,
    show: Annotated[
        bool,
        typer.Option(
            "--report", help="Show the report in the browser while the run goes on, and keep it."
        ),
    ] = False,
    runs: Runs = RUNS,
    max_cost: MaxCost = MAX_COST,
    yes: Yes = False,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Run one execution of the state machine, and fetch what it leaves.

    The results go to `runs/<execution>/`, and `runs/latest` points there. Model and partitions
    are uploaded to the stack's own buckets; `-i` and `--set` set everything else. On this machine
    the run uses the local cloud that is up (`cosmicai local up`), or else one of its own, which
    ends with it.

    On this machine: `cosmicai run --data partitions --model my-model`

    On AWS: `cosmicai run --stack cosmicai --data partitions --model my-model`

    With its report in the browser as it goes on: `cosmicai run --data partitions --report`
    """
    from cosmicai.errors import InvalidInput

    from cosmicai_workbench import place as places
    from cosmicai_workbench.api import StartedRun, started
    from cosmicai_workbench.cli.approval import approve, tell_start
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.client.execution import execution_arn
    from cosmicai_workbench.client.inputs import pairs, read_input
    from cosmicai_workbench.results.fetch import reserve

    if local and stack is not None:
        raise InvalidInput("say where to run: either --local or --stack NAME")
    if show and not watch:
        raise InvalidInput("--report shows a run that is watched: leave out --no-watch")
    if attach is not None:
        place = places.find(stack, cloud, profile=profile, region=region)
        begun = StartedRun(place, execution_arn(place.connection, attach), runs)
        reserve(runs, begun.name)
        raise typer.Exit(report(followed(begun, show=show), as_json=as_json))
    with started(
        data,
        model,
        f"stack:{stack}" if stack else f"local:{cloud}" if cloud else "local",
        settings=read_input(input_file, overrides or []),
        approve=partial(approve, max_cost=max_cost, yes=yes),
        replace_data=replace_data,
        name=name,
        runs=runs if watch else None,
        concurrency=concurrency,
        parameters=pairs(parameters or [], "--parameter"),
        profile=profile,
        region=region,
        bar=progress_bar,
        on_default_model=tell_model,
    ) as begun:
        if not watch:
            typer.echo(json.dumps({"arn": begun.arn}) if as_json else begun.arn)
            return
        if stack is not None:
            tell_start(begun.arn)
        outcome = followed(begun, data, show=show)
    raise typer.Exit(report(outcome, as_json=as_json))


def followed(begun: "StartedRun", data: str | None = None, *, show: bool = False) -> "Outcome":
    """Wait for an execution's end, in the browser too if asked, and fetch what it left."""
    from cosmicai_workbench.cli.interruption import if_interrupted
    from cosmicai_workbench.cli.live_report import reported
    from cosmicai_workbench.cli.progress import progress_bar

    with (
        if_interrupted(begun.goes_on),
        reported(begun.place, begun.arn, data, asked=show) as conclude,
    ):
        outcome = begun.finish(progress_bar).outcome
        conclude(outcome)
    return outcome


def report(outcome: "Outcome", *, as_json: bool) -> int:
    """Print how a run ended, and return the exit code for it."""
    from cosmicai_workbench.results.table import print_summary

    execution = outcome.execution
    summary = outcome.run.summary if outcome.run else None
    if as_json:
        document = {
            "arn": execution.arn,
            "status": execution.status,
            "error": execution.error,
            "reason": execution.reason,
            "folder": str(outcome.folder) if outcome.folder else None,
            "plot": str(outcome.plot) if outcome.plot else None,
            "trouble": outcome.trouble,
            "links": outcome.links.document() if outcome.links else None,
            "summary": summary.model_dump(mode="json") if summary else None,
        }
        typer.echo(json.dumps(document, indent=2))
    elif summary is not None:
        print_summary(summary)
        _print_failed_ranks(outcome)
        typer.echo(f"Results in {outcome.folder}/")
        if outcome.plot is not None:
            typer.echo(f"Plot: {outcome.plot}")
        if summary.ranks_received:
            typer.echo(f"Catalogue: cosmicai results export {outcome.folder}")
    if outcome.trouble:
        typer.echo(f"cosmicai: its results cannot be fetched: {outcome.trouble}", err=True)
    if execution.status != "SUCCEEDED":
        typer.echo(f"cosmicai: {execution.error or execution.status}: {execution.reason}", err=True)
        if outcome.links:
            typer.echo(f"cosmicai: in the console: {outcome.links.execution}", err=True)
        return 2 if execution.is_refused else 1
    return PARTIAL if execution.is_partial else 0


def _print_failed_ranks(outcome: "Outcome") -> None:
    """Print why ranks failed, and where to see more of each."""
    if outcome.run is None:
        return
    failed = outcome.run.summary.failed_ranks
    links = {each.rank: each for each in outcome.links.failed_ranks} if outcome.links else {}
    for each in failed[:NAMED_RANKS]:
        typer.echo(f"Rank {each.rank} failed: {each.error}: {each.cause}")
        if each.rank in links:
            typer.echo(f"  child: {links[each.rank].child or 'unknown'}")
            typer.echo(f"  log: {links[each.rank].log}")
        else:
            typer.echo(f"  log: cosmicai logs --rank {each.rank}")
    if len(failed) > NAMED_RANKS:
        typer.echo(f"and {len(failed) - NAMED_RANKS} more, in {outcome.folder}/summary.json")


def tell_model(model: Path) -> None:
    """Say which model is used where none was given."""
    typer.echo(f"cosmicai: no --model given, using the one that ships: {model}", err=True)
