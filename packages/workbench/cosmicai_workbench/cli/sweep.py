"""``cosmicai sweep``: an experiment, every execution once, into one table."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosmicai_workbench.cli.options import Local, Stack
from cosmicai_workbench.defaults import RUNS

if TYPE_CHECKING:
    from cosmicai_workbench.sweep.runner import Executor, Progress

app = typer.Typer()


@app.command(
    epilog="Example: `cosmicai sweep quick && cosmicai report runs/sweeps/quick`. "
    "Exit codes: 0 every execution is done; 1 one failed, or the cost limit was reached; "
    "2 bad usage or input, nothing was computed; 130 interrupted: run the same command to continue."
)
def sweep(
    experiment: Annotated[
        str, typer.Argument(help="TOML file, or the name of one that ships, e.g. quick.")
    ],
    local: Local = False,
    stack: Stack = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The sweep's folder; runs/sweeps/<name> by default."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="With --local: folder of the model bundle; the shipped one by default."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(help="With --stack: bucket of the model and the results.")
    ] = None,
    data_bucket: Annotated[
        str | None, typer.Option(help="With --stack: bucket of the partitions (25MB/1.pt, …).")
    ] = None,
    model_name: Annotated[
        str, typer.Option(help="With --stack: folder of the model bundle in the bucket.")
    ] = "astromae-small",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what is left to do, and its cost.")
    ] = False,
) -> None:
    """Run an experiment: every combination of its grid, as often as it says.

    What is done is skipped, so an interrupted sweep continues where it stopped, and ends with the
    same table (table.csv, table.parquet).
    """
    from cosmicai.errors import InvalidInput
    from rich.console import Console

    from cosmicai_workbench.cli.interruption import if_interrupted
    from cosmicai_workbench.sweep.experiment import experiment_file, load_experiment
    from cosmicai_workbench.sweep.runner import estimate, run_sweep, tasks

    if local and stack is not None:
        raise InvalidInput("say where to run: either --local or --stack NAME")
    source = experiment_file(experiment)
    loaded = load_experiment(source)
    folder = output or RUNS / "sweeps" / loaded.name
    console = Console(stderr=True, markup=False)
    with ExitStack() as cleanup:
        cleanup.enter_context(if_interrupted("the same command continues with what is left"))
        executor: Executor
        if stack is None:
            from cosmicai_workbench.application import SMALL_MODEL
            from cosmicai_workbench.sweep.executors import LocalExecutor

            executor = cleanup.enter_context(
                LocalExecutor(
                    loaded,
                    model or SMALL_MODEL,
                    Path(".cosmicai") / "sweeps",
                    lambda step: console.print(f"  {step}", highlight=False),
                )
            )
        else:
            from cosmicai_workbench.sweep.executors import StackExecutor

            if bucket is None:
                raise InvalidInput("--stack needs --bucket: where the model and the results are")
            executor = StackExecutor(
                loaded,
                stack,
                bucket=bucket,
                data_bucket=data_bucket or bucket,
                model=model_name,
            )
        left = tasks(loaded, folder)
        dollars = estimate(loaded, executor, left)
        total = len(loaded.points()) * loaded.repetitions
        typer.echo(
            f"{loaded.name}: {len(left)} of {total} executions to do, expected cost "
            f"${dollars:.2f} (limit ${loaded.cost_limit_dollars:.2f})"
        )
        if dry_run:
            for task in left:
                typer.echo(f"  {task.point.folder}/{task.repetition}")
            return
        table = run_sweep(
            loaded,
            source,
            folder,
            executor,
            lambda progress: console.print(_line(progress), highlight=False),
        )
    typer.echo(f"{folder}/table.csv: {len(table.rows)} executions")


def _line(progress: "Progress") -> str:
    from cosmicai_workbench.report.text import seconds

    left = "" if progress.seconds_left is None else f", {seconds(progress.seconds_left)} left"
    return f"[{progress.done}/{progress.total}{left}] {progress.current}"
