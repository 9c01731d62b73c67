"""``cosmicai tune``: which memory size, batch size and partition size to use."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cosmicai.facts import Architecture

from cosmicai_workbench.cli.options import Json

if TYPE_CHECKING:
    from cosmicai_workbench.tuning.measure import Measurement

app = typer.Typer(help="Right-sizing: time and cost by memory, batch and partition size.")

MEMORY_SIZES = [1280, 1769, 2654, 3538]
BATCH_SIZES = [128, 512]
PARTITION_SIZES = [25.0, 50.0, 100.0]


@app.command(epilog="Example: `cosmicai tune models/astromae-small --galaxies 645000 --out tune`")
def tune(
    bundle: Annotated[Path, typer.Argument(help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="Folder for tune.json and tune.png.")] = Path("tune"),
    engine: Annotated[
        str | None,
        typer.Option(help="Engine to measure.  [default: the fastest that runs the model]"),
    ] = None,
    memory: Annotated[
        list[int] | None, typer.Option(help="Memory size in MB; repeat.  [default: 1280 … 3538]")
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Batch size; repeat.  [default: 128, 512]")
    ] = None,
    partition_mb: Annotated[
        list[float] | None, typer.Option(help="Partition size; repeat.  [default: 25, 50, 100]")
    ] = None,
    galaxies: Annotated[int, typer.Option(min=1, help="Galaxies of the data set.")] = 645_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Ranks that run at once.")] = 1000,
    sample: Annotated[int, typer.Option(min=1, help="Galaxies a measurement.")] = 1024,
    architecture: Annotated[Architecture, typer.Option(help="Whose prices.")] = "arm64",
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Only settings this quick, if there are any.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="samconfig.toml that gets the recommended parameters.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure settings on this machine, estimate each on AWS, recommend one.

    The recommended setting is the fastest of those that cost at most 5 % more than the cheapest.
    Measured at one memory size, every vCPU beyond the first makes a rank faster and, as it scales,
    a little more expensive.
    """
    from cosmicai_workbench.tuning.grid import tune as run
    from cosmicai_workbench.tuning.grid import write_parameters

    def report(memory_mb: int, size: int, found: "Measurement") -> None:
        typer.echo(
            f"{memory_mb:6,} MB, batch {size:4}: {found.galaxies_per_second:8.1f} galaxies/s, "
            f"start {found.start_seconds:.2f} s, peak {found.peak_memory_mb:,.0f} MB",
            err=True,
        )

    found = run(
        bundle,
        out,
        engine=engine,
        memory_sizes=memory or MEMORY_SIZES,
        batch_sizes=batch_size or BATCH_SIZES,
        partition_mbs=partition_mb or PARTITION_SIZES,
        galaxies=galaxies,
        concurrency=concurrency,
        sample=sample,
        architecture=architecture,
        max_seconds=max_seconds,
        on_measured=report,
    )
    if write:
        write_parameters(write, found["parameter_overrides"])
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found, out)


def _print(found: dict[str, Any], out: Path) -> None:
    front = [tuple(setting.values()) for setting in found["pareto"]]
    header = ("memory MB", "batch", "partition MB", "ranks", "time s", "cost $", "Pareto")
    typer.echo("".join(f"{name:>14}" for name in header))
    for one in sorted(found["estimates"], key=lambda one: one["dollars"]):
        setting = one["setting"]
        best = "*" if tuple(setting.values()) in front else ""
        typer.echo(
            f"{setting['memory_mb']:14,}{setting['batch_size']:14}{setting['partition_mb']:14g}"
            f"{one['ranks']:14,}{one['seconds']:14.1f}{one['dollars']:14.4f}{best:>14}"
        )
    setting = found["recommended"]["setting"]
    typer.echo(
        f"recommended: memory size {setting['memory_mb']:,} MB, batch size "
        f"{setting['batch_size']}, partitions of {setting['partition_mb']:g} MB; "
        f"see {out / 'tune.json'}"
    )
