"""Before an execution on AWS starts: what the check finds, and whether it may cost that much."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cosmicai_workbench.place import Place


def approve(
    place: "Place",
    content: dict[str, Any],
    model: Path | None,
    data: Path | None,
    *,
    max_cost: float,
    yes: bool,
) -> dict[str, Any]:
    """Refuse a run that cannot work on AWS, ask before an expensive one, and return its input.

    Its ``max_concurrency`` is bounded by what the account can run at once.
    """
    from cosmicai_workbench.api import possible

    found = possible(place, content, model, data)
    for check in found.checks:
        if check.level == "warning":
            typer.echo(f"cosmicai: {check.name}: {check.finding}", err=True)
    cost = "unknown" if found.dollars is None else f"${found.dollars:.4f}"
    seconds = found.estimate.wall_seconds.median
    typer.echo(f"cosmicai: estimated cost {cost}, about {seconds:.0f} s", err=True)
    if (found.dollars is None or found.dollars > max_cost) and not yes:
        typer.confirm("Start it?", abort=True, err=True)
    return {**content, **found.bounds}


def tell_start(arn: str) -> None:
    """Say what goes on if this command is interrupted."""
    typer.echo(
        f"cosmicai: started {arn}; Ctrl-C stops watching only (to stop it: aws stepfunctions "
        f"stop-execution --execution-arn {arn})",
        err=True,
    )
