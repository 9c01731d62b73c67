"""``cosmicai deploy-check``: an execution against the account and the stack, before it starts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosmicai_workbench.cli.options import InputFile, Json, Profile, Region
from cosmicai_workbench.defaults import STACK

if TYPE_CHECKING:
    from cosmicai_workbench.deployment.preflight import Preflight

app = typer.Typer()

_SIGNS = {"ok": "ok", "warning": "WARNING", "error": "ERROR"}


@app.command(
    epilog="Example: `cosmicai deploy-check --stack cosmicai -i events/seed-100MB-1GB.json`. "
    "Exit codes: 0 nothing stands in the way; 1 something does, or it costs more than allowed, or "
    "an unknown amount."
)
def deploy_check(
    input_file: InputFile = None,
    stack: Annotated[str, typer.Option(help="Stack on AWS.")] = STACK,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the input: KEY=VALUE.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model bundle that the run would upload.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of partitions (*.pt) that the run would upload.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Fail when the estimate is above this, in dollars.", min=0)
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder to take times from for the estimate."),
    ] = None,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Compare an execution with the account's limits, and estimate its time and cost.

    Reads only: nothing is started, nothing is written. It also compares the input with what the
    functions' roles allow, and asks AWS to validate the state machine, where credentials allow.
    """
    from cosmicai_workbench import place as places
    from cosmicai_workbench.client.execution import check_input, new_name
    from cosmicai_workbench.client.inputs import complete, read_input
    from cosmicai_workbench.deployment.preflight import preflight

    given = read_input(input_file, overrides or [])
    connection = places.on_aws(stack, profile=profile, region=region).connection
    content = check_input(
        complete(given, name=new_name(), connection=connection, model=model, data=data)
    )
    found = preflight(
        connection,
        content,
        calibrate=calibrate,
        model=model,
        data=data,
        ask_about_definition=True,
    )
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
    else:
        show(found)
    if max_cost is not None and (found.dollars is None or found.dollars > max_cost):
        cost = "an unknown cost may be" if found.dollars is None else f"${found.dollars:.2f} is"
        typer.echo(f"cosmicai: {cost} above --max-cost {max_cost:g}", err=True)
        raise typer.Exit(1)
    raise typer.Exit(0 if found.passed else 1)


def show(found: "Preflight") -> None:
    """Print the checks and the estimate."""
    for check in found.checks:
        typer.echo(f"{_SIGNS[check.level]:>7}  {check.name}: {check.finding}")
    estimate = found.estimate
    cost = estimate.cost
    price = f"${cost.total:.4f} (list prices of {cost.prices_date})" if cost else "cost unknown"
    typer.echo(
        f"Estimate: {price}, about {estimate.wall_seconds.median:.0f} s; "
        f"times from {estimate.calibrated_from}"
    )
