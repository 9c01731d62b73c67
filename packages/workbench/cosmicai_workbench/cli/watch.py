"""``cosmicai watch``: the report of an execution in the browser, while it goes on."""

from pathlib import Path
from typing import Annotated

import typer

from cosmicai_workbench.cli.options import Profile, Region
from cosmicai_workbench.defaults import CLOUD

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    epilog="Exit codes: 0 the execution succeeded; 1 it failed; 2 bad usage or input; "
    "4 it goes on, but can no longer be watched; 130 interrupted: the execution goes on. "
    "Example: `cosmicai watch run-20261126-120000-ab12`"
)
def watch(
    execution: Annotated[
        str | None,
        typer.Argument(help="Name or ARN of an execution. Default: the one that started last."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the final report there.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option("--stack", help="Watch an execution on AWS, in this stack.")
    ] = None,
    cloud: Annotated[str, typer.Option(help="Local cloud, where no stack is given.")] = CLOUD,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Whether to open it."),
    ] = True,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Show the report of an execution in the browser while it goes on, here or on AWS.

    The page renews itself every second or two: ranks done and failing, throughput, n(z) so far;
    it ends as the final report. It is served to this machine only, at an address that nobody can
    guess, and no longer than the command runs. Ctrl-C ends watching; the execution goes on.
    Nothing is kept but what `--output` says; `cosmicai run` fetches results with --attach.
    """
    import tempfile

    from cosmicai_workbench import place as places
    from cosmicai_workbench.cli.interruption import if_interrupted
    from cosmicai_workbench.cli.live_report import tell_address
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.client.execution import execution_arn, latest_execution
    from cosmicai_workbench.performing import again, attach
    from cosmicai_workbench.report.live import last_page, shown_live
    from cosmicai_workbench.report.page import write_page

    place = places.find(stack, cloud, profile=profile, region=region)
    arn = (
        execution_arn(place.connection, execution)
        if execution
        else latest_execution(place.connection)
    )
    with (
        tempfile.TemporaryDirectory(prefix="cosmicai-watch-") as scratch,
        if_interrupted(f"watching ends, not the execution; {again(place, arn)}"),
        shown_live(place, arn, tell_address, browser=browser) as last,
    ):
        outcome = attach(place, arn, bar=progress_bar, runs=Path(scratch))
        page = last_page(outcome)
        if output is not None:
            write_page(page, output)
            typer.echo(f"Report: {output}")
        last(page)
    if outcome.execution.status != "SUCCEEDED":
        ended = outcome.execution
        typer.echo(f"cosmicai: {ended.error or ended.status}: {ended.reason}", err=True)
        raise typer.Exit(1)
