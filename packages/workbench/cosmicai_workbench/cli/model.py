"""``cosmicai model``: model bundles, from a file or by training."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cosmicai.facts import MB

from cosmicai_workbench.cli.importing import import_model
from cosmicai_workbench.cli.options import Json
from cosmicai_workbench.cli.progress import progress_bar

if TYPE_CHECKING:
    from cosmicai.schema import Quality

    from cosmicai_workbench.modeling.train import Trainer, TrainingConfig

app = typer.Typer(no_args_is_help=True, help="Model bundles: import, train, evaluate, prepare.")


@app.callback()
def model() -> None:
    """Model bundles: a config and the model's numbers, nothing executable."""


app.command("import")(import_model)


@app.command(epilog="Example: `cosmicai model train my-model --epochs 20 --seed 0`")
def train(
    folder: Annotated[
        Path, typer.Argument(help="Receives the bundle, training.json and the checkpoint.")
    ],
    epochs: Annotated[int | None, typer.Option(help="Passes over the galaxies.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, galaxies and their order.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of settings, architecture included, such as the `config` of another "
            "model's training.json; --epochs and --seed come on top."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished run in FOLDER.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Train a small AstroMAE on painted galaxies and measure it on unseen ones.

    Interrupt it at any time: the state is saved after every epoch, and `--resume` ends with the
    same weights as a run without a break.
    """
    from cosmicai_workbench.cli.interruption import if_interrupted
    from cosmicai_workbench.modeling.train import total_batches
    from cosmicai_workbench.modeling.train import train as run

    settings = _settings(config, epochs=epochs, seed=seed)
    batches = total_batches(settings)

    with (
        if_interrupted("--resume continues from the last whole epoch"),
        progress_bar("training", batches, "batches") as advance,
    ):

        def begin(trainer: "Trainer") -> None:
            advance(trainer.batches_done)

        def report(trainer: "Trainer") -> None:
            record, epochs = trainer.history[-1], trainer.cycle.epochs
            score = f", validation CRPS {record['scores'][-1]:.6f}" if record["scores"] else ""
            typer.echo(
                f"{record['phase']}, epoch {trainer.epoch}/{epochs}: loss "
                f"{record['losses'][-1]:.4f}{score}",
                err=True,
            )

        quality = run(
            settings,
            folder,
            resume=resume,
            threads=threads,
            on_start=begin,
            on_epoch=report,
            on_batch=advance,
        )
    _print(quality, str(folder), as_json=as_json)


@app.command(epilog="Example: `cosmicai model prepare models/astromae-small`")
def prepare(
    bundle: Annotated[Path, typer.Argument(help="Folder of the model.")],
    out: Annotated[
        Path | None, typer.Argument(help="Folder to write to; default the bundle's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the inference graph's tensors once, so that engines map them instead of preparing.

    The file is several times the bundle's size, and only engines that find it beside the bundle
    use it; everything works without it, with a slower start.
    """
    from cosmicai.model.bundle import Bundle
    from cosmicai.model.prepare import write_prepared

    path = write_prepared(Bundle(bundle), out or bundle)
    size = path.stat().st_size
    if as_json:
        typer.echo(json.dumps({"path": str(path), "bytes": size}, indent=2))
    else:
        typer.echo(f"{path}: {size / MB:,.1f} MB")


@app.command(epilog="Example: `cosmicai model ranges my-model training/ -o my-model-with-ranges`")
def ranges(
    bundle: Annotated[Path, typer.Argument(help="Folder of the model.")],
    partitions: Annotated[
        list[str],
        typer.Argument(
            help="The galaxies it was trained on: folders of partitions, .pt files, or "
            "s3://bucket/folder-or-key."
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the copy to write.")],
    name: Annotated[
        str | None, typer.Option(help="Of the training set; default where it is from.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the copy if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Give a model the ranges of its training set, so that galaxies outside of them are flagged.

    Ranges of magnitudes, colours, redshifts, and of how images compare with magnitudes go into
    `config.json` of a copy of the bundle; predictions stay the same.
    """
    from cosmicai.model.bundle import Bundle

    from cosmicai_workbench.modeling.bundle_copies import require_place
    from cosmicai_workbench.modeling.ranges import training_of, write_with_training
    from cosmicai_workbench.predicting import partition_paths

    model, paths = Bundle(bundle), partition_paths(partitions)
    require_place(model, out, overwrite=overwrite)
    with progress_bar("reading", len(paths), "partitions") as advance:
        training = training_of(model, paths, name=name, on_partition=lambda _: advance(1))
    write_with_training(model, training, out, overwrite=overwrite)
    if as_json:
        typer.echo(training.model_dump_json(indent=2))
        return
    typer.echo(f"{out}: ranges of {training.galaxies:,} galaxies of {training.name}")
    groups = training.magnitude | training.colour
    for label, (low, high) in {"redshift": training.redshift, **groups}.items():
        typer.echo(f"  {label:<10} {low:8.3f} – {high:.3f}")


@app.command(
    epilog="Examples: `cosmicai model evaluate models/astromae-small --json`, "
    "`cosmicai model evaluate my-model labelled/`"
)
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the model.")],
    partitions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Galaxies with known redshifts that the model was not trained on: folders of "
            "partitions, .pt files, or s3://bucket/folder-or-key; by default painted ones."
        ),
    ] = None,
    galaxies: Annotated[
        int, typer.Option("--galaxies", "-n", min=1, help="How many to paint.")
    ] = 2000,
    split: Annotated[str, typer.Option(help="Side of the train/test split of painted ones.")] = (
        "test"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of painted images and their order.")] = 0,
    engine: Annotated[
        str | None,
        typer.Option(help="Engine that predicts.  [default: plain, or one that runs the model]"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure a model on galaxies with known redshifts; by default on 2,000 painted ones.

    Painted galaxies have the bands u, g, r, i, z, any of which a model may take, and no scalars;
    models of other bands are measured on partitions.
    """
    from cosmicai.model.architectures import load_config

    from cosmicai_workbench.data.photometry import as_split
    from cosmicai_workbench.data.synthesis import synthesize
    from cosmicai_workbench.modeling import evaluation
    from cosmicai_workbench.predicting import partition_paths

    if partitions:
        paths = partition_paths(partitions)
        with progress_bar("predicting", len(paths), "partitions") as advance:
            quality = evaluation.evaluate_partitions(
                bundle, paths, engine=engine, threads=threads, on_partition=lambda _: advance(1)
            )
    else:
        _, config = load_config(bundle)
        blocks = synthesize(galaxies, as_split(split), seed, config.inputs.image.side)
        quality = evaluation.evaluate(bundle, blocks, engine=engine, threads=threads)
    _print(quality, str(bundle), as_json=as_json)


@app.command(
    epilog="Examples: `cosmicai model calibrate my-model labelled/ -o my-model-calibrated`, "
    "`cosmicai model calibrate my-model --from-run runs/latest -o my-model-calibrated`"
)
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the model.")],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the calibrated copy to write.")
    ],
    partitions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Galaxies with known redshifts that the model was not trained on: folders of "
            "partitions, .pt files, or s3://bucket/folder-or-key."
        ),
    ] = None,
    from_run: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder whose predictions to take instead; may be repeated."),
    ] = None,
    minimum: Annotated[int, typer.Option(min=1, help="Galaxies of a cell, at least.")] = 100,
    name: Annotated[
        str | None, typer.Option(help="Of the labelled set; default where it is from.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Engine that predicts; default the fastest installed.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default one per core.", min=1)
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the copy if it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Give a model intervals: measure how far off it is on galaxies with known redshifts.

    No retraining: split-conformal intervals of 68 and 95 %, in cells of predicted redshift and r
    magnitude, go into `calibration.json` of a copy of the bundle. The galaxies must be like those
    that are to be predicted, and none that the model was trained on.
    """
    from cosmicai.errors import InvalidInput
    from cosmicai.model.bundle import Bundle

    from cosmicai_workbench.modeling import calibrating
    from cosmicai_workbench.modeling.bundle_copies import require_place
    from cosmicai_workbench.predicting import partition_paths
    from cosmicai_workbench.results.run_folder import load_run

    if bool(partitions) == bool(from_run):
        raise InvalidInput("give labelled partitions, or --from-run with run folders: one of them")
    model = Bundle(bundle)
    require_place(model, out, overwrite=overwrite)
    if from_run:
        labelled = calibrating.recorded(model, [load_run(run) for run in from_run])
    else:
        paths = partition_paths(partitions or [])
        with progress_bar("predicting", len(paths), "partitions") as advance:
            labelled = calibrating.predicted(
                model, paths, engine=engine, threads=threads, on_partition=lambda _: advance(1)
            )
    calibration = calibrating.write_calibrated(
        model, out, labelled, name=name, minimum=minimum, overwrite=overwrite
    )
    found = calibrating.document(calibration)
    if as_json:
        typer.echo(json.dumps({"path": str(out), **found}, indent=2))
        return
    _print_calibration(out, found)


def _print_calibration(out: Path, found: dict[str, Any]) -> None:
    from cosmicai.quality import range_of
    from rich.console import Console
    from rich.table import Table

    labelled = found["labelled"]
    typer.echo(f"{out}: calibrated on {labelled['galaxies']:,} galaxies of {labelled['name']}")
    table = Table(box=None, padding=(0, 1, 0, 0), title="Intervals, in Δz/(1+z)")
    headings = ("predicted z", "r magnitude", "galaxies", "68 %", "holds", "95 %", "holds")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in found["cells"]:
        texts = [
            range_of(*cell["redshift"]),
            range_of(*cell["magnitude_r"]),
            f"{cell['galaxies']:,}",
        ]
        for level in (cell["level68"], cell["level95"]):
            texts.append(f"{level['lower']:+.3f} {level['upper']:+.3f}")
            texts.append(f"{level['measured']:.1%}")
        table.add_row(*texts)
    Console(markup=False).print(table)
    typer.echo(
        "holds: the true redshifts, each fifth of a cell tried on the intervals of the others"
    )


def _settings(config: Path | None, **options: Any) -> "TrainingConfig":
    from cosmicai.errors import InvalidInput, load_json, problems_of
    from pydantic import ValidationError

    from cosmicai_workbench.modeling.train import TrainingConfig

    given = {name: value for name, value in options.items() if value is not None}
    try:
        base = load_json(config.read_bytes()) if config else {}
        if not isinstance(base, dict):
            raise InvalidInput(f"{config}: a JSON object expected")
        return TrainingConfig.model_validate(base | given)
    except OSError as error:
        raise InvalidInput(f"{config} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InvalidInput(f"training settings: {problems_of(error)}") from error
    except ValueError as error:
        raise InvalidInput(f"{config} is not JSON: {error}") from error


def _print(quality: "Quality", model: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(quality.model_dump_json(indent=2))
        return
    from cosmicai_workbench.results.table import FIGURES, one_line

    typer.echo(f"{model}: {quality.num_galaxies:,} galaxies")
    for name, (heading, form) in FIGURES.items():
        value = getattr(quality, name)
        if value is not None:
            typer.echo(f"  {one_line(heading):<16} {format(value, form)}")
