"""``cosmicai predict``: redshifts of your own galaxies on this machine, without orchestration."""

from pathlib import Path
from typing import Annotated

import typer
from cosmicai.engines.registry import BUILT_IN
from cosmicai.facts import BATCH_SIZE

from cosmicai_workbench.cli.options import Json, Runs
from cosmicai_workbench.defaults import RUNS

app = typer.Typer()

INFER = "infer"
"""What the command was called once: the model came first then."""


@app.command(
    epilog="Examples: `cosmicai predict partitions/`, `cosmicai predict partitions/ --model "
    "my-model --to fits --report`, `cosmicai predict 1.pt 2.pt s3://bucket/3.pt -o runs/here`"
)
def predict(
    context: typer.Context,
    partitions: Annotated[
        list[str],
        typer.Argument(help="Folders of partitions, .pt files, or s3://bucket/folder-or-key."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder of the model bundle, or s3://bucket/folder. Default: the one that ships."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder to make; RUNS/predict-<time> by default."),
    ] = None,
    runs: Runs = RUNS,
    to: Annotated[
        str | None,
        typer.Option(help="Write the catalogue as well, in a format of `cosmicai results export`."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write the report page as well, `report.html`.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(BUILT_IN)}. Default: the first of them that is installed."),
    ] = None,
    precision: Annotated[str, typer.Option(help="Arithmetic of the engine.")] = "float32",
    batch_size: Annotated[
        int, typer.Option(help="Galaxies predicted at once.", min=1)
    ] = BATCH_SIZE,
    threads: Annotated[
        int | None, typer.Option(help="Threads; by default one per core.", min=1)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for an NVIDIA GPU.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Predict redshifts on this machine, into a run folder.

    One process with a rank's own code and the fastest engine that is installed; no cloud at all.
    `runs/latest` then points to the folder, where `cosmicai results`, `report` and `compare` find
    it like that of `cosmicai run`.
    """
    from cosmicai_workbench.application import SMALL_MODEL
    from cosmicai_workbench.cli.progress import progress_bar
    from cosmicai_workbench.cli.run import tell_model
    from cosmicai_workbench.predicting import predict as run_prediction
    from cosmicai_workbench.results.table import print_summary

    if context.info_name == INFER and model is None and len(partitions) > 1:
        model, *partitions = partitions
    if to is not None:
        from cosmicai_workbench.results.export import as_format, export_catalogue

        form = as_format(to)
    if model is None:
        tell_model(SMALL_MODEL)
    run = run_prediction(
        partitions,
        model,
        output=output,
        runs=runs,
        engine=engine,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
        device=device,
        bar=progress_bar,
    )
    if as_json:
        typer.echo(run.summary.model_dump_json(by_alias=True, indent=2))
    else:
        print_summary(run.summary)
    typer.echo(f"Results in {run.path}/", err=as_json)
    if to is not None:
        exported = export_catalogue(run, None, form)
        typer.echo(f"Catalogue: {exported.path}, {exported.rows:,} rows", err=as_json)
    elif not (as_json or report):
        typer.echo(f"Catalogue: cosmicai results export {run.path}")
    if report:
        from cosmicai_workbench.report.service import write_report

        page = run.path / "report.html"
        write_report([run.path], page)
        typer.echo(f"Report: {page}", err=as_json)
