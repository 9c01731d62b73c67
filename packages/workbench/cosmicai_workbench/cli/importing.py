"""``cosmicai model import``: a bundle of a reference checkpoint, or of any ONNX file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cosmicai.errors import InvalidInput, load_json

from cosmicai_workbench.cli.options import Json

if TYPE_CHECKING:
    from cosmicai_workbench.modeling.onnx_import import Choices


def import_model(
    model: Annotated[
        Path,
        typer.Argument(
            help="An ONNX file, or a checkpoint of torch.save of an AstroMAE; also .gz."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write.")],
    image: Annotated[
        str | None, typer.Option(help="ONNX: the input with the image.  [default: the 4-D one]")
    ] = None,
    magnitude: Annotated[
        str | None,
        typer.Option(help="ONNX: the input with the magnitudes.  [default: the only vector]"),
    ] = None,
    scalar: Annotated[
        list[str] | None,
        typer.Option(
            help="ONNX: an input of one number, a column of the partitions' catalogue, such as "
            "ebv, or COLUMN=INPUT; repeat it."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="ONNX: what the model gives: redshift, pdf, 'mean,sigma', quantiles or mixture.  "
            "[default: redshift, if it is one number]"
        ),
    ] = None,
    output_tensor: Annotated[
        list[str] | None,
        typer.Option(help="ONNX: an output to use; repeat it, in order.  [default: all]"),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="ONNX: the image's bands, in order.  [default: u,g,r,i,z]")
    ] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(min=0, help="ONNX: arcseconds of a pixel.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="ONNX: redshifts at the centres of the first and the last bin, a,b."),
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="ONNX: levels of the quantiles, such as 0.16,0.5,0.84.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="ONNX: JSON file with `inputs`, `output` and `training` as in config.json, whole "
            "or in part; the other options come on top."
        ),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads, for a state dict, which does not hold them."),
    ] = None,
    norm_eps: Annotated[
        float | None,
        typer.Option(help="Epsilon of the LayerNorms, for a state dict.  [default: 1e-06]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it is there already.")] = False,
    as_json: Json = False,
) -> None:
    """Turn an ONNX file or a reference checkpoint into a bundle, without executing anything in it.

    Both are read as data: of an ONNX file only ONNX's own operators are taken, of a checkpoint,
    which is a pickle, only the known layers.

    Example: `cosmicai model import my_model.onnx my-model --output pdf --grid 0.005,1.795`
    """
    from cosmicai_workbench.modeling.onnx_file import is_onnx

    if is_onnx(model):
        _refuse("a checkpoint", heads=heads, norm_eps=norm_eps)
        from cosmicai_workbench.modeling.onnx_import import Choices

        choices = Choices(
            image=image,
            magnitude=magnitude,
            scalars=tuple(scalar or ()),
            output=output,
            output_tensors=tuple(output_tensor or ()),
            bands=tuple(bands.split(",")) if bands else (),
            pixel_scale=pixel_scale,
            grid=_pair("--grid", grid) if grid else None,
            levels=_numbers("--levels", levels) if levels else (),
            config=_document(config) if config else {},
        )
        _import_onnx(model, out, choices, overwrite=overwrite, as_json=as_json)
        return
    _refuse(
        "an ONNX file",
        image=image,
        magnitude=magnitude,
        scalar=scalar,
        output=output,
        output_tensor=output_tensor,
        bands=bands,
        pixel_scale=pixel_scale,
        grid=grid,
        levels=levels,
        config=config,
    )
    from cosmicai_workbench.modeling.checkpoint import import_checkpoint

    imported = import_checkpoint(model, out, heads=heads, norm_eps=norm_eps, overwrite=overwrite)
    bundle = imported.bundle
    if as_json:
        facts = {"tensors": imported.tensors, "parameters": imported.parameters}
        _print_json(bundle, facts)
        return
    sizes = bundle.astromae
    typer.echo(
        f"{bundle.path}: {sizes.architecture}, depth {sizes.depth}, {sizes.heads} heads, "
        f"{imported.parameters:,} values in {imported.tensors} tensors"
    )
    typer.echo(f"SHA-256 {bundle.digest}")


def _import_onnx(
    model: Path, out: Path, choices: "Choices", *, overwrite: bool, as_json: bool
) -> None:
    from cosmicai_workbench.modeling.onnx_import import import_onnx

    imported = import_onnx(model, out, choices, overwrite=overwrite)
    bundle = imported.bundle
    if as_json:
        _print_json(bundle, {"notes": imported.notes})
        return
    for note in imported.notes:
        typer.echo(f"note: {note}", err=True)
    inputs, output = bundle.config.inputs, bundle.config.output
    side, names = inputs.image.side, ",".join(inputs.image.bands)
    beside = [f"{inputs.num_magnitudes} magnitudes"] if inputs.magnitude else []
    beside += [scalar.name for scalar in inputs.scalars]
    typer.echo(
        f"{bundle.path}: image {names}, {side} × {side} pixels"
        f"{''.join(f', {what}' for what in beside)} → {output.kind}, "
        f"{output.values} value{'s' if output.values > 1 else ''}; engine openvino"
    )
    typer.echo(f"SHA-256 {bundle.digest}")


def _print_json(bundle: Any, facts: dict[str, Any]) -> None:
    config = bundle.config.model_dump(mode="json")
    digest = {"path": str(bundle.path), "digest": bundle.digest}
    typer.echo(json.dumps({**digest, **facts, "config": config}, indent=2))


def _refuse(kind: str, **options: Any) -> None:
    """Refuse options that another kind of file has."""
    if given := [name for name, value in options.items() if value is not None and value != []]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidInput(f"{names}: only for {kind}, which the model is not")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"{name} {text}: numbers with commas between expected") from None


def _pair(name: str, text: str) -> tuple[float, float]:
    numbers = _numbers(name, text)
    if len(numbers) != 2:
        raise InvalidInput(f"{name} {text}: two numbers with a comma between expected")
    return numbers[0], numbers[1]


def _document(path: Path) -> dict[str, Any]:
    try:
        document = load_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
    known = {"inputs", "output", "training"}
    if not isinstance(document, dict) or not document.keys() <= known:
        raise InvalidInput(
            f"{path}: a JSON object with keys of {', '.join(sorted(known))} expected"
        )
    return document
