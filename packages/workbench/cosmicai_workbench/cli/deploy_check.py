"""``cosmicai deploy-check``: an execution against the account and the stack, before it starts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cosmicai_workbench.deployment.preflight import Preflight

app = typer.Typer(rich_markup_mode="markdown")

_SIGNS = {"ok": "ok", "warning": "WARNING", "error": "ERROR"}


@app.command(
    epilog="Example: `cosmicai deploy-check --stack cosmicai -i events/seed-100MB-1GB.json`. "
    "Exit codes: 0 nothing stands in the way; 1 something does, or it costs more than allowed."
)
def deploy_check(
    input_file: Annotated[
        str, typer.Option("--input", "-i", help="JSON file of the execution's input; - for stdin.")
    ],
    stack: Annotated[str, typer.Option(help="Stack on AWS.")] = "cosmicai",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the input: KEY=VALUE.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Fail when the estimate is above this, in dollars.", min=0)
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder to take times from for the estimate."),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="AWS profile.")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare an execution with the account's limits, and estimate its time and cost.

    Reads only: nothing is started, nothing is written.
    """
    from cosmicai_workbench import place as places
    from cosmicai_workbench.client.execution import check_input
    from cosmicai_workbench.client.inputs import read_input
    from cosmicai_workbench.deployment.preflight import preflight

    content = check_input(read_input(input_file, overrides or []))
    place = places.on_aws(stack, profile=profile, region=region)
    found = preflight(place.connection, content, calibrate=calibrate)
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
    else:
        show(found)
    if max_cost is not None and found.dollars is not None and found.dollars > max_cost:
        typer.echo(f"cosmicai: ${found.dollars:.2f} is above --max-cost {max_cost:g}", err=True)
        raise typer.Exit(1)
    raise typer.Exit(0 if found.passed else 1)


def show(found: "Preflight") -> None:
    """Print the checks and the estimate."""
    for check in found.checks:
        typer.echo(f"{_SIGNS[check.level]:>7}  {check.name}: {check.finding}")
    estimate = found.estimate
    typer.echo(
        f"Estimate: ${found.dollars:.4f} (list prices of {estimate.cost.prices_date}), about "
        f"{estimate.wall_seconds.median:.0f} s; times from {estimate.calibrated_from}"
    )
