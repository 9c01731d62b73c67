"""The prepared model on OpenVINO: the fastest engine on CPUs by our measurement.

Needs no PyTorch, and loads quickly: see ``cosmicai.engines.openvino_graph``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from cosmicai.engines.base import check_batch, chunks, one_or_more
from cosmicai.engines.openvino_graph import BLOCK_TENSORS, GraphBuilder
from cosmicai.engines.quiet_openvino import compile_model, ov
from cosmicai.engines.registry import CHUNK
from cosmicai.facts import BANDS, IMAGE_SIZE
from cosmicai.model.onnx_config import OnnxConfig
from cosmicai.model.prepare import aligned, build_prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmicai.engines.graph_engine import GraphEngine
    from cosmicai.model.bundle import Bundle
    from cosmicai.model.config import ModelConfig
    from cosmicai.model.prepare import Tensors


class OpenVinoEngine:
    """The prepared graphs on OpenVINO's CPU plugin, float32 throughout.

    Parameters
    ----------
    tensors
        The model, prepared.
    config
        Its architecture.
    threads
        Threads to compute with.
    """

    name = "openvino"

    def __init__(self, tensors: Tensors, config: ModelConfig, threads: int) -> None:
        self._inputs = config.inputs
        self._tensors = tensors  # the requests share them, so they must live
        self._outputs = config.output.values
        builder = GraphBuilder(tensors, config)
        core = ov.Core()

        def compiled(model: ov.Model) -> ov.CompiledModel:
            return compile_model(core, model, threads)

        with ThreadPoolExecutor(3) as pool:
            models = (builder.rear(), builder.block(), builder.front())
            rear, block, front = pool.map(compiled, models)
        last = config.depth - 1
        self._front = front.create_infer_request()
        self._blocks = [self._request(block, index, first=1) for index in range(last)]
        self._rear = self._request(rear, last, first=3)
        # Inputs are copied here: kernels are chosen by alignment and differ in the last bit, and
        # the same galaxies must give the same redshifts wherever their arrays lie.
        self._image = aligned((CHUNK, BANDS, IMAGE_SIZE, IMAGE_SIZE))
        self._magnitude = aligned((CHUNK, BANDS))

    def predict(
        self, image: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        check_batch(image, values, self._inputs)
        output = np.empty((len(image), self._outputs), np.float32)
        for part in chunks(len(image), CHUNK):
            count = part.stop - part.start
            self._image[:count] = image[part]
            self._magnitude[:count] = values[part]
            output[part] = self._predict_chunk(count)
        return one_or_more(output)

    def _predict_chunk(self, count: int) -> NDArray[np.float32]:
        """Predict the first ``count`` galaxies of the input buffers."""
        image = _shared(self._image[:count])
        self._front.set_input_tensor(0, image)
        tokens = _run(self._front)
        for block in self._blocks:
            block.set_input_tensor(0, tokens)
            tokens = _run(block)
        for index, tensor in enumerate((tokens, image, _shared(self._magnitude[:count]))):
            self._rear.set_input_tensor(index, tensor)
        output: NDArray[np.float32] = _run(self._rear).data
        return output

    def _request(self, model: ov.CompiledModel, block: int, first: int) -> ov.InferRequest:
        """Return a request whose inputs from ``first`` on are the tensors of one block."""
        request = model.create_infer_request()
        for index, name in enumerate(BLOCK_TENSORS, start=first):
            request.set_input_tensor(index, _shared(self._tensors[f"blocks.{block}.{name}"]))
        return request


def create(bundle: Bundle, threads: int, _precision: str) -> OpenVinoEngine | GraphEngine:
    """Build the engine."""
    if isinstance(bundle.config, OnnxConfig):
        from cosmicai.engines.graph_engine import GraphEngine

        return GraphEngine(bundle.path, bundle.config, threads)
    return build_prepared(
        bundle,
        lambda tensors: OpenVinoEngine(tensors, bundle.astromae, threads),
        threads=threads,
    )


def _run(request: ov.InferRequest) -> ov.Tensor:
    request.infer()
    return request.get_output_tensor(0)


def _shared(array: NDArray[np.float32]) -> ov.Tensor:
    return ov.Tensor(array, shared_memory=True)
