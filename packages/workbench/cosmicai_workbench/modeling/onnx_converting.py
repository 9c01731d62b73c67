"""The process that converts a checked ONNX model, with bounds of memory and time.

``python -m cosmicai_workbench.modeling.onnx_converting FOLDER`` reads ``model.onnx`` and
``request.json`` there, writes the bundle, and leaves ``answer.json``: notes, or an error's name and
message. :mod:`cosmicai_workbench.modeling.onnx_import` starts it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cosmicai.errors import CosmicAIError, InvalidInput, ModelMismatch, problems_of
from cosmicai.facts import INPUT_LIMIT, MB
from cosmicai.model.interface import Inputs

if TYPE_CHECKING:
    import numpy as np
    from cosmicai.model.onnx_config import OnnxConfig
    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[np.float32]

TOLERANCE: Final = 1e-4
"""By how much an output tensor may differ from ONNX Runtime's, in units of its largest value, and
a redshift, in units of the larger of 1 and itself."""
GALAXIES: Final = 24
"""Random ones to compare with."""
MEMORY_BYTES: Final = 6 * 1024 * MB
"""Of this process: some ten times what the largest model that may be imported takes."""
CPU_SECONDS: Final = 1200
_MOST_VALUES: Final = 64 * MB
"""Numbers in one tensor in the graph, for one galaxy: 256 MB."""
_DYNAMIC: Final = "export the model with a dynamic batch axis (dynamic_shapes or dynamic_axes)"
_BATCHES: Final = (1, 2, 7)
_SHORTEST: Final = 400


def main() -> None:
    """Convert what is in the folder that the command line names."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    _bound()
    try:
        answer: dict[str, Any] = {"notes": convert(folder / "model.onnx", request)}
    except CosmicAIError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        answer = {
            "error": "InvalidInput",
            "message": f"{request['shown']}: converting the model takes more than "
            f"{MEMORY_BYTES // MB} MB of memory",
        }
    part = folder / "answer.part"
    part.write_text(json.dumps(answer))
    part.rename(folder / "answer.json")


