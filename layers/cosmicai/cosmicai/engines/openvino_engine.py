"""The prepared model as an OpenVINO graph: the fastest engine on CPUs by our measurement.

Needs neither PyTorch nor an exported file: the graph is built here, from the tensors of
``cosmicai.model.prepare``. The Winograd kernels, nine tenths of the model, are inputs of the
graph rather than constants, so they stay where they are, mapped from their file, instead of
being packed into a second copy; measured, the products are as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from cosmicai.engines.base import check_batch, chunks
from cosmicai.errors import InvalidInput
from cosmicai.model.config import BANDS, GRID, IMAGE_SIZE, PATCH_SIZE, PATCHES, TOKENS
from cosmicai.model.prepare import Tensors, aligned, load_prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openvino import Node

    from cosmicai.model.bundle import Bundle
    from cosmicai.model.config import ModelConfig

CHUNK = 128
"""Galaxies computed at once: enough to amortise the weights, few enough for the caches."""


class OpenVinoEngine:
    """The prepared graph on OpenVINO's CPU plugin, float32 throughout."""

    name = "openvino"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        tensors = load_prepared(bundle)
        builder = GraphBuilder(tensors, bundle.config)
        compiled = ov.Core().compile_model(
            builder.build(),
            "CPU",
            {
                # Where the processor has bfloat16, the plugin would use it unasked.
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                # Two vCPUs in a container may be any two of the host's.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._kernels = [tensors[name] for name in builder.kernels]  # shared, so kept alive
        # Inputs are copied here: kernels are chosen by alignment and differ in the last bit, and
        # the same galaxies must give the same redshifts wherever their arrays lie.
        self._image = aligned((CHUNK, BANDS, IMAGE_SIZE, IMAGE_SIZE))
        self._magnitude = aligned((CHUNK, BANDS))
        self._request = compiled.create_infer_request()
        for index, kernel in enumerate(self._kernels, start=2):
            self._request.set_input_tensor(index, ov.Tensor(kernel, shared_memory=True))

    def predict(
        self, image: NDArray[np.float32], magnitude: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See ``cosmicai.engines.base.Engine.predict``."""
        check_batch(image, magnitude)
        redshift = np.empty(len(image), np.float32)
        for part in chunks(len(image), CHUNK):
            for index, (buffer, values) in enumerate(
                ((self._image, image[part]), (self._magnitude, magnitude[part]))
            ):
                buffer[: len(values)] = values
                tensor = ov.Tensor(buffer[: len(values)], shared_memory=True)
                self._request.set_input_tensor(index, tensor)
            self._request.infer()
            redshift[part] = self._request.get_output_tensor(0).data
        return redshift


def create(bundle: Bundle, threads: int, precision: str) -> OpenVinoEngine:
    """Build the engine."""
    if precision != "float32":
        raise InvalidInput(
            f"engine 'openvino' computes in float32 only, not {precision}; engine 'torch' has it"
        )
    return OpenVinoEngine(bundle, threads)


class GraphBuilder:
    """Builds the graph; ``kernels`` lists the tensors that it takes as inputs 2, 3, ….

    Inputs 0 and 1 are image (B, 5, 32, 32) and magnitude (B, 5); the output is (B,). B is
    dynamic: a fixed one was not faster.
    """

    def __init__(self, tensors: Tensors, config: ModelConfig) -> None:
        self.kernels: list[str] = []
        self._tensors = tensors
        self._config = config
        self._inputs: list[Any] = []

    def build(self) -> ov.Model:
        """Return the graph."""
        image = op.parameter([-1, BANDS, IMAGE_SIZE, IMAGE_SIZE], np.float32, name="image")
        magnitude = op.parameter([-1, BANDS], np.float32, name="magnitude")
        self._inputs = [image, magnitude]
        features = [
            op.relu(self._linear(self._encoder(image), "encoder")),
            self._inception(image),
            self._magnitudes(magnitude),
        ]
        joint = op.relu(self._linear(op.concat(features, 1), "joint"))
        redshift = op.reshape(self._linear(joint, "redshift"), _shape(-1), False)
        return ov.Model([op.result(redshift)], self._inputs, "cosmicai")

    def _constant(self, name: str, *shape: int) -> Node:
        array = self._tensors[name]
        return op.constant(array.reshape(shape) if shape else array)

    def _kernel(self, name: str) -> Node:
        self.kernels.append(name)
        self._inputs.append(op.parameter(list(self._tensors[name].shape), np.float32, name=name))
        return self._inputs[-1]

    def _linear(self, x: Node, name: str) -> Node:
        product = op.matmul(x, self._constant(f"{name}.weight"), False, True)
        return op.add(product, self._constant(f"{name}.bias"))

    def _layer_norm(self, x: Node) -> Node:
        return op.mvn(x, _shape(-1), True, self._config.norm_eps, "inside_sqrt")

    # -- the encoder branch: tokens are (17, B, width), the class token first -----------------

    def _encoder(self, image: Node) -> Node:
        tokens = self._embed(image)
        last = self._config.depth - 1
        for block in range(self._config.depth):
            tokens = self._block(tokens, f"blocks.{block}", last=block == last)
        return self._layer_norm(tokens)

    def _embed(self, image: Node) -> Node:
        width = self._config.width
        cut = op.reshape(image, _shape(-1, BANDS, GRID, PATCH_SIZE, GRID, PATCH_SIZE), False)
        patches = op.transpose(cut, _shape(2, 4, 0, 1, 3, 5))
        patches = op.reshape(patches, _shape(PATCHES, -1, BANDS * PATCH_SIZE**2), False)
        patches = op.matmul(patches, self._constant("patch.weight"), False, True)
        patches = op.add(patches, self._constant("patch.position"))
        batch = op.gather(op.shape_of(image), _shape(0), op.constant(np.int64(0)))
        shape = op.concat([_shape(1), batch, _shape(width)], 0)
        return op.concat([op.broadcast(self._constant("class_token"), shape), patches], 0)

    def _block(self, tokens: Node, name: str, *, last: bool) -> Node:
        convolved = self._convolutions(tokens, name)
        attended = self._linear(self._attention(self._layer_norm(tokens), name), f"{name}.proj")
        tokens = op.add(op.add(tokens, attended), convolved)
        if last:
            # Only the patches' mean goes on: the class token stops here, and the mean, being
            # linear, is taken before the MLP's second layer instead of after it.
            tokens = op.slice(tokens, _shape(1), _shape(TOKENS), _shape(1), _shape(0))
        hidden = self._linear(self._layer_norm(tokens), f"{name}.fc1")
        hidden = op.gelu(hidden, "erf")
        if last:
            hidden = op.reduce_mean(hidden, _shape(0), False)
            tokens = op.reduce_mean(tokens, _shape(0), False)
        return op.add(tokens, self._linear(hidden, f"{name}.fc2"))

    def _convolutions(self, tokens: Node, name: str) -> Node:
        width, hidden = self._config.width, self._config.conv_width
        y = self._winograd(tokens, f"{name}.conv1.winograd", width, hidden)
        # The class token's row of the result is never read: its column of the next input
        # transform is zero.
        y = op.swish(op.add(y, self._constant(f"{name}.conv1.bias")))
        y = self._winograd(y, f"{name}.conv2.winograd", hidden, width)
        return op.add(y, self._constant(f"{name}.conv2.bias"))

    def _winograd(self, tokens: Node, kernel: str, inputs: int, outputs: int) -> Node:
        points = op.matmul(
            self._constant("winograd.input"),
            op.reshape(tokens, _shape(TOKENS, -1), False),
            False,
            False,
        )
        points = op.reshape(points, _shape(36, -1, inputs), False)
        products = op.matmul(points, self._kernel(kernel), False, False)
        products = op.reshape(products, _shape(36, -1), False)
        mixed = op.matmul(self._constant("winograd.output"), products, False, False)
        return op.reshape(mixed, _shape(TOKENS, -1, outputs), False)

    def _attention(self, tokens: Node, name: str) -> Node:
        config = self._config
        qkv = self._linear(tokens, f"{name}.qkv")
        qkv = op.reshape(qkv, _shape(TOKENS, -1, 3, config.heads, config.head_dim), False)
        qkv = op.transpose(qkv, _shape(2, 1, 3, 0, 4))  # 3, B, heads, tokens, head_dim
        parts = op.split(qkv, op.constant(np.int64(0)), 3).outputs()
        q, k, v = (op.squeeze(part, _shape(0)) for part in parts)
        one = op.constant(np.float32(1.0))  # the scale is part of q already
        mixed = op.scaled_dot_product_attention(q, k, v, None, one)
        mixed = op.transpose(mixed, _shape(2, 0, 1, 3))
        return op.reshape(mixed, _shape(TOKENS, -1, config.width), False)

    # -- the inception and magnitude branches ----------------------------------------------------

    def _inception(self, image: Node) -> Node:
        maps = _average_pool(image)
        last = len(self._config.inception_widths) - 1
        for block in range(last + 1):
            maps = self._inception_block(maps, block, last=block == last)
            if block in (1, 3):
                maps = _average_pool(maps)
        flat = op.reshape(maps, _shape(-1, self._config.inception_features), False)
        return op.relu(self._linear(flat, "inception"))

    def _inception_block(self, maps: Node, block: int, *, last: bool) -> Node:
        name = f"inception.{block}"
        point = op.relu(self._convolution(maps, f"{name}.point"))
        first, *firsts = op.split(point, op.constant(np.int64(1)), 2 if last else 3).outputs()
        branches = [first, op.relu(self._convolution(firsts[0], f"{name}.conv3"))]
        if not last:
            branches.append(op.relu(self._convolution(firsts[1], f"{name}.conv5")))
        # A maximum cannot move past the stem, so here the stem is still a layer of its own.
        pooled = _max_pool(self._convolution(maps, "stem") if block == 0 else maps)
        branches.append(op.relu(self._convolution(pooled, f"{name}.pool")))
        return op.concat(branches, 1)

    def _convolution(self, maps: Any, name: str) -> Node:
        side = self._tensors[f"{name}.weight"].shape[-1]
        pad = [side // 2, side // 2]
        weight = self._constant(f"{name}.weight")
        convolved = op.convolution(maps, weight, [1, 1], pad, pad, [1, 1])
        return op.add(convolved, self._constant(f"{name}.bias", 1, -1, 1, 1))

    def _magnitudes(self, magnitude: Node) -> Node:
        x = magnitude
        for layer in range(4):
            x = op.relu(self._linear(x, f"magnitude.{layer}"))
        return x


def _shape(*sizes: int) -> Node:
    return op.constant(np.array(sizes, np.int64))


def _average_pool(maps: Node) -> Node:
    return op.avg_pool(maps, [2, 2], [0, 0], [0, 0], [2, 2], False)


def _max_pool(maps: Node) -> Any:
    return op.max_pool(maps, [1, 1], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
