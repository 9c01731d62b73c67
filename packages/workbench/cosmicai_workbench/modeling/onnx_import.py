"""An ONNX file → a bundle that every command, the local cloud and the stack run.

The file is read as data (:mod:`cosmicai_workbench.modeling.onnx_file`). What the model takes and
gives is read from its graph and the user's declarations. The libraries that convert and run it do
so in a process of their own, with bounds of memory and time
(:mod:`cosmicai_workbench.modeling.onnx_converting`): they are large programs in C++, and a file
may make them fail in any way.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cosmicai import errors
from cosmicai.errors import InvalidInput, ModelMismatch, problems_of
from cosmicai.facts import BAND_NAMES, PIXEL_SCALE
from cosmicai.model.bundle import Bundle
from cosmicai.model.interface import Inputs
from cosmicai.whole_files import whole_folder
from pydantic import ValidationError

from cosmicai_workbench.files import file_errors
from cosmicai_workbench.modeling.checkpoint import require_free
from cosmicai_workbench.modeling.onnx_file import graph_inputs, read_model

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

CONVERTING_SECONDS: Final = 600
OUTPUTS: Final = {
    # What a user calls an output → its kind in the config.
    "redshift": "point",
    "pdf": "pdf",
    "mean,sigma": "normal",
    "quantiles": "quantiles",
    "mixture": "mixture",
}
_IMAGE_RANK: Final = 4
Shape = tuple[int | None, ...]
"""Sizes of a tensor; None is any."""


@dataclass(frozen=True)
class Choices:
    """What a user says of a model; what is left out is read from its graph where it is plain."""

    image: str | None = None
    """Name of the tensor with the image."""
    magnitude: str | None = None
    scalars: tuple[str, ...] = ()
    """Names of scalar inputs, or ``name=tensor`` where the two differ."""
    output: str | None = None
    """One of ``OUTPUTS``."""
    output_tensors: tuple[str, ...] = ()
    """Names of the tensors that hold it, in order; by default all outputs."""
    bands: tuple[str, ...] = ()
    pixel_scale: float | None = None
    """Arcseconds."""
    grid: tuple[float, float] | None = None
    """Centres of the first and the last bin of a p(z)."""
    levels: tuple[float, ...] = ()
    """Of the quantiles."""
    config: dict[str, Any] = field(default_factory=dict)
    """``inputs``, ``output`` and ``training`` as in ``config.json``, whole or in part."""


@dataclass(frozen=True)
class ImportedOnnx:
    """What an import wrote."""

    bundle: Bundle
    notes: list[str]
    """What the user should know of: what was guessed and repaired."""


def import_onnx(
    path: Path, out: Path, choices: Choices | None = None, *, overwrite: bool = False
) -> ImportedOnnx:
    """Write the bundle of an ONNX file.

    Parameters
    ----------
    path
        The file.
    out
        Folder of the bundle; it appears when all is written.
    choices
        What the graph does not say.
    overwrite
        Replace a folder that is there already.

    Raises
    ------
    ModelNotFound
        There is no such file.
    InvalidInput
        If it is not a complete ONNX file, larger than a bundle may be, not convertible, or
        ``out`` is in use.
    UnsafeModel
        It asks for more than ONNX's own operators on numbers; nothing was executed.
    ModelMismatch
        Its inputs and outputs are not those declared, or OpenVINO and ONNX Runtime disagree.
    """
    choices = choices or Choices()
    for library in ("onnx", "onnxruntime", "openvino"):
        if importlib.util.find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
    require_free(out, overwrite=overwrite)
    model = read_model(path)
    notes: list[str] = []
    _free_batch_axis(model, notes)
    request = {
        "inputs": _inputs(model, choices, path, notes).model_dump(mode="json"),
        "output": _output(model, choices, path),
        "training": choices.config.get("training"),
        "file": path.name,
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "shown": str(path),
    }
    content = model.SerializeToString(deterministic=True)
    with file_errors(out), whole_folder(out, replace=overwrite) as fresh:
        notes += _converted(content, {**request, "out": str(fresh.resolve())}, path)
    return ImportedOnnx(Bundle(out), notes)


def _converted(content: bytes, request: dict[str, Any], path: Path) -> list[str]:
    """Let a process of its own convert a model that was checked, and return its notes."""
    with tempfile.TemporaryDirectory(prefix="cosmicai-") as scratch:
        Path(scratch, "model.onnx").write_bytes(content)
        Path(scratch, "request.json").write_text(json.dumps(request))
        command = [sys.executable, "-P", "-m", "cosmicai_workbench.modeling.onnx_converting"]
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter, and a folder of ours
                [*command, scratch],
                capture_output=True,
                text=True,
                timeout=CONVERTING_SECONDS,
                check=False,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise InvalidInput(
                f"{path}: its conversion took longer than {CONVERTING_SECONDS} s; is the model "
                "larger than one for cutouts of galaxies?"
            ) from None
        answer = Path(scratch, "answer.json")
        if not answer.exists():
            last = "\n".join(done.stderr.strip().splitlines()[-3:])
            raise InvalidInput(
                f"{path}: OpenVINO or ONNX Runtime failed on the model (exit status "
                f"{done.returncode}), or it takes more memory than it may: {last[-500:]}"
            )
        found = json.loads(answer.read_text())
    if "error" in found:
        raise getattr(errors, found["error"])(found["message"])
    notes: list[str] = found["notes"]
    return notes


# -- what the model takes ------------------------------------------------------------------------


def _free_batch_axis(model: ModelProto, notes: list[str]) -> None:
    """Let inputs take any number of galaxies where they were exported for a fixed one."""
    fixed = set()
    for value in graph_inputs(model.graph):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) and sizes[0].HasField("dim_value"):
            fixed.add(sizes[0].dim_value)
            sizes[0].dim_param = "batch"
    if fixed:
        # What was said of tensors in between and of outputs holds for that number alone.
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        numbers = " and ".join(map(str, sorted(fixed)))
        notes.append(
            f"the model was exported for batches of {numbers}; its first axis is now of any size, "
            "and batches of several sizes were tried"
        )


def _shape(value: ValueInfoProto) -> Shape:
    return tuple(
        size.dim_value if size.HasField("dim_value") else None
        for size in value.type.tensor_type.shape.dim
    )


def _described(shapes: dict[str, Shape]) -> str:
    return ", ".join(
        f"{name[:80]!r} ({', '.join('?' if size is None else str(size) for size in shape)})"
        for name, shape in list(shapes.items())[:20]
    )


def _inputs(model: ModelProto, choices: Choices, path: Path, notes: list[str]) -> Inputs:
    """Read what the model takes from its graph, what is declared going first."""
    from onnx import TensorProto

    shapes = {}
    for value in graph_inputs(model.graph):
        kind = value.type.tensor_type.elem_type
        if kind != TensorProto.FLOAT:
            name = (
                TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else kind
            )
            raise ModelMismatch(
                f"{path}: inputs of float32 expected, found {value.name[:80]!r} of {name}; export "
                "the model after model.float()"
            )
        shapes[value.name] = _shape(value)
    declared = _declared_inputs(choices)
    left = dict(shapes)
    _fill_image(declared["image"], left, path)
    _fill_magnitude(declared, left, path, notes)
    _fill_scalars(declared, left, notes)
    if left:
        raise ModelMismatch(
            f"{path}: an image, magnitudes and scalars expected, found beside them the inputs "
            f"{_described(left)}; name each with --image, --magnitude or --scalar"
        )
    try:
        return Inputs.model_validate(declared)
    except ValidationError as error:
        raise InvalidInput(
            f"{path}: what the model takes is not declared right: {problems_of(error)}"
        ) from None


def _declared_inputs(choices: Choices) -> dict[str, Any]:
    document = copy.deepcopy(choices.config.get("inputs") or {})
    if not isinstance(document, dict):
        raise InvalidInput("key 'inputs' of the config: an object expected")
    declared: dict[str, Any] = {"image": {}, **document}
    if choices.image:
        declared["image"]["tensor"] = choices.image
    if choices.bands:
        declared["image"]["bands"] = list(choices.bands)
    if choices.pixel_scale is not None:
        declared["image"]["pixel_scale"] = choices.pixel_scale
    if choices.magnitude:
        declared["magnitude"] = {**(declared.get("magnitude") or {}), "tensor": choices.magnitude}
    scalars = list(declared.get("scalars") or [])
    for text in choices.scalars:
        name, _, tensor = text.partition("=")
        scalars.append({"name": name, "tensor": tensor or name})
    declared["scalars"] = scalars
    return declared


def _take(left: dict[str, Shape], name: str, what: str, path: Path) -> Shape:
    if name not in left:
        raise InvalidInput(
            f"{path}: {what}: no input {name[:80]!r}; the model's inputs: {_described(left)}"
        )
    return left.pop(name)


def _fill_image(image: dict[str, Any], left: dict[str, Shape], path: Path) -> None:
    if not image.get("tensor"):
        found = [name for name, shape in left.items() if len(shape) == _IMAGE_RANK]
        if len(found) != 1:
            raise ModelMismatch(
                f"{path}: one input with an image, (batch, bands, side, side), expected, found "
                f"{_described(left)}; name it with --image"
            )
        image["tensor"] = found[0]
    shape = _take(left, image["tensor"], "--image", path)
    shown = _described({image["tensor"]: shape})
    if len(shape) != _IMAGE_RANK:
        raise ModelMismatch(f"{path}: image (batch, bands, side, side) expected, found {shown}")
    bands, height, width = shape[1:]
    height, width = height or image.get("side"), width or image.get("side")
    if height != width and bands == height:
        raise ModelMismatch(
            f"{path}: image (batch, bands, side, side) expected, found {shown}: the bands are "
            "last. Export it with the bands first (tf2onnx: --inputs-as-nchw)"
        )
    if not isinstance(height, int) or height != width:
        raise ModelMismatch(
            f"{path}: image (batch, bands, side, side) of a known side expected, found {shown}; "
            "export it with fixed sides, or declare the side in the config"
        )
    image.setdefault("side", height)
    sdss = bands in {None, len(BAND_NAMES)}
    if not image.get("bands"):
        if not sdss:
            raise ModelMismatch(
                f"{path}: the image {shown} has {bands} bands; name them, in order, with --bands"
            )
        image["bands"] = list(BAND_NAMES)
        image.setdefault("pixel_scale", PIXEL_SCALE)
    if bands is not None and len(image["bands"]) != bands:
        raise ModelMismatch(
            f"{path}: {len(image['bands'])} bands are declared, and the image {shown} has {bands}"
        )
    if image["side"] != height:
        raise ModelMismatch(
            f"{path}: a side of {image['side']} pixels is declared, and the image is {shown}"
        )


def _fill_magnitude(
    declared: dict[str, Any], left: dict[str, Shape], path: Path, notes: list[str]
) -> None:
    magnitude: dict[str, Any] = dict(declared.get("magnitude") or {})
    scalars = {scalar.get("tensor") or scalar.get("name") for scalar in declared["scalars"]}
    if not magnitude.get("tensor"):
        vectors = [
            name
            for name, shape in left.items()
            if name not in scalars and len(shape) == 2 and shape[1] != 1
        ]
        if len(vectors) != 1:
            return  # none, or several, which the caller names
        magnitude["tensor"] = vectors[0]
        notes.append(f"input {vectors[0]!r} is taken for the magnitudes")
    name = magnitude["tensor"]
    shape = _take(left, name, "--magnitude", path)
    shown = _described({name: shape})
    magnitude.setdefault("bands", declared["image"]["bands"])
    declared["magnitude"] = magnitude
    if len(shape) != 2 or shape[1] not in {None, len(magnitude["bands"])}:
        raise ModelMismatch(
            f"{path}: magnitudes (batch, {len(magnitude['bands'])}) expected, found {shown}; "
            "declare their bands in the config if they are others than the image's"
        )


def _fill_scalars(declared: dict[str, Any], left: dict[str, Shape], notes: list[str]) -> None:
    for scalar in declared["scalars"]:
        tensor = scalar.setdefault("tensor", scalar.get("name"))
        if left.pop(tensor, None) is None:
            raise InvalidInput(
                f"--scalar: no input {str(tensor)[:80]!r} is left; the model's other inputs: "
                f"{_described(left) or 'none'}"
            )
    for name, shape in list(left.items()):
        if shape[1:] in {(), (1,)} and len(shape):
            del left[name]
            declared["scalars"].append({"name": name, "tensor": name})
            notes.append(f"input {name!r} is taken for a scalar, the catalogue's column {name!r}")


# -- what it gives -------------------------------------------------------------------------------


def _output(model: ModelProto, choices: Choices, path: Path) -> dict[str, Any]:
    """Return what is declared of the output; the converter adds what the graph's sizes say."""
    document = choices.config.get("output") or {}
    if not isinstance(document, dict):
        raise InvalidInput("key 'output' of the config: an object expected")
    declared = dict(document)
    if choices.output:
        if choices.output not in OUTPUTS:
            raise InvalidInput(f"--output {choices.output}: one of {' | '.join(OUTPUTS)} expected")
        declared["kind"] = OUTPUTS[choices.output]
    if choices.grid:
        declared["start"], declared["stop"] = choices.grid
    if choices.levels:
        declared["levels"] = list(choices.levels)
    there = [value.name for value in model.graph.output]
    tensors = list(choices.output_tensors or declared.get("tensors") or there)
    if unknown := [name for name in tensors if name not in there]:
        raise InvalidInput(
            f"{path}: no output {unknown[0][:80]!r}; the model's outputs: "
            f"{', '.join(repr(name[:80]) for name in there[:20])}"
        )
    # What else the model computes is left out, in the order in which the values are wanted.
    values = {value.name: value for value in model.graph.output}
    kept = [copy.deepcopy(values[name]) for name in tensors]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    declared["tensors"] = tensors
    return declared
