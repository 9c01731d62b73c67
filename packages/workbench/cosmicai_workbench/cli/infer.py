"""``cosmicai infer``: predict partitions on this machine, without orchestration."""

from pathlib import Path
from typing import Annotated

import typer
from cosmicai.engines.registry import BUILT_IN

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def infer(
    model: Annotated[
        str, typer.Argument(help="Folder of the model bundle, or s3://bucket/folder.")
    ],
    partitions: Annotated[
        list[str], typer.Argument(help="Partitions: .pt files, or s3://bucket/key.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder to make; runs/infer-<time> by default."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(BUILT_IN)}. Default: the first of them that is installed."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Arithmetic of the engine.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Galaxies predicted at once.", min=1)] = 512,
    threads: Annotated[
        int | None, typer.Option(help="Threads; by default one a core.", min=1)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for an NVIDIA GPU.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Predict redshifts in this process: a rank's own code and metrics, no cloud at all.

    The baseline to compare a distributed run with. Example:
    `cosmicai infer models/astromae-small data/1.pt data/2.pt -o runs/here`, and then
    `cosmicai compare runs/here runs/latest`
    """
    from datetime import UTC, datetime

    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.results.infer import infer as run_infer
    from cosmicai_workbench.results.table import print_summary

    folder = output or Path("runs") / f"infer-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with progress_bar("inference", len(partitions), "partitions") as advance:
        summary = run_infer(
            model,
            partitions,
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            threads=threads,
            device=device,
            output=folder,
            on_partition=lambda _: advance(1),
        )
    if as_json:
        typer.echo(summary.model_dump_json(by_alias=True, indent=2))
    else:
        print_summary(summary)
        typer.echo(f"Results: {folder}")
