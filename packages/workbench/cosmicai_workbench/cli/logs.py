"""``cosmicai logs``: what the functions and the platform wrote."""

from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Profile, Region

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
        str | None, typer.Option(help="With --stack: only lines of the execution of this name.")
    ] = None,
    minutes: Annotated[int, typer.Option(help="With --stack: how far to look back.", min=1)] = 60,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show the logs of a local cloud, up or down: function lines, START, END and REPORT.

    With `--stack`, show those of a stack on AWS, by time over its functions and state machine:
    the lines that `sam logs --stack-name` shows.

    A REPORT line says what was measured: duration, billed duration (init included, as AWS bills
    since August 2025), peak resident memory.
    """
    if stack is not None:
        from datetime import timedelta

        from cosmicai_workbench.client.cloudwatch import lines, pattern
        from cosmicai_workbench.place import on_aws

        place = on_aws(stack, profile=profile, region=region)
        found = lines(
            place.connection,
            timedelta(minutes=minutes),
            pattern(execution, rank),
            follow=follow,
            patience=place.patience,
        )
        for line in found:
            typer.echo(f"{line.time:%Y-%m-%dT%H:%M:%S.%fZ} {line.group} {line.text}")
        return
    from cosmicai_workbench.cloud.local import STATE_ROOT
    from cosmicai_workbench.cloud.records import LogReader, latest_logs
    from cosmicai_workbench.cloud.state import logs_folder, state_folder

    folder = logs_folder(state_folder(STATE_ROOT, name)) if name else latest_logs(STATE_ROOT)
    if folder is None or not folder.is_dir():
        typer.echo(f"cosmicai: no logs of {name or 'any local cloud'} in {STATE_ROOT}", err=True)
        raise typer.Exit(1)
    reader = LogReader(folder, rank=rank)
    entries = reader.follow() if follow else iter(reader.read())
    nothing = True
    for entry in entries:
        nothing = False
        typer.echo(entry.shown())
    if nothing:
        of = "" if rank is None else f" of an invocation that served rank {rank}"
        typer.echo(f"cosmicai: no lines{of} in {folder}", err=True)
        raise typer.Exit(1)
