"""``cosmicai plan``: what an execution would take and cost, before it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from cosmicai.facts import DEFAULT_INFERENCE_MEMORY_MB, MAX_CHILDREN, MAX_MEMORY_MB, MIN_MEMORY_MB

from cosmicai_workbench.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from cosmicai_workbench.simulation.planning import Plan, Spread
    from cosmicai_workbench.simulation.published import Check

app = typer.Typer()


@app.command()
def plan(
    galaxies: Annotated[
        float, typer.Option(help="Galaxies to predict; 1e9 is a billion.", min=1)
    ] = 1e6,
    partition_mb: Annotated[
        float, typer.Option(help="Size of a partition in MB (2^20 bytes).", min=0.1)
    ] = 100.0,
    ranks: Annotated[
        int | None, typer.Option(help="Ranks; by default one per partition.", min=1)
    ] = None,
    memory: Annotated[
        int,
        typer.Option(
            help="Memory of a function in MB; compute grows with it.",
            min=MIN_MEMORY_MB,
            max=MAX_MEMORY_MB,
        ),
    ] = DEFAULT_INFERENCE_MEMORY_MB,
    concurrency: Annotated[
        int, typer.Option(help="Functions at once that the account allows.", min=1)
    ] = 1000,
    max_concurrency: Annotated[
        int | None,
        typer.Option(
            help="Ranks that the Map starts at once. Default: as many as the account runs; more "
            "shows what throttling does.",
            min=1,
            max=MAX_CHILDREN,
        ),
    ] = None,
    barrier: Annotated[
        bool, typer.Option("--fmi/--no-fmi", help="Whether ranks wait for each other.")
    ] = False,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Run folder to take times from; repeat it for runs of different sizes, which "
            "calibrate better. By default the published executions, at our engine's speed.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Bundle of the model, which says how many bytes a galaxy has."),
    ] = None,
    region: Annotated[str, typer.Option(help="AWS region of the prices.")] = "us-east-1",
    architecture: Annotated[str, typer.Option(help="arm64 or x86_64.")] = "arm64",
    simulations: Annotated[int, typer.Option(help="How often to simulate.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Seed; the same one gives the same plan.")] = 0,
    as_json: Json = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Instead: simulate the published executions, and compare."),
    ] = False,
) -> None:
    """Simulate an execution at any scale: its wall time and cost, and what would go wrong.

    A discrete-event simulation of the Map, of Lambda's scaling and of the ranks, with times that
    real ranks measured. A billion galaxies: `cosmicai plan --galaxies 1e9 --concurrency 10000`
    """
    from rich.console import Console

    console = Console()
    if check:
        from cosmicai_workbench.simulation.published import check_published

        checks = check_published()
        if as_json:
            typer.echo(json.dumps([_check_row(c) for c in checks], indent=2))
        else:
            console.print(_check_table(checks))
        return
    from cosmicai.model.architectures import load_config

    from cosmicai_workbench.simulation.service import plan_execution

    found = plan_execution(
        galaxies=galaxies,
        partition_mb=partition_mb,
        ranks=ranks,
        memory_mb=memory,
        concurrency=concurrency,
        max_concurrency=max_concurrency,
        barrier=barrier,
        calibrate=calibrate,
        region=region,
        architecture=architecture,
        simulations=simulations,
        seed=seed,
        model=load_config(model)[1] if model else None,
    )
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    console.print(_plan_table(found))
    for warning in found.warnings:
        console.print(f"[bold]Warning:[/] {warning}")


def _plan_table(plan: "Plan") -> "Table":
    from rich.table import Table

    from cosmicai_workbench.report import text

    table = Table(
        title=f"{text.count(plan.galaxies)} galaxies, {text.size(plan.data_bytes)}, "
        f"{text.count(plan.work.ranks)} ranks of {plan.memory_mb:,} MB",
        caption=f"{plan.simulations} simulations, seed {plan.seed}; "
        f"times from {plan.calibrated_from}",
    )
    for column in ("", "median", "5 %", "95 %"):
        table.add_column(column, justify="right" if column else "left")

    def add(name: str, spread: "Spread", form: "Callable[[float], str]") -> None:
        table.add_row(name, form(spread.median), form(spread.p5), form(spread.p95))

    add("wall time", plan.wall_seconds, text.seconds)
    add("Map", plan.map_seconds, text.seconds)
    add("one rank", plan.rank_seconds, text.seconds)
    add("billed, all ranks", plan.billed_seconds, text.seconds)
    add("galaxies per second", plan.galaxies_per_second, text.count)
    add("functions at once", plan.peak_concurrency, text.count)
    add("cold starts", plan.cold_starts, text.count)
    add("throttled", plan.throttled_invocations, text.count)
    add("failed ranks", plan.failed_ranks, text.count)
    cost = plan.cost
    if cost is None:
        return table
    table.add_section()
    table.add_row(f"cost, {cost.region}, {cost.architecture}", text.dollars(cost.total), "", "")
    for item, dollars in cost.items.items():
        table.add_row(f"  {item}", text.dollars(dollars), "", "")
    return table


def _check_row(check: "Check") -> dict[str, object]:
    return {
        "what": check.what,
        "ranks": check.ranks,
        "held_out": check.held_out,
        "published_seconds": round(check.published_seconds, 2),
        "simulated_seconds": round(check.simulated_seconds, 2),
        "error": round(check.error, 4),
    }


def _check_table(checks: "list[Check]") -> "Table":
    from rich.table import Table

    table = Table(
        title="Published executions, simulated",
        caption="Calibrated on the rows marked so; the others were held out.",
    )
    for column in ("execution", "ranks", "published (s)", "simulated (s)", "error", "used"):
        table.add_column(column, justify="left" if column in ("execution", "used") else "right")
    for check in checks:
        table.add_row(
            check.what,
            str(check.ranks),
            f"{check.published_seconds:.1f}",
            f"{check.simulated_seconds:.1f}",
            f"{check.error:+.1%}",
            "held out" if check.held_out else "calibration",
        )
    return table
