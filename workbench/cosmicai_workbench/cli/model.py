"""``cosmicai model``: model bundles, from a checkpoint or by training."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Model bundles: import, train, prepare.")


@app.callback()
def model() -> None:
    """Model bundles: `model.safetensors` and `config.json`, nothing executable."""


@app.command("import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="A file of torch.save: a module or a state dict; also .gz.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the bundle to write.")],
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads, for a state dict, which does not hold them."),
    ] = None,
    norm_eps: Annotated[
        float | None,
        typer.Option(help="Epsilon of the LayerNorms, for a state dict.  [default: 1e-06]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a reference checkpoint into a bundle, without executing anything in it.

    The checkpoint is a pickle, which could run any code if it were loaded as one. It is read as
    data instead: anything but the known layers is refused.

    Example: `cosmicai model import mae.pt.gz models/mae`
    """
    from cosmicai_workbench.modeling.checkpoint import import_checkpoint

    imported = import_checkpoint(
        checkpoint, out, heads=heads, norm_eps=norm_eps, overwrite=overwrite
    )
    bundle = imported.bundle
    if as_json:
        import json

        facts = {"tensors": imported.tensors, "parameters": imported.parameters}
        config = bundle.config.model_dump(mode="json")
        digest = {"path": str(bundle.path), "digest": bundle.digest}
        typer.echo(json.dumps({**digest, **facts, "config": config}, indent=2))
        return
    typer.echo(
        f"{bundle.path}: {bundle.config.architecture}, depth {bundle.config.depth}, "
        f"{bundle.config.heads} heads, {imported.parameters:,} values in {imported.tensors} tensors"
    )
    typer.echo(f"SHA-256 {bundle.digest}")
