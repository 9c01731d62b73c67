"""Checks of a model in OpenVINO's intermediate representation before OpenVINO reads it.

``model.xml`` describes a graph, ``model.bin`` holds its constants. A bundle may come from anybody,
so that the description is read here first, as data: only operators that compute numbers from
numbers, no state, no control flow, no other file, every constant inside ``model.bin``, and all of
it bounded. Needs neither OpenVINO nor NumPy, so that Initialize checks a model before any rank.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from cosmicai.errors import ModelMismatch
from cosmicai.facts import MB
from cosmicai.model.layout import MAX_CONSTANT_BYTES, MAX_GRAPH_BYTES

MAX_LAYERS: Final = 50_000
_MAX_ELEMENTS: Final = 4_000_000
_MAX_DEPTH: Final = 8
_MAX_NUMBERS: Final = 400
"""Characters of a size, or of all sizes of a tensor."""

# What ONNX's operators become, listed in cosmicai_workbench/modeling/onnx_file.py.
_NAMES: Final = """
Abs Acos Acosh AdaptiveAvgPool AdaptiveMaxPool Add Asin Asinh Atan Atanh AvgPool BatchNormInference
BatchToSpace BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Broadcast Ceiling Clamp Concat Const Convert
ConvertLike Convolution ConvolutionBackpropData Cos Cosh CumSum DepthToSpace Divide Einsum Elu Equal
Erf Exp FakeQuantize Floor FloorMod Gather GatherElements GatherND Gelu Greater GreaterEqual
GridSample GroupConvolution GroupConvolutionBackpropData GroupNormalization GRUCell GRUSequence
HardSigmoid HSigmoid HSwish Identity Interpolate IsFinite IsInf IsNaN LRN LSTMCell LSTMSequence Less
LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr LogicalXor MatMul MaxPool Maximum Minimum
Mish Mod Multiply MVN Negative NormalizeL2 NotEqual OneHot Pad Parameter Power PReLU RNNCell
RNNSequence Range ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReLU Reshape Result ReverseSequence Roll Round ScaledDotProductAttention
ScatterElementsUpdate ScatterNDUpdate ScatterUpdate Select Selu ShapeOf ShuffleChannels Sigmoid Sign
Sin Sinh Slice SoftMax SoftPlus SoftSign SpaceToBatch SpaceToDepth Split Sqrt SquaredDifference
Squeeze StridedSlice Subtract Swish Tan Tanh Tile TopK Transpose Unsqueeze VariadicSplit
"""
OPERATORS: Final = frozenset(_NAMES.split())
"""Types of layers that a model may have, as they are spelled in ``model.xml``."""
_VERSIONS: Final = frozenset(f"opset{number}" for number in range(1, 17))
_BYTES: Final = {
    **dict.fromkeys(("f64", "i64", "u64"), 8),
    **dict.fromkeys(("f32", "i32", "u32"), 4),
    **dict.fromkeys(("f16", "bf16", "i16", "u16"), 2),
    **dict.fromkeys(("i8", "u8", "boolean"), 1),
}
"""Element types of constants, and the size of each."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a graph; a size of -1 is any."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    element_type: str


