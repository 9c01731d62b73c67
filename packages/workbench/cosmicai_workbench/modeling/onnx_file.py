"""An ONNX file, read as data.

Everything that can be said of the file without running anything is checked here: its size, its
operators, its tensors, the other files that it names. What comes out is whole in memory and names
no file; only then may the libraries that know operators see it.
"""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cosmicai.errors import InvalidInput, ModelNotFound, UnsafeModel
from cosmicai.facts import MB
from cosmicai.model.layout import MAX_CONSTANT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MAX_FILE_BYTES: Final = MAX_CONSTANT_BYTES + 64 * MB
"""The weights, and room for the graph."""
MAX_NODES: Final = 20_000
"""The largest models for images have a few thousand."""
_MAX_TENSORS: Final = 50_000
_MAX_NAME: Final = 1024
_MAX_RANK: Final = 16
_MAX_SHOWN: Final = 5
_OPSETS: Final = range(7, 28)

_NAMES: Final = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div
Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max
MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow
QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RotaryEmbedding Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan
Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS: Final = frozenset(_NAMES.split())
"""Operators that compute numbers from numbers: the same from the same, in bounded time.

Left out of ONNX's own are those that hold other graphs (loops and branches), draw random numbers,
keep a state, work on text, files or lists, or give tensors whose size depends on values.
"""


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file, with the weights that it keeps in files beside it.

    Raises
    ------
    ModelNotFound
        There is no such file, or one of its weights is not there.
    InvalidInput
        If it is not a complete ONNX file, or larger than a bundle may be.
    UnsafeModel
        It asks for an operator that is not allowed, or for a file elsewhere. No such file was
        opened, and nothing was executed.
    """
    from onnx import ModelProto

    model = ModelProto()
    _parse(model, path)
    _check_model(model, path)
    _take_in_weights(model, path)
    for tensor in _tensors(model.graph):
        _check_tensor(tensor, path)
    return model


def _parse(model: ModelProto, path: Path) -> None:
    from google.protobuf.message import DecodeError

    try:
        model.ParseFromString(_content(path, MAX_FILE_BYTES))
    except DecodeError:
        raise InvalidInput(
            f"{path} is not a complete ONNX file: it was cut short, or is something else"
        ) from None


def is_onnx(path: Path) -> bool:
    """Say whether a file is an ONNX model, by what it starts with and, in doubt, its name."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        start = b""
    # The first field of a model is the version of its format, a small number; a checkpoint is a
    # zip archive, a gzip file or a pickle.
    return start[:1] == b"\x08" or (path.suffix == ".onnx" and start not in {b"PK", b"\x1f\x8b"})


