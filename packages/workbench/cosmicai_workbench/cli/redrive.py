"""``cosmicai redrive``: go on with an execution that was stopped or ran out of time."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    epilog="Example: `cosmicai redrive run-20261122-101500-1a2b --stack cosmicai`. "
    "Exit codes as of `cosmicai run`."
)
def redrive(
    execution: Annotated[str, typer.Argument(help="Name or ARN of the execution.")],
    stack: Annotated[str, typer.Option(help="Stack on AWS.")] = "cosmicai",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch/--no-watch", help="Follow to the end and fetch the results; or only start."
        ),
    ] = True,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    profile: Annotated[str | None, typer.Option(help="AWS profile.")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Redrive an execution: ranks that succeeded are not computed again.

    For executions that were stopped or timed out. One that failed has handled its failure and
    ended; the message then says how to start it again.
    """
    from cosmicai_workbench import place as places
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.cli.run import report
    from cosmicai_workbench.client.execution import execution_arn, redrive
    from cosmicai_workbench.performing import collect, follow

    place = places.on_aws(stack, profile=profile, region=region)
    arn = execution_arn(place.connection, execution)
    redrive(place.connection, arn)
    if not watch:
        typer.echo(arn)
        return
    follow(place, arn, bar=progress_bar)
    raise typer.Exit(report(collect(place, arn, bar=progress_bar, runs=runs), as_json=as_json))
