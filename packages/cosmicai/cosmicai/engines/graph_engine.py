"""A model imported from ONNX, on OpenVINO's CPU plugin."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cosmicai.engines.base import check_batch, chunks
from cosmicai.engines.quiet_openvino import compile_model, ov
from cosmicai.engines.registry import CHUNK
from cosmicai.errors import ModelMismatch
from cosmicai.facts import MB
from cosmicai.model.layout import CONSTANTS_NAME, GRAPH_NAME
from cosmicai.model.onnx_config import input_sizes
from cosmicai.model.prepare import aligned

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cosmicai.model.onnx_config import OnnxConfig

_CHUNK_BYTES = 256 * MB
"""What an operator may give for the galaxies that are computed at once."""


class GraphEngine:
    """The graph of a bundle, float32 throughout.

    Parameters
    ----------
    path
        Folder of a bundle that was checked.
    config
        Its config.
    threads
        Threads to compute with.

    Raises
    ------
    ModelMismatch
        OpenVINO does not read the graph, sizes in it depend on values, or one galaxy takes more
        memory than a function has to spare.
    """

    name = "openvino"

    def __init__(self, path: Path, config: OnnxConfig, threads: int) -> None:
        self._inputs = config.inputs
        self._output = config.output
        core = ov.Core()
        try:
            model = core.read_model(path / GRAPH_NAME, path / CONSTANTS_NAME)
            self._chunk = galaxies_at_once(model)
            self._request = compile_model(core, model, threads).create_infer_request()
        except RuntimeError as error:
            raise ModelMismatch(f"{path}: OpenVINO does not run the model: {error}") from error
        shapes = {
            name: tuple(size.get_length() for size in list(parameter.partial_shape)[1:])
            for parameter in model.inputs
            for name in parameter.names
        }
        image, *beside = input_sizes(self._inputs)
        # Inputs are copied here: kernels are chosen by alignment and differ in the last bit, and
        # the same galaxies must give the same redshifts wherever their arrays lie.
        self._image = _Buffer(image, self._chunk, shapes[image], self._inputs.image)
        self._beside = []
        first = 0
        magnitude = [self._inputs.magnitude] if self._inputs.magnitude else []
        for name, declared in zip(beside, (*magnitude, *self._inputs.scalars), strict=True):
            buffer = _Buffer(name, self._chunk, shapes[name], declared)
            last = first + math.prod(shapes[name])
            self._beside.append((slice(first, last), buffer))
            first = last

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        check_batch(image, values, self._inputs)
        parts = []
        for part in chunks(len(image), self._chunk):
            self._image.give(self._request, image[part])
            for columns, buffer in self._beside:
                buffer.give(self._request, values[part, columns])
            self._request.infer()
            count = part.stop - part.start
            found = [self._request.get_tensor(name).data for name in self._output.tensors]
            parts.append(np.concatenate([raw.reshape(count, -1) for raw in found], axis=1))
        raw = np.concatenate([np.empty((0, self._output.values), np.float32), *parts])
        return raw[:, 0] if self._output.values == 1 else raw


class _Buffer:
    """Holds one input of the galaxies that are computed at once, as the model takes it."""

    def __init__(self, name: str, count: int, shape: tuple[int, ...], declared: Any) -> None:
        self._name = name
        self._array = aligned((count, *shape))
        bands = (-1,) + (1,) * (len(shape) - 1) if shape else ()
        self._offset = np.reshape(np.float32(declared.offset), bands if shape else ())
        self._scale = np.reshape(np.float32(declared.scale), bands if shape else ())

    def give(self, request: ov.InferRequest, values: NDArray[np.float32]) -> None:
        """Fill the buffer and make it the request's input."""
        part = self._array[: len(values)]
        np.subtract(values.reshape(part.shape), self._offset, out=part)
        np.divide(part, self._scale, out=part)
        request.set_tensor(self._name, ov.Tensor(part, shared_memory=True))


def galaxies_at_once(model: ov.Model) -> int:
    """Return how many galaxies to compute at once: as many as their tensors leave room for.

    Raises
    ------
    ModelMismatch
        The size of a tensor depends on values, or one galaxy's are too large.
    """
    parameters = {parameter: parameter.get_partial_shape() for parameter in model.inputs}

    def reshape(batch: int) -> None:
        model.reshape(
            {p: ov.PartialShape([batch, *list(shape)[1:]]) for p, shape in parameters.items()}
        )

    reshape(1)
    most = max(map(_operator_bytes, model.get_ordered_ops()))
    reshape(-1)
    if most > _CHUNK_BYTES:
        raise ModelMismatch(
            f"an operator gives {most / MB:,.0f} MB for one galaxy; at most "
            f"{_CHUNK_BYTES // MB} MB expected"
        )
    return min(CHUNK, _CHUNK_BYTES // max(most, 1))


def _operator_bytes(operator: Any) -> int:
    """Return the size of what an operator gives, for one galaxy."""
    if operator.get_type_name() in {"Constant", "Result"}:
        return 0
    total = 0
    for output in operator.outputs():
        shape = output.get_partial_shape()
        if shape.is_dynamic:
            raise ModelMismatch(
                f"the size of {operator.get_friendly_name()[:80]!r} depends on the values that it "
                "is given; export the model without such operators"
            )
        total += math.prod(shape.to_shape()) * output.get_element_type().size
    return total