def graph_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return what a graph is given; files of old versions list its weights there, too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def _content(path: Path, most: int) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{path}: a file expected")
        if found.st_size > most:
            raise InvalidInput(
                f"{path}: at most {most // MB} MB expected, found {found.st_size / MB:,.0f}; a "
                "function could not hold the model"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelNotFound(f"{path} does not exist") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _check_model(model: ModelProto, path: Path) -> None:
    graph = model.graph
    nodes = len(graph.node)
    if not nodes or not graph.input or not graph.output:
        raise InvalidInput(
            f"{path} is not a complete ONNX file: a graph with nodes, inputs and outputs expected, "
            f"found {nodes} nodes, {len(graph.input)} inputs and {len(graph.output)} outputs"
        )
    if nodes > MAX_NODES:
        raise InvalidInput(f"{path}: at most {MAX_NODES:,} nodes expected, found {nodes:,}")
    tensors = len(graph.initializer)
    if tensors > _MAX_TENSORS or len(graph.input) > _MAX_TENSORS:
        raise InvalidInput(f"{path}: at most {_MAX_TENSORS:,} tensors expected, found {tensors:,}")
    if model.functions or model.training_info or graph.sparse_initializer:
        raise UnsafeModel(
            f"{path}: a graph of ONNX's own operators expected, found functions, training steps or "
            "sparse tensors; export it for inference, and inline functions with "
            "onnx.inliner.inline_local_functions"
        )
    if not all(isinstance(text, str) and len(text) <= _MAX_NAME for text in _texts(model)):
        raise InvalidInput(
            f"{path} is not a complete ONNX file: names of at most {_MAX_NAME} characters "
            "expected, found longer ones, or bytes that are not text"
        )
    versions = [entry.version for entry in model.opset_import if _is_standard(entry.domain)]
    if len(versions) != 1 or versions[0] not in _OPSETS:
        raise InvalidInput(
            f"{path}: ONNX operators of version {_OPSETS.start} to {_OPSETS.stop - 1} expected, "
            f"found {versions or 'none'}"
        )
    refused = dict.fromkeys(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in graph.node
        if not _is_standard(node.domain) or node.op_type not in OPERATORS
    )
    if refused:
        shown = ", ".join(name[:80] for name in list(refused)[:_MAX_SHOWN])
        raise UnsafeModel(
            f"{path}: ONNX's own operators for numbers expected, found {shown}"
            f"{f' and {len(refused) - _MAX_SHOWN} more' if len(refused) > _MAX_SHOWN else ''}; "
            "nothing was executed. Export the model without custom operators, quantisation, "
            "control flow and random numbers"
        )
    for node in graph.node:
        _check_node(node, path)


def _texts(model: ModelProto) -> Iterator[str | bytes]:
    """Yield every text that is used of a model; bytes where one is not UTF-8."""
    graph = model.graph
    yield from (model.producer_name, model.producer_version)
    yield from (entry.domain for entry in model.opset_import)
    yield from (value.name for value in (*graph.input, *graph.output))
    for node in graph.node:
        yield from (node.name, node.domain, node.op_type, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for tensor in _tensors(graph):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _is_standard(domain: str) -> bool:
    return domain in {"", "ai.onnx"}


def _check_node(node: NodeProto, path: Path) -> None:
    for attribute in node.attribute:
        if _holds_more(attribute):
            raise UnsafeModel(
                f"{path}: {node.op_type} {node.name[:80]!r} holds a graph, a sparse tensor or a "
                "reference to a function's argument, which no allowed operator does"
            )
        if node.op_type == "BatchNormalization" and attribute.name == "training_mode":
            _refuse_training(node, attribute, path)


def _refuse_training(node: NodeProto, attribute: AttributeProto, path: Path) -> None:
    if attribute.i:
        raise InvalidInput(
            f"{path}: {node.name[:80]!r} normalises by the batch, so that a galaxy's redshift "
            "would depend on the others; export the model after model.eval()"
        )


def _holds_more(attribute: AttributeProto) -> bool:
    return bool(
        attribute.HasField("g")
        or attribute.graphs
        or attribute.HasField("sparse_tensor")
        or attribute.sparse_tensors
        or attribute.HasField("tp")
        or attribute.type_protos
        or attribute.ref_attr_name
    )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor of a graph: weights, then the constants of its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _take_in_weights(model: ModelProto, path: Path) -> None:
    """Put the weights that are stored in files beside the model into it.

    PyTorch's exporter writes them to a file of its own, ``my_model.onnx.data``.
    """
    from onnx import TensorProto

    contents: dict[str, bytes] = {}
    left = MAX_CONSTANT_BYTES
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in contents:
            contents[location] = _content(_beside(path, location), left)
            left -= len(contents[location])
        content = contents[location]
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", len(content) - offset))
        except ValueError:
            offset = length = -1
        if offset < 0 or length < 0 or offset + length > len(content):
            raise InvalidInput(
                f"{path}: tensor {tensor.name[:80]!r} is not within {location}, which has "
                f"{len(content)} bytes; it was cut short, or belongs to another model"
            )
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = content[offset : offset + length]
    if model.ByteSize() > MAX_FILE_BYTES:
        raise InvalidInput(f"{path}: weights of at most {MAX_CONSTANT_BYTES // MB} MB expected")


def _beside(path: Path, location: str) -> Path:
    """Return the path of a file of weights; it lies in the model's own folder or nowhere."""
    folder = path.parent.resolve()
    beside = folder / location
    # Names are compared before anything is looked up, and a link may not lead elsewhere.
    plain = (
        location not in {"", ".", ".."}
        and "\0" not in location
        and Path(location).name == (location)
    )
    if not plain or beside.is_symlink():
        raise UnsafeModel(
            f"{path}: weights in a file beside the model expected, found the location "
            f"{location[:200]!r}; it was not opened. Save the model as one file, or its weights "
            "in its own folder"
        )
    return beside


_FIELDS: Final = {
    # Data type → bytes of a value in raw_data, and the field that holds values otherwise.
    "FLOAT": (4, "float_data"),
    "DOUBLE": (8, "double_data"),
    "FLOAT16": (2, "int32_data"),
    "BFLOAT16": (2, "int32_data"),
    "INT64": (8, "int64_data"),
    "INT32": (4, "int32_data"),
    "INT16": (2, "int32_data"),
    "INT8": (1, "int32_data"),
    "UINT8": (1, "int32_data"),
    "UINT16": (2, "int32_data"),
    "UINT32": (4, "uint64_data"),
    "UINT64": (8, "uint64_data"),
    "BOOL": (1, "int32_data"),
}


def _check_tensor(tensor: TensorProto, path: Path) -> None:
    """Raise InvalidInput unless a tensor holds as many values as its shape says."""
    from onnx import TensorProto

    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
    except ValueError:
        kind = str(tensor.data_type)
    label = f"{path}: tensor {tensor.name[:80]!r}"
    if kind not in _FIELDS:
        raise InvalidInput(f"{label}: numbers expected, found {kind}")
    size, name = _FIELDS[kind]
    shape = list(tensor.dims[:_MAX_RANK])
    values: Any = getattr(tensor, name)
    found = len(tensor.raw_data) / size if tensor.HasField("raw_data") else len(values)
    if len(tensor.dims) > _MAX_RANK or min(shape, default=0) < 0 or math.prod(shape) != found:
        raise InvalidInput(f"{label}: values of the shape {shape} expected, found {found:g}")
