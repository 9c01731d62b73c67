"""``cosmicai resume``: continue an execution that failed, was stopped or ran out of time."""

import json
from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Json, MaxCost, Profile, Region, Runs, Watch, Yes
from cosmicai_workbench.defaults import CLOUD, MAX_COST, RUNS

app = typer.Typer()


@app.command(
    epilog="Example: `cosmicai resume run-20261122-101500-1a2b --stack cosmicai`. "
    "Exit codes: those of `cosmicai run`."
)
def resume(
    execution: Annotated[str, typer.Argument(help="Name or ARN of the execution.")],
    stack: Annotated[
        str | None, typer.Option("--stack", help="Stack on AWS. Default: the local cloud.")
    ] = None,
    cloud: Annotated[str, typer.Option(help="Without --stack: the local cloud.")] = CLOUD,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE of max_concurrency, tolerated_failure_percentage or fmi_channel.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new execution.")] = None,
    watch: Watch = True,
    runs: Runs = RUNS,
    max_cost: MaxCost = MAX_COST,
    yes: Yes = False,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Start a new execution over the ranks of an earlier one that left no result.

    It writes under the same result path. Results that are there and whole are kept; a partition
    that was fixed meanwhile is read again, one that was removed is left out. Works after a
    failure, a stop, a time-out or a lost Summarize.
    """
    from cosmicai_workbench import place as places
    from cosmicai_workbench.api import StartedRun
    from cosmicai_workbench.cli.approval import approve, tell_start
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.cli.run import followed, report
    from cosmicai_workbench.client.execution import execution_arn, new_name, resumed_input, start
    from cosmicai_workbench.client.inputs import read_input
    from cosmicai_workbench.performing import begin
    from cosmicai_workbench.results.fetch import reserve

    place = places.find(stack, cloud, profile=profile, region=region)
    content = resumed_input(place.connection, execution_arn(place.connection, execution))
    content |= read_input(None, overrides or [])
    if stack is not None:
        # An upper bound: which ranks are missing is Initialize's to find out.
        content = approve(place, content, None, None, max_cost=max_cost, yes=yes)
    if not watch:
        arn = start(place.connection, content, name)
        typer.echo(json.dumps({"arn": arn}) if as_json else arn)
        return
    name = name or new_name()
    reserve(runs, name)
    begun = StartedRun(place, begin(place, content, bar=progress_bar, name=name), runs)
    if stack is not None:
        tell_start(begun.arn)
    raise typer.Exit(report(followed(begun), as_json=as_json))
