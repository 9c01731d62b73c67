"""``cosmicai run``: one execution, on this machine or on AWS."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cosmicai.schema import ExecutionInput

    from cosmicai_workbench.performing import Outcome
    from cosmicai_workbench.place import Place

app = typer.Typer(rich_markup_mode="markdown")

PARTIAL = 3


@app.command(
    epilog="Exit codes: 0 every rank was received; 1 the execution failed; 2 bad usage or input, "
    "nothing was computed; 3 a partial result, within what the execution tolerates; "
    "130 interrupted."
)
def run(
    input_file: Annotated[
        str, typer.Option("--input", "-i", help="JSON file of the execution's input; - for stdin.")
    ],
    local: Annotated[
        bool, typer.Option("--local", help="Run on this machine, in a local cloud.")
    ] = False,
    stack: Annotated[
        str | None, typer.Option("--stack", help="Run on AWS, in the stack of this name.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the input: KEY=VALUE, VALUE as JSON."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a model bundle to upload to S3_object_name first."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of partitions (*.pt) to upload to data_prefix first."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the execution.")] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="With --local: ranks at once. Default: the number of cores."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", help="With --local: NAME=VALUE for the template."),
    ] = None,
    cloud: Annotated[
        str, typer.Option(help="With --local: the local cloud to use, where one is up.")
    ] = "local",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch/--no-watch", help="Follow to the end and fetch the results; or only start."
        ),
    ] = True,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    max_cost: Annotated[
        float,
        typer.Option(
            help="With --stack: ask first when the estimated cost is above this, in dollars.", min=0
        ),
    ] = 5.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --stack: do not ask.")] = False,
    profile: Annotated[str | None, typer.Option(help="With --stack: AWS profile.")] = None,
    region: Annotated[str | None, typer.Option(help="With --stack: AWS region.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON on stdout.")
    ] = False,
) -> None:
    """Run one execution of the state machine, and fetch what it leaves.

    The results go to `runs/<execution>/`, and `runs/latest` points there. With `--local`, the
    run uses the local cloud that is up (`cosmicai local up`), or else one of its own, which
    ends with it.

    On this machine: `cosmicai run --local -i events/seed-100MB-1GB.json --data partitions`

    On AWS: `cosmicai run --stack cosmicai -i events/seed-100MB-1GB.json --set file_limit=2`
    """
    from cosmicai.errors import InvalidInput

    from cosmicai_workbench import place as places
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.client.execution import check_input, start
    from cosmicai_workbench.client.inputs import pairs, read_input
    from cosmicai_workbench.performing import perform

    if local == (stack is not None):
        raise InvalidInput("say where to run: either --local or --stack NAME")
    content = read_input(input_file, overrides or [])
    checked = check_input(content)
    with ExitStack() as cleanup:
        if stack is not None:
            place = places.on_aws(stack, profile=profile, region=region)
            _approve(place, checked, model, data, max_cost=max_cost, yes=yes)
        elif (running := places.running_cloud(cloud)) is not None:
            place = running
        else:
            model = _sources_of_an_empty_cloud(checked, model, data, watch=watch)
            own = places.own_cloud(
                checked,
                concurrency=concurrency,
                parameters=pairs(parameters or [], "--parameter"),
                data=data,
                bar=progress_bar,
            )
            place = cleanup.enter_context(own)
        if not watch:
            arn = start(place.connection, content, name)
            typer.echo(json.dumps({"arn": arn}) if as_json else arn)
            return
        outcome = perform(
            place,
            content,
            bar=progress_bar,
            model=model,
            data=data,
            name=name,
            runs=runs,
            on_start=_tell_start if stack is not None else None,
        )
    raise typer.Exit(report(outcome, as_json=as_json))


def _approve(
    place: "Place",
    content: "ExecutionInput",
    model: Path | None,
    data: Path | None,
    *,
    max_cost: float,
    yes: bool,
) -> None:
    """Refuse a run that cannot work on AWS, and ask before one that is dear."""
    from cosmicai.errors import InvalidInput

    from cosmicai_workbench.client.connection import LookupRefused
    from cosmicai_workbench.deployment.preflight import preflight

    try:
        found = preflight(place.connection, content, model=model, data=data)
    except LookupRefused as error:
        typer.echo(f"cosmicai: no check and no estimate beforehand: {error}", err=True)
        return
    for check in found.checks:
        if check.level == "warning":
            typer.echo(f"cosmicai: {check.name}: {check.finding}", err=True)
    if problems := [f"{c.name}: {c.finding}" for c in found.checks if c.level == "error"]:
        raise InvalidInput("; ".join(problems))
    typer.echo(f"cosmicai: estimated cost ${found.dollars:.4f}", err=True)
    if found.dollars > max_cost and not yes:
        typer.confirm("Start it?", abort=True, err=True)


def _tell_start(arn: str) -> None:
    """Say what goes on if this command is interrupted."""
    typer.echo(
        f"cosmicai: started {arn}; Ctrl-C stops watching only (to stop it: aws stepfunctions "
        f"stop-execution --execution-arn {arn})",
        err=True,
    )


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
            "summary": summary.model_dump(mode="json") if summary else None,
        }
        typer.echo(json.dumps(document, indent=2))
    elif summary is not None:
        print_summary(summary)
        typer.echo(f"Results in {outcome.folder}/")
        if outcome.plot is not None:
            typer.echo(f"Plot: {outcome.plot}")
    if execution.status != "SUCCEEDED":
        typer.echo(f"cosmicai: {execution.error or execution.status}: {execution.reason}", err=True)
        return 2 if execution.is_refused else 1
    return PARTIAL if execution.is_partial else 0


def _sources_of_an_empty_cloud(
    content: "ExecutionInput", model: Path | None, data: Path | None, *, watch: bool
) -> Path:
    """Check what a cloud of its own would start with, and return the model to upload."""
    from cosmicai.errors import InvalidInput

    from cosmicai_workbench.application import SMALL_MODEL

    if not watch:
        raise InvalidInput("--no-watch needs a cloud that stays: `cosmicai local up` first")
    if data is None:
        raise InvalidInput(
            f"a local cloud of its own starts empty: give --data FOLDER, whose partitions then are "
            f"s3://{content.data_bucket}/{content.data_prefix}; or keep one up by "
            "`cosmicai local up` and fill it"
        )
    if model is None:
        typer.echo(f"cosmicai: no --model given, using the one that ships: {SMALL_MODEL}", err=True)
    return model or SMALL_MODEL
