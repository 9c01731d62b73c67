"""``cosmicai logs``: what the functions and the platform wrote."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cosmicai_workbench.cli.options import Json, Profile, Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cosmicai_workbench.cloud.records import Entry

app = typer.Typer()


@app.command(
    epilog="Exit code 1: nothing was found. Example: `cosmicai logs --rank 3`, `cosmicai logs "
    "--follow`"
)
def logs(
    name: Annotated[
        str | None,
        typer.Option("--name", help="Local cloud. Default: the one that wrote last."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Only the invocations that served this rank.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep showing lines as they come.")
    ] = False,
    stack: Annotated[
        str | None, typer.Option("--stack", help="Show the logs of this stack on AWS instead.")
    ] = None,
    execution: Annotated[
        str | None, typer.Option(help="Only lines of the execution of this name.")
    ] = None,
    minutes: Annotated[int, typer.Option(help="With --stack: how far to look back.", min=1)] = 60,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Show the logs of a local cloud, up or down: function lines, START, END and REPORT.

    With `--stack`, show those of a stack on AWS, by time over its functions and state machine:
    the lines that `sam logs --stack-name` shows.

    A REPORT line says what was measured: duration, billed duration (init included, as AWS bills
    since August 2025), peak resident memory. With `--json` each line is an object with `timestamp`,
    `stream` (or log group) and `text`.
    """
    if stack is not None:
        found: Iterable[Entry] = _of_stack(stack, execution, rank, minutes, follow, profile, region)
        where = f"{stack} of the last {minutes} minutes"
    else:
        found, folder = _of_cloud(name, execution, rank, follow)
        where = str(folder)
    nothing = True
    for entry in found:
        nothing = False
        typer.echo(json.dumps(asdict(entry)) if as_json else entry.shown())
    if nothing:
        of = "" if rank is None else f" of an invocation that served rank {rank}"
        of += f" of execution {execution}" if execution else ""
        typer.echo(f"cosmicai: no lines{of} in {where}", err=True)
        raise typer.Exit(1)


def _of_stack(
    stack: str,
    execution: str | None,
    rank: int | None,
    minutes: int,
    follow: bool,
    profile: str | None,
    region: str | None,
) -> "Iterator[Entry]":
    from datetime import timedelta

    from cosmicai_workbench.client.cloudwatch import lines, pattern
    from cosmicai_workbench.cloud.records import Entry
    from cosmicai_workbench.place import on_aws

    place = on_aws(stack, profile=profile, region=region)
    for line in lines(
        place.connection,
        timedelta(minutes=minutes),
        pattern(execution, rank),
        follow=follow,
        patience=place.patience,
    ):
        yield Entry(f"{line.time:%Y-%m-%dT%H:%M:%S.%fZ}", line.group, line.text)


def _of_cloud(
    name: str | None, execution: str | None, rank: int | None, follow: bool
) -> "tuple[Iterable[Entry], Path]":
    from cosmicai.errors import InvalidInput

    from cosmicai_workbench.cloud.invocations import lines_of
    from cosmicai_workbench.cloud.local import STATE_ROOT
    from cosmicai_workbench.cloud.records import LogReader, latest_logs
    from cosmicai_workbench.cloud.state import logs_folder, state_folder

    if follow and execution is not None:
        raise InvalidInput("--execution: without --stack, --follow shows all executions")
    folder = logs_folder(state_folder(STATE_ROOT, name)) if name else latest_logs(STATE_ROOT)
    if folder is None or not folder.is_dir():
        typer.echo(f"cosmicai: no logs of {name or 'any local cloud'} in {STATE_ROOT}", err=True)
        raise typer.Exit(1)
    if execution is not None:
        return lines_of(folder, execution, rank), folder
    reader = LogReader(folder, rank=rank)
    return reader.follow() if follow else reader.read(), folder
