"""The config of a model that was imported from ONNX, and what its graph must have to match it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, FiniteFloat

from cosmicai.errors import ModelMismatch
from cosmicai.model.interface import ArchitectureConfig, Declaration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cosmicai.model.interface import Inputs
    from cosmicai.model.ir import Tensor


class Imported(Declaration):
    """Where a model comes from, and how its conversion was checked."""

    file: str = Field(description="Name of the ONNX file.")
    digest: str = Field(description="Its SHA-256.")
    producer: str = Field(default="", description="What wrote it.")
    opset: int = Field(description="Version of its operators.")
    difference: FiniteFloat = Field(
        description="Largest difference of an output tensor from ONNX Runtime's, on random inputs, "
        "in units of its largest value."
    )
    redshift_difference: FiniteFloat | None = Field(
        default=None,
        description="Largest difference of the redshift that follows, in units of the larger of 1 "
        "and itself.",
    )
    onnxruntime: str = Field(description="Version that it was compared with.")
    openvino: str = Field(description="Version that converted it.")


class OnnxConfig(ArchitectureConfig):
    """``config.json`` of an imported model."""

    architecture: Literal["ONNX"] = "ONNX"
    imported: Annotated[Imported | None, Field(description="Written by `model import`.")] = None


def check_graph(description: bytes, constant_bytes: int, config: OnnxConfig, where: str) -> None:
    """Check ``model.xml`` by itself, and that it takes and gives what the config says.

    Parameters
    ----------
    description
        ``model.xml``.
    constant_bytes
        Size of ``model.bin``.
    where
        The bundle's name in error messages.

    Raises
    ------
    ModelMismatch
        If it does not; the message says what was expected and found.
    """
    from cosmicai.model.ir import read_graph

    graph = read_graph(description, constant_bytes, where)
    expected = input_sizes(config.inputs)
    found = {_key(tensor, expected): tensor for tensor in graph.inputs}
    if found.keys() != expected.keys() or len(graph.inputs) != len(expected):
        raise ModelMismatch(
            f"{where}: the config has the inputs {', '.join(map(str, expected))}, the graph "
            f"{_described(graph.inputs)}"
        )
    for name, sizes in expected.items():
        tensor = found[name]
        if (
            tensor.element_type != "f32"
            or tensor.shape[:1] != (-1,)
            or tensor.shape[1:] not in (sizes)
        ):
            shape = ", ".join(("B", *map(str, sizes[0])))
            raise ModelMismatch(
                f"{where}: the config has the input {name}, f32 ({shape}), the graph "
                f"{_described([tensor])}"
            )
    _check_outputs(graph.outputs, config, where)


def _check_outputs(outputs: list[Tensor], config: OnnxConfig, where: str) -> None:
    names = config.output.tensors
    if len(outputs) != len(names) or any(
        _key(tensor, names) != name for tensor, name in zip(outputs, names, strict=True)
    ):
        raise ModelMismatch(
            f"{where}: the config has the outputs {', '.join(names) or '(none)'}, the graph "
            f"{_described(outputs)}"
        )
    values = sum(math.prod(tensor.shape[1:]) for tensor in outputs)
    if values != config.output.values or any(min(t.shape[1:], default=1) < 1 for t in outputs):
        raise ModelMismatch(
            f"{where}: the config's output ({config.output.kind}) has {config.output.values} "
            f"values of a galaxy, the graph {_described(outputs)}"
        )


def input_sizes(inputs: Inputs) -> dict[str, list[tuple[int, ...]]]:
    """Return each input's name in the graph, and the sizes it may have behind the batch's."""
    sizes: dict[str, list[tuple[int, ...]]] = {
        inputs.image.tensor or "image": [inputs.image_shape],
    }
    if inputs.magnitude:
        sizes[inputs.magnitude.tensor or "magnitude"] = [(inputs.num_magnitudes,)]
    for scalar in inputs.scalars:
        sizes[scalar.tensor or scalar.name] = [(1,), ()]
    return sizes


def _key(tensor: Tensor, expected: Iterable[str]) -> str:
    """Return the name by which the config knows a tensor, or one of its own."""
    return next((name for name in expected if name in tensor.names), "".join(tensor.names[:1]))


def _described(tensors: list[Tensor]) -> str:
    return ", ".join(
        f"{'/'.join(tensor.names)[:80]} {tensor.element_type} "
        f"({', '.join('B' if size < 0 else str(size) for size in tensor.shape)})"
        for tensor in tensors
    )