@dataclass(slots=True)
class Graph:
    """What a description says of its model."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    layers: int = 0
    constant_bytes: int = 0
    """Where the last constant ends."""


def read_graph(description: bytes, constant_bytes: int, where: str) -> Graph:
    """Check a description and return what it takes and gives.

    Parameters
    ----------
    description
        ``model.xml``.
    constant_bytes
        Size of ``model.bin``.
    where
        The model's name in error messages.

    Raises
    ------
    ModelMismatch
        If it is not such a description, or exceeds what a bundle may hold; the message says where.
    """
    if len(description) > MAX_GRAPH_BYTES:
        raise ModelMismatch(
            f"{where}: a description of at most {MAX_GRAPH_BYTES // MB} MB expected, found "
            f"{len(description)} bytes"
        )
    try:
        graph = _Reader().read(description)
    except (expat.ExpatError, ValueError) as error:
        raise ModelMismatch(
            f"{where} is not a model that may be run: {error}. Import the ONNX file again with "
            "`cosmicai model import`"
        ) from None
    if not 0 < graph.constant_bytes <= constant_bytes <= MAX_CONSTANT_BYTES:
        raise ModelMismatch(
            f"{where}: its constants take {graph.constant_bytes} bytes, and model.bin has "
            f"{constant_bytes} (at most {MAX_CONSTANT_BYTES // MB} MB); the file was cut short or "
            "belongs to another model: import the ONNX file again"
        )
    return graph


class _Reader:
    """Walks over the elements of a description; what it refuses, it raises as ValueError."""

    def __init__(self) -> None:
        self._graph = Graph()
        self._path: list[str] = []
        self._elements = 0
        self._layer: dict[str, str] = {}
        self._data: dict[str, str] = {}
        self._port: dict[str, str] = {}
        self._sizes: list[int] = []
        self._text = ""

    def read(self, description: bytes) -> Graph:
        parser = expat.ParserCreate("utf-8")  # whatever it declares
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.ProcessingInstructionHandler = self._doctype
        parser.Parse(description, True)
        graph = self._graph
        if not graph.inputs or not graph.outputs:
            raise ValueError(
                f"inputs and outputs expected, found {len(graph.inputs)} and {len(graph.outputs)}"
            )
        return graph

    def _doctype(self, *_: Any) -> None:
        raise ValueError("a document type or processing instruction, which no model has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._path.append(name)
        if self._elements > _MAX_ELEMENTS or len(self._path) > _MAX_DEPTH:
            raise ValueError("more elements, or deeper ones, than a model has")
        if len(self._path) == 1 and name != "net":
            raise ValueError(f"element net expected, found {name[:40]}")
        match self._path:
            case ["net", "layers", "layer"]:
                self._start_layer(attributes)
            case ["net", "layers", "layer", "data"]:
                if self._data:
                    raise ValueError(f"two descriptions of the data of {self._named()}")
                self._data = attributes
            case ["net", "layers", "layer", "input" | "output", "port"]:
                self._port, self._sizes = attributes, []
            case ["net", "layers", "layer", "input" | "output", "port", "dim"]:
                self._text = ""
            case ["net", "layers", "layer", "input" | "output" | "rt_info", *_]:
                pass
            case ["net", "layers", *rest] if rest:
                # A body of a loop or a branch would be here.
                raise ValueError(f"element {name[:40]} inside of {self._named()}")

    def _start_layer(self, attributes: dict[str, str]) -> None:
        self._graph.layers += 1
        self._layer, self._data, self._port, self._sizes = attributes, {}, {}, []
        if self._graph.layers > MAX_LAYERS:
            raise ValueError(f"more than {MAX_LAYERS} layers")
        kind, version = attributes.get("type", ""), attributes.get("version", "")
        if kind not in OPERATORS or version not in _VERSIONS:
            raise ValueError(f"operator {kind[:80]!r} of {version[:40]!r}, which is not allowed")

    def _end(self, _name: str) -> None:
        match self._path:
            case ["net", "layers", "layer"]:
                self._end_layer()
            case ["net", "layers", "layer", "input" | "output", "port", "dim"]:
                self._sizes.append(int(self._text))
        self._path.pop()

    def _characters(self, text: str) -> None:
        if self._path[-1] == "dim":
            self._text += text
            if len(self._text) > _MAX_NUMBERS:
                raise ValueError(f"a size of more than {_MAX_NUMBERS} characters")

    def _end_layer(self) -> None:
        match self._layer["type"]:
            case "Const":
                self._check_constant()
            case "Parameter":
                names = _names(self._port.get("names", ""))
                # The sizes beside the port are for readers; these are what OpenVINO takes.
                sizes = _sizes(self._data.get("shape", "").replace("?", "-1"))
                kind = self._data.get("element_type", "")
                self._graph.inputs.append(Tensor(names, tuple(sizes), kind))
            case "Result":
                names = _names(self._layer.get("output_names", ""))
                kind = self._port.get("precision", "").lower().replace("fp", "f")
                self._graph.outputs.append(Tensor(names, tuple(self._sizes), kind))

    def _check_constant(self) -> None:
        data = self._data
        each = _BYTES.get(data.get("element_type", ""))
        if each is None:
            raise ValueError(f"{self._named()}: element type {data.get('element_type', '')[:40]!r}")
        shape = _sizes(data.get("shape", ""))
        offset, size = int(data.get("offset", "-1")), int(data.get("size", "-1"))
        if min((offset, size, *shape)) < 0 or math.prod(shape) * each != size:
            raise ValueError(f"{self._named()}: a constant {shape} of {size} bytes at {offset}")
        self._graph.constant_bytes = max(self._graph.constant_bytes, offset + size)

    def _named(self) -> str:
        return f"layer {self._layer.get('name', '')[:80]!r}"


def _sizes(text: str) -> list[int]:
    if len(text) > _MAX_NUMBERS:
        raise ValueError(f"sizes of more than {_MAX_NUMBERS} characters")
    return [int(size) for size in text.split(",") if size.strip()]


def _names(text: str) -> tuple[str, ...]:
    """Split the names of a tensor, in which a comma is escaped by a backslash."""
    return tuple(part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text) if part)