def _bound() -> None:
    """Bound what a model can make the libraries take of this machine."""
    for limit, value in (
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(limit, (most, hard))


def convert(path: Path, request: dict[str, Any]) -> list[str]:
    """Write a bundle's files, checked against ONNX Runtime; return notes for the user.

    Raises
    ------
    InvalidInput
        The libraries do not take the model.
    ModelMismatch
        Its sizes are not those declared, or the two libraries disagree.
    """
    import numpy as np
    from cosmicai.engines.quiet_openvino import ov
    from cosmicai.model.ir import read_graph
    from cosmicai.model.layout import CONSTANTS_NAME, GRAPH_NAME
    from cosmicai.model.onnx_config import check_graph
    from onnx import load_model_from_string

    shown = request["shown"]
    content = path.read_bytes()
    model = load_model_from_string(content)
    _check_sizes(model, shown)
    inputs = Inputs.model_validate(request["inputs"])
    graph = _graph(content, inputs, shown)
    out = Path(request["out"])
    ov.save_model(graph, out / GRAPH_NAME, compress_to_fp16=False)
    description = (out / GRAPH_NAME).read_bytes()
    constant_bytes = (out / CONSTANTS_NAME).stat().st_size
    found = read_graph(description, constant_bytes, shown)
    described = ", ".join(f"{tensor.names[0]} {tensor.shape}" for tensor in found.outputs)
    if not all(tensor.shape[:1] == (-1,) and min(tensor.shape) >= -1 for tensor in found.outputs):
        raise ModelMismatch(f"{shown}: outputs (batch, …) expected, found {described}; {_DYNAMIC}")
    values = sum(math.prod(tensor.shape[1:]) for tensor in found.outputs)
    galaxies = random_galaxies(inputs)
    expected = reference(content, inputs, request["output"]["tensors"], galaxies, shown)
    raw = np.concatenate(expected, axis=1)
    output, notes = complete_output(request["output"], values, raw, shown)
    config = _config(request, model, inputs, output)
    check_graph(description, constant_bytes, config, shown)
    most = compare(out, config, galaxies, expected, shown)
    assert config.imported is not None  # noqa: S101 - it was just made
    imported = config.imported.model_copy(update=most._asdict())
    write_config(out, config.model_copy(update={"imported": imported}))
    notes.append(
        f"differences from ONNX Runtime on {GALAXIES} random galaxies: {most.difference:.1e} of an "
        f"output's largest value, {most.redshift_difference:.1e} in redshift"
    )
    return notes


def _check_sizes(model: ModelProto, shown: str) -> None:
    """Have ONNX check the model, and every size that it infers be one that fits a function."""
    from onnx import checker, shape_inference

    try:
        # Outputs without a shape, which the check does not take, have one thereafter.
        checker.check_model(shape_inference.infer_shapes(model))
        one = type(model)()
        one.CopyFrom(model)
        for value in one.graph.input:
            for size in value.type.tensor_type.shape.dim[:1]:
                size.dim_value = 1
        inferred = shape_inference.infer_shapes(one, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        raise InvalidInput(f"{shown}: ONNX does not take the model: {_short(error)}") from None
    graph = inferred.graph
    for value in (*graph.value_info, *graph.output, *graph.input):
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
        if math.prod(size for size in sizes if size) > _MOST_VALUES:
            raise InvalidInput(
                f"{shown}: tensor {value.name[:80]!r} would have the sizes {sizes}; at most "
                f"{_MOST_VALUES:,} numbers for one galaxy expected"
            )


def _graph(content: bytes, inputs: Inputs, shown: str) -> Any:
    """Return OpenVINO's graph, for any number of galaxies."""
    from cosmicai.engines.graph_engine import galaxies_at_once
    from cosmicai.engines.quiet_openvino import ov
    from cosmicai.model.onnx_config import input_sizes

    sizes = input_sizes(inputs)
    try:
        # From memory: there is no folder in which a file could be looked for.
        graph = ov.convert_model(io.BytesIO(content))
        shapes = {}
        for parameter in graph.inputs:
            (name,) = parameter.names & sizes.keys()
            own = list(parameter.partial_shape)[1:]
            known = sizes[name][0] if len(own) == len(sizes[name][0]) else ()
            shapes[parameter] = ov.PartialShape([-1, *known])
        graph.reshape(shapes)
        galaxies_at_once(graph)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InvalidInput(f"{shown}: OpenVINO does not convert the model: {_short(error)}") from (
            None
        )
    return graph


def random_galaxies(inputs: Inputs) -> tuple[Array, Array]:
    """Return images and values such that the model sees numbers of several sizes around 0."""
    import numpy as np

    rng = np.random.default_rng(12)

    def drawn(declared: Any, *shape: int) -> Array:
        bands = (-1, *(1,) * (len(shape) - 1))
        size = 10.0 ** rng.uniform(-1, 1, (GALAXIES, *(1,) * len(shape)))
        seen = rng.standard_normal((GALAXIES, *shape)) * size
        offset, scale = (
            np.reshape(np.asarray(part, np.float64), bands if np.ndim(part) else ())
            for part in (declared.offset, declared.scale)
        )
        galaxies: Array = np.clip(seen * scale + offset, -INPUT_LIMIT, INPUT_LIMIT).astype(
            np.float32
        )
        return galaxies

    beside = [drawn(inputs.magnitude, inputs.num_magnitudes)] if inputs.magnitude else []
    beside += [drawn(scalar, 1) for scalar in inputs.scalars]
    image = drawn(inputs.image, *inputs.image_shape)
    return image, np.concatenate([np.empty((GALAXIES, 0), np.float32), *beside], axis=1)


def reference(
    content: bytes,
    inputs: Inputs,
    outputs: list[str],
    galaxies: tuple[Array, Array],
    shown: str,
) -> list[Array]:
    """Return what ONNX Runtime computes: (galaxies, values) of each output tensor."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        ranks = {value.name: len(value.shape) for value in session.get_inputs()}
        feed = _feed(inputs, ranks, *galaxies)
        found = session.run(outputs, feed)
    except Exception as error:  # noqa: BLE001 - its own classes have no common base
        raise InvalidInput(
            f"{shown}: ONNX Runtime does not run the model: {_short(error)}"
        ) from None
    count = len(galaxies[0])
    if any(np.shape(part)[:1] != (count,) for part in found):
        raise ModelMismatch(
            f"{shown}: outputs for {count} galaxies expected, found "
            f"{[np.shape(part) for part in found]}; {_DYNAMIC}"
        )
    return [np.reshape(part, (count, -1)) for part in found]


def _feed(inputs: Inputs, ranks: dict[str, int], image: Array, values: Array) -> dict[str, Array]:
    """Return a model's tensors by name, scaled as the config says."""
    import numpy as np

    def scaled(declared: Any, given: Array) -> Array:
        offset, scale = (np.asarray(p, np.float32) for p in (declared.offset, declared.scale))
        if given.ndim > 2:
            offset, scale = (
                np.reshape(part, (-1, 1, 1)) if part.ndim else part for part in (offset, scale)
            )
        tensor: Array = (given - offset) / scale
        return tensor

    feed = {inputs.image.tensor or "image": scaled(inputs.image, image)}
    magnitudes, scalars = np.split(values, [inputs.num_magnitudes], axis=1)
    if inputs.magnitude:
        feed[inputs.magnitude.tensor or "magnitude"] = scaled(inputs.magnitude, magnitudes)
    for column, scalar in zip(scalars.T, inputs.scalars, strict=True):
        name = scalar.tensor or scalar.name
        shape = (-1,) if ranks[name] == 1 else (-1, 1)
        feed[name] = scaled(scalar, column).reshape(shape)
    return feed


def complete_output(
    declared: dict[str, Any], values: int, raw: Array, shown: str
) -> tuple[dict[str, Any], list[str]]:
    """Return an output's whole declaration: what the user said, and what the graph shows.

    Raises
    ------
    ModelMismatch, InvalidInput
        The number of values, or the values, are not those of such an output; or it is not said.
    """
    import numpy as np

    output = dict(declared)
    notes: list[str] = []
    if "kind" not in output:
        if values != 1:
            raise InvalidInput(
                f"{shown}: the model gives {values} values of a galaxy; say with --output which "
                "they are: pdf, mean,sigma, quantiles or mixture"
            )
        output["kind"] = "point"
    kind = output["kind"]
    if not np.isfinite(raw).any():
        raise ModelMismatch(f"{shown}: the model gives no finite number for random galaxies")
    if kind == "pdf":
        _complete_pdf(output, values, raw, shown, notes)
    elif kind == "mixture":
        output.setdefault("components", values // 3)
    elif kind == "normal" and values == 2 and np.nanmin(raw[:, 1]) <= 0:
        raise ModelMismatch(
            f"{shown}: mean and sigma expected, and sigma is {np.nanmin(raw[:, 1]):g} for a random "
            "galaxy; export the standard deviation itself (torch.exp or softplus), behind the mean"
        )
    wanted = {
        "point": 1,
        "pdf": output.get("bins"),
        "normal": 2,
        "quantiles": len(output.get("levels", ())),
        "mixture": 3 * int(output.get("components") or 0),
    }.get(kind, values)
    if kind == "quantiles" and not wanted:
        raise InvalidInput(f"{shown}: give the {values} levels of the quantiles with --levels")
    if wanted != values:
        raise ModelMismatch(
            f"{shown}: {wanted} values of a galaxy expected ({kind}), and the model gives {values}"
        )
    return output, notes


def _complete_pdf(
    output: dict[str, Any], values: int, raw: Array, shown: str, notes: list[str]
) -> None:
    import numpy as np

    if "start" not in output or "stop" not in output:
        raise InvalidInput(
            f"{shown}: give the redshifts of the first and the last of the {values} bins, at their "
            "centres, with --grid, such as --grid 0.005,1.795"
        )
    output.setdefault("bins", values)
    known = raw[np.isfinite(raw).all(axis=1)]
    negative = bool((known < 0).any())
    if "logits" not in output:
        output["logits"] = negative or not np.allclose(
            known.sum(axis=1), known.sum(axis=1).mean(), rtol=1e-3
        )
        kind = "logits, of which the softmax is taken" if output["logits"] else "probabilities"
        notes.append(f"the {values} values of p(z) are taken for {kind}")
    elif negative and not output["logits"]:
        raise ModelMismatch(
            f"{shown}: probabilities expected, and the model gives negative numbers; declare "
            "logits in the config"
        )


def _config(
    request: dict[str, Any], model: ModelProto, inputs: Inputs, output: dict[str, Any]
) -> OnnxConfig:
    from importlib.metadata import version

    from cosmicai.model.onnx_config import Imported, OnnxConfig
    from pydantic import ValidationError

    try:
        return OnnxConfig.model_validate_json(
            json.dumps(
                {
                    "inputs": inputs.model_dump(mode="json"),
                    "output": output,
                    "training": request["training"],
                    "imported": Imported(
                        file=request["file"],
                        digest=request["digest"],
                        producer=f"{model.producer_name} {model.producer_version}".strip()[:200],
                        opset=next(
                            entry.version
                            for entry in model.opset_import
                            if entry.domain in {"", "ai.onnx"}
                        ),
                        difference=0,
                        redshift_difference=0,
                        onnxruntime=version("onnxruntime"),
                        openvino=version("openvino"),
                    ).model_dump(mode="json"),
                }
            )
        )
    except ValidationError as error:
        raise InvalidInput(
            f"{request['shown']}: the config is not right: {problems_of(error)}"
        ) from None


def write_config(out: Path, config: OnnxConfig) -> None:
    """Write ``config.json`` into a bundle's folder."""
    from cosmicai.model.layout import CONFIG_NAME

    (out / CONFIG_NAME).write_text(config.to_json())


class Differences(NamedTuple):
    """By how much the engine differs from ONNX Runtime, at most."""

    difference: float
    """Of an output tensor, in units of its largest value."""
    redshift_difference: float
    """Of the redshift that follows, in units of the larger of 1 and itself."""


def compare(
    out: Path, config: OnnxConfig, galaxies: tuple[Array, Array], expected: list[Array], shown: str
) -> Differences:
    """Return the largest differences between the engine and ONNX Runtime, over several batch sizes.

    Each output tensor is judged on its own scale: they may be logits and redshifts. So is the
    redshift that follows from all of them; where it is the mode, which may jump between peaks of
    the same height, the median is judged.

    Parameters
    ----------
    expected
        (galaxies, values) of each output tensor.

    Raises
    ------
    ModelMismatch
        One is above ``TOLERANCE``, or a galaxy's values depend on the others of its batch.
    """
    import numpy as np
    from cosmicai.engines.graph_engine import GraphEngine
    from cosmicai.model.interface import PointOutput
    from cosmicai.outputs import estimate

    def redshift(raw: Array) -> Array:
        columns = estimate(config.output, raw)
        modal = not isinstance(config.output, PointOutput) and config.output.point == "mode"
        return columns["z_median" if modal else "redshift"]

    engine = GraphEngine(out, config, 1)
    starts = np.cumsum([part.shape[1] for part in expected])[:-1]
    units = [float(np.abs(part[np.isfinite(part)]).max(initial=0.0)) or 1.0 for part in expected]
    true = redshift(np.concatenate(expected, axis=1))
    whole = len(true)
    worst = Differences(0.0, 0.0)
    for size in (whole, *_BATCHES):
        raw = engine.predict(galaxies[0][:size], galaxies[1][:size]).reshape(size, -1)
        outputs = [
            _difference(part, wanted[:size], unit)
            for part, wanted, unit in zip(
                np.split(raw, starts, axis=1), expected, units, strict=True
            )
        ]
        wanted = true[:size]
        unit = np.maximum(1.0, np.abs(wanted))
        found = Differences(max(outputs), _difference(redshift(raw), wanted, unit))
        names = [repr(name[:80]) for name in config.output.tensors]
        for what, difference in zip(
            (*names, "the redshift"), (*outputs, found.redshift_difference), strict=True
        ):
            if difference > TOLERANCE:
                raise ModelMismatch(_differs(shown, what, difference, size, whole))
        worst = Differences(*map(max, worst, found))
    return worst


def _difference(found: Array, wanted: Array, unit: float | Array) -> float:
    """Return the largest difference; infinite if other values are finite than should be."""
    import numpy as np

    known = np.isfinite(wanted)
    if not np.array_equal(np.isfinite(found), known):
        return math.inf
    with np.errstate(invalid="ignore"):
        return float((np.abs(found - wanted) / unit)[known].max(initial=0.0))


def _differs(shown: str, what: str, difference: float, size: int, whole: int) -> str:
    text = (
        f"{shown}: {what} of {size} random galaxies, computed by OpenVINO, differs from ONNX "
        f"Runtime's by {difference:.2g} of its size; at most {TOLERANCE:g} expected."
    )
    if size == whole:
        return text
    return (
        f"{text} In a batch of {whole} it did not: a galaxy's output depends on the others of its "
        "batch; export the model after model.eval(), with a dynamic batch"
    )


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[-_SHORTEST:]


if __name__ == "__main__":
    main()
